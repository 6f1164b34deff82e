"""Generalised least squares: corners are good to a fraction of a pixel, but every corner of an image moves with the servos.

The residuals r of an image have the covariance

    S = corner_px² · I + J diag(joint²) Jᵀ        J = pixels by joints (2m, k)

so a picture counts by what the servos leave certain of it: the shape inside it is worth all its corners, its place little. Ordinary least
squares over pixels is the same with joint = 0. Both σ are estimated too, by EM with the correction for the numbers that were fitted
(restricted maximum likelihood: D. A. Harville, J. Am. Stat. Assoc. 72, 1977): `joint` is each servo's repeatability.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from calibration.arm.model import State, Views, moved, predict, state_names
from edge.errors import CalibrationError
from edge.messages import Float64

ROUNDS_MAX = 60
EM_STEPS = 3  # between two linearisations
NOISE_PRIOR_WEIGHT = 2.0  # images that the noise expected beforehand counts for
STEP_MIN = 1e-4  # of a standard deviation: the estimate stands
NOISE_CHANGE_MIN = 2e-3  # share by which σ still changes in a round
CORNER_MIN_PX = 0.05  # no detector is better on real pictures, and what the linear model leaves out is then smaller
TAIL = 4.0  # degrees of freedom of Student's t, with which a first pass weighs whole images


class Noise(NamedTuple):
    """One σ of the corners in pixels, and one per group of joints, in rad (or m, where an arm's controller reports poses)."""

    corner_px: float
    joint: Float64  # (groups,)


class Problem(NamedTuple):
    """What is to be estimated from what."""

    views: Views
    points_m: Float64  # (m, 3)
    told: State  # what is known beforehand
    prior_sigma: Float64  # (p,) how well, inf: not at all; columns of `state_names`
    free: NDArray[np.bool_]  # (p,) what is estimated; the rest stays as it is in `told`
    noise: Noise  # expected beforehand
    servo_noise: bool = True  # False: least squares over pixels


class Fit(NamedTuple):
    """An estimate."""

    state: State
    noise: Noise
    covariance: Float64  # (p, p); rows of what was not free are 0
    weights: Float64  # (n,) of the images


class _Linear(NamedTuple):
    """The images around a state; rows of corners that were not seen are 0."""

    residual: Float64  # (n, 2m, 1)
    jacobian: Float64  # (n, 2m, free)
    by_joint: Float64  # (n, 2m, k)
    rows: Float64  # (n,) numbers that were seen


class _Whitener(NamedTuple):
    """S⁻½ of each image, without the (2m, 2m) matrix: (M − A K Aᵀ M) / corner_px."""

    by_joint: Float64
    kernel: Float64
    corner_px: float

    def __call__(self, matrix: Float64) -> Float64:
        share = self.kernel @ (np.swapaxes(self.by_joint, 1, 2) @ matrix)
        return np.asarray((matrix - self.by_joint @ share) / self.corner_px)


def _joint_sigma(problem: Problem, noise: Noise) -> Float64:
    """(k,)"""
    return np.asarray(noise.joint[np.array(problem.views.arm.noise_groups)])


def _linearised(problem: Problem, state: State) -> _Linear:
    views = problem.views
    predicted = predict(state, views.arm, problem.points_m)
    seen = np.isfinite(views.corners_px)
    count = len(seen)
    residual = np.where(seen, views.corners_px - predicted.pixels, 0.0)
    jacobian = predicted.by_state[..., problem.free] * seen[..., None]
    by_joint = predicted.by_joint * seen[..., None]
    shape = (count, seen[0].size)
    return _Linear(residual.reshape(*shape, 1), jacobian.reshape(*shape, -1), by_joint.reshape(*shape, -1), seen.sum(axis=(1, 2)) * 1.0)


def _whitener(problem: Problem, linear: _Linear, noise: Noise) -> _Whitener:
    by_joint = linear.by_joint * _joint_sigma(problem, noise)
    squared = np.swapaxes(by_joint, 1, 2) @ by_joint
    values, vectors = np.linalg.eigh(squared)
    root = np.sqrt(noise.corner_px**2 + np.maximum(values, 0.0))
    kernel = vectors @ ((1.0 / (root * (root + noise.corner_px)))[..., None] * np.swapaxes(vectors, 1, 2))
    return _Whitener(by_joint, kernel, noise.corner_px)


def offset(problem: Problem, state: State) -> Float64:
    """How far the state is from what was known beforehand; only where there is a prior."""
    told, count = problem.told, problem.views.arm.adjustable
    zeros, scales = (state.zeros_rad - told.zeros_rad)[:count], (state.scales - told.scales)[:count]
    compliance = np.broadcast_to(np.asarray(state.compliance) - told.compliance, (count,))
    return np.concatenate((np.zeros(12), zeros, scales, compliance, state.lens[:6] - told.lens[:6]))[problem.free]


def _information(problem: Problem) -> Float64:
    return np.asarray(1.0 / problem.prior_sigma[problem.free] ** 2)


def _inverse(matrix: Float64) -> Float64:
    """Of a symmetric matrix whose rows have different units."""
    size = np.sqrt(np.maximum(np.diag(matrix), 1e-300))
    try:
        return np.asarray(np.linalg.inv(matrix / np.outer(size, size)) / np.outer(size, size))
    except np.linalg.LinAlgError:
        raise CalibrationError("these images do not determine the calibration; add poses that differ in tilt and in roll") from None


def _normal(problem: Problem, state: State, linear: _Linear, whiten: _Whitener, weights: Float64) -> tuple[Float64, Float64, float]:
    """Normal matrix, right-hand side and cost."""
    stacked = whiten(np.concatenate((linear.jacobian, linear.residual), axis=-1))
    weighted = (stacked * np.sqrt(weights)[:, None, None]).reshape(-1, stacked.shape[-1])
    product = weighted.T @ weighted
    prior, off = _information(problem), offset(problem, state)
    cost = float(product[-1, -1] + (prior * off**2).sum())
    return product[:-1, :-1] + np.diag(prior), product[:-1, -1] - prior * off, cost


class _At(NamedTuple):
    """A state, and the images linearised around it."""

    state: State
    linear: _Linear


def _stepped(problem: Problem, at: _At, noise: Noise, weights: Float64) -> tuple[_At, float]:
    """One damped Gauss-Newton step, and its length in standard deviations."""
    whiten = _whitener(problem, at.linear, noise)
    matrix, right, cost = _normal(problem, at.state, at.linear, whiten, weights)
    prior = _information(problem)
    for damping in (0.0, 1e-3, 1e-1, 1e1, 1e3, 1e5):
        step = _inverse(matrix + damping * np.diag(np.diag(matrix))) @ right
        full = np.zeros(len(problem.free))
        full[problem.free] = step
        ahead = moved(at.state, full, problem.views.arm.adjustable)
        linear = _linearised(problem, ahead)
        squared = (whiten(linear.residual) ** 2).sum(axis=(1, 2))
        reached = float(weights @ squared + (prior * offset(problem, ahead) ** 2).sum())
        if reached <= cost * (1.0 + 1e-12) + 1e-12:
            return _At(ahead, linear), float(np.sqrt(max(float(step @ matrix @ step), 0.0)))
    return at, 0.0


def _noise_step(problem: Problem, at: _At, noise: Noise, weights: Float64) -> Noise:
    """One EM step of both σ around a state."""
    linear, whiten = at.linear, _whitener(problem, at.linear, noise)
    covariance = _inverse(_normal(problem, at.state, linear, whiten, weights)[0])
    by_joint = whiten.by_joint
    transposed = np.swapaxes(by_joint, 1, 2)
    inner = np.linalg.inv(transposed @ by_joint + noise.corner_px**2 * np.eye(by_joint.shape[-1]))
    gain = inner @ transposed  # (n, k, 2m)
    turned, uncertain = gain @ linear.residual, noise.corner_px**2 * inner  # the joints' own errors, in σ, and their covariance
    fitted = gain @ linear.jacobian  # (n, k, p)
    per_joint = turned[..., 0] ** 2 + np.diagonal(uncertain, axis1=1, axis2=2) + ((fitted @ covariance) * fitted).sum(axis=-1)
    left, rest = linear.residual - by_joint @ turned, linear.jacobian - by_joint @ fitted
    per_image = (
        (left**2).sum(axis=(1, 2)) + ((by_joint @ uncertain) * by_joint).sum(axis=(1, 2)) + ((rest @ covariance) * rest).sum(axis=(1, 2))
    )
    corner_px = float(np.sqrt((weights @ per_image + problem.noise.corner_px**2) / (weights @ linear.rows + 1.0)))
    corner_px = max(corner_px, CORNER_MIN_PX)
    if not problem.servo_noise:
        return Noise(corner_px, noise.joint)
    groups = np.array(problem.views.arm.noise_groups)
    variance = np.empty_like(noise.joint)
    for group, expected in enumerate(problem.noise.joint):
        found = (weights @ per_joint[:, groups == group]).sum() * noise.joint[group] ** 2
        count = weights.sum() * (groups == group).sum()
        variance[group] = (found + NOISE_PRIOR_WEIGHT * expected**2) / (count + NOISE_PRIOR_WEIGHT)
    return Noise(corner_px, np.sqrt(variance))


class Misfit(NamedTuple):
    """How far images are from what was fitted, in standard deviations squared."""

    joints: Float64  # (n,) along what joints can do: chi squared with k degrees of freedom
    corners: Float64  # (n,) the rest, per number: about 1


def misfit(problem: Problem, state: State, noise: Noise) -> Misfit:
    """Each image's distance, split into what the joints' errors could explain and what they could not."""
    return _misfit(problem, _linearised(problem, state), noise)


def _misfit(problem: Problem, linear: _Linear, noise: Noise) -> Misfit:
    u, s, _ = np.linalg.svd(linear.by_joint * _joint_sigma(problem, noise), full_matrices=False)
    shares = (np.swapaxes(u, 1, 2) @ linear.residual)[..., 0] ** 2
    shares = np.where(s > 1e-9 * max(float(s.max(initial=0.0)), 1e-300), shares, 0.0)
    rest = np.maximum((linear.residual**2).sum(axis=(1, 2)) - shares.sum(axis=1), 0.0)
    return Misfit(
        (shares / (noise.corner_px**2 + s**2)).sum(axis=1), rest / (noise.corner_px**2 * np.maximum(linear.rows - s.shape[1], 1.0))
    )


def solve(problem: Problem, start: State, weights: Float64 | None = None, noise: Noise | None = None, estimate_noise: bool = True) -> Fit:
    """The estimate, its noise and its covariance.

    Without `weights` each image is weighed by Student's t as it fits, so that whole images that are wrong lose their say.
    Raises `CalibrationError` when the images do not determine what is free.
    """
    robust = weights is None
    weights = np.ones(len(problem.views.names)) if weights is None else weights
    at = _At(start, _linearised(problem, start))
    noise = noise or problem.noise
    if not problem.servo_noise:
        noise = Noise(noise.corner_px, np.zeros_like(noise.joint))
    for _ in range(ROUNDS_MAX):
        at, length = _stepped(problem, at, noise, weights)
        before = noise
        for _ in range(EM_STEPS if estimate_noise else 0):
            noise = _noise_step(problem, at, noise, weights)
        if robust:
            weights = _student(problem, at.linear, noise)
        if length < STEP_MIN and np.allclose(
            [noise.corner_px, *noise.joint], [before.corner_px, *before.joint], rtol=NOISE_CHANGE_MIN, atol=0.0
        ):
            break
    matrix, _, _ = _normal(problem, at.state, at.linear, _whitener(problem, at.linear, noise), weights)
    covariance = np.zeros((len(problem.free), len(problem.free)))
    covariance[np.ix_(problem.free, problem.free)] = _inverse(matrix)
    return Fit(at.state, noise, covariance, weights)


def _student(problem: Problem, linear: _Linear, noise: Noise) -> Float64:
    """Weights (n,) of the images: about 1 for those that fit."""
    found, joints = _misfit(problem, linear, noise), len(problem.views.arm.joint_names)
    return (TAIL + joints) / (TAIL + found.joints) * np.minimum(1.0, 4.0 / np.maximum(found.corners, 1e-300))


def scores(problem: Problem, fit: Fit) -> tuple[Float64, Float64]:
    """Each image's own normal matrix (n, free, free) and right-hand side (n, free): what a jackknife takes away."""
    linear = _linearised(problem, fit.state)
    whiten = _whitener(problem, linear, fit.noise)
    jacobian, residual = whiten(linear.jacobian), whiten(linear.residual)
    transposed = np.swapaxes(jacobian, 1, 2) * fit.weights[:, None, None]
    return transposed @ jacobian, (transposed @ residual)[..., 0]


class Influence(NamedTuple):
    """What each joint's own error did in each image, in σ of its repeatability."""

    errors: Float64  # (n, k) as far as the images show them
    shown: Float64  # (n, k) their variance, if the estimate were exact: about 1
    lost: Float64  # (n, n, k) by how much their covariance is less, since the estimate has followed them
    on_estimate: Float64  # (n, free, k) how far one σ moves the estimate


def influence(problem: Problem, fit: Fit) -> Influence:
    """Each joint's errors around a fit, and what they did to it."""
    linear = _linearised(problem, fit.state)
    whiten = _whitener(problem, linear, fit.noise)
    by_joint = np.swapaxes(whiten(whiten.by_joint), 1, 2)
    told, left = by_joint @ whiten(linear.jacobian), by_joint @ whiten(linear.residual)
    covariance = fit.covariance[np.ix_(problem.free, problem.free)]
    moved_by = told @ covariance  # (n, k, free)
    return Influence(
        left[..., 0],
        (by_joint**2).sum(axis=-1),
        np.einsum("akp,bkp->abk", moved_by, told),
        np.swapaxes(moved_by * fit.weights[:, None, None], 1, 2),
    )


def names(problem: Problem) -> tuple[str, ...]:
    """Of the columns of the covariance."""
    return state_names(problem.views.arm)
