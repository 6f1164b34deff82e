"""The guided touch test: never into the table, each joint from below, spread, resumed where it was, and joint 1's zero found."""

import json
from contextlib import nullcontext
from pathlib import Path

import msgspec
import numpy as np
import pytest

from calibration.arm.model import ServoArm
from calibration.commands import touch as touch_command
from calibration.live import plan_poses, slow_arm, touch, touch_plan, touches_file
from calibration.live.plan_poses import POINTER_ABOVE_TABLE_M
from calibration.simulated import arm as simulated_arm
from calibration.simulated import session as simulated_session
from calibration.simulated import touch as simulated_touch
from edge import calibration as files
from edge.clock import SteppedClock
from edge.config import BusConfig, Config
from edge.errors import BusError, CalibrationError, ConfigError, RefusedError
from edge.kinematics import transform_tool_to_table, within_limits
from edge.robot import PARK_RAD
from edge.simulated.arm_errors import ArmErrors
from edge.simulated.emulated_arm import EmulatedArm
from firmware_tools import emulated
from tests.calibration.command_line import refusal, run
from tests.calibration.live.noting_bus import NotingBus

SCENE = simulated_arm.SCENE._replace(pointer_m=0.027)
ONES, NONE_DONE = np.ones(2), np.zeros((0, 2))
POINTER = touch.Pointer(0.008, 0.020)
SEED = 3  # whose joint 1 is off by 6.6°


def _tip_in_table_m(joints_rad):
    pose = ServoArm(joints_rad, SCENE.mount).chain(np.zeros(5), np.zeros(5)).transform_flange_to_table
    return pose[:, :3, 3] + SCENE.pointer_m * pose[:, :3, 2]


@pytest.fixture(scope="module")
def crossings():
    return touch_plan.crossings(SCENE, 0.008, 9, ONES, NONE_DONE)


def test_the_pointer_stands_straight_over_crossings_of_the_print(crossings):
    for one in crossings:
        np.testing.assert_allclose(_tip_in_table_m(one.joints_rad)[0], (*one.at_in_table_m, 0.008), atol=1e-9)
        np.testing.assert_allclose(one.at_in_table_m, np.round(one.at_in_table_m, 2), atol=1e-9)  # a line each 10 mm


def test_they_are_spread_over_the_table(crossings):
    at = np.array([one.at_in_table_m for one in crossings])
    apart = np.linalg.norm(at[:, None] - at, axis=-1) + np.eye(len(at))
    assert apart.min() > 0.03
    assert np.ptp(at[:, 0]) >= 0.18
    assert np.ptp(at[:, 1]) >= 0.10


def test_no_pose_on_the_way_down_or_up_brings_the_tip_to_the_table(crossings):
    for one in crossings:
        for start, end in ((one.lifted_rad, one.from_rad), (one.from_rad, one.joints_rad), (one.joints_rad, one.lifted_rad)):
            way = start + (end - start) * np.linspace(0.0, 1.0, 200)[:, None]
            assert _tip_in_table_m(way)[:, 2].min() > POINTER_ABOVE_TABLE_M - 1e-3
            assert all(within_limits(tuple(joints)) for joints in way)
        assert _tip_in_table_m(one.lifted_rad)[0, 2] > 0.015


def test_every_joint_comes_from_below_by_more_than_its_play(crossings):
    for one in crossings:
        assert (one.joints_rad - one.from_rad >= plan_poses.APPROACH_RAD - 1e-9).all()


def test_all_have_one_heading_so_that_a_pointer_held_askew_turns_nothing(crossings):
    sides = np.array([transform_tool_to_table(tuple(one.joints_rad), SCENE.mount)[:3, 0] for one in crossings])
    np.testing.assert_allclose(sides, np.tile(sides[0], (len(sides), 1)), atol=1e-9)


def test_what_is_done_is_not_touched_again(crossings):
    done = np.array([one.at_in_table_m for one in crossings[:4]])
    more = touch_plan.crossings(SCENE, 0.008, 9, ONES, done)
    assert len(more) == 5
    assert np.linalg.norm(np.array([one.at_in_table_m for one in more])[:, None] - done, axis=-1).min() > 0.03
    assert not touch_plan.crossings(SCENE, 0.008, 4, ONES, done)


def test_a_print_that_came_out_larger_is_touched_where_its_lines_are():
    found = touch_plan.crossings(SCENE, 0.008, 6, np.array([1.01, 0.99]), NONE_DONE)
    drawn_mm = np.array([one.at_in_table_m for one in found]) / (1.01e-3, 0.99e-3)
    np.testing.assert_allclose(drawn_mm, np.round(drawn_mm, -1), atol=1e-6)


