"""A simulated desk behind the servo pulses: the arm, a person who feeds it blocks, and a judge who trusts only physics.

`trainer.server` serves it to the runtime, which knows nothing of it but pulses and depth frames.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import numpy as np

from edge.buses.servos import command_from_pulses, pulses_us
from edge.config import BlockConfig, BusConfig
from edge.contract import Contract
from edge.kinematics import Mount, solve
from edge.messages import Float32, Grey, Intrinsics, JointCommand, ToolPose
from edge.robot import OPENING_MAX_M, PARK_RAD, POSITION_MAX_RAD, POSITION_MIN_RAD
from edge.simulated.wire import PulsesUs
from trainer.blocks import Block
from trainer.depth_camera import spoil
from trainer.sensors import Wrist, wrist_for
from trainer.world import PHYSICS_HZ, World

# A set point that has come through a PCA9685 is off by up to one count, 4.88 µs or 0.66° of a 270° servo: 11.5 mrad. Bus servos that
# take their time and start one after the other cut the corner at the start by up to 17 mrad (seen), and nobody dwells there.
# With three such joints in a row that is 6 mm at the tool, so the start is recognised joint by joint.
AT_START_RAD = 0.026
OPEN_SLACK_M = 0.001  # the same count is 0.44° of the gripper's servo: 1 mm of opening


class Result(NamedTuple):
    """What became of one block; times are the desk's."""

    x_m: float
    y_m: float
    yaw_rad: float
    picked: bool
    fed_s: float
    judged_s: float


