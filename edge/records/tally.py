"""The books of the grasps: how many are wanted, what came of those that ended, and which try this is."""

import logging
from collections import defaultdict
from typing import NamedTuple, get_args

import numpy as np

from edge.records.record import KEPT_GRASPS, Grasp, Outcome
from edge.task import Phase

OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
TRIES = 2  # of a grasp: one that is missed is tried once more
ENDLESS = 10**9  # grasps: three centuries of them

_log = logging.getLogger(__name__)


class Counts(NamedTuple):
    """What has come of the grasps so far."""

    attempts: int = 0
    picked: int = 0
    missed: int = 0
    lost: int = 0


class Tally:
    """Counts grasps; whoever drives the arm tells it what happens."""

    def __init__(self, tick_hz: float) -> None:
        self.counts = Counts()
        self.wanted = 0  # grasps that are still to be done
        self._tick_hz = tick_hz
        self._tries = 0  # of the one under way
        self._phase_ticks: dict[str, int] = defaultdict(int)
        # All of it from the start on: objects that pile up for a day cannot be told from a leak.
        self._kept = np.empty(KEPT_GRASPS, [("result", np.uint8), ("tries", np.uint8), ("phase_ticks", np.uint32, len(Phase))])
        self._kept.fill(0)

    @property
    def grasps(self) -> tuple[Grasp, ...]:
        """The newest `KEPT_GRASPS`, the oldest first."""
        count = self.counts.attempts
        rows = [self._kept[number % KEPT_GRASPS] for number in range(max(count - KEPT_GRASPS, 0), count)]
        return tuple(Grasp(OUTCOMES[row["result"]], int(row["tries"]), self._phase_s(row["phase_ticks"])) for row in rows)

    def _phase_s(self, ticks: np.ndarray) -> dict[str, float]:
        return {phase: int(count) / self._tick_hz for phase, count in zip(Phase, ticks, strict=True) if count}

    def want(self, count: int) -> None:
        """So many grasps from now on; what was under way is forgotten."""
        self.wanted, self._tries = count, 0
        self._phase_ticks.clear()

    def abandon(self) -> None:
        """No more grasps; the one under way counts for nothing."""
        self.want(0)

    def tick(self, phase: str) -> None:
        """One tick of the grasp under way."""
        if self.wanted:
            self._phase_ticks[phase] += 1

    def conclude(self, result: Outcome) -> bool:
        """Book a try that has ended; returns whether another one is to follow, of this grasp or of the next."""
        self._tries += 1
        attempts, picked, missed, lost = self.counts
        if result == "missed" and self._tries < TRIES:
            _log.info("grasp %d: missed, tried once more", attempts + 1)
            return True
        ticks = [self._phase_ticks[phase] for phase in Phase]
        self._kept[attempts % KEPT_GRASPS] = OUTCOMES.index(result), self._tries, ticks
        self.counts = Counts(attempts + 1, picked + (result == "picked"), missed + (result == "missed"), lost + (result == "lost"))
        _log.info("grasp %d: %s", attempts + 1, result)
        self.want(self.wanted - 1)
        return self.wanted > 0