@pytest.mark.parametrize("ahead_m", [0.15, 0.2])
def test_a_pointer_that_is_too_long_is_refused(ahead_m):
    with pytest.raises(CalibrationError, match="expected a shorter one"):
        touch_plan.first(SCENE._replace(pointer_m=ahead_m))
    with pytest.raises(CalibrationError, match="take a shorter pointer"):
        touch_plan.crossings(SCENE._replace(pointer_m=ahead_m), 0.008, 9, ONES, NONE_DONE)


def test_the_gate_itself_keeps_the_tip_off_the_table(crossings):
    bus = NotingBus()
    arm = slow_arm.SlowArm(bus, SCENE, np.array([PARK_RAD]), SteppedClock(), slow_arm.parked())
    one = crossings[4]
    arm.reach(one.joints_rad, one.via_rad)
    with pytest.raises(BusError, match="tool z"):
        arm.go(one.joints_rad - np.radians((0.0, 8.0, 8.0, 0.0, 0.0)))
    lowest = _tip_in_table_m(np.array([command[:5] for command in bus.sent]))[:, 2].min()
    assert 0.0 <= lowest - slow_arm.POINTER_MIN_M + 1e-9 < 0.002
    assert slow_arm.POINTER_MIN_M >= 0.003


def test_the_gripper_closes_slowly():
    bus = NotingBus()
    arm = slow_arm.SlowArm(bus, SCENE, np.array([PARK_RAD]), SteppedClock(), slow_arm.parked())
    arm.grip(0.007)
    openings = np.array([command.opening_m for command in bus.sent])
    assert openings[-1] == pytest.approx(0.007)
    assert np.abs(np.diff(openings)).max() <= slow_arm.GRIP_M_S * slow_arm.TICK_S * 1.001


class _Gone(simulated_touch.SimulatedPerson):
    """Goes away after three crossings."""

    def place_mm(self, crossing_mm, number, count):
        if number > 3:
            raise KeyboardInterrupt
        return super().place_mm(crossing_mm, number, count)


def _settings() -> Config:
    return Config(bus=BusConfig(driver="dofbot_board", i2c="emulated"))


def test_it_parks_when_interrupted_and_goes_on_where_it_was(tmp_path):
    path, settings, shown = tmp_path / "touches.csv", _settings(), []
    for who in (_Gone, simulated_touch.SimulatedPerson):
        arm = EmulatedArm(settings.bus, SteppedClock(), errors=ArmErrors(zero_deg=(4.0, 0, 0, 0, 0, 0)))
        person = who(arm, SCENE.mount, POINTER, 0.0, 1)
        ends = pytest.raises(KeyboardInterrupt) if who is _Gone else nullcontext()
        with ends, slow_arm.opened(settings, simulated_arm.SCENE, np.array([PARK_RAD]), arm) as slow:
            touch.guided(slow, POINTER, 0.008, 6, ONES, path, person, shown.append)
        assert not any(arm.powered())
        assert np.abs(np.array(arm.joints_deg()[1:5]) - np.degrees(PARK_RAD[1:])).max() < 1.0
        assert person.lowest_m > 0.004  # of 8 mm that were asked for
        assert len(touches_file.load(path)) == (3 if who is _Gone else 6)
    assert len(shown) == 6
    rows = touches_file.load(path)
    assert len({tuple(row) for row in rows[:, :2]}) == 6


@pytest.fixture
def simulated(tmp_path, plan) -> Path:
    """The folder of a simulated arm, of which no servo was calibrated yet: joints 2 to 4 are off by up to 0.7°."""
    few = plan._replace(calibrate_rad=plan.calibrate_rad[:1], held_out_rad=plan.held_out_rad[:0])
    simulated_session.take(tmp_path / "arm", SEED, few, simulated_arm.Errors(), lambda name: None)
    return tmp_path / "arm"


