"""The loop keeps every promise of its docstring with a camera, policy, bus, clock or recorder that fails at any time."""

import gc
import logging
from collections.abc import Callable, Iterator
from itertools import groupby, pairwise
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from edge import kinematics
from edge.devices import Devices
from edge.errors import BusError, ObservationError, PolicyError
from edge.histogram import Durations
from edge.messages import Frame, Intrinsics, JointCommand
from edge.record import Summary, TickRecord
from edge.runtime import HOLD_LIMIT_S, Runtime, preflight
from edge.safety import DOFBOT_LIMITS
from edge.task import PHASE_LIMIT_S, GraspTask, Phase
from trainer import spec

STEPS = 40
EPISODE = replace(spec.EPISODE, steps=STEPS, start_in_table_m=(0.0, 0.150, 0.050))  # the last 40 steps of the real descent
CONTRACT = replace(spec.contract(), episode=EPISODE)
PLACE_M = (-0.12, 0.06)
TASK = GraspTask(CONTRACT, PLACE_M)
TICK_S = 1.0 / TASK.tick_hz
MAX_AGE_S = 0.1
START_S = 1000.0
LENS = CONTRACT.camera.intrinsics
TABLE_M, BLOCK_M = 0.25, 0.10  # seen all over the image: nothing between the fingers, something
GRASP = ["HOMING", "APPROACH", "GRASP", "LIFT", "VERIFY", "PLACE"]
END = ["HOMING", "PARK", "IDLE"]


def image(depth_m: float = BLOCK_M) -> np.ndarray:
    return np.full((LENS.height, LENS.width), depth_m, np.float32)


class Rig:
    """What is around a runtime: virtual time, and a camera, a policy, a bus and a recorder that work unless their hook has other plans."""

    def __init__(self, **hooks: Callable[["Rig"], Any]) -> None:
        self.now_s = START_S
        self.hooks = hooks
        self.calls = {"camera": 0, "policy": 0, "bus": 0, "recorder": 0, "clock": 0}
        self.records: list[TickRecord] = []
        self.sent: list[tuple[float, JointCommand]] = []
        self.steps_left: list[int] = []
        self.is_released = False

    @property
    def phase(self) -> str:
        """Of the last tick."""
        return self.records[-1].phase if self.records else "IDLE"

    def hook(self, part: str, otherwise: Any = None) -> Any:
        self.calls[part] += 1
        return self.hooks[part](self) if part in self.hooks else otherwise

    def frame(self, depth_m: np.ndarray | None = None, age_s: float = 0.01) -> Frame:
        return Frame(image() if depth_m is None else depth_m, LENS, self.now_s - age_s, self.calls["camera"])


class FakeClock:
    def __init__(self, rig: Rig) -> None:
        self.rig = rig

    def now_s(self) -> float:
        return self.rig.now_s

    def sleep_until(self, deadline_s: float) -> None:
        assert deadline_s < START_S + 300.0, "the run does not end"
        self.rig.now_s = max(self.rig.now_s, deadline_s)
        self.rig.hook("clock")


class FakeCamera:
    def __init__(self, rig: Rig) -> None:
        self.rig = rig

    def start(self) -> Intrinsics:
        return LENS

    def latest(self) -> Frame | None:
        return self.rig.hook("camera", self.rig.frame())

    def close(self) -> None:
        pass


class FakeBus:
    def __init__(self, rig: Rig) -> None:
        self.rig = rig

    def open(self) -> None:
        pass

    def write(self, command: JointCommand) -> None:
        assert not self.rig.is_released, "written to after release"
        self.rig.hook("bus")
        self.rig.sent.append((self.rig.now_s, command))

    def measured(self) -> None:
        pass

    def release(self) -> None:
        self.rig.is_released = True

    def close(self) -> None:
        self.release()


class FakePolicy:
    contract = CONTRACT

    def __init__(self, rig: Rig) -> None:
        self.rig = rig

    def act(self, depth: np.ndarray, proprio: np.ndarray) -> np.ndarray:
        action = self.rig.hook("policy", np.array([0.3, -0.2], np.float32))
        self.rig.steps_left.append(int(proprio[3]))
        return action


