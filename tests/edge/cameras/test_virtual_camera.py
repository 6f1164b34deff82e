"""What the policy's camera would have seen is found in another's image, nothing is made up, and another robot's camera is refused."""

import math
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge import calibration, observation
from edge.calibration import Calibration, DepthCorrection, HandEye, Lens, Made
from edge.cameras.capture import CaptureProcess
from edge.cameras.virtual_camera import TOUCHING, Mounting, ReprojectedCamera, Reprojection, mounting_of, through
from edge.config import Config
from edge.contract import VirtualCamera
from edge.errors import ConfigError, ObservationError
from edge.messages import NO_DISTORTION, Frame, Intrinsics

ROOT = Path(__file__).parents[3]
FOCAL_PX = 32.0 / math.tan(math.radians(29.0))  # 58°, as the policies have it
LENS = Intrinsics(64, 64, FOCAL_PX, FOCAL_PX, 31.5, 31.5)
WIDE = Intrinsics(424, 240, 214.0, 214.0, 211.5, 119.5)  # a D4xx
POSE = ((-1.0, 0.0, 0.0, 0.0), (0.0, -0.8, -0.6, 0.06), (0.0, -0.6, 0.8, -0.095), (0.0, 0.0, 0.0, 1.0))
POLICY = VirtualCamera(LENS, POSE)
MADE = Made("2026-11-29T06:00:00+00:00", "test")


def turned(shift_m: tuple[float, ...] = (0.0, 0.0, 0.0), about: str = "z", angle_deg: float = 0.0) -> np.ndarray:
    """The policy's pose, moved in its own frame."""
    s, c, moved = math.sin(math.radians(angle_deg)), math.cos(math.radians(angle_deg)), np.eye(4)
    i, j = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[about]
    moved[i, i], moved[i, j], moved[j, i], moved[j, j] = c, -s, s, c
    moved[:3, 3] = shift_m
    return np.array(POSE) @ moved


def frame_of(depth_m: np.ndarray, lens: Intrinsics = WIDE, sequence: int = 7) -> Frame:
    return Frame(depth_m.astype(np.float32), lens, 12.5, sequence)


def noise(seed: int, lens: Intrinsics = WIDE) -> np.ndarray:
    """Each pixel another depth, and a third of them none."""
    rng = np.random.default_rng(seed)
    depth_m = rng.uniform(0.08, 0.4, (lens.height, lens.width))
    depth_m[rng.random(depth_m.shape) < 0.33] = 0.0
    return depth_m


lenses = st.builds(
    lambda scale, stretch, du, dv: Intrinsics(300, 280, FOCAL_PX * scale, FOCAL_PX * scale * stretch, 149.5 + du, 139.5 + dv),
    st.floats(1.0, 3.8),
    st.floats(0.9, 1.1),
    st.floats(-5.0, 5.0),
    st.floats(-5.0, 5.0),
)


@settings(max_examples=10)
@given(lenses, st.integers(0, 1000))
def test_from_the_policys_own_place_it_is_the_nearest_pixel_as_the_observation_takes_it(lens: Intrinsics, seed: int) -> None:
    frame = frame_of(noise(seed, lens), lens)
    found = Reprojection(lens, NO_DISTORTION, np.array(POSE), POLICY)(frame)
    nearest = frame.depth_m.ravel()[observation._pixels(lens, LENS)]
    u, v = ((np.arange(64) - 31.5) / FOCAL_PX * f + c for f, c in ((lens.fx, lens.cx), (lens.fy, lens.cy)))
    # Where the exact place is between two pixels, to within how much wider than its share a patch is, either will do.
    between_u, between_v = (np.abs(np.abs(at - np.rint(at)) - 0.5) < TOUCHING - 1.0 for at in (u, v))
    clear = ~(between_v[:, None] | between_u[None, :])
    assert clear.mean() > 0.5
    np.testing.assert_allclose(found.depth_m[clear], nearest[clear], rtol=1e-6)  # and no depth where it has none


def test_the_policys_own_camera_is_left_as_it_is_to_the_bit() -> None:
    frame = frame_of(noise(3, LENS), LENS)
    found = Reprojection(LENS, NO_DISTORTION, np.array(POSE), POLICY)(frame)
    np.testing.assert_array_equal(found.depth_m, frame.depth_m)
    assert found[1:4] == (LENS, 12.5, 7)


