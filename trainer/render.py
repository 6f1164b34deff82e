"""Depth images by ray casting against primitive shapes: the wrist camera of the simulated arm.

Exact for what the camera can see (table plane, block, gripper), because all of it is made of boxes and
cylinders. About 20 times faster than PyBullet's software renderer at 64×64, with which a test compares it.
"""

import math
from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from edge.messages import Float32, Float64, Intrinsics

BOX, CYLINDER = 0, 1
_FAR_M = 10.0  # farther than anything; a ray that leaves the scene has no depth


class Shape(NamedTuple):
    """One primitive: `size_m` are a box's three half edges, or (radius, radius, half length) along its z."""

    kind: int
    size_m: Float64  # (3,)
    transform_shape_to_tool: Float64  # (4, 4)


class DepthRenderer:
    """Renders what the camera sees; the gripper's part is kept until its fingers move."""

    def __init__(self, intrinsics: Intrinsics, transform_camera_to_tool: Float64) -> None:
        self.intrinsics = intrinsics
        self.transform_camera_to_tool = transform_camera_to_tool
        columns = (np.arange(intrinsics.width) - intrinsics.cx) / intrinsics.fx
        rows = (np.arange(intrinsics.height) - intrinsics.cy) / intrinsics.fy
        rays = np.ones((intrinsics.height, intrinsics.width, 3))
        rays[..., 0], rays[..., 1] = columns[None, :], rows[:, None]
        self._rays = rays.reshape(-1, 3)  # (pixels, 3), z = 1: the ray parameter is depth
        self._own_m = np.full(len(self._rays), _FAR_M)

    def see_own_parts(self, shapes: list[Shape]) -> None:
        """Render the parts of the arm that move with the camera, to be drawn over every frame from now on."""
        tool_to_camera = np.linalg.inv(self.transform_camera_to_tool)
        self._own_m = np.full(len(self._rays), _FAR_M)
        for shape in shapes:
            _cast(self._rays, tool_to_camera @ shape.transform_shape_to_tool, shape.size_m, shape.kind, self._own_m)

    def sees_own_parts(self, depth_m: Float32) -> NDArray[np.bool_]:
        """(height, width): where an image that `render` gave shows the arm's own parts."""
        return (self._own_m.astype(np.float32).reshape(depth_m.shape) <= depth_m) & (depth_m > 0.0)

    def render(self, transform_tool_to_table: Float64, objects: list[tuple[int, Float64, Float64]], table_m: float = 0.0) -> Float32:
        """(height, width) float32 depth in metres, 0 where a ray meets nothing.

        `objects` are (kind, size_m, transform_object_to_table); the table is the plane z = `table_m`.
        """
        camera_to_table = transform_tool_to_table @ self.transform_camera_to_tool
        table_to_camera = np.linalg.inv(camera_to_table)
        depth_m = _plane(self._rays, camera_to_table, table_m, self._own_m)
        for kind, size_m, object_to_table in objects:
            _cast(self._rays, table_to_camera @ object_to_table, size_m, kind, depth_m)
        depth_m[depth_m >= _FAR_M] = 0.0
        return depth_m.astype(np.float32).reshape(self.intrinsics.height, self.intrinsics.width)


@numba.njit(cache=True)
def _plane(rays, camera_to_table, table_m, own_m):
    """Depth of the plane z = table_m along each ray, or of the camera's own surroundings where these are nearer."""
    depth_m = np.empty(len(rays))
    slope_x, slope_y, slope_z = camera_to_table[2, 0], camera_to_table[2, 1], camera_to_table[2, 2]
    above_m = camera_to_table[2, 3] - table_m
    for i in range(len(rays)):
        fall = -(slope_x * rays[i, 0] + slope_y * rays[i, 1] + slope_z)
        hit_m = above_m / fall if fall > 1e-9 else _FAR_M
        depth_m[i] = min(hit_m if hit_m > 0.0 else _FAR_M, own_m[i])
    return depth_m


@numba.njit(cache=True)
def _cast(rays, shape_to_camera, size_m, kind, depth_m):
    """Lower `depth_m` where a ray meets the shape sooner."""
    rotation = shape_to_camera[:3, :3]
    # The camera in the shape's frame.
    ox = -(rotation[0, 0] * shape_to_camera[0, 3] + rotation[1, 0] * shape_to_camera[1, 3] + rotation[2, 0] * shape_to_camera[2, 3])
    oy = -(rotation[0, 1] * shape_to_camera[0, 3] + rotation[1, 1] * shape_to_camera[1, 3] + rotation[2, 1] * shape_to_camera[2, 3])
    oz = -(rotation[0, 2] * shape_to_camera[0, 3] + rotation[1, 2] * shape_to_camera[1, 3] + rotation[2, 2] * shape_to_camera[2, 3])
    for i in range(len(rays)):
        x, y = rays[i, 0], rays[i, 1]
        dx = rotation[0, 0] * x + rotation[1, 0] * y + rotation[2, 0]
        dy = rotation[0, 1] * x + rotation[1, 1] * y + rotation[2, 1]
        dz = rotation[0, 2] * x + rotation[1, 2] * y + rotation[2, 2]
        near, far = _slab(oz, dz, size_m[2], 0.0, depth_m[i])
        if kind == 0:
            near, far = _slab(ox, dx, size_m[0], near, far)
            near, far = _slab(oy, dy, size_m[1], near, far)
        else:
            near, far = _tube(ox, oy, dx, dy, size_m[0], near, far)
        if 0.0 < near < far:
            depth_m[i] = near


@numba.njit(cache=True)
def _slab(origin, direction, half, near, far):
    """The part [near, far] of a ray between two parallel planes (Kay & Kajiya 1986)."""
    if abs(direction) < 1e-12:
        return (near, far) if abs(origin) <= half else (1.0, 0.0)
    a, b = (-half - origin) / direction, (half - origin) / direction
    return max(near, min(a, b)), min(far, max(a, b))


@numba.njit(cache=True)
def _tube(ox, oy, dx, dy, radius, near, far):
    """The part of a ray inside an endless cylinder about z."""
    a = dx * dx + dy * dy
    b = ox * dx + oy * dy
    c = ox * ox + oy * oy - radius * radius
    root = b * b - a * c
    if a < 1e-12:
        return (near, far) if c <= 0.0 else (1.0, 0.0)
    if root < 0.0:
        return 1.0, 0.0
    root = math.sqrt(root)
    return max(near, (-b - root) / a), min(far, (-b + root) / a)
