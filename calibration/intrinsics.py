"""A lens from views of a board: least squares over lens and poses, with the factory's numbers as priors and a σ for each result.

Reprojection error is OpenCV's: sqrt of the mean squared distance, sqrt(Σ(dx² + dy²) / n), pixels. It falls when views are left out, so it
proves nothing alone: what decides is the error on views that the fit has not seen, the σ, and that two halves of the views agree.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from calibration.bundle import State, View, inverse, reduced, residuals, solve
from calibration.opencv import Ids, Lens, board_pose, pose_vector, project, undistort
from edge.errors import CalibrationError
from edge.messages import Float64, Intrinsics

NAMES = ("fx", "fy", "cx", "cy", "k1", "k2", "p1", "p2", "k3")
# What is estimated, simplest first; the first that predicts unseen views about as well as the best is taken.
MODELS: dict[str, tuple[int, ...]] = {
    "pinhole": (0, 1, 2, 3),
    "k1": (0, 1, 2, 3, 4),
    "k1 k2 p1 p2": (0, 1, 2, 3, 4, 5, 6, 7),
    "k1 k2 p1 p2 k3": (0, 1, 2, 3, 4, 5, 6, 7, 8),
}
# Relative; a larger model must predict unseen views better by more. With 0.02 a true k1 of 0.005 is left out of some lenses, which then
# are off by 1 px in the image's corners, where few board corners are; 30 views have 600, so that 0.005 is no chance.
BETTER_BY = 0.005
VIEWS_MIN = 8
FOLDS = 4
OUTLIER_TIMES = 3.0  # of the median view's error: the board moved, or was bent
FACTORY_SIGMA = (0.01, 5.0)  # relative of fx, fy; pixels of cx, cy: librealsense's own tolerance is 1 px, other streams differ by more
CORNER_SIGMA_PX = 0.1  # a detected corner's, until the fit tells


class Fit(NamedTuple):
    """A lens, its σ by name (fx fy cx cy k1 …), each view's pose (board to camera, 6 numbers) and the reprojection error."""

    lens: Lens
    sigma: dict[str, float]
    poses: list[Float64]
    rms_px: float


class Calibrated(NamedTuple):
    """The chosen model's fit to the views that agree, and what speaks for it."""

    fit: Fit
    model: str
    views: list[View]
    rejected: list[str]
    held_out_px: dict[str, float]  # model → error on views that its fits have not seen
    halves_px: float  # how far the lenses of odd and even views project apart, at most


def calibrate(views: Sequence[View], size: tuple[int, int], factory: Intrinsics | None = None) -> Calibrated:
    """Choose a model, leave out views that do not agree, and fit; `size` is the images' width and height.

    Raises `CalibrationError` for too few views, and where no lens fits.
    """
    if len(views) < VIEWS_MIN:
        raise CalibrationError(f"{len(views)} views show the board, expected at least {VIEWS_MIN}; take more, from other sides")
    start = _start(views, size, factory)
    kept, rejected = _agreeing(views, start, factory)
    held_out = {name: _held_out_px(kept, start, factory, free) for name, free in MODELS.items()}
    least = min(held_out.values())
    model = next(name for name, error in held_out.items() if error <= least * (1.0 + BETTER_BY))
    chosen = fit(kept, start, MODELS[model], factory)
    first, second = (fit(half, chosen.lens, MODELS[model], factory).lens for half in (kept[::2], kept[1::2]))
    return Calibrated(chosen, model, kept, rejected, held_out, apart_px(first, second))


def fit(views: Sequence[View], start: Lens, free: Sequence[int], factory: Intrinsics | None = None) -> Fit:
    """Least squares over the lens numbers `free` (indices of `NAMES`) and all poses; the others stay as in `start`."""
    camera, chosen = _vector(start), np.array(free)
    state = State(camera, [_pose(view, start) for view in views])
    sigma_px = CORNER_SIGMA_PX
    for _ in range(2 if factory else 1):  # how much a prior weighs depends on how good the corners are, which the first round tells
        prior = _prior(factory, chosen)
        state = solve(views, state, chosen, prior, sigma_px)
        off = np.concatenate([corner for corner, _, _ in residuals(views, state)])
        sigma_px = max(float(np.sqrt(np.square(off).sum() / max(off.size - chosen.size - 6 * len(views), 1))), 1e-6)
    # The reduced normal matrix is the inverse covariance of the lens, poses taken along; weighed anew by what the corners turned out to be.
    spread = np.sqrt(np.diag(inverse(reduced(views, state, chosen, prior, sigma_px))))
    sigma = {NAMES[i]: float(value) for i, value in zip(free, spread, strict=True)}
    return Fit(_lens(state.camera, start.intrinsics), sigma, state.poses, float(np.sqrt(2.0 * np.mean(np.square(off)))))


