"""The control loop's pace: how far behind schedule it ends, and how late its ticks are while others want the processor.

Beside it `sleep(period)` and the loop that LeRobot records with: its `precise_sleep`, run from its own package. Every row is a process
of its own: python tests/bench/loop.py LOOP SECONDS OVERRUN_EVERY [--realtime]
"""

import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import NamedTuple

from tables import Bench, Figures

from edge.clock import MonotonicClock, Pacer
from edge.config import RealtimeConfig
from edge.realtime import realtime
from edge.records.histogram import Histogram

RATE_HZ = 50.0
PERIOD_S = 1.0 / RATE_HZ
WORK_S, OVERRUN_S = 0.004, 0.025
OVERRUN_EVERY = 50  # ticks
HOGS_A_CORE = 2
CORES = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()  # before `run.py` takes one
LEROBOT = "lerobot==0.6.1"
FETCHED = Path(__file__).parents[2] / ".bench-venv" / LEROBOT
PRECISE_SLEEP = FETCHED / "lerobot/utils/robot_utils.py"
FETCH_LIMIT_S = 120.0
SHARED = "ticks in a period with another"
QUANTILES = {"p50": "p50", "p99": "p99", "p99.9": "p99_9", "max": "max"}
HOG = "import os\nparent = os.getppid()\nwhile os.getppid() == parent:\n    sum(range(100_000))"


class Ticks(NamedTuple):
    """What a loop did: when each tick came, counted from the start."""

    came_s: list[float]
    behind_s: float  # the last one, by the schedule
    skipped: int
    lateness: Histogram


def bench_pace(duration_s: float) -> Bench:
    """Ticks behind schedule at the end, with overruns."""
    shown = ("behind at the end ms", "deadlines skipped", SHARED, "Hz")
    loops = {"dofbot-grasp, Pacer": "ours", "sleep(period)": "sleep", f"{LEROBOT.replace('==', ' ')}, record loop": "lerobot"}
    missing = _fetch()
    rows = {
        name: {shown[0]: missing} if missing and loop == "lerobot" else _measure(loop, duration_s, OVERRUN_EVERY, shown)
        for name, loop in loops.items()
    }
    notes = (
        f"{RATE_HZ:.0f} Hz for {duration_s:.0f} s of ticks, {WORK_S * 1e3:.0f} ms of work in each, {OVERRUN_S * 1e3:.0f} ms in every "
        f"{OVERRUN_EVERY}th. Behind: when the last tick came, less when it was due. LeRobot's record loop ends each tick with "
        "precise_sleep(max(1 / fps - elapsed, 0)); the function is called from its package."
    )
    return Bench("Pace of the control loop", rows, {shown[0]: "< 20", SHARED: "0"}, notes)


def bench_hogs(duration_s: float) -> Bench:
    """Lateness of ticks while other processes never stop computing."""
    count = HOGS_A_CORE * len(CORES)
    shown = (*(f"{name} late ms" for name in QUANTILES), "deadlines skipped", SHARED)
    with _all_cores():
        rows = {"alone": _measure("ours", duration_s, 0, shown)}
        with _hogs(count):
            rows[f"{count} hogs"] = _measure("ours", duration_s, 0, shown)
            rows[f"{count} hogs, edge.realtime"] = _measure("ours", duration_s, 0, (*shown, "refused"), "--realtime")
    refused = rows[f"{count} hogs, edge.realtime"].pop("refused")
    notes = (
        f"{RATE_HZ:.0f} Hz for {duration_s:.0f} s, {WORK_S * 1e3:.0f} ms of work in each tick; {count} processes, as nice as the loop, "
        f"compute on {len(CORES)} cores. {'; '.join(refused) or 'All that edge.realtime asks for was granted'}."
    )
    return Bench("Lateness of ticks", rows, {"p99.9 late ms": "≤ 2", SHARED: "0"}, notes)


