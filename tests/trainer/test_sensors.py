"""A simulated camera with a mount and a lens of its own: what it sees, seen as the policy's, is what the policy's camera sees."""

import json
import math
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pybullet")

import typer  # noqa: E402
from typer.testing import CliRunner  # noqa: E402

import urdf  # noqa: E402
from edge import calibration  # noqa: E402
from edge.cameras.virtual_camera import Reprojection, mounting_of  # noqa: E402
from edge.config import Config  # noqa: E402
from edge.kinematics import Mount, solve  # noqa: E402
from edge.messages import (  # noqa: E402
    NO_DISTORTION,  # noqa: E402
    Frame,
    JointCommand,
    ToolPose,
)
from edge.observation import depth_input  # noqa: E402
from trainer import sensors, simcli, spec  # noqa: E402
from trainer.blocks import Block  # noqa: E402
from trainer.depth_camera import DepthFaults, spoil  # noqa: E402
from trainer.desk import Desk  # noqa: E402
from trainer.sensors import LENS, SENSORS  # noqa: E402
from trainer.world import World  # noqa: E402

CONTRACT = spec.contract()
APP = typer.Typer()
simcli.register(APP)
MOUNT = Mount(CONTRACT.robot.base_height_m, CONTRACT.robot.inverted)
START_M, LOW_M = (0.0, 0.1615, 0.110), (0.0, 0.105, 0.020)  # where a descent begins, and about where it ends


@pytest.fixture(scope="module")
def world():
    with closing(World(CONTRACT)) as world:
        yield world


def seen(world: World, camera: object, tool_m: tuple[float, float, float]) -> np.ndarray:
    """What a camera sees of one scene."""
    world.camera = camera  # type: ignore[assignment]
    joints = JointCommand._make((*solve(ToolPose(*tool_m, 0.0, math.pi), MOUNT), 0.06))
    world.reset(joints, (Block(0.012, 0.11, 0.4, (0.03,) * 3),))
    return world.depth()


@pytest.mark.parametrize("tool_m", [START_M, LOW_M])
@pytest.mark.parametrize(
    ("shift_mm", "turn_deg"),
    [
        ((0, 0, 0), (0, 0, 0)),
        ((10, 0, 0), (0, 0, 0)),
        ((-6, 6, -5), (0, 0, 0)),
        ((0, 0, 0), (10, 0, 0)),
        ((0, 0, 0), (0, -10, 0)),
        ((5, 0, -60), (0, 2, 20)),
    ],
)
def test_the_same_scene_from_two_places_is_one_image(world, tool_m, shift_mm, turn_deg) -> None:
    camera = sensors.mounted(CONTRACT.camera, np.multiply(shift_mm, 1e-3).tolist(), np.radians(turn_deg).tolist())
    project = Reprojection(LENS, NO_DISTORTION, np.array(camera.transform_camera_to_tool), CONTRACT.camera)
    taken_m = seen(world, camera, tool_m)
    found = project(Frame(taken_m, LENS, 0.0, 0)).depth_m
    true_m = seen(world, CONTRACT.camera, tool_m)
    both = (found > 0.0) & (true_m > 0.0)
    off_m = np.abs(found - true_m)[both]
    assert np.median(off_m) < 0.0005
    assert np.mean(off_m > 0.003) < 0.01  # edges, where the nearest pixel is on the other side
    can_see = visible(true_m, taken_m, np.linalg.inv(np.array(camera.transform_camera_to_tool)) @ spec.camera_to_tool())
    assert can_see.mean() > 0.75
    assert np.mean(found[can_see] == 0.0) < 0.02


def visible(true_m: np.ndarray, taken_m: np.ndarray, policy_to_real: np.ndarray) -> np.ndarray:
    """(64, 64): what of the policy's image the real camera has in its own: inside it, and behind nothing."""
    lens = CONTRACT.camera.intrinsics
    rows, columns = np.mgrid[0 : lens.height, 0 : lens.width]
    points = np.stack([(columns - lens.cx) / lens.fx, (rows - lens.cy) / lens.fy, np.ones(true_m.shape)]) * true_m
    x, y, z = np.tensordot(policy_to_real[:3, :3], points, 1) + policy_to_real[:3, 3, None, None]
    u, v = np.rint(x / z * LENS.fx + LENS.cx).astype(int), np.rint(y / z * LENS.fy + LENS.cy).astype(int)
    inside = (true_m > 0.0) & (u >= 0) & (u < LENS.width) & (v >= 0) & (v < LENS.height)
    there_m = taken_m[np.clip(v, 0, LENS.height - 1), np.clip(u, 0, LENS.width - 1)]
    return inside & (np.abs(there_m - z) < 0.003)


