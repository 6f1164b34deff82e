"""A servo bus that cannot block the control loop: a thread of its own does the writing, and each write has its time.

A driver call that hangs in the kernel (stuck wires: up to the adapter's time-out, 1 s unless set) hangs that thread alone. What is
given up is never sent later: `edge.buses.lease`.
"""

import logging
import time
from collections.abc import Callable
from queue import SimpleQueue
from threading import Event, Thread
from typing import NamedTuple

from edge.buses.lease import check_lease, lease
from edge.buses.servos import ServoBus
from edge.errors import BusError
from edge.messages import JointCommand

WRITE_WITHIN_S = 0.005  # a quarter of a tick at 50 Hz
OPEN_WITHIN_S = 5.0
REOPEN_WITHIN_S = 1.0
RELEASE_WITHIN_S = 0.1
RETRIES_MAX = 2  # of a set point that was not acknowledged …
RETRY_WITHIN_S = 0.004  # … and none begins later

_log = logging.getLogger(__name__)


class Verified(NamedTuple):
    """How many set points the device has acknowledged in time, and when (CLOCK_MONOTONIC) the last one."""

    writes: int
    at_s: float


class _Job:
    """One call for the thread, and until when it may send."""

    def __init__(self, call: Callable[[], None], within_s: float, since_s: float | None = None) -> None:
        self.began_s = time.monotonic() if since_s is None else since_s
        self.call = call
        self.done = Event()
        self.error: Exception | None = None
        self.is_revoked = False
        self._until_s = self.began_s + within_s

    def is_over(self) -> bool:
        """Whether nothing more may be sent for it."""
        return self.is_revoked or time.monotonic() >= self._until_s


