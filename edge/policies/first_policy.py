"""The policy that a process starts with: the active one, and where its file is of no use any more, the one before, or the version's own.

What the disk has lost since a policy was activated must not keep the arm from working; nothing on the disk changes here.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from edge.errors import LatePolicyError, PolicyError
from edge.policies.policy_slots import BUNDLED, PolicySlots
from edge.policy import Policy

_log = logging.getLogger(__name__)


class FirstPolicy(NamedTuple):
    """A policy, and why it is not the active one, for people to read; empty: it is."""

    policy: Policy
    warning: str


def first_policy(slots: PolicySlots, load: Callable[[Path], Policy]) -> FirstPolicy:
    """The first of active, previous and bundled that `load` takes; raises the last one's `PolicyError` when it takes none.

    One that is only slow just now is whole: its `LatePolicyError` ends the process, and systemd tries again.
    """
    *others, last = dict.fromkeys((slots.active, slots.linked("previous"), BUNDLED))
    warning = ""
    for name in others:
        try:
            return FirstPolicy(load(slots.path(name)), warning)
        except LatePolicyError:
            raise
        except PolicyError as error:
            _log.warning("policy %s does not start: %s", name, error)
            warning = warning or f"not the active one, {name}: {error}"
    return FirstPolicy(load(slots.path(last)), warning)
