"""A lens and a board that the tests share, seen by a rendered camera."""

from functools import cache

import numpy as np

from calibration import boards
from calibration.opencv import Image, Lens
from calibration.simulated import render
from edge.messages import Float64, Intrinsics

LENS = Lens(Intrinsics(640, 480, 610.0, 612.0, 322.0, 238.0), (-0.10, 0.05, 0.001, -0.0005, 0.0))
BOARD = boards.measured(boards.charuco(), (100.0, 100.0))
TILT_RAD = np.radians(50.0)


def facing(distance_m: float, size_m: tuple[float, float], tilt_rad: float = 0.0) -> Float64:
    """`transform_board_to_camera` of a board whose middle lies on the optical axis, tilted about its x axis."""
    pose = np.eye(4)
    cosine, sine = np.cos(tilt_rad), np.sin(tilt_rad)
    pose[:3, :3] = ((1.0, 0.0, 0.0), (0.0, cosine, -sine), (0.0, sine, cosine))
    pose[:3, 3] = (0.0, 0.0, distance_m) - pose[:3, :3] @ (*(np.array(size_m) / 2.0), 0.0)
    return pose


@cache
def views() -> list[tuple[Float64, Image]]:
    """Six views of the board between 0.20 and 0.34 m, tilted by up to 50°, and where it was."""
    rng = np.random.default_rng(5)
    return [(pose, render.view(BOARD, pose, LENS)) for pose in render.poses(6, rng, (0.20, 0.34), TILT_RAD, BOARD)]
