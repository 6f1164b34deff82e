"""The model from joints to pixels: the same arm as the runtime's, with true derivatives."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibration import lens
from calibration.arm import model
from edge import kinematics, robot
from edge.errors import CalibrationError
from edge.messages import Intrinsics

LENS = lens.lens_of(Intrinsics(640, 480, 610.0, 612.0, 318.0, 243.0), (0.05, -0.1, 0.001, -0.002, 0.02))
MOUNTS = [kinematics.Mount(0.388, True), kinematics.Mount(0.0, False)]
POINTS = np.array([[x, y, 0.0] for y in (0.0, 0.05) for x in (0.0, 0.05, 0.1)])


def _joints(n, seed=0):
    return np.random.default_rng(seed).uniform(robot.POSITION_MIN_RAD, robot.POSITION_MAX_RAD, (n, 5))


def _pose(rng, turn_rad, shift_m):
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = model.rotation(rng.normal(0, turn_rad, 3)), rng.normal(0, shift_m, 3)
    return pose


def _scene(camera, n=3):
    """A rig in which every board point is in front of the camera."""
    rng = np.random.default_rng(4)
    arm = model.ServoArm(_joints(n) * 0.05, MOUNTS[0], camera)
    hand_eye, board = _pose(rng, 0.2, 0.05), _pose(rng, 0.3, 0.05)
    zeros, scales = rng.normal(0, 0.03, 5), rng.normal(0, 0.02, 5)
    state = model.State(hand_eye, board, zeros, scales, LENS)
    flange = arm.chain(zeros, scales).transform_flange_to_table[0]
    ahead = np.eye(4)
    ahead[:3, :3], ahead[2, 3] = model.rotation(np.array([0.3, 0.2, 0.5])), 0.45
    board = (np.linalg.inv(flange) if camera == "fixed" else flange) @ hand_eye @ ahead
    return state._replace(board=board), arm


@pytest.mark.parametrize("mount", MOUNTS)
def test_without_errors_the_flange_is_the_tool_of_the_runtime(mount):
    joints = _joints(50)
    ours = model.ServoArm(joints, mount).chain(np.zeros(5), np.zeros(5)).transform_flange_to_table
    theirs = [kinematics.transform_tool_to_table(tuple(q), mount) for q in joints]
    np.testing.assert_allclose(ours, theirs, atol=1e-14)


def test_zero_and_scale_turn_a_joint_as_documented():
    joints, zeros, scales = _joints(5), np.full(5, 0.02), np.full(5, -0.03)
    ours = model.ServoArm(joints, MOUNTS[0]).chain(zeros, scales).transform_flange_to_table
    theirs = [kinematics.transform_tool_to_table(tuple(0.02 + 0.97 * q), MOUNTS[0]) for q in joints]
    np.testing.assert_allclose(ours, theirs, atol=1e-14)


def test_a_camera_before_joint_5_does_not_see_it_turn():
    joints = _joints(5)
    turned = joints + np.array([0, 0, 0, 0, 0.4])
    one, other = (model.ServoArm(q, MOUNTS[0], "forearm").chain(np.zeros(5), np.zeros(5)) for q in (joints, turned))
    np.testing.assert_array_equal(one.transform_flange_to_table, other.transform_flange_to_table)
    assert not one.axis[:, 4].any()


@pytest.mark.parametrize("camera", ["wrist", "forearm", "fixed"])
def test_derivatives_by_the_state_are_those_of_finite_differences(camera):
    state, arm = _scene(camera)
    found = model.predict(state, arm, POINTS)
    names = model.state_names(arm)
    assert found.by_state.shape[-1] == len(names)
    for column, name in enumerate(names):
        step = np.zeros(len(names))
        step[column] = 1e-3 if name in ("fx", "fy", "cx", "cy") else 1e-6
        plus, minus = (model.predict(model.moved(state, sign * step, 5), arm, POINTS).pixels for sign in (1, -1))
        np.testing.assert_allclose(found.by_state[..., column], (plus - minus) / (2 * step[column]), rtol=1e-5, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("fixed", [False, True])
def test_derivatives_of_a_posed_arm_are_those_of_finite_differences(fixed):
    state, servo = _scene("fixed" if fixed else "wrist")
    poses = servo.chain(state.zeros_rad, state.scales).transform_flange_to_table
    found = model.predict(state, model.PosedArm(poses, fixed), POINTS).by_joint
    for joint in range(6):
        ends = []
        for sign in (1e-6, -1e-6):
            nudged = poses.copy()
            if joint < 3:
                nudged[:, :3, :3] = model.rotation(sign * np.eye(3)[joint]) @ nudged[:, :3, :3]
            else:
                nudged[:, joint - 3, 3] += sign
            ends.append(model.predict(state, model.PosedArm(nudged, fixed), POINTS).pixels)
        np.testing.assert_allclose(found[..., joint], (ends[0] - ends[1]) / 2e-6, rtol=1e-5, atol=1e-5)


def test_a_posed_arm_sees_what_the_servo_arm_sees():
    state, arm = _scene("wrist")
    poses = arm.chain(state.zeros_rad, state.scales).transform_flange_to_table
    posed = model.predict(state, model.PosedArm(poses), POINTS)
    np.testing.assert_allclose(posed.pixels, model.predict(state, arm, POINTS).pixels)


@given(st.floats(-0.35, 0.35), st.floats(-0.3, 0.3))
def test_rays_undo_the_projection(x, y):
    pixels, _, _ = lens.project(np.array([[x, y, 1.0]]) * 0.3, LENS)
    np.testing.assert_allclose(lens.rays(pixels, LENS), [[x, y]], atol=1e-11)


def test_a_lens_that_cannot_be_undone_is_refused():
    with pytest.raises(CalibrationError, match="calibrate the lens again"):
        lens.rays(np.array([[0.0, 0.0]]), lens.lens_of(Intrinsics(640, 480, 300.0, 300.0, 320.0, 240.0), (-2.0, 0, 0, 0, 0)))


def test_projection_agrees_with_opencv():
    cv2 = pytest.importorskip("cv2")
    points = np.random.default_rng(0).uniform((-0.1, -0.1, 0.2), (0.1, 0.1, 0.4), (20, 3))
    matrix = np.array([[LENS[0], 0, LENS[2]], [0, LENS[1], LENS[3]], [0, 0, 1.0]])
    theirs, _ = cv2.projectPoints(points, np.zeros(3), np.zeros(3), matrix, LENS[4:])
    np.testing.assert_allclose(lens.project(points, LENS)[0], theirs.reshape(-1, 2), atol=1e-9)
