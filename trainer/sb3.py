"""The same task with Stable-Baselines3's SAC: the yardstick for our own, on the same environment, reward and encoder."""

import io
import json
import time
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import msgspec
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import SAC
from stable_baselines3.common.buffers import DictReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import configure
from stable_baselines3.common.save_util import load_from_zip_file
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import Tensor, nn

from edge.errors import DofbotError
from edge.files import write_atomically
from trainer import checkpoint, spec
from trainer.runlog import Row, RunLog
from trainer.sac.networks import Encoder, halve
from trainer.sac.sac import N_ENVS, WINDOW, Settings
from trainer.train import Ending, Run, interrupts, more_steps, opener

NAME = "checkpoint.zip"  # in a run's folder: SB3's own format, plus our header in its JSON part
REPLAY_NAME = "replay.npz"
_ARRAYS = ("actions", "rewards", "dones", "timeouts")
_COUNTERS = ("num_timesteps", "_n_updates", "_episode_num")


class Halved(gym.ObservationWrapper):
    """Images as our own replay stores them, (1, 32, 32) uint8: SB3 keeps each twice, as float32 at full size 33 kB a step."""

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        full = env.observation_space
        assert isinstance(full, spaces.Dict)
        height, width = full["depth"].shape[1:]  # type: ignore[index]
        self.observation_space = spaces.Dict(
            depth=spaces.Box(0, 255, (1, height // 2, width // 2), np.uint8), proprio=spaces.Box(-np.inf, np.inf, full["proprio"].shape)
        )

    def observation(self, observation: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Area-pooled and rounded."""
        halved = halve(torch.from_numpy(observation["depth"][None]))[0]
        return {"depth": (halved * 255.0).round().to(torch.uint8).numpy(), "proprio": observation["proprio"]}


class Features(BaseFeaturesExtractor):
    """Our encoder, and proprioception scaled to about ±1, side by side."""

    proprio_scale: Tensor

    def __init__(self, observation_space: spaces.Dict, steps: int, image_features: int = 64) -> None:
        proprio = observation_space["proprio"].shape[0]  # type: ignore[index]
        super().__init__(observation_space, image_features + proprio)
        self.encoder = Encoder(image_features)
        self.register_buffer("proprio_scale", torch.tensor([0.05, 0.12, 0.06, steps, 0.01, 0.01]))

    def forward(self, observations: dict[str, Tensor]) -> Tensor:
        """(n, 64 + 6) features."""
        return torch.cat([self.encoder(observations["depth"]), observations["proprio"] / self.proprio_scale], 1)


class Sb3Actor(nn.Module):
    """SB3's actor as `trainer.export` wants it: depth (n, 1, 64, 64), proprio (n, 6) → tanh of the mean."""

    def __init__(self, model: SAC) -> None:
        super().__init__()
        actor = model.policy.actor
        self.features, self.latent, self.mean = actor.features_extractor, actor.latent_pi, actor.mu

    def forward(self, depth: Tensor, proprio: Tensor) -> Tensor:
        """The deterministic action (n, 2) in (-1, 1)."""
        return torch.tanh(self.mean(self.latent(self.features({"depth": halve(depth), "proprio": proprio}))))


class Sb3Checkpoint(NamedTuple):
    """A loaded run: the model has its weights, optimisers and counters, the replay is empty."""

    header: checkpoint.Header
    wall_s: float
    model: SAC


def train_sb3(out: Path, settings: Settings, until_success: float) -> tuple[Ending, Row]:
    """Start a run in `out`; of the settings those for demonstrations, auxiliary loss, privileged critics and curriculum do not apply."""
    contract = spec.contract()
    header = checkpoint.new_header(settings, contract)
    return _run(out, header, _new_model(header, N_ENVS), 0.0, until_success)


def resume_sb3(path: Path, env_steps: int | None, until_success: float) -> tuple[Ending, Row]:
    """Go on from a run's folder or checkpoint, with its settings and its replay, to `env_steps` in all."""
    path = path / NAME if path.is_dir() else path
    header, wall_s, model = load(path, N_ENVS)
    checkpoint.check_contract(path, header.contract, spec.contract())
    _load_replay(path.with_name(REPLAY_NAME), model.replay_buffer)
    return _run(path.parent, more_steps(header, env_steps, model.num_timesteps), model, wall_s, until_success)


def load(path: Path, n_envs: int = 1) -> Sb3Checkpoint:
    """A model from an SB3 zip of ours. Only weights and JSON are read from it: what SB3 pickles beside them is never run."""
    try:
        with zipfile.ZipFile(path) as archive:
            data = json.loads(archive.read("data"))
        document = json.loads(data["dofbot_header"])
        _, weights, variables = load_from_zip_file(path, load_data=False, device="cpu")
    except OSError as error:
        raise DofbotError(f"checkpoint {path} is not readable ({error.strerror}); give a run's folder or its {NAME}") from None
    except Exception:  # torch, zipfile and SB3 raise whatever they like
        raise DofbotError(f"checkpoint {path} is damaged or was not written by 'dofbot train'; take another one or train anew") from None
    header = checkpoint.check_header(path, document)
    model = _new_model(header, n_envs)
    model.set_parameters(weights, device="cpu")
    with torch.no_grad():
        model.log_ent_coef.copy_(variables["log_ent_coef"])  # type: ignore[union-attr, index]
    for name in _COUNTERS:
        setattr(model, name, data[name])
    return Sb3Checkpoint(header, data["dofbot_wall_s"], model)


def _new_model(header: checkpoint.Header, n_envs: int) -> SAC:
    settings, contract = header.settings, header.contract
    set_random_seed(settings.seed)

    def make() -> gym.Env:
        return Halved(gym.make("DofbotGrasp-v0", contract=contract, reward=settings.reward, randomisation=settings.randomisation))

    return SAC(
        "MultiInputPolicy",
        DummyVecEnv([make] * n_envs),
        learning_rate=settings.learning_rate,
        buffer_size=settings.capacity,
        learning_starts=settings.warmup_steps,
        batch_size=settings.batch,
        tau=settings.tau,
        gamma=settings.gamma,
        train_freq=4,  # of every environment: as our own chunks
        gradient_steps=settings.critic_updates,
        ent_coef=f"auto_{settings.alpha_start}",
        target_entropy=settings.target_entropy,
        stats_window_size=WINDOW,
        policy_kwargs={
            "features_extractor_class": Features,
            "features_extractor_kwargs": {"steps": contract.episode.steps},
            "net_arch": {"pi": [128, 128], "qf": [256, 256]},
        },
        device="cpu",
    )


class _Callback(BaseCallback):
    """Hands SB3's figures to a `Run`."""

    def __init__(self, run: Run, wall_s: float) -> None:
        super().__init__()
        self.row = Row(0, wall_s)
        self._run, self._started_s = run, time.monotonic() - wall_s

    def _on_step(self) -> bool:
        figures = self.logger.name_to_value
        successes = self.model.ep_success_buffer
        self.row = Row(
            env_steps=self.num_timesteps,
            wall_s=time.monotonic() - self._started_s,
            success=float(np.mean(successes)) if successes else np.nan,
            critic_loss=figures.get("train/critic_loss", np.nan),
            actor_loss=figures.get("train/actor_loss", np.nan),
            alpha=figures.get("train/ent_coef", np.nan),
        )
        return not self._run.report(self.row)


def _run(out: Path, header: checkpoint.Header, model: SAC, wall_s: float, until_success: float) -> tuple[Ending, Row]:
    settings, started_steps = header.settings, model.num_timesteps
    torch.set_num_threads(1)  # waiting OpenMP threads spin: with a second process about, two were six times slower
    seed = _env_seed(settings.seed, started_steps)
    model.get_env().seed(seed)  # type: ignore[union-attr]
    model.action_space.seed(seed)  # of the steps before learning

    def save() -> None:
        _save_replay(out / REPLAY_NAME, model)
        _save_model(out / NAME, header, model, callback.row.wall_s)

    def snapshot() -> None:
        _save_model(out / "actors" / f"{model.num_timesteps}.zip", header, model, callback.row.wall_s)

    def open_now() -> Any:
        return opener(Sb3Actor(model), header.contract, settings.randomisation)

    with interrupts() as stop_asked, RunLog(out, settings.env_steps, started_steps, wall_s) as log:
        model.set_logger(configure(str(out / "tensorboard"), ["tensorboard"]))
        run = Run(log, started_steps, until_success, save, snapshot, open_now, stop_asked)
        callback = _Callback(run, wall_s)
        with checkpoint.writing(out / "tensorboard"):
            model.learn(settings.env_steps - started_steps, callback, reset_num_timesteps=False)
        save()
        snapshot()
    return run.ending, callback.row


def _env_seed(seed: int, env_steps: int) -> int:
    """Of the first environment; 63 random bits, so never one that evaluation counts through."""
    return int(np.random.SeedSequence((seed, env_steps)).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _save_replay(path: Path, model: SAC) -> None:
    buffer = model.replay_buffer
    assert isinstance(buffer, DictReplayBuffer)
    filled = buffer.size()
    arrays = {name: getattr(buffer, name)[:filled] for name in _ARRAYS}
    for prefix, observations in (("", buffer.observations), ("next_", buffer.next_observations)):
        arrays.update({f"{prefix}{name}": values[:filled] for name, values in observations.items()})
    memory = io.BytesIO()
    np.savez(memory, pos=buffer.pos, full=buffer.full, **arrays)
    with checkpoint.writing(path):
        write_atomically(path, memory.getvalue())


def _save_model(path: Path, header: checkpoint.Header, model: SAC, wall_s: float) -> None:
    model.dofbot_header = msgspec.json.encode(header).decode()  # type: ignore[attr-defined]
    model.dofbot_wall_s = wall_s  # type: ignore[attr-defined]
    memory = io.BytesIO()
    model.save(memory)
    with checkpoint.writing(path):
        write_atomically(path, memory.getvalue())


def _load_replay(path: Path, buffer: Any) -> None:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            buffer.pos, buffer.full = int(arrays["pos"]), bool(arrays["full"])
            for name in _ARRAYS:
                getattr(buffer, name)[: len(arrays[name])] = arrays[name]
            for prefix, observations in (("", buffer.observations), ("next_", buffer.next_observations)):
                for name, values in observations.items():
                    values[: len(arrays[f"{prefix}{name}"])] = arrays[f"{prefix}{name}"]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        raise DofbotError(f"replay {path} is missing or damaged; train anew, or export the checkpoint beside it as it is") from None
