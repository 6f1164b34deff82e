"""Scale, offset, noise and holes of a depth camera come out as they were put in."""

import numpy as np
import pytest

from calibration import depth
from calibration.opencv import Lens
from calibration.simulated import render
from edge import calibration as files
from edge.errors import CalibrationError
from edge.messages import Float32, Float64, Intrinsics
from tests.calibration.scenes import BOARD, facing

LENS = Lens(Intrinsics(424, 240, 214.0, 214.0, 211.5, 119.5))
NOISE_PX = 0.08  # of disparity
BASELINE_PX_M = 214.0 * 0.05


def measured(pose: Float64, rng: np.random.Generator, scale: float = 1.0, offset_m: float = 0.0, nearest_m: float = 0.0) -> Float32:
    """A stereo camera's depth image: true = scale · measured + offset, noise that grows with the square of the distance, holes."""
    true_m = render.depth(pose, LENS)
    shown_m = (true_m - offset_m) / scale
    shown_m += rng.normal(0.0, 1.0, true_m.shape) * true_m**2 * NOISE_PX / BASELINE_PX_M
    is_hole = (true_m < nearest_m) | (rng.uniform(size=true_m.shape) < 0.03)
    return np.where(is_hole, 0.0, shown_m).astype(np.float32)


def looks(
    scale: float, offset_m: float, distances_m: tuple[float, ...] = (0.2, 0.25, 0.3, 0.35, 0.4), nearest_m: float = 0.0
) -> list[depth.Look]:
    rng = np.random.default_rng(2)
    poses = [facing(distance_m, BOARD.size_m, tilt_rad=0.2 * (-1) ** i) for i, distance_m in enumerate(distances_m)]
    return [depth.look(measured(pose, rng, scale, offset_m, nearest_m), pose, BOARD, LENS) for pose in poses]


@pytest.mark.parametrize(("scale", "offset_m"), [(1.0, 0.0), (1.03, -0.004), (0.97, 0.006)])
def test_scale_and_offset_come_out_as_put_in(scale: float, offset_m: float) -> None:
    found = depth.fit(looks(scale, offset_m))
    assert found.scale == pytest.approx(scale, abs=1e-3)
    assert found.offset_m == pytest.approx(offset_m, abs=3e-4)
    assert found.sigma_scale < 2e-3
    for one in found.looks:
        assert one.filled == pytest.approx(0.97, abs=0.02)
        assert one.noise_m == pytest.approx(one.distance_m**2 * NOISE_PX / BASELINE_PX_M, rel=0.3)
        assert one.tilt_deg < 0.5
    assert all(check.found <= check.limit for check in depth.correction(found, "7").made.checks)


def test_views_nearer_than_the_camera_sees_are_left_out_and_told() -> None:
    found = depth.fit(looks(1.0, 0.0, nearest_m=0.22))
    assert [round(one.distance_m, 1) for one in found.blind] == [0.2]
    assert found.blind[0].filled < 0.5


def test_what_does_not_determine_them_is_refused() -> None:
    with pytest.raises(CalibrationError, match="1.3 times the nearest"):
        depth.fit(looks(1.0, 0.0, (0.30, 0.31, 0.32)))
    with pytest.raises(CalibrationError, match="expected at least 3"):
        depth.fit(looks(1.0, 0.0, (0.2, 0.4)))
    with pytest.raises(CalibrationError, match="like the lens"):
        depth.look(np.zeros((480, 640), np.float32), facing(0.3, BOARD.size_m), BOARD, LENS)
    with pytest.raises(CalibrationError, match="covers 0 pixels"):
        depth.look(np.zeros((240, 424), np.float32), facing(0.3, (4.0, 4.0)), BOARD, LENS)


def test_a_camera_that_is_far_off_is_not_written() -> None:
    part = depth.correction(depth.fit(looks(1.08, 0.0)), "7")
    assert [check.name for check in part.made.checks if check.found > check.limit] == ["depth scale off, %"]
    assert isinstance(part, files.DepthCorrection)