@settings(max_examples=10)
@given(
    st.tuples(*[st.floats(-0.01, 0.01)] * 3),
    st.sampled_from("xyz"),
    st.floats(-15.0, 15.0),
    st.integers(0, 1000),
)
def test_every_depth_is_of_a_pixel_that_was_measured(shift_m: tuple[float, ...], about: str, angle_deg: float, seed: int) -> None:
    """Of random depths nothing could be guessed: each pixel of the result is one measured point, in its ray's direction."""
    pose = turned(shift_m, about, angle_deg)
    measured_m = noise(seed)
    found = Reprojection(WIDE, NO_DISTORTION, pose, POLICY)(frame_of(measured_m)).depth_m
    rows, columns = np.nonzero(found)
    assert rows.size > 1000
    points = np.stack([(columns - 31.5) / FOCAL_PX, (rows - 31.5) / FOCAL_PX, np.ones(rows.size)]) * found[rows, columns]
    back = np.linalg.inv(pose) @ np.array(POSE)
    x, y, z = back[:3, :3] @ points + back[:3, 3:]
    u, v = np.rint(x / z * 214.0 + 211.5).astype(int), np.rint(y / z * 214.0 + 119.5).astype(int)
    away_m = np.full(rows.size, np.inf)
    for i in (-1, 0, 1):
        for j in (-1, 0, 1):
            inside = (v + i >= 0) & (v + i < 240) & (u + j >= 0) & (u + j < 424)
            there_m = np.where(inside, measured_m[np.clip(v + i, 0, 239), np.clip(u + j, 0, 423)], 0.0)
            away_m = np.minimum(away_m, np.where(there_m > 0.0, np.abs(there_m - z), np.inf))
    assert np.quantile(away_m, 0.99) < 0.002  # turned about its axis, a pixel's patch reaches over a neighbour's
    assert away_m.max() < 0.01


@pytest.mark.parametrize("bad", [0.0, -0.2, np.nan, np.inf, -np.inf])
def test_without_depth_there_is_none(bad: float) -> None:
    for pose in (np.array(POSE), turned((0.005, 0.0, -0.01), "x", 8.0)):
        found = Reprojection(WIDE, NO_DISTORTION, pose, POLICY, 1.02, 0.01)(frame_of(np.full((240, 424), bad)))
        assert not found.depth_m.any()


def test_a_hole_stays_a_hole_and_noise_stays_noise() -> None:
    rng = np.random.default_rng(1)
    scene_m = 0.2 + rng.normal(0.0, 3e-4, (2, 240, 424))
    scene_m[:, 90:130, 180:230] = 0.0
    project = Reprojection(WIDE, NO_DISTORTION, turned((0.004, -0.003, 0.0), "y", 3.0), POLICY)
    one, two = (project(frame_of(depth_m)).depth_m for depth_m in scene_m)
    holes = one == 0.0
    assert 0.02 < holes[16:48, 8:56].mean() < 0.10  # 50 × 40 of the sensor's pixels are 13 × 11 of these, of 48 × 32
    both = (one > 0.0) & (two > 0.0)
    assert np.std((one - two)[both]) == pytest.approx(math.sqrt(2) * 3e-4, rel=0.1)
    np.testing.assert_array_equal(one, project(frame_of(scene_m[0])).depth_m)  # a stuck camera still repeats itself


def test_what_is_near_hides_what_is_far() -> None:
    """A board in front of a wall, from 10 mm beside: where the board must be, no pixel shows the wall."""
    at_u = np.arange(424)[None, :]
    scene_m = np.where((at_u > 180) & (at_u < 260), 0.10, 0.30) * np.ones((240, 1))
    for side_m in (-0.01, 0.01):
        found = Reprojection(WIDE, NO_DISTORTION, turned((side_m, 0.0, 0.0)), POLICY)(frame_of(scene_m)).depth_m
        left, right = (((u - 211.5) / 214.0 * 0.10 + side_m) / 0.10 * FOCAL_PX + 31.5 for u in (181, 259))
        board = found[:, math.ceil(left) + 1 : math.floor(right)]
        assert board.shape[1] > 15
        np.testing.assert_allclose(board, 0.10, rtol=1e-5)
        wall = found[:, : math.floor(left) - 12]
        np.testing.assert_allclose(wall[wall > 0.0], 0.30, rtol=1e-5)
        # What the board hid from the real camera, nobody knows.
        hides, at = abs(side_m) * FOCAL_PX * (1 / 0.10 - 1 / 0.30), np.arange(64)
        hidden = (at > left - hides + 1) & (at < left - 1) if side_m > 0 else (at > right + 1) & (at < right + hides - 1)
        assert hidden.any()
        assert not found[:, hidden].any()


