"""A simulated DOFBOT over a board, with the errors that such arms have: what the estimates are tried on, since here the truth is known.

Corners come from the model's projection plus noise, not from rendered pictures. Sizes of the errors are those of the studies that
`Errors` names.
"""

from typing import NamedTuple

import numpy as np

from calibration.arm import gravity, placements
from calibration.arm.model import CameraPlace, ServoArm, State, Views, moved, predict, rotation
from calibration.live import plan_poses
from edge.kinematics import Mount
from edge.messages import Float64
from edge.robot import WRIST_TO_TOOL_M

MOUNT = Mount(0.388, True)
# A RealSense colour stream of 640 × 480: factory focal lengths of such cameras lie about 610 (D435); no distortion is reported.
LENS = np.array([610.0, 610.0, 319.5, 239.5, 0.0, 0.0, 0.0, 0.0, 0.0])
POINTS_M = np.array([[0.025 * x, 0.025 * y, 0.0] for y in range(4) for x in range(6)])  # inner corners of 7 × 5 squares of 25 mm


def scene(camera: CameraPlace = "wrist") -> plan_poses.Scene:
    """The arm without errors, as drawn."""
    return plan_poses.Scene(MOUNT, placements.drawn(camera, POINTS_M, LENS), POINTS_M, camera)


SCENE = scene()
NOMINAL = SCENE.state


class Errors(NamedTuple):
    """How far the arm and what is known of it are from the truth; angles in degrees, each of the five servos for itself.

    Hobby servos: zeros ±1–3°, return ±0.2–0.5°, an error curve of degrees over the range (robcook.eu/hexy, hessmer.org).
    """

    zero_sd_deg: float = 2.0
    scale_sd: float = 0.01
    gauss_deg: float = 0.3
    backlash_deg: float = 0.0  # off by as much to either side, as the last motion was
    sine_deg: float = 0.0  # amplitude of an error curve with a period of 90°, of random phase
    droop_deg: float = 0.0  # joints 2 to 4 sag by as much when the link that follows is level, whatever that carries
    compliance_rad_per_nm: float = 0.0  # joints 2 to 4 sag by all that they carry
    corner_px: float = 0.2
    lens_error: float = 0.0  # of the focal length that the estimate is told
    centre_error_px: float = 0.0  # of its principal point
    board_error: float = 0.0  # by how much the board is larger than the estimate is told
    hand_eye_sd_m: float = 0.005
    hand_eye_sd_deg: float = 3.0


class Robot(NamedTuple):
    """One arm as it really is, and its servos' error curves."""

    truth: State
    phase_rad: Float64  # (5,)
    errors: Errors
    camera: CameraPlace

    def in_gauge(self) -> State:
        """The truth in the terms of the estimate, in which the zeros of joint 1 and of the last one before the camera are 0.

        Joint 5's goes into the hand-eye, joint 1's into the board's pose about the base axis; a camera before joint 5 hides
        joint 5, and joint 4's zero goes into the hand-eye. What sags with the tool straight down goes into zeros and scales
        (`calibration.arm.gravity`).
        """
        down = gravity.straight_down_rad(MOUNT)
        offset, slope = gravity.line(down, sag_rad(self.errors, down))
        turns = 1.0 + self.truth.scales
        zeros, scales = self.truth.zeros_rad + turns * offset, turns * (1.0 + slope) - 1.0
        hand_eye, board = self.truth.hand_eye, self.truth.board
        base = MOUNT.transform_base_to_table()
        turn = np.eye(4)
        turn[:3, :3] = rotation(base[:3, 2] * -zeros[0])
        if self.camera == "fixed":
            hand_eye = turn @ hand_eye
        else:
            board = turn @ board
        zeros[0] = 0.0
        roll = np.eye(4)
        roll[:3, :3] = rotation(np.array([0.0, 0.0, zeros[4]]))
        if self.camera == "wrist":
            hand_eye = roll @ hand_eye
        if self.camera == "fixed":
            board = roll @ board
        if self.camera == "forearm":
            bend = np.eye(4)  # about joint 4's axis, −x, which lies behind the tool
            bend[:3, :3] = rotation(np.array([-zeros[3], 0.0, 0.0]))
            behind = np.array([0.0, 0.0, -WRIST_TO_TOOL_M])
            bend[:3, 3] = behind - bend[:3, :3] @ behind
            hand_eye, zeros[3], scales[4] = bend @ hand_eye, 0.0, 0.0
        zeros[4] = 0.0
        loaded = np.array([0.0, 1.0, 1.0, 1.0, 0.0])
        compliance = loaded * (np.nan if self.errors.droop_deg else self.errors.compliance_rad_per_nm)
        return State(hand_eye, board, zeros, scales, self.truth.lens, compliance)


