"""Which poses to calibrate in."""

import numpy as np
from numpy.typing import NDArray

from calibration.arm_model import ServoArm, State, predict, transform_board_to_camera
from edge import robot
from edge.errors import UnreachableError
from edge.kinematics import Mount, solve
from edge.messages import Float64, ToolPose
from edge.safety import DOFBOT_LIMITS

IMAGE_PX = (640, 480)
SEEN_SHARE = 0.75  # of the board's corners
MARGIN_PX = 8.0  # corners nearer to the border are not counted on: the arm stops a degree beside
TOOL_ABOVE_TABLE_M = 0.020
CAMERA_ABOVE_TABLE_M = 0.050  # its housing has 42 mm edges
OBLIQUE_MAX_RAD = np.radians(60.0)


def tilted(mount: Mount, state: State, points_m: Float64, count: int, rng: np.random.Generator) -> Float64:
    """Commanded joints (≤ count, 5) that see most of the board at a slant: inside joint limits, the gate's box and clear of the table."""
    low, high = np.array(robot.POSITION_MIN_RAD), np.array(robot.POSITION_MAX_RAD)
    found: list[Float64] = []
    for _ in range(20):
        joints = rng.uniform(low, high, (20_000, 5))
        joints = joints[is_safe(joints, mount, state)]
        found.append(joints[sees_board(joints, mount, state, points_m)])
        if sum(map(len, found)) >= count:
            break
    return np.concatenate(found)[:count]


def straight_down(mount: Mount, state: State, points_m: Float64, count: int, rng: np.random.Generator) -> Float64:
    """Commanded joints (≤ count, 5) that see most of the board with the tool straight down, as it is when it grasps."""
    found: list[Float64] = []
    for _ in range(400 * count):
        x, y, z = rng.uniform((-0.07, 0.06, 0.03), (0.07, 0.17, 0.11))
        try:
            joints = np.array([solve(ToolPose(x, y, z, 0.0, rng.uniform(-np.pi, np.pi)), mount)])
        except UnreachableError:
            continue
        if is_safe(joints, mount, state)[0] and sees_board(joints, mount, state, points_m)[0]:
            found.append(joints[0])
        if len(found) == count:
            break
    return np.array(found).reshape(-1, 5)


def is_safe(joints: Float64, mount: Mount, state: State) -> NDArray[np.bool_]:
    """(n,) whether joints (n, 5) are inside their limits, the tool in the gate's box, and tool and camera clear of the table."""
    flange = ServoArm(joints, mount).chain(np.zeros(5), np.zeros(5)).transform_flange_to_table
    tool, camera = flange[:, :3, 3], (flange @ state.hand_eye)[:, :3, 3]
    low = np.maximum(DOFBOT_LIMITS.tool_min_in_table_m, (-np.inf, -np.inf, TOOL_ABOVE_TABLE_M))
    inside = ((tool >= low) & (tool <= DOFBOT_LIMITS.tool_max_in_table_m)).all(axis=1)
    within = ((joints >= robot.POSITION_MIN_RAD) & (joints <= robot.POSITION_MAX_RAD)).all(axis=1)
    return np.asarray(inside & within & (camera[:, 2] >= CAMERA_ABOVE_TABLE_M))


def sees_board(joints: Float64, mount: Mount, state: State, points_m: Float64) -> NDArray[np.bool_]:
    """(n,) whether most of the board is in the picture, from the front, at less than 60° from its normal."""
    arm = ServoArm(joints, mount)
    poses = transform_board_to_camera(state, arm)
    facing = poses[:, 2, 2] > np.cos(OBLIQUE_MAX_RAD)
    ahead = (points_m @ np.swapaxes(poses[:, :3, :3], 1, 2) + poses[:, None, :3, 3])[..., 2].min(axis=1) > 0.05
    result = facing & ahead
    if result.any():
        pixels = predict(state, arm.take(np.flatnonzero(result)), points_m).pixels
        result[result] = in_picture(pixels).mean(axis=1) >= SEEN_SHARE
    return np.asarray(result)


def in_picture(pixels: Float64) -> NDArray[np.bool_]:
    """(…,) whether pixels (…, 2) lie inside the image, with a margin."""
    return np.asarray(((pixels >= MARGIN_PX) & (pixels <= np.array(IMAGE_PX) - 1.0 - MARGIN_PX)).all(axis=-1))
