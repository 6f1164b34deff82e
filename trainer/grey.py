"""The grey image of a simulated wrist camera: blocks with a marker on top, the table with one glued to it, and fingers before them.

Simulated, and plain: each surface has one grey level, and there are no shadows, no gloss and no motion blur. Only the marker is exact,
as `calibration/simulated/render.py` draws it; where the depth image says that something is nearer, it is hidden.
"""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edge.config import BlockConfig, FixedMarkerConfig
from edge.errors import MissingExtraError
from edge.messages import Float32, Float64, Grey, Intrinsics
from trainer.render import BOX, DepthRenderer

try:
    from calibration.boards import MarkerBoard, Placed
    from calibration.opencv import Lens
    from calibration.simulated import render
except ModuleNotFoundError:
    raise MissingExtraError("cv2", "vision") from None

ARM, SIDE = 70, 150  # grey levels: the gripper, and what of a block carries no paper
FIXED = FixedMarkerConfig(id=0, at_in_table_m=(0.085, 0.150))  # the one on the table: in view from the start, and beside the workspace
ON_TABLE_M, ON_TOP_M = 0.001, 0.0007  # how far off a surface a pixel's point may be: it is seen at a slant, and float32 rounds


class Scene(Protocol):
    """What there is to see, and who looks: `trainer.world.World` is one."""

    @property
    def renderer(self) -> DepthRenderer:
        """That of the depth images."""

    @property
    def table_m(self) -> float:
        """Height of the table's top."""

    def transform_camera_to_table(self) -> Float64:
        """(4, 4) pose of the camera, where it really is."""

    def drawn(self) -> list[tuple[int, Float64, Float64]]:
        """(kind, half size, transform_block_to_table) of each block."""


class GreyCamera:
    """Takes pictures of one scene, in which every block carries the first marker of `block`."""

    def __init__(self, world: Scene, block: BlockConfig, rng: np.random.Generator) -> None:
        self._world = world
        self._block = block
        self._rng = rng

    def image(self, depth_m: Float32) -> Grey:
        """(height, width) grey of the scene as it is now, whose true depth is given; with the blur and noise of a cheap camera."""
        world = self._world
        lens, camera_to_table = world.renderer.intrinsics, world.transform_camera_to_table()
        own = world.renderer.sees_own_parts(depth_m)
        on_table = np.abs(_height_m(depth_m, lens, camera_to_table) - world.table_m) < ON_TABLE_M
        grey = np.where(on_table, np.uint8(render.DESK), np.uint8(SIDE))
        grey[own] = ARM
        rows, columns = np.nonzero(~on_table & ~own & (depth_m > 0.0))
        seen_m = depth_m[rows, columns]
        points_m = np.column_stack(((columns - lens.cx) / lens.fx * seen_m, (rows - lens.cy) / lens.fy * seen_m, seen_m))  # (n, 3), camera
        table_to_camera = np.linalg.inv(camera_to_table)
        for kind, half_m, block_to_table in world.drawn():
            block_to_camera = np.asarray(table_to_camera @ block_to_table, np.float64)
            if kind == BOX:
                is_top = _on_top(points_m, half_m, np.asarray(np.linalg.inv(block_to_camera), np.float64))
                if is_top.any():
                    paper = self._paper(self._block.markers[0], self._block.marker_m, half_m, block_to_camera, lens)
                    grey[rows[is_top], columns[is_top]] = paper[rows[is_top], columns[is_top]]
        place = np.eye(4)
        place[:3, 3] = (*FIXED.at_in_table_m, world.table_m)
        half_m = np.array((FIXED.size_m * 0.6, FIXED.size_m * 0.6, 0.0))
        glued = self._paper(FIXED.id, FIXED.size_m, half_m, np.asarray(table_to_camera @ place, np.float64), lens)
        grey = np.where(on_table & ~own, glued, grey)
        return render.noisy(render.blurred(grey, render.BLUR_PX), render.GREY_SD, self._rng)

    def _paper(self, marker: int, marker_m: float, half_m: Float64, box_to_camera: Float64, lens: Intrinsics) -> Grey:
        """(height, width): the paper on a box's top, as if nothing were before it, on a bare desk."""
        width_m = 2.0 * float(half_m[0])
        margin_m = (width_m - marker_m) / 2.0
        board = MarkerBoard(
            size_m=(width_m, width_m), markers=(Placed(marker, margin_m, margin_m, marker_m),), dictionary=self._block.dictionary
        )
        paper_to_box = np.diag((1.0, -1.0, -1.0, 1.0))  # its y runs down the paper, its z into it
        paper_to_box[:3, 3] = (-width_m / 2.0, width_m / 2.0, half_m[2])
        return render.view(board, np.asarray(box_to_camera @ paper_to_box, np.float64), Lens(lens))


def _height_m(depth_m: Float32, lens: Intrinsics, camera_to_table: Float64) -> Float32:
    """(height, width): z of each pixel's point in the table frame."""
    slope_x, slope_y, slope_z, camera_z = camera_to_table[2]
    across = slope_x * (np.arange(lens.width) - lens.cx) / lens.fx
    down = slope_y * (np.arange(lens.height) - lens.cy) / lens.fy
    falls = (across[None, :] + down[:, None] + slope_z).astype(np.float32)
    return depth_m * falls + np.float32(camera_z)


def _on_top(points_m: Float64, half_m: Float64, camera_to_block: Float64) -> NDArray[np.bool_]:
    """(n,): whether points (n, 3) in the camera's frame are on a block's top."""
    in_block_m = points_m @ camera_to_block[:3, :3].T + camera_to_block[:3, 3]
    is_over = (np.abs(in_block_m[:, :2]) <= half_m[:2]).all(axis=1)
    return np.asarray(is_over & (np.abs(in_block_m[:, 2] - half_m[2]) < ON_TOP_M), np.bool_)
