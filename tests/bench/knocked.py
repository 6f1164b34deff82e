"""How far off its place a fixed marker is seen as descents begin: how many each limit would stop for nothing, which knocks it finds.

PYTHONPATH=. python tests/bench/knocked.py [--descents N] [--seed N]
"""

import argparse
import math
from contextlib import closing
from functools import partial

import numpy as np
from rich.console import Console
from tables import Bench

from calibration.marker_edges import markers_in
from calibration.opencv import Lens
from edge import kinematics
from edge.block import on_plane
from edge.cameras.fixed_marker import SETTLED_S
from edge.cameras.judge import GOOD_FRAMES
from edge.cameras.wrist import WristCamera
from edge.config import BlockConfig
from edge.messages import JointCommand
from edge.safety import DOFBOT_LIMITS, gate, resting
from edge.task import GraspTask, Phase
from trainer import sensors, spec
from trainer.blocks import Block
from trainer.grey import FIXED, GreyCamera
from trainer.randomise import RANGES
from trainer.servo_model import ServoQuirks
from trainer.world import Quirks, World

CONTRACT = spec.contract()
TASK = GraspTask(CONTRACT, (-0.12, 0.06))
POSE = np.array(CONTRACT.camera.transform_camera_to_tool)
TICK_S, FRAME_TICKS = 0.02, 2
NOISE_DEG, ZERO_DEG = 0.3, 0.2  # of a servo wherever it stops, and of a calibrated zero (docs/calibration.md)
HAND_EYE_M, HAND_EYE_DEG = 0.00027, 0.08  # how far off a hand-eye calibration is
RULER_M, LATE_S = 0.001, 0.02  # how far off the marker's place was measured, and how late a frame's time is
LIMITS_MM, KNOCKS_MM = (3, 4, 5, 6, 8, 10), (5, 8, 10, 12, 15, 20)
WAYS = 16  # that a knock goes


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description="Descents of a simulated arm whose camera sits where it was calibrated.")
    parser.add_argument("--descents", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    for name, is_exact in (
        ("that rounds set points to 0.66° and is exact otherwise", True),
        ("as calibrated, with noise, play and lag", False),
    ):
        with closing(World(CONTRACT)) as world:
            world.camera = sensors.mounted(CONTRACT.camera)
            seen = [_descent(world, np.random.default_rng((given.seed, index)), is_exact) for index in range(given.descents)]
        first_mm, middle_mm = (1e3 * np.array(ones) for ones in zip(*seen, strict=True))  # (n, 2) each
        Console(width=150).print(_table(name, first_mm, middle_mm).table())


def _descent(world: World, rng: np.random.Generator, is_exact: bool) -> tuple[np.ndarray, np.ndarray]:
    """(2,) each: where the first frame shows the marker, from its place, and the middle of those that count, in metres."""
    quirks, late_s, ruler_m = Quirks(servos=ServoQuirks(quantised=True)), 0.0, np.zeros(2)
    if not is_exact:
        servos = ServoQuirks(
            zero_rad=tuple(np.radians(rng.normal(0.0, math.hypot(NOISE_DEG, ZERO_DEG), 5))),
            backlash_rad=RANGES.backlash_rad.draw(rng, 1.0),
            lag_s=RANGES.servo_lag_s.draw(rng, 1.0),
            quantised=True,
        )
        shift_m, turn_rad = rng.normal(0.0, HAND_EYE_M / 3**0.5, 3), np.radians(rng.normal(0.0, HAND_EYE_DEG / 3**0.5, 3))
        quirks = Quirks(servos=servos, camera_shift_m=tuple(shift_m), camera_turn_rad=tuple(turn_rad))
        late_s, ruler_m = rng.uniform(0.0, LATE_S), rng.uniform(-RULER_M, RULER_M, 2)
    episode = TASK.episode
    goal_m = rng.uniform(episode.spawn_min_in_table_m, episode.spawn_max_in_table_m)
    over = JointCommand(*kinematics.solve(TASK.place_pose._replace(z_m=0.060), TASK.mount), episode.open_m)
    sent = TASK.park if rng.random() < 0.5 else over
    world.reset(sent, (Block(*goal_m, 0.3, (episode.block_size_m,) * 3),), quirks)
    grey, lens = GreyCamera(world, BlockConfig(), rng), Lens(world.camera.intrinsics)
    wrist, state, passed, tick, began_s = WristCamera(POSE, TASK.mount), TASK.begin(Phase.HOMING, sent), resting(sent), 0, math.inf
    frames, phase = [], int(rng.integers(FRAME_TICKS))
    while True:
        now_s = tick * TICK_S
        if state.phase is Phase.HOMING and TASK.finished(state, sent):
            state, began_s = TASK.begin(Phase.APPROACH, sent), now_s
        way_m = goal_m - kinematics.tool_in_table_m(sent, TASK.mount)[:2]
        action = np.clip(way_m / TASK.action_scale_m, -1.0, 1.0).astype(np.float32) if TASK.needs_action(state) else None
        state, wanted = TASK.tick(state, sent, action)
        sent, passed, _ = gate(passed, wanted, DOFBOT_LIMITS, TICK_S, partial(kinematics.tool_in_table_m, mount=TASK.mount))
        wrist.sent(sent, now_s)
        world.drive(sent)
        world.step(TICK_S)
        tick += 1
        if tick % FRAME_TICKS != phase or state.phase is Phase.HOMING:
            continue
        captured_s = tick * TICK_S
        rays = [marker.rays for marker in markers_in(grey.image(world.depth()), BlockConfig().dictionary, {FIXED.id}, lens)]
        if rays and (not frames or captured_s >= frames[0][0] + SETTLED_S):
            camera_to_table = wrist.transform_camera_to_table(captured_s + late_s)
            frames.append((captured_s, on_plane(rays[0], camera_to_table, 0.0).mean(axis=0) - FIXED.at_in_table_m - ruler_m))
        if len(frames) > GOOD_FRAMES:
            return frames[0][1], np.median([off_m for _, off_m in frames[1:]], axis=0)
        assert captured_s < began_s + 2.0, "the marker is not in view"


def _table(name: str, first_mm: np.ndarray, middle_mm: np.ndarray) -> Bench:
    away = np.linspace(0.0, 2.0 * np.pi, WAYS, endpoint=False)
    ways = np.column_stack((np.cos(away), np.sin(away)))
    rows = {}
    for limit_mm in LIMITS_MM:
        stopped = {"stopped, by the first frame": int((np.hypot(*first_mm.T) > limit_mm).sum())}
        stopped["by five"] = int((np.hypot(*middle_mm.T) > limit_mm).sum())
        found = {}
        for knock_mm in KNOCKS_MM:
            off_mm = np.linalg.norm(middle_mm[:, None] + knock_mm * ways[None], axis=-1)
            found[f"{knock_mm} mm found %"] = float(100.0 * (off_mm > limit_mm).mean())
        rows[f"limit {limit_mm} mm"] = stopped | found
    off_mm = np.hypot(*middle_mm.T)
    notes = (
        f"{len(middle_mm)} descents of a camera in its place; the middle of {GOOD_FRAMES} frames from {SETTLED_S:g} s on is off by median "
        f"{np.median(off_mm):.1f}, 95 % {np.percentile(off_mm, 95):.1f}, at most {off_mm.max():.1f} mm. Simulated."
    )
    return Bench(f"A fixed marker, by an arm {name}", rows, {}, notes)


if __name__ == "__main__":
    main()
