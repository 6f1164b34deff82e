"""From the command line: camera and servos from a folder of images and joints; refusals write nothing."""

import json
from pathlib import Path

import numpy as np
import pytest

from calibration.arm import joints_file
from calibration.arm.model import ServoArm
from calibration.live import plan_poses, stills, touches_file
from calibration.simulated import arm as simulated_arm
from calibration.simulated import session as simulated_session
from edge import calibration as files
from edge.config import Config
from edge.errors import CalibrationError, ConfigError
from tests.calibration import arm_folders
from tests.calibration.command_line import refusal, run


@pytest.fixture
def folder(tmp_path, calibrated) -> Path:
    return arm_folders.put(tmp_path / "images", calibrated.views, calibrated.held_out)


def test_handeye_writes_camera_and_servos_with_their_sigma(folder, calibrated):
    result = run("handeye", "--images", folder, "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.output)
    truth = calibrated.robot.in_gauge()
    written = files.load(folder / "calibration.json")
    np.testing.assert_allclose(np.array(written.hand_eye.transform_camera_to_tool)[:3, 3], truth.hand_eye[:3, 3], atol=0.0015)
    assert {check.name for check in written.hand_eye.made.checks} == {check["name"] for check in told["checks"]}
    assert written.dofbot_board.made.sigma["joint2.zero_deg"] > 0.0
    assert sorted(told["left_out"]) == ["a-image-15.png", "a-image-4.png"]
    assert "generalised least squares is used" in told["summary"]
    gives_deg, sigma_deg = told["compliance_deg_per_nm"], told["servo_sigma"]["joint3.compliance_deg_per_nm"]
    assert gives_deg[0] == gives_deg[4] == 0.0
    assert 0.0 < abs(gives_deg[2]) < 4.0 * sigma_deg  # this arm is rigid
    page = (folder / "report.html").read_text()
    assert "bundle adjustment over pixels" in page
    assert "a-image-15.png" in page


def test_the_corrected_servos_turn_where_they_are_sent(folder, calibrated):
    result = run("servos", "--images", folder, "--report", folder / "servos.html")
    assert result.exit_code == 0, result.output
    assert "gives way" in result.output
    page = (folder / "servos.html").read_text()
    assert "Camera on the tool" not in page
    written = files.load(folder / "calibration.json")
    assert written.hand_eye is None
    zero_deg = np.degrees(calibrated.robot.in_gauge().zeros_rad)
    for joint in (1, 2, 3):
        was, servo = Config().bus.board.servos[joint], written.dofbot_board.servos[joint]
        # sent to -zero, the joint is at 0: that is where the corrected servo has its zero
        raw = was.zero_raw + was.direction * -zero_deg[joint] * was.counts_per_deg
        assert abs(servo.zero_raw - raw) / was.counts_per_deg < 0.5


def test_the_same_images_solved_twice_correct_the_servos_once(folder):
    assert run("handeye", "--images", folder).exit_code == 0
    once = files.load(folder / "calibration.json").dofbot_board.servos
    assert run("servos", "--images", folder).exit_code == 0
    assert files.load(folder / "calibration.json").dofbot_board.servos == once


def test_a_folder_that_was_begun_with_other_servos_than_the_configured_ones_is_refused(folder, tmp_path):
    """Else the first call without --config would decide, for ever and without a word, of which servos the result is the correction."""
    config = tmp_path / "robot.toml"
    config.write_text('[bus]\ndriver = "dofbot_board"\n')
    assert run("grid", "--images", folder, "--config", config).exit_code == 0  # keeps the servos, and writes no calibration
    servos = Config().bus.board.servos
    other = ["id", "direction", "zero_raw", "counts_per_deg"]
    rows = [{name: getattr(servo, name) for name in other} for servo in servos]
    rows[2]["direction"] *= -1
    lines = [f"[[bus.board.servos]]\n{chr(10).join(f'{name} = {value}' for name, value in row.items())}" for row in rows]
    config.write_text('[bus]\ndriver = "dofbot_board"\n' + "\n".join(lines))
    before = (folder / "calibration.json").read_bytes()
    message = refusal(run("handeye", "--images", folder, "--config", config), ConfigError)
    assert "arm.json has other servos than are configured" in message
    assert (folder / "calibration.json").read_bytes() == before
    assert run("handeye", "--images", folder).exit_code == 0
    assert run("handeye", "--images", folder, "--config", config).exit_code == 0  # the calibration's are in force now


def test_older_images_solved_again_say_that_they_undo_the_touch_test(folder, tmp_path):
    assert run("servos", "--images", folder).exit_code == 0
    once, path = files.load(folder / "calibration.json").dofbot_board.servos, tmp_path / "touches.csv"
    places = np.array([(x, y) for x in (-80.0, 0.0, 80.0) for y in (60.0, 110.0)])
    turn = np.radians(5.0)
    touches_file.save(path, np.hstack((places, places @ [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]] - places)))
    written = run("grid", "--touch", path, "--calibration", folder / "calibration.json", "--write")
    assert "written to" in written.stdout
    assert files.load(folder / "calibration.json").dofbot_board.servos[0] != once[0]
    assert files.load(folder / "calibration.json").dofbot_board.servos[1:] == once[1:]
    again = run("servos", "--images", folder)
    assert "touch again" in again.stderr
    assert files.load(folder / "calibration.json").dofbot_board.servos == once
    assert "touch again" not in run("servos", "--images", folder).stderr


