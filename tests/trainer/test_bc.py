"""Imitation learns what the expert does, and ends in a policy file that says what it is."""

from functools import partial

import numpy as np
import pytest
import typer

torch = pytest.importorskip("torch")
pytest.importorskip("pybullet")

from edge.policy import load  # noqa: E402
from trainer import bc, spec  # noqa: E402
from trainer.env import DofbotGrasp  # noqa: E402
from trainer.sac.collector import Collector  # noqa: E402
from trainer.sac.sac import N_ENVS  # noqa: E402


@pytest.fixture(scope="module")
def demos():
    contract = spec.contract()
    collector = Collector(partial(DofbotGrasp, contract), N_ENVS, (0, 0))
    yield bc.collect(contract, collector, N_ENVS)
    collector.close()


def error(actor, demos):
    batch = demos.sample(256, np.random.default_rng(7))
    with torch.no_grad():
        acted = torch.tanh(actor.distribution(batch.depth, batch.proprio)[0])
    return float((acted - bc.expert_action(batch.state, spec.contract())).abs().mean())


def test_labels_are_what_the_expert_would_do():
    env = DofbotGrasp(randomisation=1.0)
    for seed in range(5):
        env.reset(seed=seed)
        for _ in range(3):
            found = bc.expert_action(torch.from_numpy(env.privileged()[None]), env.contract)[0].numpy()
            assert found == pytest.approx(env.expert_action(), abs=1e-5)
            env.step(np.array((0.7, -0.4), np.float32))
    env.close()


def test_every_episode_asked_for_is_collected(demos):
    assert demos.written * demos.n_envs == N_ENVS * spec.EPISODE.steps
    assert demos.done.sum() == N_ENVS


def test_imitation_comes_near_the_expert_and_a_seed_repeats(demos):
    torch.set_num_threads(1)
    untrained, trained, again = (bc.clone(spec.contract(), demos, updates, 3) for updates in (1, 150, 150))
    assert error(trained, demos) < 0.3 * error(untrained, demos)
    assert all(torch.equal(a, b) for a, b in zip(trained.parameters(), again.parameters(), strict=True))


def test_the_file_says_that_it_only_imitates(tmp_path, capsys):
    out = tmp_path / "bc.onnx"
    bc.main(out, seed=4, randomisation=0.0, episodes=N_ENVS, updates=2)
    training = load(out).contract.training
    assert (training.algorithm, training.seed, training.env_steps) == ("behaviour cloning", 4, N_ENVS * spec.EPISODE.steps)
    assert str(out) in capsys.readouterr().out
    before = out.read_bytes()
    with pytest.raises(typer.BadParameter, match="exists already"):
        bc.main(out)
    assert out.read_bytes() == before
