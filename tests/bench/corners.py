"""Corners, markers and block poses on renders whose truth is known, beside OpenCV as it comes: pixels, millimetres, milliseconds."""

import time
from collections.abc import Callable

import cv2
import numpy as np
from tables import Bench

from calibration import boards
from calibration.block import BlockFinder
from calibration.boards import MarkerBoard, Placed
from calibration.detect import detect
from calibration.opencv import Image, Lens, project, square_poses
from calibration.simulated import render
from edge.errors import CalibrationError
from edge.messages import Float64, Intrinsics

LENS = Lens(Intrinsics(640, 480, 610.0, 612.0, 322.0, 238.0), (-0.10, 0.05, 0.001, -0.0005, 0.0))
BOARD = boards.charuco()
VIEWS = 20
BLOCK_M, MARKER_M, MARKER = 0.030, 0.025, 32
BLOCK_FRAMES = 60
Spoil = Callable[[Image, np.random.Generator], Image]
SPOILS: dict[str, Spoil] = {
    "clean": lambda image, rng: image,
    "noise of 8 grey levels": lambda image, rng: render.noisy(image, 8.0, rng),
    "blur σ 1 px": lambda image, rng: render.blurred(image, 1.0),
    "blur σ 2 px": lambda image, rng: render.blurred(image, 2.0),
    "a thumb": lambda image, rng: render.covered(image, (320.0, 240.0), 60.0),
    "light ±40 %": lambda image, rng: render.shaded(image, 0.4),
}


def bench() -> Bench:
    """Root mean square distance of ChArUco corners from where they are, and how many of those in view are found."""
    rng = np.random.default_rng(0)
    views = [(pose, render.view(BOARD, pose, LENS)) for pose in render.poses(VIEWS, rng, (0.20, 0.34), np.radians(50.0), BOARD)]
    rows = {}
    for name, spoil in SPOILS.items():
        spoilt = [(pose, spoil(image, rng)) for pose, image in views]
        ours, theirs = _rms(spoilt, _ours), _rms(spoilt, _as_it_comes)
        rows[name] = {"rms px": ours[0], "found %": ours[1], "OpenCV: rms px": theirs[0], "OpenCV: found %": theirs[1]}
    notes = (
        f"{VIEWS} own renders of {BOARD.columns} × {BOARD.rows} squares of 25 mm at 0.20–0.34 m, tilted by up to 50°; "
        f"OpenCV {cv2.__version__}. An image that is refused counts as not found."
    )
    return Bench("ChArUco corners", rows, {"rms px": "≤ 0.09; noise 0.12, blur 0.08, 0.14"}, notes)


def bench_block() -> Bench:
    """How far a block's place and heading are off, and how long a frame takes, beside the pose of its marker alone."""
    rng = np.random.default_rng(1)
    board = MarkerBoard(
        size_m=(BLOCK_M, BLOCK_M),
        markers=(Placed(MARKER, (BLOCK_M - MARKER_M) / 2, (BLOCK_M - MARKER_M) / 2, MARKER_M),),
        dictionary="DICT_4X4_50",
        ruler_mm=(100.0, 100.0),
    )
    finder = BlockFinder(board, BLOCK_M, LENS)
    off: dict[str, list[Float64]] = {"ray and plane": [], "OpenCV's square pose": []}
    durations_s = []
    for _ in range(BLOCK_FRAMES):
        camera = _camera(rng.uniform(0.20, 0.30) + BLOCK_M, rng.uniform(0.0, 0.25))
        place, yaw_rad = np.array((*rng.uniform((-0.02, 0.09), (0.05, 0.14)), BLOCK_M)), rng.uniform(-np.pi, np.pi)
        block = _lying(place, yaw_rad)
        image = render.noisy(render.view(board, np.linalg.inv(camera) @ block, LENS), 8.0, rng)
        began_s = time.perf_counter()
        (found,) = finder.find(image, camera)
        durations_s.append(time.perf_counter() - began_s)
        off["ray and plane"].append(_off(np.array(found.centre_in_table_m[:2]) - place[:2], found.yaw_rad - yaw_rad))
        marker = detect_square(image, board)
        alone = camera @ square_poses(marker, MARKER_M, LENS)[0].transform_marker_to_camera
        off["OpenCV's square pose"].append(_off(alone[:2, 3] - place[:2], float(np.arctan2(alone[1, 0], alone[0, 0])) - yaw_rad))
    rows = {}
    for name, errors in off.items():
        millimetres, degrees = np.array(errors).T
        rows[name] = {
            "max mm": millimetres.max(),
            "median mm": np.median(millimetres),
            "max yaw °": degrees.max(),
            "median yaw °": np.median(degrees),
        }
    rows["ray and plane"] |= {"median ms": np.median(durations_s) * 1e3, "p95 ms": np.percentile(durations_s, 95) * 1e3}
    notes = (
        f"{BLOCK_FRAMES} own renders of 640 × 480, marker of 25 mm on a 30 mm block, camera 0.20–0.30 m above its top, "
        "noise of 8 grey levels; the camera's own pose is taken as known."
    )
    return Bench("Pose of a block with a marker", rows, {"max mm": "≤ 1", "max yaw °": "≤ 1", "median ms": "≤ 10"}, notes)


