"""What a stereo depth camera makes of a true depth image: noise, disparity steps, shadows, holes, blindness nearby.

Pure: image in, image out, randomness from the generator passed in. The camera is a RealSense D405, unless its baseline says otherwise,
in its own view or seen through the policy's 64×64; figures and their sources stand with the ranges in `trainer/randomise.py`.
"""

import numba
import numpy as np
from msgspec import Struct

from edge.messages import Float32

BASELINE_M = 0.018  # D405 (realsense-ros #2367)
SENSOR_FOCAL_PX = 214.0  # D405 at 424×240: 382 px at 640×480 (realsense-ros #2367), scaled by the field of view; a D435 has the same


class DepthFaults(Struct, frozen=True):
    """How one camera, in one scene, falls short of the truth; all zeros: not at all."""

    noise_px: float = 0.0  # standard deviation of the disparity, sensor pixels
    disparity_step_px: float = 0.0  # rounding of the disparity
    scale_error: float = 0.0  # relative
    dropout: float = 0.0  # share of pixels without depth
    blobs: int = 0  # holes of 2-6 pixels
    near_blind_m: float = 0.0  # nearer than this there is no depth
    shadows: bool = False  # the side of an edge that only one of the two imagers sees
    baseline_m: float = BASELINE_M


NO_FAULTS = DepthFaults()


def spoil(depth_m: Float32, faults: DepthFaults, focal_px: float, rng: np.random.Generator) -> Float32:
    """(h, w) float32 metres as the camera reports them, 0 = invalid; `focal_px` is that of the image given."""
    height, width = depth_m.shape
    # Neighbouring pixels share a matching window, so a part of the noise is in patches of 4×4 (gqcnn: 4 px).
    coarse = np.repeat(np.repeat(rng.standard_normal((height // 4, width // 4)), 4, axis=0), 4, axis=1)
    noise = (0.7 * coarse + 0.7 * rng.standard_normal((height, width))) * faults.noise_px
    holes = rng.random((height, width)) < faults.dropout
    for _ in range(faults.blobs):
        row, column = rng.integers(0, height), rng.integers(0, width)
        size = rng.integers(2, 7, size=2)
        holes[row : row + size[0], column : column + size[1]] = True
    scale, step_px = 1.0 + faults.scale_error, faults.disparity_step_px
    return _spoil(depth_m, noise, holes, step_px, scale, faults.near_blind_m, faults.shadows, focal_px, faults.baseline_m)


@numba.njit(cache=True)
def _spoil(depth_m, noise_px, holes, step_px, scale, near_blind_m, shadows, focal_px, baseline_m):
    height, width = depth_m.shape
    focal_baseline = SENSOR_FOCAL_PX * baseline_m
    seen_m = np.zeros_like(depth_m)
    for row in range(height):
        # Shadow: from right to left, a point is hidden from the right imager by any nearer one that projects left of it.
        leftmost = 1e9
        for column in range(width - 1, -1, -1):
            true_m = depth_m[row, column]
            if true_m <= 0.0:
                continue
            right = column - focal_px * baseline_m / true_m
            hidden = shadows and right > leftmost + 0.5
            leftmost = min(leftmost, right)
            if hidden or holes[row, column] or true_m < near_blind_m:
                continue
            disparity_px = focal_baseline / true_m + noise_px[row, column]
            if step_px > 0.0:
                disparity_px = round(disparity_px / step_px) * step_px
            if disparity_px > 0.0:
                seen_m[row, column] = scale * focal_baseline / disparity_px
    return seen_m
