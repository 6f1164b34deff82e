"""Evaluation on fresh blocks: success with its 95 % Wilson interval, and where and how it failed."""

import contextlib
import csv
import math
import multiprocessing as mp
import os
import signal
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from edge import policy as edge_policy
from edge.contract import Evaluation
from edge.messages import Float32
from trainer.env import DofbotGrasp
from trainer.suites import NOISE_SWEEP, SUITES, kind_of

if TYPE_CHECKING:
    from torch import nn

DRAWS = SUITES | NOISE_SWEEP
# Of the first evaluation episode. Training never gets there, and neither has any choice: settings were compared on blocks below it.
SEED = 10_000_000

Act = Callable[[Float32, Float32], Float32]  # depth (h, w) or block (3,), proprio (6,) → action (2,)
Open = Callable[[], tuple[DofbotGrasp, Act]]  # called once in each worker


class Outcome(NamedTuple):
    """One episode: where the block was, whether it was grasped, and how far the tool was off when the fingers closed."""

    seed: int
    block_x_m: float
    block_y_m: float
    block_yaw_rad: float
    is_success: bool
    miss_m: float  # to the first block; with two, the other one may be the one that was taken
    cause: str = ""  # of a failure, as `trainer.env` names it
    kind: str = "cube"  # of block, as `trainer.suites` names it


class Measured(NamedTuple):
    """One row of an evaluation: who was tried on which suite."""

    who: str
    suite: str
    outcomes: list[Outcome]
    wall_s: float


def wilson(successes: int, episodes: int) -> tuple[float, float]:
    """95 % score interval of a proportion (Wilson 1927)."""
    if episodes == 0:
        return 0.0, 1.0
    z, share = 1.959964, successes / episodes
    middle = share + z * z / (2 * episodes)
    spread = z * math.sqrt(share * (1 - share) / episodes + z * z / (4 * episodes * episodes))
    scale = 1 + z * z / episodes
    # the clamp is for rounding alone: of 600 in 600 the upper bound would be 1 - 2e-16
    return max(0.0, min(share, (middle - spread) / scale)), min(1.0, max(share, (middle + spread) / scale))


def summarise(outcomes: list[Outcome], suite: str) -> Evaluation:
    """The record that goes into a contract."""
    successes = sum(outcome.is_success for outcome in outcomes)
    return Evaluation(suite=suite, episodes=len(outcomes), successes=successes, interval_95=wilson(successes, len(outcomes)))


def misses_mm(outcomes: list[Outcome]) -> dict[str, float]:
    """How far the tool was off when the fingers closed: median, 95th percentile, worst."""
    p50, p95, worst = np.percentile([outcome.miss_m * 1e3 for outcome in outcomes], (50, 95, 100))
    return {"p50": float(p50), "p95": float(p95), "max": float(worst)}


def causes(outcomes: list[Outcome]) -> dict[str, int]:
    """How many failures of each kind, the most frequent first."""
    return dict(Counter(outcome.cause for outcome in outcomes if not outcome.is_success).most_common())


def worst(outcomes: list[Outcome]) -> Outcome:
    """The failure that was farthest off; where nothing failed, the grasp that was."""
    return max(outcomes, key=lambda outcome: (not outcome.is_success, outcome.miss_m))


def play(env: DofbotGrasp, act: Act, seed: int) -> Outcome:
    """One episode with a fresh block, by the deterministic policy."""
    observation, _ = env.reset(seed=seed)
    block, sight = env.scene.blocks[0], env.contract.sight
    while True:
        seen = observation[sight.field].reshape(sight.shape)
        observation, _, done, _, info = env.step(act(seen, observation["proprio"]))
        if done:
            end = (info["is_success"], info["miss_m"], info["cause"])
            return Outcome(seed, block.x_m, block.y_m, block.yaw_rad, *end, kind_of(env.scene.blocks))


def open_policy(path: Path, suite: str = "clean") -> tuple[DofbotGrasp, Act]:
    """A policy file, through `edge.policy` as the robot loads it, and the world that it was made for, with a suite's scenes."""
    policy = edge_policy.load(path)
    env = DofbotGrasp(policy.contract)
    env.draw = DRAWS[suite]
    return env, policy.act


def open_actor(path: Path, suite: str = "clean") -> tuple[DofbotGrasp, Act]:
    """The actor of a checkpoint, not exported, and a world with a suite's scenes."""
    from trainer.publish import open_trained  # brings torch, which a policy file does without

    trained = open_trained(path)
    env = DofbotGrasp(trained.contract)
    env.draw = DRAWS[suite]
    return env, act_of(trained.actor)


def act_of(actor: "nn.Module") -> Act:
    """A torch actor as numpy in, numpy out."""
    import torch

    torch.set_num_threads(1)
    actor.eval()

    def act(sight: Float32, proprio: Float32) -> Float32:
        batch = sight[None, None] if sight.ndim == 2 else sight[None]
        with torch.no_grad():
            action: Float32 = actor(torch.from_numpy(batch), torch.from_numpy(proprio[None]))[0].numpy()
        return action

    return act


def evaluate(open_: Open, episodes: int, seed: int = SEED, workers: int | None = None) -> Generator[Outcome]:
    """Play seeds `seed`, `seed` + 1, … on `workers` cores (None: all); outcomes come in that order, however the work was shared."""
    pool = ProcessPoolExecutor(workers or os.cpu_count(), mp.get_context("spawn"), _remember, (open_,))
    try:
        with deaf_to_interrupts():  # the workers start here
            outcomes = pool.map(_play_seed, range(seed, seed + episodes), chunksize=4)
        yield from outcomes
    finally:
        pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def deaf_to_interrupts() -> Iterator[None]:
    """Processes started in here ignore Ctrl-C, which the terminal sends to all: the parent alone decides how to end."""
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


_open: Open


def _remember(open_: Open) -> None:
    """In a worker. Opening waits for the first episode: an error there reaches the caller, one in here would not."""
    global _open  # a pool's initialiser has no other place to leave things
    _open = open_


@cache
def _opened() -> tuple[DofbotGrasp, Act]:
    return _open()


def _play_seed(seed: int) -> Outcome:
    return play(*_opened(), seed)


def write_csv(outcomes: list[Outcome], path: Path) -> None:
    """One line an episode."""
    with path.open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(Outcome._fields)
        for seed, x_m, y_m, yaw_rad, is_success, miss_m, cause, kind in outcomes:
            lines.writerow((seed, f"{x_m:.5f}", f"{y_m:.5f}", f"{yaw_rad:.4f}", int(is_success), f"{miss_m:.5f}", cause, kind))
