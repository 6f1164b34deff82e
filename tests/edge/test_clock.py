"""The pacer keeps its rate without drift and without bursts; clocks sleep to absolute deadlines."""

import math
import signal
import threading
import time
from collections.abc import Iterable
from itertools import pairwise, repeat
from statistics import median

import numpy as np
import pytest

from edge.clock import MonotonicClock, Pacer, SteppedClock, VirtualClock
from edge.errors import BusError

RATE_HZ = 50.0
PERIOD_S = 1.0 / RATE_HZ


class FakeClock:
    """Time passes only in `work` and `sleep_until`; every sleep wakes late by the next of `oversleeps_s`."""

    def __init__(self, start_s: float = 1000.0, oversleeps_s: Iterable[float] = repeat(0.0)) -> None:
        self.time_s = start_s
        self.oversleeps_s = iter(oversleeps_s)

    def now_s(self) -> float:
        return self.time_s

    def sleep_until(self, deadline_s: float) -> None:
        if deadline_s > self.time_s:
            self.time_s = deadline_s + next(self.oversleeps_s)

    def work(self, duration_s: float) -> None:
        self.time_s += duration_s


def run(works_s: list[float], clock: FakeClock) -> tuple[Pacer, list[float], list[float]]:
    """Pace through the given work; returns the pacer, when each tick came (periods since the start), and how late it was (s)."""
    pacer = Pacer(clock, RATE_HZ)
    start_s = clock.now_s()
    ticks, lateness_s = [], []
    for work_s in works_s:
        lateness_s.append(pacer.wait())
        ticks.append((clock.now_s() - start_s) / PERIOD_S)
        clock.work(work_s)
    return pacer, ticks, lateness_s


@pytest.mark.parametrize("overrun_s", [0.006, 0.019, 0.030, 0.055])
def test_overruns_of_2_percent_do_not_add_up_and_never_burst(overrun_s) -> None:
    works_s = [PERIOD_S + overrun_s if tick % 50 == 25 else 0.004 for tick in range(1500)]  # 30 s at 50 Hz
    pacer, ticks, lateness_s = run(works_s, FakeClock(oversleeps_s=repeat(1e-4)))
    behind_s = (ticks[-1] - (len(ticks) + pacer.skipped)) * PERIOD_S
    assert 0.0 <= behind_s < 0.001
    assert len({int(tick) for tick in ticks}) == len(ticks), "two ticks in one period"
    assert max(lateness_s) >= overrun_s
    assert pacer.overruns == 30
    # Late by more than half a period: the next deadline would be too near.
    assert pacer.skipped == 30 * math.floor(overrun_s / PERIOD_S + 0.5 + 1e-4 / PERIOD_S)


def test_a_tick_late_by_less_than_a_period_comes_at_once() -> None:
    pacer, ticks, lateness_s = run([0.0, 1.25 * PERIOD_S, 0.0, 0.0], FakeClock())
    assert ticks == pytest.approx([1.0, 2.0, 3.25, 4.0])
    assert lateness_s == pytest.approx([0.0, 0.0, 0.25 * PERIOD_S, 0.0], abs=1e-9)
    assert (pacer.overruns, pacer.skipped) == (1, 0)


def test_a_tick_late_by_more_than_half_a_period_has_no_near_successor() -> None:
    pacer, ticks, lateness_s = run([0.0, 1.75 * PERIOD_S, 0.0, 0.0], FakeClock())
    assert ticks == pytest.approx([1.0, 2.0, 3.75, 5.0])
    assert lateness_s == pytest.approx([0.0, 0.0, 0.75 * PERIOD_S, 0.0], abs=1e-9)
    assert (pacer.overruns, pacer.skipped) == (1, 1)


def test_a_sleep_that_ends_periods_late_costs_deadlines_and_no_burst() -> None:
    """As when the kernel lets others run: the tick counts for the period in which it came."""
    pacer, ticks, lateness_s = run([0.1 * PERIOD_S] * 4, FakeClock(oversleeps_s=[0.0, 2.25 * PERIOD_S, 0.0, 0.0]))
    assert ticks == pytest.approx([1.0, 4.25, 5.0, 6.0])
    assert lateness_s == pytest.approx([0.0, 2.25 * PERIOD_S, 0.0, 0.0], abs=1e-9)
    assert (pacer.overruns, pacer.skipped) == (0, 2)


@pytest.mark.parametrize("seed", range(5))
def test_no_two_ticks_or_commands_share_a_period_whatever_is_late(seed) -> None:
    rng = np.random.default_rng(seed)
    count = 3000
    works = np.where(rng.random(count) < 0.3, rng.exponential(2.0, count), rng.uniform(0.0, 0.49, count))
    oversleeps = np.where(rng.random(count) < 0.3, rng.exponential(1.0, count), 0.0)
    pacer, ticks, _ = run((works * PERIOD_S).tolist(), FakeClock(oversleeps_s=(oversleeps * PERIOD_S).tolist()))
    exact = np.array(ticks) + 1e-9  # they come at deadlines
    assert np.diff(np.floor(exact)).min() >= 1.0
    assert np.diff(exact).min() >= 0.5 - 1e-6
    commands = [tick + work for tick, work in zip(exact, works, strict=True) if work < 0.49]
    assert all(int(later) > int(earlier) for earlier, later in pairwise(commands))
    assert pacer.overruns > 300
    assert -1e-6 <= ticks[-1] - (count + pacer.skipped) < oversleeps.max() + 1.0