def test_coarser_than_the_policys_camera_it_has_no_cracks() -> None:
    found = Reprojection(LENS, NO_DISTORTION, turned((0.0, 0.0, -0.06), "z", 20.0), POLICY)(frame_of(np.full((64, 64), 0.16), LENS)).depth_m
    inner = found[12:52, 12:52]
    np.testing.assert_allclose(inner, 0.10, rtol=1e-4)


def test_a_correction_and_a_lens_are_made_up_for() -> None:
    cv2 = pytest.importorskip("cv2")
    distortion = (0.08, -0.05, 0.002, -0.001, 0.01)
    matrix = np.array([[214.0, 0.0, 211.5], [0.0, 214.0, 119.5], [0.0, 0.0, 1.0]])
    pixels = np.stack(np.meshgrid(np.arange(424.0), np.arange(240.0)), axis=-1).reshape(-1, 1, 2)
    rays = cv2.undistortPoints(pixels, matrix, np.array(distortion))[:, 0]
    # The plane z = 0.2 + 0.4·x + 0.2·y, and what a camera makes of it that reads 2 % short and 3 mm long.
    plane = lambda x, y: 0.2 / (1.0 - 0.4 * x - 0.2 * y)  # noqa: E731
    reads_m = (plane(*rays.T).reshape(240, 424) - 0.003) / 1.02
    found = Reprojection(WIDE, distortion, np.array(POSE), POLICY, 1.02, 0.003)(frame_of(reads_m)).depth_m
    at = (np.arange(64) - 31.5) / FOCAL_PX
    true_m = plane(at[None, :], at[:, None])
    seen = found > 0.0
    assert seen.mean() > 0.97
    # Half a sensor pixel aside this plane is 0.5·0.45/214 of its depth off.
    assert np.abs(found - true_m)[seen].max() < 0.0012


@pytest.mark.parametrize("depth_m", [np.zeros((240, 424)), np.zeros((424, 240), np.float32), np.zeros((64, 64), np.float32)])
def test_another_image_than_the_lens_has_is_refused(depth_m: np.ndarray) -> None:
    with pytest.raises(ObservationError, match=r"expected float32 \(240, 424\)"):
        Reprojection(WIDE, NO_DISTORTION, np.array(POSE), POLICY)(Frame(depth_m, WIDE, 0.0, 0))


def rows(pose: np.ndarray) -> tuple[tuple[float, ...], ...]:
    return tuple(map(tuple, pose.tolist()))


def calibrated(serial: str = "123", lens: Intrinsics | None = WIDE, pose: np.ndarray | None = None, depth: bool = False) -> Calibration:
    driven = msgspec.structs.replace(Config().bus, driver="pca9685")
    return msgspec.structs.replace(
        calibration.blank(msgspec.structs.replace(Config(), bus=driven), "ab"),
        lens=None if lens is None else Lens(serial, lens, NO_DISTORTION, MADE),
        hand_eye=None if pose is None else HandEye(serial, rows(pose), MADE),  # type: ignore[arg-type]
        depth=DepthCorrection(serial, 1.1, 0.0, MADE) if depth else None,
    )


class FakeCamera:
    """Always the same plane, each time it is asked another frame."""

    def __init__(self, lens: Intrinsics = WIDE, serial: str = "123") -> None:
        self.lens, self.serial, self.closed, self.sequence = lens, serial, 0, 0
        self.frame = frame_of(np.full((lens.height, lens.width), 0.2), lens)

    def start(self) -> Intrinsics:
        return self.lens

    def latest(self) -> Frame | None:
        return self.frame

    def close(self) -> None:
        self.closed += 1


def mounted(found: Calibration) -> Mounting:
    mounting = mounting_of(found, Path("robot.json"), POLICY)
    assert mounting is not None
    return mounting


