"""What happened: one record a tick, and the figures of a run."""

import logging
import os
import time
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec
from msgspec import Struct

from edge.errors import ConfigError, WireError
from edge.messages import JointCommand
from edge.records.histogram import Durations, Histogram

KEPT_GRASPS = 10_000  # more than a day of them, in 0.4 MB
RECORD_MAX_BYTES = 1 << 16  # a hundred times what a tick takes
_HEADER_BYTES = 4

_log = logging.getLogger(__name__)


class TickRecord(Struct, frozen=True, array_like=True):
    """One tick of the control loop. In the file: its length (4 bytes, big-endian), then a msgpack array in this order."""

    now_s: float  # clock of the loop
    lateness_s: float
    phase: str
    step: int
    hold: str  # why the arm holds; empty: it does not
    frame_sequence: int  # of the frame last looked at; -1: none yet
    frame_age_s: float
    action: tuple[float, ...]  # empty between decisions
    wanted: JointCommand
    sent: JointCommand
    clamped: tuple[str, ...]  # the gate's reasons
    late: JointCommand | None = None  # the set point of a tick before, where it came to the servos after its time; `sent` went on from it


class Recorder:
    """Appends tick records to a file; without a path it does nothing. A full disk ends the record, not the run.

    Each record is handed to the kernel at once, so that a killed process leaves all of them behind.
    """

    def __init__(self, path: str) -> None:
        """Raises `ConfigError` when the file cannot be written."""
        self._file: FileIO | None = None
        self._encoder = msgspec.msgpack.Encoder()
        if path:
            try:
                self._file = Path(path).open("wb", buffering=0)  # noqa: SIM115  (open as long as the run is)
            except OSError as error:
                raise ConfigError(f"run.record = {path!r} cannot be written ({error.strerror}); give another path") from None

    def write(self, record: TickRecord) -> None:
        """Add one tick; never raises."""
        if self._file is None:
            return
        body = self._encoder.encode(record)
        data = len(body).to_bytes(_HEADER_BYTES, "big") + body
        try:
            if self._file.write(data) == len(data):
                return
            reason = "no room"
        except OSError as error:
            reason = str(error.strerror)
        _log.warning("the record %s ends here (%s); the run goes on without", self._file.name, reason)
        self.close()

    def close(self) -> None:
        """Finish the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


def read(path: Path) -> Iterator[TickRecord]:
    """The ticks of a record, one at a time; a last one that was cut short, by a crash for one, is left out.

    Raises `ConfigError` when there is no such file, `WireError` where the file holds something else.
    """
    decoder = msgspec.msgpack.Decoder(TickRecord)
    try:
        file = path.open("rb")
    except OSError as error:
        raise ConfigError(f"record {path} cannot be read ({error.strerror}); give the path that run.record named") from None
    with file:
        while len(header := file.read(_HEADER_BYTES)) == _HEADER_BYTES:
            length = int.from_bytes(header, "big")
            if not 0 < length <= RECORD_MAX_BYTES:
                raise _foreign(path, file.tell(), f"claims {length} bytes, expected 1…{RECORD_MAX_BYTES}")
            body = file.read(length)
            if len(body) < length:
                return
            try:
                record = decoder.decode(body)
            except (ValueError, RecursionError) as error:  # ValueError: msgspec's own errors, and invalid UTF-8
                raise _foreign(path, file.tell(), f"is no tick ({error})") from None
            yield record


def _foreign(path: Path, at: int, what: str) -> WireError:
    return WireError(f"record {path}: the entry before byte {at} {what}; the file is damaged, or another version wrote it")


class Timing(Struct, frozen=True):
    """How long each stage of a tick took."""

    lateness_s: Durations  # of a tick, for the deadline it was meant to keep
    frame_age_s: Durations  # from exposure to use
    observation_s: Durations  # frame in hand to the policy's input
    inference_s: Durations
    task_s: Durations  # task, kinematics and gate
    bus_s: Durations  # writing the servos
    decision_s: Durations  # all of it: frame in hand to servo bytes written


Outcome = Literal["picked", "missed", "lost"]  # lost: held, and then no longer


class Grasp(Struct, frozen=True):
    """One grasp: what the runtime believes came of it, in how many tries, and how long each phase took in all."""

    result: Outcome
    tries: int
    phase_s: dict[str, float]


class Summary(Struct, frozen=True):
    """The figures of a run."""

    attempts: int
    picked: int
    missed: int
    lost: int
    grasps: tuple[Grasp, ...]  # the newest `KEPT_GRASPS`
    stopped_by: str  # 'done', 'signal' or 'SAFE'
    safe_reason: str  # why the arm went to SAFE, or what else a person has to look at; empty: nothing
    ticks: int
    overruns: int  # ticks whose deadline passed while the one before still worked
    skipped: int  # deadlines without a tick
    holds: int  # ticks without a usable frame or action
    clamped: int  # ticks in which the gate changed the command
    timing: Timing
    start_to_first_tick_s: float  # of the process
    resident_mb: float  # at its largest


class Timings(NamedTuple):
    """Counts of the same stages as `Timing`, while the loop runs."""

    lateness: Histogram
    frame_age: Histogram
    observation: Histogram
    inference: Histogram
    task: Histogram
    bus: Histogram
    decision: Histogram

    @staticmethod
    def empty() -> "Timings":
        """Nothing measured yet."""
        return Timings(*(Histogram() for _ in Timings._fields))

    def so_far(self) -> Timing:
        """The figures, at any time."""
        return Timing(*(histogram.durations() for histogram in self))


def resident_mb() -> float:
    """Largest resident memory of this process so far, in MiB; 0 where /proc has none.

    Not getrusage: on Linux its figure includes the parent's memory from before exec.
    """
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return 0.0
    return float(status.split("VmHWM:")[1].split()[0]) / 1024.0


def process_age_s() -> float:
    """Seconds since this process was started, to 10 ms: field 22 of /proc/self/stat (proc(5)); 0 where there is none."""
    try:
        status = Path("/proc/self/stat").read_text()
    except OSError:
        return 0.0
    started_ticks = float(status.rsplit(")", 1)[1].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started_ticks / os.sysconf("SC_CLK_TCK")
