"""`DofbotGrasp-v0`: centre the gripper over a block while it descends; the arm then closes, lifts and holds by itself.

The environment steps exactly what runs on the robot: `edge.observation`, `edge.task`, `edge.kinematics` and
`edge.safety`. Only the world below the servos is simulated.
"""

from collections import deque
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from edge import kinematics, observation
from edge.cameras.virtual_camera import Reprojection
from edge.contract import BlockInput, Contract, DepthInput
from edge.messages import Float32, Float64, Frame, JointCommand
from edge.safety import DOFBOT_LIMITS, gate, resting
from edge.task import GraspTask, Phase
from trainer import spec
from trainer.depth_camera import NO_FAULTS, spoil
from trainer.randomise import MAX_LATENCY_TICKS, Draw, Scene, draw_scene
from trainer.world import World

# Dense reward: what a step brings the tool nearer to the block. It is not taken back at the end as potential-based
# shaping (Ng, Harada & Russell 1999) would: being centred is worth something itself, because it leaves margin.
SHAPING_PER_M = 50.0  # 20 mm nearer is worth one grasp; at 20 the tool stays 4 mm off, at 50 it is 1.4 mm
# Staying away costs as well, step by step, and so does moving: with shaping alone, swinging about the block was free.
DISTANCE_PER_M = 20.0
EFFORT = 0.05  # of an action of 1 on one axis, squared: as much as 2.5 mm of distance
PRIVILEGED_FIELDS = (
    "block_x_rel",
    "block_y_rel",
    "block_sin4yaw",
    "block_cos4yaw",
    "tool_x",
    "tool_y",
    "tool_z",
    "steps_left",
    "block_size",
    "ahead_x",  # of the arm by the set points: what lag keeps back
    "ahead_y",
    "servo_lag",
    "image_latency",
    "friction",
)
# Why a grasp failed: the block was 'pushed' before the fingers closed; it was between them but 'slipped'; the tool was
# still on its way, 'late'; or it was elsewhere, 'missed'.
PUSHED_M = 0.005
LATE_STEPS, LATE_M = 10, 0.005  # so much nearer in so many last steps
_PLACE_IN_TABLE_M = (-0.12, 0.06)  # where the runtime puts blocks down by default; an episode ends before that


