"""Which images can be used: enough of the board in them, and the board that they are said to show."""

from typing import NamedTuple

import numpy as np

from calibration.arm import closed_form
from calibration.arm.model import Views
from edge.errors import CalibrationError
from edge.messages import Float64

IMAGES_MIN = 8
CORNERS_MIN = 12
LAYOUT_RMS_PX = 3.0  # of a single image's own fit; detectors are good to 0.2 px, a wrong layout misses by tens


class Rejected(NamedTuple):
    """An image that was left out, and why."""

    name: str
    reason: str


def in_order(views: Views) -> Views:
    """In an order that only depends on what was seen: the order of the images changes nothing, not even rounding."""
    middle = np.array([np.nanmean(image, axis=0) if np.isfinite(image).any() else (np.nan, np.nan) for image in views.corners_px])
    return views.take(np.lexsort(middle.reshape(-1, 2).T))


def gated(views: Views, points_m: Float64, lens: Float64) -> tuple[Views, list[Rejected]]:
    """The images that show enough of the board, and show it as it is."""
    count = np.isfinite(views.corners_px[..., 0]).sum(axis=1)
    wanted = min(CORNERS_MIN, len(points_m))
    enough = count >= wanted
    left_out = [Rejected(views.names[i], f"shows {count[i]} corners, expected {wanted}") for i in np.flatnonzero(~enough)]
    views = views.take(np.flatnonzero(enough))
    _require_images(views, left_out)
    found = closed_form.board_poses(views.corners_px, points_m, lens)
    wrong = found.rms_px > max(LAYOUT_RMS_PX, 4.0 * float(np.median(found.rms_px)))
    if np.median(found.rms_px) > LAYOUT_RMS_PX:
        raise CalibrationError(
            f"corners miss the board by {np.median(found.rms_px):.0f} px in most images, expected under 1 px: this is another board; "
            "give the file that was printed with it, or swap rows and columns"
        )
    if found.mirrored.mean() > 0.5:
        raise CalibrationError(
            "the board is seen from behind, which cannot be: its ids run the wrong way; print it without mirroring, "
            "or count ids from the other side"
        )
    for index in np.flatnonzero(wrong | found.mirrored):
        reason = "its ids run backwards" if found.mirrored[index] else f"its corners miss the board by {found.rms_px[index]:.1f} px"
        left_out.append(Rejected(views.names[index], reason))
    views = views.take(np.flatnonzero(~(wrong | found.mirrored)))
    _require_images(views, left_out)
    return views, left_out


def _require_images(views: Views, left_out: list[Rejected]) -> None:
    if len(views.names) < IMAGES_MIN:
        why = f" ({left_out[0].name} {left_out[0].reason})" if left_out else ""
        raise CalibrationError(
            f"{len(views.names)} images can be used{why}, expected at least {IMAGES_MIN}, better 20; add poses that differ"
        )
