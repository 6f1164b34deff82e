"""Servos as the pictures show them: after the correction a joint turns to where it is sent."""

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibration import servo_zeros
from calibration.arm import placements
from calibration.simulated import arm as simulated_arm
from edge import calibration
from edge.buses.board_counts import command_from_counts, counts
from edge.buses.servos import pulses_us
from edge.config import BoardServoConfig, BusConfig, ServoConfig
from edge.messages import JointCommand

SIGNS = (1, 1, 1, 1, 1)


def _joint(servos, joint, angle_rad):
    """The pulse that a joint is sent with."""
    command = [0.0] * 5 + [0.03]
    command[joint] = angle_rad
    return pulses_us(JointCommand(*command), servos)[joint]


@given(st.integers(1, 4), st.floats(-1.0, 1.0))
def test_a_corrected_pwm_servo_gets_the_pulse_at_which_the_joint_stands_there(calibrated, joint, sent_rad):
    bus, state = BusConfig(), calibrated.found.state
    part = servo_zeros.part(bus, calibrated.found, SIGNS, "test")
    stands_rad = state.zeros_rad[joint] + (1.0 + state.scales[joint]) * sent_rad
    assert _joint(part.servos, joint, stands_rad) == pytest.approx(_joint(bus.servos, joint, sent_rad), abs=1e-6)


@given(st.integers(0, 4), st.floats(-1.0, 1.0))
def test_a_corrected_bus_servo_gets_the_counts_at_which_the_joint_stands_there(calibrated, joint, sent_rad):
    bus, state = BusConfig(driver="dofbot_board"), calibrated.found.state
    part = servo_zeros.part(bus, calibrated.found, SIGNS, "test")
    command = [0.0] * 5 + [0.03]
    command[joint] = sent_rad
    raw = counts(JointCommand(*command), bus.board.servos)
    rounded_rad = command_from_counts(raw, bus.board.servos)[joint]
    stands_rad = state.zeros_rad[joint] + (1.0 + state.scales[joint]) * rounded_rad
    assert command_from_counts(raw, part.servos)[joint] == pytest.approx(stands_rad, abs=1e-9)


def test_the_part_says_how_well_each_joint_repeats(calibrated):
    told = servo_zeros.part(BusConfig(), calibrated.found, SIGNS, "test").made.sigma
    assert {"joint2.zero_deg", "joint5.scale", "joint1.repeatability_deg"} <= set(told)
    assert not {"joint1.zero_deg", "joint5.zero_deg"} & set(told)
    assert told["joint3.repeatability_deg"] == pytest.approx(0.3, abs=0.15)


@pytest.mark.parametrize("driver", ["pca9685", "dofbot_board"])
def test_the_part_is_saved_and_loaded(calibrated, driver, tmp_path):
    part = servo_zeros.part(BusConfig(driver=driver), calibrated.found, SIGNS, "dofbot calibrate servos")
    whole = calibration.Calibration(calibration.SCHEMA_VERSION, "ab", 0.388, True, driver)
    calibration.save(tmp_path / "calibration.json", msgspec.structs.replace(whole, **{driver: part}))
    assert getattr(calibration.load(tmp_path / "calibration.json"), driver) == part


def _directions(calibrated, signs, pivots):
    views = servo_zeros.turned(calibrated.views, signs, pivots)
    return servo_zeros.directions(views, simulated_arm.POINTS_M, simulated_arm.LENS, pivots, placements.CAMERA_ON_TOOL)


@pytest.mark.parametrize("signs", [SIGNS, (-1, 1, 1, 1, 1), (1, 1, -1, 1, 1), (1, -1, -1, -1, 1), (1, 1, 1, 1, -1)])
def test_a_servo_that_turns_the_other_way_is_found(calibrated, signs):
    assert _directions(calibrated, signs, servo_zeros.pivots_rad(BusConfig())) == signs


def test_a_servo_that_turns_the_other_way_keeps_its_middle(calibrated):
    signs = (1, 1, -1, 1, 1)
    pwm = servo_zeros.part(BusConfig(), calibrated.found, signs, "test").servos
    board = servo_zeros.part(BusConfig(driver="dofbot_board"), calibrated.found, signs, "test").servos
    assert isinstance(pwm[2], ServoConfig)
    assert isinstance(board[2], BoardServoConfig)
    assert [one.direction for one in pwm] == [1, 1, -1, 1, 1, 1]
    assert board[2].direction == -BusConfig().board.servos[2].direction
    zero_deg = np.degrees(calibrated.found.state.zeros_rad[2])
    assert command_from_counts([2000] * 6, board)[2] == pytest.approx(np.radians(zero_deg))
