"""Calibration on simulated arms, where the truth is known, and on data that others published.

python tests/bench/hand_eye.py [--trials N] runs these tables alone; 200 trials take about half an hour on one slow core.
"""

import argparse
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from tables import Bench, Figures

from calibration import gls, hand_eye
from calibration.arm import closed_form, placements, posed
from calibration.arm.model import PosedArm, State, Views, inverse, rotation
from calibration.held_out import plane_distances_m, plane_errors_m
from calibration.live import plan_poses
from calibration.simulated import arm as simulated_arm
from calibration.simulated.arm import Errors, Robot
from edge.errors import CalibrationError

DATA = Path(__file__).parents[3] / "shared" / "data"
FRESH = 20  # straight-down poses per arm, on which the tool's error is measured
Show = Callable[[str], None]

KINDS = {
    "0.3° noise": Errors(),
    "0.6° noise": Errors(gauss_deg=0.6),
    "±0.5° backlash": Errors(gauss_deg=0.0, backlash_deg=0.5),
    "0.8° error curve": Errors(gauss_deg=0.15, sine_deg=0.8),
    "0.8° droop of each link": Errors(gauss_deg=0.2, droop_deg=0.8),
    "0.8° sag under load": Errors(gauss_deg=0.2, compliance_rad_per_nm=0.0145),
    "focal length told 1 %, centre 4 px wrong": Errors(lens_error=0.01, centre_error_px=4.0),
    "2 of 20 images: board moved 15 mm": Errors(),
    "2 of 20 images: ids reversed": Errors(),
    "board 1 % larger than told": Errors(board_error=0.01),
}


class Trial(NamedTuple):
    """One arm, calibrated."""

    robot: Robot
    views: Views
    found: hand_eye.Estimate
    fresh_m: np.ndarray  # (FRESH,) tool errors
    spoilt: tuple[str, ...]
    seconds: float


class Ahead:
    """Says how far a bench is, and how long it still takes."""

    def __init__(self, what: str, count: int, show: Show) -> None:
        self._what, self._count, self._show = what, count, show
        self._done, self._began_s = 0, time.monotonic()

    def step(self) -> None:
        self._done += 1
        left_s = (time.monotonic() - self._began_s) / self._done * (self._count - self._done)
        self._show(f"{self._what}: {self._done} of {self._count}, {left_s:.0f} s left")


def bench_methods(trials: int = 200, show: Show = lambda _: None) -> Bench:
    """How far the hand-eye is from the truth, by method: what OpenCV 4 does, pixels, ours."""
    plan, ahead = plan_poses.plan(simulated_arm.SCENE), Ahead("hand-eye by method", 2 * trials, show)
    rows: dict[str, Figures] = {"PARK, all pairs": {}, "bundle adjustment over pixels": {}, "ours (dofbot calibrate handeye)": {}}
    for title, errors in (("exact zeros", Errors(zero_sd_deg=0.0, scale_sd=0.0)), ("zeros off by sd 2°", Errors())):
        misses: dict[str, list[tuple[float, float]]] = {name: [] for name in rows}
        for seed in range(trials):
            trial = calibrated(seed, errors, plan)
            truth = trial.robot.in_gauge().hand_eye
            conventional = _pixels_only(trial)
            for name, pose in zip(rows, (trial.found.closed_form, conventional, trial.found.state.hand_eye), strict=True):
                misses[name].append(miss(pose, truth))
            ahead.step()
        for name, found in misses.items():
            for unit, values in zip(("mm", "°"), np.array(found).T, strict=True):
                rows[name][f"{title}, median {unit}"] = float(np.median(values))
            rows[name][f"{title}, 95 % mm"] = float(np.percentile(np.array(found)[:, 0], 95))
    bars = {
        f"{title}, median {unit}": bar
        for title in ("exact zeros", "zeros off by sd 2°")
        for unit, bar in (("mm", "≤ 0.6"), ("°", "≤ 0.15"))
    }
    notes = f"{trials} simulated arms, the 20 planned poses, 0.3° of servo noise; corners projected with 0.2 px of noise, none rendered."
    return Bench("Hand-eye calibration", rows, bars, notes)


