"""Behaviour cloning, the control for learning by trial: `python -m trainer.bc` writes a policy file that only imitates.

Measure it beside a trained policy: `dofbot eval policy.onnx --against out/bc.onnx`.
"""

import time
from functools import partial
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
import torch
import typer
from torch import Tensor
from torch.nn import functional

from edge.contract import Contract, Training
from trainer import checkpoint, spec
from trainer.env import PRIVILEGED_FIELDS, DofbotGrasp
from trainer.export import export_onnx
from trainer.publish import collect_examples
from trainer.sac.collector import Collector
from trainer.sac.networks import POSE_SCALE_M, Actor
from trainer.sac.replay import Replay
from trainer.sac.sac import N_ENVS

EPISODES = 192  # of the noisy expert: three times what SAC is given
UPDATES = 6_000
BATCH = 128  # SAC's, as is the learning rate
LEARNING_RATE = 1e-3  # falls linearly to 0


def main(
    out: Annotated[Path, typer.Option(help="The policy file to write.")] = Path("out/bc.onnx"),
    seed: Annotated[int, typer.Option(min=0)] = 0,
    randomisation: Annotated[float, typer.Option(min=0.0, max=1.0)] = 1.0,
    episodes: Annotated[int, typer.Option(min=N_ENVS, help="Of the scripted expert, to imitate.")] = EPISODES,
    updates: Annotated[int, typer.Option(min=1)] = UPDATES,
) -> None:
    """Imitate the scripted expert, and export what was learnt."""
    if out.exists():
        raise typer.BadParameter(f"{out} exists already; move it away or give another --out")
    torch.set_num_threads(1)  # a second one waits busily, and makes updates five times slower beside another process
    began_s, contract = time.monotonic(), spec.contract()
    collector = Collector(partial(DofbotGrasp, contract, randomisation=randomisation), N_ENVS, (seed, 0))
    try:
        demos = collect(contract, collector, episodes)
    finally:
        collector.close()
    actor = clone(contract, demos, updates, seed)
    steps, wall_s = demos.rows * N_ENVS, time.monotonic() - began_s
    training = Training(checkpoint.commit(), "behaviour cloning", seed, steps, wall_s, randomisation, contract.variant)
    contract = msgspec.structs.replace(contract, training=training)
    export_onnx(actor, contract, collect_examples(contract), out)
    typer.echo(f"{out} written after {steps:,} steps of the expert and {updates:,} updates, {wall_s:.0f} s")


def collect(contract: Contract, collector: Collector, episodes: int) -> Replay:
    """What the noisy expert sees in so many episodes, and the privileged state there."""
    camera, steps = contract.camera.intrinsics, episodes * contract.episode.steps
    sizes = (len(contract.proprio.fields), len(PRIVILEGED_FIELDS), len(contract.action.fields))
    demos = Replay(steps, collector.n_envs, (camera.height // 2, camera.width // 2), *sizes)
    collector.request(None, demos.rows)
    demos.add(collector.result()[0])
    return demos


def clone(contract: Contract, demos: Replay, updates: int, seed: int) -> Actor:
    """An actor that does in each state what the expert would do there without its noise (Pomerleau 1989, ALVINN)."""
    torch.manual_seed(seed)
    rng, actor = np.random.default_rng(seed), Actor(contract)
    optimiser = torch.optim.AdamW(actor.parameters(), LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, updates)
    for _ in range(updates):
        batch = demos.sample(BATCH, rng)
        mean, _, _ = actor.distribution(batch.depth, batch.proprio)
        loss = functional.mse_loss(torch.tanh(mean), expert_action(batch.state, contract))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
    return actor


def expert_action(state: Tensor, contract: Contract) -> Tensor:
    """(n, 2) what `DofbotGrasp.expert_action` gives in privileged states (n, …)."""
    move = 0.5 * POSE_SCALE_M * state[:, :2] / contract.action.scale_m
    return move / move.abs().amax(1, keepdim=True).clamp(min=1.0)


if __name__ == "__main__":
    typer.run(main)
