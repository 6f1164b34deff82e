"""Whether a lens is good enough to be used: each figure against a good and a still bearable limit.

The limits are those of facts 2.5 for images of 640 × 480: what a hand-eye within 1 mm needs. Pixels scale with the image's width.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from calibration import coverage
from calibration.boards import Board
from calibration.intrinsics import Calibrated
from calibration.opencv import pose_matrix
from edge.calibration import Check, Lens, made
from edge.errors import CalibrationError

TILT_RAD = np.radians(20.0)
TILTED_GOOD, TILTED_MIN = 8, 5


class Figure(NamedTuple):
    """A figure with its unit, what it should stay below, what it must stay below, and what to do about it."""

    name: str
    found: float
    good: float
    limit: float
    remedy: str

    @property
    def state(self) -> str:
        """'good', 'bearable' or 'refused'; NaN is refused."""
        return "good" if self.found <= self.good else "bearable" if self.found <= self.limit else "refused"


def tilts_rad(found: Calibrated) -> NDArray[np.float64]:
    """(n,) angle between the optical axis and the board's normal in each view."""
    return np.array([np.arccos(np.clip(abs(pose_matrix(pose)[2, 2]), 0.0, 1.0)) for pose in found.fit.poses])


def figures(found: Calibrated, seen: NDArray[np.int64]) -> list[Figure]:
    """What decides about a lens; `seen` are the corners in each cell of the image."""
    intrinsics, sigma = found.fit.lens.intrinsics, found.fit.sigma
    wide = intrinsics.width / 640.0
    short = float(max(0, TILTED_GOOD - int((tilts_rad(found) > TILT_RAD).sum())))
    focal = max(sigma["fx"] / intrinsics.fx, sigma["fy"] / intrinsics.fy) * 100.0
    held_out = found.held_out_px[found.model]
    where = coverage.emptiest(seen)
    more = "take more views, nearer and tilted by 20° to 45°"
    return [
        Figure("reprojection error, px", found.fit.rms_px, 0.35 * wide, 0.8 * wide, "hold still, focus, and glue the board flat"),
        Figure("error on unseen views over the fit's", held_out / found.fit.rms_px, 1.4, 2.0, more),
        Figure("σ of fx and fy, %", focal, 0.2, 0.6, more),
        Figure("σ of cx and cy, px", max(sigma["cx"], sigma["cy"]), 1.0 * wide, 3.0 * wide, more),
        Figure(
            "cells of the image without a corner, %", 100.0 * (1.0 - coverage.share(seen)), 20.0, 40.0, f"hold the board to the {where}"
        ),
        Figure(f"views short of {TILTED_GOOD} that are tilted by 20°", short, 0.0, TILTED_GOOD - TILTED_MIN, "tilt the board more"),
        Figure("lenses of two halves of the views apart, px", found.halves_px, 0.7 * wide, 2.0 * wide, more),
        Figure(
            "views left out, %", 100.0 * len(found.rejected) / (len(found.views) + len(found.rejected)), 10.0, 30.0, "keep the board flat"
        ),
    ]


def lens_part(found: Calibrated, judged: Sequence[Figure], serial: str, board: Board) -> Lens:
    """What goes into the calibration file; raises `CalibrationError` naming every figure that is not bearable."""
    board.scale  # noqa: B018 - raises where the rulers were not measured
    refused = [figure for figure in judged if figure.state == "refused"]
    if refused:
        reasons = "; ".join(f"{one.name}: {one.found:.3g}, expected at most {one.limit:g}: {one.remedy}" for one in refused)
        raise CalibrationError(f"the lens was not written: {reasons}")
    checks = tuple(Check(one.name, one.found, one.limit) for one in judged)
    lens = found.fit.lens
    return Lens(serial, lens.intrinsics, lens.distortion, made("dofbot calibrate intrinsics", found.fit.sigma, checks))