def test_in_simulation_joint_1s_zero_is_found_written_once_and_then_gone(simulated, tmp_path):
    path = tmp_path / "touches.csv"
    arguments = ("grid", "--simulate", "--seed", SEED, "--images", simulated)
    result = run(*arguments, "--touch", path, "--write", "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)["by touch"]
    assert "simulated" in result.stderr
    assert told["places"] == 9
    assert told["true_joint1_zero_deg"] == pytest.approx(6.65, abs=0.1)
    assert told["joint1_zero_deg"] == pytest.approx(told["true_joint1_zero_deg"], abs=3.5 * told["joint1_zero_sigma_deg"])
    written, was = files.load(simulated / "calibration.json").dofbot_board, Config().bus.board.servos
    turned_deg = was[0].direction * (was[0].zero_raw - written.servos[0].zero_raw) / was[0].counts_per_deg
    assert turned_deg == pytest.approx(told["joint1_zero_deg"])
    assert written.servos[1:] == was[1:]
    assert written.made.sigma["joint1.zero_deg"] == pytest.approx(told["joint1_zero_sigma_deg"])

    assert "corrected since" in refusal(run(*arguments, "--touch", path, "--write"), ConfigError)
    again = run(*arguments, "--touch", tmp_path / "after.csv", "--json")
    after = json.loads(again.stdout)["by touch"]
    assert abs(after["true_joint1_zero_deg"]) < 1.0
    assert after["median_mm"] < 0.5 * told["median_mm"]
    if not after["is_significant"]:
        before = (simulated / "calibration.json").read_bytes()
        assert "nothing was written" in refusal(run(*arguments, "--touch", tmp_path / "after.csv", "--write"), CalibrationError)
        assert (simulated / "calibration.json").read_bytes() == before


def test_a_camera_on_a_stand_is_turned_with_the_table(tmp_path):
    path, pose = tmp_path / "robot.json", np.diag((1.0, -1.0, -1.0, 1.0))
    pose[:3, 3] = 0.0, 0.6, 0.3
    rows = tuple(map(tuple, pose.tolist()))
    camera = files.FixedCamera("7", rows, files.made("test"))  # type: ignore[arg-type]
    files.save(path, msgspec.structs.replace(files.blank(Config(), "ab"), fixed_camera=camera))
    places = np.array([(x, y) for x in (-80.0, 0.0, 80.0) for y in (60.0, 110.0)])
    turn = np.radians(5.0)  # of joint 1; the arm hangs, so clockwise from above
    spin = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    touches_file.save(tmp_path / "touches.csv", np.hstack((places, places @ spin.T - places)))
    assert run("grid", "--touch", tmp_path / "touches.csv", "--calibration", path, "--write").exit_code == 0
    found = np.array(files.load(path).fixed_camera.transform_camera_to_table)
    np.testing.assert_allclose(found[:2, 3], spin @ (0.0, 0.6), atol=1e-3)


def test_what_was_measured_while_somebody_touched_is_kept(tmp_path, monkeypatch):
    path, judge = tmp_path / "robot.json", touch_command.of_file
    files.save(path, files.blank(Config(), "ab"))
    places = np.array([(x, y) for x in (-80.0, 0.0, 80.0) for y in (60.0, 110.0)])
    turn = np.radians(5.0)
    spin = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    touches_file.save(tmp_path / "touches.csv", np.hstack((places, places @ spin.T - places)))
    depth = files.DepthCorrection("7", 1.01, 0.001, files.made("another terminal"))

    def meanwhile(*arguments):
        files.save(path, msgspec.structs.replace(files.load(path), depth=depth))
        return judge(*arguments)

    monkeypatch.setattr(touch_command, "of_file", meanwhile)
    assert run("grid", "--touch", tmp_path / "touches.csv", "--calibration", path, "--write").exit_code == 0
    assert files.load(path).depth == depth
    assert files.load(path).pca9685 is not None

    def corrected(*arguments):
        files.save(path, msgspec.structs.replace(files.load(path), pca9685=None))
        return judge(*arguments)

    monkeypatch.setattr(touch_command, "of_file", corrected)
    (tmp_path / "touches.csv").rename(tmp_path / "again.csv")
    again = run("grid", "--touch", tmp_path / "again.csv", "--calibration", path, "--write")
    assert "corrected meanwhile" in refusal(again, ConfigError)
    assert files.load(path).pca9685 is None


@pytest.fixture
def rig(tmp_path, monkeypatch):
    """A configuration whose bus is emulated, the arm that the command then finds, and a blank calibration."""
    (tmp_path / "robot.toml").write_text('[bus]\ndriver = "dofbot_board"\ni2c = "emulated"\n')
    arm = EmulatedArm(_settings().bus, SteppedClock(), errors=ArmErrors())
    monkeypatch.setattr(emulated, "emulated_arm", lambda config: arm)
    files.save(tmp_path / "robot.json", files.blank(_settings(), "ab"))
    return arm


def _typed(folder: Path, text: str):
    names = ["--touch", folder / "t.csv", "--live", "--calibration", folder / "robot.json", "--config", folder / "robot.toml"]
    return run("grid", *names, "--crossings", "5", "--json", typed=text)


def test_a_person_types_what_is_read(rig, tmp_path, crossings):
    ahead = touch_plan.crossings(SCENE._replace(pointer_m=POINTER.ahead_m), 0.010, 5, ONES, NONE_DONE)
    read = [f"{1e3 * x + 2:.1f} {1e3 * y - 1:.1f}" for x, y in (one.at_in_table_m for one in ahead)]
    lines = ["y", "", "", "tall", "60", "25", "no", "500 0", *read[:2], "", *read[3:]]
    result = _typed(tmp_path, "\n".join(lines) + "\n")
    assert isinstance(result.exception, CalibrationError), result.output  # one was passed over: four are too few
    assert "4 touches" in str(result.exception)
    assert "'tall' is no height" in result.stderr
    assert "'60' is no height from 13 to 37 mm" in result.stderr
    assert "'500 0' is no place within 50 mm" in result.stderr
    done = touches_file.load(tmp_path / "t.csv")[:, :2] / 1e3
    ((x, y),) = (one.at_in_table_m for one in touch_plan.crossings(SCENE._replace(pointer_m=POINTER.ahead_m), 0.010, 5, ONES, done))
    result = _typed(tmp_path, f"y\n\n\n25\n{1e3 * x + 2:.1f}, {1e3 * y - 1:.1f}\n")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout[result.stdout.index("{") :])["by touch"]  # after what was typed
    assert told["grid_shift_mm"] == pytest.approx([2.0, -1.0], abs=1e-6)
    assert not any(rig.powered())


