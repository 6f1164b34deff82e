"""Whether the camera still sits where it was calibrated: a marker that is glued to the table must be seen where it is."""

from collections import deque

import numpy as np

from edge.block import on_plane
from edge.cameras.judge import GOOD_FRAMES
from edge.cameras.wrist import WristCamera
from edge.config import FixedMarkerConfig
from edge.errors import ObservationError
from edge.messages import Float64, Frame

# Before, the arm comes to rest: of 200 simulated descents whose servos lag by 20 to 100 ms, 139 had a first frame more than 10 mm off, and
# later one now and then is, where a PCA9685's set point jumps. The middle of five frames was in 1 (tests/bench/knocked.py). The tool comes
# down by 6 mm in that time.
SETTLED_S = 0.3
SEEN_MIN = 3  # of the five


class FixedMarker:
    """Looked at as each descent begins, until it was seen in its place once."""

    def __init__(self, config: FixedMarkerConfig, wrist: WristCamera) -> None:
        self._config = config
        self._wrist = wrist
        self.forget()

    def forget(self) -> None:
        """Another try begins."""
        self._was_right = False
        self._why = ""  # it is not in its place
        self._newest: Frame | None = None
        self._settled_s: float | None = None  # when frames are believed, from the first one on
        self._offs: deque[Float64 | None] = deque(maxlen=GOOD_FRAMES)  # (2,) of each frame; None: not in view

    def check(self, frame: Frame) -> None:
        """Raises `ObservationError` as soon as the marker is known to be elsewhere, and until it is seen in its place."""
        if not self._was_right and frame is not self._newest:
            self._take(frame)
            self._newest = frame
        if self._why:
            raise ObservationError(self._why)

    def _take(self, frame: Frame) -> None:
        if self._settled_s is None:
            self._settled_s = frame.captured_at_s + SETTLED_S
        if frame.captured_at_s < self._settled_s:
            return
        self._offs.append(self._off_m(frame))
        if len(self._offs) == GOOD_FRAMES:
            self._why = self._judged()
            self._was_right = not self._why

    def _judged(self) -> str:
        """Why the marker is not in its place; empty: it is."""
        x_m, y_m = self._config.at_in_table_m
        named = f"the fixed marker {self._config.id}"
        seen = [off_m for off_m in self._offs if off_m is not None]
        if len(seen) < SEEN_MIN:
            place = f"({x_m * 1e3:.0f}, {y_m * 1e3:.0f}) mm"
            return f"{named} is not in view, expected at {place}; uncover it, or look at the camera: has it moved?"
        off_m = float(np.hypot(*np.median(seen, axis=0)))
        if off_m <= self._config.off_max_m:
            return ""
        return (
            f"{named} is seen {off_m * 1e3:.0f} mm from its place, expected at most {self._config.off_max_m * 1e3:g}; "
            "has the camera moved? fasten it and calibrate again: dofbot calibrate handeye"
        )

    def _off_m(self, frame: Frame) -> Float64 | None:
        """(2,) x and y from its place to where it is seen; None where it is not."""
        camera_to_table = self._wrist.transform_camera_to_table(frame.captured_at_s)
        rays = [marker.rays for marker in frame.markers or () if marker.id == self._config.id]
        offs_m = [on_plane(one, camera_to_table, 0.0).mean(axis=0) - self._config.at_in_table_m for one in rays]
        return min(offs_m, key=lambda off_m: float(np.hypot(*off_m)), default=None)
