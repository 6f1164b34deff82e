"""Where a block with a marker on top lies on the table: what a policy of variant `xyz` is told.

Of a marker seen from above the pose is ambiguous, and the wrong one of two is taken in 39 % of frames; its distance, from its size, is
off by millimetres (IPPE on 20 mm markers, simulated). But the block lies on the table, whose height is known: each corner's ray is cut
with the plane of the block's top, and what is left to find is a square of known size in that plane, x, y and yaw.

    marker's rays ─► camera's pose when the frame was taken ─► plane of the blocks' tops ─► block's centre, kept while it is hidden
"""

from math import atan2, hypot
from typing import NamedTuple

import numpy as np

from edge import kinematics
from edge.cameras.judge import GOOD_FRAMES
from edge.cameras.wrist import WristCamera
from edge.config import BlockConfig
from edge.contract import Episode
from edge.errors import ObservationError
from edge.messages import Float64, Frame, JointCommand, Marker

SIZE_OFF_MAX = 0.06  # of the marker's width: 15 mm nearer at 0.25 m; the block is not on the table, or the marker is another
GRAZING_MIN = 0.2  # of a ray's descent; flatter than that a ray's place on the plane is a guess
# A block that is elsewhere by more than half its width would not be between the fingers; less is what a moving arm's pose is off by.
MOVED_SHARE = 0.5
# Tool heights below which a marker may be out of sight: hidden by a finger, or too near for a camera that sits elsewhere; in our simulation
# it is seen to the end. There the descent takes 2.4 s more, and the open tips, 21 mm behind the tool's centre, are two blocks high.
HIDDEN_BELOW_M = 0.040
UNSEEN_MAX_S = 0.5  # above it: a dozen frames, in which the tool falls by 6 mm; one blurred frame is no reason to hold


class Block(NamedTuple):
    """One block: its centre, its marker's heading about table +z, and by how much its marker looks too large (0: fits)."""

    marker: int
    centre_in_table_m: tuple[float, float, float]
    yaw_rad: float
    size_off: float


def block_of(marker: Marker, marker_m: float, block_m: float, transform_camera_to_table: Float64) -> Block:
    """The block of `block_m` that carries a marker whose black square is `marker_m` wide.

    Raises `ObservationError` for rays that do not come down to its top, and for a marker whose size says that it is not there.
    """
    on_top_m = on_plane(marker.rays, transform_camera_to_table, block_m)
    centre_m = on_top_m.mean(axis=0)
    yaw_rad, size_m = _square(on_top_m - centre_m)
    size_off = size_m / marker_m - 1.0
    if abs(size_off) > SIZE_OFF_MAX:
        found = f"marker {marker.id} is {size_m * 1e3:.1f} mm wide on a block's top, expected {marker_m * 1e3:.1f} mm"
        otherwise = "its block is not on the table, or it is not as large as said (block.marker_m, or the board's JSON)"
        raise ObservationError(f"{found}: {otherwise}")
    return Block(marker.id, (float(centre_m[0]), float(centre_m[1]), block_m / 2.0), yaw_rad, size_off)


def on_plane(rays: Float64, transform_camera_to_table: Float64, height_m: float) -> Float64:
    """(n, 2) x, y in the table frame where rays (n, 2), x/z and y/z, meet the plane z = `height_m`.

    Raises `ObservationError` for rays that do not come down to it.
    """
    ways = np.column_stack((rays, np.ones(len(rays)))) @ transform_camera_to_table[:3, :3].T
    camera_m = transform_camera_to_table[:3, 3]
    if not (camera_m[2] > height_m and (ways[:, 2] < -GRAZING_MIN * np.linalg.norm(ways, axis=1)).all()):
        found = f"the camera at {camera_m[2] * 1e3:.0f} mm does not look down on the plane at {height_m * 1e3:.0f} mm"
        raise ObservationError(f"{found}; look at the hand-eye calibration")
    steps = (height_m - camera_m[2]) / ways[:, 2]
    return np.asarray(camera_m[:2] + steps[:, None] * ways[:, :2], np.float64)


def _square(corners_m: Float64) -> tuple[float, float]:
    """Yaw and width of the square that fits four centred corners best, clockwise seen from above, the first its upper left."""
    square = np.array(((-0.5, 0.5), (0.5, 0.5), (0.5, -0.5), (-0.5, -0.5)))
    along = float((square * corners_m).sum())
    across = float((square[:, 0] * corners_m[:, 1] - square[:, 1] * corners_m[:, 0]).sum())
    return atan2(across, along), hypot(along, across) / float(np.square(square).sum())


