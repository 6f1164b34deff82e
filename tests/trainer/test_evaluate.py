"""Evaluation counts honestly: fresh blocks in a fixed order, intervals that are Wilson's, and errors that reach the caller."""

import csv
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("pybullet")

from edge.errors import PolicyError  # noqa: E402
from trainer.env import DofbotGrasp  # noqa: E402
from trainer.evaluate import Outcome, causes, evaluate, misses_mm, open_policy, play, summarise, wilson, worst, write_csv  # noqa: E402
from trainer.suites import SUITES  # noqa: E402


@pytest.mark.parametrize(
    ("successes", "episodes", "low", "high"),
    # scipy.stats.binomtest(…).proportion_ci(method="wilson")
    [
        (10, 10, 0.7224672, 1.0),
        (297, 300, 0.9710165, 0.9965934),
        (990, 1000, 0.9816905, 0.9945592),
        (0, 50, 0.0, 0.0713476),
        (0, 0, 0.0, 1.0),
    ],
)
def test_wilson_interval(successes, episodes, low, high):
    assert wilson(successes, episodes) == pytest.approx((low, high), abs=2e-6)


@given(st.integers(1, 5000), st.data())
def test_interval_holds_the_proportion_and_narrows(episodes, data):
    successes = data.draw(st.integers(0, episodes))
    low, high = wilson(successes, episodes)
    assert 0.0 <= low <= successes / episodes <= high <= 1.0
    wider_low, wider_high = wilson(successes, episodes), wilson(4 * successes, 4 * episodes)
    assert wider_high[1] - wider_high[0] < wider_low[1] - wider_low[0]


OUTCOMES = [
    Outcome(7, 0.012345, 0.1, -0.5, True, 0.0012),
    Outcome(8, -0.05, 0.125, 0.0, False, 0.02, "pushed", "cylinder"),
    Outcome(9, 0.0, 0.075, 0.7, True, 0.003),
]


def test_record_counts_the_outcomes():
    record = summarise(OUTCOMES, "clean")
    assert (record.suite, record.episodes, record.successes) == ("clean", 3, 2)
    assert record.interval_95 == wilson(2, 3)
    assert causes(OUTCOMES) == {"pushed": 1}
    assert misses_mm(OUTCOMES) == pytest.approx({"p50": 3.0, "p95": 18.3, "max": 20.0})


def test_the_worst_is_the_farthest_failure_or_else_the_farthest_grasp():
    first, pushed, second = OUTCOMES
    assert worst([first, second]) is second
    near = pushed._replace(miss_m=0.001)
    assert worst([first, near, second]) is near
    assert worst([near, first, pushed]) is pushed


def test_csv_holds_every_episode(tmp_path):
    write_csv(OUTCOMES, tmp_path / "o.csv")
    with (tmp_path / "o.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == Outcome._fields
    assert [(int(row["seed"]), row["is_success"]) for row in rows] == [(7, "1"), (8, "0"), (9, "1")]
    assert [row["cause"] for row in rows] == ["", "pushed", ""]
    assert [row["kind"] for row in rows] == ["cube", "cylinder", "cube"]
    assert float(rows[0]["block_x_m"]) == pytest.approx(0.012345, abs=1e-5)


def straight_down(depth, proprio):
    """A policy that never moves sideways."""
    return np.zeros(2, np.float32)


def open_still():
    return DofbotGrasp(), straight_down


def test_workers_give_what_one_process_gives_in_seed_order():
    found = list(evaluate(open_still, 6, seed=50, workers=2))
    env = DofbotGrasp()
    assert found == [play(env, straight_down, seed) for seed in range(50, 56)]
    assert [outcome.seed for outcome in found] == [50, 51, 52, 53, 54, 55]


def test_an_episode_depends_on_its_seed_alone():
    env = DofbotGrasp()
    first = play(env, straight_down, 5)
    play(env, straight_down, 6)
    assert play(env, straight_down, 5) == first


def test_an_outcome_says_what_kind_of_block_it_was():
    env = DofbotGrasp()
    env.draw = SUITES["heldout"]
    outcomes = [play(env, straight_down, seed) for seed in range(16)]
    assert len({outcome.kind for outcome in outcomes}) == 4
    env.close()


def test_a_policy_that_cannot_be_opened_is_one_error(tmp_path):
    with pytest.raises(PolicyError, match="not readable"):
        list(evaluate(partial(open_policy, tmp_path / "none.onnx"), 8, workers=1))


def test_evaluating_needs_no_torch():
    """`dofbot eval` comes with the extra `sim`."""
    probe = "import sys; sys.modules['torch'] = None; import trainer.cli, trainer.controls, trainer.plots, trainer.report"
    subprocess.run([sys.executable, "-c", probe], check=True, cwd=Path(__file__).parents[2], capture_output=True)
