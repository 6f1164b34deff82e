"""Hand-eye, board, servo zeros and scales of one arm from pictures of one board, with σ of each and an honest error in millimetres.

`estimate` goes: gate the images, closed form, what can be told, generalised least squares with images outvoted that do not fit, its σ
widened by what the servos' error curves can have done, bundle adjustment over pixels beside it, errors on images that neither saw, verdict.
Of the two, the one with the smaller held-out error is used; when the difference is within two standard errors of its mean, that is
generalised least squares, which also knows its σ, and so it is where that keeps the thresholds and the other one does not.
"""

from math import inf, sqrt
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from calibration import error_curves, gls, observability
from calibration.arm import closed_form
from calibration.arm.images import CORNERS_MIN, Rejected, gated, in_order
from calibration.arm.model import Arm, CameraPlace, ServoArm, State, Views, inverse, state_names
from calibration.held_out import HeldOut, held_out_errors, jackknife, known
from calibration.lens import FITTED
from edge.calibration import Calibration, Check, FixedCamera, ForearmCamera, HandEye, Row, made
from edge.errors import CalibrationError
from edge.messages import Float64

# Squared distance, in σ, by number of joints: noise alone exceeds it once in 10⁴ images (χ²). Beyond, the board was moved or the like.
JOINTS_MISFIT = {5: 25.74, 6: 27.86}
CORNERS_RATIO = 6.0  # variance of the rest of an image over that of all images
KEPT_MIN = 0.7
HELD_OUT_MIN = 3  # fewer are no verdict
IMAGES_PLANNED, SERVOS = 20, 5  # of `plan_poses`; each may be off in each image
PRIOR_MAX = 5.0  # σ of what was known beforehand

# What is known beforehand, one σ. Servo horns have 21 to 25 teeth, so a zero can be half of 15° off before it is set with care.
ZERO_SIGMA_RAD = np.radians(5.0)
SCALE_SIGMA = 0.02
# rad/(N·m): an arm that sags by 10 mm at full reach (urdf/README.md) has 0.019 in each of its servos; twice that.
COMPLIANCE_SIGMA = 0.04
LENS_SIGMA = np.array([6.0, 6.0, 4.0, 4.0, 0.05, 0.1])  # a factory calibration at 640 px: 1 %, 4 px
NOISE = gls.Noise(0.3, np.full(5, np.radians(0.4)))
POSE_NOISE = gls.Noise(0.3, np.array([np.radians(0.2), 0.001]))


