"""A start for the estimates without one: board poses from homographies, and hand-eye by Park and Martin's method.

F. C. Park, B. J. Martin, "Robot sensor calibration: solving AX = XB on the Euclidean group", IEEE Trans. Robotics 10(5), 1994.
All pairs of images are used, so their order does not matter. A few images that fit nowhere (a board that was moved, ids that run
backwards) are outvoted: the motion is also solved from small groups of images, and the solution that most images agree with is taken.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from calibration.arm.model import cross_matrix, inverse
from calibration.lens import rays
from edge.errors import CalibrationError
from edge.messages import Float64

CORNERS_MIN = 6  # a homography needs four; with six a wrong one shows
GROUPS, GROUP = 80, 5  # with a fifth of the images wrong, a group of 5 is clean with 0.33: none of 80 clean has odds of 1e-14
ANGLE_MIN_RAD, ANGLE_MAX_RAD = 0.05, 3.0  # of a motion between two images: too small tells nothing, near π its axis has no sign


class BoardPoses(NamedTuple):
    """Where the board was before the camera in each image, and how badly it fits."""

    transform_board_to_camera: Float64  # (n, 4, 4)
    rms_px: Float64  # (n,) √(Σ(dx² + dy²) / corners)
    mirrored: NDArray[np.bool_]  # (n,) the board is seen from behind, which no camera can: its ids run the wrong way


class HandEyeStart(NamedTuple):
    """What the closed form finds."""

    hand_eye: Float64  # (4, 4)
    board: Float64  # (4, 4)
    apart_m: Float64  # (n,) how far each image's board lies from where most images put it


def board_poses(corners_px: Float64, points_m: Float64, lens: Float64) -> BoardPoses:
    """The pose of a flat board (points (m, 3), z = 0) in each image (n, m, 2), NaN where a corner is not seen.

    By a homography from undistorted corners, then Gauss-Newton on all of them. Raises `CalibrationError` for an image with fewer
    than six corners.
    """
    seen = np.isfinite(corners_px[..., 0])
    if seen.sum(axis=1).min(initial=CORNERS_MIN) < CORNERS_MIN:
        worst = int(np.argmin(seen.sum(axis=1)))
        raise CalibrationError(f"image {worst} shows {seen[worst].sum()} corners, expected at least {CORNERS_MIN}; leave it out")
    image = rays(corners_px, lens)
    poses = np.stack([_from_homography(points_m[ok], xy[ok]) for ok, xy in zip(seen, image, strict=True)])
    mirrored = poses[:, 2, 2] < 0.0
    ahead, rms_xy = poses, np.full(len(poses), np.inf)
    for _ in range(15):
        further, reached = _refined(ahead, points_m, image, seen)
        better = reached < rms_xy
        poses, rms_xy = np.where(better[:, None, None], ahead, poses), np.where(better, reached, rms_xy)
        ahead = np.where(better[:, None, None], further, poses)  # corners that fit nowhere may lead astray: then the best stays
    return BoardPoses(poses, rms_xy * float(np.mean(lens[:2])), mirrored)


def _from_homography(points_m: Float64, xy: Float64) -> Float64:
    """The pose (4, 4) that a homography between a plane and undistorted image coordinates implies."""
    middle, spread = points_m[:, :2].mean(axis=0), points_m[:, :2].std() or 1.0
    plane = (points_m[:, :2] - middle) / spread
    ones, none = np.ones((len(plane), 1)), np.zeros((len(plane), 3))
    homogeneous = np.hstack((plane, ones))
    rows = np.vstack((np.hstack((homogeneous, none, -xy[:, :1] * homogeneous)), np.hstack((none, homogeneous, -xy[:, 1:] * homogeneous))))
    matrix = np.linalg.svd(rows)[2][-1].reshape(3, 3)
    matrix = matrix @ np.array([[1 / spread, 0, -middle[0] / spread], [0, 1 / spread, -middle[1] / spread], [0, 0, 1]])
    matrix /= np.sqrt(np.linalg.norm(matrix[:, 0]) * np.linalg.norm(matrix[:, 1]))
    if (matrix @ np.append(middle, 1.0))[2] < 0.0:
        matrix = -matrix  # the board is in front of the camera
    u, _, vt = np.linalg.svd(np.column_stack((matrix[:, 0], matrix[:, 1], np.cross(matrix[:, 0], matrix[:, 1]))))
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = u @ np.diag([1.0, 1.0, np.linalg.det(u @ vt)]) @ vt, matrix[:, 2]
    return pose


def _refined(poses: Float64, points_m: Float64, image: Float64, seen: NDArray[np.bool_]) -> tuple[Float64, Float64]:
    """One Gauss-Newton step on all corners of each image; and the root mean square distance before it."""
    turned = points_m @ np.swapaxes(poses[:, :3, :3], 1, 2)
    points = turned + poses[:, None, :3, 3]
    depth = points[..., 2:]
    xy = points[..., :2] / depth
    by_point = np.zeros((*xy.shape, 3))
    by_point[..., 0, 0] = by_point[..., 1, 1] = 1.0
    by_point[..., 2] = -xy
    by_point /= depth[..., None]
    jacobian = np.concatenate((-by_point @ cross_matrix(turned), by_point), axis=-1) * seen[..., None, None]
    residual = np.where(seen[..., None], image - xy, 0.0)
    jacobian, flat = jacobian.reshape(len(poses), -1, 6), residual.reshape(len(poses), -1, 1)
    transposed = np.swapaxes(jacobian, 1, 2)
    normal = transposed @ jacobian
    ridge = 1e-12 * np.trace(normal, axis1=1, axis2=2)[:, None, None] * np.eye(6)
    step = np.linalg.solve(normal + ridge, transposed @ flat)[..., 0]
    better = poses.copy()
    better[:, :3, :3] = rotations(step[:, :3]) @ poses[:, :3, :3]
    better[:, :3, 3] += step[:, 3:]
    return better, np.sqrt((residual**2).sum(axis=(1, 2)) / seen.sum(axis=1))


def rotations(vectors_rad: Float64) -> Float64:
    """Rotation matrices (n, 3, 3) of rotation vectors (n, 3)."""
    angle = np.linalg.norm(vectors_rad, axis=-1)[:, None, None]
    skew = cross_matrix(vectors_rad)
    return np.asarray(np.eye(3) + np.sinc(angle / np.pi) * skew + 0.5 * np.sinc(angle / (2 * np.pi)) ** 2 * skew @ skew)


def rotation_vectors(matrices: Float64) -> Float64:
    """Rotation vectors (n, 3) of rotation matrices (n, 3, 3); towards π the axis loses its digits."""
    vector = 0.5 * np.stack(
        (
            matrices[:, 2, 1] - matrices[:, 1, 2],
            matrices[:, 0, 2] - matrices[:, 2, 0],
            matrices[:, 1, 0] - matrices[:, 0, 1],
        ),
        axis=-1,
    )
    sine = np.linalg.norm(vector, axis=-1)
    angle = np.arctan2(sine, 0.5 * (np.trace(matrices, axis1=1, axis2=2) - 1.0))
    return np.asarray(vector * np.where(sine > 1e-12, angle / np.maximum(sine, 1e-12), 1.0)[:, None])


def park(flange: Float64, board_to_camera: Float64) -> Float64:
    """Hand-eye (4, 4) from all pairs of n images, for which flange · hand_eye · board_to_camera is the same.

    Raises `CalibrationError` when fewer than two motions turn by 3° or more.
    """
    one, other = np.triu_indices(len(flange), 1)
    hand = inverse(flange[other]) @ flange[one]
    eye = board_to_camera[other] @ inverse(board_to_camera[one])
    alpha, beta = rotation_vectors(hand[:, :3, :3]), rotation_vectors(eye[:, :3, :3])
    angle = np.linalg.norm(alpha, axis=1)
    useful = (angle > ANGLE_MIN_RAD) & (angle < ANGLE_MAX_RAD)
    if useful.sum() < 2:
        raise CalibrationError("the arm turned by less than 3° between the images, expected poses that differ by 30°; move more")
    hand, eye, alpha, beta = hand[useful], eye[useful], alpha[useful], beta[useful]
    u, _, vt = np.linalg.svd(beta.T @ alpha)
    turn = vt.T @ np.diag([1.0, 1.0, np.linalg.det(vt.T @ u.T)]) @ u.T
    rows = (hand[:, :3, :3] - np.eye(3)).reshape(-1, 3)
    shift = np.linalg.lstsq(rows, (eye[:, :3, 3] @ turn.T - hand[:, :3, 3]).ravel(), rcond=None)[0]
    hand_eye = np.eye(4)
    hand_eye[:3, :3], hand_eye[:3, 3] = turn, shift
    return hand_eye


def start(flange: Float64, board_to_camera: Float64, points_m: Float64, guesses: tuple[Float64, ...] = ()) -> HandEyeStart:
    """The hand-eye on which most images agree, tried: all of them, groups of five, and `guesses`, such as a drawing's.

    `flange` (n, 4, 4) is flange to table for a camera on the arm, its inverse for a fixed camera.
    """
    tries = [park(flange, board_to_camera), *guesses]
    groups = np.random.default_rng(0)  # any draw would do; a fixed one gives the same result each time
    for _ in range(GROUPS if len(flange) > GROUP else 0):
        chosen = groups.choice(len(flange), GROUP, replace=False)
        try:
            tries.append(park(flange[chosen], board_to_camera[chosen]))
        except CalibrationError:
            continue
    best = min(tries, key=lambda hand_eye: float(np.median(_apart(hand_eye, flange, board_to_camera, points_m)[1])))
    _, apart_m = _apart(best, flange, board_to_camera, points_m)
    agree = apart_m <= 4.0 * max(float(np.median(apart_m)), 1e-9)
    if agree.sum() > GROUP:
        inside = flange[agree], board_to_camera[agree]
        best = min(best, park(*inside), key=lambda hand_eye: float(_apart(hand_eye, *inside, points_m)[1].mean()))
    board, apart_m = _apart(best, flange, board_to_camera, points_m)
    return HandEyeStart(best, board, apart_m)


def agreement(hand_eye: Float64, flange: Float64, board_to_camera: Float64, points_m: Float64) -> Float64:
    """(n,) how far each image's board lies from the middle one's, in metres."""
    return _apart(hand_eye, flange, board_to_camera, points_m)[1]


def _apart(hand_eye: Float64, flange: Float64, board_to_camera: Float64, points_m: Float64) -> tuple[Float64, Float64]:
    """The board pose (4, 4) of the image in the middle of all, and how far the others' boards lie from it (n,)."""
    boards = flange @ hand_eye @ board_to_camera
    corners = points_m @ np.swapaxes(boards[:, :3, :3], 1, 2) + boards[:, None, :3, 3]
    distance = np.linalg.norm(corners[:, None] - corners[None], axis=-1).mean(axis=-1)
    middle = int(np.argmin(np.median(distance, axis=1)))
    return boards[middle], distance[middle]
