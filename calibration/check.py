"""Has the camera moved since? A marker or board that is fixed to the table is looked at from one pose, now and when it was calibrated.

What decides is in millimetres on the board: how far beside it a block there would be looked for. A servo does not come back to the same
place: 0.3° of it are 1 to 2 mm. So the reference is taken on several returns to that pose, and what they differ by is no move.
How the camera moved is told along, with σ. Whether it was the camera or the board no picture shows.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from msgspec import Struct

from calibration import json_file
from calibration.arm.closed_form import rotation_vectors
from calibration.arm.model import cross_matrix, inverse
from calibration.boards import Board, CharucoBoard, MarkerBoard, points_m
from calibration.detect import Detection
from calibration.lens import lens_of, project, rays
from calibration.opencv import Lens, board_pose
from edge.errors import CalibrationError
from edge.messages import Float64, Intrinsics

RETURNS_MIN = 5  # with three, one honest return in 20 is called a move (simulated), with five one in 200
CORNERS_MIN = 4  # the same ones, then and now
LIMIT_MIN_MM = 0.5  # ten times what a corner is off by, 0.1 px at 0.3 m
LIMIT_TIMES = 3.0  # the largest of so few returns is exceeded by honest ones


class Reference(Struct, frozen=True, forbid_unknown_fields=True):
    """What the fixed board looked like, by corner id, through which lens, and how far it may be off."""

    board: CharucoBoard | MarkerBoard
    intrinsics: Intrinsics
    distortion: tuple[float, float, float, float, float]
    corners_px: dict[int, tuple[float, float]]
    returns: int
    spread_mm: float  # on the board, the largest of one return from their mean
    limit_mm: float
    return_mm: float  # σ of where the camera stands at one return
    return_deg: float


class Shift(NamedTuple):
    """How far the board is from where it was, as the image shows it, and the motion of the camera that would look so."""

    off_mm: float  # root mean square over the corners, on the board
    limit_mm: float
    off_px: float
    camera_mm: float
    camera_sigma_mm: float
    camera_deg: float
    camera_sigma_deg: float
    corners: int

    @property
    def has_moved(self) -> bool:
        """Whether it is further than honest returns are."""
        return not self.off_mm <= self.limit_mm

    def __str__(self) -> str:
        verdict = "MOVED" if self.has_moved else "where it was"
        told = f"{verdict}: {self.off_mm:.2f} mm off on the board ({self.off_px:.1f} px), at most {self.limit_mm:.2f} mm is no move"
        how = f"{self.camera_mm:.1f} ± {self.camera_sigma_mm:.1f} mm and {self.camera_deg:.2f} ± {self.camera_sigma_deg:.2f}°"
        return f"{told}; the camera's place differs by {how}{', or the board was moved: no picture shows which' * self.has_moved}"


def learn(returns: Sequence[Detection], board: Board, lens: Lens) -> Reference:
    """The reference from images of at least `RETURNS_MIN` returns to one pose; raises `CalibrationError`."""
    if len(returns) < RETURNS_MIN:
        raise CalibrationError(
            f"{len(returns)} images show the board, expected at least {RETURNS_MIN}, each after the arm went away and came back; take more"
        )
    common = sorted(set.intersection(*(set(one.ids.tolist()) for one in returns)))
    if len(common) < CORNERS_MIN:
        raise CalibrationError(f"{len(common)} corners are in all images, expected at least {CORNERS_MIN}; show more of the board")
    each = np.array([_of(one, common) for one in returns])  # (returns, corners, 2)
    mean, points = each.mean(axis=0), points_m(board, np.array(common))
    pose = _pose(points, mean, lens)
    spread_mm = max(_off_mm(points, pose, one, lens) for one in each)
    moves = np.array([_motion(pose, _pose(points, one, lens)) for one in each])  # (returns, 2)
    return_mm, return_deg = np.sqrt((moves**2).sum(axis=0) / (len(each) - 1)).tolist()
    corners = {number: (float(u), float(v)) for number, (u, v) in zip(common, mean, strict=True)}
    limit_mm = max(LIMIT_MIN_MM, LIMIT_TIMES * spread_mm)
    return Reference(board, lens.intrinsics, lens.distortion, corners, len(returns), spread_mm, limit_mm, return_mm, return_deg)


def compare(reference: Reference, now: Detection, size: tuple[int, int]) -> Shift:
    """How far the board has moved; raises `CalibrationError` where that cannot be said."""
    lens = Lens(reference.intrinsics, reference.distortion)
    width, height = reference.intrinsics[:2]
    if size != (width, height):
        found = f"the image has {size[0]} × {size[1]} pixels, expected {width} × {height} as in the reference"
        raise CalibrationError(f"{found}; set the camera to that stream")
    common = sorted(set(now.ids.tolist()) & set(reference.corners_px))
    if len(common) < CORNERS_MIN:
        raise CalibrationError(f"{len(common)} corners of the reference are in view, expected at least {CORNERS_MIN}; uncover the board")
    points, seen = points_m(reference.board, np.array(common)), _of(now, common)
    before_px = np.array([reference.corners_px[number] for number in common])
    before, after = _pose(points, before_px, lens), _pose(points, seen, lens)
    (mm, deg), (more_mm, more_deg) = _motion(before, after), _pose_sigma(points, after, seen, lens)
    off_px = float(np.sqrt(np.square(seen - before_px).sum(axis=-1).mean()))
    return Shift(
        _off_mm(points, before, seen, lens), reference.limit_mm, off_px,
        mm, float(np.hypot(reference.return_mm, more_mm)), deg, float(np.hypot(reference.return_deg, more_deg)), len(common),
    )  # fmt: skip


def save(path: Path, reference: Reference) -> None:
    """Write the reference whole; raises `ConfigError`."""
    json_file.save(path, reference, "reference")


def load(path: Path) -> Reference:
    """Read a reference; raises `ConfigError`."""
    reference: Reference = json_file.load(path, Reference, "reference", "take one: dofbot calibrate check --learn")
    return reference


def _of(found: Detection, ids: Sequence[int]) -> Float64:
    at = dict(zip(found.ids.tolist(), found.corners_px, strict=True))
    return np.array([at[number] for number in ids])


def _pose(points: Float64, corners_px: Float64, lens: Lens) -> Float64:
    """`transform_board_to_camera` (4, 4)."""
    pose = board_pose(points, corners_px, lens)
    if pose is None:
        raise CalibrationError("no pose fits the board's corners, expected four that are not on one line; show more of the board")
    return pose


def _off_mm(points: Float64, pose: Float64, corners_px: Float64, lens: Lens) -> float:
    """Root mean square distance, on the board, between its points (n, 3) and where a camera at `pose` sees the corners (n, 2)."""
    image = rays(corners_px, lens_of(lens.intrinsics, lens.distortion))
    direction = np.column_stack((image, np.ones(len(image))))
    far = (pose[:3, 2] @ pose[:3, 3]) / (direction @ pose[:3, 2])
    on_board = (direction * far[:, None] - pose[:3, 3]) @ pose[:3, :3]
    return 1e3 * float(np.sqrt(np.square(on_board - points).sum(axis=-1).mean()))


def _motion(before: Float64, after: Float64) -> tuple[float, float]:
    """mm and degrees by which the camera moved, if the board did not."""
    turn = rotation_vectors((inverse(before) @ after)[None, :3, :3])[0]
    shift = (inverse(after) - inverse(before))[:3, 3]
    return 1e3 * float(np.linalg.norm(shift)), float(np.degrees(np.linalg.norm(turn)))


def _pose_sigma(points: Float64, pose: Float64, corners_px: Float64, lens: Lens) -> tuple[float, float]:
    """σ of a camera's place, mm, and direction, degrees, by what is left between the corners and the pose; 0 of a perfect fit."""
    in_camera = points @ pose[:3, :3].T + pose[:3, 3]
    pixels, by_point, _ = project(in_camera, lens_of(lens.intrinsics, lens.distortion))
    jacobian = (by_point @ np.concatenate((cross_matrix(in_camera), np.broadcast_to(-np.eye(3), (len(points), 3, 3))), axis=-1)).reshape(
        -1, 6
    )
    variance = np.square(pixels - corners_px).sum() / max(jacobian.shape[0] - 6, 1)
    covariance = variance * np.linalg.inv(jacobian.T @ jacobian)
    return 1e3 * float(np.sqrt(np.trace(covariance[3:, 3:]))), float(np.degrees(np.sqrt(np.trace(covariance[:3, :3]))))
