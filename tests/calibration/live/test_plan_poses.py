"""Planned poses: safe, varied, and worth what they promise."""

import numpy as np
import pytest

from calibration.arm import placements
from calibration.live import plan_poses
from calibration.simulated import arm as simulated_arm
from edge import kinematics
from edge.errors import CalibrationError
from edge.safety import DOFBOT_LIMITS


def _all(plan):
    return np.vstack((plan.calibrate_rad, plan.held_out_rad))


def test_a_plan_has_eight_down_twelve_tilted_and_eight_to_judge_by(plan):
    tilt = np.abs(np.degrees(plan.calibrate_rad[:, 1:4].sum(axis=1)))
    assert (tilt[:8] < 1e-6).all()
    assert (tilt[8:] > 1e-6).all()
    assert np.ptp(tilt) > 20.0
    assert plan.held_out_rad.shape == (8, 5)
    assert len({tuple(q) for q in _all(plan).round(6)}) == 28


@pytest.mark.parametrize("offset_rad", [0.0, -plan_poses.APPROACH_RAD])
def test_poses_and_where_they_are_approached_from_are_inside_every_limit(plan, offset_rad):
    for joints in _all(plan) + offset_rad:
        assert kinematics.within_limits(tuple(joints))
        tool = kinematics.tool_in_table_m(tuple(joints), simulated_arm.MOUNT)
        assert all(
            low <= at <= high
            for low, at, high in zip(DOFBOT_LIMITS.tool_min_in_table_m, tool, DOFBOT_LIMITS.tool_max_in_table_m, strict=True)
        )
        camera = kinematics.transform_tool_to_table(tuple(joints), simulated_arm.MOUNT) @ placements.CAMERA_ON_TOOL
        assert camera[2, 3] >= plan_poses.CAMERA_ABOVE_TABLE_M
        assert tool[2] >= plan_poses.TOOL_ABOVE_TABLE_M


def test_every_joint_is_approached_from_below(plan):
    assert (plan_poses.approach_from(_all(plan)) < _all(plan)).all()


def test_the_board_is_in_the_picture(plan):
    assert plan_poses.sees_board(simulated_arm.SCENE, _all(plan)).all()


def test_planned_poses_tell_more_than_drawn_ones(plan):
    drawn = plan_poses.slanted(simulated_arm.SCENE, 20, np.random.default_rng(5))
    random, planned = (plan_poses.advise(simulated_arm.SCENE, q, plan.held_out_rad).expected for q in (drawn, plan.calibrate_rad))
    assert planned.hand_eye_m < random.hand_eye_m
    assert planned.zeros_rad < random.zeros_rad


def test_straight_down_alone_is_never_enough_and_a_tilted_pose_is_asked_for(plan):
    advice = plan_poses.advise(simulated_arm.SCENE, np.vstack((plan.calibrate_rad[:8],) * 5), _all(plan))
    assert not advice.enough
    assert advice.expected.hand_eye_m > 0.005
    assert abs(np.degrees(advice.next_rad[1:4].sum())) > 20.0


def test_sigma_shrinks_with_each_pose_until_it_is_enough(plan):
    told = [plan_poses.advise(simulated_arm.SCENE, plan.calibrate_rad[:count], plan.held_out_rad) for count in (8, 11, 14, 20)]
    assert all(one.expected.hand_eye_m > other.expected.hand_eye_m for one, other in zip(told, told[1:], strict=False))
    assert [one.enough for one in told][0::3] == [False, True]


def test_the_expected_sigma_is_what_the_estimate_then_finds(plan, calibrated):
    sigma_m = np.sqrt(np.trace(calibrated.found.covariance[3:6, 3:6]))
    assert sigma_m == pytest.approx(plan.expected.hand_eye_m, rel=0.6)


def test_a_board_out_of_sight_is_refused():
    board = simulated_arm.NOMINAL.board.copy()
    board[0, 3] += 0.5
    scene = simulated_arm.SCENE._replace(state=simulated_arm.NOMINAL._replace(board=board))
    with pytest.raises(CalibrationError, match="lay it flat in front of the arm"):
        plan_poses.plan(scene)
