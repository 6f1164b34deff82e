"""`dofbot export`: a trained actor becomes one policy file that says how it was trained and how well it does."""

import shutil
import tempfile
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
from torch import nn

from edge.contract import Contract, Training
from edge.errors import DofbotError, PolicyError
from trainer import checkpoint, plots, spec
from trainer.env import DofbotGrasp
from trainer.evaluate import SEED, Outcome, evaluate, open_policy, summarise, write_csv
from trainer.export import Examples, export_onnx
from trainer.runlog import CURVE
from trainer.sac.networks import Actor

EXAMPLE_EPISODES = 4  # whose observations become golden vectors
EXAMPLE_SEED = 3_000_000

Watch = Callable[[Iterable[Outcome]], Iterable[Outcome]]  # wraps the outcomes as they come, to show progress


class Trained(NamedTuple):
    """What a checkpoint gives to export: the actor as a torch module, its contract, and how it came to be."""

    actor: nn.Module
    contract: Contract
    training: Training


def open_trained(source: Path) -> Trained:
    """The actor of a run's folder, of a full checkpoint or of an actor's own, by either algorithm."""
    path = source
    if source.is_dir():
        found = [source / name for name in (checkpoint.NAME, "checkpoint.zip") if (source / name).exists()]
        if not found:
            raise DofbotError(f"{source} has no {checkpoint.NAME}; give the folder of a 'dofbot train' run, or a checkpoint")
        path = found[0]
    if path.suffix == ".zip":
        from trainer import sb3  # only here: Stable-Baselines3 is slow to import, and not needed for our own

        loaded = sb3.load(path)
        header, env_steps, wall_s, algorithm = loaded.header, loaded.model.num_timesteps, loaded.wall_s, "sb3-sac"
        actor: nn.Module = sb3.Sb3Actor(loaded.model)
    else:
        stored = checkpoint.load(path)
        header, env_steps, wall_s, algorithm = stored.header, stored.env_steps, stored.wall_s, "sac"
        actor = Actor(header.contract)
        actor.load_state_dict(stored.actor)
    checkpoint.check_contract(path, header.contract, spec.contract(header.contract.variant))
    settings = header.settings
    training = Training(header.commit, algorithm, settings.seed, env_steps, wall_s, settings.randomisation, header.contract.variant)
    return Trained(actor, header.contract, training)


def publish(source: Path, out: Path, suites: list[str], episodes: int, watch: Watch, force: bool = False) -> Contract:
    """Export, evaluate the exported file on each suite, export again with the records in it.

    Beside `out`: per-episode outcomes and a map of the first suite, and the training curve. Raises `PolicyError` when
    `out` exists and `force` is false.
    """
    if out.exists() and not force:
        raise PolicyError(f"{out} exists already; move it away or give --force to replace it")
    trained = open_trained(source)
    contract = msgspec.structs.replace(trained.contract, training=trained.training)
    examples = collect_examples(contract)
    records = []
    with tempfile.TemporaryDirectory() as folder:
        draft = Path(folder) / "draft.onnx"
        export_onnx(trained.actor, contract, examples, draft)
        for suite in suites:
            outcomes = list(watch(evaluate(partial(open_policy, draft, suite), episodes, SEED)))
            records.append(summarise(outcomes, suite))
            if len(records) == 1:
                out.parent.mkdir(parents=True, exist_ok=True)
                write_csv(outcomes, out.with_suffix(".csv"))
                plots.success_map(outcomes, contract, f"{out.name}, {suite}", out.with_suffix(".png"))
    contract = export_onnx(trained.actor, msgspec.structs.replace(contract, evaluation=tuple(records)), examples, out, overwrite=force)
    run = source if source.is_dir() else source.parent
    for name in (Path(CURVE), Path(CURVE).with_suffix(".png")):
        if (run / name).exists():
            shutil.copyfile(run / name, out.with_name(f"{out.stem}-{name}"))
    return contract


def collect_examples(contract: Contract) -> Examples:
    """Observations on the expert's way to a few blocks, every fifth."""
    env = DofbotGrasp(contract)
    sights, proprio = [], []
    for episode in range(EXAMPLE_EPISODES):
        observation, _ = env.reset(seed=EXAMPLE_SEED + episode)
        for step in range(contract.episode.steps - 1):
            if step % 5 == 0:
                sights.append(observation[contract.sight.field])
                proprio.append(observation["proprio"])
            observation, *_ = env.step(env.expert_action())
    env.close()
    seen = {"depth": None, contract.sight.field: np.stack(sights)}
    return Examples(proprio=np.stack(proprio), **seen)
