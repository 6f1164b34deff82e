"""What the policy sees: a depth frame in metres, or the block's position, and the arm's set points become its inputs."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from edge.contract import BlockInput, DepthInput, Episode, VirtualCamera
from edge.errors import ObservationError
from edge.messages import Float32, Float64, Frame, Intrinsics, ToolPose

WRONG_UNIT = 10.0  # so many times too far: no metres
GRIP_PX = 2  # to each side of the tool centre: what is looked at for a held block


def depth_input(frame: Frame, wanted: DepthInput, camera: Intrinsics) -> Float32:
    """The (height, width) float32 image in [0, 1] that the network takes, as the virtual camera would see it.

    Pixels are taken from the nearest pixel of the frame: interpolating depth across an edge would
    invent surfaces. Zero, negative and non-finite depths become `wanted.invalid_value`.
    Raises `ObservationError` for a wrong dtype or shape, for values that cannot be metres, and when
    more than `wanted.max_invalid_fraction` of the pixels are invalid.
    """
    depth_m, intrinsics = frame.depth_m, frame.intrinsics
    shape = (intrinsics.height, intrinsics.width)
    if depth_m.dtype != np.float32 or depth_m.shape != shape:
        raise ObservationError(f"depth frame is {depth_m.dtype} {depth_m.shape}, expected float32 {shape} metres")
    if intrinsics != camera:
        depth_m = depth_m.ravel()[_pixels(intrinsics, camera)]
    valid = (depth_m > 0.0) & (depth_m < np.inf)  # false for NaN as well
    invalid_fraction = 1.0 - np.count_nonzero(valid) / valid.size
    if invalid_fraction > wanted.max_invalid_fraction:
        raise ObservationError(
            f"{invalid_fraction:.0%} of the depth pixels are invalid, expected at most {wanted.max_invalid_fraction:.0%}; "
            "is the camera covered, or too close?"
        )
    _refuse_wrong_unit(depth_m, valid, wanted.far_m)
    scaled = (depth_m - np.float32(wanted.near_m)) * np.float32(1.0 / (wanted.far_m - wanted.near_m))
    return np.where(valid, np.clip(scaled, 0.0, 1.0), np.float32(wanted.invalid_value))


def _refuse_wrong_unit(depth_m: Float32, valid: NDArray[np.bool_], far_m: float) -> None:
    """A scene wholly beyond 10 times of how far it can be is in millimetres or 0.1 mm counts, not in metres."""
    nearest = float(np.min(depth_m, where=valid, initial=np.inf))
    if nearest > WRONG_UNIT * far_m:
        raise ObservationError(
            f"the nearest depth is {nearest:.3g}, expected metres below {far_m:.2f}; multiply by the camera's depth scale"
        )


@lru_cache(maxsize=8)
def _pixels(frame: Intrinsics, camera: Intrinsics) -> NDArray[np.intp]:
    """Flat indices (height, width) into a frame, one for each pixel of the virtual camera; both look the same way."""
    u = (np.arange(camera.width) - camera.cx) / camera.fx * frame.fx + frame.cx
    v = (np.arange(camera.height) - camera.cy) / camera.fy * frame.fy + frame.cy
    column, row = np.rint(u).astype(np.intp), np.rint(v).astype(np.intp)
    if column[0] < 0 or row[0] < 0 or column[-1] >= frame.width or row[-1] >= frame.height:
        raise ObservationError(
            f"a {frame.width}×{frame.height} frame with focal length {frame.fx:.0f} px does not cover the policy's view; "
            "use a wider profile"
        )
    flat: NDArray[np.intp] = row[:, None] * frame.width + column[None, :]
    return flat


def block_input(block_in_table_m: Sequence[float] | Float64, wanted: BlockInput) -> Float32:
    """(3,) float32: x, y, z of the block's centre in metres in the table frame.

    Raises `ObservationError` for another number of values, and for a place outside the box `wanted`, where no block can be.
    """
    place_m = np.asarray(block_in_table_m, dtype=np.float64)
    if place_m.shape != (3,):
        raise ObservationError(f"block position has shape {place_m.shape}, expected (3,): x, y, z in metres in the table frame")
    # false for NaN as well
    if not ((place_m >= wanted.min_in_table_m).all() and (place_m <= wanted.max_in_table_m).all()):
        box = f"{wanted.min_in_table_m}…{wanted.max_in_table_m} m in the table frame"
        raise ObservationError(f"block position is {place_m.tolist()}, expected inside {box}; check the marker's size and the calibration")
    return place_m.astype(np.float32)


def proprio_input(tool: ToolPose, before: ToolPose, steps_left: int) -> Float32:
    """(6,) float32: tool x, y, z in metres in the table frame, as sent to the servos, the steps left, and how far x and y went.

    `before` is where the tool was one decision ago. Frames and servos lag by about a decision: a policy that cannot tell
    what it has asked for already asks again, and swings about the block (measured: 3 mm at the median, 8 at 95 %).
    """
    return np.array([tool.x_m, tool.y_m, tool.z_m, steps_left, tool.x_m - before.x_m, tool.y_m - before.y_m], dtype=np.float32)


def tool_in_camera_m(camera: VirtualCamera) -> tuple[float, float, float]:
    """The tool centre, metres, optical frame."""
    x, y, z = np.linalg.inv(np.array(camera.transform_camera_to_tool))[:3, 3].tolist()
    return x, y, z


def holds_block(frame: Frame, camera: VirtualCamera, episode: Episode) -> bool:
    """Whether something fills the place between the finger tips: the camera's depth there, not the table's.

    The median of 5×5 pixels about the tool centre is compared with the tool centre's own depth: a held block is
    nearer than half a block behind it, the table under a lifted gripper is not. Raises `ObservationError` for values there that cannot be
    metres: a policy that is told the block's position looks at depth nowhere else.
    """
    x, y, z = tool_in_camera_m(camera)
    column = round(frame.intrinsics.fx * x / z + frame.intrinsics.cx)
    row = round(frame.intrinsics.fy * y / z + frame.intrinsics.cy)
    patch = frame.depth_m[max(0, row - GRIP_PX) : row + GRIP_PX + 1, max(0, column - GRIP_PX) : column + GRIP_PX + 1]
    valid = (patch > 0.0) & (patch < np.inf)
    if not valid.any():
        return False
    _refuse_wrong_unit(patch, valid, z)
    seen = patch[valid & (patch <= WRONG_UNIT * z)]  # without saturated pixels
    return bool(np.median(seen) < z + episode.block_size_m / 2.0)
