"""The loop keeps every promise of its docstring with a camera, policy, bus, clock or recorder that fails at any time."""

import contextlib
import gc
import logging
import math
from collections.abc import Callable
from itertools import groupby, pairwise
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from edge.errors import BusError, ObservationError, PolicyError
from edge.messages import Frame, JointCommand
from edge.records.histogram import Durations
from edge.runtime import STOP_LIMIT_S, Runtime
from edge.safety import DOFBOT_LIMITS
from edge.states import GIVE_UP_S, State
from edge.task import PHASE_LIMIT_S, RELEASE_HEIGHT_M, GraspTask, Phase
from tests.edge.rig import (
    BLOCK_M,
    CONTRACT,
    END,
    EPISODE,
    GRASP,
    MAX_AGE_S,
    PLACE_M,
    START_S,
    STEPS,
    TABLE_M,
    TASK,
    TICK_S,
    FakeClock,
    Once,
    Rig,
    image,
    is_parked,
    phases,
    raising,
    run,
    serve,
    tool_m,
)
from tests.hil.trace import unsafe_set_points

# A whole run


def test_a_grasp_goes_through_all_phases_in_sane_times_and_ends_parked() -> None:
    rig = Rig()
    summary = run(rig)
    assert phases(rig) == GRASP + END
    assert is_parked(rig)
    assert (summary.attempts, summary.picked, summary.stopped_by, summary.safe_reason) == (1, 1, "done", "")
    assert rig.steps_left == list(range(STEPS, 0, -1))
    (grasp,) = summary.grasps
    assert (grasp.result, grasp.tries) == ("picked", 1)
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


def test_an_empty_gripper_is_a_miss_which_is_tried_once_more_and_not_carried_to_the_place() -> None:
    rig = Rig(camera=lambda rig: rig.frame(image(TABLE_M)))
    summary = run(rig, grasps=2)
    assert phases(rig) == [*GRASP[:-1] * 4, *END]
    assert (summary.attempts, summary.picked, summary.missed, summary.lost) == (2, 0, 2, 0)
    assert [(grasp.result, grasp.tries) for grasp in summary.grasps] == [("missed", 2)] * 2


def test_every_tick_writes_once_and_is_recorded() -> None:
    rig = Rig()
    summary = run(rig)
    assert summary.ticks - 1 == len(rig.records) == len(rig.sent)  # in the last one the servos are switched off
    assert rig.calls["alive"] == rig.calls["obey"] == summary.ticks
    assert [record.sent for record in rig.records] == [command for _, command in rig.sent]
    assert [record.now_s for record in rig.records] == [at_s for at_s, _ in rig.sent]
    assert np.allclose(np.diff([at_s for at_s, _ in rig.sent]), TICK_S)
    assert summary.clamped == sum(bool(record.clamped) for record in rig.records)
    for record in rig.records:
        assert bool(record.clamped) == (record.wanted != record.sent)
    assert [record.action for record in rig.records if record.action] == [pytest.approx((0.3, -0.2))] * STEPS
    assert all(record.frame_age_s >= 0.01 - 1e-9 for record in rig.records if record.frame_sequence >= 0)


def test_a_miss_and_then_a_hit_is_one_grasp_of_two_tries() -> None:
    rig = Rig(camera=lambda rig: rig.frame(image(BLOCK_M if "PLACE" in phases(rig) or len(rig.steps_left) > STEPS else TABLE_M)))
    summary = run(rig)
    assert phases(rig) == [*GRASP[:-1], *GRASP, *END]
    assert (summary.attempts, summary.picked, summary.missed) == (1, 1, 0)
    (grasp,) = summary.grasps
    assert (grasp.result, grasp.tries) == ("picked", 2)
    assert grasp.phase_s["APPROACH"] == pytest.approx(6.4)  # of both


@pytest.mark.parametrize(("lost_in", "seen"), [("VERIFY", GRASP[:-1]), ("PLACE", GRASP)])
def test_what_was_held_and_then_is_not_was_lost_and_is_not_tried_again(lost_in, seen) -> None:
    rig = Rig(camera=lambda rig: rig.frame(image(TABLE_M if rig.phase == lost_in else BLOCK_M)))
    summary = run(rig)
    assert phases(rig) == [*seen, *END]
    assert (summary.picked, summary.missed, summary.lost) == (0, 0, 1)
    assert summary.grasps[0].tries == 1
    if lost_in == "PLACE":  # it turns back above the place: nothing is put down
        lowest_m = min(tool_m(record.sent)[2] for record in rig.records if record.phase == "PLACE")
        assert lowest_m > RELEASE_HEIGHT_M + 0.03


@pytest.mark.parametrize(("opening_m", "result"), [(EPISODE.closed_m + 0.001, "missed"), (EPISODE.block_size_m, "picked")])
def test_fingers_that_are_read_back_say_what_they_hold_whatever_the_camera_sees(opening_m, result) -> None:
    def measured(rig: Rig) -> JointCommand:
        at = rig.sent[-1][1] if rig.sent else TASK.park
        return at._replace(opening_m=max(opening_m, at.opening_m))

    rig = Rig(measured=measured, camera=lambda rig: rig.frame(image(TABLE_M if result == "picked" else BLOCK_M)))
    assert run(rig).grasps[0].result == result


