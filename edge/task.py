"""The grasp as a pure state machine: set points sent so far + the policy's action → the next set points wanted.

    HOMING → APPROACH → GRASP → LIFT → VERIFY → PLACE → (HOMING …)        PARK from anywhere

APPROACH is the policy's: every `ticks_per_step` ticks it moves the tool by one action while the height falls by a
fixed step. All other phases follow waypoints. Training calls exactly this; nothing here reads a clock or a device.
"""

from enum import StrEnum
from math import atan2, ceil, cos, hypot, inf, isfinite, sin, sqrt
from typing import NamedTuple

from edge import kinematics, robot
from edge.contract import Contract, Episode
from edge.kinematics import Mount
from edge.messages import Float32, JointCommand, ToolPose
from edge.reach import Reach, reach

TRAVEL_SPEED_M_S = 0.10  # between waypoints; half of what the joint speed limit allows where the arm is bent
SETTLED_RAD = 1e-3  # a joint move has arrived: 1 mm at full reach is 3e-3 rad
OPENED_M = 1e-4  # the gripper is open: nothing holds it up, unlike when it closes on a block
LAG_RAD = 0.05  # two ticks of travel: further behind than this, the path waits for the arm
SPEED_SHARE = 0.95  # of the gate's speed limit that the task uses: in normal work the gate has nothing to clamp
PHASE_LIMIT_S = 10.0  # no phase takes longer, the descent's 4 s included
CLOSE_S = 0.6  # 40 mm at 0.12 m/s takes 0.33 s; the rest lets the block settle between the fingers
OPEN_S = 0.5
CLEAR_HEIGHT_M = 0.060  # HOMING and PARK rise to this before they move joint by joint, which dips by up to 25 mm on the way
RELEASE_HEIGHT_M = 0.012  # tool height when a block is put down: 2 mm above where it was grasped


class Phase(StrEnum):
    """What the arm is doing."""

    IDLE = "IDLE"
    HOMING = "HOMING"
    APPROACH = "APPROACH"
    GRASP = "GRASP"
    LIFT = "LIFT"
    VERIFY = "VERIFY"
    PLACE = "PLACE"
    PARK = "PARK"


class Waypoint(NamedTuple):
    """Travel to a tool pose with the gripper at `opening_m`, then stay for `dwell_s`."""

    pose: ToolPose
    opening_m: float
    dwell_s: float = 0.0


class TaskState(NamedTuple):
    """Everything the task remembers between ticks."""

    phase: Phase = Phase.IDLE
    elapsed: int = 0  # ticks since the phase began
    tick: int = 0  # ticks since the policy step began, or along the way to the waypoint
    step: int = 0  # policy decisions taken
    origin: ToolPose = ToolPose(0.0, 0.0, 0.0)  # where the current move began,
    goal: ToolPose = ToolPose(0.0, 0.0, 0.0)  # and where it leads
    before: ToolPose = ToolPose(0.0, 0.0, 0.0)  # where the tool was at the last decision, or when the phase began
    waypoints: tuple[Waypoint, ...] = ()


