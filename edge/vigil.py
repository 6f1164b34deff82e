"""What the loop keeps an eye on besides frames, decisions and acknowledgements, tick by tick. Pure: no clock, no device."""

import math
from collections import deque

from edge.messages import JointCommand
from edge.robot import JOINT_NAMES
from edge.states import Cause

OVERRUNS = 3  # in a row: facts of ros2_control and openpilot agree that single ones happen
QUIET_S = 0.2  # without an overrun, before the arm goes on
STALL_RAD = math.radians(8.0)  # further than lag and sag explain: 3 to 8 mm of return error is 2° (nahyud546/dofbot-se)
STALL_S = 0.3
READ_BACK_S = 0.16  # of which: a read-back may be so old; each servo is read every sixth tick, and heard of one later
CLAMPED_S, CLAMPED_SHARE = 1.0, 0.8  # of an approach; a normal one along the edge of reach has been seen at half of that


class Vigil:
    """Remembers as much of the past ticks as the thresholds above need."""

    def __init__(self, tick_hz: float) -> None:
        self._tick_hz = tick_hz
        self._overruns = 0
        self._overruns_in_a_row = 0
        self._quiet_ticks = math.inf
        # What was sent while a read-back may still be on its way: a moving joint is anywhere between these.
        self._sent: deque[JointCommand] = deque(maxlen=round(READ_BACK_S * tick_hz))
        self._clamped: deque[bool] = deque(maxlen=round(CLAMPED_S * tick_hz))
        self._stalled_ticks = 0
        self._person = ""
        self.link = ""  # why whoever armed with a deadman is taken to be gone

    def hold(self, reason: str) -> None:
        """A person wants the arm to stay; an empty reason ends that."""
        self._person = reason

    def sent(self, command: JointCommand, clamped: tuple[str, ...]) -> None:
        """What the bus acknowledged, and what the gate changed of it in an approach."""
        self._sent.append(command)
        self._clamped.append(any(not reason.startswith("gripper") for reason in clamped))

    def taken_up(self) -> None:
        """The set points were put where the joints are: what was sent before says nothing any more."""
        self._sent.clear()
        self._stalled_ticks = 0

    def look(self, overruns: int, measured: JointCommand | None) -> dict[Cause, str]:
        """Problems of this tick: `overruns` counts all so far, `measured` is where the joints were last read to be."""
        problems = {}
        if self._person:
            problems[Cause.PERSON] = self._person
        if self.link:
            problems[Cause.LINK] = self.link
        if self._is_overrun(overruns):
            problems[Cause.HOST] = f"{OVERRUNS} ticks in a row overran, expected none; is the machine busy?"
        stalled = self._stalled(measured)
        if stalled:
            problems[Cause.SERVO] = stalled
        if len(self._clamped) == self._clamped.maxlen and sum(self._clamped) > CLAMPED_SHARE * len(self._clamped):
            problems[Cause.CLAMPED] = (
                f"the gate cut {sum(self._clamped)} of the last {len(self._clamped)} set points, expected few; check the policy"
            )
        return problems

    def _is_overrun(self, overruns: int) -> bool:
        new, self._overruns = overruns - self._overruns, overruns
        self._overruns_in_a_row = self._overruns_in_a_row + 1 if new > 0 else 0
        was_quiet = self._quiet_ticks >= QUIET_S * self._tick_hz
        if self._overruns_in_a_row >= OVERRUNS or (new > 0 and not was_quiet):
            self._quiet_ticks = 0
        else:
            self._quiet_ticks += 1
        return self._quiet_ticks < QUIET_S * self._tick_hz

    def _stalled(self, measured: JointCommand | None) -> str:
        """The joint that is not where it was sent, and by how much; the gripper stops at what it holds, and does not count."""
        if measured is None or len(self._sent) < (self._sent.maxlen or 0):
            return ""
        off_rad = [
            max(min(sent) - at, at - max(sent), 0.0)
            for at, *sent in zip(measured[:5], *(command[:5] for command in self._sent), strict=True)
        ]
        worst = max(range(5), key=off_rad.__getitem__)
        self._stalled_ticks = self._stalled_ticks + 1 if off_rad[worst] > STALL_RAD else 0
        if self._stalled_ticks <= (STALL_S - READ_BACK_S) * self._tick_hz:
            return ""
        found = f"{JOINT_NAMES[worst]} is {math.degrees(off_rad[worst]):.0f}° from where it was sent"
        return f"{found}, expected {math.degrees(STALL_RAD):.0f}° at most; is it blocked?"
