"""Corners of a marker as the crossings of its four straight edges: four times as precise as each corner looked at alone.

A corner's own neighbourhood misleads (0.2 to 0.4 px on renders, more when blurred): it is round where the image is not quite sharp.
An edge is not.
"""

from collections.abc import Container

import numpy as np

from calibration.opencv import Image, Lens, find_markers, profiles, undistort
from edge.messages import Float64, Marker

ALONG = np.linspace(0.12, 0.88, 17)  # where an edge is looked at: away from its ends, where the next edge begins
# How far across the edge it is looked at, of the side, round after round: the first starts from corners that are up to 2 px off. The black
# border is 1/6 wide; the white rim of a block is 1/10, less where it is seen at a slant, and what lies behind it pulls corners by 0.8 px.
REACH_SHARES = (0.09, 0.06)
REACH_PX = (1.5, 5.0)
CONTRAST_MIN = 20.0  # grey levels; less is no edge of ink on paper
STRAY_PX = 1.0  # from the median of its edge: a sample further off is dirt or a shadow


def markers_in(image: Image, dictionary: str, ids: Container[int], lens: Lens) -> tuple[Marker, ...]:
    """The markers with these ids in a grey image, each at least 15 px or so wide, in the order of their ids."""
    found = find_markers(image, dictionary, is_near=True)
    known = [number for number in np.argsort(found.ids, kind="stable") if int(found.ids[number]) in ids]
    corners_px = refine_markers(image, found.corners_px[known])
    return tuple(Marker(int(found.ids[number]), undistort(corners_px[i], lens)) for i, number in enumerate(known))


def refine_markers(image: Image, corners_px: Float64) -> Float64:
    """(n, 4, 2) corners, clockwise, moved to where the edges cross; one that would move further than was looked at stays."""
    if not len(corners_px):
        return corners_px
    refined = corners_px
    for share in REACH_SHARES:
        refined = _refined(image, refined, share)
    return refined


def _refined(image: Image, corners_px: Float64, reach_share: float) -> Float64:
    ends = np.stack((corners_px, np.roll(corners_px, -1, axis=1)), axis=2).reshape(-1, 2, 2)  # (4n, 2 ends, 2)
    along = ends[:, 1] - ends[:, 0]
    length_px = np.linalg.norm(along, axis=1)
    reach_px = float(np.clip(reach_share * length_px.min(), *REACH_PX))
    steps_px = np.linspace(-reach_px, reach_px, 4 * int(np.ceil(reach_px)) + 1)
    off_px = _crossing_px(profiles(image, ends, ALONG, steps_px), reach_px)  # (4n, m), to the right of the edge's direction
    start, slope = _lines(off_px, length_px)
    direction = along / length_px[:, None]
    normal = np.column_stack((-direction[:, 1], direction[:, 0]))
    foot = (ends[:, 0] + start[:, None] * normal).reshape(-1, 4, 2)
    towards = (direction + slope[:, None] * normal).reshape(-1, 4, 2)
    moved = _crossings(np.roll(foot, 1, axis=1), np.roll(towards, 1, axis=1), foot, towards)
    is_near = np.linalg.norm(moved - corners_px, axis=2) <= reach_px
    return np.where(is_near[..., None], moved, corners_px)


def _crossing_px(levels: Float64, reach_px: float) -> Float64:
    """Where each profile steps from one side's level to the other's, from its mean level: linear, so that noise averages out."""
    first = levels[:, :, :2].mean(axis=(1, 2))[:, None]
    last = levels[:, :, -2:].mean(axis=(1, 2))[:, None]
    contrast = last - first
    mean = (levels.sum(axis=2) - levels[:, :, [0, -1]].mean(axis=2)) / (levels.shape[2] - 1)
    share = (mean - first) / np.where(np.abs(contrast) < CONTRAST_MIN, np.inf, contrast)
    return np.asarray(np.clip(reach_px * (1.0 - 2.0 * share), -reach_px, reach_px), np.float64)


def _lines(off_px: Float64, length_px: Float64) -> tuple[Float64, Float64]:
    """Offset at the edge's beginning and slope of the line through the samples (least squares), each (4n,)."""
    where = ALONG * length_px[:, None]
    weight = (np.abs(off_px - np.median(off_px, axis=1, keepdims=True)) <= STRAY_PX).astype(np.float64)
    total = weight.sum(axis=1)
    mean_where, mean_off = (weight * where).sum(axis=1) / total, (weight * off_px).sum(axis=1) / total
    spread = where - mean_where[:, None]
    slope = (weight * spread * off_px).sum(axis=1) / np.maximum((weight * spread**2).sum(axis=1), 1e-9)
    return mean_off - slope * mean_where, slope


def _crossings(first: Float64, along_first: Float64, second: Float64, along_second: Float64) -> Float64:
    """Where lines given by a point and a direction cross, all (n, 4, 2)."""
    between = second - first
    sine = along_first[..., 0] * along_second[..., 1] - along_first[..., 1] * along_second[..., 0]
    steps = (between[..., 0] * along_second[..., 1] - between[..., 1] * along_second[..., 0]) / np.where(np.abs(sine) < 1e-6, np.inf, sine)
    return np.asarray(first + steps[..., None] * along_first, np.float64)
