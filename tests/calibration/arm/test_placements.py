"""A camera on the forearm, or on a stand: planned for, calibrated, written as what it is, and not taken for one on the wrist."""

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest

from calibration import arm_session, boards, hand_eye, observability
from calibration.arm import placements
from calibration.arm.model import ServoArm, inverse
from calibration.live import arm_images, plan_poses, slow_arm
from calibration.simulated import arm as simulated_arm
from calibration.simulated import session as simulated_session
from edge import calibration as files
from edge.buses.servos import joints_deg
from edge.cameras.virtual_camera import mounting_of
from edge.clock import SteppedClock
from edge.config import BusConfig, Config
from edge.errors import CalibrationError, ConfigError
from edge.kinematics import within_limits
from edge.messages import JointCommand
from edge.robot import PARK_RAD
from edge.simulated.arm_errors import ArmErrors
from edge.simulated.emulated_arm import EmulatedArm
from firmware_tools import emulated
from tests.calibration import arm_folders
from tests.calibration.command_line import refusal, run

ELSEWHERE = ["forearm", "fixed"]
PARTS = {"forearm": "forearm_camera", "fixed": "fixed_camera"}


@pytest.fixture(scope="module", params=ELSEWHERE)
def planned(request):
    scene = simulated_arm.scene(request.param)
    return scene, plan_poses.plan(scene)


def _taken(planned, seed=2):
    scene, plan = planned
    draws = np.random.default_rng(seed)
    robot = simulated_arm.robot(draws, simulated_arm.Errors(), scene.camera)
    return robot, *(simulated_arm.take_pictures(robot, q, draws) for q in (plan.calibrate_rad, plan.held_out_rad))


@pytest.fixture
def folder(planned, tmp_path) -> Path:
    _, views, held_out = _taken(planned)
    return arm_folders.put(tmp_path / "images", views, held_out)


def test_the_plan_is_safe_and_leaves_nothing_open(planned):
    scene, plan = planned
    poses = np.vstack((plan.calibrate_rad, plan.held_out_rad))
    assert poses.shape == (28, 5)
    assert len({tuple(q) for q in poses.round(6)}) == 28
    assert plan_poses.is_safe(scene, poses).all()
    assert plan_poses.sees_board(scene, poses).all()
    for joints in np.vstack((poses, plan_poses.approach_from(poses))):
        assert within_limits(tuple(joints))
    seen = np.ones((20, len(scene.points_m)), dtype=bool)
    assert not observability.unknowns(scene.arm(plan.calibrate_rad), scene.state, scene.points_m, seen)
    assert 1e3 * plan.expected.hand_eye_m < 3.0


def test_nearly_every_pose_has_a_way_that_stays_clear(planned):
    scene, plan = planned
    stops, park, without = plan_poses.stops(scene, plan), np.array(PARK_RAD), 0
    assert plan_poses.is_clear(scene, stops).all()
    for goal in stops[1:29]:
        try:
            slow_arm.way(scene, park, plan_poses.approach_from(goal), stops)
        except CalibrationError:
            without += 1
    assert without <= (2 if scene.camera == "fixed" else 0)


def test_a_board_in_the_gripper_stays_over_the_table():
    scene = simulated_arm.scene("fixed")
    plan = plan_poses.plan(scene)
    held = scene.arm(np.vstack((plan.calibrate_rad, plan.held_out_rad))).chain(np.zeros(5), np.zeros(5)).transform_flange_to_table
    corners = np.array([(x, y, 0.0, 1.0) for x in (-0.02, 0.145) for y in (-0.02, 0.095)])
    assert ((held @ scene.state.board @ corners.T)[:, 2] >= plan_poses.TOOL_ABOVE_TABLE_M).all()
    low = plan.calibrate_rad[:1] * (1, 0, 0, 0, 1) + np.radians((0, 60, 0, -60, 0))  # straight down
    assert not plan_poses.is_clear(scene, low).any()


