"""Looks at every set point that is sent to a servo bus, and knows nothing of the gate that should have made it safe.

It has the limits (`edge.safety.DOFBOT_LIMITS`, data with their reasons) and the arm's link lengths, and does its own arithmetic.
"""

import itertools
import math
from collections import Counter
from typing import NamedTuple

from edge import robot
from edge.buses.lease import check_lease
from edge.buses.servos import ServoBus
from edge.clock import Clock
from edge.errors import BusError
from edge.kinematics import Mount
from edge.messages import JointCommand
from edge.safety import DOFBOT_LIMITS

KEPT_EXAMPLES = 20
SLACK = 1e-9  # the gate's promise, in rad/s or m/s
# Without a set point for longer, the servos have come to rest at the last one; for less, they have not; in between, who can tell.
PAUSE_TICKS = (1.25, 1.75)
_STILL = (0.0,) * len(robot.JOINT_NAMES)
_BOX = tuple(zip(DOFBOT_LIMITS.tool_min_in_table_m, DOFBOT_LIMITS.tool_max_in_table_m, strict=True))


class Reference(NamedTuple):
    """What a set point is compared with: the one before, and how fast that one was moving."""

    position: JointCommand
    velocity: tuple[float, ...] = _STILL


class CheckedBus:
    """Another servo bus; counts the set points that are sent to it, and those that break a limit, retries included.

    One whose time is over when it comes here (`edge.buses.lease`) is not sent, and not counted.

    A set point may differ from the last acknowledged one by what the limits allow; after one that was not acknowledged, after
    a pause and after `open` or `release` the arm is at rest. Where servos are read back, being at rest where they are is allowed, too.
    """

    def __init__(self, bus: ServoBus, mount: Mount, parked: JointCommand, tick_s: float) -> None:
        self.sent = self.unacknowledged = self.unsafe = 0
        self.why: Counter[str] = Counter()
        self.examples: list[str] = []
        self.clock: Clock | None = None  # comes after the bus; without it no pause is noticed
        self._bus = bus
        self._mount = mount
        self._tick_s = tick_s
        self._last = Reference(parked)
        self._sent_s = 0.0
        self._refused: JointCommand | None = None

    def open(self) -> None:
        """Open the bus; the arm rests where it is read to be, or where it was."""
        self._bus.open()
        self._last = Reference(self._bus.measured() or self._last.position)

    def write(self, command: JointCommand) -> None:
        """Check and send one set point; raises `BusError` as the bus does, and never for what it finds."""
        check_lease()
        self.sent += 1
        now_s = self.clock.now_s() if self.clock is not None else self._sent_s
        self._check(command, now_s)
        try:
            self._bus.write(command)
        except BusError:
            self.unacknowledged += 1
            self._refused = command
            raise
        moved = zip(command, self._last.position, strict=True)
        self._last = Reference(command, tuple((new - old) / self._tick_s for new, old in moved))
        self._sent_s, self._refused = now_s, None

    def check(self) -> None:
        """As the bus does it."""
        self._bus.check()

    def measured(self) -> JointCommand | None:
        """What the bus has read back."""
        return self._bus.measured()

    def release(self) -> None:
        """Switch the bus off: the arm is at rest."""
        self._bus.release()
        self._last = Reference(self._last.position)

    def close(self) -> None:
        """Close the bus."""
        self._bus.close()

    def _check(self, command: JointCommand, now_s: float) -> None:
        paused_ticks = (now_s - self._sent_s) / self._tick_s
        has_failed = self._refused is not None and command != self._refused
        references = [Reference(self._last.position)] if has_failed or paused_ticks > PAUSE_TICKS[0] else [self._last]
        if not has_failed and PAUSE_TICKS[0] < paused_ticks <= PAUSE_TICKS[1]:
            references.append(self._last)
        measured = self._bus.measured()
        if measured is not None:
            references.append(Reference(measured))
        broken = min((self._broken(command, reference) for reference in references), key=len)
        if broken:
            self.unsafe += 1
            self.why.update(broken)
            if len(self.examples) < KEPT_EXAMPLES:
                self.examples.append(f"at {now_s:.2f} s: {', '.join(broken)}: {tuple(command)} after {tuple(references[0].position)}")

    def _broken(self, command: JointCommand, before: Reference) -> list[str]:
        """The limits that a set point breaks."""
        if not all(map(math.isfinite, command)):
            return ["not finite"]
        limits, broken = DOFBOT_LIMITS, []
        for axis, name in enumerate(robot.JOINT_NAMES):
            new, old = command[axis], before.position[axis]
            if not min(limits.position_min[axis], old) <= new <= max(limits.position_max[axis], old):
                broken.append(f"{name} position")
            speed = (new - old) / self._tick_s
            if abs(speed) > limits.velocity_max[axis] + SLACK:
                broken.append(f"{name} velocity")
            if abs(speed - before.velocity[axis]) > limits.acceleration_max[axis] * self._tick_s + SLACK:
                broken.append(f"{name} acceleration")
        outside_m = zip("xyz", self._outside_m(command), self._outside_m(before.position), strict=True)
        return broken + [f"tool {name}" for name, now, then in outside_m if now > max(then, 0.0) + SLACK]

    def _outside_m(self, command: JointCommand) -> list[float]:
        """How far the tool is outside its box, per coordinate; negative inside."""
        angles = list(itertools.accumulate(command[1:4]))
        lengths = (robot.UPPER_ARM_M, robot.FOREARM_M, robot.WRIST_TO_TOOL_M)
        out_m = sum(length * math.sin(angle) for length, angle in zip(lengths, angles, strict=True))
        up_m = robot.BASE_TO_SHOULDER_M + sum(length * math.cos(angle) for length, angle in zip(lengths, angles, strict=True))
        side = 1.0 if self._mount.inverted else -1.0
        tool = (side * out_m * math.sin(command[0]), out_m * math.cos(command[0]), self._mount.base_height_m - side * up_m)
        return [max(low - at, at - high) for at, (low, high) in zip(tool, _BOX, strict=True)]
