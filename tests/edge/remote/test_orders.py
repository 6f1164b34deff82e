"""Every command has its answer in every state, and whoever waits for an end hears of it, however it ends."""

import threading
import time
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from edge.errors import BusError, ObservationError, PolicyError
from edge.policies.policy_slots import Trial
from edge.records.record import Summary
from edge.records.tally import Counts
from edge.remote import orders
from edge.remote.commands import (
    Accepted,
    Arm,
    Command,
    Done,
    Grasp,
    GraspResult,
    Heartbeat,
    Hold,
    Inject,
    LoopReply,
    Park,
    Refused,
    Reset,
    StatusReport,
    SwapPolicy,
)
from edge.remote.orders import PUBLISH_EVERY_TICKS, Orders
from edge.runtime import Runtime
from edge.simulated.faults import Faults
from edge.states import State
from tests.edge.rig import CONTRACT, START_S, TASK, TICK_S, FakePolicy, Once, Rig, ended, is_parked, phases, raising, runtime

PATH = "/tmp/policy.onnx"


class Asked:
    """A command, and what came back: each reply with the report that was published last before it."""

    def __init__(self, control: "FakeControl", command: Command) -> None:
        self.command = command
        self.replies: list[LoopReply] = []
        self.reports: list[StatusReport] = []
        self._control = control

    def answer(self, reply: LoopReply) -> None:
        assert not self.replies or (len(self.replies) == 1 and isinstance(self.replies[0], Accepted)), "answered too often"
        self.replies.append(reply)
        self.reports.append(self._control.reports[-1])

    @property
    def first(self) -> LoopReply:
        return self.replies[0]

    @property
    def last(self) -> LoopReply:
        """The final reply."""
        assert not isinstance(self.replies[-1], Accepted), "no second reply"
        return self.replies[-1]


