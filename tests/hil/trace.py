"""What arrived at the servos, and whether it was safe: the recorded pulses are turned back into joints and checked one by one.

Nothing here believes the runtime: times are the desk's, and limits are the gate's, plus what the way to the servos rounds.
"""

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from edge import kinematics, robot
from edge.buses.bus_writer import WRITE_WITHIN_S
from edge.buses.servos import command_from_pulses
from edge.messages import JointCommand
from edge.records.record import TickRecord
from edge.safety import DOFBOT_LIMITS
from edge.simulated.wire import PulsesUs
from tests.hil.world import ENTRY, MOUNT, PARKED, SERVOS

TICK_S = 0.02
APART_S = TICK_S / 2.0 - WRITE_WITHIN_S  # ticks are half a tick apart, and the bus may take so long for the first one's set point
PARKED_DEG = 5.0  # servos lag: at the fastest they are this far behind when the set points have arrived
AXES = (*robot.JOINT_NAMES[:5], "gripper")


class Sent(NamedTuple):
    """One vector of pulses, when it arrived, and where the shafts were then."""

    at_s: float
    pulses_us: PulsesUs
    shafts_us: PulsesUs

    @property
    def is_off(self) -> bool:
        """Whether no servo is driven."""
        return not any(self.pulses_us)

    @property
    def command(self) -> JointCommand:
        """What the servos are told; raises `BusError` where one is off or not told a number."""
        return command_from_pulses(self.pulses_us, SERVOS)

    @property
    def shafts(self) -> JointCommand:
        """Where the servos are."""
        return command_from_pulses(self.shafts_us, SERVOS)


class Way(NamedTuple):
    """What the way to the servos does to set points.

    `count_deg` is what it rounds joints to, `opening_m` the gripper. `stretch` is how much longer a step may be than it was sent,
    and `lag_s` how much later.
    """

    count_deg: float
    opening_m: float
    stretch: float = 1.0
    lag_s: float = 0.0
    limp_rad: float = 0.0  # how far from its set point a servo may be found that was let go in motion, where nobody reads that

    @property
    def counts(self) -> tuple[float, ...]:
        """Of the gate's six axes."""
        return (*(math.radians(self.count_deg),) * 5, self.opening_m)

    @property
    def tool_m(self) -> float:
        """How far the tool is off at most: a count of each joint, on its longest lever."""
        levers_m = (0.275, *itertools.accumulate((robot.WRIST_TO_TOOL_M, robot.FOREARM_M, robot.UPPER_ARM_M)))
        return math.radians(self.count_deg) * sum(levers_m)


WAYS = {
    # 4.88 µs, of 2000 µs for 270°; the gripper's 180° servo opens 1.25 mm a degree where it is steepest.
    "pca9685": Way(4.88 / 2000.0 * 270.0, 4.88 / 2000.0 * 180.0 * 1.25e-3, limp_rad=robot.VELOCITY_MAX_RAD_S * robot.SERVO_LAG_S),
    # What arrives is where the emulated bus servos are on their way, behind the set points by a move time and what the board takes: 3 ms to
    # read a servo back, 12 ms to hand out.
    # A set point that comes early, which is half a tick at most, finds its servo half a step behind.
    "dofbot_board": Way(180.0 / 2200.0, 180.0 / 2200.0 * 1.25e-3, 1.5, 0.035),
}