def bench_errors(trials: int = 200, show: Show = lambda _: None) -> Bench:
    """What ours makes of each kind of error."""
    plan, ahead = plan_poses.plan(simulated_arm.SCENE), Ahead("kinds of error", trials * len(KINDS), show)
    rows: dict[str, Figures] = {}
    for kind, errors in KINDS.items():
        done, refused = [], 0
        for seed in range(trials):
            try:
                done.append(calibrated(1000 + seed, errors, plan, _spoiler(kind)))
            except CalibrationError:  # no estimate at all: images do not fit each other
                refused += 1
            ahead.step()
        rows[kind] = _figures(done, refused)
    bars = {"z-score rms": "0.8–1.4", "tool XY median mm": "≤ 2; backlash ≤ 4", "tool XY 95 % mm": "≤ 5; backlash ≤ 9"}
    notes = (
        f"{trials} simulated arms each: zeros off by sd 2°, scales by 1 %, camera mount by 5 mm and 3°. Tool XY: {FRESH} straight-down "
        "poses that were not calibrated in, new noise. z-scores: all estimated numbers by the σ that the estimate gives them; "
        "zeros and scales are those with the tool straight down. Droop: each joint sags by the lean of its own link; sag: by all that it "
        "carries, 0.0145 rad/N·m. "
        "A board that is larger than told cannot be seen to be; only a ruler finds it."
    )
    return Bench("Calibration of arms with errors", rows, bars, notes)


def calibrated(seed: int, errors: Errors, plan: plan_poses.Plan, spoil: Callable[..., tuple[str, ...]] | None = None) -> Trial:
    """Draw an arm, take its pictures, calibrate it and see how well it then does."""
    draws = np.random.default_rng(seed)
    robot = simulated_arm.robot(draws, errors)
    views = simulated_arm.take_pictures(robot, plan.calibrate_rad, draws)
    held_out = simulated_arm.take_pictures(robot, plan.held_out_rad, draws)
    spoilt = spoil(robot, views, draws) if spoil else ()
    lens = simulated_arm.lens_as_told(robot)
    began_s = time.process_time()
    found = hand_eye.estimate(views, simulated_arm.POINTS_M, lens, held_out=held_out, guess=placements.CAMERA_ON_TOOL)
    seconds = time.process_time() - began_s
    fresh = simulated_arm.take_pictures(robot, plan_poses.straight_down(simulated_arm.SCENE, FRESH, draws), draws)
    fresh = fresh.take(np.flatnonzero(np.isfinite(fresh.corners_px[..., 0]).any(axis=1)))
    as_written = found.state._replace(compliance=0.0)  # the runtime knows zeros and scales
    return Trial(robot, views, found, plane_errors_m(as_written, fresh, simulated_arm.POINTS_M), spoilt, seconds)


def _spoiler(kind: str) -> Callable[..., tuple[str, ...]] | None:
    def moved(robot: Robot, views: Views, draws: np.random.Generator) -> tuple[str, ...]:
        board = robot.truth.board.copy()
        board[:2, 3] += 0.015 * np.array([np.cos(angle := draws.uniform(0, 2 * np.pi)), np.sin(angle)])
        other = robot._replace(truth=robot.truth._replace(board=board))
        return _replaced(views, simulated_arm.take_pictures(other, views.arm.commanded, draws).corners_px, draws)

    def reversed_ids(robot: Robot, views: Views, draws: np.random.Generator) -> tuple[str, ...]:
        return _replaced(views, views.corners_px[:, ::-1].copy(), draws)

    return moved if "moved" in kind else reversed_ids if "reversed" in kind else None


def _replaced(views: Views, corners_px: np.ndarray, draws: np.random.Generator) -> tuple[str, ...]:
    """Spoil two images that would be used; their names."""
    good = np.flatnonzero(np.isfinite(corners_px[..., 0]).sum(axis=1) >= 12)
    chosen = draws.choice(good, 2, replace=False)
    views.corners_px[chosen] = corners_px[chosen]
    return tuple(views.names[i] for i in chosen)


def _figures(done: list[Trial], refused: int) -> Figures:
    misses = np.array([miss(one.found.state.hand_eye, one.robot.in_gauge().hand_eye) for one in done])
    tool_mm = 1e3 * np.concatenate([one.fresh_m for one in done])
    named = [name in {rejected.name for rejected in one.found.rejected} for one in done for name in one.spoilt]
    figures = {
        "hand-eye median mm": float(np.median(misses[:, 0])),
        "hand-eye median °": float(np.median(misses[:, 1])),
        "z-score rms": float(np.sqrt(np.mean(np.concatenate([scores(one) for one in done]) ** 2))),
        "tool XY median mm": float(np.median(tool_mm)),
        "tool XY 95 % mm": float(np.percentile(tool_mm, 95)),
        "servo σ found °": float(np.degrees(np.median([one.found.noise.joint for one in done]))),
        "pixels used": f"{sum(one.found.method == 'pixel' for one in done)} of {len(done)}",
        "refused": f"{refused + sum(not one.found.passed for one in done)} of {refused + len(done)}",
        "CPU s": float(np.median([one.seconds for one in done])),
    }
    if named:
        figures["spoilt images named"] = f"{sum(named)} of {len(named)}"
    return figures