def test_a_calibrated_camera_looks_like_the_policys() -> None:
    inner = FakeCamera()
    camera = ReprojectedCamera(inner, mounted(calibrated(pose=turned((0.0, 0.0, -0.05)))))
    assert camera.latest() is None  # nobody knows its lens yet
    assert camera.start() == LENS
    frame = camera.latest()
    assert frame is not None
    assert frame is camera.latest()
    assert frame[1:4] == (LENS, 12.5, 7)
    np.testing.assert_allclose(frame.depth_m[20:44, 20:44], 0.15, atol=1e-6)
    assert camera.serial == "123"
    camera.close()
    assert inner.closed == 1


def test_what_was_not_measured_is_as_reported_and_as_trained() -> None:
    camera = ReprojectedCamera(FakeCamera(), mounted(calibrated(lens=None, depth=True)))
    camera.start()
    frame = camera.latest()
    assert frame is not None
    np.testing.assert_allclose(frame.depth_m, 0.22, rtol=1e-6)
    assert mounting_of(calibrated(lens=None), Path("robot.json"), POLICY) is None


@pytest.mark.parametrize(
    ("found", "camera", "says"),
    [
        (calibrated("999"), FakeCamera(), r"lens.serial is '999', expected '123', which is plugged in"),
        (calibrated(), FakeCamera(Intrinsics(848, 480, 428.0, 428.0, 423.5, 239.5)), r"424×240.*848×480.*the same profile"),
        (calibrated(), FakeCamera(WIDE._replace(fx=230.0)), r"fx 214.0 px.*fx 230.0 px.*calibrate the lens again"),
        (calibrated(), FakeCamera(WIDE._replace(cy=90.0)), r"centre \(211.5, 119.5\)"),
        (
            calibrated(pose=turned(about="x", angle_deg=60.0)),
            FakeCamera(),
            r"sees \d+% of the policy's view at 100 mm, expected at least",
        ),
        (calibrated(pose=turned(about="y", angle_deg=180.0)), FakeCamera(), r"sees 0% of the policy's view"),
    ],
)
def test_another_camera_profile_or_place_is_one_sentence(found: Calibration, camera: FakeCamera, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        ReprojectedCamera(camera, mounted(found)).start()
    assert "robot.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_lens_that_changes_on_the_way_is_refused_and_comes_back() -> None:
    inner = FakeCamera()
    camera = ReprojectedCamera(inner, mounted(calibrated()))
    camera.start()
    good = inner.frame
    inner.frame = frame_of(np.full((480, 848), 0.2), Intrinsics(848, 480, 428.0, 428.0, 423.5, 239.5))
    with pytest.raises(ObservationError, match=r"848×480.*expected 424×240.*restart"):
        camera.latest()
    inner.frame = good
    assert camera.latest() is not None


def test_in_the_capture_process_it_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control process sees frames of the policy's size, and what is wrong in one sentence."""
    monkeypatch.syspath_prepend(str(ROOT))
    (tmp_path / "camera_of_a_test.py").write_text(
        "import time\n"
        "import numpy as np\n"
        "from edge.messages import Frame, Intrinsics\n"
        "LENS = Intrinsics(424, 240, 214.0, 214.0, 211.5, 119.5)\n"
        "class Camera:\n"
        "    def __init__(self, serial):\n"
        "        self.serial = serial\n"
        "    def start(self):\n"
        "        return LENS\n"
        "    def latest(self):\n"
        "        now_s = time.monotonic()\n"
        "        return Frame(np.full((240, 424), 0.2 + now_s % 1e-3, np.float32), LENS, now_s, int(now_s * 50))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    mounting = mounted(calibrated(pose=turned((0.0, 0.0, -0.05))))
    for serial, says in (("123", ""), ("999", "is for another camera")):
        camera = CaptureProcess(*through(mounting, "camera_of_a_test:Camera", (serial,)), first_frame_within_s=60.0, restart_after_s=5.0)
        try:
            if says:
                with pytest.raises(ObservationError, match=says):
                    camera.start()
                continue
            assert camera.start() == LENS
            frame = camera.latest()
            assert frame is not None
            assert frame.depth_m.shape == (64, 64)
            assert frame.depth_m[32, 32] == pytest.approx(0.15, abs=2e-3)
            assert camera.serial == serial
        finally:
            camera.close()
    assert through(None, "a:b", (1, "c")) == ("a:b", (1, "c"))