# Stopping


@pytest.mark.parametrize(("phase", "grasps"), list(zip(GRASP, [0, 5] * 3, strict=True)))
def test_stop_parks_from_any_phase_then_releases(phase, grasps) -> None:
    asked_s: list[float] = []

    def stop(rig: Rig) -> bool:
        if rig.phase == phase:
            asked_s.append(rig.now_s)
        return bool(asked_s)

    rig = Rig()
    summary = run(rig, grasps, stop)
    assert phases(rig)[-2:] == [phase, "PARK"]
    assert (summary.stopped_by, summary.safe_reason, summary.attempts) == ("signal", "", 0)
    assert is_parked(rig)
    assert rig.now_s - asked_s[0] <= STOP_LIMIT_S


def test_stop_while_parking_changes_nothing() -> None:
    rig = Rig()
    summary = run(rig, 1, lambda rig: rig.phase == "PARK")
    assert summary.stopped_by == "done"
    assert phases(rig) == GRASP + END
    assert is_parked(rig)


@pytest.mark.parametrize("kind", ["a held arm", "a dead bus"])
def test_a_stop_that_cannot_park_ends_in_four_seconds_released_and_says_so(kind) -> None:
    """Even when a person holds the arm meanwhile: whoever has a hand in the way is heard first."""
    rig = Rig(bus=lambda rig: raising(BusError("no answer"))(rig) if kind == "a dead bus" and rig.now_s > START_S + 2.0 else None)
    held = {"at_3_2": lambda runtime: runtime.hold("wait")} if kind == "a held arm" else {}
    summary = serve(rig, 3.0, at_0=arm, at_0_1=grasping, **held)
    assert rig.now_s - START_S == pytest.approx(3.0 + STOP_LIMIT_S, abs=0.1)
    assert summary.stopped_by == "SAFE"
    reason = "wait" if kind == "a held arm" else "no answer"
    assert summary.safe_reason == f"could not park within 4 s: {reason}; servos released"


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
POLICY_FAULTS: dict[str, tuple[Callable[[Rig], Any], str]] = {
    "refused": (raising(PolicyError("it is not that policy")), "it is not that policy"),
    "NaN": (lambda rig: np.array([np.nan, 0.0], np.float32), "action is [nan, 0.0]"),
    "infinite": (lambda rig: np.array([0.0, -np.inf], np.float32), "action is [0.0, -inf]"),
    "out of range": (lambda rig: np.array([1.01, 0.0], np.float32), "expected finite numbers in [-1, 1]"),
    "a bug": (raising(IndexError("7")), "the policy failed (IndexError: 7)"),
}


def healthy(part: str) -> Callable[[Rig], Any]:
    return {"camera": Rig.frame, "policy": lambda rig: np.array([0.3, -0.2], np.float32)}.get(part, lambda rig: None)


@pytest.fixture(scope="module")
def undisturbed() -> Rig:
    rig = Rig()
    run(rig)
    return rig


@pytest.mark.parametrize(
    ("name", "decision"), [*((name, 7) for name in CAMERA_FAULTS), ("stale", 0), ("no frame", 1), ("stale", STEPS - 1)]
)
def test_hold_stays_in_place_and_resumes_the_same_step(name, decision, undisturbed, caplog) -> None:
    fault, reason = CAMERA_FAULTS[name]
    begins = (lambda rig: rig.phase == "APPROACH") if decision == 1 else is_at_decision(decision)
    rig = Rig(camera=Once(begins, 1.0, fault, healthy("camera")))
    summary = run(rig)

    held = [index for index, record in enumerate(rig.records) if record.hold]
    assert held == list(range(held[0], held[0] + len(held)))
    assert summary.holds == len(held) in range(47, 51)  # 1 s; what is in a frame counts for decisions alone, which are four ticks apart
    assert all(reason in rig.records[index].hold for index in held)
    before, during = rig.records[held[0] - 1], [rig.records[index] for index in held]
    # It brakes within what the gate allows, and then does not move at all.
    assert np.abs(np.array(during[0].sent) - before.sent).max() <= DOFBOT_LIMITS.acceleration_max[0] * TICK_S**2
    assert len({record.sent for record in during[2:]}) == 1
    assert {(record.phase, record.step, record.action) for record in during} == {("APPROACH", during[0].step, ())}

    # Nothing is lost: the same decisions, the same phases, the same place.
    assert rig.steps_left == undisturbed.steps_left
    assert phases(rig) == phases(undisturbed)
    ends = [next(r.sent for r in reversed(rigged.records) if r.phase == "APPROACH") for rigged in (rig, undisturbed)]
    assert np.abs(tool_m(ends[0]) - tool_m(ends[1])).max() < 1e-3
    said = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(said) == 2
    assert said[0].endswith(f"→ HOLD: {rig.records[held[0]].hold}")
    assert said[1] == f"HOLD → APPROACH after {len(held) * TICK_S:.2f} s"


