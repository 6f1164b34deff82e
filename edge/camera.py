"""The depth camera: where frames come from."""

from typing import Protocol

from edge.errors import ObservationError
from edge.messages import Frame, Intrinsics
from edge.simulator import SimulatorLink


class DepthCamera(Protocol):
    """A camera that always has its latest frame at hand; how old it may be is judged by whoever uses it."""

    def start(self) -> Intrinsics:
        """Wait, with a limit, for a first frame; raises `ObservationError` when none comes."""

    def latest(self) -> Frame | None:
        """The newest frame, without waiting; raises `ObservationError` when the camera is gone."""

    def close(self) -> None:
        """Stop. Idempotent, never raises."""


class SimulatorCamera:
    """The simulated wrist camera, over a link that it shares with the servo bus."""

    def __init__(self, link: SimulatorLink, timeout_s: float = 5.0) -> None:
        self._link = link
        self._timeout_s = timeout_s

    def start(self) -> Intrinsics:
        """Wait for a first frame; raises `ObservationError` when none comes in time."""
        frame = self._link.wait_for_frame(self._timeout_s)
        if frame is None:
            raise ObservationError(f"no depth frame in {self._timeout_s:g} s, expected about 25 a second; look at the simulator's output")
        return frame.intrinsics

    def latest(self) -> Frame | None:
        """The newest frame, without waiting; raises `ObservationError` when the simulator is gone."""
        return self._link.latest_frame()

    def close(self) -> None:
        """Leave the link open: it belongs to whoever connected it."""