class FakeRecorder:
    def __init__(self, rig: Rig) -> None:
        self.rig = rig

    def write(self, record: TickRecord) -> None:
        self.rig.records.append(record)
        self.rig.hook("recorder")


def run(rig: Rig, grasps: int = 1, stop: Callable[[Rig], bool] = lambda rig: False, task: GraspTask = TASK) -> Summary:
    devices = Devices(FakeBus(rig), FakeCamera(rig), FakeClock(rig), lambda: None)
    runtime = Runtime(FakePolicy(rig), task, devices, FakeRecorder(rig), MAX_AGE_S)  # type: ignore[arg-type]
    try:
        return runtime.run(grasps, lambda: stop(rig))
    finally:
        assert rig.is_released
        check_limits([command for _, command in rig.sent])


def check_limits(commands: list[JointCommand]) -> None:
    """From rest at the park pose on: position, speed and change of speed of every axis."""
    position, speed = np.array(TASK.park), np.zeros(6)
    limits = DOFBOT_LIMITS
    for command in commands:
        assert np.isfinite(command).all()
        new_speed = (np.array(command) - position) / TICK_S
        assert np.all(np.array(limits.position_min) <= command)
        assert np.all(np.array(limits.position_max) >= command)
        assert np.all(np.abs(new_speed) <= np.array(limits.velocity_max) + 1e-9)
        assert np.all(np.abs(new_speed - speed) <= np.array(limits.acceleration_max) * TICK_S + 1e-9)
        position, speed = np.array(command), new_speed


def phases(rig: Rig) -> list[str]:
    return [phase for phase, _ in groupby(record.phase for record in rig.records)]


def is_parked(rig: Rig) -> bool:
    """At the park pose with the gripper open, and at rest."""
    (_, last), (_, last_but_one) = rig.sent[-1], rig.sent[-2]
    return last == last_but_one and max(abs(a - b) for a, b in zip(last, TASK.park, strict=True)) < 1e-9


def tool_m(command: JointCommand) -> np.ndarray:
    return np.array(kinematics.tool_pose(command, TASK.mount)[:3])


class Once:
    """A fault from the moment that `begins` is true, for `lasts_s` of virtual time."""

    def __init__(self, begins: Callable[[Rig], bool], lasts_s: float, fault: Callable[[Rig], Any], healthy: Callable[[Rig], Any]) -> None:
        self.begins, self.lasts_s, self.fault, self.healthy = begins, lasts_s, fault, healthy
        self.began_s: float | None = None

    def __call__(self, rig: Rig) -> Any:
        if self.began_s is None and self.begins(rig):
            self.began_s = rig.now_s
        is_on = self.began_s is not None and rig.now_s < self.began_s + self.lasts_s - 1e-9
        return (self.fault if is_on else self.healthy)(rig)


def raising(error: BaseException) -> Callable[[Rig], Any]:
    def hook(_: Rig) -> None:
        raise error

    return hook


# A whole run


def test_a_grasp_goes_through_all_phases_in_sane_times_and_ends_parked() -> None:
    rig = Rig()
    summary = run(rig)
    assert phases(rig) == GRASP + END
    assert is_parked(rig)
    assert (summary.attempts, summary.picked, summary.stopped_by, summary.safe_reason) == (1, 1, "done", "")
    assert rig.steps_left == list(range(STEPS, 0, -1))
    (grasp,) = summary.grasps
    assert grasp.result == "picked"
    bounds_s = {
        "HOMING": (0.5, 2.0),
        "APPROACH": (3.2, 3.2),
        "GRASP": (0.6, 0.7),
        "LIFT": (0.7, 1.2),
        "VERIFY": (0.5, 0.6),
        "PLACE": (2, 6),
    }
    assert grasp.phase_s.keys() == bounds_s.keys()
    for phase, (low_s, high_s) in bounds_s.items():
        assert low_s - 1e-9 <= grasp.phase_s[phase] <= high_s + 1e-9, phase


