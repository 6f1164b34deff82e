"""The other core: a process that steps the environments while the learner learns, in lockstep by chunks."""

import multiprocessing as mp
from typing import Any

import numpy as np
import torch

from edge.contract import Contract
from trainer.env import DofbotGrasp
from trainer.sac.networks import Actor, halve

EXPERT_NOISE = 0.4  # of an action: demonstrations also show how to come back


class Collector:
    """Plays `n_envs` environments in a process of its own; `request` and `result` come in pairs, so runs repeat exactly."""

    def __init__(self, contract: Contract, n_envs: int, seed: int, env_options: dict[str, Any]) -> None:
        context = mp.get_context("spawn")  # a forked torch may hang on its own locks
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, contract, n_envs, seed, env_options), daemon=True)
        self._process.start()
        theirs.close()

    def request(self, actor: Actor | None, steps: int, spawn_fraction: float = 1.0) -> None:
        """Ask for `steps` time steps of every environment, by this actor (sampled), or by the expert when None."""
        weights = None if actor is None else {name: value.numpy().copy() for name, value in actor.state_dict().items()}
        self._pipe.send((weights, steps, spawn_fraction))

    def result(self) -> tuple[dict[str, np.ndarray], list[bool]]:
        """The chunk asked for, arrays (steps, n_envs, …), and the success of each episode that ended in it."""
        chunk, successes = self._pipe.recv()
        return chunk, successes

    def close(self) -> None:
        """End the process."""
        self._pipe.close()
        self._process.join(timeout=5)
        self._process.terminate()


def _serve(pipe: Any, contract: Contract, n_envs: int, seed: int, env_options: dict[str, Any]) -> None:
    """The collector process: answers requests until the pipe closes."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    envs = [DofbotGrasp(contract, **env_options) for _ in range(n_envs)]
    observations = [env.reset(seed=seed * 1000 + i)[0] for i, env in enumerate(envs)]
    actor = Actor(contract)
    try:
        while True:
            weights, steps, spawn_fraction = pipe.recv()
            for env in envs:
                env.spawn_fraction = spawn_fraction
            if weights is not None:
                actor.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
            rows, successes = [], []
            for _ in range(steps):
                row, observations = _step(envs, observations, None if weights is None else actor, rng, successes)
                rows.append(row)
            pipe.send(({name: np.stack([row[name] for row in rows]) for name in rows[0]}, successes))
    except (EOFError, KeyboardInterrupt):  # the learner has gone, or was told to stop and will close the pipe
        return


def _step(
    envs: list[DofbotGrasp], observations: list[dict[str, np.ndarray]], actor: Actor | None, rng: np.random.Generator, successes: list[bool]
) -> tuple[dict[str, np.ndarray], list[dict[str, np.ndarray]]]:
    """One step of all environments; an episode that ends starts anew."""
    state = np.stack([env.privileged() for env in envs])
    proprio = np.stack([observation["proprio"] for observation in observations])
    halved = halve(torch.from_numpy(np.stack([observation["depth"] for observation in observations])))
    if actor is None:
        noise = EXPERT_NOISE * rng.standard_normal((len(envs), 2))
        action = np.clip(np.stack([env.expert_action() for env in envs]) + noise, -1.0, 1.0).astype(np.float32)
    else:
        with torch.no_grad():
            action = actor.sample(halved, torch.from_numpy(proprio))[0].numpy()
    reward, done, following = np.zeros(len(envs), np.float32), np.zeros(len(envs), np.bool_), []
    for i, env in enumerate(envs):
        observation, reward[i], done[i], _, info = env.step(action[i])
        if done[i]:
            successes.append(info["is_success"])
            observation, _ = env.reset()
        following.append(observation)
    pixels = (halved[:, 0] * 255.0).round().to(torch.uint8).numpy()
    return {"depth": pixels, "proprio": proprio, "state": state, "action": action, "reward": reward, "done": done}, following
