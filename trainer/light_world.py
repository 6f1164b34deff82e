"""A simulated desk that costs little: servos that lag, a camera that sees table, block and fingers, which hold what they close on.

Its camera is that of `trainer.desk`: the policy's, and exact, or for a policy that looks for markers a D405 in the same place.

No physics: what a soak of a simulated day is after is the runtime's work, not the world's. `trainer.desk` has physics.
As a program it serves such a desk until its standard input ends: python -m trainer.light_world POLICY SEED
"""

import math
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from edge import kinematics
from edge.buses.servos import command_from_pulses, pulses_us
from edge.config import BlockConfig, BusConfig
from edge.contract import Contract
from edge.errors import BusError, MissingExtraError
from edge.kinematics import Mount
from edge.messages import Float32, Float64, Frame, Grey, Intrinsics, JointCommand
from edge.robot import PARK_RAD, TIP_ADVANCE_M, TIP_ADVANCE_OPENING_M
from edge.simulated.simulator import SimulatorLink
from edge.simulated.wire import PulsesUs
from trainer.depth_camera import spoil
from trainer.render import BOX, DepthRenderer, Shape
from trainer.sensors import wrist_for
from trainer.servo_model import ServoModel, ServoQuirks

GRIP_M = 0.012  # a block whose centre is further from the tool's axis is not caught: fingers open 15 mm to each side of it
FEED_HEIGHT_M = 0.08  # a person puts a new block down while the open gripper is higher than this
SLIPS = 0.02  # share of the blocks that are caught and then slip out, half a second later
SLIP_AFTER_S = 0.5
SLACK_M = 0.001  # one count of a PCA9685 is 1 mm of opening
FINGER_M = (0.006, 0.0075, 0.03)  # half edges of a box about what urdf/dofbot.urdf has for a finger
STILL_RAD = 1e-6  # joints that moved less show the camera the same
FRAME_HZ = 25.0


