"""Hand-eye calibration: near the truth, honest about it, indifferent to what must not matter, and never silently wrong."""

from pathlib import Path

import msgspec
import numpy as np
import pytest

from calibration import gls, hand_eye, observability
from calibration.arm import closed_form, placements, posed
from calibration.arm.model import PosedArm, ServoArm, State, inverse, moved, rotation
from calibration.live import plan_poses
from calibration.simulated import arm as simulated_arm
from calibration.simulated.arm import LENS, POINTS_M
from edge import calibration
from edge.errors import CalibrationError


def _apart(one, other):
    turn = closed_form.rotation_vectors((one @ inverse(other))[None, :3, :3])[0]
    return np.linalg.norm((one - other)[:3, 3]), np.degrees(np.linalg.norm(turn))


def _estimate(views, **options):
    return hand_eye.estimate(views, POINTS_M, LENS, **options)


def _pictures(joints, seed=0, camera="wrist"):
    draws = np.random.default_rng(seed)
    return simulated_arm.take_pictures(simulated_arm.robot(draws, simulated_arm.Errors(), camera), joints, draws)


def test_the_hand_eye_is_found_although_every_zero_is_off(calibrated):
    shift_m, turn_deg = _apart(calibrated.found.state.hand_eye, calibrated.robot.in_gauge().hand_eye)
    assert shift_m < 0.6e-3
    assert turn_deg < 0.15
    assert calibrated.found.method == "gls"
    assert calibrated.found.passed


@pytest.mark.parametrize(("seed", "images", "luck"), [(149, 20, True), (67, 20, True), (105, 14, False), (16, 14, False)])
def test_a_good_arm_is_not_refused_by_bad_luck(plan, seed, images, luck):
    """Of 300 arms four had eight held-out images that praised the other method, four of 14 images only a large error on them."""
    draws = np.random.default_rng((seed, 77))
    robot = simulated_arm.robot(draws, simulated_arm.Errors())
    views, held_out = (simulated_arm.take_pictures(robot, q, draws) for q in (plan.calibrate_rad[:images], plan.held_out_rad))
    found = _estimate(views, held_out=held_out, guess=placements.CAMERA_ON_TOOL)
    assert found.passed
    assert found.method == "gls"
    assert _apart(found.state.hand_eye, robot.in_gauge().hand_eye)[0] < 1.2e-3
    assert any("over pixels has the smaller held-out error and is not used: its hand-eye" in line for line in found.warnings) == luck


@pytest.mark.parametrize("seed", range(3))
def test_three_images_of_each_pose_are_not_judged_by_each_other(plan, seed):
    """Bundle adjustment over pixels then had the smaller error on each fifth image, was used, and was off by 4 mm."""
    draws = np.random.default_rng((seed, 5))
    robot = simulated_arm.robot(draws, simulated_arm.Errors())
    once = simulated_arm.take_pictures(robot, plan.calibrate_rad[[0, 1, 2, 3, 8, 9, 10, 11]], draws)
    views = once.take(np.repeat(np.arange(8), 3))
    noise_px = draws.normal(0.0, 0.2, views.corners_px.shape)
    views = views._replace(corners_px=views.corners_px + noise_px, names=tuple(f"image {n}" for n in range(24)))
    found = _estimate(views, guess=placements.CAMERA_ON_TOOL)
    assert found.method == "gls"
    assert _apart(found.state.hand_eye, robot.in_gauge().hand_eye)[0] < 2e-3


def test_images_of_poses_that_were_estimated_from_are_no_verdict(calibrated):
    names = tuple(f"again {n}" for n in range(8))
    again = calibrated.views.take(np.arange(8))._replace(names=names)
    with pytest.raises(CalibrationError, match=r"0 of 8 held-out images can be used \(again . is of a pose that .* at least 3"):
        _estimate(calibrated.views, held_out=again)


def test_servo_zeros_are_found_to_a_fraction_of_a_degree(calibrated):
    truth = calibrated.robot.in_gauge()
    assert np.degrees(np.abs(calibrated.found.state.zeros_rad - truth.zeros_rad)).max() < 0.6
    assert np.degrees(np.abs(truth.zeros_rad)).max() > 1.0


def test_the_noise_of_servos_and_corners_is_found(calibrated):
    assert np.degrees(calibrated.found.noise.joint).min() > 0.15
    assert np.degrees(calibrated.found.noise.joint).max() < 0.5
    assert calibrated.found.noise.corner_px == pytest.approx(0.2, rel=0.1)