def test_a_calibration_of_another_robot_than_is_configured_moves_nothing(rig, tmp_path):
    (tmp_path / "robot.toml").write_text('[bus]\ndriver = "dofbot_board"\ni2c = "emulated"\n[mount]\ninverted = false\n')
    before = rig.joints_deg()
    assert "is for another robot: inverted is True, expected False" in refusal(_typed(tmp_path, "y\n\n\n25\n"), ConfigError)
    assert rig.joints_deg() == before
    assert not (tmp_path / "t.arm.json").exists()


class _Mistaken(simulated_touch.SimulatedPerson):
    """Says at first that the tip is 12 mm higher than it is."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.lowest_told_m, self._has_erred = np.inf, False

    def height_m(self, expected_m):
        true_m = super().height_m(expected_m)
        self.lowest_told_m = min(self.lowest_told_m, true_m)
        said_m, self._has_erred = (true_m if self._has_erred else true_m + touch.HEIGHT_OFF_M), True
        return said_m


def test_a_height_that_was_read_wrongly_does_not_lead_into_the_table(tmp_path):
    arm = EmulatedArm(_settings().bus, SteppedClock(), errors=ArmErrors())
    person = _Mistaken(arm, SCENE.mount, POINTER, 0.0, 1)
    with slow_arm.opened(_settings(), simulated_arm.SCENE, np.array([PARK_RAD]), arm) as slow:
        touch.guided(slow, POINTER, 0.008, 5, ONES, tmp_path / "t.csv", person, lambda touched: None)
    assert person.lowest_told_m > 0.006  # it was lowered by the 12 mm, looked at again, and raised
    assert person.lowest_m > 0.005


def test_a_pointer_that_slips_is_said(tmp_path):
    class Slipping(simulated_touch.SimulatedPerson):
        def height_m(self, expected_m):
            return expected_m + touch.HEIGHT_OFF_M / 2.0

    arm = EmulatedArm(_settings().bus, SteppedClock(), errors=ArmErrors())
    person = Slipping(arm, SCENE.mount, POINTER, 0.0, 1)
    with (
        pytest.raises(CalibrationError, match="fasten the pointer"),
        slow_arm.opened(_settings(), simulated_arm.SCENE, np.array([PARK_RAD]), arm) as slow,
    ):
        touch.guided(slow, POINTER, 0.008, 5, ONES, tmp_path / "t.csv", person, lambda touched: None)
    assert not any(arm.powered())


@pytest.mark.parametrize("text", ["", "n\n"])
def test_nothing_moves_before_somebody_says_yes(rig, tmp_path, text):
    before = rig.joints_deg()
    result = _typed(tmp_path, text)
    assert isinstance(result.exception, RefusedError)
    assert rig.joints_deg() == before
    assert not any(rig.powered())


def test_what_does_not_go_together_is_said(tmp_path, simulated):
    assert "--touch FILE.csv" in refusal(run("grid", "--images", simulated, "--live"), ConfigError)
    assert "--calibration is missing" in refusal(run("grid", "--touch", tmp_path / "t.csv", "--live"), ConfigError)
    wrong = run("grid", "--simulate", "--seed", 4, "--images", simulated, "--touch", tmp_path / "t.csv")
    assert "run dofbot calibrate handeye --simulate --seed 4 first" in refusal(wrong, ConfigError)
