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
SIZE = (1600, 1200)
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


@pytest.fixture(scope="module")
def views() -> list[View]:
    found = {path: detect(read_image(path), BOARD) for path in sorted((DATA / "charuco-industrial" / "images").glob("*.png"))}
    return [View(path.name, boards.points_m(BOARD, one.ids), one.corners_px) for path, one in found.items()]


def _by_opencv(views: list[View], flags: int, coefficients: int) -> tuple[float, np.ndarray, np.ndarray]:
    """Reprojection error, camera matrix and distortion."""
    points, corners = [view.points_m.astype(np.float32) for view in views], [view.corners_px.astype(np.float32) for view in views]
    start = Lens(Intrinsics(*SIZE, 1400.0, 1400.0, 799.5, 599.5)).matrix()
    flags |= cv2.CALIB_USE_INTRINSIC_GUESS
    rms, matrix, distortion, *_ = cv2.calibrateCamera(points, corners, SIZE, start, np.zeros(coefficients), flags=flags)
    return rms, matrix, distortion


def test_eight_coefficients_predict_a_real_lens_no_better_than_five(views: list[View]) -> None:
    """0.525 px against 0.508 px on images that the fit has not seen: why there is no rational model here."""
    squares = {5: 0.0, 8: 0.0}
    for coefficients, flags in ((5, 0), (8, cv2.CALIB_RATIONAL_MODEL)):
        for fold in range(4):
            _, matrix, distortion = _by_opencv([view for i, view in enumerate(views) if i % 4 != fold], flags, coefficients)
            for view in views[fold::4]:
                _, turn, shift = cv2.solvePnP(view.points_m, view.corners_px, matrix, distortion)
                found, _ = cv2.projectPoints(view.points_m, turn, shift, matrix, distortion)
                squares[coefficients] += float(np.square(found.reshape(-1, 2) - view.corners_px).sum())
    assert squares[8] > squares[5]


def test_opencv_finds_the_same_lens_in_real_images_and_they_are_too_few_for_it(views: list[View]) -> None:
    ours = calibrate(views, SIZE)
    assert len(ours.views) == 16
    rms, matrix, distortion = _by_opencv(views, cv2.CALIB_FIX_K3, 5)
    theirs = Lens(Intrinsics(*SIZE, matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2]), tuple(distortion.ravel()[:5].tolist()))
    assert ours.model == "k1 k2 p1 p2"
    assert ours.fit.rms_px == pytest.approx(rms, rel=1e-3)
    assert apart_px(ours.fit.lens, theirs) < 0.05
    judged = verdict.figures(ours, coverage.counts([view.corners_px for view in views], SIZE))
    assert [one.name for one in judged if one.state == "refused"] == ["lenses of two halves of the views apart, px"]