def test_images_with_reversed_ids_are_named(calibrated):
    assert {"image 4", "image 15"} <= {one.name for one in calibrated.found.rejected}
    assert not {"image 4", "image 15"} & set(calibrated.found.used)


def test_the_part_for_the_calibration_file_is_saved_with_its_sigmas(calibrated, tmp_path):
    parts = hand_eye.parts(calibrated.found, "wrist", "123", "dofbot calibrate handeye")
    path = tmp_path / "calibration.json"
    calibration.save(path, calibration.Calibration(calibration.SCHEMA_VERSION, "ab", 0.388, True, "pca9685", **parts))
    assert calibration.load(path).hand_eye == msgspec.json.decode(msgspec.json.encode(parts["hand_eye"]), type=calibration.HandEye)
    assert len(parts["hand_eye"].made.sigma) == 6


def test_neither_the_order_of_the_images_nor_draws_made_elsewhere_change_anything(calibrated):
    np.random.seed(7)  # noqa: NPY002
    order = np.random.default_rng(1).permutation(len(calibrated.views.names))
    found = _estimate(calibrated.views.take(order), held_out=calibrated.held_out, guess=placements.CAMERA_ON_TOOL)
    np.testing.assert_array_equal(found.state.hand_eye, calibrated.found.state.hand_eye)
    np.testing.assert_array_equal(found.covariance, calibrated.found.covariance)
    assert found.rejected == calibrated.found.rejected


def test_a_camera_before_joint_5_is_calibrated_and_tells_nothing_of_joint_5():
    draws = np.random.default_rng(0)
    robot = simulated_arm.robot(draws, simulated_arm.Errors(), "forearm")
    scene = simulated_arm.SCENE._replace(camera="forearm")
    joints = np.vstack((plan_poses.straight_down(scene, 6, draws), plan_poses.slanted(scene, 18, draws)))
    views = simulated_arm.take_pictures(robot, joints, draws)
    found = _estimate(views, guess=placements.CAMERA_ON_TOOL)
    shift_m, turn_deg = _apart(found.gls.state.hand_eye, robot.in_gauge().hand_eye)
    assert shift_m < 2e-3
    assert turn_deg < 0.3
    assert not {"zero joint4, deg", "zero joint5, deg", "scale joint5, %"} & set(found.sigma())


def test_a_fixed_camera_sees_the_board_that_the_tool_holds():
    draws = np.random.default_rng(1)
    middle = np.array([[0.2, 0.4, 0.6, 0.5, 0.3]])
    tool = ServoArm(middle, simulated_arm.MOUNT, "fixed").chain(np.zeros(5), np.zeros(5)).transform_flange_to_table[0]
    board, seen = np.eye(4), np.eye(4)
    board[:3, 3], seen[:3, 3] = (-0.06, -0.04, 0.02), (-0.06, -0.04, 0.4)
    told = State(tool @ board @ inverse(seen), board, np.zeros(5), np.zeros(5), LENS)
    step = np.concatenate((draws.normal(0, 0.01, 12), draws.normal(0, 0.03, 5), draws.normal(0, 0.01, 5), np.zeros(6)))
    robot = simulated_arm.Robot(moved(told, step, 5), np.zeros(5), simulated_arm.Errors(), "fixed")
    joints = middle + draws.uniform(-0.5, 0.5, (80, 5))
    views = simulated_arm.take_pictures(robot, joints, draws)
    views = views.take(np.flatnonzero(np.isfinite(views.corners_px[..., 0]).all(axis=1))[:20])
    found = _estimate(views)
    shift_m, turn_deg = _apart(found.gls.state.hand_eye, robot.in_gauge().hand_eye)
    assert shift_m < 4e-3
    assert turn_deg < 0.5
    sigma = found.sigma()
    assert shift_m < 3e-3 * np.linalg.norm([sigma[f"hand-eye {axis}, mm"] for axis in "xyz"])


def _solved(views, points_m, start, noise=hand_eye.NOISE):
    return gls.solve(
        hand_eye._problem(views, points_m, start, hand_eye.LENS_SIGMA, True)._replace(noise=noise), start, np.ones(len(views.names))
    )


def _clean(calibrated):
    return calibrated.views.take(np.flatnonzero(np.isin(calibrated.views.names, calibrated.found.used)))


