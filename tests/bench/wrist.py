"""Markers as the simulated wrist camera sees them: how long a frame takes, how many are found, and how far off the blocks are."""

import time
from contextlib import closing

import numpy as np
from msgspec.structs import replace
from tables import Bench

from calibration.marker_edges import markers_in
from calibration.opencv import Lens
from edge import kinematics
from edge.block import block_of
from edge.config import BlockConfig
from edge.messages import Intrinsics, JointCommand, ToolPose
from edge.task import GraspTask
from trainer import sensors, spec
from trainer.blocks import Block
from trainer.grey import GreyCamera
from trainer.world import World

CONTRACT = spec.contract("xyz")
TASK = GraspTask(CONTRACT, (-0.12, 0.06))
CONFIG = BlockConfig()
FRAMES = 200
PROFILES = {"424 × 240": sensors.LENS, "640 × 480": Intrinsics(640, 480, 382.0, 382.0, 319.5, 239.5)}  # of a D405
HEIGHTS_M = (0.012, 0.050)  # of the tool, "near by"


def bench() -> Bench:
    """Each profile from where a descent begins, and near the block."""
    rows = {}
    for name, lens in PROFILES.items():
        for where in ("start", "near by"):
            rows[f"{name}, {where}"] = _measured(lens, where == "start")
    notes = (
        f"{FRAMES} images of trainer/grey.py each (blur σ 0.5 px, noise of 2 grey levels), blocks anywhere in the spawn area; one OpenCV "
        "thread; the camera's own pose is taken as known. CPU: what the thread itself took; the clock counts the machine's other work, too."
    )
    return Bench("Blocks on the wrist", rows, {"clock p99 ms": "≤ 10", "max mm": "≤ 1"}, notes)


def _measured(lens: Intrinsics, at_start: bool) -> dict[str, float]:
    rng = np.random.default_rng(1)
    took_s, cpu_s, off_m = [], [], []
    with closing(World(CONTRACT)) as world:
        world.camera = replace(sensors.mounted(CONTRACT.camera), intrinsics=lens)
        camera = GreyCamera(world, CONFIG, rng)
        for _ in range(FRAMES):
            block = Block(rng.uniform(-0.05, 0.05), rng.uniform(0.075, 0.125), rng.uniform(-0.785, 0.785))
            joints = TASK.start if at_start else _over(block, rng)
            world.reset(joints, (block,))
            image = camera.image(world.depth())
            began_s, began_cpu_s = time.perf_counter(), time.thread_time()
            markers = markers_in(image, CONFIG.dictionary, CONFIG.markers, Lens(lens))
            took_s.append(time.perf_counter() - began_s)
            cpu_s.append(time.thread_time() - began_cpu_s)
            for marker in markers:
                found = block_of(marker, CONFIG.marker_m, block.size_m[2], world.transform_camera_to_table())
                off_m.append(np.hypot(found.centre_in_table_m[0] - block.x_m, found.centre_in_table_m[1] - block.y_m))
    took_ms, cpu_ms = np.array(took_s[1:]) * 1e3, np.array(cpu_s[1:]) * 1e3  # the first makes the detector
    return {
        "found %": 100.0 * len(off_m) / FRAMES,
        "median mm": float(np.median(off_m)) * 1e3,
        "max mm": max(off_m) * 1e3,
        "CPU p50 ms": float(np.median(cpu_ms)),
        "CPU p99 ms": float(np.percentile(cpu_ms, 99)),
        "clock p50 ms": float(np.median(took_ms)),
        "clock p99 ms": float(np.percentile(took_ms, 99)),
    }


def _over(block: Block, rng: np.random.Generator) -> JointCommand:
    """A tool within a few millimetres of the block's middle, as far down as the arm reaches there."""
    for height_m in rng.uniform(*HEIGHTS_M), HEIGHTS_M[0]:
        x_m, y_m = np.array((block.x_m, block.y_m)) + rng.normal(0.0, 0.003, 2)
        if TASK.reach.clamp(np.hypot(x_m, y_m), height_m) == np.hypot(x_m, y_m):
            pose = ToolPose(float(x_m), float(y_m), float(height_m), 0.0, CONTRACT.episode.yaw_rad)
            return JointCommand(*kinematics.solve(pose, TASK.mount), CONTRACT.episode.open_m)
    return _over(block, rng)
