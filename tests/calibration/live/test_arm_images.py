"""The arm moves itself from pose to pose: through the gate, clear of the table, parked however it ends; images go on where they were."""

import signal

import msgspec
import numpy as np
import pytest

from calibration.arm import joints_file, placements
from calibration.live import arm_images, plan_poses, slow_arm
from calibration.simulated import arm as simulated_arm
from edge.clock import SteppedClock
from edge.config import BusConfig, Config
from edge.errors import BusError, CalibrationError, ConfigError
from edge.robot import PARK_RAD
from edge.simulated.arm_errors import ArmErrors
from edge.simulated.emulated_arm import EmulatedArm
from tests.calibration import arm_folders
from tests.calibration.live.noting_bus import NotingBus

SCENE = simulated_arm.SCENE


def config(driver: str) -> Config:
    return Config(bus=BusConfig(driver=driver, i2c="emulated"))


@pytest.fixture
def stops(plan):
    return np.vstack((PARK_RAD, plan.calibrate_rad, plan.held_out_rad))


@pytest.mark.parametrize("driver", ["dofbot_board", "pca9685"])
def test_the_arm_reaches_a_pose_slowly_and_is_parked_and_let_go(driver, stops):
    settings = config(driver)
    emulated = EmulatedArm(settings.bus, SteppedClock())
    with slow_arm.opened(settings, SCENE, stops, emulated) as arm:
        arm.reach(stops[3])
        off_deg = np.array(emulated.joints_deg()[:5]) - np.degrees(stops[3])
        assert np.abs(off_deg).max() < 15.0  # an arm of which nothing was measured yet: its zeros and scales are off
        assert all(emulated.powered())
    assert not any(emulated.powered())
    assert np.abs(np.array(emulated.joints_deg()[:5]) - np.degrees(PARK_RAD)).max() < 15.0


def test_no_joint_turns_faster_than_it_may(stops):
    bus = NotingBus()
    arm = slow_arm.SlowArm(bus, SCENE, stops, SteppedClock(), slow_arm.parked())
    arm.reach(stops[1])
    arm.go_home()
    steps = np.diff(np.array(bus.sent)[:, :5], axis=0)
    assert np.abs(steps).max() <= slow_arm.SPEED_RAD_S * slow_arm.TICK_S * 1.001
    np.testing.assert_allclose(bus.sent[-1][:5], PARK_RAD, atol=1e-9)


def test_an_error_parks_the_arm_too(stops):
    settings = config("dofbot_board")
    emulated = EmulatedArm(settings.bus, SteppedClock())

    def interrupted() -> None:
        with slow_arm.opened(settings, SCENE, stops, emulated) as arm:
            arm.reach(stops[1])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not any(emulated.powered())
    assert np.abs(np.array(emulated.joints_deg()[:5]) - np.degrees(PARK_RAD)).max() < 15.0


def test_an_arm_that_lies_on_the_table_is_not_moved(stops):
    settings, lies_deg = config("dofbot_board"), (-7.0, 36.0, -35.0, -50.0, 7.0, 20.0)  # let go in mid-motion: its tool is 12 mm high
    emulated = EmulatedArm(settings.bus, SteppedClock(), errors=ArmErrors(), start_deg=lies_deg)
    with pytest.raises(CalibrationError, match="put it into its park pose by hand"), slow_arm.opened(settings, SCENE, stops, emulated):
        pass
    assert emulated.joints_deg() == pytest.approx(lies_deg, abs=1e-9)


