"""What the tools tell one servo is what the drivers would tell it, and the way back gives the same angle."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.buses.board_counts import counts
from edge.buses.servos import LEAST_DEG, MOST_DEG, command_from_deg, pulses_us
from edge.config import BoardConfig, BoardServoConfig, BusConfig, ServoConfig
from edge.simulated.arm_errors import ArmErrors
from edge.simulated.emulated_arm import EmulatedArm
from firmware_tools.count_line import CountLine
from firmware_tools.pulse_line import PulseLine
from firmware_tools.wires import Wires

DIRECTIONS = st.sampled_from((1, -1))
PLACES = st.tuples(st.integers(0, 5), st.floats(0.0, 1.0))
PWM = st.builds(ServoConfig, st.just(0), st.floats(400, 900), st.floats(2100, 2600), st.floats(260, 300), st.floats(-10, 10), DIRECTIONS)
COUNTED = st.builds(BoardServoConfig, st.just(1), st.floats(1900, 2100), st.floats(11.9, 12.5), DIRECTIONS)


def degrees(place: tuple[int, float]) -> tuple[int, float]:
    """A joint, and an angle within its limits."""
    joint, share = place
    return joint, LEAST_DEG[joint] + share * (MOST_DEG[joint] - LEAST_DEG[joint])


def pose_deg(joint: int, deg: float) -> list[float]:
    return [deg if index == joint else 0.0 for index in range(6)]


@given(PLACES.map(degrees), PWM)
def test_pulses_are_the_drivers(place, one) -> None:
    joint, deg = place
    if joint == 4:  # its range is not about its middle
        one = ServoConfig(0, one.min_us, one.max_us, 300.0, 45.0, one.direction)
    servos = tuple(ServoConfig(channel, one.min_us, one.max_us, one.travel_deg, one.zero_deg, one.direction) for channel in range(6))
    line = PulseLine(BusConfig(servos=servos), None, EmulatedArm(BusConfig()).clock)
    assert line.position(joint, deg) == pytest.approx(pulses_us(command_from_deg(pose_deg(joint, deg)), servos)[joint], abs=0.01)
    assert line.deg(joint, line.position(joint, deg)) == pytest.approx(deg, abs=1e-9)


@given(PLACES.map(degrees), COUNTED)
def test_counts_are_the_drivers(place, one) -> None:
    joint, deg = place
    zero_raw = 1486.0 if joint == 4 and one.direction == 1 else 2600.0 if joint == 4 else one.zero_raw
    servos = tuple(BoardServoConfig(number, zero_raw, one.counts_per_deg, one.direction) for number in range(1, 7))
    config = BusConfig(driver="dofbot_board", board=BoardConfig(servos=servos))
    arm = EmulatedArm(config, errors=ArmErrors())
    line = CountLine(config, Wires(arm.smbus), arm.clock)
    assert line.position(joint, deg) == pytest.approx(counts(command_from_deg(pose_deg(joint, deg)), servos)[joint], abs=0.51)
    assert line.deg(joint, line.position(joint, deg)) == pytest.approx(deg, abs=1e-9)
