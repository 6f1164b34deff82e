"""Images that others made of a board that others printed: what is in them is found, and a second solver agrees."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from calibration import boards, coverage, verdict
from calibration.bundle import View
from calibration.detect import detect
from calibration.intrinsics import apart_px, calibrate
from calibration.opencv import Lens, find_markers
from calibration.session import read_image
from edge.errors import CalibrationError
from edge.messages import Intrinsics

DATA = Path(__file__).parents[2] / ".." / "shared" / "data"
BOARD = boards.measured(boards.charuco(5, 7, 0.036195, 0.018256, "DICT_6X6_250"), (100.0, 100.0))
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"others' images are not at {DATA}")


@pytest.mark.parametrize(("name", "markers", "corners"), [("charuco_unobscured", 16, 24), ("charuco_obscured", 14, 16)])
def test_a_real_board_is_found(name: str, markers: int, corners: int) -> None:
    image = read_image(DATA / "detection" / f"{name}.jpg")
    assert len(find_markers(image, BOARD.dictionary).ids) == markers  # what the data's README says
    assert len(detect(image, BOARD).ids) >= corners


def test_too_little_of_a_real_board_is_refused() -> None:
    image = read_image(DATA / "detection" / "charuco_one_corner.jpg")
    assert len(find_markers(image, BOARD.dictionary).ids) == 2
    with pytest.raises(CalibrationError, match="2 markers of DICT_6X6_250, expected at least 4"):
        detect(image, BOARD)


def test_opencv_finds_the_same_lens_in_real_images_and_they_are_too_few_for_it() -> None:
    views = []
    for path in sorted((DATA / "charuco-industrial" / "images").glob("*.png")):
        found = detect(read_image(path), BOARD)
        views.append(View(path.name, boards.points_m(BOARD, found.ids), found.corners_px))
    size = (1600, 1200)
    ours = calibrate(views, size)
    assert len(ours.views) == 16
    start = Lens(Intrinsics(*size, 1400.0, 1400.0, 799.5, 599.5))
    rms, matrix, distortion, *_ = cv2.calibrateCamera(
        [view.points_m.astype(np.float32) for view in views],
        [view.corners_px.astype(np.float32) for view in views],
        size,
        start.matrix(),
        np.zeros(5),
        flags=cv2.CALIB_USE_INTRINSIC_GUESS | cv2.CALIB_FIX_K3,
    )
    theirs = Lens(Intrinsics(*size, matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2]), tuple(distortion.ravel()[:5].tolist()))
    assert ours.model == "k1 k2 p1 p2"
    assert ours.fit.rms_px == pytest.approx(rms, rel=1e-3)
    assert apart_px(ours.fit.lens, theirs) < 0.05
    judged = verdict.figures(ours, coverage.counts([view.corners_px for view in views], size))
    assert [one.name for one in judged if one.state == "refused"] == ["lenses of two halves of the views apart, px"]