def test_an_arm_that_something_holds_back_ends_it(stops):
    settings = config("dofbot_board")
    emulated = EmulatedArm(settings.bus, SteppedClock(), errors=ArmErrors())
    park_deg = np.degrees(PARK_RAD)[0]
    emulated.block(0, park_deg - 5.0, park_deg + 5.0)
    goal = next(pose for pose in stops[1:] if abs(np.degrees(pose[0])) > 20.0)
    with pytest.raises(BusError, match="joint1 is .* from where it was sent"), slow_arm.opened(settings, SCENE, stops, emulated) as arm:
        arm.reach(goal)
    assert not any(emulated.powered())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_third_ctrl_c_does_not_keep_the_servos_powered(stops, monkeypatch, number):
    class Bus:
        is_open = True

        def open(self):
            pass

        def measured(self):
            return None

        def write(self, command):
            raise KeyboardInterrupt  # the second, on the way to park

        def close(self):
            signal.raise_signal(number)
            self.is_open = False

    bus = Bus()
    monkeypatch.setattr(slow_arm, "_bus", lambda *_: bus)
    with pytest.raises(KeyboardInterrupt), slow_arm.opened(config("pca9685"), SCENE, stops):
        raise KeyboardInterrupt
    assert not bus.is_open
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_every_planned_pose_has_a_way_that_stays_clear_of_the_table(stops):
    at = np.array(PARK_RAD)
    for goal in stops[1:7]:
        path = [at, *slow_arm.way(SCENE, at, plan_poses.approach_from(goal), stops), goal]
        for start, end in zip(path[:-1], path[1:], strict=True):
            assert plan_poses.is_clear(SCENE, np.linspace(start, end, 200)).mean() > 0.98  # between points that are looked at: millimetres
        at = goal


def test_where_there_is_no_way_the_pose_is_left_out(stops):
    through_the_table = np.zeros(5)  # stretched, a hanging arm is longer than the table is far
    with pytest.raises(CalibrationError, match="no way to a pose"):
        slow_arm.way(SCENE, np.array(PARK_RAD), through_the_table, stops)


def test_a_simulator_has_no_servos_to_move(stops):
    with pytest.raises(ConfigError, match="no servos"), slow_arm.opened(Config(bus=BusConfig(driver="simulator")), SCENE, stops):
        pass


def test_images_are_taken_where_they_are_missing_and_refused_ones_are_put_away(tmp_path, plan):
    few = plan._replace(calibrate_rad=plan.calibrate_rad[:3], held_out_rad=plan.held_out_rad[:1])
    went, steps = [], []

    def take(path):
        path.write_bytes(arm_folders.PICTURE)  # no board in view

    arm_images.planned(SCENE, few, tmp_path, arm_folders.BOARD, went.append, take, steps.append)
    assert len(went) == 4
    assert all("no board" in step.refused for step in steps)
    assert not list(tmp_path.glob("*.png"))
    assert not (tmp_path / "joints.csv").exists()
    done = {arm_images.name_of(0, False): joints_file.Posed(few.calibrate_rad[0])}
    joints_file.save(tmp_path / "joints.csv", done)
    (tmp_path / arm_images.name_of(0, False)).write_bytes(arm_folders.PICTURE)
    went.clear()
    arm_images.planned(SCENE, few, tmp_path, arm_folders.BOARD, went.append, take, steps.append)
    assert len(went) == 3


def test_more_poses_are_expected_to_tell_more_until_it_is_enough(plan):
    posed = {str(n): joints_file.Posed(joints) for n, joints in enumerate(plan.calibrate_rad)}
    some = arm_images.expected(SCENE, dict(list(posed.items())[:10]))
    every = arm_images.expected(SCENE, posed)
    assert every.hand_eye_m < some.hand_eye_m
    assert not arm_images.is_enough(SCENE, plan.calibrate_rad[:10])
    assert arm_images.is_enough(SCENE, plan.calibrate_rad)
    assert arm_images.expected(SCENE, {}) is None


def test_the_board_lies_in_front_of_the_arm_whatever_its_size():
    lens = msgspec.convert(
        {"serial": "7", "intrinsics": (640, 480, 610.0, 610.0, 319.5, 239.5), "distortion": (0.0,) * 5, "made": {"at": "", "by": ""}},
        arm_images.Lens,
    )
    where = arm_images.scene(lens, arm_folders.BOARD, SCENE.mount)
    middle = where.state.board @ (*where.points_m.mean(axis=0), 1.0)
    np.testing.assert_allclose(middle[:3], (0.0, placements.BOARD_AT_Y_M, 0.0), atol=1e-12)
    assert where.image_px == (640, 480)