class LightDesk:
    """`trainer.server.World` without physics; begins parked. `caught` counts the blocks that were lifted. One thread uses it."""

    frame_rate_hz = FRAME_HZ
    table_m = 0.0  # height of the table's top

    def __init__(self, contract: Contract, seed: int) -> None:
        self.now_s = 0.0
        self.caught = 0
        self._episode, wrist = contract.episode, wrist_for(contract)
        camera = contract.camera if wrist is None else wrist.camera
        self._faults = None if wrist is None else wrist.faults
        self._mount = Mount(contract.robot.base_height_m, contract.robot.inverted)
        self._rng = np.random.default_rng(seed)
        self._noise = np.random.default_rng((seed, 1))  # takes nothing from `_rng`: the blocks do not depend on the camera
        self._servos = BusConfig().servos
        self._model = ServoModel()
        self._model.reset(JointCommand._make((*PARK_RAD, self._episode.open_m)), ServoQuirks())
        self._pulses_us = pulses_us(self._model.joints(), self._servos)
        self.renderer = DepthRenderer(camera.intrinsics, np.array(camera.transform_camera_to_tool))
        self._drawn: JointCommand | None = None
        self._drawn_opening_m = -1.0
        self._true_m = self._seen_m = np.zeros((0, 0), np.float32)
        self._grey_camera: Any = None  # `trainer.grey.GreyCamera`, once it is asked for
        self._grey: Grey | None = None  # the picture that belongs to `_true_m`, once it was taken
        self._camera_to_table = self._seen_block = np.eye(4)  # when the last image was taken
        self._held: Float64 | None = None  # transform_block_to_tool
        self._slips_at_s = math.inf
        self._was_open = True
        self._feed()

    def write_pulses(self, pulses_us: PulsesUs) -> None:
        """Six pulses in microseconds; a servo whose channel is off (0) keeps its last set point, as its gears do."""
        self._pulses_us = tuple(new or last for new, last in zip(pulses_us, self._pulses_us, strict=True))
        self._model.drive(command_from_pulses(self._pulses_us, self._servos))

    def step(self, duration_s: float) -> None:
        """Let time pass."""
        self._model.step(duration_s)
        self.now_s += duration_s
        joints, episode = self._model.joints(), self._episode
        is_open = joints.opening_m > episode.block_size_m + SLACK_M
        if self._held is not None and (is_open or self.now_s >= self._slips_at_s):
            self._let_go(joints)
        elif self._was_open and not is_open:
            self._close_on_block(joints)
        elif is_open and self._used and kinematics.tool_height_m(joints, self._mount) > FEED_HEIGHT_M:
            self._feed()
        self._was_open = is_open

    def depth_frame(self) -> tuple[Float32, Intrinsics]:
        """(height, width) float32 metres as the wrist camera sees them."""
        joints = self._model.joints()
        moved = self._drawn is None or max(abs(a - b) for a, b in zip(joints, self._drawn, strict=True)) > STILL_RAD
        if moved:
            self._true_m, self._drawn, self._grey = self._draw(joints), joints, None
            faults, focal_px = self._faults, self.renderer.intrinsics.fx
            self._seen_m = self._true_m if faults is None else spoil(self._true_m, faults, focal_px, self._noise)
        return self._seen_m, self.renderer.intrinsics

    def grey_image(self) -> Grey:
        """(height, width) grey, of the same moment as the last depth image: the block has a marker on top (`trainer.grey`)."""
        if self._grey_camera is None:
            from trainer.grey import GreyCamera  # which takes OpenCV, and few ask for it

            self._grey_camera = GreyCamera(self, BlockConfig(), self._noise)
        if self._grey is None:
            self._grey = self._grey_camera.image(self._true_m)
        return self._grey

    def transform_camera_to_table(self) -> Float64:
        """(4, 4) pose of the wrist camera when the last image was taken."""
        return self._camera_to_table

    def drawn(self) -> list[tuple[int, Float64, Float64]]:
        """(kind, half size, transform_block_to_table) of the block in the last image."""
        return [(BOX, np.full(3, self._episode.block_size_m / 2.0), self._seen_block)]

    def servos_us(self) -> PulsesUs:
        """The pulse that would hold each servo where it is: of a gripper on a block, the block's."""
        joints = self._model.joints()
        if self._held is not None:
            joints = joints._replace(opening_m=max(joints.opening_m, self._episode.block_size_m))
        return cast(PulsesUs, pulses_us(joints, self._servos))

    def _draw(self, joints: JointCommand) -> Float32:
        if abs(joints.opening_m - self._drawn_opening_m) > SLACK_M / 5.0:
            self.renderer.see_own_parts(_fingers(joints.opening_m))
            self._drawn_opening_m = joints.opening_m
        tool = kinematics.transform_tool_to_table(joints, self._mount)
        self._seen_block = self._block if self._held is None else tool @ self._held
        self._camera_to_table = tool @ self.renderer.transform_camera_to_tool
        return self.renderer.render(tool, self.drawn())

    def _feed(self) -> None:
        """Put a new block down, anywhere in the spawn area."""
        low, high, turn_rad = self._episode.spawn_min_in_table_m, self._episode.spawn_max_in_table_m, self._episode.spawn_yaw_rad
        x_m, y_m = (self._rng.uniform(a, b) for a, b in zip(low, high, strict=True))
        self._lay_down(x_m, y_m, self._rng.uniform(-turn_rad, turn_rad))
        self._used = False

    def _lay_down(self, x_m: float, y_m: float, yaw_rad: float) -> None:
        self._block = np.eye(4)
        self._block[:2, :2] = ((math.cos(yaw_rad), -math.sin(yaw_rad)), (math.sin(yaw_rad), math.cos(yaw_rad)))
        self._block[:3, 3] = x_m, y_m, self._episode.block_size_m / 2.0
        self._drawn = None

    def _close_on_block(self, joints: JointCommand) -> None:
        self._used = True
        tool = kinematics.transform_tool_to_table(joints, self._mount)
        x_m, y_m, z_m = self._block[:3, 3] - tool[:3, 3]
        if math.hypot(x_m, y_m) > GRIP_M or abs(z_m) > self._episode.block_size_m / 2.0:
            return
        self.caught += 1
        self._held = np.linalg.inv(tool) @ self._block
        self._held[:3, :3] = np.diag((1.0, -1.0, -1.0))  # pads turn it square: the tool's z points down, the block's up
        self._held[:2, 3] = 0.0  # and centre it
        self._slips_at_s = self.now_s + SLIP_AFTER_S if self._rng.random() < SLIPS else math.inf

    def _let_go(self, joints: JointCommand) -> None:
        tool = kinematics.tool_pose(joints, self._mount)
        self._held = None
        self._lay_down(tool.x_m, tool.y_m, 0.0)


