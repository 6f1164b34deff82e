"""A simulated bus servo's own set point: it goes to its goal in the time it was given, holds it, or lies limp.

Each goal begins a new trapezoid of speed, from rest, whatever became of the one before: so goals that come faster than their duration
are felt as jerks (Practitioner108/dofbot_sci_ws). No lag, no load, no backlash: the simulator's physics has those, and
`edge/simulated/servo_physics.py` for an arm that stands alone.
"""

from collections import deque
from typing import NamedTuple

RAW_MIN, RAW_MAX = 96, 4000  # no goal outside (vendor: i2c_register_map.xlsx)
SPEED_MAX_RAW_S = 250.0 / 0.0818  # DS-SY15A data sheet: 250°/s without load; Arm_Lib: 0.0818° a count
OVERLOAD = 0x20  # bit 5 of a servo's status (desheng_servo_protocol_v4.01.pdf)


class _Order(NamedTuple):
    at_s: float
    goal_raw: float | None = None  # None: switch torque on
    duration_s: float = 0.0


class BusServo:
    """One servo. All times are of one clock, and never go back; `answers` is whether its cable is in.

    `ramp` is the share of a move in which it speeds up, and in which it slows down again, 0…0.5; 0: an even speed.
    """

    def __init__(self, number: int, raw: float, ramp: float = 0.0) -> None:
        self.number = number
        self._ramp = ramp
        self.answers = True
        self.status = 0  # error bits that a ping reports, beside its own
        self._is_overloaded = False
        self._torque = self._stalled = False
        self._from_raw = self._goal_raw = raw
        self._began_s = self._until_s = 0.0
        self._orders: deque[_Order] = deque()  # on their way

    @property
    def error(self) -> int:
        """All error bits that a ping reports."""
        return self.status | (OVERLOAD if self._is_overloaded else 0)

    def power_up(self, now_s: float) -> None:
        """Limp, where it is."""
        self.let_go(now_s)
        self._goal_raw = self._from_raw
        self._orders.clear()

    def go(self, goal_raw: int, duration_s: float, at_s: float) -> None:
        """Take a goal, which reaches it at `at_s`, after those before; without torque it only remembers it."""
        self._orders.append(_Order(at_s, float(min(max(goal_raw, RAW_MIN), RAW_MAX)), duration_s))

    def hold(self, at_s: float) -> None:
        """From `at_s` on, go to the last goal, as fast as it can, and hold it."""
        self._is_overloaded = False
        self._orders.append(_Order(at_s))

    def let_go(self, now_s: float) -> None:
        """Stay, and lie limp."""
        self._begin(now_s)
        self._torque = self._is_overloaded = False
        self._orders = deque(order for order in self._orders if order.goal_raw is not None)

    def protect(self, now_s: float) -> None:
        """Lie limp because it pushed for too long, and say so until torque is switched, off or on; that this ends it is assumed."""
        self.let_go(now_s)
        self._is_overloaded = True

    def holds(self, now_s: float) -> bool:
        """Whether it holds."""
        self.raw(now_s)
        return self._torque

    def stall(self, stalled: bool, now_s: float) -> None:
        """Block the shaft where it is, or let it go on."""
        self._begin(now_s)
        self._stalled = stalled

    def turn_by_hand(self, raw: float, now_s: float) -> None:
        """Put a limp shaft somewhere; one that holds stays."""
        if not self.holds(now_s):
            self._from_raw = raw

    def raw(self, now_s: float) -> float:
        """Where the shaft is, in counts."""
        while self._orders and self._orders[0].at_s <= now_s:
            order = self._orders.popleft()
            self._from_raw = self._shaft_raw(order.at_s)
            self._torque |= order.goal_raw is None
            self._goal_raw = self._goal_raw if order.goal_raw is None else order.goal_raw
            self._start(order.duration_s, order.at_s)
        return self._shaft_raw(now_s)

    def _begin(self, now_s: float) -> None:
        self._from_raw = self.raw(now_s)
        self._start(0.0, now_s)

    def _shaft_raw(self, now_s: float) -> float:
        if not self._torque or self._stalled:
            return self._from_raw
        if now_s >= self._until_s:
            return self._goal_raw
        share = self._way((now_s - self._began_s) / (self._until_s - self._began_s))
        return self._from_raw + share * (self._goal_raw - self._from_raw)

    def _way(self, time: float) -> float:
        """Share of the way after a share of the time."""
        if self._ramp < time < 1.0 - self._ramp or not self._ramp:
            return (time - self._ramp / 2.0) / (1.0 - self._ramp)
        left = min(time, 1.0 - time)
        ramped = left * left / (2.0 * self._ramp * (1.0 - self._ramp))
        return ramped if time < 0.5 else 1.0 - ramped

    def _start(self, duration_s: float, now_s: float) -> None:
        self._began_s = now_s
        fastest_s = abs(self._goal_raw - self._from_raw) / SPEED_MAX_RAW_S / (1.0 - self._ramp)  # the top of a trapezoid is higher
        self._until_s = now_s + max(duration_s, fastest_s)
