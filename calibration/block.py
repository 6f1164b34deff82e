"""Where a block with a marker on top lies: for the `xyz` policy, frame by frame.

Of a marker seen from above the pose is ambiguous, and the wrong one of two is taken in 39 % of frames (facts, 2.6); its distance, from its
size, is off by millimetres. But the block lies on the table, whose height is known: each corner's ray is cut with the plane of the block's
top, and what is left to find is a square of known size in that plane, x, y and yaw.
"""

from typing import NamedTuple

import numpy as np

from calibration.boards import MarkerBoard, points_m
from calibration.detect import Detection
from calibration.marker_edges import refine_markers
from calibration.opencv import Image, Lens, board_pose, find_markers, undistort
from edge.errors import CalibrationError
from edge.messages import Float64

SIZE_OFF_MAX = 0.06  # of the marker's width: 15 mm nearer at 0.25 m; the block is not on the table, or the marker is another
GRAZING_MIN = 0.2  # of a ray's descent; flatter than that a ray's place on the plane is a guess


class Block(NamedTuple):
    """One block: its centre, its marker's heading about table +z, and by how much its marker looks too large (0: fits)."""

    marker: int
    centre_in_table_m: tuple[float, float, float]
    yaw_rad: float
    size_off: float


class BlockFinder:
    """Finds blocks of `block_m` whose tops carry the markers of `board`; raises `CalibrationError` where its rulers are not measured."""

    def __init__(self, board: MarkerBoard, block_m: float, lens: Lens) -> None:
        self._size_m = {one.id: one.size_m * float(board.scale.mean()) for one in board.markers}
        self._dictionary = board.dictionary
        self._block_m = block_m
        self._lens = lens

    def find(self, image: Image, transform_camera_to_table: Float64) -> list[Block]:
        """Every block in a grey image (height, width), in the order of their markers; none is an empty list.

        Raises `CalibrationError` for a marker whose size says that it is not where the plane says, and for an image of another size.
        """
        wanted = (self._lens.intrinsics.height, self._lens.intrinsics.width)
        if image.shape != wanted:
            raise CalibrationError(f"the image is {image.shape}, expected {wanted} as the lens was calibrated; use that stream")
        markers = find_markers(image, self._dictionary, is_near=True)
        known = [number for number in np.argsort(markers.ids, kind="stable") if int(markers.ids[number]) in self._size_m]
        corners_px = refine_markers(image, markers.corners_px[known])
        return [self._block(int(markers.ids[known[i]]), corners_px[i], transform_camera_to_table) for i in range(len(known))]

    def _block(self, marker: int, corners_px: Float64, transform_camera_to_table: Float64) -> Block:
        on_top_m = on_plane(corners_px, self._lens, transform_camera_to_table, self._block_m)
        centre_m = on_top_m.mean(axis=0)
        yaw_rad, size_m = _square(on_top_m - centre_m)
        size_off = size_m / self._size_m[marker] - 1.0
        if abs(size_off) > SIZE_OFF_MAX:
            found = f"marker {marker} is {size_m * 1e3:.1f} mm wide on a block's top, expected {self._size_m[marker] * 1e3:.1f} mm"
            raise CalibrationError(f"{found}; is the block on the table, and the board's JSON its own?")
        return Block(marker, (float(centre_m[0]), float(centre_m[1]), self._block_m / 2.0), yaw_rad, size_off)


def camera_over_grid(found: Detection, grid: MarkerBoard, lens: Lens) -> Float64:
    """`transform_camera_to_table` from the table grid in the same image; raises `CalibrationError` where it does not tell.

    On the arm it comes from the joints and the hand-eye; this needs neither, and so checks both.
    """
    if grid.table_origin_m is None:
        raise CalibrationError(
            "this board is no table grid, expected one that has the table frame on it; print it: dofbot calibrate board grid"
        )
    grid_to_camera = board_pose(points_m(grid, found.ids), found.corners_px, lens)
    if grid_to_camera is None:
        raise CalibrationError("no pose fits the grid's corners; show more of the grid")
    x_m, y_m = np.array(grid.table_origin_m) * grid.scale
    grid_to_table = np.diag((1.0, -1.0, -1.0, 1.0))  # y points up the paper, z out of it
    grid_to_table[:2, 3] = (-x_m, y_m)
    return np.asarray(grid_to_table @ np.linalg.inv(grid_to_camera), np.float64)


def on_plane(pixels: Float64, lens: Lens, transform_camera_to_table: Float64, height_m: float) -> Float64:
    """(n, 2) x, y in the table frame where the rays of pixels (n, 2) meet the plane z = `height_m`.

    Raises `CalibrationError` for rays that do not come down to it.
    """
    rays = np.column_stack((undistort(pixels, lens), np.ones(len(pixels)))) @ transform_camera_to_table[:3, :3].T
    camera_m = transform_camera_to_table[:3, 3]
    if not (camera_m[2] > height_m and (rays[:, 2] < -GRAZING_MIN * np.linalg.norm(rays, axis=1)).all()):
        found = f"the camera at {camera_m[2] * 1e3:.0f} mm does not look down on the plane at {height_m * 1e3:.0f} mm"
        raise CalibrationError(f"{found}; look at the hand-eye calibration")
    steps = (height_m - camera_m[2]) / rays[:, 2]
    return np.asarray(camera_m[:2] + steps[:, None] * rays[:, :2], np.float64)


def _square(corners_m: Float64) -> tuple[float, float]:
    """Yaw and width of the square that fits four centred corners best, clockwise seen from above, the first its upper left."""
    square = np.array(((-0.5, 0.5), (0.5, 0.5), (0.5, -0.5), (-0.5, -0.5)))
    along = float((square * corners_m).sum())
    across = float((square[:, 0] * corners_m[:, 1] - square[:, 1] * corners_m[:, 0]).sum())
    return float(np.arctan2(across, along)), float(np.hypot(along, across) / np.square(square).sum())
