"""Soft Actor-Critic (Haarnoja et al. 2018, arXiv 1812.05905), changed where the task allows it, each with its source:

- the critics see the privileged state, the actor only images, or a measured position (Pinto et al. 2017, arXiv 1710.06542);
- half of each batch are demonstrations, critics have LayerNorm, the target has no entropy term (RLPD, arXiv 2302.02948);
- the last step is a true end, and the actor knows the steps left (Pardo et al. 2018, arXiv 1712.00378);
- an auxiliary head regresses the block's position, a label that is free in simulation (Jaderberg et al. 2016, arXiv 1611.05397).

The learner has one core, the environments the other; both work on alternate chunks in lockstep, so a seed repeats exactly.
"""

import copy
import math
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from msgspec import Struct
from torch import Tensor, nn
from torch.nn import functional

from edge.contract import Contract
from edge.errors import DofbotError
from trainer.env import PRIVILEGED_FIELDS
from trainer.sac.collector import Collector
from trainer.sac.networks import POSE_SCALE_M, Actor, Critic, SightedCritic
from trainer.sac.replay import Batch, Replay, concatenate

N_ENVS = 8
CHUNK_STEPS = 4  # of every environment between two exchanges with the collector
WINDOW = 64  # training episodes over which success is averaged
LEVELS = 4  # of the spawn area: the reference's 10 cm × 0 to 10 cm × 5 cm
LEVEL_EPISODES, LEVEL_SUCCESS = 50, 0.7  # to go on to the next one; the reference's is 7 of 10

Curriculum = Literal["none", "steps", "continuous"]


class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    """What can be chosen; the defaults are what `make train` uses."""

    env_steps: int = 150_000
    seed: int = 0
    batch: int = 128
    critic_updates: int = 4  # per chunk of 32 transitions: update-to-data ratio 1/8
    actor_every: int = 2  # critic updates
    gamma: float = 0.95
    tau: float = 0.01  # of the target critics, per critic update
    learning_rate: float = 1e-3  # at the start; falls linearly to a twentieth over `env_steps`
    alpha_start: float = 0.01  # SB3's 1.0 would drown a reward of 1 over 100 steps
    target_entropy: float = -3.0  # nats, for two actions: a standard deviation of about 0.05 of the range
    warmup_steps: int = 2_000  # of the environment, before the first update
    demo_episodes: int = 64  # of the scripted expert; 0 switches demonstrations off
    auxiliary: float = 1.0  # weight of the pose loss; 0 switches it off
    capacity: int = 100_000
    privileged: bool = True  # False: the critics see what the actor sees, a control
    reward: Literal["dense", "sparse"] = "dense"  # sparse: the grasp alone, as the reference has it
    curriculum: Curriculum = "none"
    randomisation: float = 0.0  # strength 0…1 of what `trainer.randomise` draws


class NotFiniteError(DofbotError):
    """A loss became NaN or infinite; the last checkpoint is still good."""


class Progress(NamedTuple):
    """What is reported after each chunk."""

    env_steps: int
    wall_s: float
    success: float  # over the last WINDOW training episodes, exploration noise included; NaN before the first ends
    spawn_fraction: float
    critic_loss: float
    actor_loss: float
    pose_error_m: float
    alpha: float


_PARTS = ("actor", "critic", "target", "actor_optimiser", "critic_optimiser", "alpha_optimiser", "replay", "demos")
_COUNTERS = ("env_steps", "updates", "wall_s", "spawn_fraction")


