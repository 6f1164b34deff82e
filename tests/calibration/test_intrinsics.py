"""A lens is found as it is, its σ is honest, and a second solver and a third party agree."""

import cv2
import numpy as np
import pytest
from scipy.linalg import block_diag
from scipy.optimize import least_squares

from calibration import boards, coverage, verdict
from calibration.bundle import State, View, residuals
from calibration.intrinsics import MODELS, VIEWS_MIN, apart_px, calibrate, fit
from calibration.opencv import NO_DISTORTION, Lens, project
from calibration.simulated import render
from edge.errors import CalibrationError
from edge.messages import Float64, Intrinsics
from tests.calibration.scenes import BOARD, LENS, TILT_RAD

SIZE = (640, 480)
POINTS_M = boards.points_m(BOARD, np.arange(24))
MODEL = MODELS["k1 k2 p1 p2"]


def numbers(lens: Lens) -> Float64:
    return np.array((*lens.intrinsics[2:], *lens.distortion))


def views(count: int, rng: np.random.Generator, sd_px: float = 0.1, lens: Lens = LENS) -> list[View]:
    """Corners as the lens puts them, with a detector's noise; no image is drawn."""
    found = []
    for number, pose in enumerate(render.poses(count, rng, (0.17, 0.32), TILT_RAD, BOARD)):
        pose[:2, 3] += rng.uniform(-0.05, 0.05, 2)
        pixels = project(POINTS_M, pose, lens)
        inside = ((pixels > 3.0) & (pixels < (636.0, 476.0))).all(axis=1)
        found.append(View(f"{number}.png", POINTS_M[inside], pixels[inside] + rng.normal(0.0, sd_px, (inside.sum(), 2))))
    return [view for view in found if len(view.points_m) >= 12]


def test_a_lens_is_found_within_its_sigma() -> None:
    spoilt = views(24, np.random.default_rng(1))
    rng = np.random.default_rng(2)
    off = rng.normal(0.0, 3.0, spoilt[3].corners_px.shape)
    spoilt[3] = spoilt[3]._replace(corners_px=spoilt[3].corners_px + off)  # the board was bent, or moved
    found = calibrate(spoilt, SIZE)
    assert found.rejected == ["3.png"]
    assert found.model == "k1 k2 p1 p2"
    assert found.fit.rms_px == pytest.approx(0.1 * np.sqrt(2.0), rel=0.15)
    for name, value, true in zip(found.fit.sigma, numbers(found.fit.lens), numbers(LENS), strict=False):
        assert abs(value - true) < 4.0 * found.fit.sigma[name]


def test_sigmas_are_honest() -> None:
    z = []
    for seed in range(6):
        found = fit(views(16, np.random.default_rng(seed)), Lens(LENS.intrinsics), MODEL)
        z.append((numbers(found.lens) - numbers(LENS))[: len(MODEL)] / list(found.sigma.values()))
    assert 0.7 < np.sqrt(np.mean(np.square(z))) < 1.4


def test_opencv_finds_the_same_lens() -> None:
    chosen = views(12, np.random.default_rng(5))
    ours = fit(chosen, Lens(LENS.intrinsics), MODEL)
    start = Lens(LENS.intrinsics)
    rms, matrix, distortion, *_ = cv2.calibrateCamera(
        [view.points_m.astype(np.float32) for view in chosen],
        [view.corners_px.astype(np.float32) for view in chosen],
        SIZE,
        start.matrix(),
        np.zeros(5),
        flags=cv2.CALIB_USE_INTRINSIC_GUESS | cv2.CALIB_FIX_K3,
        criteria=(3, 200, 1e-12),
    )
    assert ours.rms_px == pytest.approx(rms, rel=1e-3)
    fx, fy, cx, cy = matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2]
    theirs = Lens(Intrinsics(*SIZE, fx, fy, cx, cy), tuple(distortion.ravel()[:5].tolist()))
    assert apart_px(ours.lens, theirs) < 0.05


