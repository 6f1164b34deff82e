"""Counts are Arm_Lib's, twelve times finer than its degrees, and never leave the travel of a servo."""

import math

import msgspec
import numpy as np
import pytest

from edge.buses.board_counts import check_counts, command_from_counts, counts
from edge.config import BoardServoConfig, BusConfig
from edge.errors import BusError, ConfigError
from edge.messages import JointCommand
from edge.robot import JOINT_NAMES, OPENING_MAX_M, POSITION_MAX_RAD, POSITION_MIN_RAD

SERVOS = BusConfig().board.servos
STRAIGHT = JointCommand(0.0, 0.0, 0.0, 0.0, 0.0, 0.030)
COUNT_RAD = math.radians(0.082)


def with_servo(index: int, **changes: object) -> tuple[BoardServoConfig, ...]:
    return (*SERVOS[:index], msgspec.structs.replace(SERVOS[index], **changes), *SERVOS[index + 1 :])


def odd_servos(rng: np.random.Generator) -> tuple[BoardServoConfig, ...]:
    """Servos that differ in everything, and still cover the joint limits."""
    return tuple(
        BoardServoConfig(
            id=int(number),
            zero_raw=float(rng.uniform(1450, 1550) if joint == 4 else rng.uniform(1900, 2200)),
            counts_per_deg=float(rng.uniform(11.8, 12.3)),
            direction=1 if joint == 4 else int(rng.choice((-1, 1))),
        )
        for joint, number in enumerate(rng.permutation(6) + 1)
    )


def arm_lib(number: int, angle_deg: float) -> int:
    """Arm_Lib V0.0.5: whole degrees, 90 is upright, servos 2-4 turned around."""
    if number == 5:
        return int(380 + 3320 * angle_deg / 270)
    return int(900 + 2200 * (180 - angle_deg if number in (2, 3, 4) else angle_deg) / 180)


@pytest.mark.parametrize("angle_deg", [0, 1, 45, 90, 133, 180])
def test_the_defaults_are_arm_libs_scale(angle_deg: int) -> None:
    command = JointCommand._make((*[math.radians(angle_deg - 90)] * 5, 0.03))
    expected = [arm_lib(number, angle_deg) for number in range(1, 6)]
    assert counts(command, SERVOS)[:5] == pytest.approx(expected, abs=1)  # it truncates
    assert counts(STRAIGHT, SERVOS)[5] == pytest.approx(arm_lib(6, 134), abs=1)  # 30 mm in the vendor's table


def test_counts_and_commands_are_inverse_to_half_a_count() -> None:
    rng = np.random.default_rng(1)
    for _ in range(300):
        servos = odd_servos(rng)
        command = JointCommand(*rng.uniform(POSITION_MIN_RAD, POSITION_MAX_RAD).tolist(), float(rng.uniform(0, OPENING_MAX_M)))
        back = command_from_counts(counts(command, servos), servos)
        assert back.joints_rad == pytest.approx(command.joints_rad, abs=COUNT_RAD / 1.9)
        assert back.opening_m == pytest.approx(command.opening_m, abs=1e-4)


def test_counts_stay_inside_at_every_limit() -> None:
    for limits in (POSITION_MIN_RAD, POSITION_MAX_RAD):
        for opening_m in (0.0, OPENING_MAX_M):
            for command in (JointCommand(*limits, opening_m), JointCommand(*np.float32((*limits, opening_m)).tolist())):
                for raw, servo in zip(counts(command, SERVOS), SERVOS, strict=True):
                    assert servo.min_raw <= raw <= servo.max_raw


@pytest.mark.parametrize("joint", range(5))
@pytest.mark.parametrize("end", ["min_raw", "max_raw"])
def test_a_joint_past_its_counts_is_refused_by_name(joint: int, end: str) -> None:
    limit = 1500 if end == "min_raw" else 2500
    servos = with_servo(joint, **{end: limit}, zero_raw=2000.0)
    end_deg = servos[joint].direction * (limit - 2000) / servos[joint].counts_per_deg
    field = f"{JOINT_NAMES[joint]}_rad"
    assert counts(STRAIGHT._replace(**{field: math.radians(end_deg)}), servos)[joint] == limit
    with pytest.raises(BusError, match=rf"{JOINT_NAMES[joint]} was sent to .*bus.board.servos\[{joint}\]"):
        counts(STRAIGHT._replace(**{field: math.radians(end_deg + math.copysign(0.06, end_deg))}), servos)


@pytest.mark.parametrize("field", JointCommand._fields)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_refused(field: str, value: float) -> None:
    with pytest.raises(BusError, match="joint|gripper"):
        counts(STRAIGHT._replace(**{field: value}), SERVOS)


def test_the_default_servos_cover_the_joint_limits() -> None:
    check_counts(SERVOS)


@pytest.mark.parametrize(
    ("index", "changes"),
    [
        (2, {"min_raw": 700}),
        (3, {"max_raw": 3300}),
        (4, {"zero_raw": 2000.0}),
        (5, {"max_raw": 3090}),
        (0, {"direction": -1, "max_raw": 3000}),
    ],
)
def test_a_servo_that_turns_less_than_its_joint_is_a_configuration_error(index: int, changes: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=rf"bus.board.servos\[{index}\] \({JOINT_NAMES[index]}\) turns"):
        check_counts(with_servo(index, **changes))