class Estimate(NamedTuple):
    """The result; in the gauge of `observability`, zeros and scales as they are with the tool straight down (`calibration.arm.gravity`)."""

    method: Literal["gls", "pixel"]
    state: State
    covariance: Float64  # (p, p) of the method used, SI units, columns of `state_names`
    names: tuple[str, ...]
    noise: gls.Noise  # each servo's repeatability, rad
    closed_form: Float64  # (4, 4) hand-eye of the start
    gls: gls.Fit
    pixel: gls.Fit
    held_out: HeldOut
    used: tuple[str, ...]
    rejected: tuple[Rejected, ...]
    jackknife_ratio: float  # of σ of the hand-eye's position, by leaving out images, over that of the model
    checks: tuple[Check, ...]  # the estimate may be saved if each holds
    warnings: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether every threshold was kept."""
        return _are_kept(self.checks)

    def sigma(self) -> dict[str, float]:
        """σ of each estimated number, in the unit that its name ends in."""
        deviation = np.sqrt(np.diag(self.covariance))
        told = (_told(name, float(one)) for name, one in zip(self.names, deviation, strict=True) if one > 0.0)
        return dict(told)


def _told(name: str, sigma: float) -> tuple[str, float]:
    what, _, which = name.partition(" ")
    if what == "zero" or which in ("rx", "ry", "rz"):
        return f"{name}, deg", float(np.degrees(sigma))
    if what == "scale":
        return f"{name}, %", 100.0 * sigma
    if what == "compliance":
        return f"{name}, deg/(N m)", float(np.degrees(sigma))
    if what in ("hand-eye", "board"):
        return f"{name}, mm", 1e3 * sigma
    return (name, sigma) if what in ("k1", "k2") else (f"{name}, px", sigma)


def estimate(
    views: Views,
    points_m: Float64,
    lens: Float64,
    lens_sigma: Float64 | None = None,
    held_out: Views | None = None,
    guess: Float64 | None = None,
    free_lens: bool = True,
) -> Estimate:
    """The estimate from images (n) of a board (m, 3) with OpenCV's axes (x right, y down).

    `lens` (9,) as told, `lens_sigma` (6,) how well; `held_out` are further images, without them each fifth of `views` is predicted from
    the rest; `guess` is a drawing's hand-eye. Raises `CalibrationError`, saying what to do, for a set that cannot be used.
    """
    views, left_out = gated(in_order(views), points_m, lens)
    seen = closed_form.board_poses(views.corners_px, points_m, lens)
    told = _start(views, points_m, lens, seen, guess)
    observability.require(views.arm, told, points_m, np.isfinite(views.corners_px[..., 0]))
    problem = _problem(views, points_m, told, LENS_SIGMA if lens_sigma is None else lens_sigma, free_lens)
    kept, fit = _fitted(problem)
    for index in np.flatnonzero(~kept):
        left_out.append(Rejected(views.names[index], _why(problem, fit, int(index))))
    clean = problem._replace(views=views.take(np.flatnonzero(kept)))
    fit = fit._replace(covariance=error_curves.covariance(clean, fit))
    pixel_problem = clean._replace(free=observability.estimable(views.arm, lens=False), servo_noise=False)
    pixel = gls.solve(pixel_problem, fit.state, np.ones(len(clean.views.names)))
    fresh, more_left_out = (None, []) if held_out is None else _fresh(held_out, problem, fit)
    errors = held_out_errors(clean, fit, pixel_problem, pixel, fresh)
    return _verdict(clean, fit, pixel_problem, pixel, errors, told.hand_eye, tuple(left_out + more_left_out))


def _start(views: Views, points_m: Float64, lens: Float64, seen: closed_form.BoardPoses, guess: Float64 | None) -> State:
    arm, joints = views.arm, len(views.arm.joint_names)
    flange = arm.chain(np.zeros(joints), np.zeros(joints)).transform_flange_to_table
    found = closed_form.start(
        inverse(flange) if arm.fixed_camera else flange, seen.transform_board_to_camera, points_m, () if guess is None else (guess,)
    )
    return State(found.hand_eye, found.board, np.zeros(joints), np.zeros(joints), np.asarray(lens, dtype=float))


def _problem(views: Views, points_m: Float64, told: State, lens_sigma: Float64, free_lens: bool) -> gls.Problem:
    count = views.arm.adjustable
    prior = np.concatenate(
        (np.full(12, np.inf), *(np.full(count, one) for one in (ZERO_SIGMA_RAD, SCALE_SIGMA, COMPLIANCE_SIGMA)), lens_sigma)
    )
    noise = NOISE if isinstance(views.arm, ServoArm) else POSE_NOISE
    return gls.Problem(views, points_m, told, prior, observability.estimable(views.arm, free_lens), noise)


def _fitted(problem: gls.Problem) -> tuple[NDArray[np.bool_], gls.Fit]:
    """Which images fit, and the estimate from them."""
    fit = gls.solve(problem, problem.told)
    kept = _fits(problem, fit, slack=2.0)  # Student's t with 4 degrees of freedom has twice the variance that its σ says
    for _ in range(5):
        _require_plausible(problem, fit)
        if kept.mean() < KEPT_MIN:
            name = problem.views.names[int(np.argmin(kept))]
            raise CalibrationError(
                f"{(~kept).sum()} of {len(kept)} images do not fit the others (such as {name}): was the board or the camera moved? "
                "fasten both, and take all of them again"
            )
        fit = gls.solve(problem, fit.state, kept.astype(float), fit.noise)
        before, kept = kept, _fits(problem, fit)
        if (kept == before).all():
            break
    fit = gls.solve(problem._replace(views=problem.views.take(np.flatnonzero(kept))), fit.state, np.ones(int(kept.sum())), fit.noise)
    _require_plausible(problem, fit)
    return kept, fit


def _require_plausible(problem: gls.Problem, fit: gls.Fit) -> None:
    """Raise `CalibrationError` when images that contradict each other have bent the lens or the servos out of all likelihood."""
    off = np.zeros(len(problem.free))
    off[problem.free] = np.abs(gls.offset(problem, fit.state))
    off /= problem.prior_sigma
    worst = int(np.argmax(off))
    if off[worst] > PRIOR_MAX:
        name = state_names(problem.views.arm)[worst]
        raise CalibrationError(
            f"the images fit together only with {name} {off[worst]:.0f} σ from what was expected: was the board or the camera moved, or is "
            "the lens another one? fasten both, calibrate the lens, and take all of them again"
        )


def _limit(problem: gls.Problem) -> float:
    return JOINTS_MISFIT[len(problem.views.arm.joint_names)]


def _fits(problem: gls.Problem, fit: gls.Fit, slack: float = 1.0) -> NDArray[np.bool_]:
    found = gls.misfit(problem, fit.state, fit.noise)
    return np.asarray((found.joints <= slack * _limit(problem)) & (found.corners <= slack * CORNERS_RATIO))


def _why(problem: gls.Problem, fit: gls.Fit, index: int) -> str:
    found = gls.misfit(problem, fit.state, fit.noise)
    if found.corners[index] > CORNERS_RATIO:
        return f"its corners are {np.sqrt(found.corners[index]):.0f} σ from where this board's can be: board moved, ids wrong, or blurred"
    return f"is {np.sqrt(found.joints[index]):.0f} σ of servo noise from the others: board moved, or the arm was still moving"


def _fresh(held_out: Views, problem: gls.Problem, fit: gls.Fit) -> tuple[Views, list[Rejected]]:
    """Held-out images in which the board is as it is in the others; they, too, may be spoilt, and are then named."""
    views, left_out = in_order(held_out), []
    count = np.isfinite(views.corners_px[..., 0]).sum(axis=1)
    wanted = min(CORNERS_MIN, len(problem.points_m))
    good = count >= wanted
    left_out += [Rejected(views.names[i], f"shows {count[i]} corners, expected {wanted}") for i in np.flatnonzero(~good)]
    seen = known(views, problem.views)
    left_out += [Rejected(views.names[i], "is of a pose that was estimated from") for i in np.flatnonzero(good & seen)]
    good &= ~seen
    if good.sum() < HELD_OUT_MIN:
        why = f" ({left_out[0].name} {left_out[0].reason})" if left_out else ""
        raise CalibrationError(
            f"{good.sum()} of {len(good)} held-out images can be used{why}, expected at least {HELD_OUT_MIN}; take others"
        )
    views = views.take(np.flatnonzero(good))
    mine = problem._replace(views=views)
    found = gls.misfit(mine, fit.state, fit.noise)
    gross = (found.corners > 4.0 * CORNERS_RATIO) | (found.joints > 4.0 * _limit(problem))
    left_out += [Rejected(views.names[i], _why(mine, fit, int(i))) for i in np.flatnonzero(gross)]
    if gross.mean() > 1.0 - KEPT_MIN:
        raise CalibrationError(f"{gross.sum()} of {len(gross)} held-out images do not fit: was the board moved since? take all again")
    return views.take(np.flatnonzero(~gross)), left_out


def _pixel_is_better(errors: HeldOut) -> bool:
    gain = errors.gls_m - errors.pixel_m
    return bool(gain.mean() > 2.0 * gain.std(ddof=1) / np.sqrt(len(gain)))


def _size(covariance: Float64, columns: slice) -> float:
    return float(np.sqrt(np.trace(covariance[columns, columns])))


def _over_training_max(problem: gls.Problem) -> float:
    """Held-out over training error, root mean square, at most: 2.0, and with fewer than the 20 planned images what 20 would be then.

    A fit with as many free numbers for as few joints' errors follows its own images. Of 300 good arms in simulation 20 images had at
    most 1.85, 14 had 2.16, for which the limit is 2.2.
    """
    free = int(problem.free[:-FITTED].sum())  # thousands of corners say what the lens is

    def expected(images: int) -> float:
        errors = SERVOS * images
        return sqrt((errors + free) / (errors - free)) if errors > free else inf

    return 2.0 * max(1.0, expected(len(problem.views.names)) / expected(IMAGES_PLANNED))


TURN, SHIFT = slice(0, 3), slice(3, 6)


def _verdict(
    clean: gls.Problem,
    fit: gls.Fit,
    pixel_problem: gls.Problem,
    pixel: gls.Fit,
    errors: HeldOut,
    start: Float64,
    rejected: tuple[Rejected, ...],
) -> Estimate:
    by_images = jackknife(clean, fit)
    pixel_covariance = jackknife(pixel_problem, pixel)
    ratio = _size(by_images, SHIFT) / _size(fit.covariance, SHIFT)
    method: Literal["gls", "pixel"] = "gls"
    covariance, checks = fit.covariance, _checks(clean, fit.covariance, fit.noise, errors.gls_m, errors.training_m[0])
    warnings = []
    if _pixel_is_better(errors):
        pixel_checks = _checks(clean, pixel_covariance, fit.noise, errors.pixel_m, errors.training_m[1])
        failed = [one for one in pixel_checks if not one.found <= one.limit]
        if failed and _are_kept(checks):  # eight images say by luck that it is better, for one good arm in 75
            why = f"its {failed[0].name} is {failed[0].found:.2g}, at most {failed[0].limit:g}"
            warnings.append(f"bundle adjustment over pixels has the smaller held-out error and is not used: {why}")
        else:
            method, covariance, checks = "pixel", pixel_covariance, pixel_checks
    warnings += _warnings(clean.views.arm, fit, pixel, pixel_covariance, errors, ratio, checks)
    errors = errors._replace(training_m=errors.training_m[0 if method == "gls" else 1])
    used = fit if method == "gls" else pixel
    return Estimate(
        method, used.state, covariance, state_names(clean.views.arm), fit.noise, start, fit, pixel, errors, clean.views.names, rejected,
        ratio, checks, tuple(warnings),
    )  # fmt: skip


def _are_kept(checks: tuple[Check, ...]) -> bool:
    return all(check.found <= check.limit for check in checks)


def _checks(problem: gls.Problem, covariance: Float64, noise: gls.Noise, held_out_m: Float64, training_m: Float64) -> tuple[Check, ...]:
    """What a result has to keep, or it is refused; from the practice of the tools compared in docs, and this arm's own studies."""
    checks = [
        Check("hand-eye position, σ, mm", 1e3 * _size(covariance, SHIFT), 3.0),
        Check("hand-eye rotation, σ, deg", float(np.degrees(_size(covariance, TURN))), 0.8),
        Check("held-out error, median, mm", 1e3 * float(np.median(held_out_m)), 6.0),
        Check("held-out error, 95 %, mm", 1e3 * float(np.percentile(held_out_m, 95)), 15.0),
        # By root mean squares: of eight images the medians' ratio is over the limit for 3 good arms in 100.
        Check(
            "held-out over training error",
            float(np.sqrt(np.square(held_out_m).mean() / np.square(training_m).mean())),
            _over_training_max(problem),
        ),
    ]
    if problem.views.arm.adjustable:
        zeros = np.sqrt(np.diag(covariance))[12:17]
        checks.append(Check("servo zeros, largest σ, deg", float(np.degrees(zeros.max())), 1.5))
        checks.append(Check("servo repeatability, worst joint, deg", float(np.degrees(noise.joint.max())), 1.2))
    return tuple(checks)


