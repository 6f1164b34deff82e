"""What the control thread asks of the kernel and the interpreter, so that little comes between it and its deadlines.

Everything is tried and nothing is needed: what was not granted is told with its reason and its remedy, and the run goes on.
"""

import ctypes
import errno
import gc
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from msgspec import Struct

from edge.config import RealtimeConfig

# Linux <sys/mman.h>, <sys/prctl.h>, <linux/capability.h>
_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4
_PR_SET_TIMERSLACK, _PR_GET_TIMERSLACK = 29, 30
_CAP_IPC_LOCK = 14
_TIMER_SLACK_NS = 1  # the default is 50 µs

_log = logging.getLogger(__name__)
_libc = ctypes.CDLL(None, use_errno=True)


class Grant(Struct, frozen=True):
    """One thing that was asked for, and what became of it."""

    what: str
    is_granted: bool
    reason: str = ""  # why not
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.what}: granted" if self.is_granted else f"{self.what}: not granted ({self.reason}): {self.remedy}"


class _Request(NamedTuple):
    what: str
    ask: Callable[[ExitStack], object]  # leaves its undoing on the stack, and raises OSError when it is refused
    remedy: str


@contextmanager
def realtime(config: RealtimeConfig, helpers: tuple[int, ...] = ()) -> Iterator[tuple[Grant, ...]]:
    """Set the calling thread up for its deadlines, one log line for each grant; on leaving, by the same thread, all is as it was.

    `helpers` are the native ids of threads that it waits for within a tick: they are scheduled as it is.
    Call it when everything is loaded and warmed up: memory that was never touched is not locked, objects that do not exist are not frozen.
    """
    with ExitStack() as undo:
        grants: list[Grant] = []
        for request in _requests(config, helpers):
            if request.what == _SLACK and any(grant.is_granted and grant.what.startswith("SCHED_FIFO") for grant in grants):
                continue  # the kernel gives real-time threads no slack
            grants.append(_ask(request, undo))
        for grant in grants:
            _log.log(logging.INFO if grant.is_granted else logging.WARNING, "%s", grant)
        yield tuple(grants)


def _ask(request: _Request, undo: ExitStack) -> Grant:
    if sys.platform != "linux" and request.what != _GC:
        return Grant(request.what, False, f"this is {sys.platform}", "run on Linux where timing matters")
    try:
        request.ask(undo)
    except OSError as error:
        reason = f"{errno.errorcode.get(error.errno or 0, 'unknown')}, {error.strerror}"
        return Grant(request.what, False, reason, request.remedy)
    return Grant(request.what, True)


_SLACK, _GC = f"timer slack {_TIMER_SLACK_NS} ns", "garbage collector off"


def _requests(config: RealtimeConfig, helpers: tuple[int, ...]) -> Iterator[_Request]:
    priority, cpus = config.fifo_priority, config.cpus
    if cpus:
        having = f"set realtime.cpus to cores that this process may use ({_usable_cpus()})"
        yield _Request(f"cores {', '.join(map(str, cpus))}", lambda undo: _stay_on(cpus, undo), having)
    if priority:
        limits = f"add LimitRTPRIO={priority} to the unit, or 'rtprio {priority}' to /etc/security/limits.d"
        yield _Request(f"SCHED_FIFO {priority}", lambda undo: _schedule_fifo((0, *helpers), priority, undo), limits)
    yield _Request(_SLACK, _sleep_sharply, "none is known; sleeps may end 50 µs late")
    if config.lock_memory:
        limits = "add LimitMEMLOCK=infinity to the unit, or 'memlock unlimited' to /etc/security/limits.d"
        yield _Request("locked memory", _lock_memory, limits)
    if config.freeze_gc:
        yield _Request(_GC, _stop_collecting, "")


def _usable_cpus() -> str:
    return ", ".join(map(str, sorted(os.sched_getaffinity(0)))) if sys.platform == "linux" else ""


def _stay_on(cpus: tuple[int, ...], undo: ExitStack) -> None:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    undo.callback(os.sched_setaffinity, 0, before)


def _schedule_fifo(threads: tuple[int, ...], priority: int, undo: ExitStack) -> None:
    """These threads alone (0: the calling one): threads and processes that they start later are scheduled as usual.

    A loop that spins cannot take the machine: the kernel leaves 5 % to the others (sched_rt_runtime_us, sched(7)).
    """

    def restore(thread: int, policy: int, parameters: os.sched_param) -> None:
        with suppress(ProcessLookupError):  # a helper may have ended
            try:
                os.sched_setscheduler(thread, policy, parameters)
            except PermissionError:  # only root may take the flag away
                os.sched_setscheduler(thread, policy | os.SCHED_RESET_ON_FORK, parameters)

    for thread in threads:
        before = os.sched_getscheduler(thread), os.sched_getparam(thread)
        os.sched_setscheduler(thread, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(priority))
        undo.callback(restore, thread, *before)


def _sleep_sharply(undo: ExitStack) -> None:
    before_ns = _libc.prctl(_PR_GET_TIMERSLACK, 0, 0, 0, 0)
    _check(_libc.prctl(_PR_SET_TIMERSLACK, ctypes.c_ulong(_TIMER_SLACK_NS), 0, 0, 0))
    undo.callback(_libc.prctl, _PR_SET_TIMERSLACK, ctypes.c_ulong(before_ns), 0, 0, 0)


def _lock_memory(undo: ExitStack) -> None:
    """Keep every page that was touched in memory, and every page to come once it is touched.

    Without ONFAULT the kernel also loads what nobody will touch: all libraries, and 8 MiB of stack for each thread. Measured on this
    runtime with its policy: 224 MiB and 8 MiB a thread, against 66 MiB and nothing.
    """
    import resource  # which Windows lacks

    limit, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    # Granted under a limit, the lock would make an allocation in the middle of a run fail.
    if limit != resource.RLIM_INFINITY and not _has_capability(_CAP_IPC_LOCK):
        raise OSError(errno.ENOMEM, f"at most {limit / 2**20:.0f} MiB may be locked")
    _check(_libc.mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT))
    undo.callback(_libc.munlockall)


def _stop_collecting(undo: ExitStack) -> None:
    """Nothing that exists is ever looked at again, and no collection starts: one of 10⁶ objects takes 178 ms.

    Reference counts free all that is in no cycle, so this is safe as long as what runs at every tick makes none: no object that
    refers to itself by way of others, no exception kept with its traceback. A test of the control loop counts them: none.
    """
    was_enabled = gc.isenabled()
    gc.collect()
    gc.freeze()
    gc.disable()
    undo.callback(gc.unfreeze)
    if was_enabled:
        undo.callback(gc.enable)


def _has_capability(bit: int) -> bool:
    """Whether this process has one of root's powers (capabilities(7))."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return False
    return bool(int(status.split("CapEff:")[1].split()[0], 16) >> bit & 1)


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