class DirectLink(SimulatorLink):
    """The simulator's link on the virtual clock, to a desk in this process: no socket, and images are drawn when they are looked at.

    With `image` frames have their grey image.
    """

    def __init__(self, desk: LightDesk, image: bool = False) -> None:
        self.clock, self.port, self.now_s = "virtual", 0, 0.0
        self._desk = desk
        self._image = image
        self._frames = 0  # taken so far: the next one is due at _frames / FRAME_HZ
        self._latest: Frame | None = None
        self._is_shown = True

    @property
    def servos_us(self) -> PulsesUs:  # type: ignore[override]
        """As the newest frame would have them."""
        return self._desk.servos_us()

    def write_pulses(self, pulses_us: Sequence[float]) -> None:
        """To the desk."""
        if not all(0.0 <= pulse < math.inf for pulse in pulses_us):
            raise BusError(f"pulses are {tuple(pulses_us)} µs, expected finite ones; correct the command")
        self._desk.write_pulses(cast(PulsesUs, tuple(pulses_us)))

    def latest_frame(self) -> Frame | None:
        """The newest frame: what is in view, with the time at which it was due."""
        if not self._is_shown:
            depth_m, intrinsics = self._desk.depth_frame()
            grey = self._desk.grey_image() if self._image else None
            self._latest = Frame(depth_m, intrinsics, (self._frames - 1) / FRAME_HZ, self._frames - 1, grey)
            self._is_shown = True
        return self._latest

    def wait_for_frame(self, timeout_s: float) -> Frame | None:
        """The newest frame, at once."""
        self.advance_to(self.now_s)
        return self.latest_frame()

    def advance_to(self, now_s: float) -> None:
        """Let simulated time run."""
        if now_s > self.now_s:
            self._desk.step(now_s - self.now_s)
            self.now_s = now_s
        due = math.floor(self.now_s * FRAME_HZ + 1e-6) + 1
        if due > self._frames:
            self._frames, self._is_shown = due, False

    def close(self) -> None:
        """Nothing was opened."""


def _fingers(opening_m: float) -> list[Shape]:
    """Both, in the tool frame."""
    shapes = []
    advance_m = float(np.interp(opening_m, TIP_ADVANCE_OPENING_M, TIP_ADVANCE_M))
    for side in (-1.0, 1.0):
        transform = np.eye(4)
        transform[:3, 3] = side * (opening_m / 2.0 + FINGER_M[0]), 0.0, advance_m - FINGER_M[2]
        shapes.append(Shape(BOX, np.array(FINGER_M), transform))
    return shapes


def main() -> None:
    """Serve one desk on a free port, and say which."""
    from edge.policy import load
    from trainer.server import SimulatorServer

    policy, seed = sys.argv[1:]
    contract = load(Path(policy)).contract
    desk = LightDesk(contract, int(seed))
    desk.depth_frame()  # compiles the renderer, which must not happen while a client waits for its first frame
    if contract.variant == "xyz":
        try:
            desk.grey_image()  # and loads OpenCV
        except MissingExtraError as error:
            sys.exit(f"dofbot: {error}")
    server, stop = SimulatorServer(desk), threading.Event()
    print(server.port, flush=True)

    def end() -> None:
        sys.stdin.read()
        stop.set()

    threading.Thread(target=end, daemon=True).start()
    server.serve(stop)


if __name__ == "__main__":
    main()
