"""A soak's figures agree with each other, the same seed gives the same, and what breaks a limit is counted; with either kind of policy."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import typer
from msgspec.structs import replace

from edge import runtime as runtimes
from edge.safety import GateState, Passed, gate
from edge.simulated.faults import TABLE
from trainer import light_world, simcli, soak, soak_person, soak_report, spec
from trainer.soak import Settings, Soak, fit

pytest.importorskip("adafruit_servokit")

HOURS = 0.01  # 36 s, 1800 ticks


class FakePolicy:
    """Goes to the middle, where some of the blocks lie."""

    contract, sha256 = spec.contract(), "0" * 64

    def act(self, depth: np.ndarray, proprio: np.ndarray) -> np.ndarray:
        return np.clip(np.array([0.0 - proprio[0], 0.1 - proprio[1]]) * 20.0, -1.0, 1.0).astype(np.float32)


class FakeMarkedPolicy:
    """Goes to where it is told that the block is."""

    contract, sha256 = spec.contract("xyz"), "1" * 64

    def act(self, block: np.ndarray, proprio: np.ndarray) -> np.ndarray:
        return np.clip((block - proprio[:3])[:2] * 50.0, -1.0, 1.0).astype(np.float32)


def hurry(monkeypatch: pytest.MonkeyPatch, policy: type = FakePolicy) -> None:
    """As much as in an hour."""
    monkeypatch.setattr(soak, "load", lambda *_: policy())
    monkeypatch.setattr(soak_person, "LASTS_S", (0.05, 1.5))
    monkeypatch.setattr(soak_person, "ACTS_AFTER_S", (0.1, 0.5))


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)


def run(seed: int = 0, hours: float = HOURS, stop: Callable[[], bool] = lambda: False, fault_every_s: float = 1.0) -> Soak:
    return soak.run(Settings(Path("none.onnx"), hours, False, seed, fault_every_s), stop)


@pytest.fixture(scope="module")
def found() -> Soak:
    with pytest.MonkeyPatch.context() as monkeypatch:
        hurry(monkeypatch)
        return run()


def test_a_soak_lasts_as_long_as_asked_and_nothing_unsafe_is_sent(found: Soak) -> None:
    assert found.ended_by == "done"
    assert found.is_good
    assert found.unsafe == 0
    assert not found.unsafe_examples
    assert HOURS <= found.hours <= HOURS + 5.0 / 3600.0  # until it is parked
    assert found.ticks + found.skipped == pytest.approx(found.hours * 3600.0 * 50.0, abs=2.0)


def test_the_figures_agree_with_each_other(found: Soak) -> None:
    assert found.attempts == found.picked + found.missed + found.lost
    assert found.asked["inject"] > 10
    assert found.asked["arm"] > 0
    assert found.asked["grasp"] > 0
    assert set(found.faults) <= {f"{target} {mode}" for target, modes in TABLE.items() for mode in modes}
    assert len(found.faults) > 8
    assert sum(found.faults.values()) > found.faults["bus intermittent"] > 100
    assert found.sent <= found.ticks + found.retries
    assert 0.15 * found.sent < found.unacknowledged < 0.6 * found.sent
    assert 0 < found.retries <= found.unacknowledged
    assert sum(found.holds.values()) == len(found.hold_at_h) > 0
    assert sum(found.safes.values()) == len(found.safe_at_h)
    assert 0 < found.recoveries <= sum(found.holds.values())
    assert found.held_ticks > 0
    assert list(found.hold_at_h) == sorted(found.hold_at_h)
    assert len(found.memory.hours) == len(found.memory.resident_mb) >= 10
    assert min(found.memory.resident_mb) > 30.0


def test_the_same_seed_gives_the_same_soak_and_another_one_another(found: Soak) -> None:
    def told(result: Soak) -> tuple[object, ...]:
        return result.ticks, result.sent, result.unacknowledged, result.faults, result.holds, result.hold_at_h, result.asked

    assert told(run()) == told(found)
    assert told(run(seed=1, hours=HOURS / 4.0)) != told(run(seed=0, hours=HOURS / 4.0))


def test_a_policy_that_is_told_the_place_grasps_blocks_by_their_markers(found: Soak, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cv2", reason="OpenCV is not installed here")
    hurry(monkeypatch, FakeMarkedPolicy)
    monkeypatch.setattr(soak_person, "HOLDS", 0.0)
    monkeypatch.setattr(light_world, "SLIPS", 0.0)
    result = run(hours=HOURS / 2.0, fault_every_s=math.inf)
    assert (result.variant, found.variant) == ("xyz", "depth")
    assert result.is_good
    assert result.attempts == result.picked == result.caught >= 1
    assert set(result.holds) <= {"person"}


def test_it_holds_while_no_marker_is_seen_and_the_same_seed_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cv2", reason="OpenCV is not installed here")
    hurry(monkeypatch, FakeMarkedPolicy)
    monkeypatch.setattr(soak_person, "FAULTS", (soak_person.Draw("camera", "garbage", 0.1, 0.2),))  # little for a depth image, no marker
    monkeypatch.setattr(soak_person, "LASTS_S", (1.0, 1.5))
    monkeypatch.setattr(soak_person, "HOLDS", 0.0)
    result, again = (run(hours=HOURS / 6.0, fault_every_s=2.0) for _ in range(2))
    assert result.is_good
    assert result.holds["camera"] > 0
    assert result.recoveries > 0
    assert (result.ticks, result.sent, result.holds, result.hold_at_h) == (again.ticks, again.sent, again.holds, again.hold_at_h)


def test_an_unsafe_set_point_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def leap(state: GateState, *rest: object) -> Passed:
        calls.append(0)
        passed = gate(state, *rest)  # type: ignore[arg-type]
        if len(calls) != 300:
            return passed
        command = passed.command._replace(joint1_rad=passed.command.joint1_rad + 0.1)
        return passed._replace(command=command, state=passed.state._replace(position=command))

    monkeypatch.setattr(runtimes, "gate", leap)
    result = run()
    assert len(calls) > 300
    assert result.unsafe >= 1
    assert result.unsafe_why["joint1 velocity"] >= 1
    assert "joint1 velocity" in result.unsafe_examples[0]
    assert not result.is_good


def test_what_ends_the_runtime_is_told_with_the_figures_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def fail(*arguments: object) -> Passed:
        calls.append(0)
        if len(calls) > 100:
            raise ZeroDivisionError("something that nobody thought of")
        return gate(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(runtimes, "gate", fail)
    result = run()
    assert result.ended_by == "ZeroDivisionError: something that nobody thought of"
    assert result.sent >= 99
    assert not result.is_good


def test_a_stop_parks_and_tells_what_was_found(found: Soak) -> None:
    asked: list[int] = []
    result = run(stop=lambda: asked.append(0) or len(asked) > 500)  # type: ignore[func-returns-value]
    assert result.ended_by == "Ctrl-C"
    assert result.is_good
    assert 500 <= result.ticks <= 800


@pytest.mark.parametrize("slope", [0.0, 1.5, -0.2])
def test_the_slope_is_that_of_the_line_after_the_warm_up(slope: float) -> None:
    hours = np.linspace(0.0, 24.0, 289)
    noise = np.random.default_rng(0).normal(0.0, 0.1, len(hours))
    memory = fit(list(zip(hours.tolist(), (90.0 + slope * hours + noise - 40.0 * (hours < 1.0)).tolist(), strict=True)))
    assert memory.fitted_from_h == 1.0
    assert abs(memory.slope_mb_per_h - slope) < 4.0 * memory.slope_error_mb_per_h
    assert 0.0005 < memory.slope_error_mb_per_h < 0.002


def test_two_samples_have_no_slope() -> None:
    assert fit([(0.0, 1.0), (1.0, 2.0)]).slope_mb_per_h == 0.0


@pytest.mark.parametrize(("unsafe", "ends_with"), [(0, 0), (2, 1)])
def test_the_verb_writes_page_picture_and_figures(
    found: Soak, unsafe: int, ends_with: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    why = {"joint1 velocity": unsafe} if unsafe else {}
    result = replace(found, unsafe=unsafe, unsafe_why=why) if unsafe else found
    monkeypatch.setattr(soak, "run", lambda *_: result)
    try:
        simcli.soak(hours=HOURS, real=False, seed=0, policy=Path("none.onnx"), out=tmp_path / "out", json=False)
        code = 0
    except typer.Exit as error:
        code = error.exit_code
    assert code == ends_with
    page = (tmp_path / "out" / "soak.md").read_text()
    assert f"`dofbot soak --hours 0.01 --policy none.onnx --seed 0 --out {tmp_path / 'out'}`" in page
    assert "| what the policy sees | depth images (variant depth; SHA-256 000000000000) |" in page
    assert f"| unsafe commands | {unsafe} of {found.sent:,} that were sent{': joint1 velocity 2' if unsafe else ''} |" in page
    assert "| bus intermittent | " in page
    assert (tmp_path / "out" / "soak.png").stat().st_size > 10_000
    assert json.loads((tmp_path / "out" / "soak.json").read_text())["unsafe"] == unsafe
    assert f"{unsafe} unsafe commands" in capsys.readouterr().out


def test_the_bar_takes_hours() -> None:
    with soak_report.progress(1.0) as show:
        show(0.5)
