import math
from itertools import pairwise

import msgspec
import numpy as np
import pytest

from edge.buses.servos import SimulatorBus, check_travel, command_from_pulses, pulses_us, servo_angles_deg
from edge.config import BusConfig, ServoConfig
from edge.errors import BusError, ConfigError, WireError
from edge.messages import JointCommand
from edge.robot import JOINT_NAMES, OPENING_MAX_M, POSITION_MAX_RAD, POSITION_MIN_RAD

SERVOS = BusConfig().servos
STRAIGHT = JointCommand(0.0, 0.0, 0.0, 0.0, 0.0, 0.030)


def odd_servos(rng: np.random.Generator) -> tuple[ServoConfig, ...]:
    """Servos that differ in everything, and still cover the joint limits."""
    return tuple(
        ServoConfig(
            channel=int(channel),
            min_us=float(rng.uniform(400, 800)),
            max_us=float(rng.uniform(2200, 2600)),
            travel_deg=float(rng.uniform(300, 360)),
            zero_deg=float(rng.uniform(-15, 15)) + (45.0 if joint == 4 else 0.0),
            direction=int(rng.choice((-1, 1))),
        )
        for joint, channel in enumerate(rng.permutation(16)[:6])
    )


def random_command(rng: np.random.Generator) -> JointCommand:
    return JointCommand(*rng.uniform(POSITION_MIN_RAD, POSITION_MAX_RAD).tolist(), float(rng.uniform(0, OPENING_MAX_M)))


def with_servo(index: int, **changes: object) -> tuple[ServoConfig, ...]:
    return (*SERVOS[:index], msgspec.structs.replace(SERVOS[index], **changes), *SERVOS[index + 1 :])


def test_the_middle_of_a_joint_is_the_middle_of_the_pulse() -> None:
    middle = STRAIGHT._replace(joint5_rad=math.radians(45.0))
    assert pulses_us(middle, SERVOS)[:5] == pytest.approx([1500.0] * 5)


def test_a_longer_pulse_turns_the_joint_the_way_its_direction_says() -> None:
    moved = STRAIGHT._replace(joint2_rad=math.radians(27.0))  # a tenth of 270°: 200 of 2000 µs
    assert pulses_us(moved, SERVOS)[1] == pytest.approx(1700.0)
    assert pulses_us(moved, with_servo(1, direction=-1))[1] == pytest.approx(1300.0)
    assert pulses_us(moved, with_servo(1, zero_deg=27.0))[1] == pytest.approx(1500.0)


VENDOR_TABLE = (
    (60, 57),
    (55, 80),
    (50, 95),
    (45, 105),
    (40, 115),
    (35, 125),
    (30, 134),
    (25, 143),
    (20, 152),
    (15, 160),
    (10, 168),
    (5, 176),
)


@pytest.mark.parametrize(("opening_mm", "servo_deg"), [*VENDOR_TABLE, (0, 180), (27.5, 138.5)])
def test_the_gripper_follows_the_vendors_table(opening_mm: float, servo_deg: float) -> None:
    command = STRAIGHT._replace(opening_m=opening_mm / 1000)
    assert servo_angles_deg(command, SERVOS)[5] == pytest.approx(servo_deg)
    assert pulses_us(command, SERVOS)[5] == pytest.approx(500 + servo_deg / 180 * 2000)


def test_a_wider_gripper_is_always_a_smaller_angle() -> None:
    angles = [servo_angles_deg(STRAIGHT._replace(opening_m=m), SERVOS)[5] for m in np.linspace(0, OPENING_MAX_M, 601).tolist()]
    assert all(wider < narrower for narrower, wider in pairwise(angles))


def test_pulses_and_commands_are_inverse() -> None:
    rng = np.random.default_rng(1)
    for _ in range(300):
        servos, command = odd_servos(rng), random_command(rng)
        assert command_from_pulses(pulses_us(command, servos), servos) == pytest.approx(command, abs=1e-9)


def test_pulses_stay_between_the_ends_at_every_limit() -> None:
    rng = np.random.default_rng(2)
    for limits in (POSITION_MIN_RAD, POSITION_MAX_RAD):
        for opening_m in (0.0, OPENING_MAX_M):
            # As float64 and with what float32 makes of it, which may lie a hair outside.
            for command in (JointCommand(*limits, opening_m), JointCommand(*np.float32((*limits, opening_m)).tolist())):
                for servos in (SERVOS, *(odd_servos(rng) for _ in range(20))):
                    pulses = pulses_us(command, servos)
                    assert all(servo.min_us <= pulse <= servo.max_us for servo, pulse in zip(servos, pulses, strict=True))


