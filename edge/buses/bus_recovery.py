"""A servo bus that comes back: what is not acknowledged is counted, and a bus that takes nothing is opened anew."""

import logging
from collections.abc import Callable
from math import inf

from edge.buses.bus_writer import BusWriter
from edge.clock import Clock
from edge.errors import BusError
from edge.messages import JointCommand

BAD_TICKS = 3  # in a row: two ticks without an acknowledgement are a glitch
REOPEN_EVERY_S = 0.1
REOPEN_WITHIN_S = 0.005  # of waiting for it; it goes on in the bus's own thread

_log = logging.getLogger(__name__)


class RecoveringBus:
    """Sends a set point a tick; nothing here raises `BusError`. `problem` is why the last one was not acknowledged, empty: it was."""

    def __init__(self, bus: BusWriter, clock: Clock) -> None:
        self.problem = ""
        self._bus = bus
        self._clock = clock
        self._bad_ticks = 0
        self._is_open = True
        self._reopened_s = -inf
        self._is_reopening = False

    @property
    def is_lost(self) -> bool:
        """Whether the bus has been silent for too long to be a glitch."""
        return self._bad_ticks >= BAD_TICKS

    def write(self, command: JointCommand, since_s: float) -> bool:
        """Whether the bus acknowledged what was decided on at `since_s`. A lost one gets nothing before it is open again."""
        if self._is_open and self._takes(lambda: self._bus.write(command, since_s=since_s)):
            return True
        self._bad_ticks += 1
        self._is_open = self._is_open and not self.is_lost
        return False

    def check(self) -> None:
        """See that the device answers, moving nothing; where it does not, open it anew."""
        self.tend()
        if self._is_open:
            self._is_open = self._takes(self._bus.check)

    def tend(self) -> bool:
        """Open a lost bus anew, from time to time and without waiting for it; returns True once, when it is open again."""
        if self._is_open or self._bus.is_busy:
            return False
        was_reopening, self._is_reopening = self._is_reopening, False
        now_s = self._clock.now_s()
        try:
            if was_reopening:
                self._bus.check_last()
            elif now_s - self._reopened_s < REOPEN_EVERY_S:
                return False
            else:
                self._reopened_s = now_s
                self._bus.reopen(REOPEN_WITHIN_S)
        except BusError as error:
            self._is_reopening = self._bus.is_busy
            if not self._is_reopening:  # that it is under way is no reason why the bus was lost
                self.problem = str(error)
            return False
        self._is_open = True
        return True

    def begin_anew(self) -> None:
        """Take the bus for open: whoever opened or released it knows."""
        self.problem, self._bad_ticks, self._is_open, self._is_reopening = "", 0, True, False

    def _takes(self, call: Callable[[], None]) -> bool:
        try:
            call()
        except BusError as error:
            self.problem = str(error)
            return False
        if self.is_lost:
            _log.warning("the servo bus is back after %d ticks", self._bad_ticks)
        self.begin_anew()
        return True