def test_the_first_command_leaves_the_park_pose_from_rest() -> None:
    rig = Rig()
    run(rig)
    first = np.array(rig.sent[0][1]) - np.array(TASK.park)
    assert 0.0 < np.abs(first).max() <= 60.0 * TICK_S**2 + 1e-12


@pytest.mark.parametrize("grasps", [1, 3])
def test_it_ends_after_so_many_grasps(grasps) -> None:
    rig = Rig()
    summary = run(rig, grasps)
    assert summary.attempts == summary.picked == len(summary.grasps) == grasps
    assert phases(rig) == GRASP * grasps + END
    assert rig.calls["policy"] == grasps * STEPS
    assert [grasp.phase_s for grasp in summary.grasps[1:]] == [summary.grasps[-1].phase_s] * (grasps - 1)


def test_an_empty_gripper_is_a_miss_and_is_not_carried_to_the_place() -> None:
    rig = Rig(camera=lambda rig: rig.frame(image(TABLE_M)))
    summary = run(rig, grasps=2)
    assert phases(rig) == [*GRASP[:-1], *GRASP[:-1], *END]
    assert (summary.attempts, summary.picked) == (2, 0)
    assert [grasp.result for grasp in summary.grasps] == ["missed"] * 2


def test_every_tick_writes_once_and_is_recorded() -> None:
    rig = Rig()
    summary = run(rig)
    assert summary.ticks == len(rig.records) == len(rig.sent)
    assert [record.sent for record in rig.records] == [command for _, command in rig.sent]
    assert [record.now_s for record in rig.records] == [at_s for at_s, _ in rig.sent]
    assert np.allclose(np.diff([at_s for at_s, _ in rig.sent]), TICK_S)
    assert summary.clamped == sum(bool(record.clamped) for record in rig.records)
    for record in rig.records:
        assert bool(record.clamped) == (record.wanted != record.sent)
    assert [record.action for record in rig.records if record.action] == [pytest.approx((0.3, -0.2))] * STEPS
    assert all(record.frame_age_s >= 0.01 - 1e-9 for record in rig.records if record.frame_sequence >= 0)


# Stopping


@pytest.mark.parametrize("phase", GRASP)
@pytest.mark.parametrize("grasps", [0, 5])
def test_stop_parks_from_any_phase_then_releases(phase, grasps) -> None:
    asked_s: list[float] = []

    def stop(rig: Rig) -> bool:
        if rig.phase == phase:
            asked_s.append(rig.now_s)
        return bool(asked_s)

    rig = Rig()
    summary = run(rig, grasps, stop)
    assert phases(rig)[-3:] == [phase, "PARK", "IDLE"]
    assert summary.stopped_by == "signal"
    assert summary.safe_reason == ""
    assert is_parked(rig)
    assert rig.now_s - asked_s[0] <= 5.0


def test_stop_while_parking_changes_nothing() -> None:
    rig = Rig()
    summary = run(rig, 1, lambda rig: rig.phase == "PARK")
    assert summary.stopped_by == "done"
    assert phases(rig) == GRASP + END


# HOLD: what keeps a decision from being made


def is_at_decision(number: int) -> Callable[[Rig], bool]:
    return lambda rig: len(rig.steps_left) == number


CAMERA_FAULTS: dict[str, tuple[Callable[[Rig], Any], str]] = {
    "no frame": (lambda rig: None, "no depth frame has come"),
    "stale": (lambda rig: rig.frame(age_s=MAX_AGE_S + 0.001), "101 ms old, expected at most 100 ms"),
    "from the future": (lambda rig: rig.frame(age_s=-5.0), "-5000 ms old"),
    "age not a number": (lambda rig: rig.frame(age_s=float("nan")), "nan ms old"),
    "camera lost": (raising(ObservationError("unplugged")), "unplugged"),
    "all invalid": (lambda rig: rig.frame(image(0.0)), "100% of the depth pixels are invalid"),
    "all NaN": (lambda rig: rig.frame(image(float("nan"))), "100% of the depth pixels are invalid"),
    "millimetres": (lambda rig: rig.frame(image(BLOCK_M * 1e3)), "expected metres"),
    "cropped": (lambda rig: rig.frame(image()[:-1]), "expected float32 (64, 64)"),
    "counts": (lambda rig: rig.frame(image(300).astype(np.uint16)), "uint16"),
}
FAULTS = {name: ("camera", *fault) for name, fault in CAMERA_FAULTS.items()} | {
    "action refused": ("policy", raising(PolicyError("action is not finite")), "action is not finite"),
}


