"""A camera that has moved is told from an arm that came back as well as it can."""

from pathlib import Path

import numpy as np
import pytest

from calibration import boards, check
from calibration.detect import Detection
from edge.errors import CalibrationError, ConfigError
from tests.calibration.scenes import BOARD

SIZE = (640, 480)


def returns(count: int, sd_px: float, rng: np.random.Generator, shift_px: float = 0.0) -> list[Detection]:
    """The board as it looks after the arm came back: all corners move together, and each by a tenth of a pixel."""
    grid = boards.drawn_points_m(BOARD, np.arange(24))[:, :2] * 2500.0 + 100.0
    moves = rng.normal(0.0, sd_px, (count, 2)) + (shift_px, 0.0)
    return [Detection(np.arange(24), grid + move + rng.normal(0.0, 0.1, grid.shape), 2.0) for move in moves]


def test_a_return_is_no_move_and_a_knock_is() -> None:
    rng = np.random.default_rng(0)
    reference = check.learn(returns(5, 2.0, rng), BOARD, SIZE)
    assert reference.limit_px == pytest.approx(check.LIMIT_TIMES * reference.spread_px)
    honest = [check.compare(reference, one, SIZE).has_moved for one in returns(200, 2.0, rng)]
    knocked = [check.compare(reference, one, SIZE).has_moved for one in returns(200, 2.0, rng, shift_px=20.0)]
    assert np.mean(honest) < 0.05
    assert np.mean(knocked) > 0.95


def test_an_arm_that_stands_still_is_not_judged_more_strictly_than_corners_are_found() -> None:
    reference = check.learn(returns(3, 0.0, np.random.default_rng(0)), BOARD, SIZE)
    assert reference.limit_px == check.LIMIT_MIN_PX


def test_what_cannot_be_said_is_an_error(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    found = returns(3, 1.0, rng)
    with pytest.raises(CalibrationError, match="expected at least 3"):
        check.learn(found[:2], BOARD, SIZE)
    reference = check.learn(found, BOARD, SIZE)
    with pytest.raises(CalibrationError, match="expected 640 × 480"):
        check.compare(reference, found[0], (424, 240))
    few = Detection(found[0].ids[:3], found[0].corners_px[:3], 2.0)
    with pytest.raises(CalibrationError, match="3 corners of the reference"):
        check.compare(reference, few, SIZE)
    with pytest.raises(CalibrationError, match="3 corners are in all images"):
        check.learn([*found, few], BOARD, SIZE)
    check.save(tmp_path / "reference.json", reference)
    assert check.load(tmp_path / "reference.json") == reference
    (tmp_path / "reference.json").write_bytes(b"{}")
    for path in (tmp_path / "reference.json", tmp_path / "none.json"):
        with pytest.raises(ConfigError, match="--learn"):
            check.load(path)


def test_a_corner_that_is_not_a_number_is_a_move() -> None:
    assert check.Shift(float("nan"), 1.0, 24).has_moved