def test_a_hold_for_another_cause_is_told(caplog) -> None:
    def obey(rig: Rig) -> None:
        holds = bool(rig.records) and bool(rig.records[-1].hold)
        rig.runtime.link_lost("the client is gone" if holds and rig.records[-20].hold and not rig.records[-60].hold else "")

    run(Rig(camera=Once(is_at_decision(3), 2.0, raising(ObservationError("dark")), healthy("camera")), obey=obey))
    said = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert said == [
        "APPROACH → HOLD: dark",
        "HOLD → HOLD: the client is gone",
        "HOLD → HOLD: dark",
        "HOLD → APPROACH after 2.00 s",
    ]


@pytest.mark.parametrize("name", ["no frame", "stale", "all invalid"])
def test_a_hold_of_five_seconds_ends_in_safe_and_still_parks(name) -> None:
    fault, reason = CAMERA_FAULTS[name]
    rig = Rig(camera=Once(is_at_decision(7), 1e9, fault, healthy("camera")))
    summary = run(rig, grasps=0)
    assert summary.stopped_by == "SAFE"
    assert reason in summary.safe_reason
    assert summary.safe_reason.startswith("held for 5.0 s: ")
    assert summary.holds == pytest.approx(GIVE_UP_S * TASK.tick_hz, abs=2)
    assert phases(rig) == ["HOMING", "APPROACH", "PARK"]
    assert is_parked(rig)


@pytest.mark.parametrize("name", POLICY_FAULTS)
@pytest.mark.parametrize("ticks", [1, 2, 3])
def test_two_actions_that_are_none_are_waited_for_and_the_third_is_safe(name, ticks) -> None:
    fault, reason = POLICY_FAULTS[name]
    rig = Rig(policy=Once(is_at_decision(7), ticks * TICK_S, fault, healthy("policy")))
    summary = run(rig)
    assert summary.holds == ticks
    if ticks < 3:
        assert (summary.stopped_by, summary.picked) == ("done", 1)
    else:
        assert summary.stopped_by == "SAFE"
        assert reason in summary.safe_reason
        assert phases(rig) == ["HOMING", "APPROACH", "PARK"]
    assert is_parked(rig)


def test_holds_that_come_and_go_do_not_add_up() -> None:
    """A second without, then a decision: 20 of them are far more than five seconds."""

    def camera(rig: Rig) -> Frame:
        is_dark = rig.phase == "APPROACH" and int(rig.now_s / 1.1) % 2 == 0
        return rig.frame(age_s=1.0 if is_dark else 0.0)

    rig = Rig(camera=camera)
    summary = run(rig, grasps=3)
    assert summary.holds * TICK_S > GIVE_UP_S
    assert (summary.stopped_by, summary.attempts) == ("done", 3)


@pytest.mark.parametrize("phase", ["HOMING", "GRASP", "PARK"])
def test_a_lost_camera_does_not_disturb_a_phase_that_needs_none(phase) -> None:
    # The phase that a tick is in shows in its record only afterwards: the first decision after it may still be blind.
    rig = Rig(camera=lambda rig: raising(ObservationError("unplugged"))(rig) if rig.phase == phase else rig.frame())
    summary = run(rig)
    assert phases(rig) == GRASP + END
    assert summary.stopped_by == "done"
    assert not any(record.hold for record in rig.records if record.phase == phase)
    assert summary.holds <= 1


def test_a_camera_that_never_works_neither_keeps_the_arm_from_start_nor_from_park() -> None:
    rig = Rig(camera=raising(ObservationError("no camera")))
    summary = run(rig)
    assert phases(rig) == ["HOMING", "APPROACH", "PARK"]
    assert is_parked(rig)
    assert summary.safe_reason == "held for 5.0 s: no camera"


@pytest.mark.parametrize("phase", ["LIFT", "VERIFY", "PLACE"])
def test_a_grasp_is_not_judged_by_a_stale_frame(phase) -> None:
    late = Once(lambda rig: rig.phase == phase, 3.0, lambda rig: rig.frame(image(TABLE_M), age_s=2.0), healthy("camera"))
    rig = Rig(camera=late)
    summary = run(rig)
    held = [record for record in rig.records if record.hold]
    assert {record.phase for record in held} == {phase}
    assert len({record.sent for record in held[2:]}) == 1
    assert (summary.attempts, summary.picked) == (1, 1)


def test_a_machine_that_overruns_tick_after_tick_holds_until_it_is_quiet() -> None:
    def bus(rig: Rig) -> None:
        busy = START_S + 0.5 <= rig.now_s < START_S + 1.0
        rig.now_s += 1.2 * TICK_S if busy else 0.0

    rig = Rig(bus=bus)
    summary = run(rig)
    held_s = [record.now_s - START_S for record in rig.records if record.hold]
    assert {record.hold for record in rig.records} == {"", "3 ticks in a row overran, expected none; is the machine busy?"}
    assert 0.54 < held_s[0] < 0.64
    assert 1.15 < held_s[-1] < 1.26  # 0.2 s after the last one
    assert (summary.stopped_by, summary.picked) == ("done", 1)


# The bus: a tick that it did not acknowledge did not happen


