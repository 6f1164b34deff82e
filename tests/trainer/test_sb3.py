"""Stable-Baselines3 trains on the same task, resumes with its replay, and its actor can be exported."""

import json
import zipfile

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("pybullet")
pytest.importorskip("stable_baselines3")

from edge.errors import DofbotError  # noqa: E402
from edge.policy import load as load_policy  # noqa: E402
from trainer import runlog, sb3, spec  # noqa: E402
from trainer.env import DofbotGrasp  # noqa: E402
from trainer.export import export_onnx  # noqa: E402
from trainer.publish import collect_examples, open_trained  # noqa: E402
from trainer.sac.sac import Settings  # noqa: E402

TINY = Settings(env_steps=960, batch=16, warmup_steps=64, capacity=4000, seed=5)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("sb3")
    ending, last = sb3.train_sb3(out, TINY, 0.0)
    assert (ending, last.env_steps) == ("steps done", 960)
    return out


def test_a_run_is_its_seeds(finished, tmp_path):
    sb3.train_sb3(tmp_path, TINY, 0.0)
    once, again = (sb3.load(folder / sb3.NAME).model.policy.state_dict() for folder in (finished, tmp_path))
    assert all(torch.equal(once[name], again[name]) for name in once)


def test_actor_is_what_sb3_predicts(finished):
    """On real observations, within what rounding images to 8 bits may do."""
    model = sb3.load(finished / sb3.NAME).model
    actor = sb3.Sb3Actor(model).eval()
    env = DofbotGrasp()
    observation, _ = env.reset(seed=3)
    halved = sb3.Halved(env)
    for _ in range(10):
        with torch.no_grad():
            action = actor(*(torch.from_numpy(observation[name][None]) for name in ("depth", "proprio")))[0].numpy()
        predicted, _ = model.predict(halved.observation(observation), deterministic=True)
        assert np.abs(action - predicted).max() < 0.02
        observation, *_ = env.step(action)


def test_a_resumed_run_has_its_weights_counters_and_replay(finished):
    before = sb3.load(finished / sb3.NAME)
    with np.load(finished / sb3.REPLAY_NAME) as arrays:
        kept = {name: arrays[name] for name in arrays.files}
    assert kept["pos"] == 120
    assert kept["depth"].dtype == np.uint8
    ending, last = sb3.resume_sb3(finished, 1600, 0.0)
    assert (ending, last.env_steps) == ("steps done", 1600)
    after = sb3.load(finished / sb3.NAME)
    assert after.model.num_timesteps == 1600
    assert after.model._n_updates > before.model._n_updates > 0
    assert after.wall_s > before.wall_s
    with np.load(finished / sb3.REPLAY_NAME) as arrays:
        assert arrays["pos"] == 200
        for name in ("depth", "proprio", "next_depth", "actions", "rewards", "dones"):
            assert np.array_equal(arrays[name][:120], kept[name])
    assert [row.env_steps for row in runlog.read(finished)] == [640, 1600]
    assert {path.name for path in (finished / "actors").iterdir()} == {"960.zip", "1600.zip"}


def test_its_actor_becomes_a_policy_file(finished, tmp_path):
    trained = open_trained(finished)
    assert trained.training.algorithm == "sb3-sac"
    assert trained.training.seed == 5
    export_onnx(trained.actor, trained.contract, collect_examples(trained.contract), tmp_path / "p.onnx")
    assert load_policy(tmp_path / "p.onnx").golden_error < 1e-5


def test_what_does_not_fit_is_one_sentence(finished, tmp_path):
    path = tmp_path / sb3.NAME
    with zipfile.ZipFile(finished / sb3.NAME) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            data = source.read(name)
            if name == "data":
                fields = json.loads(data)
                fields["dofbot_header"] = json.dumps({**json.loads(fields["dofbot_header"]), "package": "0.0.1"})
                data = json.dumps(fields).encode()
            target.writestr(name, data)
    with pytest.raises(DofbotError, match=r"has package '0\.0\.1', expected"):
        sb3.resume_sb3(tmp_path, None, 0.0)
    path.write_bytes((finished / sb3.NAME).read_bytes()[:5000])
    with pytest.raises(DofbotError, match="is damaged"):
        sb3.resume_sb3(tmp_path, None, 0.0)
    path.write_bytes((finished / sb3.NAME).read_bytes())
    with pytest.raises(DofbotError, match="replay .* is missing or damaged"):
        sb3.resume_sb3(tmp_path, None, 0.0)


def test_the_environment_is_registered_and_ours():
    import gymnasium as gym

    env = gym.make("DofbotGrasp-v0", contract=spec.contract())
    assert isinstance(env.unwrapped, DofbotGrasp)
    env.close()