class Desk:
    """`trainer.server.World`: takes pulses of servos wired as `edge.config` has them by default, shows the wrist's depth.

    The arm begins parked with its gripper open. A new block comes when the arm waits at the start pose and the block
    before has been touched, or the gripper closed. Picked means raised by `success_lift_m` and touched by both fingers for
    `success_hold_s` without a break; a block is missed once the gripper opens again without that. `results` holds
    the judged blocks; `watch`, if set, is called after every tick. One thread uses a desk.

    Its camera is the policy's, and exact, unless there is one of its own on the `wrist`, or the policy looks for markers, which takes more
    than 64×64 pixels: then it is a D405 in the same place.
    """

    frame_rate_hz = 25.0

    def __init__(self, contract: Contract, seed: int, wrist: Wrist | None = None) -> None:
        self.results: list[Result] = []
        self.watch: Callable[[Desk], None] | None = None
        self.block: Block | None = None  # as it was fed
        self.fed_s = 0.0
        self.world = World(contract)
        self._wrist = wrist = wrist or wrist_for(contract)
        if wrist is not None:
            self.world.camera = wrist.camera
        self._grey: Any = None  # `trainer.grey.GreyCamera`, once it is asked for
        self._noise = np.random.default_rng((seed, 1))  # takes nothing from `_rng`: the blocks do not depend on the camera
        self._episode = contract.episode
        self._servos = BusConfig().servos
        self._rng = np.random.default_rng(seed)
        self._steps = 0
        self._tick_steps = round(PHYSICS_HZ / contract.rates.tick_hz)
        mount = Mount(contract.robot.base_height_m, contract.robot.inverted)
        self._start_rad = solve(ToolPose(*self._episode.start_in_table_m, 0.0, self._episode.yaw_rad), mount)
        self._set_points = JointCommand._make((*PARK_RAD, self._episode.open_m))
        self._pulses_us = pulses_us(self._set_points, self._servos)
        self._used = self._closed = self._judged = True
        self._held_steps = 0
        self.world.reset(self._set_points, ())
        self.depth_frame()  # compiles the renderer, which must not happen while a client waits for its first frame

    @property
    def now_s(self) -> float:
        """Simulated time since the desk was set up."""
        return self._steps / PHYSICS_HZ

    def write_pulses(self, pulses_us: PulsesUs) -> None:
        """Six pulses in microseconds; a servo whose channel is off (0) keeps its last set point, as its gears do."""
        self._pulses_us = tuple(new or last for new, last in zip(pulses_us, self._pulses_us, strict=True))
        self._set_points = command_from_pulses(self._pulses_us, self._servos)
        self.world.drive(self._set_points)

    def step(self, duration_s: float) -> None:
        """Let whole physics steps of 4 ms pass, at most `duration_s`; feed and judge after each servo tick."""
        steps = int(duration_s * PHYSICS_HZ + 1e-6)  # 0.04 s must not be nine steps for being 0.0399…
        while steps > 0:
            part = min(steps, self._tick_steps)
            if self._used and self._waits_at_start():
                self._feed()
            self.world.step(part / PHYSICS_HZ)
            self._steps += part
            steps -= part
            if self.block:
                self._judge(self.block, part)
            if self.watch:
                self.watch(self)

    def depth_frame(self) -> tuple[Float32, Intrinsics]:
        """(height, width) float32 metres as the wrist camera sees them, 0 = invalid."""
        self._depth_m, lens = self.world.depth(), self.world.camera.intrinsics
        return (self._depth_m if self._wrist is None else spoil(self._depth_m, self._wrist.faults, lens.fx, self._noise)), lens

    def grey_image(self) -> Grey:
        """(height, width) grey, of the same moment as the last depth image: the block has a marker on top (`trainer.grey`)."""
        if self._grey is None:
            from trainer.grey import GreyCamera  # which takes OpenCV, and few ask for it

            self._grey = GreyCamera(self.world, BlockConfig(), self._noise)
        return self._grey.image(self._depth_m)

    def servos_us(self) -> PulsesUs:
        """The pulse that would hold each servo where the physics has it: of a gripper on a block, the block's."""
        joints = self.world.joints()
        # Contacts push a joint past its limit by a hair, where no servo goes.
        opening_m = min(max(joints.opening_m, 0.0), OPENING_MAX_M)
        joints_rad = np.clip(joints.joints_rad, POSITION_MIN_RAD, POSITION_MAX_RAD).tolist()
        return cast(PulsesUs, pulses_us(JointCommand._make((*joints_rad, opening_m)), self._servos))

    def close(self) -> None:
        """Free the physics server."""
        self.world.close()

    def _is_open(self) -> bool:
        return self._set_points.opening_m > self._episode.open_m - OPEN_SLACK_M

    def _waits_at_start(self) -> bool:
        away_rad = max(abs(a - b) for a, b in zip(self._set_points.joints_rad, self._start_rad, strict=True))
        return away_rad < AT_START_RAD and self._is_open()

    def _feed(self) -> None:
        """Take the last block away and put the next one anywhere in the spawn area, as `trainer.env` does."""
        if self.block and not self._judged:
            self._conclude(self.block, picked=False)
        low, high, turn_rad = self._episode.spawn_min_in_table_m, self._episode.spawn_max_in_table_m, self._episode.spawn_yaw_rad
        x_m, y_m = (self._rng.uniform(a, b) for a, b in zip(low, high, strict=True))
        self.block = Block(x_m, y_m, self._rng.uniform(-turn_rad, turn_rad), (self._episode.block_size_m,) * 3)
        self.world.place_blocks((self.block,))
        self.fed_s = self.now_s
        self._used = self._closed = self._judged = False
        self._held_steps = 0

    def _judge(self, block: Block, steps: int) -> None:
        """Look at the block after `steps` more physics steps."""
        touches = self.world.touches()
        is_open = self._is_open()
        self._closed |= not is_open
        self._used |= self._closed or any(touches)
        rise_m = self.world.block_in_table()[2, 3] - block.size_m[2] / 2.0
        held = all(touches) and rise_m >= self._episode.success_lift_m
        self._held_steps = self._held_steps + steps if held else 0
        if not self._judged and self._held_steps >= self._episode.success_hold_s * PHYSICS_HZ:
            self._conclude(block, picked=True)
        elif not self._judged and self._closed and is_open:
            self._conclude(block, picked=False)

    def _conclude(self, block: Block, picked: bool) -> None:
        self._judged = True
        self.results.append(Result(block.x_m, block.y_m, block.yaw_rad, picked, self.fed_s, self.now_s))
