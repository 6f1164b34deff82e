"""Real drivers and libraries on a whole arm: what they tell it is where it goes, but for the flaws of that arm."""

import math

import pytest
from msgspec.structs import replace

from edge.buses.dofbot_board import DofbotBoardBus
from edge.buses.pca9685 import Pca9685Bus
from edge.buses.servos import command_from_deg, joints_deg
from edge.clock import SteppedClock
from edge.config import BusConfig
from edge.errors import BusError, ConfigError
from edge.messages import JointCommand
from edge.simulated.arm_errors import ArmErrors
from edge.simulated.emulated_arm import PARK_DEG, EmulatedArm
from edge.simulated.servo_physics import ServoTraits

pytest.importorskip("smbus2")
pytest.importorskip("adafruit_servokit")

GOAL_DEG = (20.0, -10.0, 60.0, -30.0, 45.0, 10.0)
DRIVERS = ("pca9685", "dofbot_board")
COUNT_DEG = {"pca9685": 0.71, "dofbot_board": 0.13}  # resolution, and ServoKit's truncation; a count of noise at the start


def config(driver: str) -> BusConfig:
    return replace(BusConfig(), driver=driver)


def driver_on(arm: EmulatedArm) -> Pca9685Bus | DofbotBoardBus:
    if arm.config.driver == "pca9685":
        bus: Pca9685Bus | DofbotBoardBus = Pca9685Bus(arm.config, arm.i2c)
    else:
        bus = DofbotBoardBus(arm.config, arm.smbus, arm.clock)
    arm.clock.sleep_until(arm.clock.now_s() + 1.0)
    bus.open()
    return bus


def drive(arm: EmulatedArm, bus: Pca9685Bus | DofbotBoardBus, goal: JointCommand, duration_s: float = 1.5) -> None:
    """In a straight line at 50 Hz, and stay there."""
    start, ticks, began_s = bus.measured() or command_from_deg(arm.joints_deg()), round(50 * duration_s), arm.clock.now_s()
    for tick in range(1, 2 * ticks + 1):
        share = min(tick / ticks, 1.0)
        bus.write(JointCommand._make(a + share * (b - a) for a, b in zip(start, goal, strict=True)))
        arm.clock.sleep_until(began_s + 0.02 * tick)


@pytest.mark.parametrize("driver", DRIVERS)
def test_an_arm_without_flaws_goes_where_it_is_told(driver: str) -> None:
    arm = EmulatedArm(config(driver), errors=ArmErrors())
    assert arm.joints_deg() == PARK_DEG
    bus = driver_on(arm)
    assert not any(arm.powered())
    assert arm.joints_deg() == PARK_DEG
    drive(arm, bus, command_from_deg(GOAL_DEG))
    assert arm.joints_deg() == pytest.approx(GOAL_DEG, abs=COUNT_DEG[driver])
    assert all(arm.powered())
    bus.release()
    assert not any(arm.powered())


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("seed", [1, 2])
def test_an_arm_with_flaws_misses_by_its_zero_and_its_scale_and_little_else(driver: str, seed: int) -> None:
    arm = EmulatedArm(config(driver), seed=seed)
    bus = driver_on(replaced_clock(arm) if driver == "pca9685" else arm)
    drive(arm, bus, command_from_deg(GOAL_DEG))
    nominal_zero_deg = [servo.zero_deg if driver == "pca9685" else 0.0 for servo in arm.config.servos]
    expected_deg = [
        zero + miss + scale * (goal - zero)
        for zero, miss, scale, goal in zip(nominal_zero_deg, arm.errors.zero_deg, arm.errors.scale, GOAL_DEG, strict=True)
    ]
    assert arm.joints_deg() == pytest.approx(expected_deg, abs=COUNT_DEG[driver] + 0.5 + 0.5 + 1.2)  # play, dead band, sag
    assert max(abs(a - b) for a, b in zip(arm.joints_deg(), GOAL_DEG, strict=True)) > 1.0


def replaced_clock(arm: EmulatedArm) -> EmulatedArm:
    """The same arm, its oscillator trimmed out."""
    arm.config = replace(arm.config, reference_clock_hz=round(arm.errors.oscillator_hz))
    return arm


def test_an_oscillator_that_is_off_turns_every_joint_too_far() -> None:
    arm = EmulatedArm(config("pca9685"), errors=ArmErrors(oscillator_hz=23e6))
    bus = driver_on(arm)
    drive(arm, bus, command_from_deg((0.0, 0.0, 0.0, 0.0, 45.0, 0.0)))
    assert arm.joints_deg()[0] == pytest.approx((1500 * 25 / 23 - 1500) / 2000 * 270, abs=COUNT_DEG["pca9685"])


def test_the_same_seed_is_the_same_run_and_another_seed_is_not() -> None:
    def run(seed: int) -> tuple[float, ...]:
        arm = EmulatedArm(config("dofbot_board"), seed=seed)
        bus = driver_on(arm)
        drive(arm, bus, command_from_deg(GOAL_DEG), 0.4)
        return (*arm.joints_deg(), *joints_deg(bus.measured()))

    assert run(4) == run(4) != run(5)


def test_the_read_back_is_the_shaft_and_neither_play_nor_scale_is_in_it() -> None:
    traits = ServoTraits(play_deg=1.0)
    arm = EmulatedArm(config("dofbot_board"), errors=ArmErrors(scale=(1.05,) * 6, traits=(traits,) * 6))
    bus = driver_on(arm)
    drive(arm, bus, command_from_deg((20.0, 0.0, 0.0, 0.0, 0.0, 0.0)))
    assert math.degrees(bus.measured().joint1_rad) == pytest.approx(20.0, abs=0.2)
    assert arm.joints_deg()[0] == pytest.approx(20.0 * 1.05 - 1.0, abs=0.2)


