"""What differs between our simulation and any one desk: one table of ranges, each with its source; strength 0…1."""

import math
from collections.abc import Callable
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
    source: str  # 'ours' where nobody gives a figure

    def draw(self, rng: np.random.Generator, strength: float) -> float:
        """One value."""
        return self.nominal + strength * (rng.uniform(self.low, self.high) - self.nominal)

    def draws(self, rng: np.random.Generator, strength: float, count: int) -> tuple[float, ...]:
        """Several independent values."""
        return tuple(self.draw(rng, strength) for _ in range(count))


def _degrees(low: float, nominal: float, high: float, source: str) -> Range:
    return Range(math.radians(low), math.radians(nominal), math.radians(high), source)


class Ranges(Struct, frozen=True):
    """The table."""

    block_size_m: Range = Range(0.025, 0.030, 0.035, "ours; smaller and bigger ones are held out")
    block_mass_kg: Range = Range(0.02, 0.030, 0.10, "ours: wood and plastic; the vendor allows 0.2 kg with the arm stretched")
    # Below 0.5 a block at 25-35° of yaw jams across its edges and slips, whoever steers.
    friction: Range = Range(0.5, 0.8, 1.2, "ours: painted wood to rubber, against pads of 1.0")
    table_m: Range = Range(-0.003, 0.0, 0.003, "ours: as well as one measures with a ruler")
    servo_zero_rad: Range = _degrees(-2.0, 0.0, 2.0, "jimdinunzio/dofbot_ros2 measured 0, +2, +2, +2, -2°")
    backlash_rad: Range = _degrees(0.0, 0.0, 0.5, "DS-SY15A data sheet: at most 1° in all")
    servo_lag_s: Range = Range(0.02, 0.04, 0.10, "ours; jimdinunzio/dofbot_ros2 saw 225 ms in all at ten commands a second")
    camera_shift_m: Range = Range(-0.002, 0.0, 0.002, "Squint (arXiv 2602.21203), Yazici: at most 2 mm")
    camera_turn_rad: Range = _degrees(-1.0, 0.0, 1.0, "Squint: ±1° about each axis")
    focal_scale: Range = Range(0.98, 1.0, 1.02, "Squint: field of view ±1°, of 58°")
    centre_px: Range = Range(-0.5, 0.0, 0.5, "Yazici: ±2 px of 224")
    noise_px: Range = Range(0.03, 0.0, 0.15, "Intel, Tuning depth cameras: below 0.1 on good texture, above 0.2 recalibrate")
    disparity_step_px: Range = Range(0.03125, 0.0, 0.03125, "D4xx: about 1/32 px, from memory")
    scale_error: Range = Range(-0.01, 0.0, 0.01, "GQ-CNN: about 1 %, at most 3 %")
    dropout: Range = Range(0.0, 0.0, 0.02, "DEXTRAH: 0.3 %, swept to 2 %")
    blobs: Range = Range(0.0, 0.0, 2.99, "ours: up to two holes of 2-6 px")
    near_blind_m: Range = Range(0.04, 0.0, 0.07, "D405: 40 mm by its sheet at 424x240, 70 mm by testers (librealsense #10444)")
    latency_ticks: Range = Range(0.0, 0.0, 2.99, "ours: an image is up to two servo ticks old")
    repeat_share: Range = Range(0.0, 0.0, 0.10, "ours: every tenth frame comes twice")
    marker_bias_m: Range = Range(-0.002, 0.0, 0.002, "ours, on each axis: twice the 1 mm that calibration aims at")
    marker_noise_m: Range = Range(0.001, 0.0, 0.001, "ours, standard deviation: IPPE on a 20 mm marker, 0.2 mm in x, y, 0.9 mm in z")


RANGES = Ranges()
MAX_LATENCY_TICKS = int(RANGES.latency_ticks.high)


class Scene(NamedTuple):
    """One episode's draw."""

    blocks: tuple[Block, ...]  # the first is the one to pick; with more, any will do
    quirks: Quirks = NO_QUIRKS
    faults: DepthFaults = NO_FAULTS
    latency_ticks: int = 0
    repeat_share: float = 0.0
    marker_bias_m: tuple[float, ...] = (0.0, 0.0, 0.0)  # how far off the block's marker is seen, all the time
    marker_noise_m: float = 0.0  # and from one frame to the next


Draw = Callable[[np.random.Generator, Episode], Scene]


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
            zero_rad=r.servo_zero_rad.draws(rng, s, 5),
            backlash_rad=r.backlash_rad.draw(rng, s),
            lag_s=r.servo_lag_s.draw(rng, s),
            quantised=True,
        ),
        table_m=r.table_m.draw(rng, s),
        camera_shift_m=r.camera_shift_m.draws(rng, s, 3),
        camera_turn_rad=r.camera_turn_rad.draws(rng, s, 3),
        focal_scale=r.focal_scale.draw(rng, s),
        centre_px=r.centre_px.draws(rng, s, 2),
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
    latency_ticks, repeat_share = int(r.latency_ticks.draw(rng, s)), r.repeat_share.draw(rng, s)
    marker_rng = rng.spawn(1)[0]  # takes nothing from `rng`: a seed's depth images do not depend on the marker
    marker = (r.marker_bias_m.draws(marker_rng, s, 3), r.marker_noise_m.draw(marker_rng, s))
    return Scene((block,), quirks, faults, latency_ticks, repeat_share, *marker)
