"""From commanded joint angles to pixels: the arm, the camera on it and the board, with all derivatives.

A joint turns to `zero + (1 + scale) · commanded + compliance · load`, where the load is gravity's on the commanded pose
(`calibration.arm.gravity`). A board point p is seen at

    camera on the arm:  inv(hand_eye) · inv(flange(q)) · board · p     hand_eye = camera to flange, board = board to table
    camera fixed:       inv(hand_eye) · flange(q) · board · p          hand_eye = camera to table,  board = board to tool

where the flange is the tool frame of `edge.kinematics`, without the turn of joint 5 when the camera sits before it.
"""

from typing import Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from calibration.arm import gravity
from calibration.lens import project
from edge import robot
from edge.kinematics import Mount
from edge.messages import Float64

Index = NDArray[np.intp]
CameraPlace = Literal["wrist", "forearm", "fixed"]  # after joint 5, before it, or not on the arm


class Chain(NamedTuple):
    """Where the flange is in n images, and how it moves with each of k joints."""

    transform_flange_to_table: Float64  # (n, 4, 4)
    axis: Float64  # (n, k, 3), table frame: a joint's motion is P → axis × P + drift, per radian
    drift: Float64  # (n, k, 3); a joint that slides has no axis, and moves per metre
    origin: Float64  # (n, k, 3) a point on each joint's axis


class Arm(Protocol):
    """What holds the camera or the board, in every image."""

    fixed_camera: bool
    joint_names: tuple[str, ...]
    noise_groups: tuple[int, ...]  # joints with one number have one σ; () per joint
    commanded: Float64  # (n, k)
    load_nm: Float64  # (n, k)
    adjustable: int  # how many joints have a zero, a scale and a compliance to estimate: all or none

    def chain(self, zeros: Float64, scales: Float64, compliance: Float64 | float = 0.0) -> Chain:
        """The flange in every image."""

    def take(self, index: Index) -> "Arm":
        """The same arm in some of the images."""


class ServoArm:
    """The DOFBOT as `edge.kinematics` has it, from its commanded angles (n, 5) in rad."""

    joint_names: tuple[str, ...] = robot.JOINT_NAMES[:5]
    noise_groups: tuple[int, ...] = (0, 1, 2, 3, 4)
    adjustable: int = 5

    def __init__(self, commanded_rad: Float64, mount: Mount, camera: CameraPlace = "wrist") -> None:
        self.commanded = np.asarray(commanded_rad, dtype=float).reshape(-1, 5)
        self.mount, self.camera = mount, camera
        self.fixed_camera: bool = camera == "fixed"
        self.load_nm = gravity.load_nm(self.commanded, mount)

    def take(self, index: Index) -> "ServoArm":
        """The same arm in some of the images."""
        return ServoArm(self.commanded[index], self.mount, self.camera)

    def chain(self, zeros: Float64, scales: Float64, compliance: Float64 | float = 0.0) -> Chain:
        """Forward kinematics of all images at once, as `edge.kinematics.transform_tool_to_table` does one."""
        q = zeros + (1.0 + scales) * self.commanded + compliance * self.load_nm
        q1, a2, a3 = q[:, 0], q[:, 1], q[:, 1] + q[:, 2]
        phi, q5 = a3 + q[:, 3], q[:, 4] if self.camera != "forearm" else np.zeros(len(q))
        base = self.mount.transform_base_to_table()
        outward = np.stack((-np.sin(q1), np.cos(q1), np.zeros_like(q1)), axis=-1)
        up = np.array([0.0, 0.0, 1.0])

        def along(angle: Float64, length_m: float) -> Float64:
            return np.asarray(length_m * (np.sin(angle)[:, None] * outward + np.cos(angle)[:, None] * up))

        shoulder = np.broadcast_to(robot.BASE_TO_SHOULDER_M * up, outward.shape)
        elbow = shoulder + along(a2, robot.UPPER_ARM_M)
        wrist = elbow + along(a3, robot.FOREARM_M)
        ahead, side = along(phi, 1.0), np.stack((np.cos(q1), np.sin(q1), np.zeros_like(q1)), axis=-1)
        across = np.cross(ahead, side)
        c5, s5 = np.cos(q5)[:, None], np.sin(q5)[:, None]
        flange = np.zeros((len(q), 4, 4))
        flange[:, :3, 0], flange[:, :3, 1], flange[:, :3, 2] = side * c5 + across * s5, across * c5 - side * s5, ahead
        flange[:, :3, 3], flange[:, 3, 3] = wrist + along(phi, robot.WRIST_TO_TOOL_M), 1.0
        axis = np.stack((np.broadcast_to(up, outward.shape), -side, -side, -side, ahead), axis=1)
        origin = np.stack((np.zeros_like(wrist), shoulder, elbow, wrist, flange[:, :3, 3]), axis=1)
        if self.camera == "forearm":
            axis[:, 4] = 0.0
        axis, origin = axis @ base[:3, :3].T, origin @ base[:3, :3].T + base[:3, 3]
        return Chain(base @ flange, axis, -np.cross(axis, origin), origin)


