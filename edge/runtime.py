"""The control loop: one tick takes commands, looks at the camera, asks the policy, steps the task, passes the gate, writes the servos.

    IDLE → HOMING → APPROACH → GRASP → LIFT → VERIFY → PLACE → IDLE        PARK, and then off

Whatever goes wrong is a `Cause`; `edge.states` has the table of what follows. A tick that holds sends the set points it has.
"""

import logging
import time
from collections.abc import Callable
from functools import partial

from edge import kinematics
from edge.buses.bus_recovery import RecoveringBus
from edge.cameras.sight import Sight
from edge.clock import Pacer, VirtualClock
from edge.devices import Devices
from edge.errors import BusError, LatePolicyError, ObservationError, PolicyError, UnreachableError
from edge.grasping import Grasping, Markers, Step
from edge.messages import JointCommand
from edge.policies.decider import Decider
from edge.policy import Policy
from edge.records.figures import Figures
from edge.records.journal import Journal
from edge.records.record import Recorder, Summary, Timings
from edge.records.tally import ENDLESS, Counts
from edge.safety import Passed, gate, resting
from edge.simulated.faulty import FaultyHost, FaultyPolicy
from edge.states import GIVE_UP_S, REACTIONS, Cause, Standing, State, blocking, judge
from edge.task import PHASE_LIMIT_S, GraspTask, Phase
from edge.vigil import Vigil

ARM_WITHIN_S = 0.3  # a board that answers takes 0.1 s; the watchdog bears 0.5, and may have been fed 0.14 before
CHECK_EVERY_TICKS = 10  # of a bus that nothing is written to
PAUSE_TICKS = 1.5  # without a set point: the servos have come to rest at the last one
STOP_LIMIT_S = 4.0  # to park after a stop was asked for; then the servos are switched off where the arm is

_log = logging.getLogger(__name__)