def view_errors_px(found: Fit, views: Sequence[View]) -> Float64:
    """(n,) each view's reprojection error at its pose in the fit."""
    off = residuals(views, State(_vector(found.lens), found.poses))
    return np.array([np.sqrt(2.0 * np.mean(np.square(corners))) for corners, _, _ in off])


def apart_px(first: Lens, second: Lens, cells: int = 12) -> float:
    """How far apart two lenses put what one of them sees, at most over the image, after the rotation that explains most of it.

    A shift of cx is like a small rotation of the camera, which no task notices once the hand-eye is measured with it.
    """
    width, height = first.intrinsics.width, first.intrinsics.height
    pixels = np.stack(np.meshgrid(np.linspace(0, width - 1, cells), np.linspace(0, height - 1, cells)), axis=-1).reshape(-1, 2)
    rays = [_unit(undistort(pixels, lens)) for lens in (first, second)]
    left, _, right = np.linalg.svd(rays[1].T @ rays[0])
    turn = left @ np.diag((1.0, 1.0, np.linalg.det(left @ right))) @ right
    pose = np.eye(4)
    pose[:3, :3] = turn
    return float(np.linalg.norm(project(rays[0], pose, second) - pixels, axis=1).max())


def _start(views: Sequence[View], size: tuple[int, int], factory: Intrinsics | None) -> Lens:
    """The factory's lens, or a pinhole whose focal length fits best of a row of guesses: no fit may start nowhere."""
    if factory is not None:
        return Lens(factory)
    width, height = size
    guesses = [Intrinsics(width, height, f, f, (width - 1) / 2.0, (height - 1) / 2.0) for f in width * np.geomspace(0.5, 2.0, 9)]
    sample = sorted(views, key=lambda view: -len(view.points_m))[:8]
    return min((Lens(guess) for guess in guesses), key=lambda lens: _seen_px(sample, lens))


def _agreeing(views: Sequence[View], start: Lens, factory: Intrinsics | None) -> tuple[list[View], list[str]]:
    """The views without those whose error is far above the median view's; what is left is fitted and judged again."""
    kept, rejected = list(views), list[str]()
    while True:
        errors = view_errors_px(fit(kept, start, MODELS["k1 k2 p1 p2"], factory), kept)
        is_off = errors > OUTLIER_TIMES * np.median(errors)
        if not is_off.any() or (~is_off).sum() < VIEWS_MIN:
            return kept, rejected
        rejected += [view.name for view, off in zip(kept, is_off, strict=True) if off]
        kept = [view for view, off in zip(kept, is_off, strict=True) if not off]


def _held_out_px(views: Sequence[View], start: Lens, factory: Intrinsics | None, free: Sequence[int]) -> float:
    """Error on views that were left out of the fit, a quarter of them each time; only their poses are fitted."""
    squares, count = 0.0, 0
    start = fit(views, start, free, factory).lens  # near every fold's, which saves most of its steps
    for fold in range(FOLDS):
        rest, held = [v for i, v in enumerate(views) if i % FOLDS != fold], views[fold::FOLDS]
        lens = fit(rest, start, free, factory).lens
        for view in held:
            off = project(view.points_m, _matrix(view, lens), lens) - view.corners_px
            squares, count = squares + float(np.square(off).sum()), count + len(off)
    return float(np.sqrt(squares / count))


def _seen_px(views: Sequence[View], lens: Lens) -> float:
    return float(
        np.mean([np.square(project(view.points_m, _matrix(view, lens), lens) - view.corners_px).sum(axis=1).mean() for view in views])
    )


def _matrix(view: View, lens: Lens) -> Float64:
    pose = board_pose(view.points_m, view.corners_px, lens)
    if pose is None:
        raise CalibrationError(f"{view.name}: no pose fits its corners; leave this image out")
    return pose


def _pose(view: View, lens: Lens) -> Float64:
    return pose_vector(_matrix(view, lens))


def _prior(factory: Intrinsics | None, chosen: Ids) -> tuple[Float64, Float64]:
    """Mean and σ of each estimated number; σ is infinite where nothing is known before."""
    mean, sigma = np.zeros(len(NAMES)), np.full(len(NAMES), np.inf)
    if factory is not None:
        mean[:4] = factory[2:]
        relative, pixels = FACTORY_SIGMA
        sigma[:4] = (relative * factory.fx, relative * factory.fy, pixels, pixels)
    return mean[chosen], sigma[chosen]


def _vector(lens: Lens) -> Float64:
    return np.array((*lens.intrinsics[2:], *lens.distortion))


def _lens(camera: Float64, like: Intrinsics) -> Lens:
    fx, fy, cx, cy, k1, k2, p1, p2, k3 = camera.tolist()
    return Lens(Intrinsics(like.width, like.height, fx, fy, cx, cy), (k1, k2, p1, p2, k3))


def _unit(rays: Float64) -> Float64:
    whole = np.column_stack((rays, np.ones(len(rays))))
    return np.asarray(whole / np.linalg.norm(whole, axis=1, keepdims=True), np.float64)