class PosedArm:
    """Any other arm, by the flange poses (n, 4, 4) that its controller reports; they err in rotation and in position."""

    joint_names: tuple[str, ...] = ("rotation x", "rotation y", "rotation z", "position x", "position y", "position z")
    noise_groups: tuple[int, ...] = (0, 0, 0, 1, 1, 1)
    adjustable: int = 0

    def __init__(self, transform_flange_to_base: Float64, fixed_camera: bool = False) -> None:
        self.poses, self.fixed_camera = np.asarray(transform_flange_to_base, dtype=float), fixed_camera
        self.commanded = self.load_nm = np.zeros((len(self.poses), 6))

    def take(self, index: Index) -> "PosedArm":
        """The same arm in some of the images."""
        return PosedArm(self.poses[index], self.fixed_camera)

    def chain(self, zeros: Float64, scales: Float64, compliance: Float64 | float = 0.0) -> Chain:
        """The poses as they are; the flange turns about its own origin."""
        del zeros, scales, compliance
        turn, still = np.broadcast_to(np.eye(3), (len(self.poses), 3, 3)), np.zeros((len(self.poses), 3, 3))
        origin = np.broadcast_to(self.poses[:, None, :3, 3], (len(self.poses), 6, 3))
        drift = np.concatenate((-np.cross(turn, origin[:, :3]), turn), axis=1)
        return Chain(self.poses, np.concatenate((turn, still), axis=1), drift, origin)


class Views(NamedTuple):
    """What was seen: n images of one board."""

    arm: Arm
    corners_px: Float64  # (n, m, 2), NaN where a corner was not found
    names: tuple[str, ...]  # (n,) what a person calls the images

    def take(self, index: Index) -> "Views":
        """Some of the images, in this order."""
        return Views(self.arm.take(index), self.corners_px[index], tuple(self.names[i] for i in index))


class State(NamedTuple):
    """All that is estimated."""

    hand_eye: Float64  # (4, 4)
    board: Float64  # (4, 4)
    zeros_rad: Float64  # (k,)
    scales: Float64  # (k,)
    lens: Float64  # (9,)
    compliance: Float64 | float = 0.0  # (k,) rad/(N·m); 0: rigid


class Predicted(NamedTuple):
    """Where the corners should be, and how that moves with the state and with the joints."""

    pixels: Float64  # (n, m, 2)
    by_state: Float64  # (n, m, 2, p), columns as `state_names` lists them
    by_joint: Float64  # (n, m, 2, k)


def state_names(arm: Arm) -> tuple[str, ...]:
    """The columns of `Predicted.by_state`: rotations are about the axes of the flange (hand-eye) or the table (board)."""
    six = ("rx", "ry", "rz", "x", "y", "z")
    joints = arm.joint_names[: arm.adjustable]
    names = [f"hand-eye {axis}" for axis in six] + [f"board {axis}" for axis in six]
    names += [f"{what} {joint}" for what in ("zero", "scale", "compliance") for joint in joints]
    return (*names, "fx", "fy", "cx", "cy", "k1", "k2")


