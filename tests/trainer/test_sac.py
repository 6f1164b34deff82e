"""The learner solves a toy, its pieces are the mathematics they claim to be, and a seed repeats exactly."""

import copy
import math
import os
import signal
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
pytest.importorskip("pybullet")

from edge.errors import DofbotError  # noqa: E402
from trainer import spec  # noqa: E402
from trainer.env import PRIVILEGED_FIELDS, DofbotGrasp  # noqa: E402
from trainer.sac.collector import Collector, Rollout  # noqa: E402
from trainer.sac.networks import Actor, halve  # noqa: E402
from trainer.sac.replay import Replay  # noqa: E402
from trainer.sac.sac import CHUNK_STEPS, N_ENVS, Learner, NotFiniteError, Settings, train  # noqa: E402

CONTRACT = spec.contract()


class Pointing:
    """Toy with episodes of one step: a bright spot is somewhere in the image, and the action must name its place."""

    def __init__(self) -> None:
        self.contract = CONTRACT
        self.spawn_fraction = 1.0

    def reset(self, *, seed=None):
        if seed is not None:
            self.rng = np.random.default_rng(seed)
        self.spot = self.rng.uniform(-0.8, 0.8, 2).astype(np.float32)
        return self.observe(), {}

    def step(self, action):
        miss = float(np.hypot(*(action - self.spot)))
        return self.observe(), -miss, True, False, {"is_success": miss < 0.2}

    def observe(self):
        columns, rows = np.meshgrid(np.arange(64), np.arange(64))
        column, row = 31.5 + 31.5 * self.spot
        image = np.exp(-((columns - column) ** 2 + (rows - row) ** 2) / 50.0)
        return {"depth": image[None].astype(np.float32), "proprio": np.zeros(6, np.float32)}

    def privileged(self):
        return np.r_[self.spot, np.zeros(len(PRIVILEGED_FIELDS) - 2)].astype(np.float32)

    def expert_action(self):
        return self.spot


class Inline:
    """A collector without a process."""

    def __init__(self, rollout):
        self.rollout = rollout

    def request(self, actor, steps, spawn_fraction=1.0):
        weights = None if actor is None else {name: value.numpy().copy() for name, value in actor.state_dict().items()}
        self.asked = weights, steps, spawn_fraction

    def result(self):
        return self.rollout.play(*self.asked)


def learn(settings, make_env=Pointing, report=lambda progress: False):
    learner = Learner(CONTRACT, settings)
    train(learner, Inline(Rollout(make_env, N_ENVS, (settings.seed,))), report)
    return learner


def test_solves_the_toy():
    def misses(actor):
        env = Pointing()
        found = []
        for seed in range(100):
            observation, _ = env.reset(seed=10_000 + seed)
            with torch.no_grad():
                action = actor(*(torch.from_numpy(observation[name][None]) for name in ("depth", "proprio")))[0].numpy()
            found.append(np.hypot(*(action - env.spot)))
        return np.array(found)

    settings = Settings(env_steps=3_200, batch=64, warmup_steps=320, demo_episodes=0, learning_rate=1e-3)
    before = misses(Learner(CONTRACT, settings).actor)
    learner = learn(settings)
    after = misses(learner.actor)
    assert np.mean(after < 0.1) >= 0.95, f"median miss {np.median(after)}, untrained {np.median(before)}"
    assert np.mean(before < 0.1) < 0.1
    assert learner.losses["pose_m"] < 0.02


