"""Whatever a policy does, a decision is there in time, or the loop is told why not."""

import contextlib
import gc
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from edge.errors import LatePolicyError, PolicyError
from edge.messages import Float32
from edge.policies import decider
from edge.policies.decider import Decider

SIGHT, PROPRIO = np.zeros((4, 4), np.float32), np.zeros(6, np.float32)


def action(*values: float) -> Float32:
    return np.array(values, np.float32)


class Thinker:
    """A policy that does what `act` says."""

    def __init__(self, think: Callable[[], Float32]) -> None:
        self.think = think
        self.threads: set[int] = set()

    def act(self, sight: Float32, proprio: Float32) -> Float32:
        self.threads.add(threading.get_ident())
        return self.think()


def failing(error: Exception) -> Callable[[], Float32]:
    def think() -> Float32:
        raise error

    return think


@pytest.fixture(params=["direct", "thread"])
def decide(request, monkeypatch) -> Iterator[Callable[[Thinker], Decider]]:
    """Makes deciders; a busy machine is no late policy here."""
    monkeypatch.setattr(decider, "WITHIN_S", 5.0)
    made: list[Decider] = []

    def make(policy: Thinker) -> Decider:
        made.append(Decider(policy, clock_is_virtual=request.param == "direct"))
        return made[-1]

    yield make
    for one in made:
        one.close()
        if request.param == "thread":
            one.thread.join(5.0)
            assert not one.thread.is_alive()


def test_an_action_comes_back_and_its_time_is_told(decide) -> None:
    decides = decide(Thinker(lambda: action(0.5, -1.0)))
    assert decides.decide(SIGHT, PROPRIO).tolist() == [0.5, -1.0]
    assert 0.0 < decides.took_s < 5.0


@pytest.mark.parametrize("bad", [(np.nan, 0.0), (0.0, np.inf), (-np.inf, 0.0), (1.0 + 1e-5, 0.0), (0.0, -2.0)])
def test_what_is_no_move_is_refused(bad, decide) -> None:
    with pytest.raises(PolicyError, match=r"expected finite numbers in \[-1, 1\]") as raised:
        decide(Thinker(lambda: action(*bad))).decide(SIGHT, PROPRIO)
    assert not isinstance(raised.value, LatePolicyError)


def test_rounding_at_the_ends_of_the_range_is_none(decide) -> None:
    assert abs(decide(Thinker(lambda: action(1.0 + 1e-7, -1.0))).decide(SIGHT, PROPRIO)).max() == pytest.approx(1.0)


@pytest.mark.parametrize("error", [PolicyError("not that one"), RuntimeError("7"), MemoryError()])
def test_whatever_is_raised_is_a_policy_error_and_the_next_decision_is_made(error, decide) -> None:
    thinker = Thinker(failing(error))
    decides = decide(thinker)
    with pytest.raises(PolicyError, match="not that one" if isinstance(error, PolicyError) else f"failed .{type(error).__name__}"):
        decides.decide(SIGHT, PROPRIO)
    thinker.think = lambda: action(0.1, 0.1)
    assert decides.decide(SIGHT, PROPRIO)[0] == np.float32(0.1)


def test_failures_make_no_reference_cycles(decide) -> None:
    def refuse() -> Float32:
        raise PolicyError("no")  # a new one each time: the one in `failing` refers to itself

    decides = decide(Thinker(refuse))

    def fail() -> None:
        for _ in range(20):
            with contextlib.suppress(PolicyError):
                decides.decide(SIGHT, PROPRIO)

    fail()
    gc.collect()
    gc.disable()
    try:
        fail()
        assert gc.collect() == 0
    finally:
        gc.enable()


class Slow:
    """A policy in a thread that waits until it is told."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.value = 0.1

    def act(self, sight: Float32, proprio: Float32) -> Float32:
        assert self.go.wait(10.0)
        return action(self.value, 0.0)


@pytest.fixture
def slow() -> Iterator[tuple[Slow, Decider]]:
    policy = Slow()
    decides = Decider(policy, clock_is_virtual=False)
    yield policy, decides
    policy.go.set()
    decides.close()
    decides.thread.join(5.0)


def settled(decides: Decider) -> None:
    assert decides._thought is None or decides._thought.done.wait(5.0)


def test_a_late_policy_is_repeated_once_and_then_told_and_never_waited_for(slow, monkeypatch) -> None:
    policy, decides = slow
    policy.go.set()
    monkeypatch.setattr(decider, "WITHIN_S", 5.0)
    assert decides.decide(SIGHT, PROPRIO)[0] == np.float32(0.1)
    monkeypatch.setattr(decider, "WITHIN_S", 0.010)
    policy.go.clear()
    policy.value = 0.2
    began_s = time.monotonic()
    assert decides.decide(SIGHT, PROPRIO)[0] == np.float32(0.1)  # the last one, once
    with pytest.raises(LatePolicyError, match="has been thinking for"):
        decides.decide(SIGHT, PROPRIO)
    assert time.monotonic() - began_s < 1.0  # on a busy machine; 10 ms otherwise
    policy.go.set()
    settled(decides)
    policy.value = 0.3
    monkeypatch.setattr(decider, "WITHIN_S", 5.0)
    assert decides.decide(SIGHT, PROPRIO)[0] == np.float32(0.3)  # not what it thought of an old frame


def test_late_twice_running_is_told_though_it_answered_in_between(slow, monkeypatch) -> None:
    policy, decides = slow
    policy.go.set()
    monkeypatch.setattr(decider, "WITHIN_S", 5.0)
    decides.decide(SIGHT, PROPRIO)
    monkeypatch.setattr(decider, "WITHIN_S", 0.001)
    for attempt in range(2):
        policy.go.clear()
        if attempt:
            with pytest.raises(LatePolicyError, match="gave no action within 1 ms"):
                decides.decide(SIGHT, PROPRIO)
        else:
            decides.decide(SIGHT, PROPRIO)
        policy.go.set()
        settled(decides)


@pytest.mark.parametrize("anew", ["begin", "swap"])
def test_what_was_decided_before_is_not_repeated_in_another_approach_or_for_another_policy(anew, slow, monkeypatch) -> None:
    policy, decides = slow
    policy.go.set()
    monkeypatch.setattr(decider, "WITHIN_S", 5.0)
    decides.decide(SIGHT, PROPRIO)
    policy.go.clear()
    monkeypatch.setattr(decider, "WITHIN_S", 0.001)
    decides.begin() if anew == "begin" else decides.swap(policy)
    with pytest.raises(LatePolicyError, match="gave no action"):
        decides.decide(SIGHT, PROPRIO)


def test_another_policy_is_asked_after_a_swap(decide) -> None:
    decides = decide(Thinker(lambda: action(0.1, 0.0)))
    decides.decide(SIGHT, PROPRIO)
    decides.swap(Thinker(lambda: action(0.9, 0.0)))
    assert decides.decide(SIGHT, PROPRIO)[0] == np.float32(0.9)


def test_only_on_a_virtual_clock_it_thinks_in_our_thread() -> None:
    thinker = Thinker(lambda: action(0.0, 0.0))
    direct, threaded = Decider(thinker, clock_is_virtual=True), Decider(thinker, clock_is_virtual=False)
    assert not direct.thread.is_alive()
    direct.decide(SIGHT, PROPRIO)
    assert thinker.threads == {threading.get_ident()}
    threaded.close()
    threaded.thread.join(5.0)
