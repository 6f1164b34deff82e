"""Every suite draws what it says, in its limits, for any seed."""

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from msgspec import structs

pytest.importorskip("pybullet")

from trainer import spec  # noqa: E402
from trainer.blocks import Block  # noqa: E402
from trainer.depth_camera import NO_FAULTS  # noqa: E402
from trainer.randomise import MAX_LATENCY_TICKS, RANGES  # noqa: E402
from trainer.suites import APART_M, CAMERA_OFF_M, CAMERA_OFF_RAD, HELD_OUT_SIZE_M, NOISE_PX, NOISE_SWEEP, SUITES, kind_of  # noqa: E402
from trainer.world import NO_QUIRKS  # noqa: E402

EPISODE = spec.EPISODE
ALL = SUITES | NOISE_SWEEP
SEEDS = range(400)


def scenes(name, seeds=SEEDS):
    return [ALL[name](np.random.default_rng(seed), EPISODE) for seed in seeds]


def within(values, limits):
    return all(limits.low - 1e-12 <= value <= limits.high + 1e-12 for value in np.ravel(values))


@pytest.mark.parametrize("name", ALL)
def test_the_block_to_pick_lies_in_the_spawn_area(name):
    (x_min, y_min), (x_max, y_max) = EPISODE.spawn_min_in_table_m, EPISODE.spawn_max_in_table_m
    blocks = [scene.blocks[0] for scene in scenes(name)]
    assert all(x_min <= block.x_m <= x_max and y_min <= block.y_m <= y_max for block in blocks)
    assert all(abs(block.yaw_rad) <= EPISODE.spawn_yaw_rad for block in blocks)
    spread_m = np.ptp([(block.x_m, block.y_m) for block in blocks], axis=0)
    assert (spread_m > 0.9 * np.array((x_max - x_min, y_max - y_min))).all()  # and all over it


@pytest.mark.parametrize("name", ALL)
def test_a_seed_repeats_its_scene(name):
    assert scenes(name, range(20)) == scenes(name, range(20))
    assert len(set(scenes(name, range(20)))) == 20


def test_clean_is_as_modelled():
    for scene in scenes("clean"):
        assert [block.size_m for block in scene.blocks] == [(EPISODE.block_size_m,) * 3]
        assert (scene.quirks, scene.faults, scene.latency_ticks, scene.repeat_share) == (NO_QUIRKS, NO_FAULTS, 0, 0.0)


@pytest.mark.parametrize("name", ["randomised", "heldout", "camera-offset"])
def test_what_training_draws_stays_in_the_table_of_ranges(name):
    for scene in scenes(name):
        servos, quirks, faults = scene.quirks.servos, scene.quirks, scene.faults
        drawn = {
            "servo_zero_rad": servos.zero_rad,
            "backlash_rad": servos.backlash_rad,
            "servo_lag_s": servos.lag_s,
            "table_m": quirks.table_m,
            "focal_scale": quirks.focal_scale,
            "centre_px": quirks.centre_px,
            "noise_px": faults.noise_px,
            "disparity_step_px": faults.disparity_step_px,
            "scale_error": faults.scale_error,
            "dropout": faults.dropout,
            "blobs": faults.blobs,
            "near_blind_m": faults.near_blind_m,
            "repeat_share": scene.repeat_share,
            "block_mass_kg": [block.mass_kg for block in scene.blocks],
            "friction": [block.friction for block in scene.blocks],
        }
        assert [field for field, values in drawn.items() if not within(values, getattr(RANGES, field))] == []
        assert 0 <= scene.latency_ticks <= MAX_LATENCY_TICKS


def test_randomised_cubes_are_of_training_sizes():
    assert all(within(scene.blocks[0].size_m, RANGES.block_size_m) for scene in scenes("randomised"))
    assert {kind_of(scene.blocks) for scene in scenes("randomised")} == {"cube"}


@pytest.mark.parametrize("name", ["randomised", "heldout"])
def test_the_camera_is_no_farther_off_than_in_training(name):
    for scene in scenes(name):
        assert within(scene.quirks.camera_shift_m, RANGES.camera_shift_m)
        assert within(scene.quirks.camera_turn_rad, RANGES.camera_turn_rad)


def test_the_camera_offset_is_beyond_training_on_every_axis_to_both_sides():
    found = [(scene.quirks.camera_shift_m, scene.quirks.camera_turn_rad) for scene in scenes("camera-offset")]
    for values, (low, high) in zip(np.swapaxes(found, 0, 1), (CAMERA_OFF_M, CAMERA_OFF_RAD), strict=True):
        assert (np.abs(values) >= low).all()
        assert (np.abs(values) <= high).all()
        assert (np.sign(values).mean(axis=0) ** 2 < 0.05).all()  # as often to the one side as to the other
    assert RANGES.camera_shift_m.high <= CAMERA_OFF_M[0]
    assert RANGES.camera_turn_rad.high <= CAMERA_OFF_RAD[0]


def test_held_out_has_its_four_kinds_in_equal_parts():
    counts = Counter(kind_of(scene.blocks) for scene in scenes("heldout"))
    assert set(counts) == {"cube", "cuboid", "cylinder", "two cubes"}
    assert min(counts.values()) > 0.15 * len(SEEDS)  # of 400, 100 ± 9 are expected: 60 is 4.6 deviations off


def test_held_out_blocks_are_of_sizes_or_shapes_that_training_does_not_have():
    low, high = HELD_OUT_SIZE_M
    for scene in scenes("heldout"):
        kind, block = kind_of(scene.blocks), scene.blocks[0]
        if kind == "two cubes":
            continue  # each as in training
        assert all(low <= edge_m <= high for edge_m in block.size_m)
        if kind == "cube":
            assert not RANGES.block_size_m.low < block.size_m[0] < RANGES.block_size_m.high
        else:
            assert block.size_m[2] >= 0.025  # high enough to be held


def test_two_blocks_leave_room_for_the_gripper():
    pairs = [scene.blocks for scene in scenes("heldout") if len(scene.blocks) > 1]
    assert pairs
    assert all(math.hypot(a.x_m - b.x_m, a.y_m - b.y_m) > APART_M for a, b in pairs)


def test_the_noise_sweep_changes_the_noise_and_nothing_else():
    for sweep in zip(*(scenes(name, range(50)) for name in NOISE_SWEEP), strict=True):
        assert [scene.faults.noise_px for scene in sweep] == list(NOISE_PX)
        as_first = [scene._replace(faults=structs.replace(scene.faults, noise_px=NOISE_PX[0])) for scene in sweep]
        assert as_first == [sweep[0]] * len(sweep)


def test_kinds_are_told_apart():
    cube = Block(0.0, 0.1)
    assert kind_of((cube,)) == "cube"
    assert kind_of((cube, cube)) == "two cubes"
    assert kind_of((replace(cube, size_m=(0.03, 0.02, 0.03)),)) == "cuboid"
    assert kind_of((replace(cube, cylinder=True),)) == "cylinder"
