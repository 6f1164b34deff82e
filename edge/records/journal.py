"""Says what the arm's state changes to, once, and why."""

import logging

from edge.states import Cause, Standing, State

_log = logging.getLogger(__name__)


class Journal:
    """The state as it was last told, and since when it has been so."""

    def __init__(self, now_s: float) -> None:
        self.since_s = now_s
        self._state: str = State.DISARMED
        self._cause: Cause | None = None

    def tell(self, state: str, standing: Standing, now_s: float) -> None:
        """Log a change of state, or of what it holds for."""
        before, cause = self._state, standing.cause if state == State.HOLD else None
        if (state, cause) == (before, self._cause):
            return
        lasted_s = now_s - self.since_s
        if state != before:
            self.since_s = now_s
        self._state, self._cause = state, cause
        if state == State.SAFE:
            _log.error("%s → SAFE: %s", before, standing.safe_reason)
        elif cause is not None:
            _log.warning("%s → HOLD: %s", before, standing.reasons[cause])
        elif before == State.HOLD:
            _log.warning("HOLD → %s after %.2f s", state, lasted_s)
        else:
            _log.info("%s → %s", before, state)