def test_a_servo_that_turns_the_other_way_is_found_and_corrected(tmp_path, calibrated):
    flipped = [
        part._replace(arm=ServoArm(part.arm.commanded * (1, 1, -1, 1, 1), simulated_arm.MOUNT))
        for part in (calibrated.views, calibrated.held_out)
    ]
    folder = arm_folders.put(tmp_path / "images", *flipped)
    result = run("servos", "--images", folder, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.output)["directions"] == [1, 1, -1, 1, 1]
    assert files.load(folder / "calibration.json").dofbot_board.servos[2].direction == -Config().bus.board.servos[2].direction


def test_joints_in_another_order_are_named_and_nothing_is_written(tmp_path, calibrated):
    order = (0, 1, 3, 2, 4)
    folder = arm_folders.put(tmp_path / "images", arm_folders.reordered(calibrated.views, order))
    before = (folder / "calibration.json").read_bytes()
    message = refusal(run("handeye", "--images", folder), CalibrationError)
    assert "order joint1, joint2, joint4, joint3, joint5" in message
    assert (folder / "calibration.json").read_bytes() == before


def test_too_few_images_and_a_lens_that_is_missing_are_said(tmp_path, calibrated):
    folder = arm_folders.put(tmp_path / "images", calibrated.views.take(np.arange(4)))
    assert "expected at least 8" in refusal(run("handeye", "--images", folder), CalibrationError)
    files.save(folder / "calibration.json", files.Calibration(files.SCHEMA_VERSION, "ab", 0.388, True, "pca9685"))
    assert "no lens" in refusal(run("handeye", "--images", folder), ConfigError)


def test_an_image_without_joints_is_named(folder):
    lines = (folder / "joints.csv").read_text().splitlines()
    (folder / "joints.csv").write_text("\n".join(lines[:1] + lines[2:]))
    assert "a-image-0.png has no row" in refusal(run("handeye", "--images", folder), ConfigError)


def test_a_set_that_is_straight_down_only_is_refused_in_words(tmp_path, calibrated):
    folder = arm_folders.put(tmp_path / "images", calibrated.held_out)
    assert "tilted by 20°" in refusal(run("handeye", "--images", folder), CalibrationError)
    assert files.load(folder / "calibration.json").hand_eye is None


def test_the_grid_by_camera_is_told_in_millimetres_and_drawn(folder, tmp_path):
    picture = tmp_path / "grid.png"
    result = run("grid", "--images", folder, "--plot", picture, "--report", tmp_path / "grid.html", "--json")
    assert result.exit_code == 0, result.output
    assert "Over the table: by camera" in (tmp_path / "grid.html").read_text()
    told = json.loads(result.output)["by camera"]
    assert told["places"] == 8
    assert 0.1 < told["median_mm"] < 4.0
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_map_is_a_png_whatever_its_name_ends_in(folder, tmp_path):
    assert run("grid", "--images", folder, "--plot", tmp_path / "map.old").exit_code == 0
    assert (tmp_path / "map.old").read_bytes().startswith(b"\x89PNG")


