"""Corners are where they are, and whatever spoils an image is named."""

from collections.abc import Callable

import msgspec
import numpy as np
import pytest

from calibration import boards
from calibration.detect import detect
from calibration.opencv import Image, project
from calibration.simulated import render
from edge.errors import CalibrationError
from tests.calibration.scenes import BOARD, LENS, TILT_RAD, facing, views

POINTS_M = boards.drawn_points_m(BOARD, np.arange(24))


# What a study measured on its own renders with OpenCV's own corners (facts, 4.1), times 1.5; and how many of the corners in view at least.
@pytest.mark.parametrize(
    ("spoil", "rms_px", "share"),
    [
        (lambda image, rng: image, 0.060 * 1.5, 0.85),
        (lambda image, rng: render.noisy(image, 8.0, rng), 0.081 * 1.5, 0.85),
        (lambda image, rng: render.blurred(image, 1.0), 0.056 * 1.5, 0.85),
        (lambda image, rng: render.blurred(image, 2.0), 0.093 * 1.5, 0.73),
        (lambda image, rng: render.covered(image, (320.0, 240.0), 60.0), 0.060 * 1.5, 0.3),
        (lambda image, rng: render.shaded(image, 0.4), 0.060 * 1.5, 0.85),
    ],
    ids=["clean", "noise 8", "blur 1", "blur 2", "covered", "shaded"],
)
def test_corners_are_where_the_lens_puts_them(spoil: Callable[[Image, np.random.Generator], Image], rms_px: float, share: float) -> None:
    rng = np.random.default_rng(0)
    off, in_view = [], 0
    for pose, image in views():
        true_px = project(POINTS_M, pose, LENS)
        in_view += int(((true_px > 3.0) & (true_px < (636.0, 476.0))).all(axis=1).sum())
        try:
            found = detect(spoil(image, rng), BOARD)
        except CalibrationError:
            continue
        off.append(found.corners_px - true_px[found.ids])
    everything = np.concatenate(off)
    assert np.sqrt(np.square(everything).sum(axis=1).mean()) < rms_px
    assert np.linalg.norm(everything, axis=1).max() < 0.7
    assert len(everything) >= share * in_view


def spoilt(image: Image) -> dict[str, Image]:
    rng = np.random.default_rng(1)
    return {
        "blurred": render.blurred(image, 3.0),
        "blurred: 0 markers": render.blurred(image, 5.0),
        "blurred: an edge": render.smeared(image, 9),
        "blurred:": render.smeared(image, 13),
        "glare": render.glaring(image, (320.0, 240.0), 150.0),
        "mirrored": np.ascontiguousarray(image[:, ::-1]),
        "no board in view": render.noisy(np.full_like(image, 120), 5.0, rng),
        "no board in view: 0": np.zeros_like(image),
        "glare: 100%": np.full_like(image, 255),
        "only": np.where(np.indices(image.shape)[0] < 300, np.uint8(120), image),
    }


@pytest.mark.parametrize("says", list(spoilt(np.zeros((1, 1), np.uint8))))
def test_what_spoils_an_image_is_named(says: str) -> None:
    for _, image in views()[1:3]:
        with pytest.raises(CalibrationError) as caught:
            detect(spoilt(image)[says], BOARD)
        assert str(caught.value).startswith(says)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("board", "says"),
    [
        (msgspec.structs.replace(BOARD, columns=7, rows=5), "columns and rows are swapped"),
        (boards.charuco(dictionary="DICT_5X5_100"), "wrong dictionary: .* of DICT_4X4_50"),
        (boards.charuco(columns=6, rows=9), "another board's JSON"),
        (boards.aruco(), "another board's JSON"),
        (boards.grid(), "another board: markers 0 to 16 .* expected 40 to 43"),
    ],
    ids=["swapped", "dictionary", "shape", "kind", "ids"],
)
def test_another_board_than_expected_is_named(board: boards.Board, says: str) -> None:
    with pytest.raises(CalibrationError, match=says):
        detect(views()[1][1], board)


def test_a_reflection_that_leaves_most_corners_is_refused_as_well() -> None:
    pose, image = views()[2]
    spots = project(np.array([[0.0625, 0.0125, 0.0], [0.1125, 0.1625, 0.0], [0.0125, 0.1125, 0.0], [0.0125, 0.0125, 0.0]]), pose, LENS)
    for u, v in spots:
        image = render.glaring(image, (u, v), 18.0)
    detect(image, BOARD)  # four of eighteen black squares are bearable
    for u, v in project(np.array([[0.1125, 0.0125, 0.0], [0.0125, 0.1625, 0.0]]), pose, LENS):
        image = render.glaring(image, (u, v), 18.0)
    with pytest.raises(CalibrationError, match="glare: 33% of the black squares"):
        detect(image, BOARD)


@pytest.mark.parametrize("board", [boards.aruco(), boards.blocks(), boards.grid()], ids=["aruco", "blocks", "grid"])
def test_corners_of_markers_are_found_by_their_id(board: boards.MarkerBoard) -> None:
    pose = facing(0.35 if board.table_origin_m is None else 0.5, board.size_m, tilt_rad=0.3)
    found = detect(render.view(board, pose, LENS), board)
    off = found.corners_px - project(boards.drawn_points_m(board, found.ids), pose, LENS)
    assert found.ids.size == 4 * len(board.markers)
    assert np.sqrt(np.square(off).sum(axis=1).mean()) < 0.1


def test_the_same_seed_draws_the_same_views() -> None:
    first, second = (render.poses(3, np.random.default_rng(7), (0.2, 0.3), TILT_RAD, BOARD) for _ in range(2))
    np.testing.assert_array_equal(first, second)
