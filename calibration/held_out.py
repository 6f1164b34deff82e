"""How good an estimate is on images that it did not see, and how far it moves when images are left out.

Images of one stop of the arm go together: else each would be judged by its likes, which bundle adjustment over pixels follows closest.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from calibration import gls
from calibration.arm.model import ServoArm, State, Views, transform_board_to_camera
from calibration.lens import FITTED, rays
from edge.messages import Float64

FOLDS = 5
SAME_RAD = np.radians(0.5)  # nearer in all joints is the same stop: a read-back has 0.1° of noise, planned poses are degrees apart


class HeldOut(NamedTuple):
    """Errors on images that the estimate did not see: mean distance of the corners on the board's plane, per image."""

    gls_m: Float64  # (n,)
    pixel_m: Float64  # (n,)
    training_m: Float64  # of what was used, on the images that it did see


def plane_errors_m(state: State, views: Views, points_m: Float64) -> Float64:
    """(n,) mean distance on the board's plane between its points and where an image's corners and the commanded joints put them."""
    distances = _on_plane_m(state, views, points_m)
    return np.asarray(np.nanmean(distances, axis=1))


def plane_distances_m(state: State, views: Views, points_m: Float64) -> Float64:
    """The same distances of all corners that were seen, one by one."""
    distances = _on_plane_m(state, views, points_m)
    return np.asarray(distances[np.isfinite(distances)])


def _on_plane_m(state: State, views: Views, points_m: Float64) -> Float64:
    """(n, m), NaN where a corner was not seen."""
    pose = transform_board_to_camera(state, views.arm)
    image = rays(views.corners_px, state.lens)
    direction = np.concatenate((image, np.ones((*image.shape[:2], 1))), axis=-1)
    normal, origin = pose[:, :3, 2], pose[:, :3, 3]
    far = np.einsum("ni,ni->n", normal, origin)[:, None] / np.einsum("nmi,ni->nm", direction, normal)
    on_board = (direction * far[..., None] - origin[:, None]) @ pose[:, :3, :3]
    return np.asarray(np.linalg.norm(on_board - points_m, axis=-1))


def held_out_errors(clean: gls.Problem, fit: gls.Fit, pixel_problem: gls.Problem, pixel: gls.Fit, fresh: Views | None) -> HeldOut:
    """Both methods' errors: on images of their own, or on each fifth from the other four."""
    points, views = clean.points_m, clean.views
    training = np.stack([plane_errors_m(one.state, views, points) for one in (fit, pixel)])
    if fresh is not None:
        return HeldOut(plane_errors_m(fit.state, fresh, points), plane_errors_m(pixel.state, fresh, points), training)
    lens_columns = np.arange(len(clean.free)) >= len(clean.free) - FITTED
    both = np.empty((2, len(views.names)))
    which = stops(views) % FOLDS
    for fold in range(FOLDS):
        out, rest = np.flatnonzero(which == fold), np.flatnonzero(which != fold)
        for row, (problem, whole) in enumerate(((clean, fit), (pixel_problem, pixel))):
            # The lens stays as all images have it: a fold has too few to bend it anew.
            fixed = problem._replace(told=problem.told._replace(lens=whole.state.lens), free=problem.free & ~lens_columns)
            part = gls.solve(fixed._replace(views=views.take(rest)), whole.state, np.ones(len(rest)), whole.noise, estimate_noise=False)
            both[row, out] = plane_errors_m(part.state, views.take(out), points)
    return HeldOut(both[0], both[1], training)


def stops(views: Views) -> NDArray[np.int64]:
    """(n,) at which stop of the arm each image was taken: of one stop all have the same errors of the servos, and tell of each other."""
    if not isinstance(views.arm, ServoArm):
        return np.arange(len(views.names))
    first = np.argmax(_alike(views.arm, views.arm), axis=1)
    return np.asarray(np.unique(first, return_inverse=True)[1])


def known(views: Views, estimated_from: Views) -> NDArray[np.bool_]:
    """(n,) whether images are of poses that an estimate was made from."""
    one, other = views.arm, estimated_from.arm
    if not (isinstance(one, ServoArm) and isinstance(other, ServoArm)):
        return np.zeros(len(views.names), dtype=bool)
    return np.asarray(_alike(one, other).any(axis=1))


def _alike(one: ServoArm, other: ServoArm) -> NDArray[np.bool_]:
    """(n, m)"""
    apart = np.abs(one.commanded[:, None] - other.commanded[None]).max(axis=-1)
    return np.asarray(apart < SAME_RAD)


def jackknife(problem: gls.Problem, fit: gls.Fit) -> Float64:
    """Covariance (p, p) from what changes when each stop is left out in turn, in one step each: it asks no model of the noise."""
    which = stops(problem.views)
    by_stop = 1.0 * (which[:, None] == np.arange(which.max() + 1))  # (n, stops)
    matrices, right = (np.einsum("is,i...->s...", by_stop, each) for each in gls.scores(problem, fit))
    free = problem.free
    total = matrices.sum(axis=0) + np.diag(1.0 / problem.prior_sigma[free] ** 2)
    size = np.sqrt(np.diag(total))
    scaled = (total - matrices) / np.outer(size, size)
    steps = -np.linalg.solve(scaled, (right / size)[..., None])[..., 0] / size
    steps -= steps.mean(axis=0)
    count = len(steps)
    covariance = np.zeros((len(free), len(free)))
    covariance[np.ix_(free, free)] = (count - 1) / count * steps.T @ steps
    return covariance
