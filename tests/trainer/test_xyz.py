"""The variant that is told where the block is: what it is told, and that training, export and evaluation take it."""

import contextlib
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

torch = pytest.importorskip("torch")
pytest.importorskip("pybullet")
typer = pytest.importorskip("typer")

from edge.errors import ConfigError, DofbotError, PolicyError  # noqa: E402
from edge.policy import load  # noqa: E402
from trainer import checkpoint, cli, spec  # noqa: E402
from trainer import train as front  # noqa: E402
from trainer.blocks import Block  # noqa: E402
from trainer.env import PRIVILEGED_FIELDS, DofbotGrasp  # noqa: E402
from trainer.evaluate import evaluate, open_actor, open_policy  # noqa: E402
from trainer.export import Examples, export_onnx  # noqa: E402
from trainer.publish import collect_examples  # noqa: E402
from trainer.randomise import Scene, draw_scene  # noqa: E402
from trainer.sac.collector import Rollout  # noqa: E402
from trainer.sac.networks import POSE_SCALE_M, Actor  # noqa: E402
from trainer.sac.replay import Replay, concatenate  # noqa: E402
from trainer.sac.sac import N_ENVS, Learner, Settings, train  # noqa: E402

CONTRACT = spec.contract("xyz")
BLOCK = Block(0.02, 0.10, 0.3, (0.03, 0.03, 0.03))
SHORT = Settings(env_steps=320, batch=16, warmup_steps=64, demo_episodes=1)


@pytest.fixture(scope="module")
def env() -> Iterator[DofbotGrasp]:
    env = DofbotGrasp(CONTRACT)
    yield env
    env.close()


