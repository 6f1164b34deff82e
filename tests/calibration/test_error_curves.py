"""A servo's error that comes back at the same angle widens the estimate's σ; noise does not."""

import numpy as np

from calibration import error_curves, gls, hand_eye, observability
from calibration.simulated import arm as simulated_arm


def _wider(plan, seed, **errors):
    """σ with the curve over σ without it."""
    draws = np.random.default_rng(seed)
    one = simulated_arm.robot(draws, simulated_arm.Errors(**errors))
    views = simulated_arm.take_pictures(one, plan.calibrate_rad, draws)
    truth = one.in_gauge()
    free = observability.estimable(views.arm, lens=False)
    prior = np.concatenate((np.full(12, np.inf), np.full(10, 0.1), np.full(5, hand_eye.COMPLIANCE_SIGMA), np.ones(6)))
    problem = gls.Problem(views, simulated_arm.POINTS_M, truth, prior, free, hand_eye.NOISE)
    fit = gls.solve(problem, truth, np.ones(len(views.names)))
    wider = error_curves.covariance(problem, fit)
    before = np.sqrt(np.diag(fit.covariance)[free])
    np.testing.assert_allclose(wider, wider.T, atol=1e-12)
    return np.sqrt(np.diag(wider)[free]) / before


def test_a_curve_widens_what_it_can_have_moved_and_noise_hardly_anything(plan):
    curve = np.mean([_wider(plan, seed, gauss_deg=0.1, sine_deg=0.8) for seed in range(4)], axis=0)
    noise = np.mean([_wider(plan, seed, gauss_deg=0.6) for seed in range(4)], axis=0)
    assert curve.max() > 1.15
    assert curve.mean() > noise.mean() + 0.05
    assert (noise < 1.05).all()