def healthy(part: str) -> Callable[[Rig], Any]:
    return (lambda rig: rig.frame()) if part == "camera" else (lambda rig: np.array([0.3, -0.2], np.float32))


@pytest.fixture(scope="module")
def undisturbed() -> Rig:
    rig = Rig()
    run(rig)
    return rig


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("decision", [0, 7, STEPS - 1])
def test_hold_stays_in_place_and_resumes_the_same_step(name, decision, undisturbed, caplog) -> None:
    part, fault, reason = FAULTS[name]
    rig = Rig(**{part: Once(is_at_decision(decision), 1.0, fault, healthy(part))})
    summary = run(rig)

    held = [index for index, record in enumerate(rig.records) if record.hold]
    assert held == list(range(held[0], held[0] + 50))  # 1 s
    assert summary.holds == 50
    assert all(reason in rig.records[index].hold for index in held)
    before, during = rig.records[held[0] - 1], [rig.records[index] for index in held]
    # It brakes within what the gate allows, and then does not move at all.
    assert np.abs(np.array(during[0].sent) - before.sent).max() <= DOFBOT_LIMITS.acceleration_max[0] * TICK_S**2
    assert len({record.sent for record in during[2:]}) == 1
    assert {(record.phase, record.step, record.action) for record in during} == {("APPROACH", decision, ())}
    after = rig.records[held[-1] + 1]
    assert (after.phase, after.step) == ("APPROACH", decision + 1)

    # Nothing is lost: the same decisions, the same phases, the same place.
    assert rig.steps_left == undisturbed.steps_left
    assert phases(rig) == phases(undisturbed)
    ends = [next(r.sent for r in reversed(rigged.records) if r.phase == "APPROACH") for rigged in (rig, undisturbed)]
    assert np.abs(tool_m(ends[0]) - tool_m(ends[1])).max() < 1e-3
    said = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(said) == 2
    assert said[0].startswith("HOLD in APPROACH: ")
    assert reason in said[0]
    assert said[1] == "resumed APPROACH after 50 ticks"


def test_a_hold_for_another_reason_is_told(caplog) -> None:
    policy = Once(is_at_decision(3), 2.0, raising(PolicyError("NaN")), healthy("policy"))
    is_held = Once(
        lambda rig: len(rig.records) > 30 and bool(rig.records[-30].hold), 1.0, raising(ObservationError("lost")), healthy("camera")
    )
    run(Rig(policy=policy, camera=is_held))
    said = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert [message.split(": ")[-1] for message in said] == ["NaN", "lost", "NaN", "resumed APPROACH after 100 ticks"]


@pytest.mark.parametrize("name", FAULTS)
def test_a_hold_of_five_seconds_ends_in_safe_and_still_parks(name) -> None:
    part, fault, reason = FAULTS[name]
    rig = Rig(**{part: Once(is_at_decision(7), 1e9, fault, healthy(part))})
    summary = run(rig, grasps=0)
    assert summary.stopped_by == "SAFE"
    assert reason in summary.safe_reason
    assert "held for 5 s" in summary.safe_reason
    assert summary.holds == pytest.approx(HOLD_LIMIT_S * TASK.tick_hz, abs=2)
    assert phases(rig) == ["HOMING", "APPROACH", "PARK", "IDLE"]
    assert is_parked(rig)