def _measure(loop: str, duration_s: float, overrun_every: int, shown: tuple[str, ...], *options: str) -> Figures:
    command = [sys.executable, __file__, loop, str(duration_s), str(overrun_every), *options]
    figures = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
    return {name: figures[name] for name in shown}


def _fetch() -> str:
    """Get LeRobot's package, without the gigabytes that it depends on; returns why that failed."""
    if PRECISE_SLEEP.exists():
        return ""
    # It asks for Python 3.12; the one module that is run here does not.
    options = ["--no-deps", "--only-binary", ":all:", "--ignore-requires-python", "--quiet", "--target", str(FETCHED)]
    try:
        subprocess.run([sys.executable, "-m", "pip", "install", *options, LEROBOT], capture_output=True, check=True, timeout=FETCH_LIMIT_S)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        return "not fetched"
    return ""


@contextmanager
def _all_cores() -> Iterator[None]:
    if not CORES:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, CORES)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def _hogs(count: int) -> Iterator[None]:
    """Processes that compute until the block is left, or this process is gone."""
    hogs = [subprocess.Popen([sys.executable, "-c", HOG]) for _ in range(count)]
    try:
        time.sleep(0.5)  # they start
        yield
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()


# What a row's own process does


def _work(duration_s: float) -> None:
    """Keep the processor for so long; what others take of it comes on top."""
    end_s = time.thread_time() + duration_s
    while time.thread_time() < end_s:
        pass


def _pace(works_s: list[float]) -> Ticks:
    clock, came_s, lateness = MonotonicClock(), [], Histogram()
    start_s, pacer = clock.now_s(), Pacer(clock, RATE_HZ)
    for work_s in works_s:
        lateness.add(pacer.wait())
        came_s.append(clock.now_s() - start_s)
        _work(work_s)
    due_s = (len(works_s) + pacer.skipped) * PERIOD_S
    return Ticks(came_s, came_s[-1] - due_s, pacer.skipped, lateness)


def _relative(works_s: list[float], sleep: Callable[[float], None]) -> Ticks:
    """A loop that sleeps for a while at the end of each tick; `sleep` is given how long the tick took."""
    came_s: list[float] = []
    lateness, start_s = Histogram(), time.perf_counter()
    for number, work_s in enumerate(works_s):
        began_s = time.perf_counter()
        came_s.append(began_s - start_s)
        lateness.add(came_s[-1] - number * PERIOD_S)
        _work(work_s)
        sleep(time.perf_counter() - began_s)
    return Ticks(came_s, came_s[-1] - (len(works_s) - 1) * PERIOD_S, 0, lateness)


def _lerobot(works_s: list[float]) -> Ticks:
    spec = importlib.util.spec_from_file_location("robot_utils", PRECISE_SLEEP)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return _relative(works_s, lambda elapsed_s: module.precise_sleep(max(PERIOD_S - elapsed_s, 0.0)))


LOOPS = {"ours": _pace, "sleep": lambda works_s: _relative(works_s, lambda _: time.sleep(PERIOD_S)), "lerobot": _lerobot}


def main() -> None:
    """Run one loop and print its figures."""
    loop, duration_s, overrun_every = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
    works_s = [
        OVERRUN_S if overrun_every and tick % overrun_every == overrun_every // 2 else WORK_S for tick in range(int(duration_s * RATE_HZ))
    ]
    with realtime(RealtimeConfig()) if "--realtime" in sys.argv else nullcontext(()) as grants:
        ticks = LOOPS[loop](works_s)
    late = ticks.lateness.durations()
    figures: Figures = {
        "behind at the end ms": ticks.behind_s * 1e3,
        **{f"{name} late ms": getattr(late, field) * 1e3 for name, field in QUANTILES.items()},
        "deadlines skipped": ticks.skipped,
        SHARED: len(ticks.came_s) - len({int(came_s / PERIOD_S + 1e-9) for came_s in ticks.came_s}),
        "Hz": (len(ticks.came_s) - 1) / (ticks.came_s[-1] - ticks.came_s[0]),
        "refused": [str(grant) for grant in grants if not grant.is_granted],
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
