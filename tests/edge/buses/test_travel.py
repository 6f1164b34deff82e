"""A servo that turns less than its joint may clips the joint, for the gate and for the tools; other joints have to have all of theirs."""

from math import degrees

import msgspec
import numpy as np
import pytest

from edge.buses import travel
from edge.buses.board_counts import counts
from edge.buses.servos import pulses_us
from edge.config import BusConfig
from edge.errors import BusError, ConfigError
from edge.messages import JointCommand
from edge.robot import POSITION_MAX_RAD, POSITION_MIN_RAD
from edge.safety import DOFBOT_LIMITS, gate, resting


def _scaled(scale: float, joint: int = 4) -> BusConfig:
    """As `dofbot calibrate servos` leaves a servo that turns by that much of what it should."""
    servo = BusConfig().servos[joint]
    measured = msgspec.structs.replace(servo, travel_deg=servo.travel_deg * scale, zero_deg=servo.zero_deg * scale)
    return BusConfig(servos=(*BusConfig().servos[:joint], measured, *BusConfig().servos[joint + 1 :]))


@pytest.mark.parametrize("scale", [0.97, 0.99, 1.0, 1.01, 1.03])
def test_a_measured_scale_of_joint_5_is_usable_and_the_gate_keeps_inside_it(scale: float) -> None:
    bus = _scaled(scale)
    travel.check(bus)
    limits = travel.limits_of(bus)
    rng = np.random.default_rng(1)
    state = resting(JointCommand(0.0, 0.0, 0.0, 0.0, 0.0, 0.03))
    ends = []
    for tick in range(400):
        goal = POSITION_MAX_RAD[4] if tick < 200 else POSITION_MIN_RAD[4]
        wanted = JointCommand(0.0, 0.0, 0.0, 0.0, goal + float(rng.uniform(-0.5, 0.5)) * (tick % 200 < 100), 0.03)
        passed = gate(state, wanted, limits, 0.02, lambda command: (0.0, 0.1, 0.1))
        pulses_us(passed.command, bus.servos)  # raises past the servo's travel
        state = passed.state
        ends.append(degrees(passed.command.joint5_rad))
    assert max(ends) == pytest.approx(min(180.0, 180.0 * scale), abs=1e-6)
    assert min(ends) == pytest.approx(max(-90.0, -90.0 * scale), abs=1e-6)


def test_the_usual_servos_have_the_arms_own_limits_bit_for_bit() -> None:
    assert travel.limits_of(BusConfig()) == DOFBOT_LIMITS
    assert travel.limits_of(BusConfig(driver="dofbot_board")) == DOFBOT_LIMITS


def test_joint_5_of_the_vendors_board_is_clipped_as_well() -> None:
    plain = BusConfig(driver="dofbot_board")
    short = msgspec.structs.replace(plain.board.servos[4], max_raw=3640)
    bus = msgspec.structs.replace(
        plain, board=msgspec.structs.replace(plain.board, servos=(*plain.board.servos[:4], short, plain.board.servos[5]))
    )
    travel.check(bus)
    high_rad = travel.limits_of(bus).position_max[4]
    assert 174.0 < degrees(high_rad) < 176.0
    assert counts(JointCommand(0.0, 0.0, 0.0, 0.0, high_rad, 0.03), bus.board.servos)[4] == 3640
    with pytest.raises(BusError, match="joint5"):
        counts(JointCommand(0.0, 0.0, 0.0, 0.0, high_rad + 0.02, 0.03), bus.board.servos)


@pytest.mark.parametrize(("joint", "scale"), [(4, 0.94), (2, 0.80)])
def test_a_servo_that_turns_far_too_little_is_still_refused(joint: int, scale: float) -> None:
    with pytest.raises(ConfigError, match=rf"bus.servos\[{joint}\]"):
        travel.check(_scaled(scale, joint))