class BlockTracker:
    """The block of one try: found where the policy may go, followed while it is seen, kept where fingers hide it.

    Of several blocks the one nearest to the tool is taken, and then that marker is followed alone. A marker that is suddenly elsewhere
    counts once it has stayed there for `GOOD_FRAMES`, and only while the fingers are clear of all blocks.
    """

    def __init__(self, episode: Episode, config: BlockConfig, wrist: WristCamera) -> None:
        self._episode = episode
        self._config = config
        self._wrist = wrist
        self.forget()

    def forget(self) -> None:
        """Another try begins: the block may be anywhere, or another."""
        self._seen: Frame | None = None
        self._why = ""  # there is no block
        self._block: Block | None = None
        self._seen_s = 0.0
        self._elsewhere: list[Block] = []  # frame after frame at one other place

    def place_m(self, frame: Frame, sent: JointCommand) -> tuple[float, float, float]:
        """The centre of the block, metres, table frame; `frame` is the newest one, `sent` the set points of now.

        Raises `ObservationError` while no block was seen in this try, while it seems to be elsewhere, and while it is hidden too early.
        """
        if frame is not self._seen:
            self._take(frame, sent)
            self._seen = frame
        if self._elsewhere:
            x_m, y_m, _ = self._elsewhere[-1].centre_in_table_m
            found = f"the block is at ({x_m * 1e3:.0f}, {y_m * 1e3:.0f}) mm now, expected where it was"
            raise ObservationError(f"{found}; leave it there, or put it back")
        if self._block is None:
            raise ObservationError(self._why)
        unseen_s = frame.captured_at_s - self._seen_s
        height_m = kinematics.tool_height_m(sent, self._wrist.mount)
        if unseen_s > UNSEEN_MAX_S and height_m > HIDDEN_BELOW_M:
            found = f"marker {self._block.marker} has not been seen for {unseen_s:.1f} s, the tool at {height_m * 1e3:.0f} mm"
            raise ObservationError(f"{found}, expected in view down to {HIDDEN_BELOW_M * 1e3:.0f} mm; is the block or the camera covered?")
        return self._block.centre_in_table_m

    def _take(self, frame: Frame, sent: JointCommand) -> None:
        tool = kinematics.tool_in_table_m(sent, self._wrist.mount)
        before, blocks = self._block, self._blocks(frame)
        if before is not None:
            blocks = [one for one in blocks if one.marker == before.marker]
        if not blocks:
            del self._elsewhere[:-1]  # what hides it now may be the hand that has moved it: it is still elsewhere, and not in a row
            return
        nearest = min(blocks, key=lambda one: _apart_m(one, tool if before is None else before.centre_in_table_m))
        if before is not None and self._is_elsewhere(nearest, before):
            if self._elsewhere and self._is_elsewhere(nearest, self._elsewhere[-1]):
                self._elsewhere.clear()
            self._elsewhere.append(nearest)
            if len(self._elsewhere) < GOOD_FRAMES or tool[2] <= HIDDEN_BELOW_M:
                return
        self._follow(nearest, frame)

    def _follow(self, block: Block, frame: Frame) -> None:
        self._block, self._seen_s = block, frame.captured_at_s
        self._elsewhere.clear()

    def _blocks(self, frame: Frame) -> list[Block]:
        """All blocks in the policy's workspace; where there is none `_why` says what was seen instead."""
        if frame.markers is None:
            raise ObservationError("the frame was not searched for markers, expected a camera whose grey image is; restart")
        camera_to_table = self._wrist.transform_camera_to_table(frame.captured_at_s)
        low, high = self._episode.workspace_min_in_table_m, self._episode.workspace_max_in_table_m
        blocks, others = [], []
        for marker in frame.markers:
            if marker.id not in self._config.markers:
                continue  # the fixed one
            try:
                block = block_of(marker, self._config.marker_m, self._episode.block_size_m, camera_to_table)
            except ObservationError as error:
                others.append(str(error))
                continue
            x_m, y_m, _ = block.centre_in_table_m
            if low[0] <= x_m <= high[0] and low[1] <= y_m <= high[1]:
                blocks.append(block)
            else:
                others.append(f"marker {marker.id} is at ({x_m * 1e3:.0f}, {y_m * 1e3:.0f}) mm")
        inside = f"x {low[0] * 1e3:g}…{high[0] * 1e3:g}, y {low[1] * 1e3:g}…{high[1] * 1e3:g} mm"
        markers = f"{self._config.dictionary} {', '.join(map(str, self._config.markers))} (block.markers)"
        self._why = f"{'; '.join(others) or 'no marker is in view'}, expected a block with one of {markers} at {inside}; put one there"
        return blocks

    def _is_elsewhere(self, block: Block, before: Block) -> bool:
        return _apart_m(block, before.centre_in_table_m) > MOVED_SHARE * self._episode.block_size_m


def _apart_m(block: Block, place_m: tuple[float, float, float]) -> float:
    x_m, y_m, _ = block.centre_in_table_m
    return hypot(x_m - place_m[0], y_m - place_m[1])