class Learner:
    """Networks, optimisers and replay: everything that a checkpoint holds."""

    def __init__(self, contract: Contract, settings: Settings) -> None:
        torch.manual_seed(settings.seed)
        self.settings = settings
        n_state, n_actions = len(PRIVILEGED_FIELDS), len(contract.action.fields)
        self.actor = Actor(contract)
        self.critic = Critic(n_state, n_actions) if settings.privileged else SightedCritic(contract, n_actions)
        self.target = copy.deepcopy(self.critic).requires_grad_(False)
        self.log_alpha = torch.tensor(math.log(settings.alpha_start), requires_grad=True)
        self.actor_optimiser = torch.optim.AdamW(self.actor.parameters(), settings.learning_rate, fused=True)
        self.critic_optimiser = torch.optim.AdamW(self.critic.parameters(), settings.learning_rate, fused=True)
        self.alpha_optimiser = torch.optim.Adam([self.log_alpha], settings.learning_rate)
        seen = contract.sight.shape
        sizes = (seen if contract.depth is None else (seen[0] // 2, seen[1] // 2), len(contract.proprio.fields), n_state, n_actions)
        self.replay = Replay(settings.capacity, N_ENVS, *sizes)
        self.demos = Replay(max(1, settings.demo_episodes) * contract.episode.steps, N_ENVS, *sizes)
        self.rng = np.random.default_rng(settings.seed)
        self.env_steps = 0
        self.updates = 0
        self.wall_s = 0.0
        self.spawn_fraction = 1.0 if settings.curriculum == "none" else 0.0
        self.successes: deque[bool] = deque(maxlen=WINDOW)
        self.losses = {"critic": math.nan, "actor": math.nan, "pose_m": math.nan}

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next update depends on, torch's random state included; tensors and plain values, not copied."""
        return {
            **{name: getattr(self, name).state_dict() for name in _PARTS},
            **{name: getattr(self, name) for name in _COUNTERS},
            "log_alpha": self.log_alpha.detach(),
            "losses": dict(self.losses),
            "successes": list(self.successes),
            "numpy_rng": self.rng.bit_generator.state,
            "torch_rng": torch.get_rng_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on exactly where `state_dict` was taken, from a learner with the same settings."""
        for name in _PARTS:
            getattr(self, name).load_state_dict(state[name])
        for name in _COUNTERS:
            setattr(self, name, state[name])
        with torch.no_grad():
            self.log_alpha.copy_(state["log_alpha"])
        self.losses = dict(state["losses"])
        self.successes = deque(state["successes"], maxlen=WINDOW)
        self.rng.bit_generator.state = state["numpy_rng"]
        torch.set_rng_state(state["torch_rng"])

    def update(self) -> None:
        """One critic update, and every `actor_every`-th time one of actor and temperature."""
        batch = self._sample()
        self._update_critic(batch)
        if self.updates % self.settings.actor_every == 0:
            self._update_actor(batch)
        self.updates += 1

    def anneal(self) -> None:
        """Smaller steps towards the end: without it the last percents of success come and go."""
        left = max(0.05, 1.0 - self.env_steps / self.settings.env_steps)
        for optimiser in (self.actor_optimiser, self.critic_optimiser):
            for group in optimiser.param_groups:
                group["lr"] = self.settings.learning_rate * left

    def _sample(self) -> Batch:
        size = self.settings.batch
        if len(self.demos) == 0:
            return self.replay.sample(size, self.rng)
        return concatenate(self.replay.sample(size // 2, self.rng), self.demos.sample(size // 2, self.rng))

    def _values(self, critic: nn.Module, state: Tensor, sight: Tensor, proprio: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Q1 and Q2 by a critic that sees the state, or by the control that does not."""
        seen = (state, action) if self.settings.privileged else (sight, proprio, action)
        values: tuple[Tensor, Tensor] = critic(*seen)
        return values

    def _update_critic(self, batch: Batch) -> None:
        """Q(s, a) ← r + γ min Q'(s', a'), a' from the policy (arXiv 1812.05905 eq. 5, entropy left out as in RLPD)."""
        with torch.no_grad():
            next_action, _, _ = self.actor.sample(batch.next_depth, batch.next_proprio)
            next_value = torch.min(*self._values(self.target, batch.next_state, batch.next_depth, batch.next_proprio, next_action))
            wanted = batch.reward + self.settings.gamma * batch.not_done * next_value
        first, second = self._values(self.critic, batch.state, batch.depth, batch.proprio, batch.action)
        loss = functional.mse_loss(first, wanted) + functional.mse_loss(second, wanted)
        _descend(self.critic_optimiser, loss)
        with torch.no_grad():
            for mine, theirs in zip(self.target.parameters(), self.critic.parameters(), strict=True):
                mine.lerp_(theirs, self.settings.tau)
        self.losses["critic"] = _finite(loss, "critic loss", self.env_steps)

    def _update_actor(self, batch: Batch) -> None:
        """Maximise min Q(s, π(s)) + α H (arXiv 1812.05905 eq. 7), and find α for the wanted entropy (eq. 18)."""
        action, log_probability, pose = self.actor.sample(batch.depth, batch.proprio)
        self.critic.requires_grad_(False)
        value = torch.min(*self._values(self.critic, batch.state, batch.depth, batch.proprio, action))
        self.critic.requires_grad_(True)
        alpha = self.log_alpha.exp().detach()
        pose_loss = functional.mse_loss(pose, batch.state[:, :2])  # the first two privileged fields, in POSE_SCALE_M
        loss = (alpha * log_probability - value).mean() + self.settings.auxiliary * pose_loss
        _descend(self.actor_optimiser, loss)
        entropy_gap = (log_probability.detach() + self.settings.target_entropy).mean()
        _descend(self.alpha_optimiser, -self.log_alpha * entropy_gap)
        self.losses["actor"] = _finite(loss, "actor loss", self.env_steps)
        self.losses["pose_m"] = POSE_SCALE_M * math.sqrt(2.0 * pose_loss.item())


def train(learner: Learner, collector: Collector, report: Callable[[Progress], bool]) -> None:
    """Collect and learn until `env_steps` are done or `report` says stop. Raises `NotFiniteError` on a NaN loss."""
    settings = learner.settings
    torch.set_num_threads(1)  # the other core is the collector's
    torch.set_flush_denormal(True)  # a fifth off each update: gradients and Adam's moments are full of tiny numbers
    resumed_s = time.monotonic()
    if settings.demo_episodes and len(learner.demos) == 0:
        collector.request(None, learner.demos.rows)
        learner.demos.add(collector.result()[0])
    learner.replay.cut_here()
    collector.request(learner.actor, CHUNK_STEPS, learner.spawn_fraction)
    while learner.env_steps < settings.env_steps:
        chunk, ended = collector.result()
        collector.request(learner.actor, CHUNK_STEPS, learner.spawn_fraction)  # the other core goes on while we learn
        learner.replay.add(chunk)
        learner.env_steps += CHUNK_STEPS * N_ENVS
        learner.successes.extend(ended)
        if learner.env_steps >= settings.warmup_steps:
            learner.anneal()
            for _ in range(settings.critic_updates):
                learner.update()
        _widen(learner, len(ended))
        learner.wall_s += time.monotonic() - resumed_s
        if report(_progress(learner)):
            return
        resumed_s = time.monotonic()  # saving and evaluating are not counted


def _widen(learner: Learner, ended: int) -> None:
    """Curriculum: a wider spawn area while 35 of the last 50 episodes succeed, by whole levels or by a little each episode."""
    recent = list(learner.successes)[-LEVEL_EPISODES:]
    if learner.spawn_fraction == 1.0 or len(recent) < LEVEL_EPISODES or np.mean(recent) <= LEVEL_SUCCESS:
        return
    by_levels = learner.settings.curriculum == "steps"
    # continuous: the whole way takes as many episodes as the levels do at least
    widening = 1.0 / LEVELS if by_levels else ended / (LEVELS * LEVEL_EPISODES)
    learner.spawn_fraction = min(1.0, learner.spawn_fraction + widening)
    if by_levels:
        learner.successes.clear()


def _progress(learner: Learner) -> Progress:
    success = float(np.mean(learner.successes)) if learner.successes else math.nan
    losses, alpha = learner.losses, learner.log_alpha.exp().item()
    counters = (learner.env_steps, learner.wall_s, success, learner.spawn_fraction)
    return Progress(*counters, losses["critic"], losses["actor"], losses["pose_m"], alpha)


def _descend(optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    optimiser.step()


def _finite(loss: Tensor, name: str, env_steps: int) -> float:
    value = loss.item()
    if not math.isfinite(value):
        raise NotFiniteError(f"the {name} is {value} after {env_steps} steps, expected a number")
    return value
