"""A new policy on trial: its grasps are counted, and one that misses too many is given up for the policy before."""

import logging
import math
import threading

from msgspec.structs import replace

from edge.config import PolicyConfig
from edge.errors import DofbotError, PolicyError
from edge.policies.policy_slots import NAME_DIGITS, PolicySlots, Trial
from edge.policy import Policy
from edge.records.tally import Counts

_log = logging.getLogger(__name__)


def judged(trial: Trial, config: PolicyConfig) -> Trial:
    """With its verdict, as soon as the grasps that are left cannot change it."""
    wanted = math.ceil(config.trial_success_min * config.trial_grasps - 1e-9)  # despite rounding, 0.7 of 20 is 14
    if trial.picked >= wanted:
        return replace(trial, verdict="proven")
    if trial.picked + config.trial_grasps - trial.grasps < wanted:
        return replace(trial, verdict="failed")
    return trial


class Probation:
    """Counts for the trial that is under way, if there is one.

    `count` and `begin` are for the control thread; the others read and write files.
    """

    def __init__(self, slots: PolicySlots, config: PolicyConfig) -> None:
        self._slots = slots
        self._config = config
        self._seen = Counts()
        self.look()
        self.begin()

    def look(self) -> None:
        """Read which trial there is now; that of the policy which decides goes on until `begin`."""
        self._found = self._slots.running_trial() if self._config.trial_grasps else None

    def begin(self) -> None:
        """Go over to the trial that was read, if there was one. For the control thread."""
        self._trial = self._found

    def count(self, counts: Counts, policy: Policy) -> Trial | None:
        """Book what came of the grasps since the last call; returns the trial if it has just failed."""
        grasps, picked = counts.attempts - self._seen.attempts, counts.picked - self._seen.picked
        self._seen = counts
        if not grasps or self._trial is None or policy.sha256[:NAME_DIGITS] != self._trial.to:
            return None
        trial = judged(replace(self._trial, grasps=self._trial.grasps + grasps, picked=self._trial.picked + picked), self._config)
        self._trial = None if trial.verdict else trial
        if trial.verdict == "failed":
            return trial
        # In a thread of its own: an SD card may take longer than a tick.
        threading.Thread(target=self._note, args=(trial,), name="policy trial", daemon=True).start()
        return None

    def give_up(self, trial: Trial) -> str:
        """From the next start on, the policy before; returns its path. Raises `PolicyError` or `OSError`."""
        with self._slots.locked():
            if not self._is_of(self._slots.running_trial(), trial):
                raise PolicyError(f"policy {trial.to} is no longer the active one, expected its trial to go on; somebody has changed it")
            self._slots.point("active", trial.before)
            self._slots.point("previous", trial.previous)
            self._slots.note(trial)
        return str(self._slots.path(trial.before))

    def _note(self, trial: Trial) -> None:
        try:
            with self._slots.locked():
                kept = self._slots.running_trial()
                if self._is_of(kept, trial) and kept is not None and kept.grasps < trial.grasps:
                    self._slots.note(trial)
        except (OSError, DofbotError) as error:
            _log.warning("how policy %s does is not kept (%s); after a restart it is counted anew", trial.to, error)

    @staticmethod
    def _is_of(kept: Trial | None, trial: Trial) -> bool:
        return kept is not None and (kept.to, kept.before) == (trial.to, trial.before)
