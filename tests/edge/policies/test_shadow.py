"""A shadow run asks for decisions all over the inputs, and refuses what is slow or not finite anywhere."""

import time
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from edge import policy
from edge.contract import BlockInput
from edge.errors import LatePolicyError, PolicyError
from edge.policies import shadow
from tests.edge.rig import CONTRACT


class Asked:
    """A policy that keeps what it is asked, and does as `act` says."""

    golden_error = 1e-7

    def __init__(self, act: Any = lambda sight, proprio: None, contract: Any = CONTRACT) -> None:
        self.contract = contract
        self.asked: list[tuple[np.ndarray, np.ndarray]] = []
        self._act = act

    def act(self, sight: np.ndarray, proprio: np.ndarray) -> None:
        self.asked.append((sight, proprio))
        self._act(sight, proprio)


def test_inputs_are_all_over_what_the_contract_allows() -> None:
    asked: Any = Asked()
    found = shadow.shadow(asked)
    sights, proprios = (np.array(all_of) for all_of in zip(*asked.asked, strict=True))
    episode = CONTRACT.episode
    assert (found.runs, found.golden_error) == (shadow.RUNS, 1e-7)
    assert sights.dtype == proprios.dtype == np.float32
    assert sights[0].max() == 0.0 < sights[1].min() == 1.0
    assert proprios.shape == (shadow.RUNS, len(CONTRACT.proprio.fields))
    for axis in (0, 1):
        low, high = episode.workspace_min_in_table_m[axis], episode.workspace_max_in_table_m[axis]
        assert low <= proprios[:, axis].min() < low + 0.1 * (high - low)
        assert high >= proprios[:, axis].max() > high - 0.1 * (high - low)
    assert 0.0 <= proprios[:, 2].min() <= proprios[:, 2].max() <= episode.start_in_table_m[2] + 1e-6


def test_a_policy_that_is_told_where_the_block_is_gets_places_in_its_box() -> None:
    low, high = (-0.1, 0.05, 0.0), (0.1, 0.2, 0.03)
    asked: Any = Asked(contract=replace(CONTRACT, depth=None, block=BlockInput("block", low, high)))
    shadow.shadow(asked)
    places = np.array([sight for sight, _ in asked.asked])
    assert places.shape == (shadow.RUNS, 3)
    assert (places >= np.float32(low)).all()
    assert (places <= np.float32(high)).all()


def burn(for_s: float) -> Any:
    def act(*_: Any) -> None:
        ends_s = time.thread_time() + for_s
        while time.thread_time() < ends_s:
            pass

    return act


def test_a_slow_policy_is_refused_and_one_that_others_hold_up_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shadow, "RUNS", 10)
    slow: Any = Asked(burn(0.012))
    with pytest.raises(LatePolicyError, match="ms of processor time .* expected at most 10 ms; train a smaller network"):
        shadow.shadow(slow)
    held_up: Any = Asked(lambda *_: time.sleep(0.012))
    assert shadow.shadow(held_up).p99_s < 0.010


def test_one_action_that_is_not_finite_anywhere_is_refused() -> None:
    def act(sight: np.ndarray, proprio: np.ndarray) -> None:
        if proprio[3] < 2:  # the last steps
            raise PolicyError("policy action [nan, 0.0] is not finite")

    wrong: Any = Asked(act)
    with pytest.raises(PolicyError, match="not finite"):
        shadow.shadow(wrong)


def test_the_policy_of_this_repository_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    from firmware_tools.bundle import POLICY

    monkeypatch.setattr(policy, "LATENCY_PROBES", 100)  # this machine may be busy

    found = shadow.shadow(policy.load(POLICY))
    assert 0.0 < found.p99_s <= 0.010