class DofbotGrasp(gym.Env[dict[str, Any], np.ndarray]):
    """Observation: `depth` (1, 64, 64) float32 in [0, 1], `proprio` (6,) float32; action: (2,) in [-1, 1], ±10 mm in x and y.

    With a contract of variant 'xyz' there is `block` (3,) float32 instead of `depth`: its centre in metres, in the table frame.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 25}

    def __init__(
        self,
        contract: Contract | None = None,
        reward: Literal["dense", "sparse"] = "dense",
        randomisation: float = 0.0,
        render_mode: str | None = None,
    ) -> None:
        self.contract = contract or spec.contract()
        self.reward = reward
        self.randomisation = randomisation  # strength 0…1 of everything in `trainer.randomise`
        self.render_mode = render_mode
        self.draw: Draw | None = None  # an evaluation suite's scenes instead
        self.spawn_fraction = 1.0  # curriculum: part of the spawn area's y extent in use
        self.task = GraspTask(self.contract, _PLACE_IN_TABLE_M)
        self.world = World(self.contract)
        self.reprojection: Reprojection | None = None  # of another camera on the wrist, `world.camera`, into the policy's
        self._tick_s = 1.0 / self.contract.rates.tick_hz
        self._sight = sight = self.contract.sight
        shape = sight.tensor_shape[1:]
        self.observation_space = spaces.Dict(
            {
                sight.field: spaces.Box(np.broadcast_to(sight.low, shape), np.broadcast_to(sight.high, shape), shape, np.float32),
                "proprio": spaces.Box(-1.0, np.array([1.0, 1.0, 1.0, self.contract.episode.steps, 1.0, 1.0], np.float32), (6,), np.float32),
            }
        )
        self.action_space = spaces.Box(-1.0, 1.0, (len(self.contract.action.fields),), np.float32)
        self._joints: deque[JointCommand] = deque(maxlen=1 + MAX_LATENCY_TICKS)  # where the arm was, tick by tick,
        self._places_m: deque[Float64] = deque(maxlen=1 + MAX_LATENCY_TICKS)  # and the block's centre

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """A new scene; `options={"scene": Scene(...)}` sets everything."""
        super().reset(seed=seed)
        self.scene: Scene = (options or {}).get("scene") or self._draw()
        self.world.reset(self.task.start, self.scene.blocks, self.scene.quirks)
        self._gate = resting(self.task.start)
        self._state = self.task.begin(Phase.APPROACH, self.task.start)
        self._joints.extend([self.world.joints()] * (1 + MAX_LATENCY_TICKS))
        self._places_m.extend([self._place_m()] * (1 + MAX_LATENCY_TICKS))
        self._image: Float32 | None = None
        self._distances_m = deque([self.distance_m()], maxlen=LATE_STEPS)
        return self._observe(), {}

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """One policy step; the last one goes on to close, lift and hold before it returns."""
        before_m = self.distance_m()
        for _ in range(self.contract.rates.ticks_per_step):
            self._tick(action)
        after_m = self.distance_m()
        terminated = self.task.finished(self._state, self.sent)
        self._distances_m.append(after_m)
        info: dict[str, Any] = self._outcome() if terminated else {}
        shaping = self._shaping(before_m, after_m, action) if self.reward == "dense" else 0.0
        return self._observe(), shaping + float(info.get("is_success", 0.0)), terminated, False, info

    @staticmethod
    def _shaping(before_m: float, after_m: float, action: np.ndarray) -> float:
        effort = float(np.square(np.clip(action, -1.0, 1.0)).sum())
        return SHAPING_PER_M * (before_m - after_m) - DISTANCE_PER_M * after_m - EFFORT * effort

    @property
    def sent(self) -> JointCommand:
        """The set points that the servos have now."""
        return self._gate.position

    def distance_m(self) -> float:
        """Horizontal distance between the tool centre, where it really is, and the block's centre."""
        return float(np.hypot(*self._offset_m()))

    def _offset_m(self) -> Float64:
        """(2,) x and y from the tool centre to the block's centre."""
        tool = kinematics.tool_pose(self.world.joints(), self.task.mount)
        offset_m: Float64 = self.world.block_in_table()[:2, 3] - (tool.x_m, tool.y_m)
        return offset_m

    def privileged(self) -> Float32:
        """(14,) float32 of `PRIVILEGED_FIELDS`, scaled to about ±1: what a critic may know and the robot may not."""
        tool = kinematics.tool_pose(self.world.joints(), self.task.mount)
        sent, quirks = kinematics.tool_pose(self.sent, self.task.mount), self.scene.quirks
        x_m, y_m = self._offset_m()
        block = self.world.block_in_table()
        yaw4 = 4.0 * np.arctan2(block[1, 0], block[0, 0])  # a square looks the same after a quarter turn
        steps_left = self.task.steps_left(self._state) / self.contract.episode.steps
        size = (self.scene.blocks[0].size_m[0] - 0.03) / 0.01
        scaled = (x_m / 0.05, y_m / 0.05, np.sin(yaw4), np.cos(yaw4))
        tool_scaled = (tool.x_m / 0.05, (tool.y_m - 0.12) / 0.05, (tool.z_m - 0.06) / 0.05)
        ahead = ((sent.x_m - tool.x_m) / 0.01, (sent.y_m - tool.y_m) / 0.01)
        desk = ((quirks.servos.lag_s - 0.06) / 0.04, self.scene.latency_ticks - 1.0, (self.scene.blocks[0].friction - 0.85) / 0.35)
        return np.array([*scaled, *tool_scaled, 2.0 * steps_left - 1.0, size, *ahead, *desk], dtype=np.float32)

    def expert_action(self) -> Float32:
        """(2,) what a controller does that knows where the block is: straight towards it, at most one action's length."""
        move = 0.5 * self._offset_m() / self.contract.action.scale_m
        return (move / max(1.0, float(np.max(np.abs(move))))).astype(np.float32)

    def render(self) -> np.ndarray:
        """(384, 480, 3) uint8 picture of the desk."""
        return self.world.picture(480, 384, (0.45, 0.5, 0.35), (0.0, 0.08, 0.15))

    def close(self) -> None:
        """Free the world."""
        self.world.close()

    def _tick(self, action: np.ndarray | None) -> None:
        """One servo tick: task → gate → world, as the runtime does it."""
        self._state, wanted = self.task.tick(self._state, self.sent, action)
        self._gate = gate(self._gate, wanted, DOFBOT_LIMITS, self._tick_s, self._tool_in_table_m).state
        self.world.drive(self.sent)
        self.world.step(self._tick_s)
        self._joints.append(self.world.joints())
        if self.contract.block is not None:
            self._places_m.append(self._place_m())

    def _tool_in_table_m(self, command: JointCommand) -> tuple[float, float, float]:
        return kinematics.tool_in_table_m(command, self.task.mount)

    def _draw(self) -> Scene:
        if self.draw is not None:
            return self.draw(self.np_random, self.contract.episode)
        return draw_scene(self.np_random, self.contract.episode, self.randomisation, self.spawn_fraction)

    def _outcome(self) -> dict[str, Any]:
        """Close, lift and hold; whether it worked, how far off the tool was, and if not, why not."""
        miss_m, block, spawned = self._distances_m[-1], self.world.block_in_table(), self.scene.blocks[0]
        pushed_m = float(np.hypot(block[0, 3] - spawned.x_m, block[1, 3] - spawned.y_m))
        is_success = self._grasp()
        if is_success:
            cause = ""
        elif pushed_m > PUSHED_M:
            cause = "pushed"
        elif miss_m < (self.contract.episode.open_m - spawned.size_m[0]) / 2.0:
            cause = "slipped"
        else:
            cause = "late" if self._distances_m[0] - miss_m > LATE_M else "missed"
        return {"is_success": is_success, "miss_m": miss_m, "cause": cause}

    def _grasp(self) -> bool:
        """Close, lift, hold: whether the block was up, and touched by both fingers, during the whole of the hold."""
        for phase in (Phase.GRASP, Phase.LIFT):
            self._state = self.task.begin(phase, self.sent)
            while not self.task.finished(self._state, self.sent):
                if self.task.expired(self._state):
                    return False
                self._tick(None)
        self._state = self.task.begin(Phase.VERIFY, self.sent)
        while self._held():
            if self.task.finished(self._state, self.sent):
                return True
            self._tick(None)
        return False

    def _held(self) -> bool:
        """Whether a block is up, and between both fingers."""
        ground_m, rise_m = self.scene.quirks.table_m, self.contract.episode.success_lift_m
        return any(
            self.world.block_in_table(index)[2, 3] - ground_m - block.size_m[2] / 2.0 >= rise_m and all(self.world.touches(index))
            for index, block in enumerate(self.scene.blocks)
        )

    def _observe(self) -> dict[str, np.ndarray]:
        tool = kinematics.tool_pose(self.sent, self.task.mount)
        seen = self._see().reshape(self._sight.tensor_shape[1:])
        return {self._sight.field: seen, "proprio": observation.proprio_input(tool, self._state.before, self.task.steps_left(self._state))}

    def _see(self) -> Float32:
        """The image or the block's position that the policy gets: a little old, not quite true, sometimes the last one again."""
        share, wanted = self.scene.repeat_share, self._sight.wanted
        if self._image is None or share == 0.0 or self.np_random.random() >= share:
            self._image = self._locate(wanted) if isinstance(wanted, BlockInput) else self._look(wanted)
        return self._image

    def _look(self, wanted: DepthInput) -> Float32:
        """The image of the camera on the wrist."""
        scene, lens = self.scene, self.world.camera.intrinsics
        depth_m = self.world.depth(self._joints[-1 - scene.latency_ticks])
        if scene.faults != NO_FAULTS:
            depth_m = spoil(depth_m, scene.faults, lens.fx, self.np_random)
        frame = Frame(depth_m, lens, self.world.now_s, self._state.step)
        if self.reprojection is not None:
            frame = self.reprojection(frame)
        return observation.depth_input(frame, wanted, self.contract.camera.intrinsics)

    def _locate(self, wanted: BlockInput) -> Float32:
        """Where the marker on the block is seen."""
        scene = self.scene
        place_m = self._places_m[-1 - scene.latency_ticks] + scene.marker_bias_m
        if scene.marker_noise_m > 0.0:
            place_m = place_m + scene.marker_noise_m * self.np_random.standard_normal(3)
        # A block that jumped out of closing fingers may lie anywhere; by then nothing hangs on it.
        return observation.block_input(np.clip(place_m, wanted.min_in_table_m, wanted.max_in_table_m), wanted)

    def _place_m(self) -> Float64:
        """(3,) the block's centre in the table frame."""
        return self.world.block_in_table()[:3, 3]


gym.register(id="DofbotGrasp-v0", entry_point="trainer.env:DofbotGrasp", disable_env_checker=True)
