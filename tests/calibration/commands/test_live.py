"""Steps that take their images: with the RealSense driver on the SDK's software device, with cameras that fail, and simulated ones."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from calibration import boards
from calibration.arm import joints_file
from calibration.arm.model import ServoArm, transform_board_to_camera
from calibration.check import RETURNS_MIN
from calibration.live import arm_images, camera_file, plan_poses, stills
from calibration.live.guides import VIEWS_MAX, VIEWS_MIN
from calibration.opencv import Lens
from calibration.simulated import arm as simulated_arm
from calibration.simulated import render
from calibration.simulated.camera import SimulatedCamera, drawn_optics
from edge import calibration as files
from edge.cameras import camera_check, capture
from edge.clock import SteppedClock
from edge.config import BusConfig, CalibrationConfig, Config
from edge.errors import CalibrationError, ConfigError, ObservationError
from edge.robot import PARK_RAD
from edge.simulated.arm_errors import ArmErrors
from edge.simulated.emulated_arm import EmulatedArm
from firmware_tools import asking, emulated
from tests.calibration import arm_folders
from tests.calibration.command_line import refusal, run
from tests.calibration.scenes import BOARD, facing
from tests.calibration.scripted_camera import BLACK, FACTORY, NOTHING, SIZE, ScriptedCamera, picture

REALSENSE = '[camera]\ndriver = "realsense"\n'


@pytest.fixture
def robot(tmp_path) -> Path:
    (tmp_path / "robot.toml").write_text(REALSENSE)
    boards.save(tmp_path / "board.json", BOARD)
    return tmp_path


def calibrated(path: Path, serial: str, intrinsics=FACTORY, driver: str = "pca9685") -> files.Calibration:
    lens = files.Lens(serial, intrinsics, (0.0,) * 5, files.made("test"))
    found = files.Calibration(files.SCHEMA_VERSION, "ab", 0.388, True, driver, lens=lens)
    files.save(path, found)
    return found


def plug(monkeypatch, camera) -> None:
    monkeypatch.setattr(stills, "_camera", lambda config: camera)


def check(robot: Path, *arguments: object):
    common = ("check", "--live", "--config", robot / "robot.toml", "--reference", robot / "reference.json")
    return run(*common, *(("--board", robot / "board.json") if "--learn" in arguments else ()), *arguments)


def test_check_takes_its_image_from_the_realsense(robot, monkeypatch) -> None:
    pytest.importorskip("pyrealsense2", reason="the RealSense SDK is not installed here", exc_type=ImportError)
    real, shift_px = capture.CaptureProcess, [0.0]
    opener = "tests.calibration.scripted_camera:board_in_software"
    monkeypatch.setattr(capture, "CaptureProcess", lambda *_: real(opener, shift_px, first_frame_within_s=60.0))
    asked = []
    monkeypatch.setattr(asking, "answer", lambda question, default: asked.append(question) or "")
    assert check(robot, "--learn").exit_code == 0
    assert len(asked) == RETURNS_MIN
    path = robot / "calibration.json"
    calibrated(path, "123456789012", FACTORY._replace(fx=214.0))
    result = check(robot, "--calibration", path, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.output)["off_px"] < 0.2
    wanted = CalibrationConfig(str(path), check_max_age_h=1.0)
    assert camera_check.why_not_armed(wanted, camera_check.now()) == ""
    shift_px[0] = 3.0
    assert check(robot, "--calibration", path).exit_code == 1
    assert "mm off on the board" in camera_check.why_not_armed(wanted, camera_check.now())
    calibrated(path, "7")
    result = check(robot, "--calibration", path)
    assert result.exit_code == 2
    assert "lens.serial is '7', expected '123456789012', which is plugged in" in result.output


def test_a_realsense_that_is_unplugged_midway_leaves_what_was_taken(robot, monkeypatch) -> None:
    pytest.importorskip("pyrealsense2", reason="the RealSense SDK is not installed here", exc_type=ImportError)
    real = capture.CaptureProcess
    opener = "tests.calibration.scripted_camera:board_in_software"
    monkeypatch.setattr(capture, "CaptureProcess", lambda *_: real(opener, (0.0, 40), first_frame_within_s=60.0))
    options = ("--images", robot / "lens", "--board", robot / "board.json", "--config", robot / "robot.toml")
    message = refusal(run("intrinsics", "--live", *options), ObservationError)
    assert "the camera has brought no new frame for" in message
    assert f"1 images are kept in {robot / 'lens'}: start again to go on" in message
    assert camera_file.of(robot / "lens").serial == "123456789012"
    assert camera_file.of(robot / "lens").intrinsics.fx == 214.0


@pytest.mark.parametrize(
    ("images", "says"),
    [([BLACK] * 99, "the image is black"), ([NOTHING] * 99, "no board in view"), ([NOTHING] * 9, "no new frame for 1.0 s")],
)
def test_check_cannot_say_what_the_camera_does_not_show(robot, monkeypatch, images, says) -> None:
    assert check(robot, "--simulate", "--learn").exit_code == 0
    camera = ScriptedCamera(images)
    plug(monkeypatch, camera)
    result = check(robot)
    assert result.exit_code == 2
    assert f"cannot say: {says}" in result.output.replace("the camera has brought ", "")
    assert camera.is_closed


def test_check_looks_again_after_an_image_that_is_refused(robot, monkeypatch) -> None:
    assert check(robot, "--simulate", "--learn").exit_code == 0
    plug(monkeypatch, ScriptedCamera([NOTHING] * (stills.SETTLES_FIRST + 1) + [picture(0.25, 0.2)] * 20))
    assert check(robot).exit_code == 1  # another view than the simulated one, and it was found


def test_a_simulated_camera_stays_where_it_was_until_it_is_knocked(robot) -> None:
    assert check(robot, "--simulate", "--learn").exit_code == 0
    result = check(robot, "--simulate")
    assert result.exit_code == 0
    assert "simulated: " in result.output
    assert check(robot, "--simulate").output == result.output  # a simulation is its seed's
    moved = check(robot, "--simulate", "--seed", 2, "--json")
    assert moved.exit_code == 1
    told = json.loads(moved.stdout)
    assert told["off_mm"] > 2.0 * told["limit_mm"]  # so far that no rounding of another machine's decides
    result = check(robot, "--simulate", "--calibration", robot / "calibration.json")  # else a simulation could let a real arm be armed
    assert result.exit_code == 2
    assert "--calibration of a real camera with --simulate" in result.output
    assert check(robot, "--images", robot).exit_code == 2
    result = run("check", "--live", "--learn", "--reference", robot / "reference.json")
    assert "--learn without --board" in result.output


def test_a_lens_measures_itself_before_a_simulated_camera_and_depth_after_it(tmp_path) -> None:
    folder = tmp_path / "lens"
    result = run("intrinsics", "--simulate", "--images", folder, "--seed", 1, "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert VIEWS_MIN <= told["images"] <= VIEWS_MAX
    assert told["off_truth"]["apart_px"] < 1.0
    assert abs(told["off_truth"]["fx_percent"]) < 0.3
    written = files.load(folder / "calibration.json").lens
    assert written.serial == "simulated"
    again = run("intrinsics", "--simulate", "--images", folder, "--seed", 1, "--json")
    assert json.loads(again.stdout)["images"] == told["images"]  # good enough already: no image more
    assert run("intrinsics", "--images", folder).exit_code == 0  # serial, board and factory's intrinsics are in the folder
    assert "expected the same" in refusal(run("intrinsics", "--images", folder, "--serial", "8"), ConfigError)
    assert "this one is simulated" in refusal(run("intrinsics", "--simulate", "--images", folder, "--seed", 2), ConfigError)
    common = ("--board", folder / "board.json", "--calibration", folder / "calibration.json")
    result = run("depth", "--simulate", "--images", tmp_path / "depth", *common)
    assert result.exit_code == 0, result.output
    found = files.load(folder / "calibration.json").depth
    assert found.scale == pytest.approx(1.01, abs=0.005)
    assert found.offset_m == pytest.approx(0.002, abs=0.001)


def test_live_intrinsics_say_what_cannot_be(robot, monkeypatch) -> None:
    common = ("intrinsics", "--images", robot / "lens", "--board", robot / "board.json", "--config", robot / "robot.toml")
    assert "one of both" in refusal(run(*common, "--live", "--watch"), ConfigError)
    assert "the camera tells its own" in refusal(run(*common, "--live", "--serial", "7"), ConfigError)
    inside = robot / "lens" / "latest.png"
    assert "lies among the images" in refusal(run(*common, "--live", "--preview", inside), ConfigError)
    assert "--serial is missing" in refusal(run(*common), ConfigError)
    assert "--images is missing" in refusal(run("intrinsics"), ConfigError)
    real = robot / "robot.json"
    assert "a simulated camera's lens goes into" in refusal(run("intrinsics", "--simulate", "--calibration", real), ConfigError)
    plug(monkeypatch, ScriptedCamera([picture()] * 5))
    message = refusal(run(*common, "--live"), ObservationError)
    assert "1 images are kept" in message
    assert not (robot / "lens" / "calibration.json").exists()


def test_block_takes_its_image_with_the_calibrated_camera(tmp_path, monkeypatch) -> None:
    for name, board in (("grid", boards.grid()), ("blocks", boards.blocks())):
        boards.save(tmp_path / f"{name}.json", boards.measured(board, (100.0, 100.0)))
    grid = boards.load(tmp_path / "grid.json")
    calibrated(tmp_path / "calibration.json", "7")
    options = ("--blocks", tmp_path / "blocks.json", "--grid", tmp_path / "grid.json", "--calibration", tmp_path / "calibration.json")
    plug(monkeypatch, ScriptedCamera([render.view(grid, facing(0.45, grid.size_m, 0.2), Lens(FACTORY))] * 40))
    assert "no block is in the image" in refusal(run("block", "--live", *options), CalibrationError)
    assert "one of both" in refusal(run("block", *options), ConfigError)


class Wrist:
    """A simulated camera on an arm in software, over a board on the table."""

    def __init__(self, monkeypatch, settings: Config, plan) -> None:
        self.arm = EmulatedArm(settings.bus, SteppedClock())
        self.camera = SimulatedCamera(BOARD, drawn_optics(SIZE, 1), 1, self._shown)
        few = plan._replace(calibrate_rad=plan.calibrate_rad[:2], held_out_rad=plan.held_out_rad[:1])
        monkeypatch.setattr(emulated, "emulated_arm", lambda config: self.arm)
        monkeypatch.setattr(plan_poses, "plan", lambda where: few)

    def _shown(self, lens: Lens) -> np.ndarray:
        joints = ServoArm(np.radians([self.arm.joints_deg()[:5]]), simulated_arm.MOUNT)
        middle = np.array((*BOARD.size_m, 0.0)) / 2.0
        from_corner = np.eye(4)
        from_corner[:3, 3] = simulated_arm.POINTS_M.mean(axis=0) - middle
        return transform_board_to_camera(simulated_arm.NOMINAL, joints)[0] @ from_corner


ARM = Config(bus=BusConfig(driver="dofbot_board", i2c="emulated"))


def take_images(folder: Path, serial: str, *arguments: object, toml: str = "", typed: str = ""):
    """`handeye --live` with an emulated arm; what is calibrated is a camera with that serial number."""
    config = folder / "arm.toml"
    config.write_text(f'[bus]\ndriver = "dofbot_board"\ni2c = "emulated"\n{REALSENSE}{toml}')
    boards.save(folder / "board.json", BOARD)
    calibrated(folder / "calibration.json", serial, driver="dofbot_board")
    paths = ("--images", folder / "arm", "--board", folder / "board.json", "--calibration", folder / "calibration.json")
    return run("handeye", "--live", "--yes", *paths, "--config", config, *arguments, typed=typed)


def test_the_arm_takes_its_images_with_the_configured_camera(tmp_path, monkeypatch, plan) -> None:
    wrist = Wrist(monkeypatch, ARM, plan)
    plug(monkeypatch, wrist.camera)
    assert "3 images can be used" in refusal(take_images(tmp_path, "simulated"), CalibrationError)  # all of the plan's, too few to solve
    posed = joints_file.load(tmp_path / "arm" / "joints.csv")
    assert set(posed) == {arm_images.name_of(0, False), arm_images.name_of(1, False), arm_images.name_of(0, True)}
    assert len(list((tmp_path / "arm").glob("*.png"))) == 3
    assert not any(wrist.arm.powered())


def test_a_camera_that_is_unplugged_parks_the_arm(tmp_path, monkeypatch, plan) -> None:
    wrist = Wrist(monkeypatch, ARM, plan)
    plug(monkeypatch, ScriptedCamera([NOTHING] * 10))
    assert "no new frame for 1.0 s" in refusal(take_images(tmp_path, "7"), ObservationError)
    assert wrist.arm.clock.now_s() > 1.0
    assert not any(wrist.arm.powered())
    assert np.abs(np.array(wrist.arm.joints_deg()[:5]) - np.degrees(PARK_RAD)).max() < 15.0


def test_with_another_camera_than_was_calibrated_nothing_moves(tmp_path, monkeypatch, plan) -> None:
    wrist = Wrist(monkeypatch, ARM, plan)
    plug(monkeypatch, ScriptedCamera([NOTHING] * 10, serial="8"))
    assert "lens.serial is '7', expected '8'" in refusal(take_images(tmp_path, "7"), ConfigError)
    assert wrist.arm.clock.now_s() == 0.0


@pytest.mark.parametrize("mount", ["inverted = false", "base_height_m = 0.3"])
def test_a_calibration_of_another_robot_than_is_configured_moves_nothing(tmp_path, monkeypatch, plan, mount) -> None:
    wrist = Wrist(monkeypatch, ARM, plan)
    plug(monkeypatch, wrist.camera)
    message = refusal(take_images(tmp_path, "simulated", toml=f"[mount]\n{mount}\n"), ConfigError)
    assert f"is for another robot: {mount.split()[0]} is" in message
    assert wrist.arm.clock.now_s() == 0.0


@pytest.mark.parametrize(("joint2_deg", "rows"), [(60.0, 2), (100.0, 0)])
def test_an_arm_that_is_moved_by_hand_is_read_back_as_far_as_its_joints_may_turn(tmp_path, monkeypatch, plan, joint2_deg, rows) -> None:
    """One row beyond a limit would make the file one that is refused, with all that was taken before."""
    arm = EmulatedArm(ARM.bus, SteppedClock(), errors=ArmErrors(), start_deg=(0.0, joint2_deg, 30.0, 20.0, 0.0, 20.0))
    monkeypatch.setattr(emulated, "emulated_arm", lambda config: arm)
    assert cv2.imwrite(str(tmp_path / "picture.png"), picture(0.25, 0.2))
    result = take_images(tmp_path, "7", "--manual", "--take", f"cp {tmp_path / 'picture.png'} {{}}", typed="\n\nq\n")
    table = tmp_path / "arm" / "joints.csv"
    if rows:
        assert "2 images can be used" in refusal(result, CalibrationError)
        assert {round(float(np.degrees(one.joints_rad[1]))) for one in joints_file.load(table).values()} == {60}
    else:
        assert "joint2 is at 100°, expected -90…90°" in result.stderr
        assert not table.exists()


def test_another_camera_takes_images_by_a_command(tmp_path, monkeypatch, plan) -> None:
    Wrist(monkeypatch, ARM, plan)
    monkeypatch.setattr(stills, "_camera", lambda config: pytest.fail("the configured camera was opened"))
    assert "--take wrote no image" in refusal(take_images(tmp_path, "7", "--take", "true"), CalibrationError)
    assert "--take did not work" in refusal(take_images(tmp_path, "7", "--take", "false {}"), CalibrationError)
    assert "--take did not work" in refusal(take_images(tmp_path, "7", "--take", "cp 'picture {}"), CalibrationError)
    assert "--take did not work" in refusal(take_images(tmp_path, "7", "--take", " "), CalibrationError)
    (tmp_path / "arm" / arm_images.name_of(0, False)).write_bytes(arm_folders.PICTURE)  # of a run that was ended in between
    assert "--take wrote no image" in refusal(take_images(tmp_path, "7", "--take", "true"), CalibrationError)
    (tmp_path / "picture").write_bytes(arm_folders.PICTURE)
    result = take_images(tmp_path, "7", "--take", f"cp {tmp_path / 'picture'} {{}}")
    assert "no image shows the board" in refusal(result, CalibrationError)
    assert len(list((tmp_path / "arm").glob("*.refused"))) == 3
