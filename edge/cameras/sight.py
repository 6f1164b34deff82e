"""The newest frame, how old it is, and what it tells about the grip: what the control loop sees."""

from contextlib import suppress

from edge import observation
from edge.cameras.camera import DepthCamera
from edge.clock import Clock
from edge.contract import Contract
from edge.errors import ObservationError
from edge.messages import Frame, JointCommand
from edge.records.histogram import Histogram

GRIP_SLACK_M = 0.0025  # fingers that stop this far before their set point hold something; three steps of a 180° servo


class Sight:
    """A camera whose frames are used only while they are fresh; `frame` is the one last looked at, `ages` counts how old they were."""

    def __init__(self, camera: DepthCamera, clock: Clock, max_age_s: float, ages: Histogram) -> None:
        self.frame: Frame | None = None
        self._camera = camera
        self._clock = clock
        self._max_age_s = max_age_s
        self._ages = ages

    def fresh(self) -> Frame:
        """The newest frame; raises `ObservationError` when there is none, or none fresh enough to act on."""
        self.frame = frame = self._camera.latest()
        if frame is None:
            raise ObservationError("no depth frame has come yet, expected about 25 a second; is the camera running?")
        age_s, most_s = self._clock.now_s() - frame.captured_at_s, self._max_age_s
        # A frame from the future has another clock's time: its age is unknown.
        if not abs(age_s) <= most_s:
            found = f"the newest depth frame is {age_s * 1e3:.0f} ms old"
            raise ObservationError(f"{found}, expected at most {most_s * 1e3:.0f} ms (camera.max_age_s); is the camera running?")
        return frame

    def used(self, frame: Frame) -> None:
        """Count the age of a frame that is acted on."""
        self._ages.add(self._clock.now_s() - frame.captured_at_s)

    def age_s(self) -> float | None:
        """How old the newest frame is by now; None: none has come yet. Never raises: a camera that is gone leaves its last frame."""
        with suppress(ObservationError):
            self.frame = self._camera.latest()
        return None if self.frame is None else self._clock.now_s() - self.frame.captured_at_s

    def holds_block(self, measured: JointCommand | None, contract: Contract) -> bool:
        """Whether the fingers stopped short of their set point, where they are read back; else what the camera sees between them.

        Raises `ObservationError` when that takes a frame and there is none, or none in metres.
        """
        if measured is not None:
            return measured.opening_m > contract.episode.closed_m + GRIP_SLACK_M
        frame = self.fresh()
        self.used(frame)
        return observation.holds_block(frame, contract.camera, contract.episode)