def test_holds_that_come_and_go_do_not_add_up() -> None:
    """A second without, then a decision: 20 of them are far more than five seconds."""

    def camera(rig: Rig) -> Frame:
        is_dark = rig.phase == "APPROACH" and int(rig.now_s / 1.1) % 2 == 0
        return rig.frame(age_s=1.0 if is_dark else 0.0)

    rig = Rig(camera=camera)
    summary = run(rig, grasps=5)
    assert summary.holds * TICK_S > HOLD_LIMIT_S
    assert (summary.stopped_by, summary.attempts) == ("done", 5)


@pytest.mark.parametrize("phase", ["HOMING", "GRASP", "LIFT", "PLACE", "PARK"])
def test_a_lost_camera_does_not_disturb_a_phase_that_needs_none(phase) -> None:
    def camera(rig: Rig) -> Frame:
        if rig.phase == phase:
            raise ObservationError("unplugged")
        return rig.frame()

    # The phase that a tick is in shows in its record only afterwards: the first decision after it may still be blind.
    rig = Rig(camera=camera)
    summary = run(rig)
    assert phases(rig) == GRASP + END
    assert summary.stopped_by == "done"
    assert not any(record.hold for record in rig.records if record.phase == phase)
    assert summary.holds <= 1


def test_a_camera_that_never_works_neither_keeps_the_arm_from_start_nor_from_park() -> None:
    rig = Rig(camera=raising(ObservationError("no camera")))
    summary = run(rig)
    assert phases(rig) == ["HOMING", "APPROACH", "PARK", "IDLE"]
    assert is_parked(rig)
    assert summary.safe_reason == "held for 5 s: no camera"


def test_a_grasp_is_not_judged_by_a_stale_frame() -> None:
    late = Once(lambda rig: rig.phase == "VERIFY", 1.0, lambda rig: rig.frame(image(TABLE_M), age_s=2.0), healthy("camera"))
    rig = Rig(camera=late)
    summary = run(rig)
    held = [record for record in rig.records if record.hold]
    assert {record.phase for record in held} == {"VERIFY"}
    assert len(held) * TICK_S == pytest.approx(1.0, abs=0.1)
    assert len({record.sent for record in held}) == 1
    assert (summary.attempts, summary.picked) == (1, 1)


# SAFE


@pytest.mark.parametrize("tick", [0, 1, 100, 500])
def test_a_bus_error_ends_the_run_released(tick) -> None:
    rig = Rig(bus=lambda rig: raising(BusError("no answer"))(rig) if len(rig.sent) == tick else None)
    summary = run(rig, grasps=0)
    assert len(rig.sent) == summary.ticks == tick
    assert summary.stopped_by == "SAFE"
    assert summary.safe_reason == "no answer; servos released"
    assert rig.calls["bus"] == tick + 1


def test_a_bus_error_on_the_way_to_park_leaves_the_first_reason() -> None:
    def bus(rig: Rig) -> None:
        if rig.phase == "PARK":
            raise BusError("no answer")

    rig = Rig(bus=bus, camera=raising(ObservationError("no camera")))
    assert run(rig).safe_reason == "held for 5 s: no camera"


@pytest.mark.parametrize("tick", [0, 1, 200])
def test_a_clock_that_dies_with_its_simulator_ends_the_run_released(tick) -> None:
    rig = Rig(clock=lambda rig: raising(BusError("simulator gone"))(rig) if len(rig.sent) == tick else None)
    summary = run(rig)
    assert (summary.ticks, summary.stopped_by) == (tick, "SAFE")
    assert "simulator gone" in summary.safe_reason


@pytest.mark.parametrize("error", [RuntimeError("a bug"), KeyboardInterrupt(), MemoryError()])
@pytest.mark.parametrize("part", ["camera", "policy", "bus", "recorder", "clock"])
def test_any_exception_anywhere_releases_first(part, error) -> None:
    rig = Rig(**{part: lambda rig: raising(error)(rig) if rig.phase == "APPROACH" else healthy(part)(rig)})
    with pytest.raises(type(error)):
        run(rig)  # which checks the release, and that nothing is written after it
    assert 0 < len(rig.sent) < 200