def load(path: Path, since_s: float = 0.0) -> list[Sent]:
    """The trace from a time on."""
    data = path.read_bytes()
    entries = ENTRY.iter_unpack(data[: len(data) // ENTRY.size * ENTRY.size])
    return [Sent(entry[0], entry[1:7], entry[7:13]) for entry in entries if entry[0] >= since_s]


def unsafe(trace: Sequence[Sent], driver: str) -> list[str]:
    """Everything in a trace that must not be, one sentence each."""
    return [f"at {sent.at_s:.3f} s {found}" for sent, found in _unsafe(trace, WAYS[driver])]


def _unsafe(trace: Sequence[Sent], way: Way) -> Iterator[tuple[Sent, str]]:
    last: Sent | None = None
    moved: Sequence[str] = ()
    step, paused = (0.0,) * 6, True
    for sent in trace:
        if sent.is_off:
            last, step, paused = None, (0.0,) * 6, True
            continue
        if not all(0.0 < pulse < math.inf for pulse in sent.pulses_us):
            yield sent, f"only some servos are driven: {sent.pulses_us}"
            continue
        for found in _misplaced(sent.command, way):
            yield sent, found
        if last is not None and sent.at_s - last.at_s < APART_S:
            # Another attempt at the same set point, which may have reached some servos before; the board shows its servos' way there.
            twice = set(_told(sent, last)) & set(moved)
            if way.lag_s == 0.0 and twice:
                yield sent, f"{', '.join(sorted(twice))} got two set points within {APART_S * 1e3:g} ms"
            last = sent._replace(at_s=last.at_s)
            continue
        moved = AXES if last is None else _told(sent, last)
        before = sent.shafts if last is None else last.command
        now = tuple(to - at for to, at in zip(sent.command, before, strict=True))
        pauses = last is None or sent.at_s - last.at_s > 1.5 * TICK_S
        is_near = [
            _is_between(to, at, shaft, 2.0 * count) or (last is None and abs(to - at) < way.limp_rad)
            for to, at, shaft, count in zip(sent.command, before, sent.shafts, way.counts, strict=True)
        ]
        # What a servo went in a pause, it went and stopped: the step after the next is from rest as well.
        for found in _too_fast(now, step, is_near, way, from_rest=pauses or paused):
            yield sent, found
        last, step, paused = sent, now, pauses


def _told(sent: Sent, before: Sent) -> list[str]:
    """The axes that are told something new."""
    return [axis for axis, now, then in zip(AXES, sent.pulses_us, before.pulses_us, strict=True) if now != then]


def _misplaced(command: JointCommand, way: Way) -> Iterator[str]:
    """Beyond a joint's limits, or out of the box."""
    for axis, at, low, high, count in zip(AXES, command, DOFBOT_LIMITS.position_min, DOFBOT_LIMITS.position_max, way.counts, strict=True):
        if not low - count <= at <= high + count:
            yield f"{axis} is sent to {at:.4f}, expected {low:.4f}…{high:.4f}"
    tool = kinematics.tool_in_table_m(command, MOUNT)
    for axis, at, low, high in zip("xyz", tool, DOFBOT_LIMITS.tool_min_in_table_m, DOFBOT_LIMITS.tool_max_in_table_m, strict=True):
        if not low - way.tool_m <= at <= high + way.tool_m:
            yield f"the tool's {axis} is {at:.4f} m, expected {low:.4f}…{high:.4f}"


def _is_between(now: float, before: float, shaft: float, slack: float) -> bool:
    """Whether a command leads back to where the servo is held: it moves nothing, however far it goes."""
    return min(before, shaft) - slack <= now <= max(before, shaft) + slack


def _too_fast(step: Sequence[float], before: Sequence[float], is_near: Sequence[bool], way: Way, from_rest: bool) -> Iterator[str]:
    """Beyond the speed limit, or a change of speed beyond the other; after a pause either the last speed or none counts."""
    limits = zip(DOFBOT_LIMITS.velocity_max, DOFBOT_LIMITS.acceleration_max, way.counts, strict=True)
    for axis, now, then, near, (velocity, acceleration, count) in zip(AXES, step, before, is_near, limits, strict=True):
        top = way.stretch * velocity * TICK_S
        if abs(now) > top + count and not near:
            yield f"{axis} steps by {now:.4f}, expected at most {top:.4f}"
        ramp = acceleration * TICK_S**2 + (way.stretch - 1.0) * velocity * TICK_S
        change = min(abs(now - then), abs(now)) if from_rest else abs(now - then)
        if change > ramp + 2.0 * count and not near:
            yield f"{axis} steps by {now:.4f} after {then:.4f}, expected a change of at most {ramp:.4f}"


def unsafe_set_points(record: Iterable[TickRecord]) -> list[str]:
    """The same for what the runtime says that it sent, without any slack: there is no rounding in it.

    A tick that holds may let set points leap back to where the arm is read to be; the trace shows whether that moved anything.
    A set point that reached the servos after its time comes before that of the tick which says so; the ticks in between sent nothing.
    """
    found: list[str] = []
    before, at_s, exact = None, 0.0, Way(1e-6, 1e-9)
    step = moving = (0.0,) * 6  # the last one, and the last that was any
    for tick in record:
        if tick.now_s - at_s > 5.0 * TICK_S:  # disarmed meanwhile, and taken up where it is
            before, step, moving = None, (0.0,) * 6, (0.0,) * 6
        at_s = tick.now_s
        for sent, holds in ((tick.late, False), (tick.sent, bool(tick.hold))):
            if sent is None:
                continue
            if not all(map(math.isfinite, sent)):
                found.append(f"at {at_s:.3f} s {sent} was sent")
                continue
            problems = list(_misplaced(sent, exact))
            now = step if before is None else tuple(to - at for to, at in zip(sent, before, strict=True))
            if not holds and before is not None:
                problems += _too_fast(now, moving if sent is tick.late else step, (False,) * 6, exact, from_rest=True)
            found += (f"at {at_s:.3f} s set points: {what}" for what in problems)
            before, step = sent, now if not holds else (0.0,) * 6
            moving = step if any(step) or holds else moving
    return found


def motions(trace: Sequence[Sent], driver: str) -> list[float]:
    """When the servos were told something new: the times of all commands that differ from the one before."""
    count = 0.1 * math.radians(WAYS[driver].count_deg)
    commands = [sent for sent in trace if not sent.is_off]
    return [
        sent.at_s
        for before, sent in itertools.pairwise(commands)
        if any(abs(to - at) > count for to, at in zip(sent.command[:5], before.command[:5], strict=True))
        or abs(sent.command.opening_m - before.command.opening_m) > 1e-5
    ]


def gaps_s(trace: Sequence[Sent]) -> list[float]:
    """Times between two commands."""
    times_s = [sent.at_s for sent in trace if not sent.is_off]
    return [later - earlier for earlier, later in itertools.pairwise(times_s)]


def is_parked(sent: Sent) -> bool:
    """Whether the shafts are at the park pose, or on the last bit of the way."""
    return all(abs(at - park) < math.radians(PARKED_DEG) for at, park in zip(sent.shafts[:5], PARKED[:5], strict=True))