class FakeControl:
    """Hands over commands at their times, and keeps what is published."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.todo: list[tuple[float, Asked]] = []
        self.reports: list[StatusReport] = []
        self.lost = ""

    def take(self) -> list[Asked]:
        due = [asked for at_s, asked in self.todo if at_s <= self.rig.now_s]
        self.todo = [(at_s, asked) for at_s, asked in self.todo if at_s > self.rig.now_s]
        return due

    def publish(self, report: StatusReport) -> None:
        self.reports.append(report)

    def deadman_lost(self) -> str:
        return self.lost


def no_policy(path: Path) -> Any:
    raise PolicyError(f"policy {path}: not readable")


class Desk:
    """A runtime in its rig that is commanded: `at` says what and when, `serve` runs it."""

    def __init__(
        self, load: Callable[[Path], Any] = no_policy, faults: Faults | None = None, why_not: Callable[[], str] = lambda: "", **hooks: Any
    ) -> None:
        self.rig = Rig(**hooks)
        self.control = FakeControl(self.rig)
        self.orders = Orders(self.control, faults or Faults(), load, "fake", why_not)  # type: ignore[arg-type]

    def at(self, second: float, command: Command) -> Asked:
        asked = Asked(self.control, command)
        self.control.todo.append((START_S + second, asked))
        return asked

    def serve(self, seconds: float) -> Summary:
        control = runtime(self.rig, TASK, self.orders)

        def loop() -> Summary:
            try:
                return control.serve(lambda: self.rig.now_s >= START_S + seconds)
            finally:
                self.orders.close(control)

        summary = ended(self.rig, loop)
        assert not self.control.todo, "commands that nobody took"
        return summary


def no_camera() -> Callable[[Rig], Any]:
    return raising(ObservationError("no camera"))


def dead_bus(from_s: float) -> Callable[[Rig], Any]:
    return lambda rig: raising(BusError("no answer"))(rig) if rig.now_s > START_S + from_s else None


def blocked(rig: Rig) -> Any:
    """Joint 2 does not move."""
    at = rig.sent[-1][1] if rig.sent else TASK.park
    return at._replace(joint2_rad=TASK.park.joint2_rad)


STATES: dict[str, tuple[Callable[[], Desk], float]] = {  # how to get there with `arm` at 0 s and `grasp` at 0.1 s, and when it is so
    "DISARMED": (lambda: unarmed(Desk()), 3.0),
    "IDLE": (lambda: armed(Desk()), 3.0),
    "APPROACH": (lambda: grasping(Desk()), 3.0),
    "HOLD, camera": (lambda: grasping(Desk(camera=no_camera())), 3.0),
    "HOLD, person": (lambda: held(Desk()), 3.0),
    "HOLD, latched": (lambda: grasping(Desk(measured=blocked)), 3.0),
    "PARK": (lambda: parking(Desk()), 3.5),
    "SAFE, parking": (lambda: grasping(Desk(camera=no_camera())), 7.0),
    "SAFE": (lambda: grasping(Desk(camera=no_camera())), 12.0),
}


def unarmed(desk: Desk) -> Desk:
    return desk


def armed(desk: Desk) -> Desk:
    desk.at(0.0, Arm())
    return desk


def grasping(desk: Desk) -> Desk:
    armed(desk).at(0.1, Grasp())
    return desk


def held(desk: Desk) -> Desk:
    grasping(desk).at(2.0, Hold())
    return desk


def parking(desk: Desk) -> Desk:
    grasping(desk).at(3.0, Park())
    return desk


# What each command's first reply begins with in each state.
TABLE: dict[str, dict[type[Command], str]] = {
    "DISARMED": {
        Arm: "armed; dofbot grasp",
        Grasp: "the arm is DISARMED, expected it armed; first: dofbot arm",
        Hold: "the arm is DISARMED and does not move anyway",
        Park: "the arm is DISARMED: its servos are off",
        Reset: "reset",
        SwapPolicy: "reading",
    },
    "IDLE": {
        Arm: "armed already",
        Grasp: "1 to grasp",
        Hold: "holding",
        Park: "on the way",
        Reset: "the arm is IDLE, expected its servos off",
        SwapPolicy: "reading",
    },
    "APPROACH": {
        Arm: "armed already",
        Grasp: "a grasp is under way",
        Hold: "holding",
        Park: "on the way",
        Reset: "the arm is APPROACH, expected its servos off",
        SwapPolicy: "reading",
    },
    "HOLD, camera": {
        Arm: "armed already",
        Grasp: "a grasp is under way",
        Hold: "holding",
        Park: "on the way",
        Reset: "the arm is HOLD, expected its servos off",
        SwapPolicy: "reading",
    },
    "HOLD, person": {
        Arm: "armed already",
        Grasp: "1 to grasp",
        Hold: "holding",
        Park: "on the way",
        Reset: "the arm is HOLD, expected its servos off",
        SwapPolicy: "reading",
    },
    "HOLD, latched": {
        Arm: "the arm is HOLD (joint2 is",
        Grasp: "the arm is HOLD (joint2 is",
        Hold: "holding",
        Park: "the arm cannot be parked (joint2 is",
        Reset: "reset",
        SwapPolicy: "reading",
    },
    "PARK": {
        Arm: "armed already",
        Grasp: "1 to grasp",
        Hold: "holding",
        Park: "on the way",
        Reset: "the arm is PARK, expected its servos off",
        SwapPolicy: "reading",
    },
    "SAFE, parking": {
        Arm: "the arm is SAFE (held for 5.0 s: no camera), expected nothing latched; look at it, then: dofbot reset",
        Grasp: "the arm is SAFE (held for 5.0 s: no camera)",
        Hold: "holding",
        Park: "on the way",
        Reset: "the arm is SAFE, expected its servos off: it would drop; first: dofbot park",
        SwapPolicy: "reading",
    },
    "SAFE": {
        Arm: "the arm is SAFE (held for 5.0 s: no camera)",
        Grasp: "the arm is SAFE (held for 5.0 s: no camera)",
        Hold: "the arm is SAFE and does not move anyway",
        Park: "the arm is SAFE: its servos are off",
        Reset: "reset",
        SwapPolicy: "reading",
    },
}


def example(kind: type[Command]) -> Command:
    return SwapPolicy(path=PATH) if kind is SwapPolicy else kind()


def text(reply: LoopReply) -> str:
    return reply.reason if isinstance(reply, Refused) else reply.text  # type: ignore[union-attr]


@pytest.mark.parametrize(("state", "kind"), [(state, kind) for state in TABLE for kind in TABLE[state]])
def test_every_command_is_answered_in_every_state(state, kind) -> None:
    make, at_s = STATES[state]
    desk = make()
    before = [asked for _, asked in desk.control.todo]
    asked = desk.at(at_s, example(kind))
    desk.serve(at_s + 1.0)
    assert text(asked.first).startswith(TABLE[state][kind])
    assert [text(one.last) for one in [*before, asked] if not isinstance(one.last, GraspResult)]  # each has its last
    shown = next(report for report in desk.control.reports if report.ticks >= round(at_s / TICK_S) - PUBLISH_EVERY_TICKS)
    assert shown.state == state.partition(",")[0]


def test_an_arm_whose_camera_is_not_checked_is_refused_in_a_sentence_and_stays_disarmed() -> None:
    desk = Desk(why_not=lambda: "the camera was never checked, expected a check; make one")
    asked = desk.at(0.0, Arm())
    desk.serve(0.5)
    assert asked.replies == [Refused(reason="the camera was never checked, expected a check; make one")]
    assert not desk.rig.sent


def test_a_grasp_is_accepted_at_once_and_its_result_follows() -> None:
    desk = Desk()
    desk.at(0.0, Arm())
    asked = desk.at(0.1, Grasp(count=2))
    desk.serve(30.0)
    assert asked.replies == [Accepted(text="2 to grasp"), GraspResult(picked=2, missed=0, lost=0)]


def test_a_second_grasp_counts_from_its_own_beginning() -> None:
    desk = Desk()
    desk.at(0.0, Arm())
    desk.at(0.1, Grasp())
    again = desk.at(15.0, Grasp())
    desk.serve(30.0)
    assert again.last == GraspResult(picked=1, missed=0, lost=0)
    assert (desk.control.reports[-1].attempts, desk.control.reports[-1].picked) == (2, 2)


@pytest.mark.parametrize(
    ("desk", "end", "reason"),
    [
        (Desk(), Hold(), "a person asked for it (dofbot hold)"),
        (Desk(), Park(), "the arm is PARK"),
        (Desk(camera=no_camera()), None, "held for 5.0 s: no camera"),
        (Desk(bus=dead_bus(2.0)), None, "held for 5.0 s: no answer"),
        (Desk(measured=blocked), None, "joint2 is"),
    ],
    ids=["hold", "park", "SAFE, parked", "SAFE, released", "latched"],
)
def test_whatever_ends_a_grasp_is_told_to_whoever_waits_for_it(desk, end, reason) -> None:
    desk.at(0.0, Arm())
    asked = desk.at(0.1, Grasp(count=3))
    if end is not None:
        desk.at(3.0, end)
    desk.serve(12.0)
    assert isinstance(asked.last, GraspResult)
    assert (asked.last.picked, asked.last.missed, asked.last.lost) == (0, 0, 0)
    assert asked.last.reason.startswith(reason)


@pytest.mark.parametrize("command", [Grasp(), Park(), SwapPolicy(path=PATH)])
def test_a_signal_ends_what_is_under_way_with_an_answer(command) -> None:
    never = threading.Event()
    desk = Desk(load=lambda _: never.wait(0.5))
    desk.at(0.0, Arm())
    asked = desk.at(0.5, command)
    assert desk.serve(0.7).stopped_by == "signal"
    assert isinstance(asked.first, Accepted)
    expected = {Grasp: "the arm is PARK", Park: "parked, servos off", SwapPolicy: "the process ends"}[type(command)]
    assert (asked.last.reason if isinstance(asked.last, GraspResult) else text(asked.last)).startswith(expected)
    assert is_parked(desk.rig)


def test_a_bug_in_the_loop_leaves_nobody_without_an_answer() -> None:
    desk = Desk(recorder=lambda rig: raising(RuntimeError("a bug"))(rig) if rig.now_s > START_S + 1.0 else None)
    desk.at(0.0, Arm())
    asked = desk.at(0.5, Grasp())
    with pytest.raises(RuntimeError, match="a bug"):
        desk.serve(5.0)
    assert isinstance(asked.last, GraspResult)


@pytest.mark.parametrize(("command", "is_done"), [(Arm(), False), (Grasp(), False), (Reset(), False), (Hold(), True), (Park(), True)])
def test_once_it_is_told_to_end_it_takes_nothing_on_but_can_still_be_stopped(command, is_done) -> None:
    desk = grasping(Desk())
    asked = desk.at(4.1, command)
    desk.serve(4.0)
    assert isinstance(asked.first, Refused) != is_done
    if not is_done:
        assert "about to end" in text(asked.last)
        assert phases(desk.rig)[-2:] == ["APPROACH", "PARK"]
        assert is_parked(desk.rig)


@pytest.mark.parametrize(
    ("desk", "at_s", "stop_s", "says"),
    [
        (grasping(Desk()), 2.0, 3.0, "holding; dofbot grasp or dofbot park goes on"),
        (grasping(Desk(camera=no_camera())), 7.0, 9.0, "holding; dofbot park goes on"),
        (grasping(Desk()), 4.1, 4.0, "holding; the process is about to end and lets the arm go within 4 s; dofbot park takes it home"),
    ],
    ids=["grasping", "SAFE, parking", "about to end"],
)
def test_a_hold_says_what_is_true_of_the_way_on(desk, at_s, stop_s, says) -> None:
    asked = desk.at(at_s, Hold())
    desk.serve(stop_s)
    assert text(asked.last) == says


def test_a_hold_and_a_grasp_in_one_tick_answer_both_grasps() -> None:
    desk = Desk()
    desk.at(0.0, Arm())
    first, _, second = desk.at(0.1, Grasp()), desk.at(2.0, Hold()), desk.at(2.0, Grasp())
    desk.serve(20.0)
    assert first.last == GraspResult(picked=0, missed=0, lost=0, reason="a person asked for it (dofbot hold)")
    assert second.last == GraspResult(picked=1, missed=0, lost=0)


def test_everybody_who_waits_for_a_park_hears_of_it() -> None:
    desk = grasping(Desk())
    asked = [desk.at(second, Park()) for second in (2.0, 2.0, 2.3)]
    desk.serve(10.0)
    assert [one.replies for one in asked] == [[Accepted(text="on the way to its park pose"), Done(text="parked, servos off")]] * 3


@pytest.mark.parametrize(("spoilt_by", "says"), [(Hold(), "the arm is HOLD (a person"), (Grasp(), "the arm is HOMING, expected it parked")])
def test_a_park_that_is_called_off_says_so(spoilt_by, says) -> None:
    desk = grasping(Desk())
    asked = desk.at(3.0, Park())
    desk.at(3.2, spoilt_by)
    desk.serve(10.0)
    assert isinstance(asked.last, Refused)
    assert asked.last.reason.startswith(says)


def test_a_park_that_is_blocked_says_so_while_a_person_can_still_help() -> None:
    desk = grasping(Desk(measured=lambda rig: blocked(rig) if "PARK" in phases(rig) else rig.sent[-1][1] if rig.sent else TASK.park))
    asked = desk.at(4.0, Park())
    desk.serve(6.5)
    assert isinstance(asked.last, Refused)
    assert asked.last.reason.startswith("the arm is HOLD (joint2 is")


def test_an_arm_that_cannot_be_armed_says_why_and_stays_disarmed() -> None:
    desk = Desk(open=raising(BusError("servo 3 is silent")))
    asked = desk.at(0.0, Arm())
    desk.serve(1.0)
    assert asked.replies == [Refused(reason="servo 3 is silent")]
    assert not desk.rig.sent


def test_what_is_latched_survives_a_park_and_asks_for_a_reset() -> None:
    """A person is told once more before the arm moves."""
    desk = grasping(Desk(camera=no_camera()))
    refused, reset, again = desk.at(12.0, Arm()), desk.at(13.0, Reset()), desk.at(14.0, Arm())
    desk.serve(15.0)
    assert isinstance(refused.last, Refused)
    assert (reset.last, again.last) == (Done(text="reset; the arm is DISARMED: dofbot arm"), Done(text="armed; dofbot grasp"))


def test_a_lost_link_reaches_the_armed_loop_and_not_the_disarmed_one() -> None:
    desk = Desk()
    desk.control.lost = "the client is gone"
    desk.at(1.0, Arm())
    desk.serve(2.0)
    states = [report.state for report in desk.control.reports]
    assert "HOLD" in states
    assert next(report.reason for report in desk.control.reports if report.state == "HOLD") == "the client is gone"
    assert states[0] == State.DISARMED


# Faults and policies


def test_faults_are_injected_where_that_is_allowed_and_refused_elsewhere() -> None:
    for allow in (True, False):
        desk = Desk(faults=Faults(allow=allow, now_s=lambda: START_S))
        asked = desk.at(0.0, Inject(target="camera", mode="off", for_s=2.0))
        wrong = desk.at(0.1, Inject(target="bus", mode="slow", value=-3.0))
        desk.serve(1.0)
        assert isinstance(wrong.last, Refused)
        assert asked.last == Done(text="camera off") if allow else "faults.allow = false" in text(asked.last)
        assert desk.control.reports[-1].faults == ({"camera off": 0} if allow else {})


def swapped(desk: Desk, wait_s: float = 5.0) -> Asked:
    """Ask for another policy, and let real time pass until its thread has read it."""
    asked = desk.at(0.5, SwapPolicy(path=PATH))
    ends_s = time.monotonic() + wait_s
    desk.rig.hooks["check"] = lambda rig: ends_s > time.monotonic() and not desk.orders._loaded and time.sleep(0.01)
    desk.serve(10.0)
    return asked


def test_another_policy_takes_over_and_the_status_says_so() -> None:
    desk = Desk()
    desk.orders._load = lambda path: FakePolicy(desk.rig, sha256=f"{path.name:b<64}")  # type: ignore[assignment,return-value]
    desk.orders.policy_warning = "not the active one, 3f2a91bc04d7: cut short"
    asked = swapped(desk)
    assert asked.replies == [Accepted(text="reading it"), Done(text="policy policy.onnxb from now on")]
    assert desk.control.reports[0].policy_warning == "not the active one, 3f2a91bc04d7: cut short"
    assert desk.control.reports[-1].policy_warning == ""
    assert desk.control.reports[-1].policy_sha256.startswith("policy.onnxb")


@pytest.mark.parametrize(
    ("load", "says"),
    [
        (raising(PolicyError("policy x: damaged")), "policy x: damaged"),
        (raising(ZeroDivisionError("7")), "ZeroDivisionError: 7; export it again"),
        (
            lambda _: SimpleNamespace(contract=replace(CONTRACT, rates=replace(CONTRACT.rates, tick_hz=25.0)), sha256="c" * 64),
            "the policy is for another task, camera or robot",
        ),
        (  # frames may be projected into the camera of the policy that runs, in a process that this one does not reach
            lambda _: SimpleNamespace(
                contract=replace(CONTRACT, camera=replace(CONTRACT.camera, transform_camera_to_tool=np.eye(4).tolist())), sha256="c" * 64
            ),
            "expected the same; restart with it",
        ),
    ],
    ids=["damaged", "a bug", "another task", "another camera"],
)
def test_a_policy_that_does_not_fit_leaves_the_old_one_in_place(load, says) -> None:
    desk = Desk(load=load)
    asked = swapped(desk)
    assert isinstance(asked.last, Refused)
    assert says in asked.last.reason
    assert desk.control.reports[-1].policy_sha256 == "a" * 64


def test_a_policy_takes_over_between_two_grasps_and_not_within_one() -> None:
    deciding: list[tuple[str, str]] = []
    desk = Desk(policy=lambda rig: deciding.append((rig.phase, rig.runtime.policy.sha256[:1])) or np.zeros(2, np.float32))
    desk.orders._load = lambda path: FakePolicy(desk.rig, sha256="b" * 64)  # type: ignore[assignment,return-value]
    desk.at(0.0, Arm())
    grasps = desk.at(0.1, Grasp(count=2))
    asked = desk.at(3.0, SwapPolicy(path=PATH))  # in the first approach
    desk.serve(30.0)
    assert grasps.last == GraspResult(picked=2, missed=0, lost=0)
    assert asked.last == Done(text="policy bbbbbbbbbbbb from now on")
    assert asked.reports[-1].attempts == 1
    assert [who for who, _ in groupby(who for _, who in deciding)] == ["a", "b"]


def test_an_arm_that_does_not_come_to_the_end_of_a_grasp_keeps_its_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk(camera=Once(lambda rig: rig.phase == "APPROACH", 4.9, no_camera(), lambda rig: rig.frame()))
    desk.orders._load = lambda path: FakePolicy(desk.rig, sha256="b" * 64)  # type: ignore[assignment,return-value]
    desk.at(0.0, Arm())
    desk.at(0.1, Grasp())
    asked = desk.at(3.0, SwapPolicy(path=PATH))
    monkeypatch.setattr(orders, "SWAP_WITHIN_S", 1.0)
    desk.serve(6.0)
    assert text(asked.last).startswith("the arm has been HOLD for 1 s, expected it to end a grasp")
    assert desk.control.reports[-1].policy_sha256 == "a" * 64


class FakeProbation:
    """Fails the policy 'b' at its first grasp."""

    def __init__(self) -> None:
        self.given_up: list[Trial] = []

    def look(self) -> None:
        pass

    def begin(self) -> None:
        pass

    def count(self, counts: Counts, policy: Any) -> Trial | None:
        is_failed = counts.attempts and policy.sha256[0] == "a" and not self.given_up
        return Trial("a" * 12, "b" * 12, "bundled", counts.attempts, 0, "failed") if is_failed else None

    def give_up(self, trial: Trial) -> str:
        self.given_up.append(trial)
        return PATH


@pytest.mark.parametrize("is_damaged", [False, True])
def test_a_policy_that_fails_its_trial_goes_between_two_grasps_or_the_arm_waits_for_a_person(is_damaged: bool) -> None:
    desk, probation = Desk(), FakeProbation()
    if not is_damaged:
        desk.orders._load = lambda path: FakePolicy(desk.rig, sha256="b" * 64)  # type: ignore[assignment,return-value]
    desk.orders._probation = probation  # type: ignore[assignment]
    desk.at(0.0, Arm())
    asked = desk.at(0.1, Grasp(count=3))
    begun: list[float] = []

    def wait_for_the_thread(rig: Rig) -> None:
        if probation.given_up and not begun:
            begun.append(rig.now_s)
            time.sleep(0.2)

    desk.rig.hooks["clock"] = wait_for_the_thread
    desk.serve(45.0)
    assert len(probation.given_up) == 1
    shown = desk.control.reports[-1].policy_sha256[0]
    if is_damaged:
        assert shown == "a"
        assert isinstance(asked.last, GraspResult)
        assert "policy aaaaaaaaaaaa picked 0 of 1, and bbbbbbbbbbbb does not take over: policy" in asked.last.reason
    else:
        assert shown == "b"
        assert asked.last == GraspResult(picked=3, missed=0, lost=0)


@pytest.mark.parametrize("why", ["a person", "a signal"])
def test_where_nothing_takes_over_from_a_policy_that_failed_a_park_goes_on(why: str) -> None:
    """The hold is for a grasping arm: a park that it ended would leave the arm up there, or let it drop when the process has to end."""
    probation, parks = FakeProbation(), threading.Event()

    def load(path: Path) -> Any:
        parks.wait(10.0)
        return no_policy(path)

    desk = Desk(load)
    desk.orders._probation = probation  # type: ignore[assignment]
    desk.at(0.0, Arm())
    desk.at(0.1, Grasp(count=3))
    asked = desk.at(11.5, Park()) if why == "a person" else None

    def let_it_fail_on_the_way(rig: Rig) -> None:
        if desk.orders._swap is not None and not probation.given_up:
            time.sleep(0.2)  # its thread begins
        if rig.phase == "PARK" and not parks.is_set():
            parks.set()
            time.sleep(0.2)  # it has failed

    desk.rig.hooks["clock"] = let_it_fail_on_the_way
    summary = desk.serve(20.0 if asked else 11.5)
    assert probation.given_up
    assert (summary.stopped_by, summary.safe_reason) == ("signal", "")
    assert asked is None or asked.last == Done(text="parked, servos off")
    assert is_parked(desk.rig)


class Booked:
    """Whose grasps they were."""

    def __init__(self) -> None:
        self.attempts: dict[str, int] = {}
        self._seen = 0

    def look(self) -> None:
        pass

    def begin(self) -> None:
        pass

    def count(self, counts: Counts, policy: Any) -> None:
        self.attempts[policy.sha256[0]] = self.attempts.get(policy.sha256[0], 0) + counts.attempts - self._seen
        self._seen = counts.attempts


def test_the_grasp_during_which_a_policy_came_is_that_of_the_one_before() -> None:
    desk, booked = Desk(), Booked()
    desk.orders._load = lambda path: FakePolicy(desk.rig, sha256="b" * 64)  # type: ignore[assignment,return-value]
    desk.orders._probation = booked  # type: ignore[assignment]
    desk.at(0.0, Arm())
    desk.at(0.1, Grasp(count=3))
    desk.at(2.0, SwapPolicy(path=PATH))
    waited: list[bool] = []

    def wait_for_the_thread(rig: Rig) -> None:
        while rig.now_s > START_S + 2.5 and not waited:
            waited.extend([True] * bool(desk.orders._loaded))
            time.sleep(0.01)

    desk.rig.hooks["clock"] = wait_for_the_thread
    desk.serve(45.0)
    assert booked.attempts == {"a": 1, "b": 2}


# What is published


def test_a_report_is_published_often_and_before_every_answer() -> None:
    desk = grasping(Desk())
    asked = [*(one for _, one in desk.control.todo), desk.at(4.0, Park())]
    desk.orders.realtime = ("SCHED_FIFO 50: granted",)
    desk.serve(8.0)
    arm, grasp, park = asked
    assert arm.reports[0].state == "IDLE"
    assert [report.state for report in grasp.reports] == ["HOMING", "PARK"]
    assert park.reports[-1].state == "DISARMED"
    ticks = [report.ticks for report in desk.control.reports]
    assert max(later - earlier for earlier, later in zip(ticks, ticks[1:], strict=False)) <= PUBLISH_EVERY_TICKS
    last = desk.control.reports[-1]
    assert (last.bus, last.policy, last.realtime) == ("fake: answers", "depth", ("SCHED_FIFO 50: granted",))
    assert last.frame_age_s == pytest.approx(0.01)


def test_the_status_tells_of_a_camera_and_a_bus_that_are_away_while_nothing_moves() -> None:
    desk = Desk(
        camera=lambda rig: no_camera()(rig) if rig.now_s > START_S + 1.0 else rig.frame(),
        check=raising(BusError("off")),
        open=raising(BusError("off")),
    )
    desk.serve(4.0)
    last = desk.control.reports[-1]
    assert last.bus == "fake: off"
    assert last.frame_age_s == pytest.approx(3.0, abs=0.2)


def test_what_the_server_answers_itself_is_refused_here() -> None:
    desk = Desk()
    asked = desk.at(0.0, Heartbeat())
    desk.serve(0.5)
    assert text(asked.last) == "the control loop cannot heartbeat, expected a command for the arm"


# Everything at once


def at_times(rng: np.random.Generator, count: int, longest_s: float) -> Callable[[Rig], bool]:
    """Whether it is one of some random moments that last a while; all are over after a minute."""
    begins_s = START_S + rng.uniform(0.0, 48.0, count)
    ends_s = begins_s + longest_s * rng.uniform(0.0, 1.0, count) ** 2
    return lambda rig: bool(((begins_s <= rig.now_s) & (rig.now_s < ends_s)).any())


class Model:
    """Orders, and what must be true after them, whatever else happens."""

    def __init__(self, desk: Desk, is_link_lost: Callable[[Rig], bool]) -> None:
        self._desk, self._orders, self._is_link_lost = desk, desk.orders, is_link_lost
        self._is_held = False

    def __call__(self, now: Runtime) -> None:
        desk, was = self._desk, now.state
        desk.control.lost = "gone" if self._is_link_lost(desk.rig) else ""
        due = [asked for at_s, asked in desk.control.todo if at_s <= desk.rig.now_s]
        self._orders(now)
        for asked in due:
            if not isinstance(asked.first, Refused):
                self._is_held = isinstance(asked.command, Hold)
        self._is_held &= now.is_armed
        assert now.phase == "IDLE" or not self._is_held, "moves though a person made it hold"
        assert was != State.SAFE or now.state == State.SAFE or any(isinstance(asked.command, Reset) for asked in due)

    def close(self, now: Runtime) -> None:
        self._orders.close(now)


@pytest.mark.parametrize("seed", [1, 12, 18, 20, 24, 26])  # each found that a late acknowledgement, or SAFE, moved a held arm
def test_a_held_arm_stays_safe_stays_and_nobody_waits_for_ever_whatever_fails(seed: int) -> None:
    """And once nothing fails any more, the arm is parked and grasps again."""
    rng = np.random.default_rng(seed)
    no_frame, silent, late, busy, alone = (at_times(rng, *how) for how in ((6, 8.0), (5, 7.0), (30, 0.1), (3, 9.0), (5, 12.0)))

    def bus(rig: Rig) -> None:
        if silent(rig):
            raise BusError("no answer")

    def acknowledged(rig: Rig) -> None:
        if late(rig) or (rig.now_s < START_S + 60.0 and rng.random() < 0.05):
            raise BusError("late")

    def clock(rig: Rig) -> None:
        rig.now_s += 0.025 if busy(rig) else 0.0

    def opened(rig: Rig) -> None:
        rig.is_at_rest = True  # it takes longer than this clock tells

    camera = lambda rig: no_camera()(rig) if no_frame(rig) else rig.frame()  # noqa: E731
    desk = Desk(camera=camera, bus=bus, late=acknowledged, clock=clock, open=opened)
    commands = (Arm(), Arm(), Grasp(), Grasp(count=2), Hold(), Park(), Reset())
    asked = [desk.at(second, commands[rng.integers(len(commands))]) for second in np.cumsum(rng.exponential(1.0, 60)) if second < 60.0]
    asked += [desk.at(80.0 + 4.0 * turn, command) for turn, command in enumerate((Reset(), Park(), Reset()))]
    arm, grasp, park = (desk.at(second, command) for second, command in ((95.0, Arm()), (96.0, Grasp()), (115.0, Park())))
    desk.orders = Model(desk, alone)  # type: ignore[assignment]
    desk.serve(125.0)
    assert all(one.last for one in asked)
    assert isinstance(arm.last, Done)
    assert grasp.last == GraspResult(picked=1, missed=0, lost=0)
    assert park.last == Done(text="parked, servos off")
