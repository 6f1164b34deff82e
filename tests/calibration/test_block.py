"""A block's marker tells where it lies, within a millimetre and a degree, whichever way it is turned."""

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibration import boards
from calibration.block import BlockFinder
from calibration.boards import MarkerBoard, Placed
from calibration.opencv import Image, project, undistort
from calibration.simulated import render
from edge.block import on_plane
from edge.errors import CalibrationError, ObservationError
from edge.messages import Float64
from tests.calibration.scenes import LENS

BLOCK_M = 0.030
ONE = MarkerBoard(size_m=(0.030, 0.030), markers=(Placed(32, 0.0025, 0.0025, 0.025),), dictionary="DICT_4X4_50", ruler_mm=(100.0, 100.0))
FINDER = BlockFinder(ONE, BLOCK_M, LENS)


def camera_above(height_m: float, x_m: float = 0.02, y_m: float = 0.07, tilt_rad: float = 0.21) -> Float64:
    """`transform_camera_to_table` of a wrist camera that looks down and, as ours is mounted, 12° ahead."""
    pose = np.eye(4)
    cosine, sine = np.cos(tilt_rad), np.sin(tilt_rad)
    pose[:3, :3] = np.column_stack(((1.0, 0.0, 0.0), (0.0, -cosine, -sine), (0.0, sine, -cosine)))
    pose[:3, 3] = (x_m, y_m, height_m)
    return pose


def board_on_block(x_m: float, y_m: float, yaw_rad: float, top_m: float = BLOCK_M) -> Float64:
    """`transform_board_to_table`: paper on top of a block, its middle at x, y."""
    pose = np.eye(4)
    cosine, sine = np.cos(yaw_rad), np.sin(yaw_rad)
    pose[:3, :3] = np.column_stack(((cosine, sine, 0.0), (sine, -cosine, 0.0), (0.0, 0.0, -1.0)))
    pose[:3, 3] = (x_m, y_m, top_m) - pose[:3, :3] @ (0.015, 0.015, 0.0)
    return pose


def seen(camera: Float64, block: Float64) -> Image:
    return render.view(ONE, np.linalg.inv(camera) @ block, LENS)


@pytest.mark.parametrize("height_m", [0.20 + BLOCK_M, 0.30 + BLOCK_M])
def test_a_block_is_found_within_a_millimetre_and_a_degree_in_noise(height_m: float) -> None:
    rng = np.random.default_rng(3)
    off_mm, off_deg = [], []
    for _ in range(4):
        x_m, y_m, yaw_rad = rng.uniform(-0.02, 0.06), rng.uniform(0.09, 0.15), rng.uniform(-np.pi, np.pi)
        camera = camera_above(height_m)
        image = seen(camera, board_on_block(x_m, y_m, yaw_rad))
        for _ in range(3):
            (block,) = FINDER.find(render.noisy(image, 8.0, rng), camera)
            assert block.marker == 32
            assert block.centre_in_table_m[2] == BLOCK_M / 2.0
            off_mm.append(np.hypot(block.centre_in_table_m[0] - x_m, block.centre_in_table_m[1] - y_m) * 1e3)
            off_deg.append(np.degrees(abs((block.yaw_rad - yaw_rad + np.pi) % (2.0 * np.pi) - np.pi)))
    assert max(off_mm) < 0.3  # the bar is 1 mm
    assert max(off_deg) < 0.8  # and 1°


@given(x_m=st.floats(-0.05, 0.05), y_m=st.floats(0.05, 0.15), height_m=st.floats(0.1, 0.4))
def test_the_plane_is_where_the_lens_sees_it(x_m: float, y_m: float, height_m: float) -> None:
    camera = camera_above(height_m)
    point = np.array([[x_m, y_m, BLOCK_M]])
    pixels = project(point, np.linalg.inv(camera), LENS)
    if ((pixels < -100.0) | (pixels > 740.0)).any():
        return  # far outside of the image the distortion has no inverse
    np.testing.assert_allclose(on_plane(undistort(pixels, LENS), camera, BLOCK_M)[0], (x_m, y_m), atol=1e-6)


def test_a_block_that_is_not_on_the_table_and_another_marker_are_refused() -> None:
    camera = camera_above(0.25)
    with pytest.raises(ObservationError, match="its block is not on the table"):
        FINDER.find(seen(camera, board_on_block(0.02, 0.11, 0.3, top_m=2 * BLOCK_M)), camera)
    half = msgspec.structs.replace(ONE, markers=(Placed(32, 0.0, 0.0, 0.020),))
    with pytest.raises(ObservationError, match=r"25\.\d mm wide .* expected 20.0 mm"):
        BlockFinder(half, BLOCK_M, LENS).find(seen(camera, board_on_block(0.02, 0.11, 0.3)), camera)


def test_a_printer_that_scales_is_made_up_for() -> None:
    camera = camera_above(0.25)
    finder = BlockFinder(msgspec.structs.replace(ONE, ruler_mm=(104.0, 104.0)), BLOCK_M, LENS)
    (block,) = finder.find(seen(camera, board_on_block(0.02, 0.11, 0.3)), camera)
    assert block.size_off == pytest.approx(-0.04, abs=0.01)
    with pytest.raises(CalibrationError, match="--ruler-mm"):
        BlockFinder(boards.blocks(), BLOCK_M, LENS)


def test_nothing_in_view_is_an_empty_list_and_a_wrong_image_an_error() -> None:
    assert FINDER.find(np.full((480, 640), 120, np.uint8), camera_above(0.25)) == []
    with pytest.raises(CalibrationError, match="expected"):
        FINDER.find(np.zeros((240, 320), np.uint8), camera_above(0.25))
    upside_down = camera_above(0.25, tilt_rad=np.pi)
    with pytest.raises(ObservationError, match="does not look down"):
        FINDER.find(seen(camera_above(0.25), board_on_block(0.02, 0.11, 0.3)), upside_down)