def test_the_desks_own_camera_shows_what_its_calibration_says(tmp_path: Path) -> None:
    wrist = sensors.wrist("d405", CONTRACT.camera, (0.004, -0.003, 0.002), (0.05, 0.05, -0.05))
    path = tmp_path / "robot.json"
    calibration.save(path, sensors.calibration_of(CONTRACT, wrist.camera, "test"))
    found = calibration.load(path)
    calibration.check_robot(found, path, Config().mount, Config().bus, urdf.dofbot_sha256())
    with closing(Desk(CONTRACT, 1)) as exact, closing(Desk(CONTRACT, 1, wrist)) as desk:
        depth_m, lens = desk.depth_frame()
        assert depth_m.shape == (240, 424)
        mounting = mounting_of(found, path, CONTRACT.camera)
        assert mounting is not None
        project = mounting.reprojection(lens, "simulated")
        image_m = project(Frame(depth_m, lens, 0.0, 0)).depth_m
        true_m, _ = exact.depth_frame()
        both = (image_m > 0.0) & (true_m > 0.0)
        assert both.mean() > 0.6 * (true_m > 0.0).mean()
        assert np.median(np.abs(image_m - true_m)[both] / true_m[both] ** 2) < 0.06  # noise: 0.08 px / (214 px · 18 mm) = 0.02 /m
        assert (image_m != project(Frame(desk.depth_frame()[0], lens, 0.0, 1)).depth_m).any()  # a sensor is never still


@pytest.mark.parametrize("sensor", SENSORS)
def test_a_camera_is_blind_nearby_and_noisy_by_its_baseline(sensor: str) -> None:
    rng, made = np.random.default_rng(0), SENSORS[sensor]
    faults = made.faults(rng, DepthFaults(noise_px=0.08))
    assert made.blind_m[0] <= faults.near_blind_m <= made.blind_m[1]
    ramp_m = np.tile(np.linspace(0.03, 0.25, 424, dtype=np.float32), (240, 1))
    read_m = spoil(ramp_m, faults, LENS.fx, rng)
    assert not read_m[ramp_m < faults.near_blind_m].any()
    far = ramp_m > 0.2
    expected = 0.08 / (214.0 * made.baseline_m)  # RMS error = depth² · noise / (focal length · baseline), librealsense #3904
    assert np.std((read_m - ramp_m)[far] / ramp_m[far] ** 2) == pytest.approx(expected, rel=0.1)


def test_an_offset_is_rigid_and_undone_by_its_opposite() -> None:
    turn_rad = (0.3, -0.2, 0.5)
    moved = sensors.offset((0.01, 0.02, 0.03), turn_rad)
    np.testing.assert_allclose(moved[:3, :3] @ moved[:3, :3].T, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(moved[:3, :3] @ turn_rad, turn_rad, atol=1e-12)  # the axis stays
    back = sensors.offset((0.0, 0.0, 0.0), [-angle_rad for angle_rad in turn_rad])
    np.testing.assert_allclose(moved[:3, :3] @ back[:3, :3], np.eye(3), atol=1e-12)
    assert np.arccos((np.trace(moved[:3, :3]) - 1.0) / 2.0) == pytest.approx(math.hypot(*turn_rad))
    np.testing.assert_array_equal(sensors.offset((0.0, 0.0, 0.0), (0.0, 0.0, 0.0)), np.eye(4))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (("--camera-off-mm", "5,0,0"), "--camera is missing"),
        (("--calibration", "robot.json"), "--camera is missing"),
        (("--camera", "d405", "--camera-off-mm", "5,0"), "--camera-off-mm '5,0' is no vector"),
        (("--camera", "d405", "--camera-off-deg", "5,0,nan"), "--camera-off-deg '5,0,nan' is no vector"),
        (("--camera", "d405", "--camera-off-deg", "a,b,c"), "three numbers as in 5,0,-2.5"),
    ],
)
def test_a_camera_that_cannot_be_is_one_sentence(given: tuple[str, ...], says: str) -> None:
    result = CliRunner().invoke(APP, ["simulate", "--port", "0", *given])
    assert says in str(result.exception)


def test_the_calibration_is_there_before_anybody_connects(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("trainer.server.SimulatorServer.serve", lambda self, _: self._listener.close())
    path = tmp_path / "robot.json"
    result = CliRunner().invoke(
        APP, ["simulate", "--port", "0", "--camera", "d435", "--camera-off-mm", "0,0,-60", "--calibration", str(path)]
    )
    assert result.exit_code == 0, result.output
    assert (
        json.loads(path.read_text())["hand_eye"]["made"]["by"]
        == "dofbot simulate --camera d435 --camera-off-mm 0,0,-60 --camera-off-deg 0,0,0"
    )
    pose = np.linalg.inv(spec.camera_to_tool()) @ np.array(calibration.load(path).hand_eye.transform_camera_to_tool)  # type: ignore[union-attr]
    np.testing.assert_allclose(pose[:3, 3], (0.0, 0.0, -0.06), atol=1e-12)


def test_the_study_and_the_robot_see_the_same_input(world) -> None:
    """Where the camera is the policy's, the image as it is and the projected one are one observation."""
    camera, wanted = CONTRACT.camera, CONTRACT.depth
    assert wanted is not None
    frame = Frame(seen(world, sensors.mounted(camera, (0.0, 0.0, 0.0)), START_M), LENS, 0.0, 0)
    project = Reprojection(LENS, NO_DISTORTION, spec.camera_to_tool(), camera)
    np.testing.assert_allclose(
        depth_input(project(frame), wanted, camera.intrinsics), depth_input(frame, wanted, camera.intrinsics), atol=1e-5
    )
