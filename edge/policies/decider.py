"""Asks the policy in a thread of its own: however long it thinks, no tick waits for more than half its period."""

import time
from queue import SimpleQueue
from threading import Event, Thread
from typing import Protocol

import numpy as np

from edge.errors import DofbotError, LatePolicyError, PolicyError
from edge.messages import Float32

WITHIN_S = 0.010  # half a tick at 50 Hz; inference takes 0.3 ms
RANGE_SLACK = 1e-6  # tanh in float32 is at most 1 + 1e-7


class Acts(Protocol):
    """A policy, as far as deciding needs one."""

    def act(self, sight: Float32, proprio: Float32) -> Float32:
        """The action; raises `PolicyError`."""


class _Thought:
    """One question to the policy."""

    def __init__(self, sight: Float32, proprio: Float32) -> None:
        self.asked = sight, proprio
        self.began_s = time.monotonic()
        self.done = Event()
        self.action: Float32 | None = None
        self.problem = ""  # why there is none; no exception, whose traceback would lead back here: a cycle, and the collector may be off
        self.took_s = 0.0


class Decider:
    """The policy with its deadline; on a virtual clock, where thinking takes no time, it is asked directly."""

    def __init__(self, policy: Acts, clock_is_virtual: bool) -> None:
        self._policy = policy
        self._is_direct = clock_is_virtual
        self._last: Float32 | None = None
        self._late = 0
        self._thought: _Thought | None = None
        self._thoughts: SimpleQueue[_Thought | None] = SimpleQueue()
        self.thread = Thread(target=self._work, name="policy", daemon=True)
        if not clock_is_virtual:
            self.thread.start()
        self.took_s = 0.0  # of the last answer that came in time

    def begin(self) -> None:
        """Forget what was decided before: another approach begins."""
        self._last = None

    def swap(self, policy: Acts) -> None:
        """Ask another policy from now on."""
        self._policy, self._last = policy, None

    def decide(self, sight: Float32, proprio: Float32) -> Float32:
        """The action (2,) in [-1, 1]; the last one, once, where the policy is late.

        Raises `LatePolicyError` where it is late again, or has nothing to repeat; `PolicyError` as the policy does, and for
        an action that is not finite or out of range.
        """
        if self._thought is not None and not self._thought.done.is_set():
            thinks_s = time.monotonic() - self._thought.began_s
            raise LatePolicyError(f"the policy has been thinking for {thinks_s * 1e3:.0f} ms, expected {WITHIN_S * 1e3:g} ms at most")
        thought = self._thought = _Thought(sight, proprio)
        if self._is_direct:
            self._think(thought)
        else:
            self._thoughts.put(thought)
            if not thought.done.wait(WITHIN_S):
                return self._repeat()
        self._late = 0
        self.took_s = thought.took_s
        if thought.action is None:
            raise PolicyError(thought.problem)
        self._last = _checked(thought.action)
        return self._last

    def close(self) -> None:
        """End the thread, once it has stopped thinking. Never waits."""
        self._thoughts.put(None)

    def _repeat(self) -> Float32:
        self._late += 1
        if self._late > 1 or self._last is None:
            raise LatePolicyError(f"the policy gave no action within {WITHIN_S * 1e3:g} ms; is the machine busy?")
        return self._last

    def _work(self) -> None:
        while (thought := self._thoughts.get()) is not None:
            self._think(thought)

    def _think(self, thought: _Thought) -> None:
        began_s = time.perf_counter()
        try:
            thought.action = self._policy.act(*thought.asked)
        except DofbotError as error:
            thought.problem = str(error)
        except Exception as error:  # whatever a library raises, the arm holds
            thought.problem = f"the policy failed ({type(error).__name__}: {error}), expected an action; load it again"
        thought.took_s = time.perf_counter() - began_s
        thought.done.set()


def _checked(action: Float32) -> Float32:
    # Written so that NaN fails.
    if not bool((np.abs(action) <= 1.0 + RANGE_SLACK).all()):
        raise PolicyError(f"the policy's action is {action.tolist()}, expected finite numbers in [-1, 1]; check the policy file")
    return action