@pytest.mark.parametrize("joint", range(5))
@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("direction", [-1, 1])
def test_a_joint_past_the_travel_of_its_servo_is_refused_by_name(joint: int, sign: int, direction: int) -> None:
    servos = with_servo(joint, direction=direction)
    end_deg = servos[joint].zero_deg + sign * servos[joint].travel_deg / 2
    within = STRAIGHT._replace(**{f"{JOINT_NAMES[joint]}_rad": math.radians(end_deg)})
    beyond = STRAIGHT._replace(**{f"{JOINT_NAMES[joint]}_rad": math.radians(end_deg + sign * 0.01)})
    assert pulses_us(within, servos)[joint] == pytest.approx(500 if sign * direction < 0 else 2500)
    with pytest.raises(BusError, match=rf"{JOINT_NAMES[joint]} was sent to {end_deg + sign * 0.01:.2f}°, expected .*servos\[{joint}\]"):
        pulses_us(beyond, servos)


@pytest.mark.parametrize("field", JointCommand._fields)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_refused_by_name(field: str, value: float) -> None:
    name = "gripper" if field == "opening_m" else field.removesuffix("_rad")
    with pytest.raises(BusError, match=name):
        pulses_us(STRAIGHT._replace(**{field: value}), SERVOS)


@pytest.mark.parametrize("opening_m", [-0.0001, OPENING_MAX_M + 0.0001])
def test_an_opening_that_the_gripper_does_not_have_is_refused(opening_m: float) -> None:
    with pytest.raises(BusError, match=rf"gripper was sent to {opening_m * 1000:.2f} mm, expected 0…60 mm"):
        pulses_us(STRAIGHT._replace(opening_m=opening_m), SERVOS)


@pytest.mark.parametrize("pulse_us", [0.0, -1.0, math.nan, math.inf])
def test_a_servo_without_a_pulse_has_no_set_point(pulse_us: float) -> None:
    pulses = (*pulses_us(STRAIGHT, SERVOS)[:3], pulse_us, *pulses_us(STRAIGHT, SERVOS)[4:])
    with pytest.raises(BusError, match="pulse of joint4"):
        command_from_pulses(pulses, SERVOS)


def test_a_pulse_past_the_table_is_a_gripper_at_its_stop() -> None:
    pulses = pulses_us(STRAIGHT, SERVOS)
    assert command_from_pulses((*pulses[:5], 600.0), SERVOS).opening_m == OPENING_MAX_M
    assert command_from_pulses((*pulses[:5], 2550.0), SERVOS).opening_m == 0.0


def test_the_default_servos_cover_the_joint_limits() -> None:
    check_travel(SERVOS)
    check_travel(tuple(msgspec.structs.replace(servo, direction=-1) for servo in SERVOS))


@pytest.mark.parametrize(
    ("index", "changes"),
    [
        (2, {"travel_deg": 219.9}),
        (2, {"zero_deg": 25.1}),
        (2, {"zero_deg": -25.1}),
        (4, {"zero_deg": 0.0}),
        (4, {"zero_deg": 51.1}),
        (4, {"travel_deg": 257.9}),
        (5, {"travel_deg": 179.9}),
    ],
)
def test_a_servo_that_turns_less_than_its_joint_is_a_configuration_error(index: int, changes: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=rf"bus.servos\[{index}\] \({JOINT_NAMES[index]}\) turns"):
        check_travel(with_servo(index, **changes))


def test_the_simulator_gets_the_pulses_and_zeros_on_release() -> None:
    taken: list[tuple[float, ...]] = []
    bus = SimulatorBus(SERVOS, taken.append)
    bus.open()
    assert taken == []
    bus.write(STRAIGHT)
    bus.release()
    bus.close()
    assert taken == [pulses_us(STRAIGHT, SERVOS), (0.0,) * 6, (0.0,) * 6]


def test_the_simulator_gets_nothing_of_a_command_that_is_refused() -> None:
    taken: list[tuple[float, ...]] = []
    with pytest.raises(BusError, match="joint1"):
        SimulatorBus(SERVOS, taken.append).write(STRAIGHT._replace(joint1_rad=math.nan))
    assert taken == []


@pytest.mark.parametrize("error", [ConnectionResetError("gone"), WireError("gone")])
def test_a_simulator_that_is_gone_is_a_bus_error_and_release_stays_silent(error: Exception) -> None:
    def sink(_: tuple[float, ...]) -> None:
        raise error

    bus = SimulatorBus(SERVOS, sink)
    with pytest.raises(BusError, match="gone"):
        bus.write(STRAIGHT)
    bus.release()
    bus.close()
