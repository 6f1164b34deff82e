"""A board in an image: its corners to a twentieth of a pixel, or why there are none, in words."""

from typing import NamedTuple

import numpy as np

from calibration.boards import Board, CharucoBoard, drawn_points_m
from calibration.diagnose import why_not_flat, why_not_found
from calibration.marker_edges import refine_markers
from calibration.opencv import Ids, Image, find_charuco, find_markers, homography, profiles, refine_saddles, sample
from edge.errors import CalibrationError
from edge.messages import Float64

CORNERS_MIN = 6  # below, a pose is a guess
EDGE_MAX_PX = 6.0  # out of focus by σ = 2 px an edge is 5 px wide and corners are as good as ever; by 3 px most are lost
GLARE_MAX = 0.25  # of the black squares in view
MISFIT_MAX = 0.3  # of a square, root mean square, from a flat board; a wrong layout is off by whole squares, a wide lens by a tenth
# Of the gap between a square's corner and the marker in it, as large as a window may be: larger is more precise until it takes in the
# marker. Chosen on renders (clean, noise, blur): 0.054 px rms against 0.071 as detected.
WINDOW_SHARE = 0.86
WINDOW_PX = (2, 8)
UNEVEN_MAX = 0.2  # of the same, between two squares of one colour: more is a thumb's or a shadow's border
SADDLE_MIN = 0.25  # of the contrast of ink and paper, between the squares that meet in a corner; blurred by σ = 2 px they keep 0.4
STRAY_PX, STRAY_TIMES = 1.0, 6.0  # from a flat board, and times the median: a lens bends it by a pixel or two, smoothly
_DIAGONALS = np.array(((-1.0, -1.0), (1.0, 1.0), (1.0, -1.0), (-1.0, 1.0)))  # the first two squares have one colour


class Detection(NamedTuple):
    """Corners of a board in one image: `ids` (n,), `corners_px` (n, 2), and how wide its edges are, in pixels (sharp: 2)."""

    ids: Ids
    corners_px: Float64
    edge_px: float


def detect(image: Image, board: Board, *, explains: bool = True) -> Detection:
    """The board's corners; raises `CalibrationError` where they are too few or cannot be trusted.

    To tell why they are too few takes many times as long as to look for them: without `explains` only their number is said.
    """
    ids, corners_px = _corners(image, board)
    if len(ids) < CORNERS_MIN:
        raise CalibrationError(_too_few(image, board, len(ids), explains))
    points = drawn_points_m(board, ids)[:, :2]
    if np.linalg.matrix_rank(points - points.mean(axis=0), tol=1e-6) < 2:
        raise CalibrationError(f"all {len(ids)} corners in view lie on one line, expected more of the board; show more of it")
    to_image = homography(points, corners_px)
    _check_layout(image, board, to_image, points, corners_px)
    if isinstance(board, CharucoBoard):
        ids, corners_px = _refined(image, board, to_image, ids, corners_px)
        if len(ids) < CORNERS_MIN:
            raise CalibrationError(_too_few(image, board, len(ids), explains))
        _check_glare(image, board, to_image)
    edge_px = _edge_px(image, board, ids, corners_px)
    if not edge_px <= EDGE_MAX_PX:
        raise CalibrationError(
            f"blurred: an edge is {edge_px:.1f} px wide, expected at most {EDGE_MAX_PX:g}; hold still, focus, or give more light"
        )
    return Detection(ids, corners_px, edge_px)


def _too_few(image: Image, board: Board, found: int, explains: bool) -> str:
    if explains:
        return why_not_found(image, board, found, CORNERS_MIN)
    return f"{found} corners of the board are seen, expected at least {CORNERS_MIN}"


def _corners(image: Image, board: Board) -> tuple[Ids, Float64]:
    if isinstance(board, CharucoBoard):
        ids, corners_px, _ = find_charuco(image, (board.columns, board.rows), board.marker_m / board.square_m, board.dictionary)
        return ids, corners_px
    markers = find_markers(image, board.dictionary)
    known = np.isin(markers.ids, [one.id for one in board.markers])
    ids = (4 * markers.ids[known][:, None] + np.arange(4)).ravel()
    return ids, refine_markers(image, markers.corners_px[known]).reshape(-1, 2)


def _refined(image: Image, board: CharucoBoard, to_image: Float64, ids: Ids, corners_px: Float64) -> tuple[Ids, Float64]:
    """Corners at their saddles, without those that are none: a thumb or a reflection lies over them."""
    points = drawn_points_m(board, ids)[:, :2]
    gap = (1.0 - board.marker_m / board.square_m) / 2.0
    half_px = np.clip(np.floor(WINDOW_SHARE * gap * _sides_px(to_image, points, board.square_m)), *WINDOW_PX).astype(np.int64)
    moved_px = refine_saddles(image, corners_px, half_px)
    step = 0.75 * gap * board.square_m  # into each of the four squares that meet, short of their markers
    across, down = (np.rint(points[:, axis] / board.square_m).astype(int) for axis in (0, 1))
    sign = np.where((across + down) % 2 == 0, 1.0, -1.0)  # upper left and lower right are black, or white
    offsets = _mapped(to_image, np.repeat(points, 4, axis=0) + np.tile(step * _DIAGONALS, (len(points), 1))).reshape(-1, 4, 2)
    around = sample(image, offsets + (moved_px - _mapped(to_image, points))[:, None])  # (n, 4)
    dark, light = _levels(image, corners_px)
    contrast = np.minimum(sign * (around[:, 2] - around[:, 0]), sign * (around[:, 3] - around[:, 1]))
    uneven = np.maximum(np.abs(around[:, 0] - around[:, 1]), np.abs(around[:, 2] - around[:, 3]))
    off_px = np.linalg.norm(_mapped(homography(points, moved_px, is_robust=True), points) - moved_px, axis=1)
    is_saddle = (contrast > SADDLE_MIN * (light - dark)) & (uneven < UNEVEN_MAX * (light - dark))
    is_saddle &= off_px <= max(STRAY_PX, STRAY_TIMES * float(np.median(off_px)))
    return ids[is_saddle], moved_px[is_saddle]