class BusWriter:
    """A `ServoBus` around another one, which belongs to its thread from `open` on.

    On a virtual clock, where waiting costs nothing and every run must be the same, it calls straight through.
    The thread inherits the scheduling of the one that calls `open`.
    """

    def __init__(self, bus: ServoBus, clock_is_virtual: bool) -> None:
        self._bus = bus
        self._is_direct = clock_is_virtual
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._job: _Job | None = None  # the newest; all before are done
        self._release: Thread | None = None
        self._thread: Thread | None = None
        self.verified = Verified(0, time.monotonic())
        self.delivered: JointCommand | None = None  # the newest that the bus took whole, in time or not
        self.retries = 0

    def open(self) -> None:
        """Start the thread and open the bus; raises `BusError` as the bus does, and after `OPEN_WITHIN_S`."""
        if self._thread is None and not self._is_direct:
            self._jobs = SimpleQueue()  # a thread that still hangs keeps the old one
            self._thread = Thread(target=self._work, args=(self._jobs,), name="bus writer", daemon=True)
            self._thread.start()
        self.reopen(OPEN_WITHIN_S)

    def reopen(self, within_s: float = REOPEN_WITHIN_S) -> None:
        """Open the bus anew, after its device was reset; raises `BusError` as the bus does, and after `within_s`.

        Then it goes on by itself: `write` says that the bus is busy until it is done, and that it is closed if it failed.
        """
        # Opening moves nothing, so it may take as long as it takes.
        self._do("opening", self._bus.open, within_s, lease_s=float("inf"))

    def write(self, command: JointCommand, within_s: float = WRITE_WITHIN_S, since_s: float | None = None) -> None:
        """Send one set point; back when the device has acknowledged it. Raises `BusError`, at the latest after `within_s`.

        Nothing of it is sent later than `within_s` after `since_s` (CLOCK_MONOTONIC; None: now), when the gate looked how long the arm
        had been without one: the machine may have been busy since, and the servos at rest. At most two retries where the device did not
        acknowledge. While a call before still hangs, raises at once.
        """
        self._do("writing", lambda: self._send(command), within_s, lease_s=within_s, since_s=since_s)

    def check(self, within_s: float = WRITE_WITHIN_S) -> None:
        """See that the device answers, moving nothing; raises `BusError`, at the latest after `within_s`."""
        self._do("asking", self._bus.check, within_s, lease_s=within_s)

    def measured(self) -> JointCommand | None:
        """Where the servos were when last read, as the bus tells it; never waits."""
        return self._bus.measured()

    def check_last(self) -> None:
        """Raise what a call has ended with that took longer than it was waited for; nothing while it is under way."""
        if not self.is_busy:
            self._raise_outcome()

    @property
    def thread(self) -> Thread | None:
        """The one that does the writing; None on a virtual clock, and while closed."""
        return self._thread

    @property
    def is_busy(self) -> bool:
        """Whether a call still hangs: a write would be refused."""
        job, release = self._job, self._release
        return (job is not None and not job.done.is_set()) or (release is not None and release.is_alive())

    def release(self) -> None:
        """Switch the servos off, now and past whatever hangs. Never raises, and takes 0.2 s at most.

        If a call hangs, its thread releases once more when it comes back.
        """
        if self._is_direct:
            return self._bus.release()
        job = self._job
        if job is not None:
            job.is_revoked = True
            job.done.wait(RELEASE_WITHIN_S)
        if self._release is None or not self._release.is_alive():
            self._release = Thread(target=self._bus.release, name="bus release", daemon=True)
            try:
                self._release.start()
            except RuntimeError:  # the machine has no thread left: a release that may hang is better than none
                self._release = None
                return self._bus.release()
        self._release.join(RELEASE_WITHIN_S)
        if self._release.is_alive():
            _log.error(
                "servo bus: the release hangs, expected it within %g s; servos may still be powered: cut their supply", RELEASE_WITHIN_S
            )
        return None

    def close(self) -> None:
        """Release, close the bus and end the thread, or leave it to do so when it comes back. Never raises."""
        self.release()
        if self._is_direct or self._thread is None:
            return self._bus.close()
        self._jobs.put(_Job(self._bus.close, float("inf")))
        self._jobs.put(None)
        self._thread.join(RELEASE_WITHIN_S)
        if self._thread.is_alive():
            _log.error("servo bus: still hangs while closing, expected an end within %g s; see dmesg for the I2C bus", RELEASE_WITHIN_S)
        self._thread = None
        return None

    def _do(self, what: str, call: Callable[[], None], within_s: float, lease_s: float, since_s: float | None = None) -> None:
        """Have the thread make a call, and wait for it."""
        if self._is_direct:
            return call()
        if self._thread is None:
            raise BusError("servo bus: written to while closed, expected it open; call open() first")
        self._check_free()
        job = self._job = _Job(call, lease_s, since_s)
        self._jobs.put(job)
        if not job.done.wait(within_s):
            raise BusError(f"servo bus: {what} took longer than {within_s * 1e3:g} ms, expected an answer; is the I2C bus stuck?")
        return self._raise_outcome()

    def _raise_outcome(self) -> None:
        """Raise what the newest call ended with, once."""
        if self._job is None or self._job.error is None:
            return
        error, self._job.error = self._job.error, None
        try:
            raise error
        finally:
            del error  # its traceback refers to this frame: a cycle, and the collector may be off

    def _check_free(self) -> None:
        now_s, job = time.monotonic(), self._job
        if job is not None and not job.done.is_set():
            raise BusError(
                f"servo bus: still busy since {now_s - job.began_s:.3f} s, expected an answer; nothing was sent; is the I2C bus stuck?"
            )
        if self._release is not None and self._release.is_alive():
            raise BusError("servo bus: still busy with a release, expected it to be over; nothing was sent; is the I2C bus stuck?")

    def _send(self, command: JointCommand) -> None:
        """Write until acknowledged, twice more at most."""
        began_s = time.monotonic()
        for attempts_left in reversed(range(1 + RETRIES_MAX)):
            try:
                self._bus.write(command)
                self.delivered = command
                check_lease()  # acknowledged too late is not verified
                break
            except BusError as error:
                is_late = not self._is_direct and time.monotonic() - began_s >= RETRY_WITHIN_S
                if not attempts_left or is_late or not _is_unacknowledged(error):
                    raise
                self.retries += 1
        self.verified = Verified(self.verified.writes + 1, time.monotonic())

    def _work(self, jobs: "SimpleQueue[_Job | None]") -> None:
        while (job := jobs.get()) is not None:
            try:
                with lease(job.is_over):
                    job.call()
            except Exception as error:
                job.error = error
            if job.is_revoked:
                self._bus.release()  # what hung may have come after the release
            job.done.set()


def _is_unacknowledged(error: BusError) -> bool:
    """Whether a second attempt makes sense: nobody acknowledged. After a time-out there is no time for one."""
    return isinstance(error.__cause__, OSError) and not isinstance(error.__cause__, TimeoutError)