def equal(a, b):
    """Whether two states are the same to the last bit."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(torch.nan_to_num(a), torch.nan_to_num(b))
    return a == b or (a != a and b != b)


SHORT = Settings(env_steps=320, batch=16, warmup_steps=64, demo_episodes=1)


def test_a_seed_repeats_exactly():
    def state(seed):
        found = learn(Settings(env_steps=320, batch=16, warmup_steps=64, demo_episodes=1, seed=seed)).state_dict()
        del found["wall_s"]
        return found

    first = state(3)
    assert equal(first, state(3))
    assert not equal(first, state(4))


def test_state_taken_and_loaded_goes_on_alike():
    learner = learn(SHORT)
    twin = Learner(CONTRACT, SHORT)
    twin.load_state_dict(copy.deepcopy(learner.state_dict()))  # its tensors are the learner's own
    assert equal(twin.state_dict(), learner.state_dict())
    rng = torch.get_rng_state()
    for one in (learner, twin):
        torch.set_rng_state(rng)
        one.update()
    assert equal(twin.state_dict(), learner.state_dict())


def test_every_fourth_part_of_the_curriculum_takes_35_of_50():
    class Easy(Pointing):
        def step(self, action):
            observation, reward, done, cut, _ = super().step(action)
            return observation, reward, done, cut, {"is_success": self.spawn_fraction < 0.5}

    fractions = []
    settings = Settings(env_steps=960, batch=16, warmup_steps=10_000, demo_episodes=0, curriculum="steps")
    learn(settings, Easy, lambda progress: bool(fractions.append(progress.spawn_fraction)))
    assert sorted(set(fractions)) == [0.0, 0.25, 0.5]  # and no further, because nothing succeeds there
    assert fractions == sorted(fractions)
    assert fractions.index(0.25) == 1  # after 64 episodes, the first chunk that completes 50


def test_the_continuous_curriculum_widens_with_every_episode_while_enough_succeed():
    class Easy(Pointing):
        def step(self, action):
            observation, reward, done, cut, _ = super().step(action)
            return observation, reward, done, cut, {"is_success": self.spawn_fraction < 0.5}

    fractions = []
    settings = Settings(env_steps=1_600, batch=16, warmup_steps=10_000, demo_episodes=0, curriculum="continuous")
    learn(settings, Easy, lambda progress: bool(fractions.append(progress.spawn_fraction)))
    assert fractions == sorted(fractions)
    assert len(set(fractions)) > 4 + 1  # finer than the levels
    assert 0.5 <= fractions[-1] < 1.0  # and no further than it succeeds, but for what the window remembers


def test_without_the_privileged_state_critics_learn_from_what_the_actor_sees():
    learner = Learner(CONTRACT, Settings(env_steps=320, batch=16, warmup_steps=64, demo_episodes=1, privileged=False))
    before = copy.deepcopy(learner.critic.state_dict())
    train(learner, Inline(Rollout(Pointing, N_ENVS, (0,))), lambda progress: False)
    assert not equal(before, learner.critic.state_dict())
    sight, proprio, action = torch.rand(3, 1, 32, 32), torch.rand(3, 6), torch.zeros(3, 2)
    with torch.no_grad():
        assert not torch.equal(learner.critic(sight, proprio, action)[0], learner.critic(1.0 - sight, proprio, action)[0])


def test_a_hole_does_not_blur_what_is_beside_it():
    """The mean of a 2×2 cell is that of its pixels with depth, and 0 only where none has any."""
    image = torch.full((1, 1, 64, 64), 0.5)
    image[0, 0, ::2, ::2] = 0.0
    image[0, 0, :2, :2] = 0.0
    halved = halve(image)
    assert halved[0, 0, 0, 0] == 0.0
    assert torch.equal(halved[0, 0, 1:], torch.full((31, 32), 0.5))


def test_a_loss_that_is_no_number_stops_the_training():
    class Broken(Pointing):
        def step(self, action):
            observation, _, done, cut, info = super().step(action)
            return observation, math.nan, done, cut, info

    with pytest.raises(NotFiniteError, match=r"critic loss is nan after 64 steps"):
        learn(SHORT, Broken)


# --- squashed Gaussian ---


def test_log_probability_is_that_of_a_squashed_gaussian():
    torch.manual_seed(0)
    actor = Actor(CONTRACT)
    halved, proprio = torch.rand(64, 1, 32, 32), torch.rand(64, 6)
    with torch.no_grad():
        action, log_probability, _ = actor.sample(halved, proprio)
        mean, log_std, _ = actor.distribution(halved, proprio)
    gaussian = torch.distributions.Normal(mean.double(), log_std.exp().double())
    squashed = torch.distributions.TransformedDistribution(gaussian, [torch.distributions.TanhTransform()])
    assert torch.allclose(log_probability[:, 0].double(), squashed.log_prob(action.double()).sum(1), atol=1e-3)


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (1.5, 0.5), (-3.0, 0.1), (0.2, 2.7)])
def test_probability_adds_up_to_one(mean, std):
    """Of one action: the density that `sample` reports, over the whole of (-1, 1)."""
    actor = Actor(CONTRACT)
    raw = torch.linspace(mean - 8 * std, mean + 8 * std, 20_001, dtype=torch.float64)
    both = torch.stack([raw, torch.zeros_like(raw)], 1)  # the other action stays at 0
    log_std = torch.tensor([math.log(std), 0.0], dtype=torch.float64).expand(len(raw), 2)
    at = torch.tensor([mean, 0.0], dtype=torch.float64).expand(len(raw), 2)
    density = (actor.log_probability(both, at, log_std)[:, 0] + 0.5 * math.log(2 * math.pi)).exp()  # without the other's 1/√2π
    assert torch.trapezoid(density, torch.tanh(raw)).item() == pytest.approx(1.0, abs=1e-3)


def test_deterministic_action_is_the_mean_of_whole_images():
    actor = Actor(CONTRACT)
    depth, proprio = torch.rand(5, 1, 64, 64), torch.rand(5, 6)
    with torch.no_grad():
        assert torch.equal(actor(depth, proprio), torch.tanh(actor.distribution(halve(depth), proprio)[0]))


# --- replay ---


def chunk(first, steps, n_envs):
    """Rows that say which they are: state is (time, env)."""
    time, env = np.meshgrid(np.arange(first, first + steps), np.arange(n_envs), indexing="ij")
    state = np.stack([time, env], 2).astype(np.float32)
    flat = np.zeros((steps, n_envs), np.float32)
    depth = np.broadcast_to((time % 251)[..., None, None], (steps, n_envs, 2, 2)).astype(np.uint8)
    done = time % 5 == 4
    return {"depth": depth, "proprio": state[..., :1], "state": state, "action": state[..., :1], "reward": flat + time, "done": done}


@given(st.lists(st.tuples(st.integers(1, 5), st.booleans()), min_size=1, max_size=30), st.integers(0, 99))
def test_successors_are_what_came_next(writes, seed):
    """However a ring of 12 rows is filled, cut and wrapped: pairs follow each other in one environment and none crosses a cut."""
    replay = Replay(36, 3, (2, 2), 1, 2, 1)
    time, cuts = 0, set()
    for steps, is_cut in writes:
        replay.add(chunk(time, steps, 3))
        time += steps
        if is_cut:
            replay.cut_here()
            cuts.add(time - 1)
    kept = set(range(max(0, time - 12), time - 1)) - cuts
    assert len(replay) == 3 * len(kept)
    if not kept:
        return
    batch = replay.sample(200, np.random.default_rng(seed))
    times = batch.state[:, 0]
    assert torch.equal(batch.next_state[:, 0], times + 1)
    assert torch.equal(batch.next_state[:, 1], batch.state[:, 1])
    assert torch.equal(batch.reward[:, 0], times)
    assert torch.equal(batch.not_done[:, 0] == 0.0, times % 5 == 4)
    assert torch.allclose(batch.depth[:, 0, 0, 0] * 255.0, times % 251)
    assert torch.allclose(batch.next_depth[:, 0, 1, 1] * 255.0, (times + 1) % 251)
    assert set(times.int().tolist()) <= kept
    assert set(times.int().tolist()) == kept or len(kept) > 20


@given(st.integers(1, 40))
def test_a_replay_survives_its_state(steps):
    replay, twin = (Replay(36, 3, (2, 2), 1, 2, 1) for _ in range(2))
    replay.add(chunk(0, steps, 3)) if steps <= 12 else [replay.add(chunk(i, 1, 3)) for i in range(steps)]
    replay.cut_here()
    twin.load_state_dict(replay.state_dict())
    for one in (replay, twin):
        one.add(chunk(steps, 2, 3))
    assert equal(twin.state_dict(), replay.state_dict())


# --- collector ---


def test_collector_plays_as_a_rollout_does_and_says_when_it_died():
    make_env = partial(DofbotGrasp, CONTRACT)
    collector = Collector(make_env, 2, (7, 0))
    try:
        collector.request(None, 3)
        there, _ = collector.result()
        here, _ = Rollout(make_env, 2, (7, 0)).play(None, 3, 1.0)
        assert all(np.array_equal(there[name], here[name]) for name in here)
        assert there["depth"].shape == (3, 2, 32, 32)
        collector.request(Actor(CONTRACT), CHUNK_STEPS)
        sampled, _ = collector.result()
        assert np.abs(sampled["action"]).max() < 1.0
        os.kill(collector._process.pid, signal.SIGKILL)
        collector._process.join()
        with pytest.raises(DofbotError, match=r"ended \(exit code -9\)"):
            collector.request(None, 1)
    finally:
        collector.close()
