"""Where a board is in a view, in few numbers and in words: what collections tell views apart by."""

from typing import NamedTuple

import numpy as np

from calibration.boards import Board, points_m
from calibration.detect import Detection
from calibration.opencv import Lens, board_pose
from calibration.verdict import TILT_RAD

NEW_PLACE, NEW_TILT, NEW_DISTANCE = 0.15, 0.2, 0.2  # of the image's width, sine, relative: a view that differs by one of them is new


class Place(NamedTuple):
    """The middle of the corners in view, 0 to 1 across and down the image; x and y of the board's normal; how far away those corners are.

    `fills` is the board's longer side over the image's width, were it to face the camera there.
    """

    across: float
    down: float
    tilt: tuple[float, float]
    distance_m: float
    fills: float

    @property
    def edge(self) -> str:
        """Which edge of the board is nearer to the camera, as the image has it; empty: it faces the camera within 20°."""
        x, y = self.tilt
        if np.hypot(x, y) < np.sin(TILT_RAD):
            return ""
        return ("right" if x > 0.0 else "left") if abs(x) > abs(y) else ("lower" if y > 0.0 else "upper")

    def words(self) -> str:
        """For a person."""
        row, column = ("upper", "", "lower")[_third(self.down)], ("left", "", "right")[_third(self.across)]
        part = f"{row} {column}".strip() or "middle"
        return f"{part}, {f'{self.edge} edge nearer' if self.edge else 'facing the camera'}, {self.distance_m * 1e3:.0f} mm away"

    def is_like(self, other: "Place") -> bool:
        """Whether both views tell the same."""
        apart = np.hypot(self.across - other.across, self.down - other.down)
        turned = np.hypot(self.tilt[0] - other.tilt[0], self.tilt[1] - other.tilt[1])
        return bool(apart < NEW_PLACE and turned < NEW_TILT and abs(np.log(self.distance_m / other.distance_m)) < NEW_DISTANCE)


def place_of(seen: Detection, board: Board, lens: Lens) -> Place | None:
    """Of a view; None where no pose fits. `lens` need not be good: what the camera says of itself will do."""
    points = points_m(board, seen.ids)
    pose = board_pose(points, seen.corners_px, lens)
    if pose is None:
        return None
    across, down = seen.corners_px.mean(axis=0) / (lens.intrinsics.width, lens.intrinsics.height)
    distance_m = float((points @ pose[2, :3]).mean() + pose[2, 3])
    fills = lens.intrinsics.fx * max(board.size_m) / distance_m / lens.intrinsics.width
    return Place(float(across), float(down), (float(pose[0, 2]), float(pose[1, 2])), distance_m, fills)


def _third(share: float) -> int:
    return min(max(int(3.0 * share), 0), 2)
