"""A bus that takes nothing is opened anew, in time and without waiting, and nothing goes to it before."""

import threading
import time
from collections.abc import Iterator

import pytest

from edge import robot
from edge.buses.bus_recovery import BAD_TICKS, REOPEN_EVERY_S, RecoveringBus
from edge.buses.bus_writer import BusWriter
from edge.clock import MonotonicClock
from edge.errors import BusError
from edge.messages import JointCommand

PARK = JointCommand._make((*robot.PARK_RAD, 0.06))
TICK_S = 0.02


class FakeClock(MonotonicClock):
    time_s = 1000.0

    def now_s(self) -> float:
        return self.time_s


class FakeBus:
    """A chip that may be away, and that must be opened anew after that."""

    def __init__(self) -> None:
        self.is_away = False
        self.is_open = True
        self.calls: list[str] = []
        self.opening = threading.Event()
        self.opening.set()

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if self.is_away:
            raise BusError(f"no answer to {name}")

    def open(self) -> None:
        assert self.opening.wait(10.0)
        self.is_open = False
        self._call("open")
        self.is_open = True

    def write(self, command: JointCommand) -> None:
        self._call("write")
        if not self.is_open:
            raise BusError("closed")

    def check(self) -> None:
        self._call("check")
        if not self.is_open:
            raise BusError("closed")

    def measured(self) -> None:
        pass

    def release(self) -> None:
        pass

    def close(self) -> None:
        pass


class Line:
    """A recovering bus, tick by tick."""

    def __init__(self, clock_is_virtual: bool = True) -> None:
        self.chip, self.clock = FakeBus(), FakeClock()
        self.writer = BusWriter(self.chip, clock_is_virtual)
        self.writer.open()
        self.chip.calls.clear()
        self.bus = RecoveringBus(self.writer, self.clock)

    def tick(self) -> tuple[bool, bool]:
        """Whether it was opened anew, and whether it acknowledged."""
        self.clock.time_s += TICK_S
        return self.bus.tend(), self.bus.write(PARK, time.monotonic())


@pytest.mark.parametrize("ticks", range(1, BAD_TICKS))
def test_a_glitch_is_counted_and_forgotten(ticks, caplog) -> None:
    line = Line()
    line.chip.is_away = True
    assert [line.tick() for _ in range(ticks)] == [(False, False)] * ticks
    assert line.bus.problem == "no answer to write"
    assert not line.bus.is_lost
    line.chip.is_away = False
    assert line.tick() == (False, True)
    assert line.bus.problem == ""
    assert line.chip.calls == ["write"] * (ticks + 1)
    assert not caplog.messages


def test_a_lost_bus_is_opened_ten_times_a_second_and_gets_nothing_before_it_is(caplog) -> None:
    line = Line()
    line.chip.is_away = True
    ticks = [line.tick() for _ in range(50)]
    assert ticks == [(False, False)] * 50
    assert line.bus.is_lost
    assert line.bus.problem == "no answer to open"
    assert line.chip.calls[:BAD_TICKS] == ["write"] * BAD_TICKS
    assert set(line.chip.calls[BAD_TICKS:]) == {"open"}
    assert len(line.chip.calls) - BAD_TICKS == pytest.approx(47 * TICK_S / REOPEN_EVERY_S, abs=2)
    line.chip.is_away = False
    back = [line.tick() for _ in range(6)]
    assert back[-1] == (False, True)
    assert [opened for opened, _ in back].count(True) == 1
    assert (True, True) in back  # in the same tick
    assert (line.bus.is_lost, line.bus.problem) == (False, "")
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("the servo bus is back after 5")


@pytest.fixture
def threaded() -> Iterator[Line]:
    line = Line(clock_is_virtual=False)
    yield line
    line.chip.opening.set()
    line.writer.close()


def settle(line: Line) -> None:
    ends_s = time.monotonic() + 5.0
    while line.writer.is_busy:
        assert time.monotonic() < ends_s
        time.sleep(0.002)


def lose(line: Line) -> None:
    line.chip.is_away = True
    for _ in range(BAD_TICKS):
        line.tick()
        settle(line)
    assert line.bus.is_lost
    line.chip.calls.clear()


def test_opening_that_takes_longer_than_a_tick_is_not_waited_for_nor_begun_again(threaded) -> None:
    """A DOFBOT board takes 100 ms to open: as long as we wait between two attempts."""
    lose(threaded)
    threaded.chip.is_away = False
    threaded.chip.opening.clear()
    began_s = time.monotonic()
    assert [threaded.tick() for _ in range(20)] == [(False, False)] * 20
    assert time.monotonic() - began_s < 2.0
    assert threaded.bus.problem == "no answer to write"  # and not that opening takes a while
    threaded.chip.opening.set()
    settle(threaded)
    assert threaded.bus.tend()
    assert threaded.chip.calls == ["open"]
    threaded.chip.calls.clear()


def test_opening_that_fails_late_says_why_and_is_tried_again(threaded) -> None:
    lose(threaded)
    threaded.chip.opening.clear()
    assert threaded.tick() == (False, False)
    threaded.chip.opening.set()
    settle(threaded)
    threaded.clock.time_s += REOPEN_EVERY_S
    assert threaded.tick() == (False, False)
    assert threaded.bus.problem == "no answer to open"
    assert threaded.chip.calls == ["open"]
    threaded.tick()
    settle(threaded)
    assert threaded.chip.calls == ["open", "open"]


def test_a_bus_that_nothing_is_written_to_is_checked_and_opened_anew() -> None:
    line = Line()
    line.bus.check()
    assert line.bus.problem == ""
    line.chip.is_away = True
    for _ in range(5):
        line.clock.time_s += 0.2
        line.bus.check()
    assert line.bus.problem == "no answer to open"
    line.chip.is_away = False
    line.clock.time_s += 0.2
    line.bus.check()
    assert line.bus.problem == ""
    assert set(line.chip.calls) == {"check", "open"}
