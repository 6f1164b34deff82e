"""What the pictures say of each servo, in the terms of its driver: zero, scale, direction and repeatability.

Joints 1 and 5 keep their zero: no picture shows it (`calibration.observability`). A joint that turns to `zero + (1 + scale) · q` when
sent to q is corrected where q becomes a pulse or a count, so that from then on it turns to q.
"""

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import msgspec
import numpy as np

from calibration.arm import closed_form
from calibration.arm.model import ServoArm, Views, inverse
from calibration.hand_eye import Estimate
from edge.calibration import BoardCalibration, Made, Pca9685Calibration, made
from edge.config import BoardServoConfig, BusConfig, ServoConfig
from edge.errors import CalibrationError
from edge.messages import Float64
from edge.robot import JOINT_NAMES

BETTER = 0.5  # another direction is believed when the boards then lie together that much closer
ALIKE = 1.2  # as near as this to the best: the drawing of the camera mount decides, then how few are turned round
QUARTER_RAD = np.radians(45.0)  # nearer to the drawing by less than this decides nothing


def pivots_rad(bus: BusConfig) -> Float64:
    """(5,) the angle that each joint keeps when its servo's direction is turned round."""
    if bus.driver == "dofbot_board":
        return np.zeros(5)
    return np.radians([servo.zero_deg for servo in bus.servos[:5]])


def turned(views: Views, signs: tuple[int, ...], pivots: Float64) -> Views:
    """The images as they are when some servos turn the other way; raises `CalibrationError` for an arm without servos."""
    arm = views.arm
    if not isinstance(arm, ServoArm):
        raise CalibrationError("these images have poses in place of joint angles, expected an arm of servos; give the joints file")
    flipped = np.where(np.array(signs) > 0, arm.commanded, 2.0 * pivots - arm.commanded)
    return views._replace(arm=ServoArm(flipped, arm.mount, arm.camera))


def directions(views: Views, points_m: Float64, lens: Float64, pivots: Float64, guess: Float64) -> tuple[int, ...]:
    """Whether each joint turns as configured (1) or the other way (-1), by which the pictures agree best on one place of the board.

    Joints 2, 3 and 4 all reversed look like an arm turned by half a turn: of those that are alike, the one nearest to the drawing's
    hand-eye `guess` (4, 4) is taken.
    """
    usable = np.flatnonzero(np.isfinite(views.corners_px[..., 0]).sum(axis=1) >= closed_form.CORNERS_MIN)
    views = views.take(usable)
    seen = closed_form.board_poses(views.corners_px, points_m, lens).transform_board_to_camera
    tried = {}
    for signs in product((1, -1), repeat=5):
        arm = turned(views, signs, pivots).arm
        flange = arm.chain(np.zeros(5), np.zeros(5)).transform_flange_to_table
        hand_eye = closed_form.park(inverse(flange) if arm.fixed_camera else flange, seen)
        found = closed_form.agreement(hand_eye, inverse(flange) if arm.fixed_camera else flange, seen, points_m)
        tried[signs] = (float(np.median(found)), hand_eye)
    as_configured, best = tried[(1,) * 5][0], min(apart for apart, _ in tried.values())
    limit = ALIKE * (best if best < BETTER * as_configured else as_configured)
    alike = {signs: _turn_rad(hand_eye, guess) for signs, (apart, hand_eye) in tried.items() if apart <= limit}
    nearest = min(alike.values())
    return min((signs for signs, turn in alike.items() if turn < nearest + QUARTER_RAD), key=lambda signs: signs.count(-1))


def _turn_rad(one: Float64, other: Float64) -> float:
    return float(np.linalg.norm(closed_form.rotation_vectors((inverse(one) @ other)[None, :3, :3])))


def part(bus: BusConfig, found: Estimate, signs: tuple[int, ...], by: str) -> Pca9685Calibration | BoardCalibration:
    """The calibration's part for the servos of `bus`, with which the pictures were taken; `signs` as `directions` said."""
    turns = zip(signs, np.degrees(found.state.zeros_rad).tolist(), (1.0 + found.state.scales).tolist(), strict=True)
    return corrected(bus, [Turns(*one) for one in turns], made(by, sigma=sigma(found), checks=found.checks))


class Turns(NamedTuple):
    """What a joint of `bus` does when it is sent to q: it turns to zero_deg + scale · q, or the other way round where `sign` is -1."""

    sign: int
    zero_deg: float
    scale: float


def corrected(bus: BusConfig, joints: Sequence[Turns], how: Made) -> Pca9685Calibration | BoardCalibration:
    """The servos of `bus` so that each of five joints turns to where it is sent."""
    if bus.driver == "dofbot_board":
        *board, hand = bus.board.servos
        one, two, three, four, five = (_board_servo(servo, *joint) for servo, joint in zip(board, joints, strict=True))
        return BoardCalibration((one, two, three, four, five, hand), how)
    *pwm, gripper = bus.servos
    first, second, third, fourth, fifth = (_pwm_servo(servo, *joint) for servo, joint in zip(pwm, joints, strict=True))
    return Pca9685Calibration(bus.reference_clock_hz, (first, second, third, fourth, fifth, gripper), how)


def _pwm_servo(servo: ServoConfig, sign: int, zero_deg: float, scale: float) -> ServoConfig:
    """q = zero_deg + direction · travel · share becomes zero + scale · q."""
    return msgspec.structs.replace(
        servo,
        direction=servo.direction * sign,
        travel_deg=servo.travel_deg * scale,
        zero_deg=zero_deg + scale * servo.zero_deg,
    )


def _board_servo(servo: BoardServoConfig, sign: int, zero_deg: float, scale: float) -> BoardServoConfig:
    """q = direction · (counts − zero_raw) / counts_per_deg becomes zero + scale · q."""
    direction, counts_per_deg = servo.direction * sign, servo.counts_per_deg / scale
    return msgspec.structs.replace(
        servo, direction=direction, counts_per_deg=counts_per_deg, zero_raw=servo.zero_raw - direction * zero_deg * counts_per_deg
    )


def sigma(found: Estimate) -> dict[str, float]:
    """σ of what was found of each joint, and its repeatability, which is a σ itself."""
    deviation = dict(zip(found.names, np.sqrt(np.diag(found.covariance)), strict=True))
    told: dict[str, float] = {}
    for joint, repeat_rad in zip(JOINT_NAMES[:5], found.noise.joint, strict=True):
        if deviation[f"zero {joint}"] > 0.0:
            told[f"{joint}.zero_deg"] = float(np.degrees(deviation[f"zero {joint}"]))
        if deviation[f"scale {joint}"] > 0.0:
            told[f"{joint}.scale"] = float(deviation[f"scale {joint}"])
        if deviation[f"compliance {joint}"] > 0.0:
            told[f"{joint}.compliance_deg_per_nm"] = float(np.degrees(deviation[f"compliance {joint}"]))
        told[f"{joint}.repeatability_deg"] = float(np.degrees(repeat_rad))
    return told
