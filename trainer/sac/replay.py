"""Replay that stores everything once: a transition's successor is the next row of the same environment."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Batch(NamedTuple):
    """Tensors of n transitions; `not_done` is 0 at the episode's end, where there is nothing to bootstrap from."""

    depth: Tensor  # (n, 1, 32, 32) float32, halved; (n, 3) where the policy is given the block's position instead
    proprio: Tensor
    state: Tensor
    action: Tensor
    reward: Tensor  # (n, 1)
    not_done: Tensor  # (n, 1)
    next_depth: Tensor
    next_proprio: Tensor
    next_state: Tensor


class Replay:
    """A ring of `capacity` time steps of `n_envs` environments; `sight` is the shape of halved images, or of positions."""

    def __init__(self, capacity: int, n_envs: int, sight: tuple[int, ...], n_proprio: int, n_state: int, n_actions: int) -> None:
        self.rows = capacity // n_envs
        self.n_envs = n_envs
        self.written = 0  # rows ever written
        shape = (self.rows, n_envs)
        self.sight = np.zeros((*shape, *sight), np.uint8 if len(sight) == 2 else np.float32)
        self.proprio = np.zeros((*shape, n_proprio), np.float32)
        self.state = np.zeros((*shape, n_state), np.float32)
        self.action = np.zeros((*shape, n_actions), np.float32)
        self.reward = np.zeros(shape, np.float32)
        self.done = np.zeros(shape, np.bool_)
        self.cut = np.zeros(self.rows, np.bool_)  # rows whose successor is not the next row: a run was resumed there
        self._arrays = {
            "depth" if len(sight) == 2 else "block": self.sight,
            "proprio": self.proprio,
            "state": self.state,
            "action": self.action,
            "reward": self.reward,
            "done": self.done,
            "cut": self.cut,
        }

    def add(self, chunk: dict[str, np.ndarray]) -> None:
        """Some time steps of all environments; arrays (steps, n_envs, …) named as the fields are."""
        steps = len(chunk["reward"])
        rows = (self.written + np.arange(steps)) % self.rows
        for name, values in chunk.items():
            self._arrays[name][rows] = values
        self.cut[rows] = False
        self.written += steps

    def cut_here(self) -> None:
        """What is added next does not follow from what was added last."""
        if self.written:
            self.cut[self._newest] = True

    def __len__(self) -> int:
        """Transitions that can be drawn."""
        return len(self._usable()) * self.n_envs

    def sample(self, size: int, rng: np.random.Generator) -> Batch:
        """Uniform over all transitions whose successor is known, with replacement; there must be one."""
        usable = self._usable()
        row = usable[rng.integers(0, len(usable), size)]
        env = rng.integers(0, self.n_envs, size)
        following = (row + 1) % self.rows
        return Batch(
            _restored(self.sight[row, env]),
            torch.from_numpy(self.proprio[row, env]),
            torch.from_numpy(self.state[row, env]),
            torch.from_numpy(self.action[row, env]),
            torch.from_numpy(self.reward[row, env])[:, None],
            torch.from_numpy(~self.done[row, env])[:, None].float(),
            _restored(self.sight[following, env]),
            torch.from_numpy(self.proprio[following, env]),
            torch.from_numpy(self.state[following, env]),
        )

    def state_dict(self) -> dict[str, Tensor | int]:
        """What a checkpoint needs: the filled rows, not copied."""
        filled = min(self.written, self.rows)
        return {"written": self.written, **{name: torch.from_numpy(values[:filled]) for name, values in self._arrays.items()}}

    def load_state_dict(self, state: dict[str, Tensor | int]) -> None:
        """Put a checkpoint's rows back."""
        self.written = int(state["written"])
        for name, mine in self._arrays.items():
            values = state[name].numpy()  # type: ignore[union-attr]
            mine[: len(values)] = values

    @property
    def _newest(self) -> int:
        return (self.written - 1) % self.rows

    def _usable(self) -> np.ndarray:
        """Rows whose successor is the next row."""
        followed = ~self.cut[: min(self.written, self.rows)]
        if self.written:
            followed[self._newest] = False
        return np.flatnonzero(followed)


def concatenate(a: Batch, b: Batch) -> Batch:
    """Both batches as one."""
    return Batch(*(torch.cat([x, y]) for x, y in zip(a, b, strict=True)))


def keep(sight: Tensor) -> np.ndarray:
    """What is stored of what `trainer.sac.networks.shrink` gives: images as uint8, 1.25 mm a level, positions as they are."""
    return (sight[:, 0] * 255.0).round().to(torch.uint8).numpy() if sight.ndim == 4 else sight.numpy()


def _restored(kept: np.ndarray) -> Tensor:
    return torch.from_numpy(kept)[:, None].float().mul_(1.0 / 255.0) if kept.dtype == np.uint8 else torch.from_numpy(kept)
