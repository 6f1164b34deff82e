"""The other core: a process that steps the environments while the learner learns, in lockstep by chunks."""

import multiprocessing as mp
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from edge.errors import DofbotError
from trainer.evaluate import deaf_to_interrupts
from trainer.sac.networks import Actor, shrink
from trainer.sac.replay import keep

EXPERT_NOISE = 0.4  # of an action: demonstrations also show how to come back

Chunk = dict[str, np.ndarray]  # arrays (steps, n_envs, …), named as in `trainer.sac.replay`
MakeEnv = Callable[[], Any]  # a `DofbotGrasp`, or what has its contract, privileged, expert_action and spawn_fraction


class Rollout:
    """Steps `n_envs` environments at once. Seed, calls and torch's random state determine the chunks."""

    def __init__(self, make_env: MakeEnv, n_envs: int, seed: tuple[int, ...]) -> None:
        source = np.random.SeedSequence(seed)
        self._rng = np.random.default_rng(source.spawn(1)[0])
        self._envs = [make_env() for _ in range(n_envs)]
        # 64 random bits each: never one of the seeds that evaluation counts through
        seeds = source.spawn(1)[0].generate_state(n_envs, np.uint64)
        self._observations = [env.reset(seed=int(seed))[0] for env, seed in zip(self._envs, seeds, strict=True)]
        self._actor = Actor(self._envs[0].contract)
        self._field = self._envs[0].contract.sight.field

    def play(self, weights: Chunk | None, steps: int, spawn_fraction: float) -> tuple[Chunk, list[bool]]:
        """`steps` time steps by an actor with these weights (sampled), or by the expert when None; and each ended episode's success."""
        if weights is not None:
            self._actor.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
        for env in self._envs:
            env.spawn_fraction = spawn_fraction
        successes: list[bool] = []
        rows = [self._step(weights is None, successes) for _ in range(steps)]
        return {name: np.stack([row[name] for row in rows]) for name in rows[0]}, successes

    def _step(self, by_expert: bool, successes: list[bool]) -> Chunk:
        """One step of all environments; an episode that ends starts anew."""
        n = len(self._envs)
        state = np.stack([env.privileged() for env in self._envs])
        proprio = np.stack([observation["proprio"] for observation in self._observations])
        sight = shrink(torch.from_numpy(np.stack([observation[self._field] for observation in self._observations])))
        action = self._expert_actions() if by_expert else self._sampled_actions(sight, proprio)
        reward, done = np.zeros(n, np.float32), np.zeros(n, np.bool_)
        for i, env in enumerate(self._envs):
            self._observations[i], reward[i], done[i], _, info = env.step(action[i])
            if done[i]:
                successes.append(info["is_success"])
                self._observations[i], _ = env.reset()
        kept = {self._field: keep(sight), "proprio": proprio}
        return {**kept, "state": state, "action": action, "reward": reward, "done": done}

    def _sampled_actions(self, sight: torch.Tensor, proprio: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return self._actor.sample(sight, torch.from_numpy(proprio))[0].numpy()

    def _expert_actions(self) -> np.ndarray:
        wanted = np.stack([env.expert_action() for env in self._envs])
        return np.clip(wanted + EXPERT_NOISE * self._rng.standard_normal(wanted.shape), -1.0, 1.0).astype(np.float32)


class Collector:
    """A `Rollout` in a process of its own; `request` and `result` come in pairs, so runs repeat exactly."""

    def __init__(self, make_env: MakeEnv, n_envs: int, seed: tuple[int, ...]) -> None:
        self.n_envs = n_envs
        context = mp.get_context("spawn")  # a forked torch may hang on its own locks
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, make_env, n_envs, seed), daemon=True)
        with deaf_to_interrupts():
            self._process.start()
        theirs.close()

    def request(self, actor: Actor | None, steps: int, spawn_fraction: float = 1.0) -> None:
        """Ask for `steps` time steps of every environment, by this actor (sampled), or by the expert when None."""
        weights = None if actor is None else {name: value.numpy().copy() for name, value in actor.state_dict().items()}
        try:
            self._pipe.send((weights, steps, spawn_fraction))
        except OSError:
            raise self._ended() from None

    def result(self) -> tuple[Chunk, list[bool]]:
        """The chunk asked for, and the success of each episode that ended in it."""
        try:
            return self._pipe.recv()
        except (EOFError, OSError):
            raise self._ended() from None

    def close(self) -> None:
        """End the process."""
        self._pipe.close()
        self._process.join(timeout=5)
        self._process.terminate()

    def _ended(self) -> DofbotError:
        self._process.join(timeout=5)
        code = self._process.exitcode
        return DofbotError(
            f"the process that steps the environments ended (exit code {code}); see above, free memory, and resume the training"
        )


def _serve(pipe: Any, make_env: MakeEnv, n_envs: int, seed: tuple[int, ...]) -> None:
    """The collector process: answers requests until the pipe closes."""
    torch.set_num_threads(1)
    torch.manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))
    rollout = Rollout(make_env, n_envs, seed)
    try:
        while True:
            pipe.send(rollout.play(*pipe.recv()))
    except (EOFError, OSError):  # the learner has gone
        return
