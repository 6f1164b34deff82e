"""Evaluation on fresh blocks: success with its 95 % Wilson interval, and where and how it failed."""

import math
import multiprocessing as mp
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from edge import policy as edge_policy
from edge.contract import Evaluation
from edge.messages import Float32
from trainer.env import DofbotGrasp

SEED = 1_000_000  # of the first evaluation episode; training never gets there
Act = Callable[[Float32, Float32], Float32]  # depth (h, w), proprio (4,) → action (2,)


class Outcome(NamedTuple):
    """One episode: where the block was, whether it was grasped, and how far the tool was off when the fingers closed."""

    seed: int
    block_x_m: float
    block_y_m: float
    block_yaw_rad: float
    is_success: bool
    miss_m: float


def wilson(successes: int, episodes: int) -> tuple[float, float]:
    """95 % score interval of a proportion (Wilson 1927)."""
    if episodes == 0:
        return 0.0, 1.0
    z, share = 1.959964, successes / episodes
    middle = share + z * z / (2 * episodes)
    spread = z * math.sqrt(share * (1 - share) / episodes + z * z / (4 * episodes * episodes))
    scale = 1 + z * z / episodes
    return max(0.0, (middle - spread) / scale), min(1.0, (middle + spread) / scale)


def summarise(outcomes: list[Outcome], suite: str) -> Evaluation:
    """The record that goes into a contract."""
    successes = sum(outcome.is_success for outcome in outcomes)
    return Evaluation(suite=suite, episodes=len(outcomes), successes=successes, interval_95=wilson(successes, len(outcomes)))


def play(env: DofbotGrasp, act: Act, seed: int) -> Outcome:
    """One episode with a fresh block, by the deterministic policy."""
    observation, _ = env.reset(seed=seed)
    block = env.block
    while True:
        observation, _, done, _, info = env.step(act(observation["depth"][0], observation["proprio"]))
        if done:
            return Outcome(seed, block.x_m, block.y_m, block.yaw_rad, bool(info["is_success"]), float(info["miss_m"]))


def evaluate(path: Path, episodes: int, seed: int = SEED, workers: int = 2) -> Iterator[Outcome]:
    """Play the policy file through `edge.policy`, as the robot does, on `workers` cores; outcomes come in seed order."""
    context = mp.get_context("spawn")
    with context.Pool(workers, _open, (path,)) as pool:
        yield from pool.imap(_play_seed, range(seed, seed + episodes), chunksize=4)


_worker: tuple[DofbotGrasp, Act]


def _open(path: Path) -> None:
    """Each worker opens the policy and a world once."""
    global _worker  # a pool's initialiser has no other place to leave things
    policy = edge_policy.load(path)
    _worker = DofbotGrasp(policy.contract), policy.act


def _play_seed(seed: int) -> Outcome:
    return play(*_worker, seed)


def write_csv(outcomes: list[Outcome], path: Path) -> None:
    """One line an episode."""
    rows = np.array([tuple(outcome) for outcome in outcomes], dtype=float)
    np.savetxt(path, rows, fmt=("%d", "%.5f", "%.5f", "%.4f", "%d", "%.5f"), delimiter=",", header=",".join(Outcome._fields), comments="")