def test_a_long_stall_skips_to_the_grid_and_is_told() -> None:
    pacer, ticks, lateness_s = run([0.0, 10.5 * PERIOD_S, 0.0, 0.0], FakeClock())
    assert ticks == pytest.approx([1.0, 2.0, 13.0, 14.0])  # due at 3, ready at 12.5
    assert lateness_s == pytest.approx([0.0, 0.0, 10 * PERIOD_S, 0.0], abs=1e-9)
    assert (pacer.overruns, pacer.skipped) == (1, 10)


def test_constant_overload_gives_regular_ticks() -> None:
    pacer, ticks, _ = run([1.4 * PERIOD_S] * 1000, FakeClock())
    cells = [int(tick + 1e-6) for tick in ticks]
    assert len(set(cells)) == len(cells)
    assert len(ticks) + pacer.skipped == pytest.approx(ticks[-1], abs=1.0)


def test_half_an_hour_of_ticks_does_not_drift() -> None:
    pacer, ticks, _ = run([0.001] * 100_000, FakeClock(start_s=1e6))
    assert ticks[-1] == pytest.approx(100_000, abs=1e-6)
    assert pacer.skipped == 0


def test_monotonic_clock_sleeps_to_the_deadline_and_not_before() -> None:
    clock = MonotonicClock()
    for wait_s in (0.0005, 0.01, 0.02):
        deadline_s = clock.now_s() + wait_s
        clock.sleep_until(deadline_s)
        assert 0.0 <= clock.now_s() - deadline_s < 0.5


def test_monotonic_clock_does_not_sleep_for_the_past() -> None:
    clock = MonotonicClock()
    before_s = clock.now_s()
    for deadline_s in (before_s - 10.0, 0.0, -5.0):
        clock.sleep_until(deadline_s)
    assert clock.now_s() - before_s < 0.5


def test_a_libc_without_absolute_sleep_will_do(monkeypatch) -> None:
    monkeypatch.setattr("edge.clock._clock_nanosleep", None)
    test_monotonic_clock_sleeps_to_the_deadline_and_not_before()
    test_monotonic_clock_does_not_sleep_for_the_past()


@pytest.mark.parametrize("absolute", [True, False])
def test_a_signal_neither_shortens_nor_breaks_the_sleep(absolute, monkeypatch) -> None:
    if not absolute:
        monkeypatch.setattr("edge.clock._clock_nanosleep", None)
    handled: list[int] = []
    previous = signal.signal(signal.SIGUSR1, lambda number, _: handled.append(number))
    main = threading.main_thread().ident
    assert main is not None
    timers = [threading.Timer(delay_s, signal.pthread_kill, (main, signal.SIGUSR1)) for delay_s in (0.02, 0.04)]
    clock = MonotonicClock()
    deadline_s = clock.now_s() + 0.1
    for timer in timers:
        timer.start()
    clock.sleep_until(deadline_s)
    assert clock.now_s() >= deadline_s
    for timer in timers:
        timer.join()
    signal.signal(signal.SIGUSR1, previous)
    assert handled == [signal.SIGUSR1] * 2


def test_the_pacer_keeps_its_rate_on_the_real_clock() -> None:
    clock = MonotonicClock()
    start_s = clock.now_s()
    pacer = Pacer(clock, 200.0)
    lateness_s = [pacer.wait() for _ in range(40)]
    assert clock.now_s() - start_s >= 40 / 200.0
    assert min(lateness_s) >= 0.0
    assert median(lateness_s) < 0.005


class FakeLink:
    """What `VirtualClock` needs of a link."""

    now_s = 0.0

    def __init__(self) -> None:
        self.asked: list[float] = []

    def advance_to(self, now_s: float) -> None:
        if now_s > 1.0:
            raise BusError("gone")
        self.asked.append(now_s)
        self.now_s = now_s


def test_virtual_clock_passes_time_only_by_sleeping() -> None:
    link = FakeLink()
    clock = VirtualClock(link)
    started_s = time.monotonic()
    assert clock.now_s() == clock.now_s() == 0.0
    pacer = Pacer(clock, RATE_HZ)
    assert [pacer.wait() for _ in range(50)] == [0.0] * 50
    assert clock.now_s() == 1.0
    clock.sleep_until(0.5)
    assert clock.now_s() == 1.0
    assert len(link.asked) == 50
    assert time.monotonic() - started_s < 0.5
    with pytest.raises(BusError):
        clock.sleep_until(1.5)


def test_a_stepped_clock_moves_on_where_somebody_sleeps_and_never_back() -> None:
    clock = SteppedClock(2.0)
    clock.sleep_until(3.5)
    clock.sleep_until(1.0)
    assert clock.now_s() == 3.5
