"""What differs between our simulation and any one desk: one table of ranges, each with its source; strength 0…1."""

import math
from typing import NamedTuple

import numpy as np
from msgspec import Struct

from edge.contract import Episode
from trainer.blocks import Block
from trainer.depth_camera import NO_FAULTS, DepthFaults
from trainer.servo_model import ServoQuirks
from trainer.world import NO_QUIRKS, Quirks


class Range(NamedTuple):
    """Uniform between low and high at strength 1; shrinks towards `nominal` with the strength."""

    low: float
    nominal: float
    high: float
    source: str

    def draw(self, rng: np.random.Generator, strength: float, size: int | None = None) -> float:
        """One value, or `size` of them."""
        drawn = self.nominal + strength * (rng.uniform(self.low, self.high, size) - self.nominal)
        return drawn if size else float(drawn)


class Ranges(Struct, frozen=True):
    """The table."""

    block_size_m: Range = Range(0.025, 0.030, 0.035, "facts §3: 2-3.5 cm; smaller ones are held out")
    block_mass_kg: Range = Range(0.02, 0.030, 0.10, "facts §3: 0.02-0.3 kg; the vendor's payload is 0.2 kg stretched")
    friction: Range = Range(0.5, 0.8, 1.2, "facts §3: 0.4-1.2; below 0.5 a block at 25-35° of yaw jams across its edges and slips, whoever steers")
    table_m: Range = Range(-0.003, 0.0, 0.003, "facts §3: table height ±3 mm")
    servo_zero_rad: Range = Range(-math.radians(2), 0.0, math.radians(2), "JIM measured +2, +2, +2, -2°; calibration removes most")
    backlash_rad: Range = Range(0.0, 0.0, math.radians(0.5), "DS-SY15A: ≤ 1° of backlash, that is ±0.5°")
    servo_lag_s: Range = Range(0.02, 0.04, 0.10, "not sourced; JIM saw 225 ms in all at 10 Hz commands")
    camera_shift_m: Range = Range(-0.002, 0.0, 0.002, "Squint, Yazici: ≤ 2 mm")
    camera_turn_rad: Range = Range(-math.radians(1), 0.0, math.radians(1), "Squint: ±1° an axis")
    focal_scale: Range = Range(0.98, 1.0, 1.02, "Squint: field of view ±1° of 58°")
    centre_px: Range = Range(-0.5, 0.0, 0.5, "Yazici: ±2 of 224 px")
    noise_px: Range = Range(0.03, 0.0, 0.15, "Intel: < 0.1 px on good texture, > 0.2 means recalibrate")
    disparity_step_px: Range = Range(0.03125, 0.0, 0.03125, "D4xx: about 1/32 px (unverified)")
    scale_error: Range = Range(-0.01, 0.0, 0.01, "GQ-CNN: 0.5-1 %, cap 3 %")
    dropout: Range = Range(0.0, 0.0, 0.02, "DEXTRAH: p 0.3 %, swept to 2 %")
    near_blind_m: Range = Range(0.04, 0.0, 0.07, "D405: 40-70 mm by resolution and tester")
    blobs: Range = Range(0.0, 0.0, 2.99, "facts §3: 0-2 holes of 2-6 px")
    latency_ticks: Range = Range(0.0, 0.0, 2.99, "facts §3: image 0-2 servo ticks old")
    repeat_share: Range = Range(0.0, 0.0, 0.10, "facts §3: 10 % repeated frames")


RANGES = Ranges()
MAX_LATENCY_TICKS = int(RANGES.latency_ticks.high)


class Scene(NamedTuple):
    """One episode's draw."""

    blocks: tuple[Block, ...]  # the first is the one to pick; with more, any will do
    quirks: Quirks = NO_QUIRKS
    faults: DepthFaults = NO_FAULTS
    latency_ticks: int = 0
    repeat_share: float = 0.0


def draw_scene(rng: np.random.Generator, episode: Episode, strength: float, spawn_fraction: float = 1.0) -> Scene:
    """A block in the spawn area and, in proportion to the strength, everything that is not as it should be."""
    (x_min, y_min), (x_max, y_max) = episode.spawn_min_in_table_m, episode.spawn_max_in_table_m
    middle, half = (y_min + y_max) / 2.0, (y_max - y_min) / 2.0 * spawn_fraction
    x_m, y_m = rng.uniform(x_min, x_max), rng.uniform(middle - half, middle + half)
    yaw_rad = rng.uniform(-episode.spawn_yaw_rad, episode.spawn_yaw_rad)
    if strength == 0.0:
        return Scene((Block(x_m, y_m, yaw_rad, (episode.block_size_m,) * 3),))
    r, s = RANGES, strength
    size_m = r.block_size_m.draw(rng, s)
    block = Block(x_m, y_m, yaw_rad, (size_m,) * 3, r.block_mass_kg.draw(rng, s), r.friction.draw(rng, s))
    quirks = Quirks(
        servos=ServoQuirks(
            zero_rad=tuple(r.servo_zero_rad.draw(rng, s, 5)),
            backlash_rad=r.backlash_rad.draw(rng, s),
            lag_s=r.servo_lag_s.draw(rng, s),
            quantised=True,
        ),
        table_m=r.table_m.draw(rng, s),
        camera_shift_m=tuple(r.camera_shift_m.draw(rng, s, 3)),
        camera_turn_rad=tuple(r.camera_turn_rad.draw(rng, s, 3)),
        focal_scale=r.focal_scale.draw(rng, s),
        centre_px=tuple(r.centre_px.draw(rng, s, 2)),
    )
    faults = DepthFaults(
        noise_px=r.noise_px.draw(rng, s),
        disparity_step_px=r.disparity_step_px.draw(rng, s),
        scale_error=r.scale_error.draw(rng, s),
        dropout=r.dropout.draw(rng, s),
        blobs=int(r.blobs.draw(rng, s)),
        near_blind_m=r.near_blind_m.draw(rng, s),
        shadows=True,
    )
    return Scene((block,), quirks, faults, int(r.latency_ticks.draw(rng, s)), r.repeat_share.draw(rng, s))