GOOD = {
    "hand-eye position, σ, mm": 1.0,
    "hand-eye rotation, σ, deg": 0.25,
    "held-out error, median, mm": 3.0,
    "held-out error, 95 %, mm": 8.0,
    "held-out over training error": 1.4,
    "servo zeros, largest σ, deg": 0.5,
    "servo repeatability, worst joint, deg": 0.5,
}


def _warnings(
    arm: Arm, fit: gls.Fit, pixel: gls.Fit, pixel_covariance: Float64, errors: HeldOut, ratio: float, checks: tuple[Check, ...]
) -> tuple[str, ...]:
    """What a person should know of a result that may still be saved."""
    said = [f"{one.name} is {one.found:.2g}, good is up to {GOOD[one.name]:g}" for one in checks if one.found > GOOD[one.name]]
    difference = np.concatenate(
        (
            closed_form.rotation_vectors((pixel.state.hand_eye @ inverse(fit.state.hand_eye))[None, :3, :3])[0],
            (pixel.state.hand_eye - fit.state.hand_eye)[:3, 3],
        )
    )
    apart = np.abs(difference) / np.sqrt(np.diag(fit.covariance)[:6] + np.diag(pixel_covariance)[:6])
    if apart.max() > 3.0:
        name = state_names(arm)[int(np.argmax(apart))]
        said.append(
            f"the two methods differ by {apart.max():.1f} σ in {name}: the model of arm or lens lacks something; look at the lens first"
        )
    if not 0.5 <= ratio <= 2.0:
        said.append(f"leaving out images moves the hand-eye {ratio:.1f} times as much as its σ says: trust the held-out error instead")
    return tuple(said)


