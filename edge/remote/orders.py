"""What people have asked for over the control socket, carried out between two ticks: each command becomes one call of the runtime."""

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import edge
from edge.errors import ConfigError, DofbotError, PolicyError
from edge.policies.policy_slots import Trial
from edge.policies.probation import Probation
from edge.policy import Policy
from edge.records.tally import Counts
from edge.remote.commands import (
    Accepted,
    Arm,
    Command,
    Done,
    Grasp,
    GraspResult,
    Hold,
    Inject,
    LoopReply,
    Park,
    Refused,
    Reset,
    StatusReport,
    SwapPolicy,
)
from edge.remote.control import ControlServer
from edge.remote.pending import Pending
from edge.runtime import STOP_LIMIT_S, Runtime
from edge.simulated.faults import Fault, Faults

PUBLISH_EVERY_TICKS = 5
SWAP_WITHIN_S = 20.0  # to find the end of a grasp, which takes half as long
HELD_BY_PERSON = "a person asked for it (dofbot hold)"

_log = logging.getLogger(__name__)


class FallBack(NamedTuple):
    """A swap that nobody has asked for, after a trial that failed. Where it cannot be, the arm waits for a person."""

    failed: Trial
    runtime: Runtime

    def answer(self, reply: LoopReply) -> None:
        """What has come of it."""
        trial = self.failed
        if not isinstance(reply, Refused):
            _log.warning("policy %s decides again", trial.before)
            return
        why = f"policy {trial.to} picked {trial.picked} of {trial.grasps}, and {trial.before} does not take over: {reply.reason}"
        _log.error("%s", why)
        if not self.runtime.is_parking:  # it waits for a person there, too, and a hold would end the way
            self.runtime.hold(why)