def fails(at: Callable[[Rig], bool], error: str = "no answer") -> Callable[[Rig], Any]:
    return lambda rig: raising(BusError(error))(rig) if at(rig) else None


@pytest.mark.parametrize(("number", "ticks"), [(0, 2), (1, 1), (7, 2), (60, 2), (100, 1), (350, 1), (400, 2)])
def test_a_glitch_delays_the_same_motion_by_its_ticks(number, ticks, undisturbed, caplog) -> None:
    """Whatever the tick was to do (a decision, a phase's end, a grasp's end) it does once, when it is acknowledged."""
    rig = Rig(bus=fails(lambda rig: number <= rig.calls["bus"] - 1 < number + ticks))
    summary = run(rig)
    assert phases(rig) == phases(undisturbed)
    assert (summary.attempts, summary.picked, summary.holds) == (1, 1, 0)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    decisions = [step for step, _ in groupby(rig.steps_left)]
    assert decisions == list(range(STEPS, 0, -1))
    assert len(rig.sent) - len(undisturbed.sent) in range(8)  # it has to gather speed again
    assert is_parked(rig)


def test_every_single_failed_tick_leaves_the_books_right() -> None:
    """One set point in seven is lost: whole phases begin and end in ticks that did not happen."""
    rig = Rig(bus=fails(lambda rig: rig.calls["bus"] % 7 == 0), camera=lambda rig: rig.frame(image(TABLE_M)))
    summary = run(rig, grasps=2)
    assert phases(rig) == [*GRASP[:-1] * 4, *END]
    assert (summary.attempts, summary.missed) == (2, 2)
    assert [grasp.tries for grasp in summary.grasps] == [2, 2]
    assert is_parked(rig)


def test_what_arrives_after_its_time_is_gone_on_from(undisturbed) -> None:
    """The servos have moved, whatever the loop was told: the next set point keeps the limits from there."""
    rig = Rig(late=fails(lambda rig: rig.calls["late"] % 5 == 0))
    summary = run(rig)
    assert phases(rig) == phases(undisturbed)
    assert (summary.picked, summary.holds) == (1, 0)
    assert [command for _, command in rig.sent] == [command for _, command in undisturbed.sent]
    recorded = [command for record in rig.records for command in (record.late, record.sent) if command is not None]
    assert [command for command, _ in groupby(recorded)] == [command for command, _ in groupby(command for _, command in rig.sent)]
    at_rest = replace(rig.records[0], sent=TASK.park)
    assert not unsafe_set_points([at_rest, *rig.records])


@pytest.mark.parametrize(
    ("command", "leads_to"),
    [
        (lambda runtime: runtime.hold("wait"), ["APPROACH", *END]),
        (Runtime.park, ["APPROACH", "PARK"]),
        (None, ["APPROACH", "PARK"]),  # a stop
    ],
)
def test_a_step_that_arrives_after_its_time_does_not_bring_back_what_a_command_has_ended(command, leads_to) -> None:
    rig = Rig(late=fails(lambda rig: START_S + 2.97 < rig.now_s < START_S + 2.99))
    commands = {} if command is None else {"at_3": command, "at_10": Runtime.resume}
    serve(rig, 3.0 if command is None else 12.0, at_0=arm, at_0_1=grasping, **commands)
    assert phases(rig) == ["IDLE", "HOMING", *leads_to]
    assert [record.late for record in rig.records if record.late] == [command for at_s, command in rig.sent if 2.97 < at_s - START_S < 2.99]
    assert is_parked(rig)


def test_a_grasp_begins_although_the_set_point_before_it_arrived_after_its_time() -> None:
    rig = Rig(late=fails(lambda rig: START_S + 0.97 < rig.now_s < START_S + 0.99))
    serve(rig, 20.0, at_0=arm, at_1=grasping)
    assert phases(rig) == ["IDLE", *GRASP, *END]


@pytest.mark.parametrize("phase", [*GRASP, "PARK"])
def test_a_lost_bus_holds_within_100_ms_is_opened_again_and_goes_on(phase, undisturbed, caplog) -> None:
    lost = Once(lambda rig: rig.phase == phase, 2.0, raising(BusError("no answer")), lambda rig: None)
    rig = Rig(bus=lost)
    summary = run(rig)
    held = [record for record in rig.records if record.hold]
    assert held[0].now_s - lost.began_s <= 0.1
    assert held[-1].now_s - lost.began_s == pytest.approx(2.0, abs=0.15)
    assert {record.hold for record in held} == {"no answer"}
    assert rig.calls["open"] in range(15, 25)  # ten times a second, and once to arm
    assert phases(rig) == phases(undisturbed)
    assert (summary.stopped_by, summary.picked) == ("done", 1)
    said = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert said[0] == f"{phase} → HOLD: no answer"
    assert said[1].startswith("the servo bus is back after ")
    assert said[2].startswith((f"HOLD → {phase} after 1.9", f"HOLD → {phase} after 2.0"))
    assert is_parked(rig)


