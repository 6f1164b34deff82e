"""What a camera sees of a marked block."""

import numpy as np

from edge.messages import Float64, Marker


def marker_on(
    x_m: float, y_m: float, yaw_rad: float, camera_to_table: Float64, marker: int = 30, size_m: float = 0.025, top_m: float = 0.030
) -> Marker:
    """A 25 mm marker on top of a 30 mm block."""
    along, half = np.array(((np.cos(yaw_rad), np.sin(yaw_rad)), (-np.sin(yaw_rad), np.cos(yaw_rad)))), size_m / 2.0
    corners = np.array(((-half, half), (half, half), (half, -half), (-half, -half))) @ along + (x_m, y_m)
    points = np.column_stack((corners, np.full(4, top_m), np.ones(4))) @ np.linalg.inv(camera_to_table).T
    return Marker(marker, points[:, :2] / points[:, 2:3])
