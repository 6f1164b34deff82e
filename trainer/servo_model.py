"""Simulated hobby servos: between the set point that is sent and where a joint is.

set point → counts → lag and top speed → backlash → zero offset → joint angle
"""

import math
from dataclasses import dataclass

from edge import robot
from edge.messages import JointCommand

SPEED_RAD_S = math.radians(200.0)  # YB-SD15M product sheet: 0.30 s / 60°, without load
# One count of a PCA9685 at 50 Hz is 4.88 µs; a 270° servo turns that much in 2000 µs.
COUNT_RAD = 4.88 / 2000.0 * math.radians(270.0)


@dataclass(frozen=True)
class ServoQuirks:
    """How the servos of one arm differ from ideal ones."""

    zero_rad: tuple[float, ...] = (0.0,) * 5  # where the joint is when its servo says zero
    backlash_rad: float = 0.0  # play either way: the joint moves only when its shaft has taken it up
    lag_s: float = robot.SERVO_LAG_S  # first order
    quantised: bool = False  # set points in whole counts


class ServoModel:
    """Five joint servos; the gripper's opening passes through, because the fingers' motors are limited by the physics."""

    def __init__(self) -> None:
        self.quirks = ServoQuirks()
        self._goals: tuple[float, ...] = (0.0,) * 5
        self._shafts: tuple[float, ...] = self._goals
        self._geared: tuple[float, ...] = self._goals
        self._opening_m = 0.0

    def reset(self, command: JointCommand, quirks: ServoQuirks) -> None:
        """At rest where the set points say."""
        self.quirks = quirks
        self.drive(command)
        self._shafts = self._geared = self._goals

    def drive(self, command: JointCommand) -> None:
        """New set points."""
        self._opening_m = command.opening_m
        if self.quirks.quantised:
            self._goals = tuple(round(angle / COUNT_RAD) * COUNT_RAD for angle in command.joints_rad)
        else:
            self._goals = command.joints_rad

    def step(self, duration_s: float) -> None:
        """Let time pass; exact for any duration while the speed limit does not act."""
        part, most_rad = 1.0 - math.exp(-duration_s / self.quirks.lag_s), SPEED_RAD_S * duration_s
        play = self.quirks.backlash_rad
        shafts, geared = [], []
        for goal, shaft, joint in zip(self._goals, self._shafts, self._geared, strict=True):
            shaft += max(-most_rad, min(most_rad, (goal - shaft) * part))
            shafts.append(shaft)
            geared.append(max(shaft - play, min(shaft + play, joint)))
        self._shafts, self._geared = tuple(shafts), tuple(geared)

    def joints(self) -> JointCommand:
        """Where the joints are, if nothing holds them, and the opening that is wanted."""
        return JointCommand._make((*(a + zero for a, zero in zip(self._geared, self.quirks.zero_rad, strict=True)), self._opening_m))
