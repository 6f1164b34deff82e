"""The one gate: every joint command passes here, in training and on the robot, and leaves it safe to send.

Promise, for any floats that come in: no command holds NaN or inf, leaves the position limits, moves faster than
`velocity_max` or changes speed by more than `acceleration_max · dt_s` (to within 1e-9), or takes the tool centre out of
a box over the table. Clamping is never silent.

An axis is a follower in discrete time: it steps by `step`, and `step` changes by at most `ramp = acceleration_max · dt_s²`
from tick to tick. So after a step s it needs (s - ramp) + (s - 2·ramp) + … more to come to rest, and the longest step
that still stops within some room is `_stoppable`. Keeping every step below it makes the promise hold for ever after.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

from msgspec import Struct

from edge import robot
from edge.errors import BusError, ConfigError
from edge.messages import JointCommand

Axes = tuple[float, ...]  # six: joint1…joint5 in rad, gripper in m (or per second, per second²)
Point = tuple[float, float, float]  # x, y, z in m, table frame
ToolInTable = Callable[[JointCommand], Point]  # the tool centre of a command: pure, finite for finite set points

# A step this close to the wanted one (as a share of `ramp`) is the wanted one: rounding must not break exact following.
# It may add 1e-10 · acceleration_max · dt_s to a change of speed, far below the promised 1e-9.
SLACK = 1e-10

# Numbers past these are mistakes, and some would overflow or divide by zero below. A servo turns 300° at most (DS).
PLAUSIBLE_RAD = 2.0 * math.pi
RATE_MIN, RATE_MAX = 1e-3, 1e4  # of velocity and acceleration limits, in the units of `Axes`
TICK_MIN_S, TICK_MAX_S = 1e-3, 0.1  # a servo takes 50 pulses a second; at 10 Hz a tick at full speed is 14° unseen

POSITION, VELOCITY, ACCELERATION = (
    tuple(f"{name} {what}" for name in robot.JOINT_NAMES) for what in ("position", "velocity", "acceleration")
)
TOOL = ("tool x", "tool y", "tool z")


class Limits(Struct, frozen=True, forbid_unknown_fields=True):
    """What the gate lets through; raises `ConfigError` for numbers that would switch a limit off."""

    position_min: Axes
    position_max: Axes
    velocity_max: Axes
    acceleration_max: Axes
    tool_min_in_table_m: Point  # the tool centre stays inside this box,
    tool_max_in_table_m: Point  # its lowest height over the table included

    def __post_init__(self) -> None:
        """Refuse NaN, empty ranges, and rates that no servo has."""
        rows = zip(robot.JOINT_NAMES, self.position_min, self.position_max, self.velocity_max, self.acceleration_max, strict=True)
        for name, low, high, velocity, acceleration in rows:
            rates = RATE_MIN <= velocity <= RATE_MAX and RATE_MIN <= acceleration <= RATE_MAX
            if not (-PLAUSIBLE_RAD <= low < high <= PLAUSIBLE_RAD and rates):
                found = f"position {low}…{high}, velocity {velocity}, acceleration {acceleration}"
                raise ConfigError(
                    f"limits of {name} are {found}; expected min < max within ±2π, the rest {RATE_MIN}…{RATE_MAX}; correct them"
                )
        for name, low, high in zip(TOOL, self.tool_min_in_table_m, self.tool_max_in_table_m, strict=True):
            if not -math.inf < low < high < math.inf:
                raise ConfigError(f"limits of {name} are {low}…{high} m; expected finite numbers, min < max; correct them")


DOFBOT_LIMITS = Limits(
    # The servos turn further than the brackets allow; a gripper that is shut cannot close more.
    position_min=(*robot.POSITION_MIN_RAD, 0.0),
    position_max=(*robot.POSITION_MAX_RAD, robot.OPENING_MAX_M),
    # What a servo can follow under load: a set point that runs ahead of it is not where the arm is.
    velocity_max=(*(robot.VELOCITY_MAX_RAD_S,) * 5, robot.OPENING_VELOCITY_MAX_M_S),
    # Jerked servos draw stall current, which browns out the supply, and swing the camera.
    acceleration_max=(*(robot.ACCELERATION_MAX_RAD_S2,) * 5, robot.OPENING_ACCELERATION_MAX_M_S2),
    # This arm in both mounts, on every way between park, home and all places in front of it, keeps its tool within
    # ±0.203 in x, 0…0.252 in y and 0.358 in z (tests/edge/test_safety.py); 20 mm more than that, and no further:
    # left and right of it people sit, behind it (y < 0) stands what carries it, above hangs the plate it is bolted to.
    # Below: tips that close on nothing advance this far past the tool centre; at this height they just miss the table.
    tool_min_in_table_m=(-0.225, -0.020, robot.TIP_ADVANCE_M[0]),
    tool_max_in_table_m=(0.225, 0.275, 0.380),
)


class GateState(NamedTuple):
    """What was last sent, how fast that was moving, and which axes keep up with what was wanted of them."""

    position: JointCommand
    velocity: Axes
    tracking: tuple[bool, ...] = (True,) * 6  # False: the last command fell short of the wanted one by more than `ramp`


class Passed(NamedTuple):
    """A command that may be sent, the state after sending it, and why it is not the wanted one; no reasons: it is."""

    command: JointCommand
    state: GateState
    reasons: tuple[str, ...]


def resting(command: JointCommand) -> GateState:
    """The state before the first tick, and after any tick that was not sent (a pause, a lost bus): at rest in the last known pose.

    The pose may lie outside the limits. Raises `BusError` if no servo can be there: then no pose is known.
    """
    if not all(abs(set_point) <= PLAUSIBLE_RAD for set_point in command):  # false for NaN
        raise BusError(f"last known pose is {tuple(command)}, expected six set points within ±2π; read the servos again before moving")
    return GateState(JointCommand(*map(float, command)), (0.0,) * 6)


def gate(state: GateState, wanted: JointCommand, limits: Limits, dt_s: float, tool_in_table_m: ToolInTable) -> Passed:
    """Return the command nearest to `wanted` that is safe to send after `state`; pure, and never raises for any `wanted`.

    `dt_s` is the nominal tick, the same for all ticks since `resting`; raises `ConfigError` where it is none. Rules, per axis:

    * Tracking: a step that velocity, acceleration and stopping before the position limit allow is passed bit for bit,
      so a moving target is followed without lag. One that they do not allow is followed as closely as they do.
    * Chasing: after a tick that fell short of the target by more than `ramp`, the axis moves as fast as it can still stop
      *at* the target, and so never overshoots one that stands still. A target that keeps moving faster than
      2 · acceleration_max · dt_s (with `DOFBOT_LIMITS` at 50 Hz: none, that is full speed) is then trailed by at most
      velocity² / (2 · acceleration_max) until it slows down.
    * An axis found outside its limits may stay or come back, never go further.
    * If no such step exists (only in a state that `gate` did not make), position wins over velocity over acceleration.

    The whole command is replaced by braking, on every axis, when any field of `wanted` is not finite ("not finite"), or when
    it would take the tool centre out of its box ("tool x", "tool y", "tool z"): neither the command nor the pose in which the
    arm would come to rest, if it braked from then on, may lie beyond a side of the box, unless it is nearer to that side than
    it was before, and the latter nearer than the former. So braking ends inside, and at `DOFBOT_LIMITS` and 50 Hz, where it
    takes one tick, no command leaves the box, and a tool found outside only ever comes nearer. Were braking to take more, axes
    would stop one after the other, and the tool centre could dip on the way: a search over states of this arm with 24 rad/s²
    (four ticks) found 5.2 mm.
    """
    if not TICK_MIN_S <= dt_s <= TICK_MAX_S:
        raise ConfigError(f"the gate's tick is {dt_s} s, expected {TICK_MIN_S}…{TICK_MAX_S} s; correct the tick rate")
    if not all(map(math.isfinite, wanted)):
        return _brake(state, limits, dt_s, "not finite")
    passed = _follow(state, wanted, limits, dt_s)
    rest, tool = _rest(passed.state, limits, dt_s), tool_in_table_m(passed.command)
    tool_at_rest = tool if rest == passed.command else tool_in_table_m(rest)
    if _inside(tool, limits) and _inside(tool_at_rest, limits):
        return passed
    barred = _barred(tool, tool_in_table_m(state.position), limits)
    barred = barred or _barred(tool_at_rest, tool_in_table_m(_rest(state, limits, dt_s)), limits)
    if rest != passed.command:
        barred = barred or _barred(tool_at_rest, tool, limits)
    if not barred:
        return passed
    braked = _brake(state, limits, dt_s, barred)
    return passed if braked.command == passed.command else braked


def _inside(tool: Point, limits: Limits) -> bool:
    """Whether the tool centre is in its box; NaN is not."""
    x, y, z = tool
    (x_min, y_min, z_min), (x_max, y_max, z_max) = limits.tool_min_in_table_m, limits.tool_max_in_table_m
    return x_min <= x <= x_max and y_min <= y <= y_max and z_min <= z <= z_max


def _barred(tool: Point, before: Point, limits: Limits) -> str:
    """The first coordinate on which the tool would be outside its box without coming nearer to it; empty: there is none."""
    sides = zip(TOOL, tool, before, limits.tool_min_in_table_m, limits.tool_max_in_table_m, strict=True)
    for name, now, then, low, high in sides:
        excess = max(low - now, now - high)
        if not (excess <= 0.0 or excess < max(low - then, then - high)):  # not: NaN is outside
            return name
    return ""


def _follow(state: GateState, wanted: JointCommand, limits: Limits, dt_s: float) -> Passed:
    """Move every axis toward a finite `wanted` as its limits allow."""
    positions, velocities, tracking, reasons = [], [], [], []
    reach = zip(limits.position_min, limits.position_max, limits.velocity_max, limits.acceleration_max, strict=True)
    axes = zip(range(6), map(float, wanted), *state, reach, strict=True)  # float: numpy's would round and warn on their own
    for axis, goal, position, velocity, tracked, (low, high, velocity_max, acceleration_max) in axes:
        top, ramp = velocity_max * dt_s, acceleration_max * dt_s * dt_s
        low, high = min(low, position), max(high, position)
        target = min(max(goal, low), high)
        gap = target - position
        asked = gap if tracked else math.copysign(_stoppable(abs(gap), top, ramp), gap)
        step = _allowed(asked, velocity * dt_s, top, ramp, high - position, position - low)
        reached = abs(step - gap) <= SLACK * ramp
        sent = target if reached else min(max(position + step, low), high)
        if target != goal:
            reasons.append(POSITION[axis])
        elif not reached:
            reasons.append(VELOCITY[axis] if abs(gap) > top else ACCELERATION[axis])
        positions.append(sent)
        velocities.append((sent - position) / dt_s)
        tracking.append(abs(target - sent) <= (1.0 + SLACK) * ramp)
    command = JointCommand(*positions)
    return Passed(command, GateState(command, tuple(velocities), tuple(tracking)), tuple(reasons))


def _brake(state: GateState, limits: Limits, dt_s: float, reason: str) -> Passed:
    """Slow every axis down, as if it were wanted where it is; what it tracked or chased before, it still does after."""
    slowed = _follow(state, state.position, limits, dt_s)
    return Passed(slowed.command, slowed.state._replace(tracking=state.tracking), (reason,))


def _rest(state: GateState, limits: Limits, dt_s: float) -> JointCommand:
    """Where the arm comes to rest if it brakes from now on: step - ramp, step - 2·ramp, … summed up on each axis."""
    positions = list(state.position)
    for axis, velocity in enumerate(state.velocity):
        step, ramp = velocity * dt_s, limits.acceleration_max[axis] * dt_s * dt_s
        ticks = int(abs(step) / ramp)
        if ticks:
            positions[axis] += ticks * (step - math.copysign(0.5 * (ticks + 1) * ramp, step))
    return JointCommand(*positions)


def _allowed(asked: float, last: float, top: float, ramp: float, room_up: float, room_down: float) -> float:
    """The step nearest to `asked` within acceleration, velocity and, as the last word, stopping inside the room there is."""
    step = min(max(asked, last - ramp), last + ramp)
    if step > 0.0:
        return min(step, _stoppable(room_up, top, ramp))
    return max(step, -_stoppable(room_down, top, ramp))


def _stoppable(room: float, top: float, ramp: float) -> float:
    """The longest step, at most `top`, from which losing `ramp` per tick stops within `room`.

    A step s with n = floor(s / ramp) needs s + (s - ramp) + … + (s - n·ramp) = (n + 1)·s - ramp·n·(n + 1)/2; this is its inverse.
    """
    ticks = int((math.sqrt(1.0 + 8.0 * room / ramp) - 1.0) / 2.0)
    return min(top, room / (ticks + 1) + 0.5 * ramp * ticks)