def detect_square(image: Image, board: MarkerBoard) -> Float64:
    """(4, 2) the marker's corners as OpenCV refines them."""
    parameters = cv2.aruco.DetectorParameters()
    parameters.cornerRefinementMethod = cv2.aruco.CORNER_REFINE_SUBPIX
    detector = cv2.aruco.ArucoDetector(cv2.aruco.getPredefinedDictionary(getattr(cv2.aruco, board.dictionary)), parameters)
    return np.asarray(detector.detectMarkers(image)[0][0], np.float64).reshape(4, 2)


def _ours(image: Image) -> tuple[np.ndarray, Float64]:
    found = detect(image, BOARD)
    return found.ids, found.corners_px


def _as_it_comes(image: Image) -> tuple[np.ndarray, Float64]:
    detector = cv2.aruco.CharucoDetector(
        cv2.aruco.CharucoBoard((BOARD.columns, BOARD.rows), 1.0, 0.72, cv2.aruco.getPredefinedDictionary(cv2.aruco.DICT_4X4_50))
    )
    corners, ids, _, _ = detector.detectBoard(image)
    if ids is None:
        return np.empty(0, int), np.empty((0, 2))
    return np.asarray(ids).ravel(), np.asarray(corners, np.float64).reshape(-1, 2)


def _rms(views: list[tuple[Float64, Image]], find: Callable[[Image], tuple[np.ndarray, Float64]]) -> tuple[float, float]:
    points_m = boards.drawn_points_m(BOARD, np.arange(24))
    squares, found, in_view = 0.0, 0, 0
    for pose, image in views:
        true_px = project(points_m, pose, LENS)
        in_view += int(((true_px > 3.0) & (true_px < (636.0, 476.0))).all(axis=1).sum())
        try:
            ids, corners_px = find(image)
        except CalibrationError:
            continue
        squares += float(np.square(corners_px - true_px[ids]).sum())
        found += len(ids)
    return float(np.sqrt(squares / max(found, 1))), 100.0 * found / in_view


def _camera(height_m: float, tilt_rad: float) -> Float64:
    """`transform_camera_to_table` of a wrist camera that looks down and a little ahead."""
    pose = np.eye(4)
    cosine, sine = np.cos(tilt_rad), np.sin(tilt_rad)
    pose[:3, :3] = np.column_stack(((1.0, 0.0, 0.0), (0.0, -cosine, -sine), (0.0, sine, -cosine)))
    pose[:3, 3] = (0.02, 0.115 - height_m * np.tan(tilt_rad), height_m)
    return pose


def _lying(place_m: Float64, yaw_rad: float) -> Float64:
    """`transform_board_to_table` of paper on a block's top."""
    pose = np.eye(4)
    cosine, sine = np.cos(yaw_rad), np.sin(yaw_rad)
    pose[:3, :3] = np.column_stack(((cosine, sine, 0.0), (sine, -cosine, 0.0), (0.0, 0.0, -1.0)))
    pose[:3, 3] = place_m - pose[:3, :3] @ (BLOCK_M / 2, BLOCK_M / 2, 0.0)
    return pose


def _off(place_m: Float64, yaw_rad: float) -> Float64:
    return np.array((np.linalg.norm(place_m) * 1e3, np.degrees(abs((yaw_rad + np.pi) % (2.0 * np.pi) - np.pi))))