def test_a_bus_that_stays_lost_is_safe_after_five_seconds_and_released() -> None:
    rig = Rig(bus=fails(lambda rig: rig.now_s > START_S + 2.0))
    summary = run(rig, grasps=0)
    assert (summary.stopped_by, summary.safe_reason) == ("SAFE", "held for 5.0 s: no answer")
    assert rig.now_s - START_S == pytest.approx(7.0, abs=0.2)


def test_a_bus_that_is_lost_on_the_way_to_park_leaves_the_first_reason_and_ends() -> None:
    rig = Rig(bus=fails(lambda rig: rig.phase == "PARK"), camera=raising(ObservationError("no camera")))
    summary = run(rig)
    assert summary.safe_reason == "held for 5.0 s: no camera"
    began_s = next(record.now_s for record in rig.records if record.phase == "PARK")
    assert rig.now_s - began_s == pytest.approx(GIVE_UP_S, abs=0.3)


def test_an_arm_that_hung_limp_is_taken_up_where_it_is_and_goes_on() -> None:
    """The set points jump to where the joints are, so that the joints do not; a grip is kept."""

    hung: list[JointCommand] = []

    def measured(rig: Rig) -> JointCommand:
        at = rig.sent[-1][1] if rig.sent else TASK.park
        is_back = lost.began_s is not None and rig.now_s > lost.began_s + 0.5
        if is_back and rig.records[-1].hold:  # read again when it was opened anew
            hung.append(hung[0] if hung else at._replace(joint2_rad=at.joint2_rad - 0.3))
            at = hung[0]
        return at._replace(opening_m=0.03)

    lost = Once(lambda rig: rig.phase == "LIFT", 0.5, raising(BusError("off")), lambda rig: None)
    rig = Rig(bus=lost, measured=measured, open=lambda rig: lost(rig) if rig.sent else None)
    summary = run(rig)
    assert (summary.stopped_by, summary.picked) == ("done", 1)
    back = next(index for index, ((a_s, _), (b_s, _)) in enumerate(pairwise(rig.sent)) if b_s - a_s > 0.2) + 1
    held, resumed = rig.sent[back - 1][1], rig.sent[back][1]
    assert resumed == held._replace(joint2_rad=held.joint2_rad - 0.3)
    check_limits_from(resumed, rig.sent[back + 1 :])


def check_limits_from(start: JointCommand, sent: list[tuple[float, JointCommand]]) -> None:
    steps = np.abs(np.diff(np.array([start, *(command for _, command in sent)]), axis=0))
    assert np.all(steps <= np.array(DOFBOT_LIMITS.velocity_max) * TICK_S + 1e-9)
    assert np.all(steps[0] <= np.array(DOFBOT_LIMITS.acceleration_max) * TICK_S**2 + 1e-9)


def test_a_bus_that_does_not_open_arms_nothing() -> None:
    rig = Rig(open=raising(BusError("servo 3 is silent")))
    with pytest.raises(BusError, match="servo 3 is silent"):
        run(rig)
    assert not rig.sent


@pytest.mark.parametrize("tick", [0, 1, 200])
def test_a_clock_that_dies_with_its_simulator_ends_the_run_released(tick) -> None:
    rig = Rig(clock=lambda rig: raising(BusError("simulator gone"))(rig) if len(rig.sent) == tick else None)
    summary = run(rig)
    assert (summary.ticks, summary.stopped_by) == (tick, "SAFE")
    assert summary.safe_reason == "simulator gone; servos released"


# A joint that is not where it was sent


def blocked(at_rad: float, free: Callable[[Rig], bool] = lambda rig: False) -> Callable[[Rig], JointCommand]:
    """Joint 2 stops against something while the fingers hold a block."""

    def measured(rig: Rig) -> JointCommand:
        at = rig.sent[-1][1] if rig.sent else TASK.park
        return at._replace(opening_m=0.03, joint2_rad=at.joint2_rad if free(rig) else min(at.joint2_rad, at_rad))

    return measured


def test_a_blocked_joint_holds_where_it_is_until_a_person_has_looked() -> None:
    at_rad = TASK.park.joint2_rad + 0.1
    rig = Rig(measured=blocked(at_rad))
    seen: list[str] = []
    look = {f"at_{second}": lambda runtime: seen.append(runtime.state) for second in (3, 15)}
    summary = serve(rig, 17.0, at_0=arm, at_0_1=grasping, **look, at_16=Runtime.reset)
    assert seen == ["HOLD", "HOLD"]
    held = [record for record in rig.records if record.hold]
    assert "joint2 is" in held[0].hold
    assert "is it blocked?" in held[0].hold
    sent_rad = [command.joint2_rad for _, command in rig.sent]
    further = next(index for index, rad in enumerate(sent_rad) if rad > at_rad + math.radians(8.0))
    first = next(index for index, record in enumerate(rig.records) if record.hold)
    assert first - further <= 17  # 320 ms, and the tick that finds it
    assert {command for _, command in rig.sent[first + 2 :]} == {held[-1].sent}
    assert held[-1].sent.joint2_rad == at_rad
    assert held[-1].sent.opening_m == rig.sent[first][1].opening_m  # the grip is kept
    assert summary.attempts == 0
    assert summary.safe_reason == ""


