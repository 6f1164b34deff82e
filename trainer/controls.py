"""What a policy has to beat: no eyes, no learning, or plain imitation. All act in the same environment."""

from collections.abc import Callable

import numpy as np
import torch
from torch.nn import functional

from edge.contract import Contract
from trainer.env import DofbotGrasp
from trainer.evaluate import Act
from trainer.sac.collector import Collector
from trainer.sac.networks import Actor
from trainer.sac.replay import Replay

BC_EPISODES = 192  # of the noisy expert: three times what SAC is given
BC_UPDATES = 6_000
BC_BATCH = 128


def blind(act: Act, contract: Contract) -> Act:
    """The same policy with its image replaced by a constant: what it does from the tool's position alone."""
    camera = contract.camera.intrinsics
    nothing = np.full((camera.height, camera.width), 0.5, np.float32)
    return lambda _depth, proprio: act(nothing, proprio)


def expert(env: DofbotGrasp) -> Act:
    """The scripted controller that knows the true position: the most that steering can reach in this world."""
    return lambda _depth, _proprio: env.expert_action()


def clone_behaviour(contract: Contract, collector: Collector, seed: int, report: Callable[[int], None]) -> Actor:
    """An actor that imitates the expert's own actions on the states that the noisy expert visits (Pomerleau 1989)."""
    torch.manual_seed(seed)
    rng, actor = np.random.default_rng(seed), Actor(contract)
    camera, rows = contract.camera.intrinsics, BC_EPISODES * contract.episode.steps
    n_envs = collector.n_envs
    replay = Replay(rows, n_envs, (camera.height // 2, camera.width // 2), len(contract.proprio.fields), 9, 2)
    collector.request(None, rows // n_envs)
    replay.add(collector.result()[0])
    optimiser = torch.optim.AdamW(actor.parameters(), 1e-3)
    for update in range(BC_UPDATES):
        for group in optimiser.param_groups:
            group["lr"] = 1e-3 * (1.0 - update / BC_UPDATES)
        batch = replay.sample(BC_BATCH, rng)
        mean, _, _ = actor.distribution(batch.depth, batch.proprio)
        loss = functional.mse_loss(torch.tanh(mean), expert_of(batch.state, contract))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        report(update + 1)
    return actor


def expert_of(state: torch.Tensor, contract: Contract) -> torch.Tensor:
    """(n, 2) what `DofbotGrasp.expert_action` does in privileged states (n, …), without noise."""
    move = 0.5 * 0.05 * state[:, :2] / contract.action.scale_m
    return move / move.abs().amax(1, keepdim=True).clamp(min=1.0)