def test_a_clock_without_time_is_an_error_and_releases(monkeypatch) -> None:
    monkeypatch.setattr(FakeClock, "now_s", raising(OSError("no clock")))
    rig = Rig()
    with pytest.raises(OSError, match="no clock"):
        run(rig)
    assert not rig.sent


def test_a_phase_that_does_not_end_parks_the_arm() -> None:
    slow = replace(CONTRACT, episode=replace(EPISODE, success_hold_s=PHASE_LIMIT_S + 1.0))
    rig = Rig()
    summary = run(rig, task=GraspTask(slow, PLACE_M))
    assert phases(rig) == [*GRASP[:-1], "PARK", "IDLE"]
    assert summary.stopped_by == "SAFE"
    assert summary.safe_reason.startswith("VERIFY took more than 10 s")
    assert is_parked(rig)


def test_an_arm_that_cannot_park_is_released_where_it_is() -> None:
    class NeverParked(GraspTask):
        def finished(self, state, sent) -> bool:
            return state.phase is not Phase.PARK and super().finished(state, sent)

    rig = Rig()
    summary = run(rig, task=NeverParked(CONTRACT, PLACE_M))
    assert phases(rig)[-1] == "PARK"
    assert summary.stopped_by == "SAFE"
    assert summary.safe_reason.startswith("PARK took more than 10 s")
    assert summary.attempts == 1


# Figures


def test_lateness_and_skipped_ticks_are_those_of_the_clock() -> None:
    def oversleep(rig: Rig) -> None:
        rig.now_s += 0.055 if rig.calls["clock"] == 100 else 0.004 if rig.calls["clock"] % 10 == 0 else 0.001

    rig = Rig(clock=oversleep)
    summary = run(rig)
    lateness_s = summary.timing.lateness_s
    assert lateness_s.count == summary.ticks
    assert lateness_s.p50 == pytest.approx(0.001, rel=0.02)
    assert lateness_s.p99 == pytest.approx(0.004, rel=0.02)
    assert lateness_s.max == pytest.approx(0.055)
    assert (summary.overruns, summary.skipped) == (0, 3)  # 20 and 40 ms on passed while it overslept, 60 ms on is too near
    assert [record.lateness_s for record in rig.records][99] == pytest.approx(0.055)


def test_inference_and_decision_time_are_measured(monkeypatch) -> None:
    timer_s = [0.0]
    monkeypatch.setattr("edge.runtime.time.perf_counter", lambda: timer_s[0])

    def policy(rig: Rig) -> np.ndarray:
        timer_s[0] += 0.030 if len(rig.steps_left) == STEPS - 1 else 0.003
        return healthy("policy")(rig)

    def bus(_: Rig) -> None:
        timer_s[0] += 0.002

    summary = run(Rig(policy=policy, bus=bus))
    timing = summary.timing
    assert quantiles_s(timing.inference_s) == pytest.approx((0.003, 0.030, 0.030), rel=0.02)
    assert quantiles_s(timing.bus_s) == pytest.approx((0.002, 0.002, 0.002), rel=0.02)
    assert quantiles_s(timing.decision_s) == pytest.approx((0.005, 0.032, 0.032), rel=0.02)
    assert (timing.task_s.max, timing.observation_s.max) == (0.0, 0.0)
    assert timing.inference_s.count == timing.observation_s.count == timing.decision_s.count == STEPS
    assert timing.bus_s.count == timing.task_s.count == summary.ticks


def quantiles_s(found: Durations) -> tuple[float, float, float]:
    return found.p50, found.p99, found.max


def test_the_age_of_each_frame_that_is_used_is_counted() -> None:
    def camera(rig: Rig) -> Frame:
        return rig.frame(age_s=0.02 if rig.calls["camera"] % 2 else 0.2)

    summary = run(Rig(camera=camera))
    age_s = summary.timing.frame_age_s
    assert age_s.count == STEPS + 1  # and one to verify
    assert age_s.max == pytest.approx(0.02)  # the older ones were not used


