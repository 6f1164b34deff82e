"""What may go wrong while the arm is armed, and what then happens: one table, and the pure rule that applies it.

    DISARMED ── arm ──► IDLE ── grasp ──► HOMING … PLACE ──► IDLE ── park ──► PARK ──► DISARMED
                          └────────── HOLD, from everywhere and back ──────────┘
    SAFE: latched. The arm is parked if it can be, the servos are switched off, and a person has to reset it.

HOLD keeps the set points where they are. Several causes at once: the severest wins, and each has its own time.
"""

from collections.abc import Mapping
from enum import StrEnum
from math import inf
from typing import NamedTuple


class State(StrEnum):
    """What the arm does, besides the phases of `edge.task`."""

    DISARMED = "DISARMED"
    IDLE = "IDLE"  # armed, waiting
    HOLD = "HOLD"
    SAFE = "SAFE"


class Cause(StrEnum):
    """What keeps the arm from going on."""

    CAMERA = "camera"  # no frame that the policy may act on
    POLICY = "policy"  # no action, or none that is a move: not finite, out of range
    LATE = "late policy"  # no action in time, twice running
    CLAMPED = "clamped"  # the gate cuts most of what is asked for
    BUS = "bus"  # set points are not acknowledged
    SERVO = "servo"  # a joint is not where it was sent
    HOST = "host"  # tick after tick overruns
    LINK = "link"  # whoever armed with a deadman is gone
    PERSON = "person"  # asked for
    TASK = "task"  # a phase does not end


class Reaction(NamedTuple):
    """What a cause leads to, from HOLD on. `parks`: the arm can still be driven to its park pose."""

    resumes: bool  # HOLD ends with its cause; else a person has to reset it
    safe_after_s: float  # of HOLD; inf: never
    parks: bool
    why: str


GIVE_UP_S = 5.0  # PX4 holds for 5 s before it acts (COM_FAIL_ACT_T)
REACTIONS: Mapping[Cause, Reaction] = {
    Cause.CAMERA: Reaction(True, GIVE_UP_S, True, "an old frame says little about the desk; a replugged camera is back in 3 s"),
    Cause.POLICY: Reaction(True, 0.04, True, "the third tick: a network that gives no number once will do so again"),
    Cause.LATE: Reaction(True, GIVE_UP_S, True, "a busy machine becomes free again"),
    Cause.CLAMPED: Reaction(False, GIVE_UP_S, True, "a policy that asks for what it never gets was made for another arm"),
    Cause.BUS: Reaction(True, GIVE_UP_S, False, "servos keep their last pulse meanwhile; a loose plug is pushed back in"),
    Cause.SERVO: Reaction(False, inf, False, "something, or somebody, is in the way: push no further, and do not move by yourself"),
    Cause.HOST: Reaction(True, GIVE_UP_S, True, "set points that come irregularly are jerks"),
    Cause.LINK: Reaction(True, GIVE_UP_S, True, "whoever wanted to watch does not watch any more"),
    Cause.PERSON: Reaction(True, inf, True, "it holds for as long as it was asked to, in SAFE as well"),
    Cause.TASK: Reaction(True, 0.0, True, "something keeps the arm from arriving, and more time will not change that"),
}


class Standing(NamedTuple):
    """Why the arm holds, for how long by now, and why it is in SAFE."""

    reasons: Mapping[Cause, str] = {}
    held_s: Mapping[Cause, float] = {}
    safe_cause: Cause | None = None
    safe_reason: str = ""

    @property
    def cause(self) -> Cause | None:
        """The severest cause of a HOLD: one that does not end by itself, then the oldest."""
        if not self.reasons:
            return None
        return min(self.reasons, key=lambda cause: (REACTIONS[cause].resumes, -self.held_s[cause]))

    @property
    def is_latched(self) -> bool:
        """Whether a person has to reset it."""
        return self.safe_cause is not None or any(not REACTIONS[cause].resumes for cause in self.reasons)

    def holding(self, cause: Cause, reason: str) -> "Standing":
        """As from now on, before the next tick judges it: with this cause …"""
        return self._replace(reasons={**self.reasons, cause: reason}, held_s={cause: 0.0, **self.held_s})

    def without(self, cause: Cause) -> "Standing":
        """… and without it."""
        reasons = {other: reason for other, reason in self.reasons.items() if other is not cause}
        return self._replace(reasons=reasons, held_s={other: self.held_s[other] for other in reasons})

    @property
    def latched(self) -> "Standing":
        """What of it only a person resets."""
        reasons = {cause: reason for cause, reason in self.reasons.items() if not REACTIONS[cause].resumes}
        return self._replace(reasons=reasons, held_s={cause: self.held_s[cause] for cause in reasons})


def blocking(reasons: Mapping[Cause, str], parking: bool) -> dict[Cause, str]:
    """What keeps the arm from moving; on its way to park it needs no eyes and no decisions, only servos."""
    return {cause: reason for cause, reason in reasons.items() if not (parking and REACTIONS[cause].parks)}


def judge(standing: Standing, problems: Mapping[Cause, str], tick_s: float) -> Standing:
    """The standing after a tick with these problems: HOLD while there are any, SAFE once one has lasted for too long.

    A cause that does not resume stays, with its first reason. SAFE stays, with its first cause.
    """
    reasons = dict(problems) | dict(standing.latched.reasons)
    held_s = {cause: standing.held_s.get(cause, 0.0) + tick_s for cause in reasons}
    cause, reason = standing.safe_cause, standing.safe_reason
    if cause is None:
        lasting = [cause for cause in reasons if held_s[cause] > REACTIONS[cause].safe_after_s + tick_s / 2.0]
        if lasting:
            cause = min(lasting, key=lambda one: REACTIONS[one].parks)  # a bus that is lost leaves nothing to park with
            reason = f"held for {held_s[cause]:.1f} s: {reasons[cause]}" if REACTIONS[cause].safe_after_s > 1.0 else reasons[cause]
    return Standing(reasons, held_s, cause, reason)
