"""A policy's decisions on this machine before any of them moves the arm: all over its inputs, finite, and as fast as the loop demands."""

import time
from typing import NamedTuple

import numpy as np

from edge.contract import Contract
from edge.errors import LatePolicyError
from edge.messages import Float32
from edge.policies.decider import WITHIN_S
from edge.policy import Policy

RUNS = 300  # p99 is then the third slowest


class Shadow(NamedTuple):
    """What a shadow run has measured. Time is the processor's: the loop goes before all others (SCHED_FIFO), this process waits for it."""

    runs: int
    p99_s: float
    golden_error: float


def shadow(policy: Policy, seed: int = 0) -> Shadow:
    """Ask a policy that has replayed its golden vectors for `RUNS` decisions.

    Raises `PolicyError` for an action that is not finite or not in [-1, 1], `LatePolicyError` where the 99th percentile is above what
    the control loop waits for (`edge.policies.decider.WITHIN_S`).
    """
    drawn, durations_s = np.random.default_rng(seed), np.empty(RUNS)
    for run in range(RUNS):
        sight, proprio = _sight(policy.contract, run, drawn), _proprio(policy.contract, drawn)
        began_s = time.thread_time()
        policy.act(sight, proprio)
        durations_s[run] = time.thread_time() - began_s
    p99_s = float(np.percentile(durations_s, 99))
    if p99_s > WITHIN_S:
        found, most = f"{p99_s * 1e3:.3g} ms of processor time (99th percentile of {RUNS})", f"{WITHIN_S * 1e3:g} ms"
        raise LatePolicyError(f"a decision takes {found} here, expected at most {most}; train a smaller network")
    return Shadow(RUNS, p99_s, policy.golden_error)


def _sight(contract: Contract, run: int, drawn: np.random.Generator) -> Float32:
    """All far, all near, then noise; or places all over the box."""
    sight = contract.sight
    share = np.float32(run) if run < 2 else drawn.random(sight.shape, np.float32)
    return np.ascontiguousarray(np.broadcast_to(sight.low + share * (sight.high - sight.low), sight.shape), np.float32)


def _proprio(contract: Contract, drawn: np.random.Generator) -> Float32:
    """A tool in the workspace at any height of the descent, with any number of steps left (`edge.observation.proprio_input`)."""
    episode, scale_m = contract.episode, contract.action.scale_m
    left = drawn.uniform(0.0, episode.steps)
    height_m = episode.start_in_table_m[2] - (episode.steps - left) * episode.descent_per_step_m
    x_m, y_m = drawn.uniform(episode.workspace_min_in_table_m, episode.workspace_max_in_table_m)
    moved_m = drawn.uniform(-scale_m, scale_m, 2)
    return np.array((x_m, y_m, height_m, round(left), *moved_m), np.float32)
