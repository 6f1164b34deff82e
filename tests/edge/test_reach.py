"""The bands say what the inverse kinematics can do: no radius that they allow is out of reach, none that they forbid is wasted."""

import math

import numpy as np
import pytest

from edge.errors import UnreachableError
from edge.kinematics import Mount, solve
from edge.messages import ToolPose
from edge.reach import MARGIN_M, Reach, reach
from trainer import spec

HANGING, STANDING = Mount(0.388, inverted=True), Mount(0.0, inverted=False)
MOUNTS = pytest.mark.parametrize("mount", [HANGING, STANDING, Mount(0.42, inverted=True)], ids=["hanging", "standing", "high"])
SCAN_M = 0.0005  # radius step of the scan that makes the bands


def yaw_rad(mount: Mount) -> float:
    """Joint 5 straight ahead of the base, so that it keeps its range to both sides."""
    return math.pi if mount.inverted else 0.0


def is_reached(x_m: float, y_m: float, z_m: float, mount: Mount) -> bool:
    try:
        solve(ToolPose(x_m, y_m, z_m, 0.0, yaw_rad(mount)), mount)
    except UnreachableError:
        return False
    return True


def heights_m(bands: Reach) -> list[float]:
    """Every scanned height, just beside it, and between."""
    scanned = np.array(bands.heights_m)
    inside = np.concatenate([scanned, scanned[:-1] + 1e-9, scanned[1:] - 1e-9, scanned[:-1] + 0.002, scanned[:-1] + 0.0033])
    return sorted(inside.tolist())


@MOUNTS
def test_what_clamp_allows_is_in_reach_at_every_height(mount: Mount) -> None:
    bands = reach(mount, yaw_rad(mount))
    rng = np.random.default_rng(0)
    for height_m in heights_m(bands):
        for radius_m in (0.0, 0.4, -1.0, 10.0, *rng.uniform(0.0, 0.2, 4).tolist()):
            clamped_m = bands.clamp(radius_m, height_m)
            azimuth_rad = rng.uniform(-1.4, 1.4)
            x_m, y_m = clamped_m * math.sin(azimuth_rad), clamped_m * math.cos(azimuth_rad)
            assert is_reached(x_m, y_m, height_m, mount), (radius_m, clamped_m, height_m)


@MOUNTS
def test_bands_end_where_the_arm_does(mount: Mount) -> None:
    """At scanned heights one step further in or out is out of reach, and everything between is in reach."""
    bands = reach(mount, yaw_rad(mount))
    for height_m, nearest_m, furthest_m in zip(*bands, strict=True):
        assert not is_reached(0.0, furthest_m + 1.1 * SCAN_M, height_m, mount)
        assert nearest_m == 0.0 or not is_reached(0.0, nearest_m - 1.1 * SCAN_M, height_m, mount)
        for radius_m in np.linspace(nearest_m, furthest_m, 9).tolist():
            assert is_reached(0.0, radius_m, height_m, mount)


@MOUNTS
def test_clamp_is_idempotent_and_moves_only_what_is_outside(mount: Mount) -> None:
    bands = reach(mount, yaw_rad(mount))
    for height_m in [*heights_m(bands), -0.01, 0.5]:
        nearest_m, furthest_m = bands.band_m(height_m)
        for radius_m in np.linspace(-0.05, 0.3, 71).tolist():
            clamped_m = bands.clamp(radius_m, height_m)
            assert bands.clamp(clamped_m, height_m) == clamped_m
            if nearest_m + MARGIN_M <= radius_m <= furthest_m - MARGIN_M:
                assert clamped_m == radius_m
            else:
                assert min(abs(clamped_m - nearest_m), abs(clamped_m - furthest_m)) <= MARGIN_M + 1e-12


def test_start_and_spawns_keep_three_millimetres() -> None:
    """The margin that DESIGN asks for, by the inverse kinematics and not by the bands: 3 mm in and out from every such place."""
    episode = spec.EPISODE
    grasp_m = episode.start_in_table_m[2] - episode.steps * episode.descent_per_step_m
    (x_min, y_min), (x_max, y_max) = episode.spawn_min_in_table_m, episode.spawn_max_in_table_m
    edge = [(x, y, grasp_m) for x in np.linspace(x_min, x_max, 11) for y in np.linspace(y_min, y_max, 6)]
    for x_m, y_m, z_m in [*edge, episode.start_in_table_m]:
        radius_m = math.hypot(x_m, y_m)
        for off_m in (-0.003, 0.0, 0.003):
            scale = 1.0 + off_m / radius_m
            assert is_reached(x_m * scale, y_m * scale, z_m, HANGING), (x_m, y_m, z_m, off_m)


def test_clamp_leaves_start_and_spawns_where_they_are() -> None:
    episode = spec.EPISODE
    bands = reach(HANGING, episode.yaw_rad)
    grasp_m = episode.start_in_table_m[2] - episode.steps * episode.descent_per_step_m
    corners = [
        (x, y) for x in (episode.spawn_min_in_table_m[0], 0.0) for y in (episode.spawn_min_in_table_m[1], episode.spawn_max_in_table_m[1])
    ]
    for x_m, y_m, z_m in [*((x, y, grasp_m) for x, y in corners), episode.start_in_table_m]:
        radius_m = math.hypot(x_m, y_m)
        assert bands.clamp(radius_m, z_m) == radius_m


def test_a_mount_that_cannot_work_is_refused() -> None:
    with pytest.raises(UnreachableError, match="change base_height_m"):
        reach(Mount(0.2, inverted=True), math.pi)