def test_it_is_found_although_every_zero_is_off(planned):
    robot, views, held_out = _taken(planned)
    found = hand_eye.estimate(views, simulated_arm.POINTS_M, simulated_arm.LENS, held_out=held_out, guess=planned[0].state.hand_eye)
    truth = robot.in_gauge()
    assert 1e3 * np.linalg.norm((found.state.hand_eye - truth.hand_eye)[:3, 3]) < 3.0
    assert found.passed
    assert np.degrees(np.abs(found.state.zeros_rad - truth.zeros_rad)).max() < 0.6
    apart = found.state.hand_eye @ inverse(truth.hand_eye)
    assert np.degrees(np.arccos(np.clip((np.trace(apart[:3, :3]) - 1.0) / 2.0, -1.0, 1.0))) < 0.5


def test_it_is_written_in_a_part_of_its_own_and_no_policy_runs_with_it(folder, planned):
    camera = planned[0].camera
    result = run("handeye", "--images", folder, "--camera", camera, "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    written = files.load(folder / "calibration.json")
    assert written.hand_eye is None
    part = getattr(written, PARTS[camera])
    name = f"transform_camera_to_{placements.MOVES_TO[camera]}"
    np.testing.assert_allclose(getattr(part, name), told[name])
    assert part.made.sigma["hand-eye x, mm"] > 0.0
    assert written.dofbot_board.made.sigma["joint2.zero_deg"] > 0.0
    with pytest.raises(ConfigError, match=r"expected it on the wrist.*mount it behind joint 5") as refused:
        mounting_of(written, folder / "calibration.json", None)  # type: ignore[arg-type]
    assert "\n" not in str(refused.value)

    assert run("servos", "--images", folder).exit_code == 0  # the folder knows where its camera was
    other = "wrist" if camera == "fixed" else "fixed"
    assert f"expected --camera {camera}" in refusal(run("handeye", "--images", folder, "--camera", other), ConfigError)


def test_a_camera_that_was_moved_to_another_place_has_one_place_only(folder, planned, tmp_path, calibrated):
    assert run("handeye", "--images", folder, "--camera", planned[0].camera).exit_code == 0
    wrist = arm_folders.put(tmp_path / "wrist", calibrated.views, calibrated.held_out)
    (wrist / "calibration.json").write_bytes((folder / "calibration.json").read_bytes())
    run("handeye", "--images", wrist)
    found = files.load(wrist / "calibration.json")
    assert found.hand_eye is not None
    assert getattr(found, PARTS[planned[0].camera]) is None


def test_pictures_taken_for_another_place_of_the_camera_are_refused(folder):
    before = (folder / "calibration.json").read_bytes()
    assert refusal(run("handeye", "--images", folder), CalibrationError)  # as if it were on the wrist
    assert (folder / "calibration.json").read_bytes() == before


@pytest.mark.parametrize(
    ("camera", "still", "said"),
    [
        ("forearm", 0, "joint 1 turns by 0° only"),
        ("fixed", 0, "joint 1 turns by 0° only"),
        ("fixed", 4, "joint 5 rolls by 0° only"),
    ],
)
def test_poses_that_tell_too_little_are_refused_in_words(camera, still, said):
    scene = simulated_arm.scene(camera)
    joints = plan_poses.plan(scene).calibrate_rad
    joints[:, still] = 0.0
    with pytest.raises(CalibrationError, match=said):
        observability.require(scene.arm(joints), scene.state, scene.points_m, np.ones((20, len(scene.points_m)), dtype=bool))


def test_a_forearm_camera_does_not_ask_for_joint_5_to_roll():
    scene = simulated_arm.scene("forearm")
    joints = plan_poses.plan(scene).calibrate_rad
    joints[:, 4] = 0.0
    seen = np.ones((20, len(scene.points_m)), dtype=bool)
    assert not observability.unknowns(scene.arm(joints), scene.state, scene.points_m, seen)


def test_the_joints_order_is_found_for_a_fixed_camera_too(tmp_path):
    scene = simulated_arm.scene("fixed")
    _, views, _ = _taken((scene, plan_poses.plan(scene)))
    views = views._replace(arm=ServoArm(views.arm.commanded[:, (0, 1, 3, 2, 4)], simulated_arm.MOUNT, "fixed"))
    folder = arm_folders.put(tmp_path / "images", views)
    assert "order joint1, joint2, joint4, joint3, joint5" in refusal(
        run("handeye", "--images", folder, "--camera", "fixed"), CalibrationError
    )


def test_a_board_that_cannot_be_shown_to_the_camera_is_refused():
    scene = simulated_arm.scene("fixed")
    away = scene.state.hand_eye.copy()
    away[1, 3] = 3.0
    away[:3, :3] = away[:3, :3] @ np.diag((1.0, -1.0, -1.0))
    with pytest.raises(CalibrationError, match=r"0\.6 m in front of the base axis"):
        plan_poses.plan(scene._replace(state=scene.state._replace(hand_eye=away)))


def test_a_simulated_folder_knows_where_its_camera_is(planned, tmp_path):
    scene, plan = planned
    few = plan._replace(calibrate_rad=plan.calibrate_rad[:2], held_out_rad=plan.held_out_rad[:0])
    simulated_session.take(tmp_path / "arm", 3, few, simulated_arm.Errors(), lambda name: None, scene.camera)
    assert simulated_session.truth_of(tmp_path / "arm").camera == scene.camera
    assert "other images" in refusal(run("handeye", "--simulate", "--seed", 3, "--images", tmp_path / "arm"), ConfigError)


def test_the_scene_of_a_real_session_is_as_drawn():
    lens = files.Lens("7", arm_folders.LENS, (0.0,) * 5, files.made("test"))
    for camera in ("wrist", *ELSEWHERE):
        where = arm_images.scene(lens, arm_folders.BOARD, simulated_arm.MOUNT, camera)
        drawn = simulated_arm.scene(camera)
        assert where.camera == camera
        np.testing.assert_allclose(where.state.hand_eye, drawn.state.hand_eye)
        middle = where.state.board @ (*where.points_m.mean(axis=0), 1.0)
        np.testing.assert_allclose(middle, drawn.state.board @ (*drawn.points_m.mean(axis=0), 1.0), atol=1e-12)


def test_the_gripper_takes_the_board_before_a_fixed_camera_sees_it(tmp_path, monkeypatch):
    folder, settings = tmp_path / "arm", Config(bus=BusConfig(driver="dofbot_board", i2c="emulated"))
    (tmp_path / "robot.toml").write_text('[bus]\ndriver = "dofbot_board"\ni2c = "emulated"\n')
    arm = EmulatedArm(settings.bus, SteppedClock(), errors=ArmErrors())
    monkeypatch.setattr(emulated, "emulated_arm", lambda config: arm)
    folder.mkdir()
    boards.save(folder / "board.json", arm_folders.BOARD)
    lens = files.Lens("7", arm_folders.LENS, (0.0,) * 5, files.made("test"))
    files.save(folder / "calibration.json", msgspec.structs.replace(files.blank(settings, "ab"), lens=lens))
    arguments = ("handeye", "--live", "--images", folder, "--camera", "fixed", "--config", tmp_path / "robot.toml", "--take", "false")
    result = run(*arguments, typed="y\nthick\n5\n\n\n")
    assert "--take did not work" in refusal(result, CalibrationError)
    assert "hands off the board" in result.stderr
    closed_deg = joints_deg(JointCommand._make((*PARK_RAD, 0.005 - slow_arm.SQUEEZE_M)))[5]
    assert arm.joints_deg()[5] == pytest.approx(closed_deg, abs=1.0)
    assert not any(arm.powered())
    assert arm_session.arm_as_taken(folder / arm_session.NAME, settings, files.load(folder / "calibration.json")).camera == "fixed"
