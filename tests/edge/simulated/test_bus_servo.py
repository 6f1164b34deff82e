"""A bus servo takes the time it is given, no less than it can, and moves only with torque and nothing in its way."""

import numpy as np
import pytest

from edge.simulated.bus_servo import SPEED_MAX_RAW_S, BusServo


@pytest.fixture
def servo() -> BusServo:
    servo = BusServo(1, 2000.0)
    servo.hold(0.0)
    return servo


def test_it_arrives_when_it_was_told_to(servo: BusServo) -> None:
    servo.go(2100, 0.5, 1.0)
    assert [servo.raw(at_s) for at_s in (0.9, 1.0, 1.25, 1.5, 9.0)] == pytest.approx([2000, 2000, 2050, 2100, 2100])


def test_no_goal_makes_it_faster_than_it_is() -> None:
    rng = np.random.default_rng(2)
    servo = BusServo(1, 2000.0)
    servo.hold(0.0)
    times_s = np.sort(rng.uniform(0.0, 5.0, 500)).tolist()
    last_s, last_raw = 0.0, 2000.0
    for at_s in times_s:
        raw = servo.raw(at_s)
        assert 96 <= raw <= 4000
        assert abs(raw - last_raw) <= SPEED_MAX_RAW_S * (at_s - last_s) + 1e-6
        last_s, last_raw = at_s, raw
        servo.go(int(rng.integers(-1000, 6000)), float(rng.choice((0.0, 0.02, 0.3))), at_s + 0.01)


def test_orders_that_come_before_the_last_one_arrived_are_all_followed(servo: BusServo) -> None:
    for tick in range(1, 50):
        servo.go(2000 + tick, 0.02, tick * 0.02 + 0.012)
        servo.go(2000 + tick, 0.02, tick * 0.02 + 0.012)
    assert servo.raw(49 * 0.02 + 0.1) == 2049
    assert servo.raw(50 * 0.02 + 0.1) == 2049


def test_without_torque_it_lies_and_remembers(servo: BusServo) -> None:
    servo.hold(1.5)
    servo.let_go(1.0)  # the last word
    servo.go(2500, 0.1, 1.0)
    assert servo.raw(2.0) == 2000
    servo.turn_by_hand(1900.0, 2.0)
    assert servo.raw(2.0) == 1900
    servo.hold(3.0)
    assert not servo.holds(2.9)
    assert servo.holds(3.0)
    servo.turn_by_hand(1500.0, 3.0)  # not while it holds
    assert servo.raw(3.0) == 1900
    assert servo.raw(4.0) == 2500


def test_a_stalled_shaft_stays_until_it_is_freed(servo: BusServo) -> None:
    servo.go(2100, 1.0, 0.0)
    servo.stall(True, 0.5)
    assert servo.raw(5.0) == 2050
    servo.go(2200, 0.02, 5.0)
    assert servo.raw(6.0) == 2050
    servo.stall(False, 6.0)
    assert servo.raw(6.0) == 2050
    assert servo.raw(7.0) == 2200


def test_power_up_forgets_the_goal(servo: BusServo) -> None:
    servo.go(2100, 1.0, 0.0)
    servo.go(3000, 1.0, 0.6)
    servo.power_up(0.5)
    servo.hold(1.0)
    assert servo.raw(5.0) == 2050


@pytest.mark.parametrize("ramp", [0.1, 0.25, 0.5])
def test_a_ramp_is_a_trapezoid_that_arrives_in_time(ramp: float) -> None:
    servo = BusServo(1, 2000.0, ramp)
    servo.hold(0.0)
    servo.go(2400, 1.0, 1.0)
    steps = np.diff([servo.raw(1.0 + step / 1000.0) for step in range(1001)])
    assert steps.sum() == pytest.approx(400.0)
    assert steps.max() == pytest.approx(0.4 / (1.0 - ramp), rel=1e-2)  # raw per ms: the top
    assert np.abs(np.diff(steps)).max() == pytest.approx(4e-4 / ramp / (1.0 - ramp), rel=2e-2)  # raw per ms²: no leap of speed
    assert steps == pytest.approx(steps[::-1], abs=1e-9)


def test_a_goal_during_a_move_begins_the_ramp_anew_from_rest() -> None:
    servo = BusServo(1, 2000.0, 0.25)
    servo.hold(0.0)
    servo.go(2400, 1.0, 1.0)
    servo.go(2400, 1.0, 1.5)  # it is half way, at its fastest
    before, at, after = (servo.raw(at_s) for at_s in (1.49, 1.5, 1.51))
    assert at == pytest.approx(2200.0)
    assert at - before > 5.0
    assert after - at < 0.1
    assert servo.raw(2.5) == pytest.approx(2400.0)


def test_overload_lets_go_and_is_told_until_torque_is_switched(servo: BusServo) -> None:
    servo.status = 0x04
    for end in (servo.let_go, servo.hold, servo.power_up):
        servo.hold(1.0)
        assert servo.holds(1.0)
        servo.protect(1.0)
        assert (servo.error, servo.holds(1.0)) == (0x24, False)
        end(1.0)
        assert servo.error == 0x04
