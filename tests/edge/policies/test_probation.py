"""A policy on trial goes as soon as it must, stays as soon as it may, and no file of the past counts for another one."""

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.config import Config, PolicyConfig, RunConfig
from edge.errors import PolicyError
from edge.policies.policy_slots import BUNDLED, PolicySlots, Trial
from edge.policies.probation import Probation, judged
from edge.records.tally import Counts

NEW, OLD = "a" * 12, "b" * 12


def slots_in(folder: Path, **config: Any) -> tuple[PolicySlots, PolicyConfig]:
    settings = Config(policy=PolicyConfig(folder=str(folder), **config), run=RunConfig(policy="/bundled.onnx"))
    for name in (NEW, OLD):
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.onnx").touch()
    return PolicySlots(settings), settings.policy


def on_trial(slots: PolicySlots, grasps: int = 0, picked: int = 0) -> None:
    slots.note(Trial(NEW, OLD, BUNDLED, grasps, picked))
    slots.point("active", NEW)


def policy(name: str = NEW) -> Any:
    return SimpleNamespace(sha256=f"{name:0<64}")


def settle(slots: PolicySlots, grasps: int) -> Trial:
    """The trial as it is kept, once the thread has written it."""
    ends_s = time.monotonic() + 5.0
    while (trial := slots.trial()) is None or trial.grasps < grasps:
        assert time.monotonic() < ends_s
        time.sleep(0.005)
    return trial


@given(st.integers(1, 50), st.floats(0.0, 1.0), st.lists(st.booleans(), min_size=50, max_size=50))
def test_the_early_verdict_is_that_of_all_grasps(count: int, share: float, outcomes: list[bool]) -> None:
    config = PolicyConfig(trial_grasps=count, trial_success_min=share)
    trial = Trial(NEW, OLD, BUNDLED)
    for done, picked in enumerate(outcomes[:count], 1):
        trial = judged(Trial(NEW, OLD, BUNDLED, done, trial.picked + picked), config)
        if trial.verdict:
            break
    assert trial.verdict == ("proven" if sum(outcomes[:count]) >= share * count - 1e-6 else "failed")


@pytest.mark.parametrize(("misses", "fails"), [(6, False), (7, True)])
def test_of_20_grasps_the_seventh_that_fails_ends_the_trial(tmp_path: Path, misses: int, fails: bool) -> None:
    slots, config = slots_in(tmp_path / "policies")
    on_trial(slots)
    probation = Probation(slots, config)
    found = [probation.count(Counts(n, 0, n, 0), policy()) for n in range(1, misses + 1)]
    assert [trial is not None for trial in found] == [False] * (misses - 1) + [fails]


def test_grasps_are_kept_for_the_next_process_and_those_of_another_policy_do_not_count(tmp_path: Path) -> None:
    slots, config = slots_in(tmp_path / "policies", trial_grasps=4)
    on_trial(slots)
    probation = Probation(slots, config)
    assert probation.count(Counts(5, 0, 5, 0), policy(OLD)) is None  # still the one before
    assert probation.count(Counts(6, 0, 6, 0), policy()) is None
    assert settle(slots, 1).picked == 0
    again = Probation(slots, config)  # a restart
    failed = again.count(Counts(1, 0, 0, 1), policy())
    assert failed == Trial(NEW, OLD, BUNDLED, 2, 0, "failed")
    assert again.give_up(failed) == str(slots.path(OLD))
    assert (slots.active, slots.linked("previous"), slots.trial(), slots.running_trial()) == (OLD, BUNDLED, failed, None)


def test_a_proven_policy_is_never_given_up(tmp_path: Path) -> None:
    slots, config = slots_in(tmp_path / "policies", trial_grasps=4)
    on_trial(slots)
    probation = Probation(slots, config)
    assert probation.count(Counts(3, 3, 0, 0), policy()) is None
    assert settle(slots, 3).verdict == "proven"
    assert probation.count(Counts(30, 3, 27, 0), policy()) is None
    assert Probation(slots, config).count(Counts(30, 3, 27, 0), policy()) is None


@pytest.mark.parametrize("change", [lambda slots: slots.point("active", OLD), lambda slots: slots.note(Trial(NEW, BUNDLED, BUNDLED))])
def test_a_trial_that_somebody_has_ended_gives_nothing_up(tmp_path: Path, change: Any) -> None:
    slots, config = slots_in(tmp_path / "policies", trial_grasps=1)
    on_trial(slots)
    failed = Probation(slots, config).count(Counts(1, 0, 1, 0), policy())
    assert failed is not None
    change(slots)
    active = slots.active
    with pytest.raises(PolicyError, match="no longer the active one"):
        Probation(slots, config).give_up(failed)
    assert slots.active == active


def test_a_policy_that_was_read_and_refused_leaves_the_trial_of_the_one_that_decides(tmp_path: Path) -> None:
    slots, config = slots_in(tmp_path / "policies", trial_grasps=2)
    on_trial(slots)
    probation = Probation(slots, config)
    slots.note(Trial(OLD, NEW, BUNDLED))
    slots.point("active", OLD)
    probation.look()
    assert probation.count(Counts(1, 0, 1, 0), policy()) == Trial(NEW, OLD, BUNDLED, 1, 0, "failed")
    probation.begin()
    assert probation.count(Counts(2, 0, 2, 0), policy(OLD)) == Trial(OLD, NEW, BUNDLED, 1, 0, "failed")


def test_without_a_trial_nothing_is_counted(tmp_path: Path) -> None:
    slots, config = slots_in(tmp_path / "policies", trial_grasps=0)
    on_trial(slots)
    assert Probation(slots, config).count(Counts(100, 0, 100, 0), policy()) is None
    (tmp_path / "policies" / "trial.json").write_bytes(b"{damaged")
    assert slots.running_trial() is None
    none = PolicySlots(Config())
    assert (none.active, none.names(), none.trial()) == (BUNDLED, [], None)
