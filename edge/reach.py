"""How near and how far the vertical tool reaches at each height: found by asking the inverse kinematics."""

from bisect import bisect_right
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from edge import kinematics, robot
from edge.errors import UnreachableError
from edge.kinematics import Mount
from edge.messages import ToolPose

MARGIN_M = 0.001  # kept from either end of the band; the start and every spawn keep 3 mm (tests/edge/test_reach.py)
_HEIGHT_STEP_M = 0.004
_RADIUS_STEP_M = 0.0005
_RADIUS_MAX_M = robot.UPPER_ARM_M + robot.FOREARM_M  # where a vertical tool hangs from the stretched arm


class Reach(NamedTuple):
    """Bands of reachable radius about the base axis, at heights in steps of 4 mm. Empty bands are left out."""

    heights_m: tuple[float, ...]
    nearest_m: tuple[float, ...]
    furthest_m: tuple[float, ...]

    def band_m(self, height_m: float) -> tuple[float, float]:
        """(nearest, furthest) radius at a height: the narrower of the two bands that enclose it."""
        above = min(max(bisect_right(self.heights_m, height_m), 1), len(self.heights_m) - 1)
        below = above - 1
        return max(self.nearest_m[below], self.nearest_m[above]), min(self.furthest_m[below], self.furthest_m[above])

    def clamp(self, radius_m: float, height_m: float) -> float:
        """The radius nearest to the wanted one that is reachable at this height, a margin inside the band."""
        nearest_m, furthest_m = self.band_m(height_m)
        return min(max(radius_m, nearest_m + MARGIN_M), furthest_m - MARGIN_M)


@lru_cache(maxsize=4)
def reach(mount: Mount, yaw_rad: float) -> Reach:
    """Scan heights 0…0.2 m with the tool straight down; a band is the longest run of reachable radii."""
    heights, nearest, furthest = [], [], []
    for height_m in np.arange(0.0, 0.2, _HEIGHT_STEP_M).tolist():
        run = _longest_run([r for r in np.arange(0.0, _RADIUS_MAX_M, _RADIUS_STEP_M).tolist() if _reaches(r, height_m, mount, yaw_rad)])
        if len(run) * _RADIUS_STEP_M > 2.0 * MARGIN_M:
            heights.append(height_m)
            nearest.append(run[0])
            furthest.append(run[-1])
    if len(heights) < 2:
        raise UnreachableError(f"with {mount} the tool cannot point straight down anywhere over the table; change base_height_m", 0.0)
    return Reach(tuple(heights), tuple(nearest), tuple(furthest))


def _reaches(radius_m: float, height_m: float, mount: Mount, yaw_rad: float) -> bool:
    pose = ToolPose(0.0, radius_m, height_m, 0.0, yaw_rad)
    return any(kinematics.within_limits(joints) for joints in kinematics.branches(pose, mount))


def _longest_run(radii_m: list[float]) -> list[float]:
    """The longest stretch without a gap."""
    runs: list[list[float]] = [[]]
    for radius_m in radii_m:
        if runs[-1] and radius_m - runs[-1][-1] > 1.5 * _RADIUS_STEP_M:
            runs.append([])
        runs[-1].append(radius_m)
    return max(runs, key=len)