def test_a_blocked_joint_is_not_pushed_by_what_arrived_late_when_it_was_found() -> None:
    at_rad = TASK.park.joint2_rad + 0.1
    rigs = [Rig(measured=blocked(at_rad))]
    serve(rigs[0], 6.0, at_0=arm, at_0_1=grasping)
    first = next(index for index, record in enumerate(rigs[0].records) if record.hold)
    rigs.append(Rig(measured=blocked(at_rad), late=fails(lambda rig: rig.calls["late"] - 1 == first)))
    serve(rigs[1], 6.0, at_0=arm, at_0_1=grasping)
    for rig in rigs:
        assert {command.joint2_rad for _, command in rig.sent[first + 2 :]} == {at_rad}


def test_a_joint_that_is_blocked_on_the_way_to_park_is_released_after_five_seconds() -> None:
    rig = Rig(measured=blocked(0.2, free=lambda rig: "PARK" not in phases(rig)))
    summary = serve(rig, 15.0, at_0=arm, at_0_1=grasping, at_4=Runtime.park)
    assert "could not park: joint2 is" in summary.safe_reason
    assert rig.now_s - START_S == pytest.approx(15.0, abs=0.1)
    assert rig.sent[-1][0] - START_S < 11.0


def test_an_unattended_run_does_not_wait_for_ever_for_a_person() -> None:
    rig = Rig(measured=blocked(TASK.park.joint2_rad + 0.1))
    summary = run(rig)
    assert summary.stopped_by == "SAFE"
    assert "could not park: joint2 is" in summary.safe_reason
    assert rig.now_s - START_S < 10.0


# What people ask for


def arm(runtime: Runtime) -> None:
    runtime.arm()


def grasping(runtime: Runtime) -> None:
    runtime.grasp(1)


def test_it_is_disarmed_until_somebody_arms_it_and_looks_after_its_bus() -> None:
    rig = Rig()
    summary = serve(rig, 10.0)
    assert rig.runtime.state == State.DISARMED
    assert (rig.sent, summary.ticks) == ([], rig.calls["alive"])
    assert rig.calls["check"] == 50
    assert summary.stopped_by == "signal"


def test_a_bus_that_is_away_while_disarmed_is_opened_anew_and_ends_nothing() -> None:
    rig = Rig()
    is_away = Once(lambda rig: rig.now_s > START_S + 2.0, 3.0, raising(BusError("no answer")), lambda rig: None)
    rig.hooks |= {"check": is_away, "open": lambda rig: raising(BusError("off"))(rig) if is_on(rig) else None}

    def is_on(rig: Rig) -> bool:
        return START_S + 2.0 < rig.now_s < START_S + 5.0

    seen: list[str] = []
    look = {f"at_{second}": lambda runtime: seen.append(runtime.bus_problem) for second in (1, 4, 6)}
    summary = serve(rig, 7.0, **look)
    assert seen == ["", "off", ""]
    assert rig.calls["alive"] == summary.ticks == 350


def test_armed_it_keeps_its_place_until_it_is_told_more_and_parks_at_the_end() -> None:
    rig = Rig()
    serve(rig, 30.0, at_1=arm, at_5=grasping)
    assert rig.sent[0][0] - START_S == pytest.approx(1.0)
    assert {command for at_s, command in rig.sent if at_s < START_S + 5.0} == {TASK.park}
    assert phases(rig) == ["IDLE", *GRASP, *END]
    assert is_parked(rig)
    assert "IDLE" not in rig.runtime._grasping.tally.grasps[0].phase_s


def test_a_park_ends_disarmed_and_can_be_armed_again() -> None:
    rig = Rig()
    serve(rig, 20.0, at_0=arm, at_0_1=grasping, at_3=Runtime.park, at_3_5=Runtime.park, at_10=arm, at_11=grasping, at_11_5=Runtime.park)
    assert phases(rig) == ["IDLE", "HOMING", "APPROACH", "PARK", "IDLE", "HOMING", "PARK"]
    assert is_parked(rig)


def test_who_asks_for_a_park_again_and_again_does_not_delay_it() -> None:
    rigs = Rig(), Rig(obey=lambda rig: rig.runtime.park() if rig.phase == "PARK" else None)
    for rig in rigs:
        run(rig, 0, lambda rig: rig.phase == "GRASP")  # near the table, from where it must rise first
    assert rigs[0].sent == rigs[1].sent


def test_hold_stops_at_once_and_only_a_person_ends_it(caplog) -> None:
    caplog.set_level(logging.INFO)
    rig = Rig()
    seen: list[tuple[str, str]] = []
    look = {f"at_{second}": lambda runtime: seen.append((runtime.state, runtime.phase)) for second in (4, 20)}
    serve(rig, 36.0, at_0=arm, at_0_1=grasping, at_3=lambda runtime: runtime.hold("wait"), **look, at_21=grasping)
    assert seen == [("HOLD", "IDLE")] * 2
    assert len({command for at_s, command in rig.sent if START_S + 3.1 < at_s < START_S + 21.0}) == 1
    assert phases(rig) == ["IDLE", "HOMING", "APPROACH", "IDLE", *GRASP, *END]
    assert rig.runtime.counts == (1, 1, 0, 0)
    assert "HOLD → HOMING after 18.00 s" in caplog.messages