def test_a_blocked_bus_servo_reports_overload_goes_limp_and_comes_back_with_torque() -> None:
    arm = EmulatedArm(config("dofbot_board"), seed=2)
    bus = driver_on(arm)
    arm.block(0, high_deg=5.0)
    drive(arm, bus, command_from_deg((30.0, *PARK_DEG[1:])), 1.0)
    assert 0.5 < arm.pushing_s()[0] < 3.0
    assert math.degrees(bus.measured().joint1_rad) < 10.0
    began_s = arm.clock.now_s()
    while all(arm.powered()):
        arm.clock.sleep_until(arm.clock.now_s() + 0.1)
    assert arm.clock.now_s() - began_s < 5.0
    assert arm.powered() == (False, *[True] * 5)
    with pytest.raises(BusError, match=r"servo 1 \(joint1\) reports overload"):
        bus.open()
    arm.block(0)
    bus.release()
    bus.open()
    drive(arm, bus, command_from_deg((30.0, *PARK_DEG[1:])), 1.0)
    assert math.degrees(bus.measured().joint1_rad) == pytest.approx(30.0, abs=0.5)


def test_a_blocked_hobby_servo_pushes_on_for_ever() -> None:
    arm = EmulatedArm(config("pca9685"), seed=2)
    bus = driver_on(arm)
    arm.block(0, high_deg=5.0)
    drive(arm, bus, command_from_deg((30.0, *PARK_DEG[1:])), 1.0)
    arm.clock.sleep_until(arm.clock.now_s() + 10.0)
    assert arm.pushing_s()[0] > 10.0
    assert all(arm.powered())


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_hand_turns_what_is_limp_only_and_no_further_than_the_stop(driver: str) -> None:
    arm = EmulatedArm(config(driver), seed=1)
    low_deg, high_deg = arm.errors.traits[0].stops_deg
    for to_deg, found_deg in ((200.0, high_deg), (-200.0, low_deg), (0.0, 0.0)):
        arm.turn_by_hand(0, to_deg)
        assert arm.joints_deg()[0] == pytest.approx(found_deg, abs=0.51)
    bus = driver_on(arm)
    drive(arm, bus, command_from_deg(GOAL_DEG))
    before_deg = arm.joints_deg()
    arm.turn_by_hand(0, -50.0)
    assert arm.joints_deg() == before_deg


def test_ids_are_set_up_one_servo_at_a_time() -> None:
    arm = EmulatedArm(config("dofbot_board"), seed=1)
    arm.clock.sleep_until(1.0)
    for joint in range(6):
        arm.plug(joint, joint == 3)
    arm.smbus.write_i2c_block_data(0x15, 0x18, [2])
    for joint in range(6):
        arm.plug(joint, True)
    with pytest.raises(BusError, match=r"servo 4 \(joint4\) is silent"):
        driver_on(arm)
    arm.smbus.write_i2c_block_data(0x15, 0x32, [1])
    arm.clock.sleep_until(arm.clock.now_s() + 0.005)
    assert arm.smbus.read_i2c_block_data(0x15, 0x32, 2) == [0, 0]  # two servos answered at once


def test_both_boards_can_be_on_the_bus_and_servos_hang_on_one() -> None:
    arm = EmulatedArm(config("pca9685"), seed=1, chips=DRIVERS)
    assert arm.i2c.scan() == [0x15, 0x40, 0x70]  # 0x70: all-call, until ServoKit clears it
    bus = driver_on(arm)
    assert arm.i2c.scan() == [0x15, 0x40]
    drive(arm, bus, command_from_deg(GOAL_DEG), 0.2)
    with pytest.raises(BusError, match="servo 1 .* is silent"):
        DofbotBoardBus(arm.config, arm.smbus, arm.clock).open()
    arm.i2c.writeto(0x00, b"\x06")  # the board does not listen, the other does
    assert not any(arm.powered())


def test_a_brown_out_makes_it_limp_and_forgetful() -> None:
    for driver, complaint in (("pca9685", "it was reset"), ("dofbot_board", "did not answer")):
        arm = EmulatedArm(config(driver), seed=1)
        bus = driver_on(arm)
        drive(arm, bus, command_from_deg(GOAL_DEG), 0.2)
        arm.brown_out()
        assert not any(arm.powered())
        with pytest.raises(BusError, match=complaint):
            bus.write(command_from_deg(GOAL_DEG))


@pytest.mark.parametrize(("driver", "most_s"), [("pca9685", 0.0040), ("dofbot_board", 0.0026)])
def test_the_clock_moves_on_with_the_wire(driver: str, most_s: float) -> None:
    clock = SteppedClock(7.0)
    arm = EmulatedArm(config(driver), clock, seed=1)
    assert arm.clock is clock
    bus = driver_on(arm)
    command = bus.measured() or command_from_deg(PARK_DEG)
    bus.write(command)
    clock.sleep_until(clock.now_s() + 0.02)
    bus.write(command)
    clock.sleep_until(clock.now_s() + 0.02)
    before_s, busy_s = clock.now_s(), arm.i2c.busy_s
    bus.write(command)
    assert clock.now_s() - before_s == pytest.approx(arm.i2c.busy_s - busy_s)
    assert 0.9 * most_s < clock.now_s() - before_s < most_s


def test_a_simulators_bus_has_no_chip_to_emulate() -> None:
    with pytest.raises(ConfigError, match="bus.driver = 'simulator' has no chip"):
        EmulatedArm(config("simulator"))
