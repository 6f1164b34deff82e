"""Every arm is another one, and within what was measured."""

import math

import pytest

from edge.robot import POSITION_MAX_RAD, POSITION_MIN_RAD
from edge.simulated.arm_errors import NOMINAL_TRAVEL_DEG, ArmErrors, draw_errors


@pytest.mark.parametrize("driver", ["pca9685", "dofbot_board"])
def test_a_seed_is_an_arm_and_another_seed_another(driver) -> None:
    assert draw_errors(driver, 3) == draw_errors(driver, 3) != draw_errors(driver, 4)
    for seed in range(100):
        errors = draw_errors(driver, seed)
        assert 23e6 <= errors.oscillator_hz <= 27e6
        assert all(abs(deg) <= 2.0 for deg in errors.zero_deg)
        for low_rad, high_rad, traits in zip(POSITION_MIN_RAD, POSITION_MAX_RAD, errors.traits[:5], strict=True):
            assert traits.stops_deg[0] < math.degrees(low_rad)
            assert traits.stops_deg[1] > math.degrees(high_rad)
        assert all((3.0 <= t.stall_s <= 5.0) if driver == "dofbot_board" else math.isinf(t.stall_s) for t in errors.traits)


def test_a_bus_servo_turns_300_to_330_degrees_over_its_counts() -> None:
    travels_deg = [scale * NOMINAL_TRAVEL_DEG for seed in range(50) for scale in draw_errors("dofbot_board", seed).scale]
    assert 300.0 <= min(travels_deg) < 303.0
    assert 327.0 < max(travels_deg) <= 330.0


def test_the_defaults_are_no_error() -> None:
    errors = ArmErrors()
    assert (errors.oscillator_hz, set(errors.zero_deg), set(errors.scale)) == (25e6, {0.0}, {1.0})
