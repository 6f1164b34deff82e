"""Controls do what their names say: the blind one does not see, the middle one does not look, the expert knows."""

import pickle
from functools import partial
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pybullet")

from trainer import controls, spec  # noqa: E402
from trainer.blocks import Block  # noqa: E402
from trainer.controls import CONTROLS, blind, expert, middle, plan  # noqa: E402
from trainer.env import DofbotGrasp  # noqa: E402
from trainer.evaluate import play  # noqa: E402
from trainer.randomise import Scene  # noqa: E402
from trainer.suites import NOISE_SWEEP, SUITES  # noqa: E402

PX = spec.IMAGE_PX


@pytest.fixture(scope="module")
def env():
    env = DofbotGrasp()
    yield env
    env.close()


def seeing(depth, proprio):
    """An act whose answer depends on both inputs."""
    return np.array((depth.mean() + depth[3, 5], proprio[0] + proprio[3]), np.float32)


def images():
    rng = np.random.default_rng(0)
    return [rng.random((PX, PX), dtype=np.float32) for _ in range(5)]


@pytest.mark.parametrize("control", [blind, middle])
def test_without_eyes_the_image_changes_nothing_and_the_position_does(env, control):
    act = control(env, seeing)
    proprio = np.array((0.003, 0.102, 0.1, 50.0, 0.0, 0.0), np.float32)  # nearer to the middle than one action
    first, *others = [act(image, proprio) for image in images()]
    assert all((other == first).all() for other in others)
    assert (act(images()[0], proprio + np.float32(0.004)) != first).any()


def test_what_the_blind_policy_is_shown_is_a_valid_image(env):
    shown = []
    blind(env, lambda depth, proprio: shown.append(depth))(images()[0], np.zeros(6, np.float32))
    (image,) = shown
    assert (image.shape, image.dtype) == ((PX, PX), np.float32)
    assert len(np.unique(image)) == 1
    assert 0.0 <= image[0, 0] <= 1.0


def test_a_blind_policy_that_would_be_told_the_position_is_told_one_that_it_accepts():
    env = DofbotGrasp(spec.contract("xyz"))
    told = []
    blind(env, lambda place, proprio: told.append(place))(np.zeros(3, np.float32), np.zeros(6, np.float32))
    assert (told[0].shape, told[0].dtype) == ((3,), np.float32)
    assert (told[0] > spec.BLOCK.min_in_table_m).all()
    assert (told[0] < spec.BLOCK.max_in_table_m).all()
    env.close()


def test_the_expert_grasps_every_clean_block(env):
    env.draw = SUITES["clean"]
    outcomes = [play(env, expert(env, seeing), seed) for seed in range(5)]
    assert all(outcome.is_success for outcome in outcomes)
    assert max(outcome.miss_m for outcome in outcomes) < 0.001


def test_the_middle_is_grasped_where_a_block_lies_there_and_nowhere_else(env):
    for block, is_success in ((Block(0.0, 0.1), True), (Block(0.045, 0.12), False)):
        env.draw = lambda rng, episode, block=block: Scene((block,))
        outcome = play(env, middle(env, seeing), 0)
        assert outcome.is_success is is_success
        assert outcome.miss_m == pytest.approx(np.hypot(block.x_m, block.y_m - 0.1), abs=0.001)


def test_every_suite_is_for_everybody_and_the_noise_sweep_for_policies_alone():
    policies = {"mine": Path("mine.onnx"), "theirs": Path("theirs.onnx")}
    noise = next(iter(NOISE_SWEEP))
    rows = list(plan(policies, ["clean", noise], True))
    assert [row[:2] for row in rows] == [(who, "clean") for who in ("mine", "theirs", *CONTROLS)] + [("mine", noise), ("theirs", noise)]
    assert [row[:2] for row in plan(policies, ["clean"], False)] == [("mine", "clean"), ("theirs", "clean")]
    for *_, open_ in rows:
        pickle.loads(pickle.dumps(open_))  # workers are processes of their own


def test_a_control_is_opened_in_the_world_of_its_policy_and_suite(monkeypatch, env):
    def open_policy(path, suite):
        assert (path, suite) == (Path("p.onnx"), "heldout")
        return env, seeing

    monkeypatch.setattr(controls, "open_policy", open_policy)
    opened, act = partial(controls.open_control, Path("p.onnx"), "heldout", "expert")()
    assert opened is env
    env.reset(seed=3)
    assert (act(images()[0], np.zeros(6, np.float32)) == env.expert_action()).all()
