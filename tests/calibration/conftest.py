"""One plan and one arm that was calibrated, for all tests here: planning and solving take half a second each."""

from typing import NamedTuple

import numpy as np
import pytest

from calibration import hand_eye
from calibration.arm import placements
from calibration.arm.model import Views
from calibration.live import plan_poses
from calibration.simulated import arm as simulated_arm


class Calibrated(NamedTuple):
    robot: simulated_arm.Robot
    views: Views
    held_out: Views
    found: hand_eye.Estimate


@pytest.fixture(scope="session")
def plan():
    return plan_poses.plan(simulated_arm.SCENE)


@pytest.fixture(scope="session")
def calibrated(plan):
    draws = np.random.default_rng(2)
    robot = simulated_arm.robot(draws, simulated_arm.Errors())
    views, held_out = (simulated_arm.take_pictures(robot, q, draws) for q in (plan.calibrate_rad, plan.held_out_rad))
    views.corners_px[[4, 15]] = views.corners_px[[4, 15], ::-1]  # ids that run backwards
    found = hand_eye.estimate(views, simulated_arm.POINTS_M, simulated_arm.LENS, held_out=held_out, guess=placements.CAMERA_ON_TOOL)
    return Calibrated(robot, views, held_out, found)
