"""What happened: one record a tick, and the figures of a run."""

from collections import deque
from pathlib import Path
from typing import IO, NamedTuple

import msgspec
import numpy as np
from msgspec import Struct

from edge.errors import ConfigError
from edge.messages import JointCommand

KEPT = 100_000  # samples of each duration: more than half an hour of ticks


class TickRecord(Struct, frozen=True, array_like=True):
    """One tick of the control loop, as written to the record: a stream of msgpack arrays in this order."""

    now_s: float  # clock of the loop
    lateness_s: float
    phase: str
    step: int
    hold: str  # why the arm holds; empty: it does not
    frame_sequence: int  # -1: none
    frame_age_s: float
    action: tuple[float, ...]  # empty between decisions
    wanted: JointCommand
    sent: JointCommand
    clamped: tuple[str, ...]  # the gate's reasons


class Recorder:
    """Appends tick records to a file; without a path it does nothing."""

    def __init__(self, path: str) -> None:
        """Raises `ConfigError` when the file cannot be written."""
        self._file: IO[bytes] | None = None
        self._encoder = msgspec.msgpack.Encoder()
        if path:
            try:
                self._file = Path(path).open("wb")  # noqa: SIM115  (open as long as the run is)
            except OSError as error:
                raise ConfigError(f"run.record = {path!r} cannot be written ({error.strerror}); give another path") from None

    def write(self, record: TickRecord) -> None:
        """Add one tick."""
        if self._file:
            self._file.write(self._encoder.encode(record))

    def close(self) -> None:
        """Finish the file."""
        if self._file:
            self._file.close()


class Percentiles(Struct, frozen=True):
    """Of a duration, in seconds."""

    p50: float
    p99: float
    max: float


class Grasp(Struct, frozen=True):
    """One attempt: what the runtime believes came of it, and how long each phase took."""

    result: str  # 'picked' or 'missed'
    phase_s: dict[str, float]


class Summary(Struct, frozen=True):
    """The figures of a run."""

    grasps: tuple[Grasp, ...]
    stopped_by: str  # 'done', 'signal', or why the arm went to SAFE
    ticks: int
    skipped: int  # deadlines missed by a whole period
    holds: int  # ticks without a usable frame or action
    clamped: int  # ticks in which the gate changed the command
    lateness_s: Percentiles
    inference_s: Percentiles
    decision_s: Percentiles  # frame in hand to servo bytes written
    start_to_first_tick_s: float  # of the process
    resident_mb: float  # at its largest


class Timings(NamedTuple):
    """Durations in seconds, the newest `KEPT` of each."""

    lateness: deque[float]
    inference: deque[float]
    decision: deque[float]

    @staticmethod
    def empty() -> "Timings":
        """Nothing measured yet."""
        return Timings(deque(maxlen=KEPT), deque(maxlen=KEPT), deque(maxlen=KEPT))


def percentiles(durations_s: deque[float]) -> Percentiles:
    """p50, p99 and max; zeros when nothing was measured."""
    if not durations_s:
        return Percentiles(0.0, 0.0, 0.0)
    p50, p99 = np.percentile(durations_s, [50, 99]).tolist()
    return Percentiles(p50, p99, max(durations_s))


def resident_mb() -> float:
    """Largest resident memory of this process so far, in MiB; 0 where /proc has none.

    Not getrusage: on Linux its figure includes the parent's memory from before exec.
    """
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return 0.0
    return float(status.split("VmHWM:")[1].split()[0]) / 1024.0