def moved(state: State, step: Float64, adjustable: int) -> State:
    """The state after a small step (p,) in the columns of `state_names`."""
    zeros, scales, lens = state.zeros_rad.copy(), state.scales.copy(), state.lens.copy()
    joints = step[12 : 12 + 3 * adjustable].reshape(3, adjustable)
    zeros[:adjustable] += joints[0]
    scales[:adjustable] += joints[1]
    lens[:6] += step[12 + 3 * adjustable :]
    compliance = state.compliance + joints[2] if adjustable else 0.0
    return State(_nudged(state.hand_eye, step[:6]), _nudged(state.board, step[6:12]), zeros, scales, lens, compliance)


def _nudged(pose: Float64, step: Float64) -> Float64:
    result = pose.copy()
    result[:3, :3] = rotation(step[:3]) @ pose[:3, :3]
    result[:3, 3] += step[3:]
    return result


def rotation(vector_rad: Float64) -> Float64:
    """Rotation matrix (3, 3) of a rotation vector, by Rodrigues."""
    angle = float(np.linalg.norm(vector_rad))
    skew = cross_matrix(vector_rad)
    if angle < 1e-8:
        return np.eye(3) + skew + 0.5 * skew @ skew
    return np.asarray(np.eye(3) + np.sin(angle) / angle * skew + (1.0 - np.cos(angle)) / angle**2 * skew @ skew)


def cross_matrix(vectors: Float64) -> Float64:
    """(…, 3, 3): the matrix that multiplies by a cross product from the left."""
    matrix = np.zeros((*vectors.shape, 3))
    matrix[..., 0, 1], matrix[..., 0, 2], matrix[..., 1, 2] = -vectors[..., 2], vectors[..., 1], -vectors[..., 0]
    return np.asarray(matrix - np.swapaxes(matrix, -1, -2))


def inverse(pose: Float64) -> Float64:
    """The inverse of rigid transforms (…, 4, 4)."""
    result = np.zeros_like(pose)
    result[..., :3, :3] = np.swapaxes(pose[..., :3, :3], -1, -2)
    result[..., :3, 3] = -(result[..., :3, :3] @ pose[..., :3, 3, None])[..., 0]
    result[..., 3, 3] = 1.0
    return result


def transform_board_to_camera(state: State, arm: Arm) -> Float64:
    """(n, 4, 4): where the model puts the board before the camera."""
    flange = arm.chain(state.zeros_rad, state.scales, state.compliance).transform_flange_to_table
    return inverse(state.hand_eye) @ (flange if arm.fixed_camera else inverse(flange)) @ state.board


def predict(state: State, arm: Arm, points_m: Float64) -> Predicted:
    """Pixels of the board's points (m, 3) in every image, with derivatives; the arithmetic is in the module's docstring."""
    chain = arm.chain(state.zeros_rad, state.scales, state.compliance)
    flange = chain.transform_flange_to_table if arm.fixed_camera else inverse(chain.transform_flange_to_table)
    turned = points_m @ state.board[:3, :3].T
    on_board = turned + state.board[:3, 3]  # (m, 3), frame of the table, or of the tool
    at_flange = on_board @ np.swapaxes(flange[:, :3, :3], 1, 2) + flange[:, None, :3, 3]  # (n, m, 3)
    to_camera = state.hand_eye[:3, :3].T
    from_eye = at_flange - state.hand_eye[:3, 3]
    pixels, by_point, by_lens = project(from_eye @ to_camera.T, state.lens)
    by_flange = by_point @ to_camera  # (n, m, 2, 3)
    by_board = by_flange @ flange[:, None, :3, :3]
    if arm.fixed_camera:
        swept = np.cross(chain.axis[:, None], at_flange[:, :, None]) + chain.drift[:, None]  # (n, m, k, 3)
        by_joint = by_flange @ np.swapaxes(swept, -1, -2)
    else:
        swept = np.cross(chain.axis[:, None], on_board[None, :, None]) + chain.drift[:, None]
        by_joint = -by_board @ np.swapaxes(swept, -1, -2)
    columns = [by_flange @ cross_matrix(from_eye), -by_flange, -by_board @ cross_matrix(turned), by_board]
    if arm.adjustable:
        columns += [by_joint, by_joint * arm.commanded[:, None, None], by_joint * arm.load_nm[:, None, None]]
    return Predicted(pixels, np.concatenate((*columns, by_lens), axis=-1), by_joint)
