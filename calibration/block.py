"""Where blocks with a marker on top lie in one image: what `edge.block` reckons frame by frame, for a picture and a board's JSON."""

import numpy as np

from calibration.boards import MarkerBoard, points_m
from calibration.detect import Detection
from calibration.marker_edges import markers_in
from calibration.opencv import Image, Lens, board_pose
from edge.block import Block, block_of
from edge.errors import CalibrationError
from edge.messages import Float64


class BlockFinder:
    """Finds blocks of `block_m` whose tops carry the markers of `board`; raises `CalibrationError` where its rulers are not measured."""

    def __init__(self, board: MarkerBoard, block_m: float, lens: Lens) -> None:
        self._size_m = {one.id: one.size_m * float(board.scale.mean()) for one in board.markers}
        self._dictionary = board.dictionary
        self._block_m = block_m
        self._lens = lens

    def find(self, image: Image, transform_camera_to_table: Float64) -> list[Block]:
        """Every block in a grey image (height, width), in the order of their markers; none is an empty list.

        Raises `CalibrationError` for an image of another size, `ObservationError` for a marker whose size says that it is not on a block.
        """
        wanted = (self._lens.intrinsics.height, self._lens.intrinsics.width)
        if image.shape != wanted:
            raise CalibrationError(f"the image is {image.shape}, expected {wanted} as the lens was calibrated; use that stream")
        markers = markers_in(image, self._dictionary, self._size_m, self._lens)
        return [block_of(one, self._size_m[one.id], self._block_m, transform_camera_to_table) for one in markers]


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