def test_safe_stays_until_it_is_reset() -> None:
    rig = Rig(camera=raising(ObservationError("no camera")))
    seen: list[str] = []
    look = {f"at_{second}": lambda runtime: seen.append(runtime.state) for second in (5, 9, 50, 52)}
    summary = serve(rig, 60.0, at_0=arm, at_0_1=grasping, **look, at_51=Runtime.reset)
    assert seen == ["HOLD", "SAFE", "SAFE", "DISARMED"]
    assert is_parked(rig)
    assert rig.runtime.standing.reasons == {}
    assert (summary.stopped_by, summary.safe_reason) == ("signal", "")


def test_who_armed_with_a_deadman_and_is_gone_makes_it_hold_then_park() -> None:
    def gone(runtime: Runtime) -> None:
        runtime.link_lost("silent")

    rig = Rig()
    serve(rig, 30.0, at_0=arm, at_0_1=grasping, at_2=gone, at_3=lambda runtime: runtime.link_lost(""))
    assert 49 <= sum(record.hold == "silent" for record in rig.records) <= 51
    assert phases(rig) == ["IDLE", *GRASP, *END]
    rig = Rig()
    serve(rig, 30.0, at_0=arm, at_0_1=grasping, at_2=gone)
    assert rig.runtime.standing.safe_reason == "held for 5.0 s: silent"
    assert is_parked(rig)


def test_what_a_person_holds_does_not_move_when_something_else_ends_in_safe() -> None:
    """Somebody's hand may be there: only a person lets it park."""
    rig = Rig()
    seen: list[str] = []
    at = {"at_3": lambda runtime: runtime.hold("wait"), "at_4": lambda runtime: runtime.link_lost("silent")}
    serve(rig, 40.0, at_0=arm, at_0_1=grasping, **at, at_29=lambda runtime: seen.append(runtime.state), at_30=Runtime.park)
    assert seen == [State.SAFE]
    assert len({command for at_s, command in rig.sent if 3.1 < at_s - START_S < 30.0}) == 1
    assert phases(rig) == ["IDLE", "HOMING", "APPROACH", *END]
    assert is_parked(rig)


def test_a_policy_that_never_gets_what_it_asks_for_is_latched_and_parked() -> None:
    class Impatient(GraspTask):
        """Asks for what no arm can do."""

        def tick(self, state, sent, action=None):
            state, wanted = super().tick(state, sent, action)
            return state, wanted._replace(joint1_rad=2.0) if state.phase is Phase.APPROACH else wanted

    rig = Rig()
    summary = run(rig, task=Impatient(CONTRACT, PLACE_M))
    assert summary.stopped_by == "SAFE"
    assert "of the last 50 set points" in summary.safe_reason
    assert is_parked(rig)
    assert rig.runtime.standing.is_latched


# What ends it


@pytest.mark.parametrize("error", [RuntimeError("a bug"), KeyboardInterrupt()])
@pytest.mark.parametrize("part", ["camera", "policy", "bus", "recorder", "clock", "alive", "obey"])
def test_any_exception_anywhere_releases_first(part, error) -> None:
    rig = Rig(**{part: lambda rig: raising(error)(rig) if rig.phase == "APPROACH" else healthy(part)(rig)})
    if part == "policy" and isinstance(error, Exception):
        assert run(rig).safe_reason.startswith("the policy failed (RuntimeError: a bug)")
        return
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
    assert phases(rig) == [*GRASP[:-1], "PARK"]
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


def test_an_arm_that_was_turned_to_where_its_tool_has_no_way_up_is_released_after_five_seconds() -> None:
    """Near the table it would rise first, with the tool's yaw of this policy: 60° to the left joint 5 cannot turn so far."""
    turned = replace(CONTRACT, episode=replace(EPISODE, yaw_rad=math.radians(45.0)))
    by_hand = JointCommand(math.radians(-60.0), *TASK.start[1:])
    rig = Rig(measured=lambda rig: rig.sent[-1][1] if rig.sent else by_hand)
    summary = run(rig, task=GraspTask(turned, (0.12, 0.06)))
    assert summary.stopped_by == "SAFE"
    assert "it needs joint5" in summary.safe_reason
    assert rig.now_s - START_S == pytest.approx(GIVE_UP_S, abs=0.1)


@pytest.mark.parametrize("part", ["clock", "policy"])
@pytest.mark.parametrize("pause_s", [0.018, 0.045, 0.31])
def test_after_a_pause_the_arm_starts_from_rest(part: str, pause_s: float) -> None:
    """Whether the machine sleeps between two ticks or in the middle of one; `run` judges every set point."""

    def sleep(rig: Rig) -> Any:
        rig.now_s += pause_s if rig.calls[part] % 7 == 3 else 0.0
        return healthy("policy")(rig) if part == "policy" else None

    rig = Rig(**{part: sleep})
    summary = run(rig)
    assert summary.picked == 1
    assert summary.skipped > 0 or pause_s < TICK_S


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
    assert timing.bus_s.count == timing.task_s.count == summary.ticks - 1


