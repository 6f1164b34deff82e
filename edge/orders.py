"""What people have asked for over the control socket, carried out between two ticks: each command becomes one call of the runtime."""

import threading
from collections.abc import Callable
from pathlib import Path

import edge
from edge.commands import (
    Accepted,
    Arm,
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
from edge.contract import Contract
from edge.control import ControlServer, Pending
from edge.errors import BusError, ConfigError, DofbotError
from edge.faults import Fault, Faults
from edge.policy import Policy
from edge.runtime import Counts, Runtime
from edge.states import State

PUBLISH_EVERY_TICKS = 5
HELD_BY_PERSON = "a person asked for it (dofbot hold)"


class Orders:
    """Takes commands from a control server, and tells it how the runtime is; its methods are for the control thread.

    `load` reads and checks a policy file, in a thread of its own: golden vectors take longer than a tick.
    """

    def __init__(self, control: ControlServer, faults: Faults, load: Callable[[Path], Policy], bus: str) -> None:
        self._control = control
        self._faults = faults
        self._load = load
        self.realtime: tuple[str, ...] = ()  # what the kernel granted
        self._bus = bus
        self._grasp: Pending | None = None
        self._before = Counts()  # when that began
        self._park: Pending | None = None
        self._swap: Pending | None = None
        self._loaded: list[Policy | DofbotError] = []

    def __call__(self, runtime: Runtime) -> None:
        """Once a tick: do what is asked, answer what has ended, and publish the state from time to time."""
        runtime.link_lost(self._control.deadman_lost() if runtime.is_armed else "")
        for pending in self._control.take():
            pending.answer(self._obey(pending, runtime))
        self._answer(runtime)
        if runtime.ticks % PUBLISH_EVERY_TICKS == 0:
            self._control.publish(self._report(runtime))

    def _obey(self, pending: Pending, runtime: Runtime) -> LoopReply:
        match pending.command:
            case Arm():
                return self._arm(runtime)
            case Grasp(count=count):
                return self._begin_grasp(pending, count, runtime)
            case Hold():
                if not runtime.is_armed:
                    return Done(text=f"the arm is {runtime.state} and does not move anyway")
                runtime.hold(HELD_BY_PERSON)
                return Done(text="holding; dofbot grasp or dofbot park goes on")
            case Park():
                return self._begin_park(pending, runtime)
            case Reset():
                runtime.reset()
                return Done(text="reset; the arm is DISARMED: dofbot arm")
            case Inject() as wanted:
                return self._inject(wanted)
            case SwapPolicy(path=path):
                return self._begin_swap(pending, Path(path), runtime)
            case other:  # the server answers the rest itself
                return Refused(reason=f"the control loop cannot {type(other).__name__.lower()}, expected a command for the arm")

    def _arm(self, runtime: Runtime) -> LoopReply:
        if runtime.state == State.SAFE:
            return Refused(reason=f"the arm is in SAFE ({runtime.reason}), expected DISARMED; look at it, then: dofbot reset")
        if runtime.is_armed:
            runtime.resume()
            return Done(text="armed already")
        try:
            runtime.arm()
        except BusError as error:
            return Refused(reason=str(error))
        return Done(text="armed; dofbot grasp")

    def _begin_grasp(self, pending: Pending, count: int, runtime: Runtime) -> LoopReply:
        if not runtime.is_armed or runtime.state == State.SAFE:
            remedy = "dofbot reset" if runtime.state == State.SAFE else "dofbot arm"
            return Refused(reason=f"the arm is {runtime.state}, expected it armed; first: {remedy}")
        if runtime.is_busy:
            return Refused(reason="a grasp is under way, expected the arm to wait; dofbot hold stops it")
        if runtime.standing.is_latched:
            return Refused(reason=f"the arm holds ({runtime.reason}), expected it free; look at it, then: dofbot reset")
        self._grasp, self._before = pending, runtime.counts
        runtime.grasp(count)
        return Accepted(text=f"{count} to grasp")

    def _begin_park(self, pending: Pending, runtime: Runtime) -> LoopReply:
        if not runtime.is_armed:
            return Done(text=f"the arm is {runtime.state}: its servos are off")
        self._park = pending
        runtime.park()
        return Accepted(text="on the way to its park pose")

    def _inject(self, wanted: Inject) -> LoopReply:
        try:
            self._faults.inject(Fault(wanted.target, wanted.mode, wanted.value or None, 0.0, wanted.for_s))
        except ConfigError as error:
            return Refused(reason=str(error))
        return Done(text=f"{wanted.target} {wanted.mode}")

    def _begin_swap(self, pending: Pending, path: Path, runtime: Runtime) -> LoopReply:
        if self._swap is not None or runtime.is_busy:
            return Refused(reason="a grasp or another swap is under way, expected neither; wait for it, or: dofbot hold")
        self._swap = pending

        def load() -> None:
            try:
                self._loaded.append(self._load(path))
            except DofbotError as error:
                self._loaded.append(error.with_traceback(None))

        threading.Thread(target=load, name="policy loader", daemon=True).start()
        return Accepted(text=f"reading {path}")

    def _answer(self, runtime: Runtime) -> None:
        """Second replies, to whoever waits for an end."""
        if self._grasp is not None and not runtime.is_busy:
            done = [now - then for now, then in zip(runtime.counts[1:], self._before[1:], strict=True)]
            wanted = self._grasp.command
            ended = isinstance(wanted, Grasp) and sum(done) < wanted.count
            reason = (runtime.reason or f"the arm is {runtime.state}") if ended else ""
            self._grasp.answer(GraspResult(picked=done[0], missed=done[1], lost=done[2], reason=reason))
            self._grasp = None
        if self._park is not None and (not runtime.is_armed or runtime.phase != "PARK"):
            parked = not runtime.is_armed and runtime.state != State.SAFE
            self._park.answer(
                Done(text="parked, servos off") if parked else Refused(reason=f"the arm is {runtime.state} ({runtime.reason}), not parked")
            )
            self._park = None
        if self._swap is not None and self._loaded:
            self._swap.answer(self._finish_swap(self._loaded.pop(), runtime))
            self._swap = None

    def _finish_swap(self, loaded: Policy | DofbotError, runtime: Runtime) -> LoopReply:
        if isinstance(loaded, DofbotError):
            return Refused(reason=str(loaded))
        if _task_of(loaded.contract) != _task_of(runtime.policy.contract):
            return Refused(
                reason="the policy is for another task, camera or robot than the one that runs, expected the same; restart with it"
            )
        if runtime.is_busy:
            return Refused(reason="a grasp began meanwhile, expected the arm to wait; try again")
        runtime.swap(loaded)
        return Done(text=f"policy {loaded.sha256[:12]} from now on")

    def _report(self, runtime: Runtime) -> StatusReport:
        frame = runtime.frame
        return StatusReport(
            state=runtime.state,
            phase=runtime.phase,
            reason=runtime.reason,
            latched=runtime.standing.is_latched,
            since_s=runtime.state_age_s,
            **runtime.counts._asdict(),
            ticks=runtime.ticks,
            skipped=runtime.skipped,
            holds=runtime.holds,
            frame_age_s=None if frame is None else runtime.now_s - frame.captured_at_s,
            bus=f"{self._bus}: {runtime.bus_problem or 'answers'}",
            policy=runtime.policy.contract.variant,
            policy_sha256=runtime.policy.sha256,
            realtime=self.realtime,
            release=edge.__version__,
            faults=self._faults.applied,
        )


def _task_of(contract: Contract) -> tuple[object, ...]:
    """What two policies must have in common to take over from each other."""
    return contract.episode, contract.camera, contract.rates, contract.robot, contract.action, contract.proprio, contract.depth