def test_a_file_in_place_of_the_folder_is_said(folder, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    common = ("handeye", "--images", tmp_path / "file")
    given = ("--board", folder / "board.json", "--calibration", folder / "calibration.json")
    for options in (("--simulate",), ("--live", "--simulate"), ("--live", "--yes", *given)):
        assert "file is no folder" in refusal(run(*common, *options), ConfigError)


def test_brackets_in_a_name_are_shown_as_they_are(tmp_path, calibrated):
    few = calibrated.views.corners_px.copy()
    few[0, 8:] = np.nan
    names = ("a [old]", *calibrated.views.names[1:])
    folder = arm_folders.put(tmp_path / "arm [new]", calibrated.views._replace(corners_px=few, names=names), calibrated.held_out)
    result = run("handeye", "--images", folder)
    assert result.exit_code == 0, result.output
    assert "a-a-[old].png shows" in result.stdout
    assert "arm [new]/report.html" in result.stdout


def test_the_grid_by_touch_needs_five_crossings_in_millimetres(tmp_path):
    rows = [f"{x},{y},{0.01 * x + 1},{-0.5}" for x in (-60, 0, 60) for y in (60, 120)]
    path = tmp_path / "touches.csv"
    path.write_text("\n".join(["x_mm,y_mm,off_x_mm,off_y_mm", *rows]))
    result = run("grid", "--touch", path, "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.output)["by touch"]
    assert told["shift_mm"] == pytest.approx([1.0, -0.5])
    path.write_text("\n".join(["x_mm,y_mm,off_x_mm,off_y_mm", *rows[:4]]))
    assert "at least 5" in refusal(run("grid", "--touch", path), CalibrationError)
    path.write_text("\n".join(["x_mm,y_mm,off_x_mm,off_y_mm", *(row.replace("-0.5", "-9") for row in rows)]))
    assert "expected at most" in refusal(run("grid", "--touch", path), CalibrationError)
    path.write_text("x,y\n1,2")
    assert "x_mm is missing" in refusal(run("grid", "--touch", path), ConfigError)


def test_a_simulation_is_compared_with_its_truth_and_goes_into_its_own_folder_only(tmp_path, monkeypatch, plan):
    poses = plan._replace(calibrate_rad=plan.calibrate_rad[:2], held_out_rad=plan.held_out_rad[:1])
    simulated_session.take(tmp_path / "arm", 3, poses, simulated_arm.Errors(), lambda name: None)
    truth = simulated_session.truth_of(tmp_path / "arm")
    assert len(list((tmp_path / "arm").glob("*.png"))) == len(truth.tool_in_table_m) == 3
    first = (tmp_path / "arm" / "pose-01.png").read_bytes()
    (tmp_path / "arm" / "pose-01.png").unlink()
    simulated_session.take(tmp_path / "arm", 3, poses, simulated_arm.Errors(), lambda name: None)
    assert (tmp_path / "arm" / "pose-01.png").read_bytes() == first
    robots_own = tmp_path / "robot.json"
    assert "simulated" in refusal(run("handeye", "--simulate", "--images", tmp_path / "new", "--calibration", robots_own), ConfigError)
    assert "other images" in refusal(run("handeye", "--simulate", "--seed", 4, "--images", tmp_path / "arm"), ConfigError)


def test_a_simulated_arm_goes_to_its_poses_itself_and_is_found_as_it_is(tmp_path, monkeypatch, plan):
    """Through planning, bus, gate and the wait for a still image, as a real one; to its truth."""
    monkeypatch.setattr(plan_poses, "plan", lambda where: plan)
    monkeypatch.setattr(stills, "SETTLES_FIRST", 1)
    monkeypatch.setattr(stills, "SETTLES", 1)
    live = ("handeye", "--live", "--simulate", "--seed", 3, "--images", tmp_path / "arm", "--json")
    result = run(*live)
    assert result.exit_code == 0, result.output
    off = json.loads(result.stdout)["off_truth"]
    assert off["hand_eye_mm"] < 0.6
    assert off["hand_eye_deg"] < 0.15
    truth, posed = simulated_session.truth_of(tmp_path / "arm"), joints_file.load(tmp_path / "arm" / "joints.csv")
    assert set(truth.tool_in_table_m) == set(posed)
    assert len(posed) < len(plan.calibrate_rad) + len(plan.held_out_rad)  # what is good enough ends it
    arm = ServoArm(np.array([one.joints_rad for one in posed.values()]), simulated_arm.MOUNT)
    nearly = arm.chain(np.radians(truth.all_zeros_deg), np.array(truth.scales)).transform_flange_to_table[:, :2, 3]
    apart_m = np.linalg.norm(nearly - [truth.tool_in_table_m[name] for name in posed], axis=1)
    assert 5e-4 < np.median(apart_m) < 5e-3  # 0.3° at each servo
    again = run("handeye", "--images", tmp_path / "arm", "--json")
    assert json.loads(again.stdout)["off_truth"] == off
    assert "corrected since" in refusal(run(*live), ConfigError)
    assert "other images" in refusal(run("handeye", "--simulate", "--seed", 3, "--images", tmp_path / "arm"), ConfigError)
    assert "of its own" in refusal(run(*live, "--board", tmp_path / "arm" / "board.json"), ConfigError)