class Placed(NamedTuple):
    """A camera of a calibration, (4, 4)."""

    place: CameraPlace
    pose: Float64


def parts(one: Estimate, camera: CameraPlace, serial: str, by: str) -> dict[str, HandEye | ForearmCamera | FixedCamera | None]:
    """The calibration's part for the camera where it is, and none for it elsewhere."""
    kept = {name: value for name, value in one.sigma().items() if name.startswith("hand-eye")}
    how, pose = made(by, sigma=kept, checks=one.checks), rows_of(one.state.hand_eye)
    return {
        "hand_eye": HandEye(serial, pose, how) if camera == "wrist" else None,
        "forearm_camera": ForearmCamera(serial, pose, how) if camera == "forearm" else None,
        "fixed_camera": FixedCamera(serial, pose, how) if camera == "fixed" else None,
    }


def camera_of(found: Calibration) -> Placed | None:
    """Where a calibration has the camera; None: nowhere."""
    if found.hand_eye is not None:
        return Placed("wrist", np.array(found.hand_eye.transform_camera_to_tool))
    if found.forearm_camera is not None:
        return Placed("forearm", np.array(found.forearm_camera.transform_camera_to_link4))
    return None if found.fixed_camera is None else Placed("fixed", np.array(found.fixed_camera.transform_camera_to_table))


def rows_of(pose: Float64) -> tuple[Row, Row, Row, Row]:
    """A rigid pose (4, 4) as the file has it."""
    (a, b, c, x), (d, e, f, y), (g, h, i, z), _ = pose.tolist()
    return (a, b, c, x), (d, e, f, y), (g, h, i, z), (0.0, 0.0, 0.0, 1.0)


def describe(one: Estimate) -> str:
    """One line: which method, and the number that counts."""
    name = {"gls": "generalised least squares", "pixel": "bundle adjustment over pixels"}
    other: Literal["gls", "pixel"] = "pixel" if one.method == "gls" else "gls"
    median_mm = {"gls": 1e3 * float(np.median(one.held_out.gls_m)), "pixel": 1e3 * float(np.median(one.held_out.pixel_m))}
    return (
        f"{name[one.method]} is used: held-out error {median_mm[one.method]:.1f} mm (median of {len(one.held_out.gls_m)} images), "
        f"{name[other]} has {median_mm[other]:.1f} mm"
    )
