"""The control loop: one tick takes commands, looks at the camera, asks the policy, steps the task, passes the gate, writes the servos.

    IDLE → HOMING → APPROACH → GRASP → LIFT → VERIFY → PLACE → IDLE        PARK, and then off

Whatever goes wrong is a `Cause`; `edge.states` has the table of what follows. A tick that holds sends the set points it has.
"""

import logging
import time
from collections import defaultdict, deque
from collections.abc import Callable
from typing import NamedTuple

from edge import kinematics, observation
from edge.clock import Pacer, VirtualClock
from edge.decider import Decider
from edge.devices import Devices
from edge.errors import BusError, LatePolicyError, ObservationError, PolicyError, UnreachableError
from edge.faulty import FaultyHost, FaultyPolicy
from edge.messages import Float32, Frame, JointCommand
from edge.policy import Policy
from edge.preflight import depth_of
from edge.record import KEPT_GRASPS, Grasp, Outcome, Recorder, Summary, TickRecord, Timings, process_age_s, resident_mb
from edge.safety import DOFBOT_LIMITS, gate, resting
from edge.states import GIVE_UP_S, REACTIONS, Cause, Standing, State, judge
from edge.task import PHASE_LIMIT_S, GraspTask, Phase, TaskState
from edge.vigil import Vigil

TRIES = 2  # of a grasp: one that is missed is tried once more
BUS_BAD_TICKS = 3  # in a row: two ticks without an acknowledgement are a glitch
REOPEN_EVERY_S = 0.1
REOPEN_WITHIN_S = 0.005  # of waiting for it; it goes on in the bus's own thread
CHECK_EVERY_TICKS = 10  # of a bus that nothing is written to
GRIP_SLACK_M = 0.0025  # fingers that stop this far before their set point hold something; three steps of a 180° servo
ENDLESS = 10**9  # grasps: three centuries of them
STOP_LIMIT_S = 4.0  # to park after a stop was asked for; then the servos are switched off where the arm is
_AFTER = {
    Phase.HOMING: Phase.APPROACH,
    Phase.APPROACH: Phase.GRASP,
    Phase.GRASP: Phase.LIFT,
    Phase.LIFT: Phase.VERIFY,
    Phase.PLACE: Phase.IDLE,
    Phase.PARK: Phase.IDLE,
}
# What does not keep an arm from parking: it needs no eyes and no decisions for that.
_IGNORED_WHILE_PARKING = {Cause.CAMERA, Cause.POLICY, Cause.LATE, Cause.CLAMPED, Cause.HOST, Cause.LINK, Cause.PERSON, Cause.TASK}

_log = logging.getLogger(__name__)


class Counts(NamedTuple):
    """What has come of the grasps so far."""

    attempts: int = 0
    picked: int = 0
    missed: int = 0
    lost: int = 0


