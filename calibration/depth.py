"""What a depth camera says of a flat board, against where the board is: scale, offset, tilt, noise and holes at each distance.

The board's pose comes from its corners in the image of the same sensor; inside the board each pixel's true depth follows from it.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from calibration.boards import Board
from calibration.opencv import Lens, project, undistort
from edge.calibration import Check, DepthCorrection, made
from edge.errors import CalibrationError
from edge.messages import Float32, Float64

VIEWS_MIN = 3
SPREAD_MIN = 1.3  # farthest over nearest: from one distance scale and offset cannot be told apart
FILLED_MIN = 0.5  # of the board's pixels; a view with fewer is nearer than the camera can see
INLIER_TIMES = 4.0  # of the median deviation: edges, and pixels that hang between board and table
SCALE_OFF_MAX, OFFSET_MAX_MM = 0.05, 20.0
SIGMA_SCALE_MAX, NOISE_MAX, TILT_MAX_DEG = 0.01, 0.01, 3.0


class Look(NamedTuple):
    """One view: what the camera measured on the board, against what is there."""

    distance_m: float  # true, mean over the board
    measured_m: float  # mean of the plane fitted to the measured depth, at the same pixels
    noise_m: float  # σ about that plane
    tilt_deg: float  # between that plane and the board
    filled: float  # share of the board's pixels with a depth


class DepthFit(NamedTuple):
    """True depth = scale · measured + offset, with σ and the looks it is made from; `blind` are those with too few pixels."""

    scale: float
    offset_m: float
    sigma_scale: float
    sigma_offset_m: float
    looks: list[Look]
    blind: list[Look]


def look(depth_m: Float32, transform_board_to_camera: Float64, board: Board, lens: Lens) -> Look:
    """Compare one depth image (height, width), 0 = invalid, with the board's plane; raises `CalibrationError` for another size."""
    intrinsics = lens.intrinsics
    if depth_m.shape != (intrinsics.height, intrinsics.width):
        wanted = (intrinsics.height, intrinsics.width)
        raise CalibrationError(
            f"the depth image is {depth_m.shape}, expected {wanted} like the lens; align depth to this stream, or take its own"
        )
    rows, columns = _inside(transform_board_to_camera, board, lens)
    if rows.size < 50:
        raise CalibrationError(f"the board covers {rows.size} pixels of the depth image, expected at least 50; come nearer")
    rays = undistort(np.column_stack((columns, rows)).astype(np.float64), lens)
    normal = transform_board_to_camera[:3, 2]
    true_m = float(normal @ transform_board_to_camera[:3, 3]) / (rays @ normal[:2] + normal[2])
    measured_m = depth_m[rows, columns].astype(np.float64)
    is_valid = np.isfinite(measured_m) & (measured_m > 0.0)
    filled = float(is_valid.mean())
    if is_valid.sum() < 20:
        return Look(float(true_m.mean()), 0.0, 0.0, 0.0, filled)
    plane, noise_m = _plane(rays[is_valid], measured_m[is_valid])
    cosine = abs(float(plane @ normal)) / float(np.linalg.norm(plane))
    tilt_deg = float(np.degrees(np.arccos(min(cosine, 1.0))))
    on_plane_m = 1.0 / (rays @ plane[:2] + plane[2])
    return Look(float(true_m.mean()), float(on_plane_m.mean()), noise_m, tilt_deg, filled)