def robot(rng: np.random.Generator, errors: Errors, camera: CameraPlace = "wrist") -> Robot:
    """Draw one arm, its camera mount and where the board lies."""
    step = np.zeros(33)
    step[:3], step[3:6] = rng.normal(0, np.radians(errors.hand_eye_sd_deg), 3), rng.normal(0, errors.hand_eye_sd_m, 3)
    step[8], step[9:11] = rng.normal(0, 0.05), rng.normal(0, 0.01, 2)
    step[12:17], step[17:22] = rng.normal(0, np.radians(errors.zero_sd_deg), 5), rng.normal(0, errors.scale_sd, 5)
    return Robot(moved(scene(camera).state, step, 5), rng.uniform(0, 2 * np.pi, 5), errors, camera)


def true_joints(one: Robot, commanded_rad: Float64, rng: np.random.Generator) -> Float64:
    """Where the joints (n, 5) really go, in the numbers of a perfect arm with the robot's zeros and scales."""
    errors = one.errors
    noise = rng.normal(0, errors.gauss_deg, commanded_rad.shape) + errors.backlash_deg * rng.choice((-1.0, 1.0), commanded_rad.shape)
    return np.asarray(commanded_rad + np.radians(noise) + curve_rad(one, commanded_rad) + sag_rad(errors, commanded_rad))


def curve_rad(one: Robot, commanded_rad: Float64) -> Float64:
    """(n, 5) how far each servo's own error curve is off."""
    return np.asarray(np.radians(one.errors.sine_deg) * np.sin(4.0 * commanded_rad + one.phase_rad))


def sag_rad(errors: Errors, commanded_rad: Float64) -> Float64:
    """(n, 5) what gravity adds to each joint of the hanging arm: it pulls every link towards straight down."""
    level = np.pad(np.sin(np.cumsum(commanded_rad[:, 1:4], axis=1)), ((0, 0), (1, 1)))
    by_load = errors.compliance_rad_per_nm * gravity.torque_nm(commanded_rad, MOUNT)
    return np.asarray(by_load - np.radians(errors.droop_deg) * level)


def take_pictures(one: Robot, commanded_rad: Float64, rng: np.random.Generator) -> Views:
    """What the camera sees: corners with noise, NaN outside of the image."""
    arm = ServoArm(true_joints(one, commanded_rad, rng), MOUNT, one.camera)
    pixels = predict(one.truth, arm, POINTS_M * (1.0 + one.errors.board_error)).pixels
    seen = plan_poses.in_picture(pixels)[..., None]
    noisy = np.where(seen, pixels + rng.normal(0, one.errors.corner_px, pixels.shape), np.nan)
    names = tuple(f"image {i}" for i in range(len(commanded_rad)))
    return Views(ServoArm(commanded_rad, MOUNT, one.camera), noisy, names)


def lens_as_told(one: Robot) -> Float64:
    """The lens (9,) that the estimate starts from."""
    lens = one.truth.lens.copy()
    lens[:2] *= 1.0 + one.errors.lens_error
    lens[2:4] += one.errors.centre_error_px
    return lens