class GraspTask:
    """The numbers of one contract, the mount and the reach, and the transitions between phases."""

    def __init__(self, contract: Contract, place_in_table_m: tuple[float, float]) -> None:
        """Raises `UnreachableError` when the start or the place to put a block down is outside the arm's reach."""
        self.episode: Episode = contract.episode
        self.mount = Mount(contract.robot.base_height_m, contract.robot.inverted)
        self.tick_hz = contract.rates.tick_hz
        self.ticks_per_step = contract.rates.ticks_per_step
        self.action_scale_m = contract.action.scale_m
        self.reach: Reach = reach(self.mount, self.episode.yaw_rad)
        self.start_pose = ToolPose(*self.episode.start_in_table_m, 0.0, self.episode.yaw_rad)
        self.grasp_height_m = self.start_pose.z_m - self.episode.steps * self.episode.descent_per_step_m
        self.start = JointCommand(*kinematics.solve(self.start_pose, self.mount), self.episode.open_m)
        self.park = JointCommand._make((*robot.PARK_RAD, self.episode.open_m))
        self.place_pose = ToolPose(*place_in_table_m, RELEASE_HEIGHT_M, 0.0, self.episode.yaw_rad)
        kinematics.solve(self.place_pose, self.mount)

    def begin(self, phase: Phase, sent: JointCommand) -> TaskState:
        """The first state of a phase, from the set points that the arm has now."""
        here = self._upright(sent)
        if here.z_m < self.grasp_height_m - 1e-4:
            # Clamped commands tilted the tool down to the floor: it can only straighten while it rises.
            here = here._replace(z_m=RELEASE_HEIGHT_M)
        episode = self.episode
        closed = episode.closed_m
        lifted = self._reachable(here._replace(z_m=here.z_m + episode.lift_m))
        waypoints: tuple[Waypoint, ...] = ()
        if phase is Phase.GRASP:
            waypoints = (Waypoint(here, closed, CLOSE_S),)
        elif phase is Phase.LIFT:
            waypoints = (Waypoint(lifted, closed),)
        elif phase is Phase.VERIFY:
            waypoints = (Waypoint(here, closed, episode.success_hold_s),)
        elif phase is Phase.PLACE:
            down = self.place_pose
            over = self._reachable(down._replace(z_m=here.z_m))
            waypoints = (
                Waypoint(over, closed),
                Waypoint(down, closed),
                Waypoint(down, episode.open_m, OPEN_S),
                Waypoint(over, episode.open_m),
            )
        elif phase in (Phase.HOMING, Phase.PARK) and here.z_m < CLEAR_HEIGHT_M:
            waypoints = (Waypoint(self._reachable(here._replace(z_m=CLEAR_HEIGHT_M)), sent.opening_m),)
        return TaskState(phase, origin=here, goal=here, before=kinematics.tool_pose(sent, self.mount), waypoints=waypoints)

    def needs_action(self, state: TaskState) -> bool:
        """Whether this tick starts a policy step."""
        return state.phase is Phase.APPROACH and state.tick % self.ticks_per_step == 0

    def steps_left(self, state: TaskState) -> int:
        """Policy decisions still to come, this one included."""
        return self.episode.steps - state.step

    def finished(self, state: TaskState, sent: JointCommand) -> bool:
        """Whether the phase has done its work."""
        if state.waypoints or state.phase is Phase.IDLE:
            return False
        if state.phase is Phase.HOMING:
            return _within(sent, self.start, SETTLED_RAD) and sent.opening_m > self.start.opening_m - OPENED_M
        if state.phase is Phase.PARK:
            return _within(sent, self.park, SETTLED_RAD)
        if state.phase is Phase.APPROACH:
            return state.step == self.episode.steps and state.tick % self.ticks_per_step == 0
        return True

    def arrived_over_place(self, state: TaskState) -> bool:
        """Whether a block, if it is still held, is about to be put down."""
        return state.phase is Phase.PLACE and len(state.waypoints) == 3 and state.tick == 0

    def expired(self, state: TaskState) -> bool:
        """Whether the phase has taken longer than any phase may: something keeps the arm from arriving."""
        return state.phase is not Phase.IDLE and state.elapsed > PHASE_LIMIT_S * self.tick_hz

    def tick(self, state: TaskState, sent: JointCommand, action: Float32 | None = None) -> tuple[TaskState, JointCommand]:
        """One servo tick: the next state and the set points wanted; `action` is (2,) in [-1, 1] when `needs_action`."""
        state = state._replace(elapsed=state.elapsed + 1)
        if state.waypoints:
            return self._follow(state, sent)
        if state.phase is Phase.HOMING:
            return state, self._towards(self.start, sent)
        if state.phase is Phase.PARK:
            return state, self._towards(self.park, sent)
        if state.phase is Phase.APPROACH:
            return self._descend(state, sent, action)
        return state, sent

    def _descend(self, state: TaskState, sent: JointCommand, action: Float32 | None) -> tuple[TaskState, JointCommand]:
        """Towards one policy step's goal, in a straight line over `ticks_per_step` ticks."""
        if self.needs_action(state):
            if action is None:
                raise ValueError("APPROACH needs an action at the start of each policy step")
            goal, before = self._decide(state, sent, action), kinematics.tool_pose(sent, self.mount)
            state = state._replace(tick=0, step=state.step + 1, origin=self._upright(sent), goal=goal, before=before)
        part = (state.tick + 1) / self.ticks_per_step
        origin, goal = state.origin, state.goal
        pose = ToolPose(
            origin.x_m + part * (goal.x_m - origin.x_m),
            origin.y_m + part * (goal.y_m - origin.y_m),
            origin.z_m + part * (goal.z_m - origin.z_m),
            0.0,
            self.episode.yaw_rad,
        )
        return state._replace(tick=state.tick + 1), self._joints(self._in_workspace(pose), sent, self.episode.open_m)

    def _decide(self, state: TaskState, sent: JointCommand, action: Float32) -> ToolPose:
        """Where the tool should be after this step.

        Moves add up on the last goal, which the arm reaches without overshoot, but the goal never runs
        further ahead of what was sent than one action: a command cut by the gate is not asked for later.
        """
        move_x, move_y = float(action[0]), float(action[1])
        if not (isfinite(move_x) and isfinite(move_y)):
            raise ValueError(f"action is [{move_x}, {move_y}], expected finite numbers in [-1, 1]; hold the arm and check the policy")
        episode, scale_m = self.episode, self.action_scale_m
        here = kinematics.tool_pose(sent, self.mount)
        x_m = _clip(state.goal.x_m, here.x_m - scale_m, here.x_m + scale_m) + scale_m * _clip(move_x, -1.0, 1.0)
        y_m = _clip(state.goal.y_m, here.y_m - scale_m, here.y_m + scale_m) + scale_m * _clip(move_y, -1.0, 1.0)
        z_m = episode.start_in_table_m[2] - (state.step + 1) * episode.descent_per_step_m
        return self._in_workspace(ToolPose(x_m, y_m, z_m, 0.0, episode.yaw_rad))

    def _in_workspace(self, pose: ToolPose) -> ToolPose:
        """The pose moved into the task's workspace and the arm's reach."""
        (x_min, y_min), (x_max, y_max) = self.episode.workspace_min_in_table_m, self.episode.workspace_max_in_table_m
        reached = self._reachable(pose._replace(x_m=_clip(pose.x_m, x_min, x_max), y_m=_clip(pose.y_m, y_min, y_max)))
        if x_min <= reached.x_m <= x_max:
            return reached
        # Reach begins further out than this corner of the workspace: stay on its side.
        x_m = _clip(reached.x_m, x_min, x_max)
        return reached._replace(x_m=x_m, y_m=sqrt(reached.x_m**2 + reached.y_m**2 - x_m**2))

    def _follow(self, state: TaskState, sent: JointCommand) -> tuple[TaskState, JointCommand]:
        """Along the waypoints, in base azimuth, radius and height, so that the path keeps clear of the base."""
        waypoint = state.waypoints[0]
        length_m = _distance_m(state.origin, waypoint.pose)
        ticks = ceil(length_m * self.tick_hz / TRAVEL_SPEED_M_S)
        part = min(1.0, (state.tick + 1) / ticks) if ticks else 1.0
        pose = self._reachable(_between(state.origin, waypoint.pose, part))
        on_path = kinematics.solve(pose, self.mount, sent)
        # Steps that the gate passes from rest as well: cut axis by axis the tool would leave its path, and near the table not get going.
        from_rest_rad = SPEED_SHARE * robot.ACCELERATION_MAX_RAD_S2 / self.tick_hz**2
        wanted = self._towards(JointCommand(*on_path, waypoint.opening_m), sent, from_rest_rad)
        dwelt_s = (state.tick + 1 - ticks) / self.tick_hz
        if dwelt_s >= waypoint.dwell_s and _within(sent, on_path, SETTLED_RAD):
            return state._replace(tick=0, origin=waypoint.pose, waypoints=state.waypoints[1:]), wanted
        if part < 1.0 and not _within(sent, on_path, LAG_RAD):
            return state, wanted
        return state._replace(tick=state.tick + 1), wanted

    def _upright(self, sent: JointCommand) -> ToolPose:
        """Where the tool is, straight down: a clamped command may have left it tilted for a few ticks."""
        return self._reachable(kinematics.tool_pose(sent, self.mount)._replace(tilt_rad=0.0, yaw_rad=self.episode.yaw_rad))

    def _reachable(self, pose: ToolPose) -> ToolPose:
        """The pose moved along its radius into the arm's reach at its height."""
        radius = hypot(pose.x_m, pose.y_m)
        wanted = self.reach.clamp(radius, pose.z_m)
        if wanted == radius:
            return pose
        scale = wanted / radius if radius > 0.0 else 0.0
        return pose._replace(x_m=pose.x_m * scale, y_m=pose.y_m * scale if radius > 0.0 else wanted)

    def _joints(self, pose: ToolPose, sent: JointCommand, opening_m: float) -> JointCommand:
        return self._towards(JointCommand(*kinematics.solve(pose, self.mount, sent), opening_m), sent)

    def _towards(self, goal: JointCommand, sent: JointCommand, allowed_rad: float = inf) -> JointCommand:
        """The goal, or as far towards it as the fastest joint may turn in a tick: all slow down alike, to stay on the path."""
        largest_rad = max(abs(g - s) for g, s in zip(goal[:5], sent[:5], strict=True))
        allowed_rad = min(allowed_rad, SPEED_SHARE * robot.VELOCITY_MAX_RAD_S / self.tick_hz)
        if largest_rad <= allowed_rad:
            return goal
        part = allowed_rad / largest_rad
        return JointCommand._make((*(s + part * (g - s) for g, s in zip(goal[:5], sent[:5], strict=True)), goal.opening_m))


