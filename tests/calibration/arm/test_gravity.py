"""What gravity asks of the servos: the URDF's masses as PyBullet has them, and what is left of it with the tool straight down."""

import numpy as np
import pytest

import urdf
from calibration import hand_eye
from calibration.arm import gravity, placements
from calibration.arm.model import ServoArm, inverse
from calibration.simulated import arm as simulated_arm
from edge import kinematics, robot
from edge.messages import ToolPose

HANGING, STANDING = kinematics.Mount(0.388, True), kinematics.Mount(0.0, False)


def _joints(n):
    return np.random.default_rng(0).uniform(robot.POSITION_MIN_RAD, robot.POSITION_MAX_RAD, (n, 5))


def test_the_torque_is_that_of_a_physics_engine():
    bullet = pytest.importorskip("pybullet")
    client = bullet.connect(bullet.DIRECT)
    try:
        body = bullet.loadURDF(str(urdf.DOFBOT), useFixedBase=True, flags=bullet.URDF_USE_INERTIA_FROM_FILE, physicsClientId=client)
        bullet.setGravity(0.0, 0.0, -gravity.GRAVITY_M_S2, physicsClientId=client)
        infos = [bullet.getJointInfo(body, i, physicsClientId=client) for i in range(bullet.getNumJoints(body, physicsClientId=client))]
        names = [info[1].decode() for info in infos if info[2] != bullet.JOINT_FIXED]
        columns = [names.index(f"joint{number}") for number in range(1, 6)]
        joints, holding = _joints(200), np.zeros((200, 5))
        for row, angles in enumerate(joints):
            every = np.zeros(len(names))
            every[columns] = angles
            still = [0.0] * len(names)
            found = bullet.calculateInverseDynamics(body, every.tolist(), still, still, physicsClientId=client)
            holding[row] = np.array(found)[columns]
    finally:
        bullet.disconnect(client)
    found = gravity.torque_nm(joints, STANDING)
    assert np.abs(found + holding).max() < 0.03  # the camera and the gripper's servo, beside the arm's line
    assert np.abs(found).max() > 0.8


def test_a_hanging_arm_is_pulled_straight_and_a_standing_one_over():
    ahead = np.radians([[0.0, 30.0, 10.0, 10.0, 0.0]])
    assert (gravity.torque_nm(ahead, HANGING)[0, 1:4] < 0.0).all()
    assert (gravity.torque_nm(ahead, STANDING)[0, 1:4] > 0.0).all()


@pytest.mark.parametrize("mount", [HANGING, STANDING])
def test_straight_down_zero_and_scale_take_what_they_can_of_the_load(mount):
    down = gravity.straight_down_rad(mount)
    left = gravity.load_nm(down, mount)
    assert np.abs(left.mean(axis=0)).max() < 1e-12
    assert np.abs(((down - down.mean(axis=0)) * left).sum(axis=0)).max() < 1e-9
    assert left.std(axis=0).max() < 0.5 * gravity.torque_nm(down, mount).std(axis=0).max()
    assert all(kinematics.tool_pose(tuple(q), mount).tilt_rad == pytest.approx(0.0, abs=1e-9) for q in down[::20])


def test_where_the_tool_never_points_down_the_load_is_counted_from_the_arm_standing_up():
    far = kinematics.Mount(0.9, True)
    np.testing.assert_allclose(gravity.load_nm(_joints(3), far), gravity.torque_nm(_joints(3), far))
    assert kinematics.branches(ToolPose(0.0, 0.1, 0.05, 0.0, 0.0), far) == []


def test_compliance_turns_a_joint_by_its_load():
    joints, compliance = _joints(5), np.array([0.0, 0.01, 0.02, 0.03, 0.0])
    ours = ServoArm(joints, HANGING).chain(np.zeros(5), np.zeros(5), compliance).transform_flange_to_table
    turned = ServoArm(joints + compliance * gravity.load_nm(joints, HANGING), HANGING).chain(np.zeros(5), np.zeros(5))
    np.testing.assert_allclose(ours, turned.transform_flange_to_table, atol=1e-14)


def test_an_arm_that_sags_is_calibrated_within_its_sigma_and_its_compliance_found(plan):
    """Without the compliance the zeros are 2 σ and more off, and the σ says nothing of it."""
    errors = simulated_arm.Errors(gauss_deg=0.1, compliance_rad_per_nm=0.03)
    scores, found = [], []
    for seed in (1, 2, 3):
        draws = np.random.default_rng(seed)
        one = simulated_arm.robot(draws, errors)
        views = simulated_arm.take_pictures(one, plan.calibrate_rad, draws)
        estimate = hand_eye.estimate(views, simulated_arm.POINTS_M, simulated_arm.lens_as_told(one), guess=placements.CAMERA_ON_TOOL)
        sigma, truth = np.sqrt(np.diag(estimate.covariance)), one.in_gauge()
        scores += ((estimate.state.zeros_rad - truth.zeros_rad)[1:4] / sigma[13:16]).tolist()
        scores += ((estimate.state.compliance - truth.compliance)[1:4] / sigma[23:26]).tolist()
        shift = inverse(truth.hand_eye) @ estimate.state.hand_eye
        assert np.linalg.norm(shift[:3, 3]) < 0.0006
        found.append(estimate.state.compliance[1])
    assert 0.4 < np.sqrt(np.mean(np.square(scores))) < 1.6
    assert np.mean(found) == pytest.approx(0.03, abs=0.006)