def quantiles_s(found: Durations) -> tuple[float, float, float]:
    return found.p50, found.p99, found.max


def test_the_age_of_each_frame_that_is_used_is_counted() -> None:
    def camera(rig: Rig) -> Frame:
        return rig.frame(age_s=0.02 if rig.calls["camera"] % 2 else 0.2)

    summary = run(Rig(camera=camera))
    age_s = summary.timing.frame_age_s
    assert age_s.count == STEPS + 3  # lifted, verified, and still there over the place
    assert age_s.max == pytest.approx(0.02)  # the older ones were not used


@pytest.mark.parametrize("part", ["camera", "policy", "bus", "measured"])
def test_what_fails_for_a_while_makes_no_reference_cycles(part) -> None:
    """With the collector off, each would stay for ever: of a frame 400 kB a tick."""
    faults: dict[str, Callable[[Rig], Any]] = {
        "camera": lambda rig: rig.frame(age_s=0.01 if rig.calls["camera"] % 3 else 0.2),
        "policy": lambda rig: healthy("policy")(rig) if rig.calls["policy"] % 3 else raising(PolicyError("NaN"))(rig),
        "bus": lambda rig: raising(BusError("no answer"))(rig) if rig.calls["bus"] % 10 > 5 else None,
        "measured": blocked(TASK.park.joint2_rad + 0.1),
    }
    logging.disable()  # pytest keeps what is logged
    run(Rig(**{part: faults[part]}))  # what is made once
    rig = Rig(**{part: faults[part]})
    gc.collect()
    gc.disable()
    try:
        summary = run(rig)
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


# Everything at once


def random_windows(rng: np.random.Generator, longest_s: float) -> np.ndarray:
    """Times between which a part works, and fails, in turns."""
    lengths_s = np.stack([rng.uniform(0.02, 2.0, 200), rng.uniform(0.02, longest_s, 200)], axis=1)
    return START_S + np.cumsum(rng.permuted(lengths_s, axis=0))


def failing(rng: np.random.Generator, part: str, fault: Callable[[Rig], Any], longest_s: float) -> Callable[[Rig], Any]:
    windows = random_windows(rng, longest_s)
    return lambda rig: (fault if np.searchsorted(windows, rig.now_s) % 2 else healthy(part))(rig)


@pytest.mark.parametrize("seed", range(4))
def test_no_mixture_of_short_faults_breaks_a_limit_or_skips_a_step(seed) -> None:
    rng = np.random.default_rng(seed)
    camera = CAMERA_FAULTS[str(rng.choice(["no frame", "stale", "from the future", "camera lost"]))][0]
    rig = Rig(
        camera=failing(rng, "camera", camera, 0.5),
        policy=failing(rng, "policy", POLICY_FAULTS["NaN"][0], 0.04),
        bus=failing(rng, "bus", raising(BusError("no answer")), 0.5),
    )
    summary = run(rig, grasps=2)
    assert summary.stopped_by == "done"
    assert [step for step, _ in groupby(rig.steps_left)] == list(range(STEPS, 0, -1)) * 2
    assert summary.holds > 0
    for earlier, later in pairwise(rig.records):
        assert earlier.phase != later.phase or later.step - earlier.step in (0, 1)


@pytest.mark.parametrize("seed", range(5))
def test_nothing_that_fails_and_nobody_who_commands_gets_an_unsafe_command_out(seed) -> None:
    """An hour of a mad house, in short: any part fails for up to seven seconds, and people press every button. `ended` judges."""
    rng = np.random.default_rng(seed)
    buttons: list[Callable[[Runtime], None]] = [arm, grasping, grasping, Runtime.park, Runtime.reset, Runtime.resume]
    buttons += [lambda runtime: runtime.hold("wait"), lambda runtime: runtime.link_lost("gone"), lambda runtime: runtime.link_lost("")]

    def obey(rig: Rig) -> None:
        now = rig.runtime
        if rng.random() < 0.01:
            press = buttons[rng.integers(len(buttons))]
            allowed = now.is_armed or press is Runtime.reset or (press is arm and not now.standing.is_latched)
            if allowed and not (press is grasping and now.standing.is_latched):
                with contextlib.suppress(BusError):
                    press(now)

    rig = Rig(
        camera=failing(rng, "camera", CAMERA_FAULTS["stale"][0], 7.0),
        policy=failing(rng, "policy", POLICY_FAULTS["NaN"][0], 0.1),
        bus=failing(rng, "bus", raising(BusError("no answer")), 7.0),
        open=failing(rng, "open", raising(BusError("no answer")), 1.0),
        check=failing(rng, "check", raising(BusError("no answer")), 1.0),
        obey=obey,
    )
    summary = serve(rig, 40.0)
    assert summary.ticks == rig.calls["alive"]
    assert rig.now_s - START_S < 40.0 + STOP_LIMIT_S + 0.1
    for record in rig.records:
        assert record.phase == "IDLE" or record.wanted is not None