def fit(looks: Sequence[Look]) -> DepthFit:
    """Scale and offset over all distances, each look weighed by its noise; raises `CalibrationError` where they are not determined."""
    seeing = [one for one in looks if one.filled >= FILLED_MIN]
    blind = [one for one in looks if one.filled < FILLED_MIN]
    if len(seeing) < VIEWS_MIN:
        raise CalibrationError(f"{len(seeing)} views have depth on the board, expected at least {VIEWS_MIN}; take more, from further away")
    true_m, measured_m = (np.array([getattr(one, name) for one in seeing]) for name in ("distance_m", "measured_m"))
    if true_m.max() < SPREAD_MIN * true_m.min():
        found = f"the board is {true_m.min() * 1e3:.0f} to {true_m.max() * 1e3:.0f} mm away"
        raise CalibrationError(f"{found}, expected the farthest {SPREAD_MIN:g} times the nearest; add a view from further away")
    design = np.column_stack((measured_m, np.ones(len(seeing))))
    weight = 1.0 / true_m**2  # stereo noise grows with the square of the distance, and so does what else is wrong with it
    solution, *_ = np.linalg.lstsq(design * weight[:, None], true_m * weight, rcond=None)
    off = (design @ solution - true_m) * weight
    variance = float(np.square(off).sum()) / max(len(seeing) - 2, 1)
    covariance = variance * np.linalg.inv((design * weight[:, None]).T @ (design * weight[:, None]))
    sigma = np.sqrt(np.diag(covariance))
    return DepthFit(float(solution[0]), float(solution[1]), float(sigma[0]), float(sigma[1]), seeing, blind)


def correction(found: DepthFit, serial: str) -> DepthCorrection:
    """What goes into the calibration file, with the thresholds that it has to keep there."""
    noise = max(one.noise_m / one.distance_m for one in found.looks)
    checks = (
        Check("depth scale off, %", abs(found.scale - 1.0) * 100.0, SCALE_OFF_MAX * 100.0),
        Check("depth offset, mm", abs(found.offset_m) * 1e3, OFFSET_MAX_MM),
        Check("σ of the depth scale, %", found.sigma_scale * 100.0, SIGMA_SCALE_MAX * 100.0),
        Check("depth noise on the board over distance, %", noise * 100.0, NOISE_MAX * 100.0),
        Check("depth plane tilted against the board, °", max(one.tilt_deg for one in found.looks), TILT_MAX_DEG),
    )
    sigma = {"scale": found.sigma_scale, "offset_m": found.sigma_offset_m}
    return DepthCorrection(serial, found.scale, found.offset_m, made("dofbot calibrate depth", sigma, checks))


def _inside(pose: Float64, board: Board, lens: Lens) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the pixels on the board, a tenth of its width off its border: depth smears there."""
    width, height = np.array(board.size_m) * (board.scale if board.ruler_mm else 1.0)
    rim = 0.1 * min(width, height)
    corners_m = np.array([[rim, rim, 0.0], [width - rim, rim, 0.0], [width - rim, height - rim, 0.0], [rim, height - rim, 0.0]])
    outline = project(corners_m, pose, lens)
    rows, columns = np.indices((lens.intrinsics.height, lens.intrinsics.width))
    is_inside = np.ones(rows.shape, bool)
    across, down = outline[1] - outline[0], outline[2] - outline[1]
    turn = np.sign(across[0] * down[1] - across[1] * down[0])
    for start, end in zip(outline, np.roll(outline, -1, axis=0), strict=True):
        along = end - start
        is_inside &= turn * (along[0] * (rows - start[1]) - along[1] * (columns - start[0])) > 0.0
    found = np.nonzero(is_inside)
    return found[0], found[1]


def _plane(rays: Float64, depth_m: Float64) -> tuple[Float64, float]:
    """The plane a·x/z + b·y/z + c = 1/z (3,) through measured depths, and the σ of depth about it, without what hangs off it.

    In 1/z the plane is linear, and stereo noise the same everywhere.
    """
    design = np.column_stack((rays, np.ones(len(rays))))
    is_in = np.ones(len(rays), bool)
    for _ in range(4):
        plane, *_ = np.linalg.lstsq(design[is_in], 1.0 / depth_m[is_in], rcond=None)
        off_m = depth_m - 1.0 / (design @ plane)
        spread_m = float(np.median(np.abs(off_m[is_in]))) * 1.4826
        is_in = np.abs(off_m) <= max(INLIER_TIMES * spread_m, 1e-6)
    return np.asarray(plane, np.float64), float(off_m[is_in].std())
