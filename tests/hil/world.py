"""The desk of the bench, in a process of its own: `python -m tests.hil.world TRACE` serves it and prints its port.

Servos follow their pulses with a lag and do nothing else, so it takes next to no time; every vector of pulses that arrives
is written to TRACE with CLOCK_MONOTONIC and where the servos stand. A line on stdin changes it: `stalled true`, `wide true`, `reset`.
"""

import contextlib
import json
import math
import os
import struct
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edge import kinematics, robot
from edge.buses.servos import command_from_pulses, pulses_us
from edge.config import BlockConfig, BusConfig
from edge.kinematics import Mount
from edge.messages import Float32, Float64, Grey, Intrinsics, JointCommand
from edge.simulated.wire import PulsesUs
from trainer import spec
from trainer.render import BOX, DepthRenderer
from trainer.server import SimulatorServer

ENTRY = struct.Struct("<13d")  # monotonic time, six pulses, six shafts (both in µs)
PRIORITY = 40  # below the runtime's 50: its time stamps must not wait for whoever else is busy, nor the runtime for it
NOISE_M = 0.0002  # frames of a sensor never repeat themselves
CONTRACT = spec.contract()
MOUNT = Mount(CONTRACT.robot.base_height_m, CONTRACT.robot.inverted)
SERVOS = BusConfig().servos
PARKED = JointCommand._make((*robot.PARK_RAD, CONTRACT.episode.open_m))
PARKED_US = pulses_us(PARKED, SERVOS)
WIDE = Intrinsics(240, 192, 160.0, 160.0, 119.5, 95.5)  # the marker on the table has 21 px from the start; more of them take more time
BLOCK_M = CONTRACT.episode.block_size_m
HOLDING_US = pulses_us(PARKED._replace(opening_m=BLOCK_M), SERVOS)[5]
START_IN_TABLE_M = (0.01, 0.10, BLOCK_M / 2.0)  # of the block's centre


class BenchWorld:
    """A parked arm, a block, and a camera, until it is told otherwise. `sink` takes an entry for each vector of pulses."""

    frame_rate_hz = 25.0
    table_m = 0.0

    def __init__(self, sink: Callable[[bytes], object]) -> None:
        self.now_s = 0.0
        self._sink = sink
        pose = np.array(CONTRACT.camera.transform_camera_to_tool)
        self._narrow, self._wide = (DepthRenderer(lens, pose) for lens in (CONTRACT.camera.intrinsics, WIDE))
        self._random = np.random.default_rng(0)
        self._grey: Any = None  # `trainer.grey.GreyCamera`, once it is asked for
        self.reset()

    def reset(self) -> None:
        """As at the start."""
        self.stalled = False  # servos do not move
        self.blank = False  # the camera sees nothing
        self.block = True  # there is one to grasp
        self.wide = False  # the camera has enough pixels to find markers in, in the same place
        self._goals_us = self._shafts_us = PARKED_US
        self._block_in_table_m = START_IN_TABLE_M

    def write_pulses(self, pulses_us: PulsesUs) -> None:
        """Note them; a servo whose pulse is 0 stays where it is."""
        self._sink(ENTRY.pack(time.monotonic(), *pulses_us, *self._shafts_us))
        self._goals_us = tuple(pulse or shaft for pulse, shaft in zip(pulses_us, self._shafts_us, strict=True))

    def step(self, duration_s: float) -> None:
        """First-order lag; near the table, or with a block in them, the fingers stop at the block."""
        self.now_s += duration_s
        part = 0.0 if self.stalled else 1.0 - math.exp(-duration_s / robot.SERVO_LAG_S)
        moved = [shaft + part * (goal - shaft) for goal, shaft in zip(self._goals_us, self._shafts_us, strict=True)]
        if self.block and (self._holds or self._tool[2, 3] < BLOCK_M):
            moved[5] = min(moved[5], HOLDING_US)  # a longer pulse closes them
        self._shafts_us = tuple(moved)

    def servos_us(self) -> PulsesUs:
        """Where the shafts are."""
        return self._shafts_us

    def depth_frame(self) -> tuple[Float32, Intrinsics]:
        """Table and block; a block that is held moves along."""
        lens = self.renderer.intrinsics
        if self.blank:
            self._depth_m = np.zeros((lens.height, lens.width), np.float32)
            return self._depth_m, lens
        if self._holds:
            self._block_in_table_m = tuple(self._tool[:3, 3])
        self._depth_m = depth_m = self.renderer.render(self._tool, self.drawn())
        noise_m = self._random.normal(0.0, NOISE_M, depth_m.shape).astype(np.float32)
        return np.where(depth_m > 0.0, depth_m + noise_m, depth_m), lens

    def grey_image(self) -> Grey:
        """That of the last depth image: with a marker on the block, and one on the table."""
        if self._grey is None:
            import cv2  # which few rows ask for

            from trainer.grey import GreyCamera

            cv2.setNumThreads(1)  # pulses must not wait for other threads
            self._grey = GreyCamera(self, BlockConfig(), self._random)
        return self._grey.image(self._depth_m)

    @property
    def renderer(self) -> DepthRenderer:
        """Of the camera that there is."""
        return self._wide if self.wide else self._narrow

    def drawn(self) -> list[tuple[int, Float64, Float64]]:
        """The block."""
        block_to_table = np.eye(4)
        block_to_table[:3, 3] = self._block_in_table_m
        return [(BOX, np.full(3, BLOCK_M / 2.0), block_to_table)] if self.block else []

    def transform_camera_to_table(self) -> Float64:
        """(4, 4) pose of the camera."""
        return self._tool @ self.renderer.transform_camera_to_tool

    @property
    def _holds(self) -> bool:
        return self._shafts_us[5] > HOLDING_US - 1.0

    @property
    def _tool(self) -> Float64:
        return kinematics.transform_tool_to_table(command_from_pulses(self._shafts_us, SERVOS), MOUNT)


def main() -> None:
    """Serve until stdin ends."""
    file = Path(sys.argv[1]).open("ab", buffering=0)  # noqa: SIM115  (open as long as it serves)
    world, stop = BenchWorld(file.write), threading.Event()
    world.depth_frame()  # compiles the renderer
    server = SimulatorServer(world)
    thread = threading.Thread(target=server.serve, args=(stop,))
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(PRIORITY))
    thread.start()
    print(server.port, flush=True)
    for line in sys.stdin:
        name, _, value = line.strip().partition(" ")
        if value:
            setattr(world, name, json.loads(value))
        else:
            world.reset()
        print("done", flush=True)
    stop.set()
    thread.join()


if __name__ == "__main__":
    main()
