"""Has the camera moved since? A marker or board that is fixed to the table is looked at from one pose, now and when it was calibrated.

A servo does not come back to the same place: 0.3° of it moves an image by 8 px. So the reference is taken on several returns to that
pose, and what they differ by is what does not count as moved.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from msgspec import Struct

from calibration import json_file
from calibration.boards import Board, CharucoBoard, MarkerBoard
from calibration.detect import Detection
from edge.errors import CalibrationError

RETURNS_MIN = 3
CORNERS_MIN = 4  # the same ones, then and now
LIMIT_MIN_PX = 1.0  # ten times what a corner is off by
LIMIT_TIMES = 3.0  # the largest of so few returns is exceeded by honest ones


class Reference(Struct, frozen=True, forbid_unknown_fields=True):
    """What the fixed board looked like, by corner id, and how far it may be off."""

    board: CharucoBoard | MarkerBoard
    width: int
    height: int
    corners_px: dict[int, tuple[float, float]]
    returns: int
    spread_px: float  # the largest shift of one return from their mean
    limit_px: float


class Shift(NamedTuple):
    """How far the board has moved in the image (root mean square over corners), and how far it may."""

    shift_px: float
    limit_px: float
    corners: int

    @property
    def has_moved(self) -> bool:
        """Whether it is further than honest returns are."""
        return not self.shift_px <= self.limit_px


def learn(returns: Sequence[Detection], board: Board, size: tuple[int, int]) -> Reference:
    """The reference from images of at least three returns to one pose; raises `CalibrationError`."""
    if len(returns) < RETURNS_MIN:
        raise CalibrationError(
            f"{len(returns)} images show the board, expected at least {RETURNS_MIN}, each after the arm went away and came back; take more"
        )
    common = sorted(set.intersection(*(set(one.ids.tolist()) for one in returns)))
    if len(common) < CORNERS_MIN:
        raise CalibrationError(f"{len(common)} corners are in all images, expected at least {CORNERS_MIN}; show more of the board")
    each = np.array([_of(one, common) for one in returns])  # (returns, corners, 2)
    mean = each.mean(axis=0)
    spread_px = float(max(_rms(one - mean) for one in each))
    corners = {number: (float(u), float(v)) for number, (u, v) in zip(common, mean, strict=True)}
    return Reference(board, *size, corners, len(returns), spread_px, max(LIMIT_MIN_PX, LIMIT_TIMES * spread_px))


def compare(reference: Reference, now: Detection, size: tuple[int, int]) -> Shift:
    """How far the board has moved in the image; raises `CalibrationError` where that cannot be said."""
    if size != (reference.width, reference.height):
        found = f"the image has {size[0]} × {size[1]} pixels, expected {reference.width} × {reference.height} as in the reference"
        raise CalibrationError(f"{found}; set the camera to that stream")
    common = sorted(set(now.ids.tolist()) & set(reference.corners_px))
    if len(common) < CORNERS_MIN:
        raise CalibrationError(f"{len(common)} corners of the reference are in view, expected at least {CORNERS_MIN}; uncover the board")
    before = np.array([reference.corners_px[number] for number in common])
    return Shift(_rms(_of(now, common) - before), reference.limit_px, len(common))


def save(path: Path, reference: Reference) -> None:
    """Write the reference whole; raises `ConfigError`."""
    json_file.save(path, reference, "reference")


def load(path: Path) -> Reference:
    """Read a reference; raises `ConfigError`."""
    reference: Reference = json_file.load(path, Reference, "reference", "take one: dofbot calibrate check --learn")
    return reference


def _of(found: Detection, ids: Sequence[int]) -> np.ndarray:
    at = dict(zip(found.ids.tolist(), found.corners_px, strict=True))
    return np.array([at[number] for number in ids])


def _rms(off_px: np.ndarray) -> float:
    return float(np.sqrt(np.square(off_px).sum(axis=-1).mean()))
