"""What the kernel grants is in force and told, what it refuses is told with a remedy, and afterwards all is as before."""

import ctypes
import gc
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edge import realtime as module
from edge.config import RealtimeConfig
from edge.realtime import Grant, realtime

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux's scheduler")
ALL = RealtimeConfig(cpus=(min(os.sched_getaffinity(0)),) if sys.platform == "linux" else ())
NOTHING = RealtimeConfig(fifo_priority=0, lock_memory=False, freeze_gc=False)
ROOT = Path(__file__).parents[2]


def slack_ns() -> int:
    return ctypes.CDLL(None).prctl(30, 0, 0, 0, 0)


def status(field: str) -> str:
    return Path("/proc/self/status").read_text().split(f"{field}:")[1].split()[0]


def state() -> tuple[object, ...]:
    """All that is asked for, as it is now."""
    scheduler = (os.sched_getscheduler(0), os.sched_getparam(0).sched_priority, os.sched_getaffinity(0))
    return *scheduler, slack_ns(), status("VmLck"), gc.isenabled(), gc.get_freeze_count() > 0


def by_what(grants: tuple[Grant, ...]) -> dict[str, Grant]:
    return {grant.what.split()[0]: grant for grant in grants}


@contextmanager
def refusing(monkeypatch, name: str, error: OSError) -> Iterator[None]:
    def refuse(*_: Any) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(os, name, refuse)
        yield


def test_what_is_granted_is_in_force_and_given_back() -> None:
    before = state()
    with realtime(ALL) as grants:
        found = by_what(grants)
        assert found["garbage"].is_granted
        assert not gc.isenabled()
        assert gc.get_freeze_count() > 0
        assert found["cores"].is_granted
        assert os.sched_getaffinity(0) == set(ALL.cpus)
        if found["SCHED_FIFO"].is_granted:
            assert os.sched_getscheduler(0) == os.SCHED_FIFO | os.SCHED_RESET_ON_FORK
            assert os.sched_getparam(0).sched_priority == ALL.fifo_priority
            assert "timer" not in found
        else:
            assert slack_ns() == 1
        if found["locked"].is_granted:
            assert int(status("VmLck")) > 10_000
    assert state() == before


def test_it_is_given_back_after_an_error_too() -> None:
    before = state()
    with pytest.raises(RuntimeError), realtime(ALL):
        raise RuntimeError
    assert state() == before


def test_threads_started_meanwhile_are_scheduled_as_usual() -> None:
    seen: list[int] = []
    with realtime(ALL):
        thread = threading.Thread(target=lambda: seen.append(os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK))
        thread.start()
        thread.join()
    assert seen == [os.SCHED_OTHER]


def test_a_refusal_has_its_reason_its_remedy_and_one_warning(monkeypatch, caplog) -> None:
    caplog.set_level(logging.INFO)
    before = state()
    with refusing(monkeypatch, "sched_setscheduler", PermissionError(1, "Operation not permitted")), realtime(ALL) as grants:
        assert slack_ns() == 1
    assert state() == before
    fifo = by_what(grants)["SCHED_FIFO"]
    assert str(fifo) == (
        "SCHED_FIFO 50: not granted (EPERM, Operation not permitted): "
        "add LimitRTPRIO=50 to the unit, or 'rtprio 50' to /etc/security/limits.d"
    )
    assert by_what(grants)["timer"].is_granted
    assert [record.getMessage() for record in caplog.records] == [str(grant) for grant in grants]
    assert [record.levelno == logging.WARNING for record in caplog.records] == [not grant.is_granted for grant in grants]


def test_a_core_that_is_not_there_is_refused_with_those_that_are() -> None:
    with realtime(msgspec.structs.replace(NOTHING, cpus=(1023,))) as grants:
        refused = by_what(grants)["cores"]
    assert "not granted (EINVAL" in str(refused)
    assert f"({', '.join(map(str, sorted(os.sched_getaffinity(0))))})" in refused.remedy


def test_memory_is_not_locked_under_a_limit_that_an_allocation_could_meet(monkeypatch) -> None:
    import resource

    monkeypatch.setattr(resource, "getrlimit", lambda _: (8 << 20, 8 << 20))
    monkeypatch.setattr(module, "_has_capability", lambda _: False)
    before = state()
    with realtime(msgspec.structs.replace(NOTHING, lock_memory=True)) as grants:
        assert status("VmLck") == before[4]
    assert str(by_what(grants)["locked"]) == (
        "locked memory: not granted (ENOMEM, at most 8 MiB may be locked): "
        "add LimitMEMLOCK=infinity to the unit, or 'memlock unlimited' to /etc/security/limits.d"
    )


def test_locking_loads_nothing_that_was_not_touched() -> None:
    """The stacks of threads above all: 8 MiB each."""
    program = """
import sys, threading
from edge.config import RealtimeConfig
from edge.realtime import realtime
from edge.records.record import resident_mb
before = resident_mb()
with realtime(RealtimeConfig(fifo_priority=0)) as grants:
    stop = threading.Event()
    threads = [threading.Thread(target=stop.wait) for _ in range(8)]
    [thread.start() for thread in threads]
    print([grant.is_granted for grant in grants if grant.what == "locked memory"][0], resident_mb() - before)
    stop.set()
    [thread.join() for thread in threads]
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    granted, grown_mb = done.stdout.split()
    if granted != "True":
        pytest.skip("memory may not be locked here")
    assert float(grown_mb) < 10.0


def test_without_root_and_limits_a_run_goes_on_and_is_told() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become nobody")
    program = """
import os, resource
resource.setrlimit(resource.RLIMIT_RTPRIO, (0, 0))
resource.setrlimit(resource.RLIMIT_MEMLOCK, (1 << 23, 1 << 23))
from edge.config import RealtimeConfig
from edge.realtime import realtime
os.setuid(65534)
with realtime(RealtimeConfig()) as grants:
    print(*grants, sep="\\n")
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    fifo, slack, memory, collector = done.stdout.splitlines()
    assert fifo.startswith("SCHED_FIFO 50: not granted (EPERM, ")
    assert slack == "timer slack 1 ns: granted"
    assert memory.startswith("locked memory: not granted (ENOMEM, at most 8 MiB may be locked): ")
    assert collector == "garbage collector off: granted"


def test_a_process_that_gave_up_root_meanwhile_gives_back_too() -> None:
    """Without it the kernel keeps the flag that new threads are scheduled as usual."""
    if os.geteuid() != 0:
        pytest.skip("only root can become nobody")
    program = """
import os
from edge.config import RealtimeConfig
from edge.realtime import realtime
with realtime(RealtimeConfig()):
    os.setuid(65534)
print(os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK, open("/proc/self/status").read().split("VmLck:")[1].split()[0])
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "0 0\n"


def test_nothing_asked_for_is_nothing_but_sharp_sleeps() -> None:
    before = state()
    with realtime(NOTHING) as grants:
        assert [str(grant) for grant in grants] == ["timer slack 1 ns: granted"]
    assert state() == before


def test_elsewhere_only_the_collector_is_stopped(monkeypatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with realtime(RealtimeConfig()) as grants:
        assert not gc.isenabled()
    assert [grant.what for grant in grants if grant.is_granted] == ["garbage collector off"]
    assert "SCHED_FIFO 50: not granted (this is darwin): run on Linux where timing matters" in map(str, grants)


def test_grants_go_into_a_file() -> None:
    with realtime(NOTHING) as grants:
        pass
    assert msgspec.json.decode(msgspec.json.encode(grants), type=tuple[Grant, ...]) == grants
