"""A camera that has moved is told from an arm that came back as well as it can, in millimetres, and by how much it has moved."""

from pathlib import Path

import numpy as np
import pytest

from calibration import boards, check
from calibration.arm.model import rotation
from calibration.detect import Detection
from calibration.opencv import project
from edge.errors import CalibrationError, ConfigError
from edge.messages import Float64
from tests.calibration.scenes import BOARD, LENS, facing

SIZE = (640, 480)
IDS = np.arange(24)
STILL = np.eye(4)


def moved(turn_rad: tuple[float, float, float] = (0.0, 0.0, 0.0), shift_m: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> Float64:
    """(4, 4) from where the camera was to where it is, in its own axes."""
    motion = np.eye(4)
    motion[:3, :3], motion[:3, 3] = rotation(np.array(turn_rad)), shift_m
    return motion


def seen(motion: Float64, rng: np.random.Generator, ids: np.ndarray = IDS) -> Detection:
    """The board as a camera sees it that was moved; corners are found within 0.1 px."""
    pose = np.linalg.inv(motion) @ facing(0.3, BOARD.size_m, 0.2)
    pixels = project(boards.points_m(BOARD, ids), pose, LENS)
    return Detection(ids, pixels + rng.normal(0.0, 0.1, pixels.shape), 2.0)


def returns(count: int, sd_deg: float, rng: np.random.Generator, away: Float64 = STILL) -> list[Detection]:
    """The board after the arm came back, each time as well as servos do."""
    return [seen(moved(tuple(rng.normal(0.0, np.radians(sd_deg), 3))) @ away, rng) for _ in range(count)]


def test_a_return_is_no_move_and_a_knock_is() -> None:
    rng = np.random.default_rng(0)
    reference = check.learn(returns(5, 0.2, rng), BOARD, LENS)
    assert reference.limit_mm == pytest.approx(check.LIMIT_TIMES * reference.spread_mm)
    assert 1.0 < reference.limit_mm < 8.0
    honest = [check.compare(reference, one, SIZE).has_moved for one in returns(200, 0.2, rng)]
    knocked = [check.compare(reference, one, SIZE).has_moved for one in returns(200, 0.2, rng, moved(shift_m=(0.012, 0.0, 0.0)))]
    assert np.mean(honest) < 0.05
    assert np.mean(knocked) > 0.95


def test_honest_returns_are_seldom_called_a_move() -> None:
    """Each call keeps an arm from being armed: with three learnt returns 5 % were."""
    rng = np.random.default_rng(5)
    found = []
    for _ in range(40):
        reference = check.learn(returns(check.RETURNS_MIN, 0.3, rng), BOARD, LENS)
        found += [check.compare(reference, one, SIZE).has_moved for one in returns(10, 0.3, rng)]
    assert np.mean(found) < 0.02


def test_an_arm_that_stands_still_is_not_judged_more_strictly_than_corners_are_found() -> None:
    reference = check.learn(returns(5, 0.0, np.random.default_rng(0)), BOARD, LENS)
    assert reference.limit_mm == check.LIMIT_MIN_MM


@pytest.mark.parametrize(
    ("motion", "off_mm", "camera_mm", "camera_deg"),
    [
        (STILL, 0.0, 0.0, 0.0),
        (moved(shift_m=(0.004, 0.0, 0.0)), 4.0, 4.0, 0.0),
        (moved(turn_rad=(0.0, np.radians(1.0), 0.0)), 5.3, 0.0, 1.0),  # 0.3 m · tan 1°
        (moved(turn_rad=(0.0, 0.0, np.radians(1.0))), 1.0, 0.0, 1.0),  # about the optical axis: little, the board is small
    ],
)
def test_the_move_is_told_in_millimetres_and_degrees_within_its_sigma(motion, off_mm, camera_mm, camera_deg) -> None:
    rng = np.random.default_rng(1)
    reference = check.learn(returns(6, 0.0, rng), BOARD, LENS)
    found = [check.compare(reference, seen(motion, rng), SIZE) for _ in range(100)]
    assert np.mean([one.off_mm for one in found]) == pytest.approx(off_mm, abs=0.35)
    turn = np.array([[one.camera_mm, one.camera_deg] for one in found])
    sigma = np.array([[one.camera_sigma_mm, one.camera_sigma_deg] for one in found])
    scores = np.sqrt(np.mean(((turn - (camera_mm, camera_deg)) / sigma) ** 2, axis=0))
    assert (scores < 1.4).all()
    assert scores.max() > 0.4  # σ is of all three axes, a turn about the optical one is told better


def test_fewer_corners_tell_less_of_the_camera() -> None:
    rng = np.random.default_rng(2)
    reference = check.learn(returns(5, 0.0, rng), BOARD, LENS)
    few, all_of_them = (
        np.median([check.compare(reference, seen(STILL, rng, ids), SIZE).camera_sigma_deg for _ in range(50)]) for ids in (IDS[:8], IDS)
    )
    assert few > 1.5 * all_of_them


def test_which_of_both_was_moved_is_not_claimed() -> None:
    reference = check.learn(returns(5, 0.0, np.random.default_rng(0)), BOARD, LENS)
    found = check.compare(reference, seen(moved(shift_m=(0.0, 0.005, 0.0)), np.random.default_rng(1)), SIZE)
    assert "MOVED" in str(found)
    assert "or the board was moved" in str(found)


def test_what_cannot_be_said_is_an_error(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    found = returns(5, 0.1, rng)
    with pytest.raises(CalibrationError, match="expected at least 5"):
        check.learn(found[:4], BOARD, LENS)
    reference = check.learn(found, BOARD, LENS)
    with pytest.raises(CalibrationError, match="expected 640 × 480"):
        check.compare(reference, found[0], (424, 240))
    few = Detection(found[0].ids[:3], found[0].corners_px[:3], 2.0)
    with pytest.raises(CalibrationError, match="3 corners of the reference"):
        check.compare(reference, few, SIZE)
    with pytest.raises(CalibrationError, match="3 corners are in all images"):
        check.learn([*found, few], BOARD, LENS)
    in_line = Detection(found[0].ids[:4], found[0].corners_px[:4], 2.0)  # a row of the board
    with pytest.raises(CalibrationError, match="not on one line"):
        check.compare(reference, in_line, SIZE)
    check.save(tmp_path / "reference.json", reference)
    assert check.load(tmp_path / "reference.json") == reference
    (tmp_path / "reference.json").write_bytes(b"{}")
    (tmp_path / "deep.json").write_bytes(b'{"board":{"a":' + 100_000 * b"[")
    for path in (tmp_path / "reference.json", tmp_path / "deep.json", tmp_path / "none.json"):
        with pytest.raises(ConfigError, match="--learn"):
            check.load(path)


def test_a_corner_that_is_not_a_number_is_a_move() -> None:
    assert check.Shift(float("nan"), 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 24).has_moved
