"""Whatever the bus does, the caller has an answer in time, and nothing that was given up is sent."""

import contextlib
import gc
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from edge.buses.bus_writer import RELEASE_WITHIN_S, BusWriter
from edge.buses.lease import check_lease
from edge.buses.servos import SimulatorBus
from edge.config import BusConfig
from edge.errors import BusError
from edge.messages import JointCommand

REST = JointCommand(0.0, 0.0, 0.0, 0.0, 0.0, 0.03)
PATIENT_S = 0.1  # so that a busy machine reaches the transaction that hangs
LATE_S = 0.3  # and is no later than this


def command(number: int) -> JointCommand:
    return REST._replace(joint1_rad=number / 1000)


def unacknowledged() -> BusError:
    error = BusError("servo bus: nobody")
    error.__cause__ = OSError(121, "Remote I/O error")
    return error


class FakeBus:
    """Two transactions a write; `hook` is called before each and may hang or raise."""

    def __init__(self) -> None:
        self.hook: Callable[[str], None] = lambda what: None
        self.sent: list[tuple[str, float]] = []
        self.attempts = 0
        self.threads: set[int] = set()

    def open(self) -> None:
        self._transaction("open", 0.0)

    def write(self, command: JointCommand) -> None:
        self.attempts += 1
        self._transaction("first", command.joint1_rad)
        self._transaction("second", command.joint1_rad)

    def check(self) -> None:
        self._transaction("check", 0.0)

    def measured(self) -> JointCommand | None:
        return REST

    def release(self) -> None:
        self.hook("release")
        self.sent.append(("release", 0.0))

    def close(self) -> None:
        self._transaction("close", 0.0)

    def _transaction(self, what: str, value: float) -> None:
        self.threads.add(threading.get_ident())
        check_lease()
        self.hook(what)
        self.sent.append((what, value))

    def hang(self, at: str) -> threading.Event:
        """Hang once at a transaction until the event is set; nothing hangs for ever."""
        free, hung = threading.Event(), []

        def hook(what: str) -> None:
            if what == at and not hung:
                hung.append(what)
                free.wait(10.0)

        self.hook = hook
        return free


@pytest.fixture
def bus() -> FakeBus:
    return FakeBus()


@pytest.fixture
def writer(bus: FakeBus) -> Iterator[BusWriter]:
    writer = BusWriter(bus, clock_is_virtual=False)
    writer.open()
    bus.sent.clear()
    yield writer
    bus.hook = lambda what: None
    writer.close()