class Runtime:
    """One run: a policy, the task it was trained for, and open devices. Its methods are for the thread that runs it.

    `alive` is called at the end of every tick. `obey` is called at the start of every tick, to do what people have asked for meanwhile.
    A policy of variant `xyz` needs `markers`, to be told where the block is.
    """

    def __init__(
        self,
        policy: Policy,
        task: GraspTask,
        devices: Devices,
        recorder: Recorder,
        max_frame_age_s: float,
        alive: Callable[[], None] = lambda: None,
        obey: "Callable[[Runtime], None]" = lambda runtime: None,
        timings: Timings | None = None,
        markers: Markers | None = None,
    ) -> None:
        self.standing = Standing()
        self.figures = Figures(devices.clock, recorder, timings or Timings.empty())
        self._devices = devices
        self._alive, self._obey = alive, obey
        self._tick_hz, self._tick_s = task.tick_hz, 1.0 / task.tick_hz
        self._tool_in_table_m = partial(kinematics.tool_in_table_m, mount=task.mount)
        self._decider = Decider(FaultyPolicy(policy, devices.faults, self._sleep), isinstance(devices.clock, VirtualClock))
        self._host = FaultyHost(devices.faults, self._sleep)
        self._bus = RecoveringBus(devices.bus, devices.clock)
        self._sight = Sight(devices.camera, devices.clock, max_frame_age_s, self.figures.timings.frame_age)
        self._grasping = Grasping(policy, task, self._sight, self._decider, devices.bus.measured, self.figures.timings, markers)
        self._vigil = Vigil(task.tick_hz)
        self._journal = Journal(devices.clock.now_s())
        self._armed = False
        self._gate = resting(task.park)
        self._sent_s = 0.0  # when the last set point was, that the bus acknowledged
        self._unsure: tuple[Step, Passed, float] | None = None  # sent, and not acknowledged in time; it may still arrive
        self._ending = ""  # why: 'done' or 'signal'
        self._stopping_since_s: float | None = None

    # What can be seen of it.

    @property
    def state(self) -> str:
        """DISARMED, IDLE, a phase, HOLD or SAFE."""
        if self.standing.safe_cause is not None:
            return State.SAFE
        if not self._armed:
            return State.DISARMED
        return State.HOLD if blocking(self.standing.reasons, self.is_parking) else str(self._grasping.phase)

    @property
    def reason(self) -> str:
        """Of HOLD or SAFE, or what else is latched; empty otherwise."""
        if self.standing.safe_cause is not None:
            return self.standing.safe_reason
        return self.standing.reasons[self.standing.cause] if self.standing.cause else ""

    @property
    def policy(self) -> Policy:
        """Who decides."""
        return self._grasping.policy

    @property
    def state_age_s(self) -> float:
        """How long it has been in this state."""
        return self._devices.clock.now_s() - self._journal.since_s

    @property
    def phase(self) -> str:
        """Of the task, also while it holds."""
        return str(self._grasping.phase)

    @property
    def counts(self) -> Counts:
        """What has come of the grasps so far."""
        return self._grasping.tally.counts

    @property
    def is_busy(self) -> bool:
        """Whether a grasp is under way, or still to be done."""
        return self._grasping.tally.wanted > 0

    @property
    def is_armed(self) -> bool:
        """Whether the arm may move."""
        return self._armed

    @property
    def is_between_grasps(self) -> bool:
        """Whether nothing of what the policy did is still to be judged: before an approach, or when none is to come."""
        return self._grasping.phase in (Phase.IDLE, Phase.HOMING, Phase.PARK)

    @property
    def is_parking(self) -> bool:
        """Whether it is on its way to the park pose."""
        return self._grasping.phase is Phase.PARK

    @property
    def is_stopping(self) -> bool:
        """Whether the process is to end, and takes the arm home for that."""
        return self._stopping_since_s is not None

    @property
    def is_blocked(self) -> bool:
        """Whether something keeps the arm from being parked."""
        return bool(blocking(self.standing.reasons, parking=True))

    @property
    def bus_problem(self) -> str:
        """Why the servos did not acknowledge; empty: they did."""
        return self._bus.problem

    @property
    def helpers(self) -> tuple[int, ...]:
        """Native ids of the threads that a tick waits for."""
        threads = (self._devices.bus.thread, self._decider.thread)
        return tuple(thread.native_id for thread in threads if thread is not None and thread.native_id is not None)

    def frame_age_s(self) -> float | None:
        """How old the camera's newest frame is; None: none has come yet."""
        return self._sight.age_s()

    # What people ask for.

    def arm(self) -> None:
        """Let the arm move, from where it is read to be, or else where the last run left it: parked. Raises `BusError`."""
        self._devices.bus.reopen(ARM_WITHIN_S)  # which reads where the arm is
        self._bus.begin_anew()
        self._gate = resting(self._devices.bus.measured() or self._gate.position)
        self._armed = True

    def grasp(self, count: int) -> None:
        """Grasp so many times, from home on; ends a hold that a person asked for."""
        self.resume()
        self._grasping.grasp(count, self._gate.position)

    def hold(self, reason: str) -> None:
        """Stay where the arm is; what it was about to do is forgotten."""
        self._go_on_with(Phase.IDLE)
        self._vigil.hold(reason)
        self.standing = self.standing.holding(Cause.PERSON, reason)

    def resume(self) -> None:
        """End a hold that a person asked for."""
        self._vigil.hold("")
        self.standing = self.standing.without(Cause.PERSON)

    def park(self) -> None:
        """Take the arm home; there the servos are switched off, and it is disarmed."""
        self.resume()
        if not self.is_parking:
            self._go_on_with(Phase.PARK)

    def reset(self) -> None:
        """Forget what was latched; the arm is disarmed."""
        self._disarm()
        self.standing = Standing()

    def swap(self, policy: Policy) -> None:
        """Go on with another policy for the same task: only while `is_between_grasps`."""
        self._grasping.policy = policy
        self._decider.swap(FaultyPolicy(policy, self._devices.faults, self._sleep))

    def link_lost(self, why: str) -> None:
        """Whoever armed with a deadman is gone; empty: is there."""
        self._vigil.link = why

    # The loop.

    def run(self, grasps: int, stop: Callable[[], bool]) -> Summary:
        """Arm, grasp `grasps` times (0: until `stop`), park, release. Never leaves servos powered, whatever happens."""
        return self._loop(stop, grasps or ENDLESS)

    def serve(self, stop: Callable[[], bool]) -> Summary:
        """Disarmed until told otherwise by `obey`; parks and ends on `stop`. Never leaves servos powered, whatever happens."""
        return self._loop(stop, 0)

    def _loop(self, stop: Callable[[], bool], grasps: int) -> Summary:
        """With `grasps` it ends after them, without once it is stopped; never while the arm is armed."""
        try:
            if grasps:
                self.arm()
                self.grasp(grasps)
            pacer = Pacer(self._devices.clock, self._tick_hz)
            while self._armed or not (grasps or self.is_stopping):
                try:
                    self._host.tick()
                    lateness_s = pacer.wait()
                except BusError as error:  # a virtual clock whose simulator is gone
                    self._give_up(Cause.BUS, str(error))
                    break
                self.figures.begin_tick(lateness_s, pacer.overruns, pacer.skipped)
                self._end_in_time(stop, bool(grasps))
                self._tick()
        finally:
            self._devices.bus.release()
            self._decider.close()
        self._tell()
        if self.standing.is_latched:
            return self.figures.summary(self._grasping, State.SAFE, self.reason)
        return self.figures.summary(self._grasping, self._ending, "")

    def _end_in_time(self, stop: Callable[[], bool], once: bool) -> None:
        """Begin the end: when told to stop, or when all grasps are done."""
        if not self.is_stopping and stop():
            self._ending, self._stopping_since_s = self._ending or "signal", self._devices.clock.now_s()
        elif once and not self._ending and not self.is_busy:
            self._ending = "done"
        else:
            return
        if self._armed:
            self.park()

    def _tick(self) -> None:
        self._obey(self)
        if self._armed:
            self._drive()
        elif self.figures.ticks % CHECK_EVERY_TICKS == 0:
            self._bus.check()
        self._tell()
        self._alive()

    def _drive(self) -> None:
        """Problems → task → gate → servos → standing, and the record. A tick whose set point is not acknowledged did not happen."""
        began_s = time.perf_counter()
        late = self._catch_up()
        problems = self._problems()
        held = blocking({**problems, **self.standing.latched.reasons}, self.is_parking)
        if not held and self._grasping.is_parked(self._gate.position) and not any(self._gate.velocity):
            return self._disarm()  # the next run begins where this one lets go: at rest
        step = self._grasping.held(self._gate.position) if held else self._step(problems)
        now_s = self._devices.clock.now_s()
        if now_s - self._sent_s > PAUSE_TICKS * self._tick_s:
            self._gate = resting(self._gate.position)
        passed = gate(self._gate, step.wanted, self._devices.limits, self._tick_s, self._tool_in_table_m)
        gated_s = time.perf_counter()
        if self._bus.write(passed.command, now_s):
            self._took(step, passed, now_s)
        else:
            self._unsure = self._unsure or (step, passed, now_s)
            self._gate = resting(self._gate.position)
        self.figures.measure(step, began_s, gated_s, time.perf_counter())
        hold = "; ".join({**held, **problems}.values())
        self.figures.keep(self._grasping, step, self._gate.position, self._sight.frame, hold, passed.reasons, late)
        self._judge(problems)
        return None

    def _took(self, step: Step, passed: Passed, at_s: float) -> None:
        """The servos have a set point: the next one goes on from it."""
        self._gate, self._sent_s, self._unsure = passed.state, at_s, None
        self._grasping.taken(step, passed.command, at_s)
        self._vigil.sent(passed.command, passed.reasons if step.state.phase is Phase.APPROACH else ())

    def _catch_up(self) -> JointCommand | None:
        """A set point that arrived after its time has moved the servos all the same, and is returned; one that got lost has not."""
        if self._unsure is None or self._devices.bus.is_busy:
            return None
        unsure, self._unsure = self._unsure, None
        if self._devices.bus.delivered is not unsure[1].command:
            return None
        self._took(*unsure)
        return unsure[1].command

    def _problems(self) -> dict[Cause, str]:
        """What is wrong before anything was done in this tick."""
        if self._bus.tend():
            self._stay_where_it_is()
        problems = self._vigil.look(self.figures.overruns, self._devices.bus.measured())
        if self._bus.is_lost:
            problems[Cause.BUS] = self._bus.problem
        return blocking(problems, self.is_parking)

    def _step(self, problems: dict[Cause, str]) -> Step:
        """The task's next step. A problem on the way goes into `problems`: nothing moves then."""
        try:
            return self._grasping.step(self._gate.position)
        except ObservationError as error:
            problems[Cause.CAMERA] = str(error)
        except LatePolicyError as error:
            problems[Cause.LATE] = str(error)
        except PolicyError as error:
            problems[Cause.POLICY] = str(error)
        except UnreachableError as error:
            problems[Cause.TASK] = str(error)
        return self._grasping.held(self._gate.position)

    # What follows from what went wrong.

    def _judge(self, problems: dict[Cause, str]) -> None:
        """HOLD, SAFE or on with it."""
        if self._grasping.is_expired:
            problems[Cause.TASK] = f"{self.phase} took more than {PHASE_LIMIT_S:g} s; set run.record, and see there what the gate clamped"
        before, self.standing = self.standing, judge(self.standing, problems, self._tick_s)
        if Cause.SERVO in self.standing.reasons and Cause.SERVO not in before.reasons:
            self._stay_where_it_is()  # push no further
        if self.standing.is_latched and not before.is_latched:
            self._grasping.tally.abandon()
        if self.standing.safe_cause is not None and before.safe_cause is None:
            if not REACTIONS[self.standing.safe_cause].parks:
                return self._disarm()
            if Cause.PERSON not in self.standing.reasons:  # a hand may be where a person made it hold
                self.park()
        return self._end_what_does_not_park()

    def _end_what_does_not_park(self) -> None:
        """A park that cannot end, or not in the time that a stop has, ends where it is."""
        stuck = {Cause.TASK, *blocking(self.standing.reasons, parking=True)}  # TASK: that there is no way home will not change
        for cause, reason in self.standing.reasons.items() if self.is_parking else ():
            is_lasting = cause in stuck and self.standing.held_s[cause] > GIVE_UP_S
            if is_lasting or self._grasping.is_expired:
                return self._give_up(cause, f"could not park: {reason}")
        if self._stopping_since_s is not None and self._devices.clock.now_s() - self._stopping_since_s > STOP_LIMIT_S:
            reason = f"could not park within {STOP_LIMIT_S:g} s: {self.reason or self.phase}"
            return self._give_up(self.standing.cause or Cause.TASK, reason)
        return None

    def _give_up(self, cause: Cause, reason: str) -> None:
        """SAFE, with the servos switched off where the arm is; an earlier reason for SAFE stays."""
        if self.standing.safe_cause is None:
            self.standing = self.standing._replace(safe_cause=cause, safe_reason=f"{reason}; servos released")
        else:
            _log.error("%s; servos released", reason)
        self._disarm()

    def _disarm(self) -> None:
        """Servos off. What is latched stays."""
        self._devices.bus.release()
        self._armed, self._gate, self._unsure = False, resting(self._gate.position), None
        self._go_on_with(Phase.IDLE)
        self._vigil = Vigil(self._tick_hz)
        self.standing = self.standing.latched

    def _stay_where_it_is(self) -> None:
        """From now on the set points are where the joints were read to be, where they are; the fingers keep what they hold."""
        at = self._devices.bus.measured() or self._gate.position
        self._gate, self._unsure = resting(at._replace(opening_m=self._gate.position.opening_m)), None
        self._vigil.taken_up()

    def _go_on_with(self, phase: Phase) -> None:
        self._grasping.go_on_with(phase, self._gate.position)

    def _tell(self) -> None:
        self._journal.tell(self.state, self.standing, self._devices.clock.now_s())

    def _sleep(self, duration_s: float) -> None:
        self._devices.clock.sleep_until(self._devices.clock.now_s() + duration_s)
