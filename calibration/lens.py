"""A pinhole with Brown's distortion, as OpenCV orders it: `lens` is (9,) = fx fy cx cy k1 k2 p1 p2 k3; pixel centres on whole numbers."""

import numpy as np

from edge.errors import CalibrationError
from edge.messages import Float64, Intrinsics

FITTED = 6  # fx fy cx cy k1 k2 are estimated together with the hand-eye; p1 p2 k3 stay as the lens calibration found them
NAMES = ("fx", "fy", "cx", "cy", "k1", "k2")


def lens_of(intrinsics: Intrinsics, distortion: tuple[float, ...] = (0.0,) * 5) -> Float64:
    """(9,): intrinsics and distortion in one array."""
    return np.array([intrinsics.fx, intrinsics.fy, intrinsics.cx, intrinsics.cy, *distortion], dtype=float)


def project(points_in_camera_m: Float64, lens: Float64) -> tuple[Float64, Float64, Float64]:
    """Pixels (…, 2) of points (…, 3), and their derivatives by the point (…, 2, 3) and by the first six numbers of the lens (…, 2, 6)."""
    depth = points_in_camera_m[..., 2]
    x, y = points_in_camera_m[..., 0] / depth, points_in_camera_m[..., 1] / depth
    bent, by_xy, by_k = _distort(x, y, lens)
    fx, fy, cx, cy = lens[:4]
    focal = np.array([fx, fy])
    pixels = bent * focal + np.array([cx, cy])
    by_xy = by_xy * focal[:, None]
    by_point = np.empty((*x.shape, 2, 3))
    by_point[..., :2] = by_xy / depth[..., None, None]
    by_point[..., 2] = -(by_xy[..., 0] * x[..., None] + by_xy[..., 1] * y[..., None]) / depth[..., None]
    by_lens = np.zeros((*x.shape, 2, FITTED))
    by_lens[..., 0, 0], by_lens[..., 1, 1] = bent[..., 0], bent[..., 1]
    by_lens[..., 0, 2] = by_lens[..., 1, 3] = 1.0
    by_lens[..., 4:] = by_k * focal[:, None]
    return pixels, by_point, by_lens


def _distort(x: Float64, y: Float64, lens: Float64) -> tuple[Float64, Float64, Float64]:
    """Distorted image coordinates (…, 2), their derivatives by (x, y) (…, 2, 2) and by (k1, k2) (…, 2, 2)."""
    k1, k2, p1, p2, k3 = lens[4:]
    r2 = x * x + y * y
    radial = 1.0 + r2 * (k1 + r2 * (k2 + r2 * k3))
    slope = k1 + r2 * (2.0 * k2 + 3.0 * k3 * r2)  # of `radial` by r2
    bent = np.stack((x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x), y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y), axis=-1)
    by_xy = np.empty((*x.shape, 2, 2))
    by_xy[..., 0, 0] = radial + 2 * x * x * slope + 2 * p1 * y + 6 * p2 * x
    by_xy[..., 0, 1] = by_xy[..., 1, 0] = 2 * x * y * slope + 2 * p1 * x + 2 * p2 * y
    by_xy[..., 1, 1] = radial + 2 * y * y * slope + 6 * p1 * y + 2 * p2 * x
    by_k = np.stack((np.stack((x * r2, x * r2 * r2), axis=-1), np.stack((y * r2, y * r2 * r2), axis=-1)), axis=-2)
    return bent, by_xy, by_k


def rays(pixels: Float64, lens: Float64) -> Float64:
    """Undistorted image coordinates (…, 2) = (x/z, y/z) of pixels (…, 2), NaN where a pixel is NaN; the inverse of `project`, by Newton.

    Raises `CalibrationError` where the distortion cannot be undone, which a lens far from reality has outside of its images.
    """
    seen = np.isfinite(pixels[..., :1])
    wanted = np.where(seen, (pixels - lens[2:4]) / lens[:2], 0.0)
    found = wanted.copy()
    for _ in range(20):
        bent, slope, _ = _distort(found[..., 0], found[..., 1], lens)
        step = np.linalg.solve(slope, (wanted - bent)[..., None])[..., 0]
        found += step
        if np.abs(step).max(initial=0.0) < 1e-13:
            if (np.linalg.det(slope) <= 0.0).any() or (np.sum(found * wanted, axis=-1) < 0.0).any():
                break  # beyond the radius at which the lens folds the picture over
            return np.where(seen, found, np.nan)
    raise CalibrationError(f"the lens {np.round(lens, 3).tolist()} cannot be undone at some corner; calibrate the lens again")
