"""Pictures of boards whose truth is known: each sub-pixel's ray, through the lens with its distortion, meets the board.

A simulated camera says so: this is for tests, benches and trying a command without a camera, never for measuring anything real.
"""

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from calibration.boards import Board
from calibration.opencv import Image, Lens, project, undistort
from edge.messages import Float32, Float64

SUBPIXELS = 4  # along each axis; with fewer, corners move by more than detectors err
TEXTURE_PX_PER_M = 10_000.0  # 250 px a square of 25 mm: with 60 the texture itself moves corners by 0.15 px (facts, 4.1)
PAPER, INK, DESK = 225.0, 25.0, 120.0  # grey levels
GREY_SD, BLUR_PX = 2.0, 0.5  # of a cheap camera in a lit room
NEAR_M, MARGIN_PX = 0.02, 3
QUIET_M = 0.008  # white paper around the pattern


def view(board: Board, transform_board_to_camera: Float64, lens: Lens) -> Image:
    """The board as drawn (rulers play no part), sharp and without noise; (height, width) grey."""
    height, width = lens.intrinsics.height, lens.intrinsics.width
    image = np.full((height, width), np.uint8(DESK))
    rows, columns = _window(board, transform_board_to_camera, lens)
    if rows.stop <= rows.start or columns.stop <= columns.start:
        return image
    fine = [slice(one.start * SUBPIXELS, one.stop * SUBPIXELS) for one in (rows, columns)]
    x_m, y_m, depth_m = _where_rays_meet(transform_board_to_camera, _rays(lens, SUBPIXELS)[:, fine[0], fine[1]])
    scale = np.float32(TEXTURE_PX_PER_M)
    u, v = ((place + np.float32(QUIET_M)) * scale - np.float32(0.5) for place in (x_m, y_m))
    u[depth_m <= 0.0] = -1e4  # behind the camera
    levels = cv2.remap(_texture(board), u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=DESK)
    down, across = rows.stop - rows.start, columns.stop - columns.start
    image[rows, columns] = _grey(levels.reshape(down, SUBPIXELS, across, SUBPIXELS).mean(axis=(1, 3)))
    return image


def noisy(image: Image, sd: float, rng: np.random.Generator) -> Image:
    """With the noise of a sensor: `sd` grey levels."""
    return _grey(image + rng.normal(0.0, sd, image.shape))


def blurred(image: Image, sigma_px: float) -> Image:
    """Out of focus."""
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma_px), np.uint8)


def smeared(image: Image, length_px: int) -> Image:
    """Moved horizontally while exposed."""
    return np.asarray(cv2.blur(image, (length_px, 1)), np.uint8)


def covered(image: Image, centre_px: tuple[float, float], radius_px: float) -> Image:
    """With a disc in front, as a thumb is."""
    v, u = np.indices(image.shape)
    return np.where(np.hypot(u - centre_px[0], v - centre_px[1]) < radius_px, np.uint8(90), image)


def shaded(image: Image, share: float) -> Image:
    """With a lamp at one side: from 1 - share at the left to 1 + share at the right."""
    return _grey(image * np.linspace(1.0 - share, 1.0 + share, image.shape[1]))


def glaring(image: Image, centre_px: tuple[float, float], radius_px: float) -> Image:
    """With a lamp's reflection: ink and paper alike are white in the middle."""
    v, u = np.indices(image.shape)
    far = np.hypot(u - centre_px[0], v - centre_px[1]) / radius_px
    return _grey(image + 600.0 * np.exp(-np.square(far)))


def depth(transform_board_to_camera: Float64, lens: Lens) -> Float32:
    """(height, width) metres along the optical axis to the board's plane, everywhere; 0 where it lies behind the camera."""
    coarse = _where_rays_meet(transform_board_to_camera, _rays(lens, 1))[2]
    return np.where(coarse > 0.0, coarse, 0.0).astype(np.float32)


def poses(count: int, rng: np.random.Generator, distance_m: tuple[float, float], tilt_rad: float, board: Board) -> list[Float64]:
    """`transform_board_to_camera` of a camera that looks at the board's middle from a random side, turned and tilted at random."""
    centre = np.array((*board.size_m, 0.0)) / 2.0
    found = []
    for _ in range(count):
        azimuth, tilt, turn = rng.uniform(0.0, 2.0 * np.pi), tilt_rad * np.sqrt(rng.uniform()), rng.uniform(-np.pi, np.pi)
        rotation, _ = cv2.Rodrigues(tilt * np.array([np.cos(azimuth), np.sin(azimuth), 0.0]))
        spin, _ = cv2.Rodrigues(np.array([0.0, 0.0, turn]))
        pose = np.eye(4)
        pose[:3, :3] = rotation @ spin
        away = rng.uniform(*distance_m)
        pose[:3, 3] = (*rng.uniform(-0.08, 0.08, 2) * away, away) - pose[:3, :3] @ centre
        found.append(pose)
    return found