def test_waiting_for_frames_makes_no_reference_cycles() -> None:
    """With the collector off, each would keep its frame for ever: 400 kB a tick."""

    def camera(rig: Rig) -> Frame:
        return rig.frame(age_s=0.01 if rig.calls["camera"] % 3 else 0.2)

    logging.disable()  # pytest keeps what is logged
    run(Rig(camera=camera))  # what is made once
    gc.collect()
    gc.disable()
    try:
        summary = run(Rig(camera=camera))
        kept = gc.collect()
    finally:
        gc.enable()
        logging.disable(logging.NOTSET)
    assert summary.holds > 10
    assert kept == 0


def test_start_and_memory_are_those_of_the_process() -> None:
    summary = run(Rig())
    assert 0.0 < summary.start_to_first_tick_s < 3600.0
    assert 10.0 < summary.resident_mb < 10_000.0


# Before anything moves


WIDE = Intrinsics(848, 480, 420.0, 420.0, 423.5, 239.5)


def in_view(depth_m: np.ndarray, intrinsics: Intrinsics = LENS) -> FakeCamera:
    camera = FakeCamera(Rig(camera=lambda rig: Frame(depth_m, intrinsics, 0.0, 0)))
    camera.start = lambda: intrinsics  # type: ignore[method-assign]
    return camera


@pytest.mark.parametrize(
    "camera",
    [in_view(image()), in_view(np.full((480, 848), 0.2, np.float32), WIDE), in_view(image(0.0)), in_view(image(1.5))],
    ids=["the policy's own", "a wider camera", "nothing in view", "a room"],
)
def test_preflight_passes_a_camera_that_the_policy_can_use(camera) -> None:
    preflight(FakePolicy(Rig()), camera)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("camera", "error", "message"),
    [
        (in_view(image(), LENS._replace(fx=2 * LENS.fx)), PolicyError, "camera view ends"),
        (in_view(image(), LENS._replace(fx=float("nan"))), PolicyError, "expected finite numbers"),
        (in_view(image()[:, :-1]), ObservationError, r"\(64, 63\), expected float32 \(64, 64\)"),
        (in_view(image(300.0)), ObservationError, "expected metres"),
        (in_view(image().astype(np.float64)), ObservationError, "float64"),
        (in_view(image(float("nan"))), ObservationError, "expected metres"),
    ],
)
def test_preflight_refuses_what_the_policy_cannot_use(camera, error, message) -> None:
    with pytest.raises(error, match=message):
        preflight(FakePolicy(Rig()), camera)  # type: ignore[arg-type]


def random_faults(seed: int) -> Iterator[tuple[str, Callable[[Rig], Any]]]:
    """Camera and policy that fail now and then, for a while."""
    rng = np.random.default_rng(seed)
    lengths_s = np.stack([rng.uniform(0.02, 2.0, 200), rng.uniform(0.02, 0.5, 200)], axis=1)  # without, with
    chosen = {"camera": rng.choice([name for name in FAULTS if FAULTS[name][0] == "camera"]), "policy": "action refused"}
    for part, name in chosen.items():
        windows = START_S + np.cumsum(rng.permuted(lengths_s, axis=0))

        def hook(rig: Rig, part: str = part, name: str = str(name), windows: np.ndarray = windows) -> Any:
            is_faulty = np.searchsorted(windows, rig.now_s) % 2
            return FAULTS[name][1](rig) if is_faulty else healthy(part)(rig)

        yield part, hook


@pytest.mark.parametrize("seed", range(8))
def test_no_mixture_of_faults_breaks_a_limit_or_skips_a_step(seed) -> None:
    rig = Rig(**dict(random_faults(seed)))
    summary = run(rig, grasps=2)
    assert summary.stopped_by == "done"
    assert rig.steps_left == list(range(STEPS, 0, -1)) * 2
    assert summary.holds > 0
    for earlier, later in pairwise(rig.records):
        assert earlier.phase != later.phase or later.step - earlier.step in (0, 1)