def _clip(value: float, low: float, high: float) -> float:
    return min(high, max(low, value))


def _within(a: JointCommand, b: tuple[float, ...], tolerance_rad: float) -> bool:
    """Whether all five joints agree; the gripper's time is a dwell, because a held block keeps it from arriving."""
    return all(abs(x - y) < tolerance_rad for x, y in zip(a[:5], b[:5], strict=True))


def _distance_m(a: ToolPose, b: ToolPose) -> float:
    """Length of the path that `_between` takes."""
    ra, rb = hypot(a.x_m, a.y_m), hypot(b.x_m, b.y_m)
    turn_rad = atan2(b.x_m, b.y_m) - atan2(a.x_m, a.y_m)
    return hypot(rb - ra, 0.5 * (ra + rb) * turn_rad, b.z_m - a.z_m)


def _between(a: ToolPose, b: ToolPose, part: float) -> ToolPose:
    """The pose a part of the way from a to b, linear in azimuth about the base, radius and height."""
    ra, rb = hypot(a.x_m, a.y_m), hypot(b.x_m, b.y_m)
    azimuth_a, azimuth_b = atan2(a.x_m, a.y_m), atan2(b.x_m, b.y_m)
    azimuth, radius = azimuth_a + part * (azimuth_b - azimuth_a), ra + part * (rb - ra)
    return ToolPose(radius * sin(azimuth), radius * cos(azimuth), a.z_m + part * (b.z_m - a.z_m), b.tilt_rad, b.yaw_rad)