def _mapped(to_image: Float64, points: Float64) -> Float64:
    homogeneous = np.column_stack((points, np.ones(len(points)))) @ to_image.T
    return np.asarray(homogeneous[:, :2] / homogeneous[:, 2:], np.float64)


def _sides_px(to_image: Float64, points: Float64, pitch_m: float) -> Float64:
    """(n,) the shortest way in the image from each point to one a square away."""
    here = _mapped(to_image, points)
    around = pitch_m * np.array(((1.0, 0.0), (-1.0, 0.0), (0.0, 1.0), (0.0, -1.0)))
    away = np.array([np.linalg.norm(_mapped(to_image, points + step) - here, axis=1) for step in around])
    return np.asarray(away.min(axis=0), np.float64)


def _check_layout(image: Image, board: Board, to_image: Float64, points: Float64, corners_px: Float64) -> None:
    pitch_m = board.square_m if isinstance(board, CharucoBoard) else board.markers[0].size_m
    misfit = np.linalg.norm(_mapped(to_image, points) - corners_px, axis=1) / _sides_px(to_image, points, pitch_m)
    rms = float(np.sqrt(np.mean(np.square(misfit))))
    if not rms <= MISFIT_MAX:
        raise CalibrationError(why_not_flat(image, board, rms, MISFIT_MAX))


def _check_glare(image: Image, board: CharucoBoard, to_image: Float64) -> None:
    """Black squares that are as light as paper are under a reflection."""
    squares = [(column, row) for row in range(board.rows) for column in range(board.columns) if (row + column) % 2 == 0]
    middles = _mapped(to_image, (np.array(squares) + 0.5) * board.square_m)
    where = np.rint(middles).astype(int)
    height, width = image.shape
    inside = (where >= 0).all(axis=1) & (where[:, 0] < width) & (where[:, 1] < height)
    levels = image[where[inside, 1], where[inside, 0]]
    dark, light = _levels(image, middles[inside])
    share = float(np.mean(levels > (dark + light) / 2.0)) if levels.size else 0.0
    if share > GLARE_MAX:
        found = f"glare: {share:.0%} of the black squares are as light as paper, expected at most {GLARE_MAX:.0%}"
        raise CalibrationError(f"{found}; move the lamp or tilt the board")


def _levels(image: Image, points_px: Float64) -> tuple[float, float]:
    """Grey levels of ink and paper, from the part of the image that the points span."""
    low = np.maximum(np.floor(points_px.min(axis=0)).astype(int), 0)
    high = np.ceil(points_px.max(axis=0)).astype(int) + 1
    dark, light = np.percentile(image[low[1] : high[1], low[0] : high[0]], (5.0, 95.0))
    return float(dark), float(light)


def _edge_px(image: Image, board: Board, ids: Ids, corners_px: Float64) -> float:
    """How many pixels an edge takes from ink to paper, in the worse of the board's two directions: motion blurs only one."""
    at = dict(zip(ids.tolist(), corners_px, strict=True))
    dark, light = _levels(image, corners_px)
    slopes = [_slopes(image, [(at[a], at[b]) for a, b in pairs if a in at and b in at]) for pairs in _neighbours(board, ids)]
    worst = min((float(np.median(found)) for found in slopes if found.size), default=0.0)
    return (light - dark) / max(worst, 1e-9)


def _neighbours(board: Board, ids: Ids) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Pairs of corners with an edge between them, along x and along y."""
    if isinstance(board, CharucoBoard):
        across = board.columns - 1
        along_x = [(i, i + 1) for i in ids.tolist() if i % across < across - 1]
        return along_x, [(i, i + across) for i in ids.tolist()]
    first = [i for i in ids.tolist() if i % 4 == 0]
    return [(i, i + 1) for i in first], [(i + 1, i + 2) for i in first]


def _slopes(image: Image, segments: list[tuple[Float64, Float64]]) -> Float64:
    """(n,) the steepest change across the middle of each edge, grey levels per pixel."""
    if not segments:
        return np.empty(0)
    across = profiles(image, np.array(segments), np.array([0.5]), np.arange(-4.0, 4.25, 0.5))[:, 0]
    return np.asarray(np.abs(across[:, 2:] - across[:, :-2]).max(axis=1), np.float64)
