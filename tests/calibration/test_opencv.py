"""Whatever OpenCV's version: one shape, one dtype, and the same numbers as a formula on paper."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from calibration import boards
from calibration.opencv import (
    NO_DISTORTION,
    Lens,
    board_pose,
    find_charuco,
    find_markers,
    homography,
    pose_matrix,
    pose_vector,
    project,
    project_with_derivatives,
    square_poses,
    undistort,
)
from calibration.simulated import render
from edge.messages import Float64
from tests.calibration.scenes import BOARD, LENS, facing, views

POINTS_M = boards.drawn_points_m(BOARD, np.arange(24))


def by_hand(points_m: Float64, pose: Float64, lens: Lens) -> Float64:
    """Brown's model, written out."""
    x, y, z = (points_m @ pose[:3, :3].T + pose[:3, 3]).T
    x, y = x / z, y / z
    k1, k2, p1, p2, k3 = lens.distortion
    r2 = x * x + y * y
    radial = 1.0 + k1 * r2 + k2 * r2**2 + k3 * r2**3
    xd = x * radial + 2.0 * p1 * x * y + p2 * (r2 + 2.0 * x * x)
    yd = y * radial + p1 * (r2 + 2.0 * y * y) + 2.0 * p2 * x * y
    _, _, fx, fy, cx, cy = lens.intrinsics
    return np.column_stack((fx * xd + cx, fy * yd + cy))


def test_projection_is_the_formula_and_undistortion_its_inverse() -> None:
    for pose, _ in views():
        pixels = project(POINTS_M, pose, LENS)
        assert pixels.shape == (24, 2)
        assert pixels.dtype == np.float64
        np.testing.assert_allclose(pixels, by_hand(POINTS_M, pose, LENS), atol=1e-8)
        rays = undistort(pixels, LENS)
        in_camera = POINTS_M @ pose[:3, :3].T + pose[:3, 3]
        np.testing.assert_allclose(rays, in_camera[:, :2] / in_camera[:, 2:], atol=1e-8)


def test_derivatives_agree_with_differences() -> None:
    pose = pose_vector(views()[0][0])
    camera = np.array([610.0, 612.0, 322.0, 238.0, *LENS.distortion])
    pixels, by_pose, by_camera = project_with_derivatives(POINTS_M, pose, camera)
    assert (pixels.shape, by_pose.shape, by_camera.shape) == ((24, 2), (48, 6), (48, 9))
    for given, derivative in ((pose, by_pose), (camera, by_camera)):
        for i in range(given.size):
            step = np.zeros(given.size)
            step[i] = 1e-6 * max(1.0, abs(given[i]))
            moved = [
                project_with_derivatives(POINTS_M, *((given + sign * step, camera) if given is pose else (pose, given + sign * step)))[0]
                for sign in (1.0, -1.0)
            ]
            np.testing.assert_allclose((moved[0] - moved[1]).ravel() / (2.0 * step[i]), derivative[:, i], rtol=1e-4, atol=1e-3)


def test_pose_vectors_are_rotation_vectors() -> None:
    vector = np.array([0.3, -0.2, 0.9, 0.1, 0.2, 0.3])
    pose = pose_matrix(vector)
    np.testing.assert_allclose(pose[:3, :3], Rotation.from_rotvec(vector[:3]).as_matrix(), atol=1e-12)
    np.testing.assert_allclose(pose_vector(pose), vector, atol=1e-12)


def test_an_empty_detection_has_the_shapes_of_any_other() -> None:
    nothing = np.full((48, 64), 120, np.uint8)
    markers = find_markers(nothing, "DICT_4X4_50")
    assert (markers.ids.shape, markers.corners_px.shape) == ((0,), (0, 4, 2))
    ids, corners_px, seen = find_charuco(nothing, (5, 7), 0.72, "DICT_4X4_50")
    assert (ids.shape, corners_px.shape, seen.shape) == ((0,), (0, 2), (0,))
    ids, corners_px, seen = find_charuco(views()[1][1], (5, 7), 0.72, "DICT_4X4_50")
    assert (ids.dtype, corners_px.dtype, seen.ndim) == (np.int64, np.float64, 1)
    assert corners_px.shape == (ids.size, 2)


def test_corners_have_no_bias_of_half_a_pixel() -> None:
    off = []
    for pose, image in views():
        ids, corners_px, _ = find_charuco(image, (5, 7), 0.72, "DICT_4X4_50")
        off.append(corners_px - project(POINTS_M, pose, LENS)[ids])
    assert np.abs(np.concatenate(off).mean(axis=0)).max() < 0.03


def test_a_board_pose_is_found_and_one_on_a_line_is_none() -> None:
    for pose, _ in views():
        found = board_pose(POINTS_M, project(POINTS_M, pose, LENS), LENS)
        assert found is not None
        np.testing.assert_allclose(found, pose, atol=1e-6)
    line = POINTS_M[:4]
    assert board_pose(line, project(line, views()[0][0], LENS), LENS) is None


def test_a_tilted_square_has_two_poses_and_the_better_is_the_true_one() -> None:
    block = boards.blocks()
    pose = facing(0.2, (0.025, 0.025), tilt_rad=0.5)
    corners = np.array([[0.0, 0.0, 0.0], [0.025, 0.0, 0.0], [0.025, 0.025, 0.0], [0.0, 0.025, 0.0]])
    found = square_poses(project(corners, pose, LENS), block.markers[0].size_m, LENS)
    assert len(found) == 2
    assert found[0].error_px < 1e-3 < found[1].error_px
    np.testing.assert_allclose(found[0].transform_marker_to_camera[:3, 3], (0.0, 0.0, 0.2), atol=1e-6)


def test_a_homography_maps_points_to_pixels() -> None:
    flat = Lens(LENS.intrinsics, NO_DISTORTION)
    pixels = project(POINTS_M, views()[0][0], flat)
    mapped = np.column_stack((POINTS_M[:, :2], np.ones(24))) @ homography(POINTS_M[:, :2], pixels).T
    np.testing.assert_allclose(mapped[:, :2] / mapped[:, 2:], pixels, atol=1e-6)


def test_a_render_shows_the_paper_where_the_lens_puts_it() -> None:
    centre = project(np.array([[0.0125, 0.0125, 0.0], [0.0375, 0.0875, 0.0]]), views()[1][0], LENS).round().astype(int)
    levels = views()[1][1][centre[:, 1], centre[:, 0]]
    assert levels[0] == pytest.approx(render.INK, abs=1.0)  # the first square is black
