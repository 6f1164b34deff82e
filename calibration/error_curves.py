"""What of a servo's error comes back at the same angle: a curve over its travel, not noise.

Images that were taken at nearby angles share such an error, so they tell less together than the estimate believes, which takes all
errors as drawn anew. How much is shared shows in the images: in the product of a joint's errors in two images at nearby angles.
"""

import numpy as np

from calibration import gls
from edge.messages import Float64

# How near two angles are for their errors to be alike: such curves bend within tens of degrees (hessmer.org, robcook.eu/hexy).
ALIKE_RAD = np.radians(12.0)


def covariance(problem: gls.Problem, fit: gls.Fit) -> Float64:
    """The fit's covariance (p, p), wider by what the servos' curves can have done to it; that of an arm without servos as it is."""
    if not problem.views.arm.adjustable:
        return fit.covariance
    found, alike = gls.influence(problem, fit), _alike(problem.views.arm.commanded)
    per_joint = np.moveaxis(found.on_estimate, -1, 0)  # (k, n, free)
    more = _share(found, alike) * (np.swapaxes(per_joint, 1, 2) @ np.moveaxis(alike, -1, 0) @ per_joint).sum(axis=0)
    wider = fit.covariance.copy()
    wider[np.ix_(problem.free, problem.free)] += more
    return wider


def _alike(commanded_rad: Float64) -> Float64:
    """(n, n, k) how much of a curve two images share; 0 of an image with itself, which the fit has counted."""
    apart = commanded_rad[:, None] - commanded_rad[None]
    return np.asarray(np.exp(-0.5 * (apart / ALIKE_RAD) ** 2) * (1.0 - np.eye(len(commanded_rad)))[..., None])


def _share(found: gls.Influence, alike: Float64) -> float:
    """Which part of the joints' variance is a curve, 0 to 1, by least squares over all pairs of images."""
    products = found.errors[:, None] * found.errors[None] + found.lost
    expected = alike * np.sqrt(found.shown[:, None] * found.shown[None])
    return float(np.clip((products * expected).sum() / np.square(expected).sum(), 0.0, 1.0))