def _window(board: Board, pose: Float64, lens: Lens) -> tuple[slice, slice]:
    """Rows and columns in which the paper lies, with a margin; everything where a part of it is behind the camera."""
    intrinsics = lens.intrinsics
    along = np.linspace(0.0, 1.0, 9)
    border = np.array([place for t in along for place in ((t, 0.0), (t, 1.0), (0.0, t), (1.0, t))])
    corners_m = np.column_stack((border * (np.array(board.size_m) + 2.0 * QUIET_M) - QUIET_M, np.zeros(len(border))))
    if (corners_m @ pose[2, :3] + pose[2, 3]).min() < NEAR_M:
        return slice(0, intrinsics.height), slice(0, intrinsics.width)
    pixels = project(corners_m, pose, lens)
    low, high = np.floor(pixels.min(axis=0)).astype(int) - MARGIN_PX, np.ceil(pixels.max(axis=0)).astype(int) + MARGIN_PX
    columns = slice(max(int(low[0]), 0), min(int(high[0]), intrinsics.width))
    return slice(max(int(low[1]), 0), min(int(high[1]), intrinsics.height)), columns


def _where_rays_meet(pose: Float64, rays: NDArray[np.float32]) -> NDArray[np.float32]:
    """(3, h, w): x and y on the board and depth along the optical axis, of each ray (2, h, w)."""
    to_board = np.linalg.inv(pose)
    normal = pose[:3, 2]
    # The plane is normal · p = distance, and p = depth · (x, y, 1).
    distance = float(normal @ pose[:3, 3])
    along = rays[0] * np.float32(normal[0]) + rays[1] * np.float32(normal[1]) + np.float32(normal[2])
    with np.errstate(divide="ignore"):
        depth_m = np.float32(distance) / along
    met = np.empty((3, *along.shape), np.float32)
    for axis in (0, 1):
        turned = rays[0] * np.float32(to_board[axis, 0]) + rays[1] * np.float32(to_board[axis, 1]) + np.float32(to_board[axis, 2])
        met[axis] = turned * depth_m + np.float32(to_board[axis, 3])
    met[2] = depth_m
    return met


@lru_cache(maxsize=4)
def _rays(lens: Lens, subpixels: int) -> NDArray[np.float32]:
    """(2, h, w) x/z and y/z of each sub-pixel."""
    intrinsics = lens.intrinsics
    width, height = intrinsics.width, intrinsics.height
    offset = (np.arange(subpixels, dtype=np.float32) + 0.5) / subpixels - 0.5
    u, v = (np.arange(width)[:, None] + offset).ravel(), (np.arange(height)[:, None] + offset).ravel()
    # Undistortion iterates: once a pixel, and between pixels it is as good as linear.
    whole = np.stack(np.meshgrid(np.arange(-1, width + 1), np.arange(-1, height + 1)), axis=-1)
    coarse = undistort(whole.reshape(-1, 2).astype(np.float64), lens).reshape(height + 2, width + 2, 2).astype(np.float32)
    where = np.meshgrid((u + 1.0).astype(np.float32), (v + 1.0).astype(np.float32))
    return np.stack([cv2.remap(np.ascontiguousarray(coarse[..., axis]), *where, cv2.INTER_LINEAR) for axis in (0, 1)])


@lru_cache(maxsize=8)
def _texture(board: Board) -> NDArray[np.float32]:
    """The pattern and white paper around it; a pixel that a border crosses has the mean of both sides."""
    width, height = (round((edge + 2.0 * QUIET_M) * TEXTURE_PX_PER_M) for edge in board.size_m)
    paper = np.full((height, width), PAPER, np.float32)
    for rect in board.rects():
        across = _coverage(rect.x_m, rect.width_m, width)
        down = _coverage(rect.y_m, rect.height_m, height)
        columns, rows = np.flatnonzero(across), np.flatnonzero(down)
        share = np.outer(down[rows], across[columns])
        patch = paper[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        patch += share * ((INK if rect.is_black else PAPER) - patch)
    return paper


def _coverage(start_m: float, length_m: float, size: int) -> NDArray[np.float32]:
    """(size,) how much of each texture pixel an interval covers."""
    low = (start_m + QUIET_M) * TEXTURE_PX_PER_M
    high = low + length_m * TEXTURE_PX_PER_M
    pixels = np.arange(size)
    covered_share = np.minimum(pixels + 1, high) - np.maximum(pixels, low)
    return np.clip(np.round(covered_share, 9), 0.0, 1.0).astype(np.float32)  # rounded: 249.9999999 is a border, not two


def _grey(levels: NDArray[np.floating]) -> Image:
    return np.asarray(np.clip(np.rint(levels), 0.0, 255.0), np.uint8)
