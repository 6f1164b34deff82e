"""Whether the camera still sits where it was calibrated: a marker that is glued to the table must be seen where it is."""

import numpy as np

from edge.block import on_plane
from edge.cameras.wrist import WristCamera
from edge.config import FixedMarkerConfig
from edge.errors import ObservationError
from edge.messages import Frame


class FixedMarker:
    """Looked at before each descent, from where that begins, until it was seen in its place once."""

    def __init__(self, config: FixedMarkerConfig, wrist: WristCamera) -> None:
        self._config = config
        self._wrist = wrist
        self.forget()

    def forget(self) -> None:
        """Another try begins."""
        self._was_right = False

    def check(self, frame: Frame) -> None:
        """Raises `ObservationError` until the marker was seen in its place in this try."""
        if self._was_right:
            return
        x_m, y_m = self._config.at_in_table_m
        named = f"the fixed marker {self._config.id}"
        rays = [marker.rays for marker in frame.markers or () if marker.id == self._config.id]
        if not rays:
            place = f"({x_m * 1e3:.0f}, {y_m * 1e3:.0f}) mm"
            raise ObservationError(f"{named} is not in view, expected at {place}; uncover it, or look at the camera: has it moved?")
        camera_to_table = self._wrist.transform_camera_to_table(frame.captured_at_s)
        off_m = min(float(np.hypot(*(on_plane(one, camera_to_table, 0.0).mean(axis=0) - (x_m, y_m)))) for one in rays)
        if off_m > self._config.off_max_m:
            raise ObservationError(
                f"{named} is seen {off_m * 1e3:.0f} mm from its place, expected at most {self._config.off_max_m * 1e3:g}; "
                "has the camera moved? fasten it and calibrate again: dofbot calibrate handeye"
            )
        self._was_right = True
