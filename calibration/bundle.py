"""Least squares over one lens and the pose of each view: Levenberg and Marquardt's steps, with the poses eliminated block by block.

A pose meets the lens and no other pose. So each view adds a 6 × 6 block, and what is left to solve has the lens's few numbers, for any
number of views: ten times as fast as the dense problem. A test compares the result with SciPy's and with OpenCV's.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from calibration.opencv import Ids, project_with_derivatives
from edge.messages import Float64

STEPS_MAX = 60
DAMPING_START, DAMPING_MIN, DAMPING_MAX = 1e-3, 1e-12, 1e8
GAIN_MIN = 1e-9  # relative; a step that gains less is the last

Prior = tuple[Float64, Float64]  # mean and σ of each estimated lens number; an infinite σ is no prior


class View(NamedTuple):
    """One image's corners: `points_m` (n, 3) on the board, `corners_px` (n, 2)."""

    name: str
    points_m: Float64
    corners_px: Float64


class State(NamedTuple):
    """What is estimated: `camera` (9,) fx fy cx cy k1 k2 p1 p2 k3, and of each view (6,) rotation vector and translation."""

    camera: Float64
    poses: list[Float64]


class _Normal(NamedTuple):
    """Normal equations: the lens's block and right side, and of each view its coupling, its block and its right side."""

    lens: Float64  # (c, c)
    lens_side: Float64  # (c,)
    views: list[tuple[Float64, Float64, Float64]]  # (c, 6), (6, 6), (6,)
    cost: float


def solve(views: Sequence[View], start: State, chosen: Ids, prior: Prior, sigma_px: float) -> State:
    """The state with the smallest sum of squares, over the lens numbers `chosen` and all poses."""
    state, damping = start, DAMPING_START
    normal = _normal(views, state, chosen, prior, sigma_px)
    for _ in range(STEPS_MAX):
        moved = _moved(state, chosen, *_step(normal, damping))
        after = _normal(views, moved, chosen, prior, sigma_px)
        if not after.cost <= normal.cost:  # NaN is worse, too
            damping *= 10.0
            if damping > DAMPING_MAX:
                break
            continue
        gain = (normal.cost - after.cost) / max(normal.cost, 1e-300)
        state, normal, damping = moved, after, max(damping / 10.0, DAMPING_MIN)
        if gain < GAIN_MIN:
            break
    return state


def reduced(views: Sequence[View], state: State, chosen: Ids, prior: Prior, sigma_px: float) -> Float64:
    """(c, c) inverse covariance of the lens numbers `chosen`, whatever the poses are."""
    return _reduced(_normal(views, state, chosen, prior, sigma_px), 0.0)[0]


def inverse(matrix: Float64) -> Float64:
    """Of a symmetric matrix whose rows have different units; a direction that nothing determines gets a huge variance, not a small one."""
    scale = np.sqrt(np.maximum(np.diag(matrix), 1e-300))
    values, vectors = np.linalg.eigh(matrix / np.outer(scale, scale))
    return np.asarray((vectors / np.maximum(values, 1e-14)) @ vectors.T / np.outer(scale, scale), np.float64)


def residuals(views: Sequence[View], state: State) -> list[tuple[Float64, Float64, Float64]]:
    """Of each view: reprojection minus corner (2n,) in pixels, and its derivatives by the pose (2n, 6) and by the camera (2n, 9)."""
    found = []
    for view, pose in zip(views, state.poses, strict=True):
        pixels, by_pose, by_camera = project_with_derivatives(view.points_m, pose, state.camera)
        found.append(((pixels - view.corners_px).ravel(), by_pose, by_camera))
    return found


def _normal(views: Sequence[View], state: State, chosen: Ids, prior: Prior, sigma_px: float) -> _Normal:
    mean, sigma = prior
    off = (state.camera[chosen] - mean) / sigma  # zero where there is no prior
    lens, side, cost = np.diag(1.0 / sigma**2), off / sigma, float(off @ off)
    blocks = []
    for corners, by_pose, by_camera in residuals(views, state):
        wanted = by_camera[:, chosen]
        weight = 1.0 / sigma_px**2
        lens = lens + weight * wanted.T @ wanted
        side = side + weight * wanted.T @ corners
        cost += weight * float(corners @ corners)
        blocks.append((weight * wanted.T @ by_pose, weight * by_pose.T @ by_pose, weight * by_pose.T @ corners))
    return _Normal(lens, side, blocks, cost)


def _reduced(normal: _Normal, damping: float) -> tuple[Float64, Float64, list[Float64]]:
    """The lens's equations without the poses, and of each view the inverse of its damped block."""
    matrix, side, inverses = _damped(normal.lens, damping), normal.lens_side, []
    for coupling, block, view_side in normal.views:
        inverted = np.asarray(np.linalg.inv(_damped(block, damping)), np.float64)
        matrix = matrix - coupling @ inverted @ coupling.T
        side = side - coupling @ inverted @ view_side
        inverses.append(inverted)
    return matrix, side, inverses


def _damped(matrix: Float64, damping: float) -> Float64:
    return np.asarray(matrix + damping * np.diag(np.diag(matrix)), np.float64)


def _step(normal: _Normal, damping: float) -> tuple[Float64, list[Float64]]:
    matrix, side, inverses = _reduced(normal, damping)
    scale = np.sqrt(np.maximum(np.diag(matrix), 1e-300))
    lens = -np.linalg.lstsq(matrix / np.outer(scale, scale), side / scale, rcond=None)[0] / scale
    poses = [-inverted @ (view_side + coupling.T @ lens) for inverted, (coupling, _, view_side) in zip(inverses, normal.views, strict=True)]
    return lens, poses


def _moved(state: State, chosen: Ids, lens: Float64, poses: list[Float64]) -> State:
    camera = state.camera.copy()
    camera[chosen] += lens
    return State(camera, [pose + step for pose, step in zip(state.poses, poses, strict=True)])
