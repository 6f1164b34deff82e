"""Where a camera may be, and where each is taken to be before it was measured: what poses are planned with, and estimates start from.

wrist: eye-in-hand, behind joint 5, so it turns with the gripper. forearm: eye-in-hand on link 4, before joint 5. fixed: eye-to-hand, on a
stand in front of the arm, which holds the board in its gripper.
"""

import numpy as np

from calibration.arm.model import CameraPlace, State
from edge.messages import Float64

CAMERA_ON_TOOL = np.array(  # urdf/README.md
    [[-1.0, 0.0, 0.0, 0.0], [0.0, -0.87758256, -0.47942554, 0.060], [0.0, -0.47942554, 0.87758256, -0.095], [0.0, 0.0, 0.0, 1.0]]
)
# Ours, as no published mount was found: where the wrist's camera is while the gripper's heading is 0, towards the base.
CAMERA_ON_LINK4 = np.diag((-1.0, -1.0, 1.0, 1.0)) @ CAMERA_ON_TOOL
FIXED_AT_M, FIXED_LOOKS_AT_M = np.array((0.0, 0.60, 0.30)), np.array((0.0, 0.20, 0.20))  # table frame; of a stand in front of the arm
BOARD_AT_Y_M = 0.11  # where its middle lies on the table, as `plan_poses.plan` wants it
HELD_AHEAD_M = 0.03  # of the tool centre, where the gripper holds the board by a handle on its back
WHERE = {"wrist": "on the wrist", "forearm": "on the forearm", "fixed": "on a stand"}
MOVES_TO = {"wrist": "tool", "forearm": "link4", "fixed": "table"}  # what the hand-eye transform leads to


def drawn(camera: CameraPlace, points_m: Float64, lens: Float64) -> State:
    """Camera and board (points (m, 3), z = 0, z into the paper), servos and `lens` (9,) as told."""
    middle = (points_m.max(axis=0) + points_m.min(axis=0)) / 2.0
    board = np.diag((1.0, -1.0, -1.0, 1.0))  # face up on the table, or facing where the tool points
    board[:3, 3] = (0.0, BOARD_AT_Y_M, 0.0) if camera != "fixed" else (0.0, 0.0, HELD_AHEAD_M)
    board[:3, 3] -= board[:3, :3] @ middle
    hand_eye = {"wrist": CAMERA_ON_TOOL, "forearm": CAMERA_ON_LINK4, "fixed": _looking(FIXED_AT_M, FIXED_LOOKS_AT_M)}[camera]
    return State(hand_eye, board, np.zeros(5), np.zeros(5), np.asarray(lens, dtype=float))


def _looking(at_m: Float64, to_m: Float64) -> Float64:
    """(4, 4) an upright camera at one place that looks at another."""
    ahead = (to_m - at_m) / np.linalg.norm(to_m - at_m)
    right = np.cross(ahead, (0.0, 0.0, 1.0))
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = np.column_stack((right, np.cross(ahead, right), ahead)), at_m
    return pose
