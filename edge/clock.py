"""Time for the control loop: a clock to read and to sleep on, and a pacer that keeps a rate without drifting."""

import ctypes
import errno
import math
import time
from typing import Protocol

from edge.simulated.simulator import SimulatorLink

MIN_APART = 0.5  # periods from one tick to the next, after one that came late
_TIMER_ABSTIME = 1  # Linux <time.h>


class Clock(Protocol):
    """Monotonic time in seconds; its zero means nothing."""

    def now_s(self) -> float:
        """The time."""

    def sleep_until(self, deadline_s: float) -> None:
        """Return at `deadline_s` or as soon after as can be; at once when it has passed."""


class MonotonicClock:
    """CLOCK_MONOTONIC: setting the wall clock does not touch it."""

    def now_s(self) -> float:
        """The time since some moment before the process began."""
        return time.monotonic()

    def sleep_until(self, deadline_s: float) -> None:
        """Sleep; a signal runs its Python handler, and the rest of the sleep follows."""
        if _clock_nanosleep is None:
            while (remaining_s := deadline_s - time.monotonic()) > 0.0:
                time.sleep(remaining_s)
            return
        # To an absolute deadline: what interrupts us between reading the clock and sleeping costs nothing.
        deadline = _Timespec(*divmod(math.ceil(deadline_s * 1e9), 10**9))
        while _clock_nanosleep(time.CLOCK_MONOTONIC, _TIMER_ABSTIME, ctypes.byref(deadline), None) == errno.EINTR:
            pass


class VirtualClock:
    """The simulator's time: sleeping is what makes it pass."""

    def __init__(self, link: SimulatorLink) -> None:
        self._link = link

    def now_s(self) -> float:
        """Simulated time since the link was connected."""
        return self._link.now_s

    def sleep_until(self, deadline_s: float) -> None:
        """Let the simulator run to the deadline; raises `BusError` when it is gone."""
        if deadline_s > self._link.now_s:
            self._link.advance_to(deadline_s)


class SteppedClock:
    """Time that passes only where somebody sleeps: for emulators that stand alone."""

    def __init__(self, now_s: float = 0.0) -> None:
        self._now_s = now_s

    def now_s(self) -> float:
        """The time."""
        return self._now_s

    def sleep_until(self, deadline_s: float) -> None:
        """Let it be the deadline at once."""
        self._now_s = max(self._now_s, deadline_s)


class Pacer:
    """Ticks at a fixed rate, on deadlines that are all counted from the start, so that lateness never adds up.

    Ticks never share a period, and are half a period apart at least, so that two commands never reach a servo as one jump.
    A tick that is late by less than a period comes at once; after a longer stall it waits for the next deadline. What kept it
    may be the work before (counted in `overruns`) or the kernel; each deadline that gets no tick is counted in `skipped`.
    """

    def __init__(self, clock: Clock, rate_hz: float) -> None:
        self._clock = clock
        self._period_s = 1.0 / rate_hz
        self._start_s = self._came_s = clock.now_s()
        self._tick = 0
        self.overruns = 0
        self.skipped = 0

    def wait(self) -> float:
        """Sleep until the next deadline; returns how late the tick is in seconds, for the deadline it was meant to keep."""
        tick = max(self._tick + 1, math.ceil((self._came_s - self._start_s) / self._period_s + MIN_APART))
        meant_s = self._start_s + tick * self._period_s
        late_periods = (self._clock.now_s() - meant_s) / self._period_s
        self.overruns += late_periods > 0.0
        if late_periods >= 1.0:
            tick += math.ceil(late_periods)
        self.skipped += tick - self._tick - 1
        self._tick = tick
        self._clock.sleep_until(self._start_s + tick * self._period_s)
        self._came_s = self._clock.now_s()
        return self._came_s - meant_s


class _Timespec(ctypes.Structure):
    _fields_ = (("tv_sec", ctypes.c_long), ("tv_nsec", ctypes.c_long))


# macOS has none.
_clock_nanosleep = getattr(ctypes.CDLL(None), "clock_nanosleep", None)