def test_a_board_frame_drawn_elsewhere_moves_the_board_alone(calibrated):
    frame = np.eye(4)
    frame[:3, :3], frame[:3, 3] = rotation(np.array([0.0, 0.0, 0.7])), (0.03, -0.02, 0.0)
    views, start = _clean(calibrated), calibrated.found.gls.state._replace(zeros_rad=np.zeros(5), scales=np.zeros(5), lens=LENS)
    here = _solved(views, POINTS_M, start)
    there = _solved(views, POINTS_M @ frame[:3, :3].T + frame[:3, 3], start._replace(board=start.board @ inverse(frame)))
    np.testing.assert_allclose(there.state.hand_eye, here.state.hand_eye, atol=1e-8)
    np.testing.assert_allclose(there.state.board @ frame, here.state.board, atol=1e-8)
    np.testing.assert_allclose(there.noise.joint, here.noise.joint, rtol=1e-6)


def test_millimetres_in_millimetres_out(calibrated):
    views = _clean(calibrated)
    poses = views.arm.chain(np.zeros(5), np.zeros(5)).transform_flange_to_table
    told = State(calibrated.found.closed_form, calibrated.found.state.board, np.zeros(6), np.zeros(6), LENS)

    def solved(unit):
        arm = PosedArm(_scaled(poses, unit))
        start = told._replace(hand_eye=_scaled(told.hand_eye, unit), board=_scaled(told.board, unit))
        noise = hand_eye.POSE_NOISE._replace(joint=hand_eye.POSE_NOISE.joint * (1.0, unit))
        return _solved(views._replace(arm=arm), POINTS_M * unit, start, noise).state.hand_eye

    np.testing.assert_allclose(_scaled(solved(1000.0), 1e-3), solved(1.0), atol=1e-8)


def _scaled(pose, unit):
    result = pose.copy()
    result[..., :3, 3] *= unit
    return result


def test_sigmas_are_honest(plan):
    """The full count is in tests/bench/hand_eye.py; here enough to find a σ that is off by half."""
    scores = []
    for seed in range(4):
        draws = np.random.default_rng(seed)
        robot = simulated_arm.robot(draws, simulated_arm.Errors())
        views = simulated_arm.take_pictures(robot, plan.calibrate_rad, draws)
        views = views.take(np.flatnonzero(np.isfinite(views.corners_px[..., 0]).sum(axis=1) >= 12))
        truth = robot.in_gauge()
        fit = _solved(views, POINTS_M, truth._replace(zeros_rad=np.zeros(5), scales=np.zeros(5)))
        sigma = np.sqrt(np.diag(fit.covariance))
        error = np.concatenate([(fit.state.hand_eye - truth.hand_eye)[:3, 3], fit.state.zeros_rad[1:4] - truth.zeros_rad[1:4]])
        scores.append(error / sigma[[3, 4, 5, 13, 14, 15]])
    assert 0.6 < np.sqrt(np.mean(np.square(scores))) < 1.5


def _down_only(plan):
    return np.vstack((plan.calibrate_rad[:8], plan.held_out_rad))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_down_only, "hand-eye z and board z cannot be told apart: every pose points straight down; add two tilted by 20°"),
        (lambda plan: plan.calibrate_rad * (0, 1, 1, 1, 1), "scale joint1 cannot be told at all; .*joint 1 turns by 0° only"),
        (lambda plan: plan.calibrate_rad * (1, 1, 1, 1, 0), "zero joint4.*cannot be told apart: joint 5 rolls by 0° only"),
    ],
)
def test_poses_that_tell_too_little_are_refused_in_words(plan, change, said):
    joints = change(plan)
    arm = ServoArm(joints, simulated_arm.MOUNT)
    seen = np.ones((len(joints), len(POINTS_M)), dtype=bool)
    with pytest.raises(CalibrationError, match=said):
        observability.require(arm, simulated_arm.NOMINAL, POINTS_M, seen)


def test_the_estimate_itself_refuses_pictures_from_straight_above(plan):
    with pytest.raises(CalibrationError, match="hand-eye z and board z cannot be told apart"):
        _estimate(_pictures(_down_only(plan)))


def test_the_plan_leaves_nothing_open(plan):
    arm = ServoArm(plan.calibrate_rad, simulated_arm.MOUNT)
    assert not observability.unknowns(arm, simulated_arm.NOMINAL, POINTS_M, np.ones((20, len(POINTS_M)), dtype=bool))


def test_three_pictures_are_too_few(plan):
    with pytest.raises(CalibrationError, match="expected at least 8"):
        _estimate(_pictures(plan.calibrate_rad[8:11]))