def miss(pose: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """mm and degrees between two poses."""
    turn = closed_form.rotation_vectors((pose @ inverse(truth))[None, :3, :3])[0]
    return 1e3 * float(np.linalg.norm((pose - truth)[:3, 3])), float(np.degrees(np.linalg.norm(turn)))


def scores(trial: Trial) -> np.ndarray:
    """Errors of all estimated numbers over their σ."""
    found, truth = trial.found.state, trial.robot.in_gauge()
    difference = np.concatenate(
        [
            part
            for mine, real in ((found.hand_eye, truth.hand_eye), (found.board, truth.board))
            for part in (closed_form.rotation_vectors((mine @ inverse(real))[None, :3, :3])[0], (mine - real)[:3, 3])
        ]
        + [
            found.zeros_rad - truth.zeros_rad,
            found.scales - truth.scales,
            found.compliance - truth.compliance,
            (found.lens - truth.lens)[:6],
        ]
    )
    sigma = np.sqrt(np.diag(trial.found.covariance))
    known = (sigma > 0.0) & np.isfinite(difference)  # an arm that sags in another way has no compliance
    return np.asarray(difference[known] / sigma[known])


def _pixels_only(trial: Trial) -> np.ndarray:
    """What is usually done: the closed form, then hand-eye and board by least squares over pixels, the joints taken as commanded."""
    views = trial.views.take(np.flatnonzero(np.isin(trial.views.names, trial.found.used)))
    lens = simulated_arm.lens_as_told(trial.robot)
    start = State(trial.found.closed_form, trial.found.state.board, np.zeros(5), np.zeros(5), lens)
    free = np.arange(len(trial.found.names)) < 12
    problem = gls.Problem(views, simulated_arm.POINTS_M, start, np.full(len(free), np.inf), free, hand_eye.NOISE, servo_noise=False)
    return gls.solve(problem, start, np.ones(len(views.names))).state.hand_eye


def bench_others(show: Show = lambda _: None) -> Bench:
    """Data of real arms that others published, with what was published or found of them."""
    rows: dict[str, Figures] = {}
    if not DATA.is_dir():
        return Bench("Calibration of others' arms", {}, {}, f"skipped: {DATA.name} is not there")
    show("SO-101, each sample predicted from the others")
    rows["SO-101, hobby servos, 24 samples, each left out in turn"] = so101()
    try:
        import cv2  # noqa: F401
    except ModuleNotFoundError:
        notes = "The industrial set is skipped: OpenCV is not installed."
    else:
        notes = "Industrial set: published 0.956 ± 0.597 mm with their lens, all images in the fit, at least 13 corners each."
        show("industrial set")
        rows["industrial arm, their lens, fitted"], rows["industrial arm, lens with distortion, each fifth held out"] = industrial()
    bars = {"median mm": "SO-101 ≤ 7.8, industrial held out ≤ 0.7", "mean mm": "industrial fitted 0.956 ± 3 %"}
    return Bench("Calibration of others' arms", rows, bars, notes)


def so101() -> Figures:
    """Distance between where each marker was seen on the gripper and where the others put it."""
    text = (DATA / "so101" / "samples.yaml").read_text(encoding="utf-8")
    numbers = np.array([float(one) for one in re.findall(r"- (-?\d\S*)$", text, re.MULTILINE)]).reshape(24, 6 + 16 + 16)
    flange, seen = inverse(numbers[:, 6:22].reshape(-1, 4, 4)), numbers[:, 22:].reshape(-1, 4, 4)
    views = posed.views(PosedArm(flange, fixed_camera=True), seen)
    apart_mm = []
    for out in range(len(flange)):
        rest = np.flatnonzero(np.arange(len(flange)) != out)
        found = hand_eye.estimate(views.take(rest), posed.POINTS_M, posed.LENS, free_lens=False)
        on_gripper = inverse(flange[out]) @ found.state.hand_eye @ seen[out]
        apart_mm.append(1e3 * float(np.linalg.norm((on_gripper - found.state.board)[:3, 3])))
    whole = hand_eye.estimate(views, posed.POINTS_M, posed.LENS, free_lens=False)
    failed = [one.name for one in whole.checks if one.found > one.limit]
    said = f"refused: {failed[0]}" if failed else f"warns: {whole.warnings[0]}" if whole.warnings else "nothing"
    return {"method": whole.method, **_spread(np.array(apart_mm)), "it says": said}


def _spread(values_mm: np.ndarray) -> Figures:
    return {"median mm": float(np.median(values_mm)), "mean mm": float(values_mm.mean()), "max mm": float(values_mm.max())}


def industrial() -> tuple[Figures, Figures]:
    """Distances on the board's plane: in the model of who published the set, and with a lens of our own."""
    import cv2

    board = cv2.aruco.CharucoBoard((5, 7), 0.036195, 0.018256, cv2.aruco.getPredefinedDictionary(cv2.aruco.DICT_6X6_250))
    points = np.array(board.getChessboardCorners(), dtype=float)
    corners, flange = zip(*(_industrial_image(index, cv2.aruco.CharucoDetector(board), len(points)) for index in range(16)), strict=True)
    views = Views(PosedArm(np.array(flange), fixed_camera=True), np.array(corners), tuple(f"{i}.png" for i in range(16)))
    views = views.take(np.flatnonzero(np.isfinite(views.corners_px[..., 0]).sum(axis=1) >= 13))
    theirs = np.array([1352.02747, 1356.14287, 789.67065, 627.2995, 0.0, 0.0, 0.0, 0.0, 0.0])  # cal_data.yaml
    found = hand_eye.estimate(views, points, theirs, free_lens=False)
    fitted = gls.solve(_pixels_with_all(views, points, found), found.pixel.state, np.ones(len(views.names)))
    lens = _own_lens(cv2, views, points, theirs)
    better = hand_eye.estimate(views, points, lens, np.array([3.0, 3.0, 2.0, 2.0, 0.01, 0.02]), free_lens=False)
    held_out_m = better.held_out.pixel_m if better.method == "pixel" else better.held_out.gls_m
    return (
        {"method": "pixel", **_spread(1e3 * plane_distances_m(fitted.state, views, points)), "it says": ""},
        {"method": better.method, **_spread(1e3 * held_out_m), "it says": hand_eye.describe(better)},
    )


def _industrial_image(index: int, detector: Any, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Corners (count, 2) of one image, NaN where none was found, and base to wrist (4, 4)."""
    import cv2

    corners, ids, _, _ = detector.detectBoard(
        cv2.imread(str(DATA / "charuco-industrial" / "images" / f"{index}.png"), cv2.IMREAD_GRAYSCALE)
    )
    found = np.full((count, 2), np.nan)
    if ids is not None:
        found[np.ravel(ids)] = np.reshape(corners, (-1, 2))
    text = (DATA / "charuco-industrial" / "poses" / f"{index}.yaml").read_text(encoding="utf-8")
    pose = {key: float(value) for key, value in re.findall(r"(\w+): (\S+)", text)}
    x, y, z, w = (pose[key] for key in ("qx", "qy", "qz", "qw"))
    result = np.eye(4)
    result[:3, :3] = rotation(2.0 * np.arctan2(np.linalg.norm((x, y, z)), w) * np.array([x, y, z]) / np.linalg.norm((x, y, z)))
    result[:3, 3] = pose["x"], pose["y"], pose["z"]
    return found, result


def _pixels_with_all(views: Views, points: np.ndarray, found: hand_eye.Estimate) -> gls.Problem:
    """Hand-eye and board over the pixels of all images, none outvoted: what was published."""
    free = np.arange(len(found.names)) < 12
    return gls.Problem(views, points, found.pixel.state, np.full(len(free), np.inf), free, hand_eye.POSE_NOISE, servo_noise=False)


def _own_lens(cv2: Any, views: Views, points: np.ndarray, start: np.ndarray) -> np.ndarray:
    """The lens with distortion, from the same images; the poses of the arm have no part in it."""
    seen = np.isfinite(views.corners_px[..., 0])
    objects = [points[ok].astype(np.float32) for ok in seen]
    images = [image[ok].astype(np.float32) for image, ok in zip(views.corners_px, seen, strict=True)]
    matrix = np.array([[start[0], 0.0, start[2]], [0.0, start[1], start[3]], [0.0, 0.0, 1.0]])
    _, matrix, bent, _, _ = cv2.calibrateCamera(objects, images, (1600, 1200), matrix, np.zeros(5), flags=cv2.CALIB_USE_INTRINSIC_GUESS)
    return np.array([matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2], *np.ravel(bent)[:5]])


def main() -> None:
    """Run these tables alone."""
    parser = argparse.ArgumentParser(description="Calibration on simulated arms and on others' data.")
    parser.add_argument("--trials", type=int, default=200, help="simulated arms in each row (200)")
    trials: int = parser.parse_args().trials
    console = Console(width=None if sys.stdout.isatty() else 200)
    with console.status("") as status:
        for one in (
            lambda: bench_methods(trials, status.update),
            lambda: bench_errors(trials, status.update),
            lambda: bench_others(status.update),
        ):
            console.print(one().table(), "")


if __name__ == "__main__":
    main()
