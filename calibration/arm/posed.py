"""Hand-eye from poses alone: where an arm said its flange was, and where a marker was seen, as other tools record it."""

import numpy as np

from calibration.arm.model import PosedArm, Views
from calibration.lens import project
from edge.messages import Float64

# A pose is turned into the corners that a board of 100 mm would have shown there, so its errors count as the arm's, in rotation and
# position. The lens is so short that poses 5° off still lie within the linear model's reach, by the corners' least σ.
POINTS_M = np.array([[x, y, 0.0] for y in np.linspace(-0.05, 0.05, 4) for x in np.linspace(-0.05, 0.05, 4)])
LENS = np.array([30.0, 30.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0])


def views(arm: PosedArm, transform_board_to_camera: Float64) -> Views:
    """Images (n) of a made-up board, for `hand_eye.estimate` with `POINTS_M`, `LENS` and `free_lens=False`."""
    poses = transform_board_to_camera
    points = POINTS_M @ np.swapaxes(poses[:, :3, :3], 1, 2) + poses[:, None, :3, 3]
    return Views(arm, project(points, LENS)[0], tuple(f"sample {i}" for i in range(len(poses))))