def _renamed(order):
    def change(views):
        return views._replace(corners_px=views.corners_px.reshape(-1, 4, 6, 2)[:, *order].reshape(-1, 24, 2))

    return change


def _swapped_sides(views):
    return views._replace(corners_px=views.corners_px.reshape(-1, 4, 6, 2).swapaxes(1, 2).reshape(-1, 24, 2))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_swapped_sides, "this is another board"),
        (_renamed((slice(None), slice(None, None, -1))), "seen from behind"),
    ],
)
def test_another_board_than_said_is_refused(calibrated, change, said):
    with pytest.raises(CalibrationError, match=said):
        _estimate(change(calibrated.held_out))


@pytest.mark.parametrize("usable", [0, 2])
def test_a_verdict_from_fewer_than_three_images_is_none(calibrated, usable):
    corners = calibrated.held_out.corners_px.copy()
    corners[usable:, 8:] = np.nan
    with pytest.raises(CalibrationError, match=f"{usable} of 8 held-out images can be used .*shows . corners, expected 12.*at least 3"):
        _estimate(calibrated.views, held_out=calibrated.held_out._replace(corners_px=corners))


def test_a_board_of_fewer_corners_than_an_image_should_show_can_be_judged_by(plan):
    few = np.array([7, 8, 9, 10, 13, 14, 15, 16])  # in the middle, so that most images show all
    views, held_out = (
        part._replace(corners_px=part.corners_px[:, few]) for part in map(_pictures, (plan.calibrate_rad, plan.held_out_rad))
    )
    found = hand_eye.estimate(views, POINTS_M[few], LENS, held_out=held_out, guess=placements.CAMERA_ON_TOOL)
    assert len(found.held_out.gls_m) >= 3


def test_ids_that_run_backwards_everywhere_only_turn_the_board(calibrated):
    views = _clean(calibrated)
    found = _estimate(views._replace(corners_px=views.corners_px[:, ::-1]))
    shift_m, turn_deg = _apart(found.state.hand_eye, calibrated.robot.in_gauge().hand_eye)
    assert shift_m < 0.6e-3
    assert turn_deg < 0.15


def test_a_board_that_was_moved_halfway_is_refused(plan):
    draws = np.random.default_rng(2)
    robot = simulated_arm.robot(draws, simulated_arm.Errors())
    views = simulated_arm.take_pictures(robot, plan.calibrate_rad, draws)
    board = robot.truth.board.copy()
    board[0, 3] += 0.04
    moved = simulated_arm.take_pictures(robot._replace(truth=robot.truth._replace(board=board)), plan.calibrate_rad, draws)
    views.corners_px[::2] = moved.corners_px[::2]
    try:
        passed = _estimate(views).passed
    except CalibrationError:
        passed = False
    assert not passed


def _so101():
    path = Path(__file__).parents[3] / "shared" / "data" / "so101" / "samples.yaml"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    numbers = np.array([float(line.split()[-1]) for line in path.read_text().splitlines() if line.split()[-1][-1].isdigit()]).reshape(
        24, 38
    )
    return inverse(numbers[:, 6:22].reshape(-1, 4, 4)), numbers[:, 22:].reshape(-1, 4, 4)


def test_a_real_hobby_arm_is_not_let_pass_in_silence():
    flange, seen = _so101()
    found = hand_eye.estimate(posed.views(PosedArm(flange, fixed_camera=True), seen), posed.POINTS_M, posed.LENS, free_lens=False)
    assert not found.passed


def test_poses_taken_as_they_are_give_the_hand_eye():
    draws = np.random.default_rng(0)
    hand_eye_pose, board = np.eye(4), np.eye(4)
    hand_eye_pose[:3, 3], board[:3, 3] = (0.02, 0.03, 0.05), (0.3, 0.1, 0.0)
    flange = np.tile(np.eye(4), (12, 1, 1))
    flange[:, :3, :3] = closed_form.rotations(draws.normal(0, 0.4, (12, 3)))
    flange[:, :3, 3] = draws.normal((0.3, 0.1, -0.4), 0.05, (12, 3))
    seen = inverse(flange @ hand_eye_pose) @ board
    found = hand_eye.estimate(posed.views(PosedArm(flange), seen), posed.POINTS_M, posed.LENS, free_lens=False)
    np.testing.assert_allclose(found.state.hand_eye, hand_eye_pose, atol=1e-6)