def told(env: DofbotGrasp, scene: Scene, act: Callable[[], np.ndarray], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """One episode up to its last step: what was observed and where the block was, each (steps, 3)."""
    observed, _ = env.reset(seed=seed, options={"scene": scene})
    found, true = [], []
    for _ in range(CONTRACT.episode.steps - 1):
        found.append(observed["block"])
        true.append(env.world.block_in_table()[:3, 3])
        observed, *_ = env.step(act())
    return np.array(found), np.array(true)


def still() -> np.ndarray:
    return np.zeros(2, np.float32)


# --- the environment


@pytest.mark.parametrize("randomisation", [0.0, 1.0])
def test_gymnasium_finds_nothing_to_say(randomisation: float) -> None:
    """Its warnings are errors here."""
    env = gym.make("DofbotGrasp-v0", contract=CONTRACT, randomisation=randomisation)
    env.action_space.seed(0)
    check_env(env.unwrapped, skip_render_check=True)
    env.close()


def test_the_observation_is_position_and_proprio(env: DofbotGrasp) -> None:
    observed, _ = env.reset(seed=0)
    assert {name: (value.shape, value.dtype) for name, value in observed.items()} == {
        "block": ((3,), np.dtype(np.float32)),
        "proprio": ((6,), np.dtype(np.float32)),
    }


def test_without_errors_it_is_the_blocks_centre(env: DofbotGrasp) -> None:
    found, true = told(env, Scene((BLOCK,)), env.expert_action)
    assert np.abs(found - true).max() < 1e-6
    assert found[0] == pytest.approx([0.02, 0.10, 0.015], abs=1e-6)


def test_a_bias_stays_and_noise_changes(env: DofbotGrasp) -> None:
    bias_m = (0.002, -0.001, 0.0005)
    found, true = told(env, Scene((BLOCK,), marker_bias_m=bias_m), still)
    assert np.abs(found - true - bias_m).max() < 1e-6
    found, true = told(env, Scene((BLOCK,), marker_noise_m=0.001), still)
    errors = found - true
    assert 0.0008 < errors.std() < 0.0012
    assert np.abs(errors.mean(0)).max() < 0.0004  # four standard errors of 99 draws
    assert len(np.unique(found[:, 0])) == len(found)


def test_a_repeated_frame_repeats_the_position(env: DofbotGrasp) -> None:
    found, _ = told(env, Scene((BLOCK,), marker_noise_m=0.001, repeat_share=0.3), still)
    repeated = np.mean(np.all(found[1:] == found[:-1], axis=1))
    assert 0.15 < repeated < 0.45


def test_an_old_frame_shows_where_the_block_was(env: DofbotGrasp) -> None:
    """Seen while a finger pushes the block: the delayed position lags behind the true one, by two ticks' travel."""
    beside = Scene((Block(0.0, 0.13, 0.0, (0.03, 0.03, 0.05)),))  # taller than open finger tips pass over

    def push() -> np.ndarray:
        """Aside, down, and then across."""
        return np.array(next(moves), np.float32)

    across = [(-1.0, 0.0)] * 85 + [(1.0, 0.0)] * 14
    for latency_ticks, lag_m in ((0, 0.0), (2, 0.005)):  # the arm moves 2.5 mm a tick
        moves = iter(across)
        found, true = told(env, beside._replace(latency_ticks=latency_ticks), push)
        assert np.ptp(true[:, 0]) > 0.01  # it was pushed
        assert np.abs(found - true).max() == pytest.approx(lag_m, rel=0.5, abs=1e-6)
        assert np.sum(found[:, 0] - true[:, 0]) <= 1e-6  # behind, not ahead


@pytest.mark.parametrize("seed", range(20))
def test_every_observation_is_in_its_space_however_wild_the_arm(env: DofbotGrasp, seed: int) -> None:
    rng = np.random.default_rng(seed)
    scene = draw_scene(rng, CONTRACT.episode, 1.0)
    observed, _ = env.reset(seed=seed, options={"scene": scene})
    ended = False
    while not ended:
        assert env.observation_space.contains(observed)
        observed, _, ended, _, _ = env.step(rng.choice([-1.0, 1.0], 2).astype(np.float32))
    assert env.observation_space.contains(observed)


def test_marker_errors_grow_with_the_strength_and_keep_their_bounds() -> None:
    def drawn(strength: float) -> list[Scene]:
        return [draw_scene(np.random.default_rng(seed), CONTRACT.episode, strength) for seed in range(200)]

    assert {(scene.marker_bias_m, scene.marker_noise_m) for scene in drawn(0.0)} == {((0.0, 0.0, 0.0), 0.0)}
    for strength in (0.5, 1.0):
        scenes = drawn(strength)
        bias_m = np.array([scene.marker_bias_m for scene in scenes])
        assert 0.9 * 0.002 * strength < np.abs(bias_m).max() <= 0.002 * strength
        assert {scene.marker_noise_m for scene in scenes} == {0.001 * strength}


def test_the_marker_takes_no_random_numbers_from_the_scene() -> None:
    """Depth policies see the same images for a seed, whatever the marker needs."""
    rng, twin = np.random.default_rng(7), np.random.default_rng(7)
    first, second = draw_scene(rng, CONTRACT.episode, 1.0), draw_scene(twin, CONTRACT.episode, 1.0)
    assert first == second
    twin.spawn(5)
    assert rng.random() == twin.random()


# --- actor, replay, learner


def test_the_actor_is_a_small_network_that_sees_where_the_block_is_from_the_tool() -> None:
    torch.manual_seed(0)
    actor = Actor(CONTRACT)
    assert not any(isinstance(module, torch.nn.Conv2d) for module in actor.modules())
    block, proprio = torch.tensor([[0.03, 0.10, 0.015]]), torch.tensor([[0.01, 0.15, 0.10, 50.0, 0.0, 0.0]])
    with torch.no_grad():
        mean, _, pose = actor.distribution(block, proprio)
        assert torch.equal(actor(block, proprio), torch.tanh(mean))
    assert pose.numpy() * POSE_SCALE_M == pytest.approx(np.array([[0.02, -0.05]]), abs=1e-6)


def test_the_replay_keeps_positions_as_they_are() -> None:
    rng = np.random.default_rng(0)
    rows = rng.uniform(-0.2, 0.2, (10, 2, 3)).astype(np.float32)
    time = np.arange(10, dtype=np.float32)[:, None, None].repeat(2, 1)
    replay, twin = (Replay(20, 2, (3,), 1, 1, 1) for _ in range(2))
    replay.add({"block": rows, "proprio": time, "state": time, "action": time, "reward": time[..., 0], "done": time[..., 0] > 99})
    twin.load_state_dict(replay.state_dict())
    batch, other = (one.sample(100, np.random.default_rng(1)) for one in (replay, twin))
    for a, b in zip(batch, other, strict=True):
        assert torch.equal(a, b)
    at = batch.state[:, 0].int()
    for found, wanted in ((batch.depth, at), (batch.next_depth, at + 1)):
        assert found.shape == (100, 3)
        assert all(
            any(torch.equal(row, torch.from_numpy(place)) for place in rows[time_]) for row, time_ in zip(found, wanted, strict=True)
        )
    assert concatenate(batch, other).depth.shape == (200, 3)


class Pointing:
    """Toy with episodes of one step: the action must say where the block is from the middle of the spawn area, in half its width."""

    def __init__(self) -> None:
        self.contract = CONTRACT
        self.spawn_fraction = 1.0

    def reset(self, *, seed: int | None = None) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        if seed is not None:
            self.rng = np.random.default_rng(seed)
        self.spot = self.rng.uniform(-0.8, 0.8, 2).astype(np.float32)
        return self.observe(), {}

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        miss = float(np.hypot(*(action - self.spot)))
        return self.observe(), -miss, True, False, {"is_success": miss < 0.2}

    def observe(self) -> dict[str, np.ndarray]:
        block = np.array([0.05 * self.spot[0], 0.1 + 0.05 * self.spot[1], 0.015], np.float32)
        return {"block": block, "proprio": np.array([0.0, 0.1, 0.05, 50.0, 0.0, 0.0], np.float32)}

    def privileged(self) -> np.ndarray:
        return np.r_[self.spot, np.zeros(len(PRIVILEGED_FIELDS) - 2)].astype(np.float32)

    def expert_action(self) -> np.ndarray:
        return self.spot


class Inline:
    """A collector without a process."""

    def __init__(self, rollout: Rollout) -> None:
        self.rollout = rollout

    def request(self, actor: Any, steps: int, spawn_fraction: float = 1.0) -> None:
        weights = None if actor is None else {name: value.numpy().copy() for name, value in actor.state_dict().items()}
        self.asked = weights, steps, spawn_fraction

    def result(self) -> Any:
        return self.rollout.play(*self.asked)


def learn(settings: Settings) -> Learner:
    learner = Learner(CONTRACT, settings)
    train(learner, Inline(Rollout(Pointing, N_ENVS, (settings.seed,))), lambda progress: False)  # type: ignore[arg-type]
    return learner


def test_solves_the_toy() -> None:
    learner = learn(Settings(env_steps=3_200, batch=64, warmup_steps=320, demo_episodes=0))
    env, misses = Pointing(), []
    for seed in range(100):
        observed, _ = env.reset(seed=10_000 + seed)
        with torch.no_grad():
            action = learner.actor(*(torch.from_numpy(observed[name][None]) for name in ("block", "proprio")))[0].numpy()
        misses.append(np.hypot(*(action - env.spot)))
    assert np.mean(np.array(misses) < 0.1) >= 0.95, f"median miss {np.median(misses)}"
    assert learner.losses["pose_m"] == pytest.approx(0.0, abs=1e-6)  # the position is given, not estimated


def test_a_seed_repeats_exactly() -> None:
    first, second = (learn(SHORT).actor.state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


# --- the file


@pytest.fixture(scope="module")
def examples() -> Examples:
    return collect_examples(CONTRACT)


def test_examples_are_positions(examples: Examples) -> None:
    assert examples.depth is None
    assert examples.block is not None
    assert examples.block.shape == (len(examples.proprio), 3)


def test_the_file_gives_torchs_actions(examples: Examples, tmp_path: Path) -> None:
    torch.manual_seed(0)
    actor, path = Actor(CONTRACT).eval(), tmp_path / "xyz.onnx"
    contract = export_onnx(actor, CONTRACT, examples, path)
    golden = contract.golden
    assert golden is not None
    assert golden.depth is None
    places = np.frombuffer(zlib.decompress(golden.block or b""), "<f4").reshape(golden.count, 3)
    assert (places >= np.float32(spec.BLOCK.min_in_table_m)).all()
    assert (places <= np.float32(spec.BLOCK.max_in_table_m)).all()
    assert any(np.array_equal(place, examples.block[0]) for place in places)  # type: ignore[index]
    policy, env = load(path), DofbotGrasp(CONTRACT, randomisation=1.0)
    observed, _ = env.reset(seed=1)
    for _ in range(20):
        with torch.no_grad():
            wanted = actor(*(torch.from_numpy(observed[name][None]) for name in ("block", "proprio")))[0].numpy()
        found = policy.act(observed["block"], observed["proprio"])
        assert np.abs(found - wanted).max() <= 1e-5
        observed, *_ = env.step(found)
    env.close()


def test_examples_of_the_other_variant_are_refused(examples: Examples, tmp_path: Path) -> None:
    images = Examples(np.zeros((2, 1, 64, 64), np.float32), examples.proprio[:2])
    for contract, wrong in ((CONTRACT, images), (spec.contract(), examples)):
        with pytest.raises(PolicyError, match="examples have shapes"):
            export_onnx(Actor(contract), contract, wrong, tmp_path / "no.onnx")


# --- the verbs


def dofbot(*arguments: object) -> Any:
    """Run a verb in this process."""
    app = typer.Typer()
    cli.register(app)
    return app([str(argument) for argument in arguments], standalone_mode=False)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a short run."""
    out = tmp_path_factory.mktemp("run")
    ending, last = front.train_sac(out, SHORT, 0.0, "xyz")
    assert (ending, last.env_steps) == ("steps done", 320)
    return out


def test_a_run_resumes_in_its_variant(run: Path) -> None:
    found = checkpoint.load(run / checkpoint.NAME)
    assert found.header.contract == CONTRACT
    assert "block" in (found.learner or {})["replay"]
    ending, last = front.resume_sac(run, 352, 0.0)
    assert (ending, last.env_steps) == ("steps done", 352)


def test_export_and_evaluation_take_it(run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "xyz.onnx"
    dofbot("export", run, "--out", out, "--episodes", 2, "--suite", "clean", "--suite", "randomised")
    contract = load(out).contract
    assert contract.training is not None
    assert (contract.variant, contract.training.variant) == ("xyz", "xyz")
    assert [record.episodes for record in contract.evaluation] == [2, 2]
    capfd.readouterr()
    for opener in (partial(open_policy, out), partial(open_actor, run)):
        with contextlib.closing(evaluate(opener, 2, workers=1)) as outcomes:
            assert len(list(outcomes)) == 2


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--algo", "sb3", "--variant", "xyz"), "--variant is for --algo sac alone"),
        (("--variant", "xyz", "--no-auxiliary"), "--auxiliary is for --variant depth alone"),
    ],
    ids=["sb3", "auxiliary"],
)
def test_what_does_not_go_together_is_refused(options: tuple[str, ...], reason: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=reason):
        dofbot("train", "--out", tmp_path / "run", *options)
    assert not (tmp_path / "run").exists()


def test_the_variant_of_a_run_is_not_asked_for_again(run: Path) -> None:
    with pytest.raises(ConfigError, match="--variant is fixed by the run"):
        dofbot("train", "--resume", run, "--variant", "xyz")


def test_a_checkpoint_of_another_task_is_refused_by_field(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    narrow = spec.BLOCK.__class__("block", (-0.1, 0.0, 0.0), (0.1, 0.2, 0.1))
    monkeypatch.setattr(spec, "BLOCK", narrow)
    with pytest.raises(DofbotError, match=r"contract block\.min_in_table_m"):
        front.resume_sac(run, 640, 0.0)
