"""Which crossings of the printed table grid a pointer in the gripper reaches, a choice of them that is spread, and the way down to each.

A vertical tool has little room (edge/reach.py): the longer the pointer, the fewer crossings. All are touched with the same heading on the
table, so a pointer that is held askew stands beside all crossings alike: it only seems to shift the grid, never to turn it.
"""

from contextlib import suppress
from typing import NamedTuple

import numpy as np

from calibration.boards import GRID_MAX_MM, GRID_MIN_MM
from calibration.live.plan_poses import APPROACH_RAD, Scene, is_clear
from edge.errors import CalibrationError, UnreachableError
from edge.kinematics import Joints, solve, tool_pose
from edge.messages import Float64, ToolPose

PITCH_MM = 10  # between lines of the grid, as calibration.pages.board_pdf draws them
HEADINGS_RAD = np.radians(np.arange(-180, 180, 15))
# Joint 4 comes from further below than the others: that tilts the pointer up, where 3° less in joints 2 and 3 lower it by up to 13 mm.
APPROACH4_RAD = np.radians(9.0)
LIMIT_MARGIN_RAD = np.radians(0.5)
LIFT_RAD = np.radians(6.0)  # of joints 2 and 3: lifts the tip by 10 to 25 mm, the more the further out
FIRST_HEIGHT_M = 0.025  # where its height is read: an arm of which nothing was measured may be 15 mm lower than it believes
CHECKED = 8  # poses that are looked at along each of the three ways


class Crossing(NamedTuple):
    """One crossing, and the poses (5,) for it."""

    at_in_table_m: tuple[float, float]
    joints_rad: Float64  # the pointer straight down over it
    from_rad: Float64  # from where each joint comes to that from below
    lifted_rad: Float64  # above that: before it and after

    @property
    def via_rad(self) -> tuple[Float64, Float64]:
        """The way down."""
        return self.lifted_rad, self.from_rad


def crossings(scene: Scene, height_m: float, count: int, scale: Float64, done_in_table_m: Float64) -> list[Crossing]:
    """`count` crossings less those that were touched (n, 2), spread over what is reachable with the tip `height_m` over the table.

    `scale` (2,) is true over drawn length of the print. Raises `CalibrationError` when the pointer leaves too few within reach.
    """
    across, up = (range(low, high + 1, PITCH_MM) for low, high in zip(GRID_MIN_MM, GRID_MAX_MM, strict=True))
    places_m = np.array([(x, y) for x in across for y in up]) * scale / 1e3
    found = max((_reached(scene, height_m, places_m, yaw) for yaw in HEADINGS_RAD.tolist()), key=len)
    wanted = count - len(done_in_table_m)
    if len(found) < wanted:
        raise CalibrationError(
            f"{len(found)} crossings are within reach of a pointer whose tip is {1e3 * scene.pointer_m:.0f} mm ahead of the tool centre, "
            f"expected {wanted}; take a shorter pointer, or fewer crossings"
        )
    places = np.array([one.at_in_table_m for one in found])
    return sorted((found[index] for index in _spread(places, done_in_table_m, wanted)), key=lambda one: float(one.joints_rad[0]))


def first(scene: Scene) -> Crossing:
    """Straight ahead, high over the table: where the pointer's length is measured. Raises `CalibrationError` for one that is too long."""
    ahead = np.array([(0.0, y / 1e3) for y in range(70, 170, 5)])
    for yaw in HEADINGS_RAD.tolist():
        found = _reached(scene, FIRST_HEIGHT_M, ahead, yaw)
        if found:
            return found[len(found) // 2]
    raise CalibrationError(
        f"a pointer whose tip is {1e3 * scene.pointer_m:.0f} mm ahead of the tool centre cannot be held straight down and "
        f"{1e3 * FIRST_HEIGHT_M:.0f} mm over the table anywhere, expected a shorter one; take one that sticks out by 20 mm"
    )


def approach_from(scene: Scene, joints_rad: Float64) -> Float64:
    """(…, 5) where to come from, every joint from below."""
    start = joints_rad - APPROACH_RAD
    lowest = scene.limits.position_min[3] + LIMIT_MARGIN_RAD
    start[..., 3] = np.minimum(start[..., 3], np.maximum(joints_rad[..., 3] - APPROACH4_RAD, lowest))
    return np.asarray(start)


def _reached(scene: Scene, height_m: float, places_m: Float64, yaw_rad: float) -> list[Crossing]:
    """Of places (n, 2) those that can be touched with this heading, by an arm that faces them."""
    places, solved = [], []
    for x, y in places_m.tolist():
        with suppress(UnreachableError):
            joints = solve(ToolPose(x, y, scene.pointer_m + height_m, 0.0, yaw_rad), scene.mount)
            if _faces(joints, x, y, scene):
                places.append((x, y))
                solved.append(joints)
    q = np.array(solved).reshape(-1, 5)
    start = approach_from(scene, q)
    lifted = start.copy()
    lifted[:, 1:3] = q[:, 1:3] + LIFT_RAD
    clear = np.ones(len(q), dtype=bool)
    for one, other in ((lifted, start), (start, q), (q, lifted)):
        for share in np.linspace(0.0, 1.0, CHECKED):
            clear &= is_clear(scene, one + share * (other - one))
    return [Crossing(places[i], q[i], start[i], lifted[i]) for i in np.flatnonzero(clear)]


def _faces(joints: Joints, x_m: float, y_m: float, scene: Scene) -> bool:
    """Whether joint 1 points at the place; the arm could also bend backwards over its base."""
    ahead = tool_pose((joints[0], 0.5, 0.5, 0.5, 0.0), scene.mount)
    return ahead.x_m * x_m + ahead.y_m * y_m >= 0.0


def _spread(places_m: Float64, done_m: Float64, count: int) -> list[int]:
    """Which of the places (n, 2) to take so that each is as far as can be from those before it, and from those that are done (m, 2)."""
    taken = done_m if len(done_m) else places_m.mean(axis=0)[None]
    far = np.linalg.norm(places_m[:, None] - taken, axis=-1).min(axis=1)
    chosen: list[int] = []
    for _ in range(count):
        chosen.append(int(np.argmax(far)))
        far = np.minimum(far, np.linalg.norm(places_m - places_m[chosen[-1]], axis=1))
    return chosen