class Runtime:
    """One run: a policy, the task it was trained for, and open devices. Its methods are for the thread that runs it.

    `alive` is called after every tick in which the bus acknowledged, or in which its silence was dealt with. `obey` is called
    at the start of every tick, to do what people have asked for meanwhile.
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
    ) -> None:
        self.policy = policy
        self.standing = Standing()
        self.counts = Counts()
        self.timings = timings or Timings.empty()
        self.ticks = self.overruns = self.skipped = self.holds = self.clamped = 0
        self.frame: Frame | None = None
        self.bus_problem = ""
        self.since_s = devices.clock.now_s()
        self._depth = depth_of(policy.contract)
        self._task = task
        self._devices = devices
        self._recorder = recorder
        self._max_frame_age_s = max_frame_age_s
        self._alive, self._obey = alive, obey
        self._tick_s = 1.0 / task.tick_hz
        self._is_virtual = isinstance(devices.clock, VirtualClock)
        self._decider = Decider(FaultyPolicy(policy, devices.faults, self._sleep), self._is_virtual)
        self._host = FaultyHost(devices.faults, self._sleep)
        self._vigil = Vigil(task.tick_hz)
        self._armed = False
        self._gate = resting(task.park)
        self._state = task.begin(Phase.IDLE, task.park)
        self._task_began_s = 0.0
        self._shown = State.DISARMED.value
        self._bad_writes = 0
        self._reopened_s = self.since_s
        self._wanted = 0  # grasps that are still to be done
        self._tries = 0  # of the one under way
        self._held_once = False  # in this grasp: what is gone later was lost, not missed
        self._phase_ticks: dict[str, int] = defaultdict(int)
        self._grasps: deque[Grasp] = deque(maxlen=KEPT_GRASPS)
        self._first_tick_s = 0.0
        self._stopped_by = ""
        self._stopping_since_s: float | None = None

    # What people ask for.

    @property
    def state(self) -> str:
        """DISARMED, IDLE, a phase, HOLD or SAFE."""
        if self.standing.safe_cause is not None:
            return State.SAFE
        if not self._armed:
            return State.DISARMED
        return State.HOLD if self.standing.reasons else str(self._state.phase)

    @property
    def helpers(self) -> tuple[int, ...]:
        """Native ids of the threads that a tick waits for."""
        threads = (self._devices.bus.thread, self._decider.thread)
        return tuple(thread.native_id for thread in threads if thread is not None and thread.native_id is not None)

    @property
    def now_s(self) -> float:
        """The clock of the loop."""
        return self._devices.clock.now_s()

    @property
    def state_age_s(self) -> float:
        """How long it has been in this state."""
        return self.now_s - self.since_s

    @property
    def phase(self) -> str:
        """Of the task, also while it holds."""
        return str(self._state.phase)

    @property
    def is_busy(self) -> bool:
        """Whether a grasp is under way, or still to be done."""
        return self._wanted > 0

    @property
    def is_armed(self) -> bool:
        """Whether the arm may move."""
        return self._armed

    def arm(self) -> None:
        """Let the arm move, from where it is read to be, or else where the last run left it: parked. Raises `BusError`."""
        self._devices.bus.reopen()  # which reads where the arm is
        self._gate = resting(self._devices.bus.measured() or self._gate.position)
        self._armed = True
        self._enter(Phase.IDLE)

    def grasp(self, count: int) -> None:
        """Grasp so many times, from home on; ends a hold that a person asked for."""
        self._release_hold()
        self._wanted, self._tries = count, 0
        self._begin_try()

    def hold(self, reason: str) -> None:
        """Stay where the arm is; what it was about to do is forgotten."""
        self._wanted = 0
        if self._state.phase is not Phase.IDLE:
            self._enter(Phase.IDLE)
        self._vigil.hold(reason)

    def resume(self) -> None:
        """End a hold that a person asked for."""
        self._release_hold()

    def park(self) -> None:
        """Take the arm home; there the servos are switched off, and it is disarmed."""
        self._release_hold()
        self._wanted = 0
        self._enter(Phase.PARK)

    def reset(self) -> None:
        """Forget what was latched; the arm is disarmed."""
        self._disarm()
        self.standing = Standing()
        self._vigil = Vigil(self._task.tick_hz)

    def swap(self, policy: Policy) -> None:
        """Go on with another policy for the same task, from rest: between grasps only."""
        self.policy = policy
        self._decider.swap(FaultyPolicy(policy, self._devices.faults, self._sleep))
        self._gate = resting(self._gate.position)

    # The loop.

    def run(self, grasps: int, stop: Callable[[], bool]) -> Summary:
        """Arm, grasp `grasps` times (0: until `stop`), park, release. Never leaves servos powered, whatever happens."""
        try:
            self.arm()
            self.grasp(grasps or ENDLESS)
        except BusError as error:
            self._devices.bus.release()
            raise error
        return self._loop(stop, once=True)

    def serve(self, stop: Callable[[], bool]) -> Summary:
        """Disarmed until told otherwise by `obey`; parks and ends on `stop`. Never leaves servos powered, whatever happens."""
        return self._loop(stop, once=False)

    def _loop(self, stop: Callable[[], bool], once: bool) -> Summary:
        pacer = Pacer(self._devices.clock, self._task.tick_hz)
        try:
            while self._armed or not (once or self._stopping_since_s is not None):
                lateness_s = pacer.wait()
                self.overruns, self.skipped = pacer.overruns, pacer.skipped
                if not self.ticks:
                    self._first_tick_s = process_age_s()
                if self._stopping_since_s is None and stop():
                    self._stopped_by, self._stopping_since_s = self._stopped_by or "signal", self._devices.clock.now_s()
                    if self._armed:
                        self.park()
                elif once and not self._stopped_by and not self.is_busy and not self.standing.reasons:
                    self._stopped_by = "done"
                    self.park()
                self._tick(lateness_s, pacer.overruns)
        finally:
            self._devices.bus.release()
            self._decider.close()
        return self._summary()

    def _tick(self, lateness_s: float, overruns: int) -> None:
        self._host.tick()
        self._obey(self)
        self.ticks += 1
        self.timings.lateness.add(lateness_s)
        if self._armed:
            self._drive(lateness_s, overruns)
        else:
            self._wait()
        self._alive()
        if self.state != self._shown:
            self._tell()

    def _wait(self) -> None:
        """A tick without servos: see that the bus is there."""
        if self.ticks % CHECK_EVERY_TICKS == 0:
            try:
                self._devices.bus.check()
                self.bus_problem = ""
            except BusError as error:
                self.bus_problem = str(error)
                self._reopen()

    def _drive(self, lateness_s: float, overruns: int) -> None:
        """Problems → task → gate → servos → standing; then the record."""
        began_s = time.perf_counter()
        problems = self._vigil.look(overruns, self._devices.bus.measured())
        if self.bus_problem and self._bad_writes >= BUS_BAD_TICKS:
            problems[Cause.BUS] = self.bus_problem
        latched = {cause for cause in self.standing.reasons if not REACTIONS[cause].resumes}
        if self._state.phase is Phase.PARK:
            problems = {cause: reason for cause, reason in problems.items() if cause not in _IGNORED_WHILE_PARKING}
            latched -= _IGNORED_WHILE_PARKING
        state, wanted, action = self._state, self._gate.position, None
        if not problems and not latched:
            state, wanted, action = self._step(problems)
            if not self._armed:  # parked
                return
        passed = gate(self._gate, wanted, DOFBOT_LIMITS, self._tick_s, self._tool_in_table_m)
        gated_s = time.perf_counter()
        if self._write(passed.command):
            self._gate, self._state = passed.state, state
            self._vigil.sent(passed.command, passed.reasons if state.phase is Phase.APPROACH else ())
        written_s = time.perf_counter()
        if action is not None:
            self.timings.decision.add(written_s - began_s)
        if not problems:
            self.timings.task.add(gated_s - self._task_began_s)
        self.timings.bus.add(written_s - gated_s)
        self.clamped += bool(passed.reasons)
        self.holds += bool(problems)
        self._phase_ticks[self._state.phase] += 1
        self._write_record(lateness_s, "; ".join(problems.values()), action, wanted, passed.reasons)
        self._judge(problems)

    def _step(self, problems: dict[Cause, str]) -> tuple[TaskState, JointCommand, Float32 | None]:
        """The task's next state, what it wants, and the decision it took. A problem on the way goes into `problems`: nothing moves then."""
        try:
            self._next_phase()
            action = None
            if self._state.phase is Phase.APPROACH:
                frame = self._fresh_frame()
                if self._task.needs_action(self._state):
                    action = self._decide(frame)
            self._task_began_s = time.perf_counter()
            state, wanted = self._task.tick(self._state, self._gate.position, action)
            return state, wanted, action
        except ObservationError as error:
            problems[Cause.CAMERA] = str(error)
        except LatePolicyError as error:
            problems[Cause.LATE] = str(error)
        except PolicyError as error:
            problems[Cause.POLICY] = str(error)
        except UnreachableError as error:
            problems[Cause.TASK] = str(error)
        return self._state, self._gate.position, None

    def _next_phase(self) -> None:
        """Enter the phase that follows a finished one; raises `ObservationError` when that needs a frame and there is none."""
        phase, state = self._state.phase, self._state
        if phase is Phase.PLACE and len(state.waypoints) == 3 and state.tick == 0 and not self._holds_block():
            return self._conclude("lost")  # on the way; nothing is put down
        if not self._task.finished(state, self._gate.position):
            return None
        if phase is Phase.PARK:
            if not any(self._gate.velocity):  # the next run begins where this one lets go: at rest
                self._disarm()
            return None
        if phase is Phase.LIFT:
            self._held_once = self._holds_block()
        if phase is Phase.VERIFY:
            if not self._holds_block():
                return self._conclude("lost" if self._held_once else "missed")
            return self._enter(Phase.PLACE)
        if phase is Phase.PLACE:
            return self._conclude("picked")
        return self._enter(_AFTER[phase])

    def _decide(self, frame: Frame) -> Float32:
        """The policy's action for a frame; raises when it is none to act on, or the action is none."""
        observing_s = time.perf_counter()
        depth = observation.depth_input(frame, self._depth, self.policy.contract.camera.intrinsics)
        tool = kinematics.tool_pose(self._gate.position, self._task.mount)
        proprio = observation.proprio_input(tool, self._state.before, self._task.steps_left(self._state))
        self.timings.observation.add(time.perf_counter() - observing_s)
        action = self._decider.decide(depth, proprio)
        self.timings.inference.add(self._decider.took_s)
        return action

    def _holds_block(self) -> bool:
        """Whether the fingers stopped short of their set point, where they are read back; else what the camera sees between them."""
        measured, contract = self._devices.bus.measured(), self.policy.contract
        if measured is not None:
            return measured.opening_m > contract.episode.closed_m + GRIP_SLACK_M
        return observation.holds_block(self._fresh_frame(), contract.camera, contract.episode)

    def _fresh_frame(self) -> Frame:
        """The camera's newest frame; raises `ObservationError` when there is none, or none fresh enough to act on."""
        self.frame = frame = self._devices.camera.latest()
        if frame is None:
            raise ObservationError("no depth frame has come yet, expected about 25 a second; is the camera running?")
        age_s, most_s = self._devices.clock.now_s() - frame.captured_at_s, self._max_frame_age_s
        # A frame from the future has another clock's time: its age is unknown.
        if not abs(age_s) <= most_s:
            found = f"the newest depth frame is {age_s * 1e3:.0f} ms old"
            raise ObservationError(f"{found}, expected at most {most_s * 1e3:.0f} ms (camera.max_age_s); is the camera running?")
        self.timings.frame_age.add(age_s)
        return frame

    def _begin_try(self) -> None:
        self._held_once = False
        self._decider.begin()
        self._enter(Phase.HOMING)

    def _conclude(self, result: Outcome) -> None:
        """Book an attempt; a miss is tried once more, else the next grasp begins, or the arm waits or parks."""
        self._tries += 1
        attempts, picked, missed, lost = self.counts
        if result == "missed" and self._tries < TRIES:
            _log.info("grasp %d: missed, tried once more", attempts + 1)
            return self._begin_try()
        booked = (picked + (result == "picked"), missed + (result == "missed"), lost + (result == "lost"))
        self.counts = Counts(attempts + 1, *booked)
        phases_s = {phase: ticks / self._task.tick_hz for phase, ticks in self._phase_ticks.items()}
        self._grasps.append(Grasp(result, self._tries, phases_s))
        self._phase_ticks.clear()
        _log.info("grasp %d: %s", attempts + 1, result)
        self._wanted, self._tries = self._wanted - 1, 0
        if self._wanted > 0:
            return self._begin_try()
        return self._enter(Phase.IDLE)

    def _write(self, command: JointCommand) -> bool:
        """Whether the bus acknowledged. A tick that was not sent did not happen: the next one starts from rest."""
        bus = self._devices.bus
        try:
            if self._bad_writes >= BUS_BAD_TICKS:
                self._reopen()
            bus.write(command)
        except BusError as error:
            self._bad_writes += 1
            self.bus_problem = str(error)
            self._gate = resting(self._gate.position)
            return False
        if self._bad_writes >= BUS_BAD_TICKS:
            _log.warning("the servo bus is back after %d ticks", self._bad_writes)
        self._bad_writes, self.bus_problem = 0, ""
        return True

    def _reopen(self) -> None:
        """Open the bus anew, in its own thread, from time to time; raises `BusError` while it is not open."""
        now_s = self._devices.clock.now_s()
        if now_s - self._reopened_s < REOPEN_EVERY_S or self._devices.bus.is_busy:
            return
        self._reopened_s = now_s
        self._devices.bus.reopen(REOPEN_WITHIN_S)
        # What hung limp meanwhile is taken up where it is.
        self._gate = resting(self._devices.bus.measured() or self._gate.position)

    def _judge(self, problems: dict[Cause, str]) -> None:
        """HOLD, SAFE or on with it; and an end to a park that does not end."""
        if self._task.expired(self._state):
            found = f"{self._state.phase} took more than {PHASE_LIMIT_S:g} s"
            problems[Cause.TASK] = f"{found}; set run.record, and see there what the gate clamped"
        before, self.standing = self.standing, judge(self.standing, problems, self._tick_s)
        if Cause.SERVO in problems and Cause.SERVO not in before.reasons:
            self._gate = resting(self._devices.bus.measured() or self._gate.position)  # push no further
        if self.standing.safe_cause is not None and before.safe_cause is None:
            self._stopped_by = self._stopped_by or "SAFE"
            self._wanted = 0
            if not REACTIONS[self.standing.safe_cause].parks:
                return self._disarm()
            if self._state.phase is not Phase.PARK:
                self._enter(Phase.PARK)
        now_s, stopping_s = self._devices.clock.now_s(), self._stopping_since_s
        lost = self._state.phase is Phase.PARK and self.standing.held_s.get(Cause.BUS, 0.0) > GIVE_UP_S
        stuck = self._state.phase is Phase.PARK and Cause.TASK in problems
        if lost or stuck or (stopping_s is not None and now_s - stopping_s > STOP_LIMIT_S):
            _log.error("could not park, expected to within %g s: the servos are switched off where the arm is", STOP_LIMIT_S)
            self._disarm()
        return None

    def _disarm(self) -> None:
        """Servos off. What is latched stays."""
        self._devices.bus.release()
        self._armed, self._wanted, self._bad_writes = False, 0, 0
        self._state = self._task.begin(Phase.IDLE, self._gate.position)
        self._vigil = Vigil(self._task.tick_hz)
        if self.standing.safe_cause is None:
            self.standing = Standing()

    def _release_hold(self) -> None:
        self._vigil.hold("")

    def _enter(self, phase: Phase) -> None:
        self._state = self._task.begin(phase, self._gate.position)

    def _tell(self) -> None:
        """Log a change of state, with its reason."""
        before, self._shown = self._shown, self.state
        now_s = self._devices.clock.now_s()
        lasted_s, self.since_s = now_s - self.since_s, now_s
        if self._shown == State.SAFE:
            _log.error("%s → SAFE: %s", before, self.standing.safe_reason)
        elif self._shown == State.HOLD and self.standing.cause:
            _log.warning("%s → HOLD: %s", before, self.standing.reasons[self.standing.cause])
        elif before == State.HOLD:
            _log.warning("HOLD → %s after %.2f s", self._shown, lasted_s)
        else:
            _log.info("%s → %s", before, self._shown)

    @property
    def reason(self) -> str:
        """Of HOLD or SAFE; empty otherwise."""
        if self.standing.safe_cause is not None:
            return self.standing.safe_reason
        return self.standing.reasons[self.standing.cause] if self.standing.cause else ""

    def link_lost(self, why: str) -> None:
        """Whoever armed with a deadman is gone; empty: is there."""
        self._vigil.link = why

    def _sleep(self, duration_s: float) -> None:
        self._devices.clock.sleep_until(self._devices.clock.now_s() + duration_s)

    def _tool_in_table_m(self, command: JointCommand) -> tuple[float, float, float]:
        return kinematics.tool_in_table_m(command, self._task.mount)

    def _write_record(self, lateness_s: float, hold: str, action: Float32 | None, wanted: JointCommand, reasons: tuple[str, ...]) -> None:
        now_s, frame = self._devices.clock.now_s(), self.frame
        self._recorder.write(
            TickRecord(
                now_s,
                lateness_s,
                self._state.phase,
                self._state.step,
                hold,
                frame.sequence if frame else -1,
                now_s - frame.captured_at_s if frame else -1.0,
                () if action is None else tuple(action.tolist()),
                wanted,
                self._gate.position,
                reasons,
            )
        )

    def _summary(self) -> Summary:
        return Summary(
            *self.counts,
            grasps=tuple(self._grasps),
            stopped_by=self._stopped_by,
            safe_reason=self.standing.safe_reason,
            ticks=self.ticks,
            overruns=self.overruns,
            skipped=self.skipped,
            holds=self.holds,
            clamped=self.clamped,
            timing=self.timings.so_far(),
            start_to_first_tick_s=self._first_tick_s,
            resident_mb=resident_mb(),
        )