class Orders:
    """Takes commands from a control server, and tells it how the runtime is; its methods are for the control thread.

    `load` reads and checks a policy file, in a thread of its own: golden vectors take longer than a tick. Whoever hears of a change
    finds it in the status, too: a report is published before each answer. `why_not_armed` says why the arm may not be; empty: it may.
    """

    def __init__(
        self,
        control: ControlServer,
        faults: Faults,
        load: Callable[[Path], Policy],
        bus: str,
        why_not_armed: Callable[[], str] = lambda: "",
        probation: Probation | None = None,
    ) -> None:
        self._control = control
        self._faults = faults
        self._load = load
        self._why_not_armed = why_not_armed
        self.realtime: tuple[str, ...] = ()  # what the kernel granted
        self.policy_warning = ""  # why the policy is not the active one
        self._bus = bus
        self._probation = probation
        self._grasp: Pending | None = None
        self._before = Counts()  # when that began
        self._parks: list[Pending] = []
        self._swap: Pending | FallBack | None = None
        self._swap_by_tick = 0
        self._loaded: list[Policy | DofbotError] = []
        self._published = ""  # the state

    def __call__(self, runtime: Runtime) -> None:
        """Once a tick: do what is asked, answer what has ended, and publish the state from time to time."""
        # First: what has ended since was decided by the policy that is still there.
        failed = self._probation.count(runtime.counts, runtime.policy) if self._probation is not None else None
        runtime.link_lost(self._control.deadman_lost() if runtime.is_armed else "")
        for pending in self._control.take():
            self._answer(pending, self._obey(pending, runtime), runtime)
            self._answer_what_has_ended(runtime)
        self._answer_what_has_ended(runtime)
        if failed is not None and runtime.policy.sha256.startswith(failed.to):  # nobody has replaced it just now
            self._fall_back(failed, runtime)
        if runtime.state != self._published or runtime.figures.ticks % PUBLISH_EVERY_TICKS == 0:
            self._publish(runtime)

    def close(self, runtime: Runtime) -> None:
        """Last words, when the loop is over: everybody who waits is answered."""
        self._answer_what_has_ended(runtime, is_over=True)
        if self._swap is not None and not isinstance(self._swap, FallBack):
            self._swap.answer(Refused(reason="the process ends, expected it to go on; give it the policy at its next start"))
        for pending in self._control.take():
            pending.answer(Refused(reason="the process ends, expected it to go on; start it again"))

    def _obey(self, pending: Pending, runtime: Runtime) -> LoopReply:
        if runtime.is_stopping and not isinstance(pending.command, Hold | Park | Inject):
            return Refused(reason="the process is about to end and parks the arm, expected it to go on; start it again")
        match pending.command:
            case Arm():
                return self._arm(runtime)
            case Grasp(count=count):
                return self._begin_grasp(pending, count, runtime)
            case Hold():
                if not runtime.is_armed:
                    return Done(text=f"the arm is {runtime.state} and does not move anyway")
                runtime.hold(HELD_BY_PERSON)
                return Done(text=f"holding; {_way_on(runtime)}")
            case Park():
                return self._begin_park(pending, runtime)
            case Reset():
                return self._reset(runtime)
            case Inject() as wanted:
                return self._inject(wanted)
            case SwapPolicy(path=path):
                return self._begin_swap(pending, lambda: Path(path), runtime)
            case other:  # the server answers the rest itself
                return Refused(reason=f"the control loop cannot {type(other).__name__.lower()}, expected a command for the arm")

    def _arm(self, runtime: Runtime) -> LoopReply:
        if runtime.standing.is_latched:
            return Refused(
                reason=f"the arm is {runtime.state} ({runtime.reason}), expected nothing latched; look at it, then: dofbot reset"
            )
        if runtime.is_armed:
            runtime.resume()
            return Done(text="armed already")
        reason = self._why_not_armed()
        if reason:
            return Refused(reason=reason)
        try:
            runtime.arm()
        except DofbotError as error:
            return Refused(reason=str(error))
        return Done(text="armed; dofbot grasp")

    def _begin_grasp(self, pending: Pending, count: int, runtime: Runtime) -> LoopReply:
        if runtime.standing.is_latched:
            return Refused(reason=f"the arm is {runtime.state} ({runtime.reason}), expected it free; look at it, then: dofbot reset")
        if not runtime.is_armed:
            return Refused(reason=f"the arm is {runtime.state}, expected it armed; first: dofbot arm")
        if runtime.is_busy:
            return Refused(reason="a grasp is under way, expected the arm to wait; dofbot hold stops it")
        self._grasp, self._before = pending, runtime.counts
        runtime.grasp(count)
        return Accepted(text=f"{count} to grasp")

    def _begin_park(self, pending: Pending, runtime: Runtime) -> LoopReply:
        if not runtime.is_armed:
            return Done(text=f"the arm is {runtime.state}: its servos are off")
        if runtime.is_blocked:
            return Refused(reason=f"the arm cannot be parked ({runtime.reason}), expected it free to move; {_remedy(runtime)}")
        self._parks.append(pending)
        runtime.park()
        return Accepted(text="on the way to its park pose")

    def _reset(self, runtime: Runtime) -> LoopReply:
        """Where the arm can be parked, it must be: a reset switches the servos off."""
        if runtime.is_armed and not (runtime.standing.is_latched and runtime.is_blocked):
            return Refused(reason=f"the arm is {runtime.state}, expected its servos off: it would drop; first: dofbot park")
        runtime.reset()
        return Done(text="reset; the arm is DISARMED: dofbot arm")

    def _inject(self, wanted: Inject) -> LoopReply:
        try:
            self._faults.inject(Fault(wanted.target, wanted.mode, wanted.value or None, 0.0, wanted.for_s))
        except ConfigError as error:
            return Refused(reason=str(error))
        return Done(text=f"{wanted.target} {wanted.mode}")

    def _begin_swap(self, pending: "Pending | FallBack", locate: Callable[[], Path], runtime: Runtime) -> LoopReply:
        """`locate` and the reading are for a thread of their own; the switch comes between two grasps."""
        if self._swap is not None:
            return Refused(reason="another policy is being read, expected one at a time; try again")
        self._swap, self._swap_by_tick = pending, runtime.figures.ticks + round(SWAP_WITHIN_S * runtime.policy.contract.rates.tick_hz)

        def load() -> None:
            loaded: Policy | DofbotError
            try:
                loaded = self._load(locate())
            except DofbotError as error:
                loaded = error.with_traceback(None)
            except Exception as error:  # whoever asked must hear of it
                loaded = PolicyError(f"policy: {type(error).__name__}: {error}; export it again")
            if self._probation is not None:
                self._probation.look()
            self._loaded.append(loaded)

        threading.Thread(target=load, name="policy loader", daemon=True).start()
        return Accepted(text="reading it")

    def _fall_back(self, failed: Trial, runtime: Runtime) -> None:
        """Nobody asked: the policy on trial has failed, and the one before comes back."""
        assert self._probation is not None
        _log.warning("policy %s picked %d of %d: back to %s", failed.to, failed.picked, failed.grasps, failed.before)
        probation, fallen = self._probation, FallBack(failed, runtime)
        reply = self._begin_swap(fallen, lambda: Path(probation.give_up(failed)), runtime)
        if isinstance(reply, Refused):
            fallen.answer(reply)

    def _answer_what_has_ended(self, runtime: Runtime, is_over: bool = False) -> None:
        """Second replies, to whoever waits for an end."""
        if self._grasp is not None and (is_over or not runtime.is_busy):
            ended, self._grasp = self._grasp, None
            self._answer(ended, self._grasp_result(ended.command, runtime), runtime)
        if self._parks and (is_over or not runtime.is_parking or runtime.is_blocked):
            parks, self._parks = self._parks, []
            for pending in parks:
                self._answer(pending, _park_result(runtime), runtime)
        is_over_time = runtime.figures.ticks > self._swap_by_tick
        if self._swap is not None and self._loaded and (runtime.is_between_grasps or is_over_time):
            swap, self._swap = self._swap, None
            self._answer(swap, self._finish_swap(self._loaded.pop(), runtime), runtime)

    def _answer(self, pending: "Pending | FallBack", reply: LoopReply, runtime: Runtime) -> None:
        self._publish(runtime)
        pending.answer(reply)

    def _grasp_result(self, wanted: Command, runtime: Runtime) -> LoopReply:
        picked, missed, lost = (now - then for now, then in zip(runtime.counts[1:], self._before[1:], strict=True))
        is_short = isinstance(wanted, Grasp) and picked + missed + lost < wanted.count
        reason = (runtime.reason or f"the arm is {runtime.state}") if is_short else ""
        return GraspResult(picked=picked, missed=missed, lost=lost, reason=reason)

    def _finish_swap(self, loaded: Policy | DofbotError, runtime: Runtime) -> LoopReply:
        if isinstance(loaded, DofbotError):
            return Refused(reason=str(loaded))
        if loaded.contract.task != runtime.policy.contract.task:
            return Refused(
                reason="the policy is for another task, camera or robot than the one that runs, expected the same; restart with it"
            )
        if not runtime.is_between_grasps:
            return Refused(
                reason=f"the arm has been {runtime.state} for {SWAP_WITHIN_S:g} s, expected it to end a grasp; dofbot status, and try again"
            )
        runtime.swap(loaded)
        if self._probation is not None:
            self._probation.begin()
        self.policy_warning = ""
        return Done(text=f"policy {loaded.sha256[:12]} from now on")

    def _publish(self, runtime: Runtime) -> None:
        self._published = runtime.state
        self._control.publish(self._report(runtime))

    def _report(self, runtime: Runtime) -> StatusReport:
        return StatusReport(
            state=runtime.state,
            phase=runtime.phase,
            reason=runtime.reason,
            latched=runtime.standing.is_latched,
            since_s=runtime.state_age_s,
            **runtime.counts._asdict(),
            ticks=runtime.figures.ticks,
            skipped=runtime.figures.skipped,
            holds=runtime.figures.holds,
            frame_age_s=runtime.frame_age_s(),
            bus=f"{self._bus}: {runtime.bus_problem or 'answers'}",
            policy=runtime.policy.contract.variant,
            policy_sha256=runtime.policy.sha256,
            policy_warning=self.policy_warning,
            realtime=self.realtime,
            release=edge.__version__,
            faults=self._faults.applied,
        )


def _park_result(runtime: Runtime) -> LoopReply:
    if not runtime.is_armed and runtime.standing.safe_cause is None:
        return Done(text="parked, servos off")
    found = f"the arm is {runtime.state}" + (f" ({runtime.reason})" if runtime.reason else "")
    return Refused(reason=f"{found}, expected it parked; dofbot status")


def _way_on(runtime: Runtime) -> str:
    """From a hold."""
    if runtime.is_stopping:
        return f"the process is about to end and lets the arm go within {STOP_LIMIT_S:g} s; dofbot park takes it home"
    return f"{'' if runtime.standing.is_latched else 'dofbot grasp or '}dofbot park goes on"


def _remedy(runtime: Runtime) -> str:
    return "look at it, then: dofbot reset" if runtime.standing.is_latched else "wait until it goes on"