def test_scipy_finds_the_same_lens_and_the_same_sigmas() -> None:
    chosen = views(8, np.random.default_rng(6))
    ours = fit(chosen, Lens(LENS.intrinsics), MODEL)

    def off(vector: Float64) -> Float64:
        camera = np.append(vector[:8], 0.0)
        poses = vector[8:].reshape(-1, 6)
        return np.concatenate([corners for corners, _, _ in residuals(chosen, State(camera, list(poses)))])

    def slopes(vector: Float64) -> Float64:
        found = residuals(chosen, State(np.append(vector[:8], 0.0), list(vector[8:].reshape(-1, 6))))
        return np.column_stack(
            (np.concatenate([by_camera[:, :8] for _, _, by_camera in found]), block_diag(*(by_pose for _, by_pose, _ in found)))
        )

    start = np.concatenate((numbers(Lens(LENS.intrinsics))[:8], *ours.poses))
    theirs = least_squares(off, start, slopes, x_scale="jac", xtol=1e-12, ftol=1e-12)
    np.testing.assert_allclose(numbers(ours.lens)[:8], theirs.x[:8], rtol=1e-4, atol=1e-5)
    variance = np.square(theirs.fun).sum() / (theirs.fun.size - theirs.x.size)
    sigma = np.sqrt(variance * np.diag(np.linalg.inv(theirs.jac.T @ theirs.jac))[:8])
    np.testing.assert_allclose(list(ours.sigma.values()), sigma, rtol=1e-3)


def test_the_simplest_lens_that_predicts_as_well_is_taken() -> None:
    found = calibrate(views(12, np.random.default_rng(7), lens=Lens(LENS.intrinsics)), SIZE)
    assert found.model in ("pinhole", "k1")
    assert found.fit.lens.distortion[1:] == NO_DISTORTION[1:]


def test_the_factory_holds_what_few_views_do_not_tell() -> None:
    frontal = []
    rng = np.random.default_rng(0)
    for number, pose in enumerate(render.poses(10, rng, (0.25, 0.26), 0.02, BOARD)):
        pixels = project(POINTS_M, pose, LENS)
        frontal.append(View(str(number), POINTS_M, pixels + rng.normal(0.0, 0.1, pixels.shape)))
    true = LENS.intrinsics
    free = fit(frontal, Lens(true), MODEL)
    held = fit(frontal, Lens(true), MODEL, factory=true)
    assert free.sigma["fx"] > 3.0 * held.sigma["fx"]
    assert held.lens.intrinsics.fx == pytest.approx(true.fx, rel=0.01)


def test_what_a_rotation_explains_is_no_difference() -> None:
    true = LENS.intrinsics
    assert apart_px(LENS, LENS) < 1e-6
    assert apart_px(LENS, Lens(true._replace(cx=true.cx + 2.0), LENS.distortion)) < 0.5
    assert apart_px(LENS, Lens(true._replace(fx=true.fx * 1.01, fy=true.fy * 1.01), LENS.distortion)) > 2.0


def test_too_few_views_are_refused() -> None:
    with pytest.raises(CalibrationError, match=f"expected at least {VIEWS_MIN}"):
        calibrate(views(5, np.random.default_rng(0)), SIZE)


def test_a_poor_set_is_refused_with_what_to_do() -> None:
    frontal = [View(str(i), view.points_m, view.corners_px) for i, view in enumerate(views(12, np.random.default_rng(0), sd_px=2.0))]
    found = calibrate(frontal, SIZE)
    judged = verdict.figures(found, coverage.counts([frontal[0].corners_px], SIZE))
    refused = {one.name for one in judged if one.state == "refused"}
    assert {"reprojection error, px", "cells of the image without a corner, %"} <= refused
    with pytest.raises(CalibrationError, match="hold the board to the"):
        verdict.lens_part(found, judged, "7", BOARD)
    with pytest.raises(CalibrationError, match="--ruler-mm"):
        verdict.lens_part(found, [], "7", boards.charuco())


def test_coverage_names_where_nothing_was_seen() -> None:
    left = np.random.default_rng(0).uniform((0.0, 0.0), (400.0, 479.0), (500, 2))
    seen = coverage.counts([left, left], SIZE)
    assert seen.sum() == 1000
    assert coverage.share(seen) == pytest.approx(5 / 8)
    assert coverage.emptiest(seen) in ("upper right", "right", "lower right")
    assert len(coverage.picture(seen).splitlines()) == 6
    whole = coverage.counts([np.random.default_rng(0).uniform((0.0, 0.0), (639.0, 479.0), (2000, 2))], SIZE)
    assert coverage.share(whole) == 1.0
    whole[2:4, 3:5] = 1
    assert coverage.emptiest(whole) == "middle"  # every cell saw one: then where there are fewest
    assert verdict.Figure("", float("nan"), 1.0, 2.0, "").state == "refused"