def eventually(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 5.0
    while not condition():
        assert time.monotonic() < deadline_s, "did not happen in 5 s"
        time.sleep(0.002)


def duration_s(call: Callable[[], object]) -> float:
    began_s = time.monotonic()
    call()
    return time.monotonic() - began_s


def refused(call: Callable[[], object], match: str) -> float:
    """How long a call took to raise `BusError`."""
    began_s = time.monotonic()
    with pytest.raises(BusError, match=match) as error:
        call()
    assert "\n" not in str(error.value)
    return time.monotonic() - began_s


# ------------------------------------------------------------------ when all is well


def test_writes_go_out_in_order_from_one_thread_that_is_not_ours(writer: BusWriter, bus: FakeBus) -> None:
    for number in range(100):
        writer.write(command(number), within_s=1.0)
        assert bus.sent[-1] == ("second", number / 1000)  # back when the bus took it
    assert [value for what, value in bus.sent if what == "first"] == [number / 1000 for number in range(100)]
    assert len(bus.threads) == 1
    assert threading.get_ident() not in bus.threads
    assert writer.verified.writes == 100
    assert time.monotonic() - writer.verified.at_s < 1.0
    assert writer.measured() == REST


def test_errors_of_the_bus_come_to_the_caller(writer: BusWriter, bus: FakeBus) -> None:
    def fail(what: str) -> None:
        raise BusError("servo bus: joint1 was sent too far")

    bus.hook = fail
    refused(lambda: writer.write(REST, within_s=1.0), "joint1 was sent too far")
    assert bus.attempts == 1  # an impossible command stays impossible
    assert writer.verified.writes == 0

    def break_down(what: str) -> None:
        raise ZeroDivisionError

    bus.hook = break_down
    with pytest.raises(ZeroDivisionError):
        writer.write(REST, within_s=1.0)
    bus.hook = lambda what: None
    writer.write(REST, within_s=1.0)


def test_before_open_and_after_close_nothing_is_sent(bus: FakeBus) -> None:
    writer = BusWriter(bus, clock_is_virtual=False)
    refused(lambda: writer.write(REST), "closed")
    writer.open()
    writer.close()
    bus.sent.clear()
    refused(lambda: writer.write(REST), "closed")
    assert bus.sent == []
    writer.open()
    writer.write(REST, within_s=1.0)
    writer.close()
    assert [what for what, _ in bus.sent] == ["open", "first", "second", "release", "close"]
    eventually(lambda: not any(thread.name.startswith("bus ") for thread in threading.enumerate()))


# ------------------------------------------------------------------ nobody acknowledges


def failing(count: int, at: str = "first", error: Callable[[], Exception] = unacknowledged) -> Callable[[str], None]:
    left = [count]

    def hook(what: str) -> None:
        if what == at and left[0]:
            left[0] -= 1
            raise error()

    return hook


@pytest.mark.parametrize("virtual", [False, True])
@pytest.mark.parametrize("at", ["first", "second"])
def test_two_lost_acknowledges_are_made_good_and_three_are_not(virtual: bool, at: str, bus: FakeBus, monkeypatch) -> None:
    monkeypatch.setattr("edge.buses.bus_writer.RETRY_WITHIN_S", 1.0)  # time is the next test's
    writer = BusWriter(bus, clock_is_virtual=virtual)
    writer.open()
    bus.hook = failing(2, at)
    writer.write(REST, within_s=1.0)
    assert (bus.attempts, writer.retries, writer.verified.writes) == (3, 2, 1)
    bus.hook = failing(3, at)
    refused(lambda: writer.write(REST, within_s=1.0), "nobody")
    assert (bus.attempts, writer.retries, writer.verified.writes) == (6, 4, 1)
    writer.close()


def test_no_retry_begins_after_its_budget_or_after_a_time_out(writer: BusWriter, bus: FakeBus, monkeypatch) -> None:
    monkeypatch.setattr("edge.buses.bus_writer.RETRY_WITHIN_S", 0.0)
    bus.hook = failing(1)
    refused(lambda: writer.write(REST, within_s=1.0), "nobody")
    assert bus.attempts == 1
    monkeypatch.setattr("edge.buses.bus_writer.RETRY_WITHIN_S", 1.0)

    def timed_out() -> BusError:
        error = BusError("servo bus: stuck")
        error.__cause__ = TimeoutError(110, "Connection timed out")
        return error

    bus.hook = failing(1, error=timed_out)
    refused(lambda: writer.write(REST, within_s=1.0), "stuck")
    assert bus.attempts == 2


def test_of_many_writes_with_5_percent_lost_hardly_one_fails(bus: FakeBus) -> None:
    writer = BusWriter(bus, clock_is_virtual=True)
    rng = np.random.default_rng(7)

    def lose(what: str) -> None:
        if rng.random() < 0.05:
            raise unacknowledged()

    bus.hook = lose
    failed = 0
    for number in range(5000):
        try:
            writer.write(command(number))
        except BusError:
            failed += 1
    assert 400 < writer.retries < 700
    assert 0 < failed <= 12  # two transactions a write, three attempts: 1 in 1080
    assert writer.verified.writes == 5000 - failed


# ------------------------------------------------------------------ the bus hangs


@pytest.mark.parametrize("at", ["first", "second"])
def test_a_hanging_bus_costs_the_caller_its_time_once_and_then_none(writer: BusWriter, bus: FakeBus, at: str) -> None:
    free = bus.hang(at)
    took_s = refused(lambda: writer.write(command(1), PATIENT_S), "writing took longer than 100 ms")
    assert PATIENT_S <= took_s < PATIENT_S + LATE_S
    for number in range(50):
        assert refused(lambda number=number: writer.write(command(number)), r"still busy since \d\.\d+ s") < LATE_S
    assert writer.verified.writes == 0
    free.set()
    eventually(lambda: not writer.is_busy)
    # What was under way when it hung has gone out; the rest of that command, and all that came meanwhile, has not.
    assert bus.sent == [(what, 0.001) for what in ("first", "second") if what <= at]
    assert writer.verified.writes == 0
    assert writer.delivered == (command(1) if at == "second" else None)
    writer.write(command(9), within_s=1.0)
    assert bus.sent[-2:] == [("first", 0.009), ("second", 0.009)]
    assert writer.verified.writes == 1


def test_what_was_decided_on_too_long_ago_is_not_sent(writer: BusWriter, bus: FakeBus) -> None:
    """The machine was busy in between, the servos have come to rest since, and the set point is of an arm that moves."""
    refused(lambda: writer.write(command(1), within_s=0.5, since_s=time.monotonic() - 0.6), "given up before all of it was sent")
    assert bus.sent == []
    assert writer.verified.writes == 0
    writer.write(command(2), within_s=0.5, since_s=time.monotonic() - 0.1)
    assert bus.sent == [("first", 0.002), ("second", 0.002)]


def test_a_retry_does_not_follow_once_the_caller_has_given_up(writer: BusWriter, bus: FakeBus, monkeypatch) -> None:
    monkeypatch.setattr("edge.buses.bus_writer.RETRY_WITHIN_S", 10.0)
    free = bus.hang("first")
    hang, then_fail = bus.hook, failing(1)

    def hook(what: str) -> None:
        hang(what)
        then_fail(what)

    bus.hook = hook
    refused(lambda: writer.write(command(1), PATIENT_S), "longer than")
    free.set()
    eventually(lambda: not writer.is_busy)
    assert bus.sent == []


def test_random_hangs_never_send_what_was_refused(writer: BusWriter, bus: FakeBus) -> None:
    rng = np.random.default_rng(8)
    taken, refusals = [], 0

    def hook(what: str) -> None:
        if rng.random() < 0.1:
            time.sleep(0.01)

    bus.hook = hook
    for number in range(1, 100):
        try:
            writer.write(command(number), within_s=0.005)
            taken.append(number / 1000)
        except BusError:
            refusals += 1
    eventually(lambda: not writer.is_busy)
    whole = [value for what, value in bus.sent if what == "second"]
    begun = [value for what, value in bus.sent if what == "first"]
    assert set(taken) <= set(whole)
    assert begun == sorted(begun)  # never an older one after a newer one
    assert refusals > 5
    assert writer.verified.writes <= len(whole)


# ------------------------------------------------------------------ release, close, reopen


def test_release_goes_past_what_hangs_and_comes_once_more_after_it(writer: BusWriter, bus: FakeBus) -> None:
    free = bus.hang("second")
    refused(lambda: writer.write(REST, PATIENT_S), "longer than")
    assert duration_s(writer.release) < 2 * RELEASE_WITHIN_S + LATE_S
    assert ("release", 0.0) in bus.sent
    free.set()
    eventually(lambda: not writer.is_busy)
    assert bus.sent[-1] == ("release", 0.0)  # the hung transaction came after the first release


def test_a_release_that_hangs_is_bounded_and_said(writer: BusWriter, bus: FakeBus, caplog: pytest.LogCaptureFixture) -> None:
    free = bus.hang("release")
    assert duration_s(writer.release) < 2 * RELEASE_WITHIN_S + LATE_S
    assert "may still be powered" in caplog.text
    assert refused(lambda: writer.write(REST), "busy with a release") < LATE_S
    assert duration_s(writer.release) < 2 * RELEASE_WITHIN_S + LATE_S
    free.set()
    eventually(lambda: not writer.is_busy)
    writer.write(REST, within_s=1.0)


def test_where_no_thread_is_to_be_had_the_servos_are_released_all_the_same(writer: BusWriter, bus: FakeBus, monkeypatch) -> None:
    def no_thread(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as machine:
        machine.setattr(threading.Thread, "start", no_thread)
        writer.release()
    assert bus.sent == [("release", 0.0)]
    assert not writer.is_busy
    writer.write(command(1))
    writer.release()
    assert bus.sent[-1] == ("release", 0.0)


def test_close_leaves_a_hanging_thread_to_end_by_itself(bus: FakeBus, caplog: pytest.LogCaptureFixture) -> None:
    writer = BusWriter(bus, clock_is_virtual=False)
    writer.open()
    free = bus.hang("first")
    refused(lambda: writer.write(REST, PATIENT_S), "longer than")
    assert duration_s(writer.close) < 3 * RELEASE_WITHIN_S + LATE_S
    assert "still hangs while closing" in caplog.text
    free.set()
    eventually(lambda: bus.sent[-1:] == [("close", 0.0)])


def test_a_device_that_was_reset_is_opened_anew_without_holding_the_caller(writer: BusWriter, bus: FakeBus) -> None:
    free = bus.hang("open")
    refused(lambda: writer.reopen(PATIENT_S), "opening took longer than 100 ms")
    refused(lambda: writer.write(REST), "still busy since")
    free.set()
    eventually(lambda: bus.sent == [("open", 0.0)])
    eventually(lambda: not writer.is_busy)
    writer.write(REST, within_s=1.0)
    bus.hook = failing(1, "open")
    refused(writer.reopen, "nobody")
    writer.reopen()


# ------------------------------------------------------------------ virtual clock


def test_on_a_virtual_clock_everything_happens_in_the_callers_thread(bus: FakeBus) -> None:
    writer = BusWriter(bus, clock_is_virtual=True)
    writer.open()
    writer.reopen()
    writer.write(REST, within_s=0.0)
    writer.release()
    writer.close()
    assert [what for what, _ in bus.sent] == ["open", "open", "first", "second", "release", "release", "close"]
    assert bus.threads == {threading.get_ident()}
    assert writer.verified.writes == 1
    assert writer.measured() == REST


def test_a_bus_that_knows_no_lease_is_written_to_all_the_same() -> None:
    taken: list[tuple[float, ...]] = []
    writer = BusWriter(SimulatorBus(BusConfig().servos, taken.append), clock_is_virtual=False)
    writer.open()
    writer.write(REST, within_s=1.0)
    assert writer.measured() is None
    writer.close()
    assert len(taken) == 3


def test_a_check_has_its_time_as_a_write_has(bus: FakeBus, writer: BusWriter) -> None:
    writer.check(PATIENT_S)
    assert bus.sent == [("check", 0.0)]
    free = bus.hang("check")
    assert refused(lambda: writer.check(PATIENT_S), "asking took longer than") < LATE_S
    free.set()


def test_what_ended_badly_after_its_time_can_be_asked_for_once(bus: FakeBus, writer: BusWriter) -> None:
    free = bus.hang("open")
    hang = bus.hook

    def fail(what: str) -> None:
        hang(what)
        raise BusError("servo 3 is silent")

    bus.hook = fail
    refused(lambda: writer.reopen(PATIENT_S), "opening took longer than")
    writer.check_last()  # under way: nothing is known
    free.set()
    eventually(lambda: not writer.is_busy)
    refused(writer.check_last, "servo 3 is silent")
    writer.check_last()


@pytest.mark.parametrize("clock_is_virtual", [False, True])
def test_failures_make_no_reference_cycles(clock_is_virtual: bool, bus: FakeBus) -> None:
    """At 50 a second, with the collector off, they would fill the memory while a bus is away."""

    def hook(what: str) -> None:
        if what == "first":
            raise BusError("nobody")

    writer = BusWriter(bus, clock_is_virtual)
    writer.open()
    bus.hook = hook

    def fail() -> None:
        for number in range(20):
            with contextlib.suppress(BusError):
                writer.write(command(number), 5.0)

    fail()
    gc.collect()
    gc.disable()
    try:
        fail()
        assert gc.collect() == 0
    finally:
        gc.enable()
        writer.close()
