"""The control loop: one tick reads the frame, asks the policy, steps the task, passes the gate and writes the servos.

    IDLE → HOMING → APPROACH → GRASP → LIFT → VERIFY → PLACE → HOMING … → PARK → IDLE

HOLD: without a fresh frame or a finite action the arm stays where it is, and goes on when it has them again.
SAFE: the bus failed, a hold or a phase took too long; the arm is parked if it can be, released, and the run ends.
"""

import logging
import time
from collections import defaultdict
from collections.abc import Callable

from edge import kinematics, observation
from edge.clock import Pacer
from edge.devices import Devices
from edge.errors import BusError, ObservationError, PolicyError, UnreachableError
from edge.messages import Float32, Frame, JointCommand
from edge.policy import Policy
from edge.record import Grasp, Recorder, Summary, TickRecord, Timings, percentiles, resident_mb
from edge.safety import DOFBOT_LIMITS, gate, resting
from edge.task import GraspTask, Phase

HOLD_LIMIT_S = 5.0  # PX4 holds 5 s before it acts (COM_FAIL_ACT_T)
_AFTER = {Phase.APPROACH: Phase.GRASP, Phase.GRASP: Phase.LIFT, Phase.LIFT: Phase.VERIFY}

_log = logging.getLogger(__name__)


class Runtime:
    """One run: a policy, the task it was trained for, and open devices."""

    def __init__(self, policy: Policy, task: GraspTask, devices: Devices, recorder: Recorder, max_frame_age_s: float) -> None:
        self._policy = policy
        self._task = task
        self._devices = devices
        self._recorder = recorder
        self._max_frame_age_s = max_frame_age_s
        self._tick_s = 1.0 / task.tick_hz
        # Without read-back the arm is taken to be parked, as the last run left it.
        self._gate = resting(task.park)
        self._state = task.begin(Phase.IDLE, task.park)
        self._frame: Frame | None = None
        self._hold = ""
        self._held_ticks = 0
        self._phase_ticks: dict[str, int] = defaultdict(int)
        self._grasps: list[Grasp] = []
        self._timings = Timings.empty()
        self._ticks = self._holds = self._clamped = 0
        self._stopped_by = ""

    def run(self, grasps: int, stop: Callable[[], bool]) -> Summary:
        """Grasp `grasps` blocks (0: until `stop`), park, release. Never leaves servos powered, whatever happens."""
        first_tick_s = 0.0
        try:
            pacer = Pacer(self._devices.clock, self._task.tick_hz)
            self._enter(Phase.HOMING)
            while self._state.phase is not Phase.IDLE:
                lateness_s = pacer.wait()
                first_tick_s = first_tick_s or _process_age_s()
                self._timings.lateness.append(lateness_s)
                if not self._stopped_by and (stop() or 0 < grasps <= len(self._grasps)):
                    self._stopped_by = "done" if 0 < grasps <= len(self._grasps) else "signal"
                    self._enter(Phase.PARK)
                self._tick(lateness_s)
        except BusError as error:
            self._stopped_by = f"SAFE: {error}"
            _log.error("%s; servos released", error)
        finally:
            self._devices.bus.release()
        return Summary(
            grasps=tuple(self._grasps),
            stopped_by=self._stopped_by,
            ticks=self._ticks,
            skipped=pacer.skipped,
            holds=self._holds,
            clamped=self._clamped,
            lateness_s=percentiles(self._timings.lateness),
            inference_s=percentiles(self._timings.inference),
            decision_s=percentiles(self._timings.decision),
            start_to_first_tick_s=first_tick_s,
            resident_mb=resident_mb(),
        )

    def _tick(self, lateness_s: float) -> None:
        """Frame → policy → task → gate → servos; then the record, and the next phase if this one is done."""
        began_s = time.perf_counter()
        sent, action, wanted, hold = self._gate.position, None, self._gate.position, ""
        try:
            self._frame = self._devices.camera.latest()
            if self._task.needs_action(self._state):
                action = self._decide()
            self._state, wanted = self._task.tick(self._state, sent, action)
        except (ObservationError, PolicyError, UnreachableError) as error:
            hold = str(error)
        passed = gate(self._gate, wanted, DOFBOT_LIMITS, self._tick_s, self._height_m)
        self._devices.bus.write(passed.command)
        self._gate = passed.state
        if action is not None:
            self._timings.decision.append(time.perf_counter() - began_s)
        self._ticks += 1
        self._clamped += bool(passed.reasons)
        self._phase_ticks[self._state.phase] += 1
        self._note_hold(hold)
        self._write_record(lateness_s, action, wanted, passed.reasons)
        self._next_phase()

    def _decide(self) -> Float32:
        """The policy's action for the newest frame; raises when there is none fresh enough to act on."""
        contract, frame = self._policy.contract, self._fresh_frame()
        depth = observation.depth_input(frame, contract.depth, contract.camera.intrinsics)
        tool = kinematics.tool_pose(self._gate.position, self._task.mount)
        proprio = observation.proprio_input(tool, self._task.steps_left(self._state))
        began_s = time.perf_counter()
        action = self._policy.act(depth, proprio)
        self._timings.inference.append(time.perf_counter() - began_s)
        return action

    def _fresh_frame(self) -> Frame:
        if self._frame is None:
            raise ObservationError("no depth frame has come yet; is the camera running?")
        age_s = self._devices.clock.now_s() - self._frame.captured_at_s
        if age_s > self._max_frame_age_s:
            raise ObservationError(
                f"the newest depth frame is {age_s * 1e3:.0f} ms old, expected at most {self._max_frame_age_s * 1e3:.0f} ms; is the camera running?"
            )
        return self._frame

    def _note_hold(self, reason: str) -> None:
        """Count holds, log each change once, and give up when one lasts."""
        if bool(reason) != bool(self._hold):
            _log.warning("HOLD: %s", reason) if reason else _log.info("resumed after %d ticks", self._held_ticks)
        self._hold = reason
        self._holds += bool(reason)
        self._held_ticks = self._held_ticks + 1 if reason else 0
        if self._held_ticks > HOLD_LIMIT_S * self._task.tick_hz:
            self._give_up(f"held for {HOLD_LIMIT_S:g} s: {reason}")
        elif self._task.expired(self._state):
            self._give_up(f"{self._state.phase} did not end in time")

    def _give_up(self, reason: str) -> None:
        """SAFE: park; if even that does not end, stop where the arm is."""
        _log.error("SAFE: %s", reason)
        self._stopped_by = self._stopped_by or f"SAFE: {reason}"
        if self._stopped_by in ("done", "signal"):
            self._stopped_by = f"SAFE: {reason}"
        self._hold, self._held_ticks = "", 0
        self._enter(Phase.IDLE if self._state.phase is Phase.PARK else Phase.PARK)

    def _next_phase(self) -> None:
        if self._hold or not self._task.finished(self._state, self._gate.position):
            return
        phase = self._state.phase
        if phase is Phase.HOMING:
            self._enter(Phase.APPROACH)
        elif phase is Phase.PARK:
            self._enter(Phase.IDLE)
        elif phase is Phase.VERIFY and self._holds_block():
            self._enter(Phase.PLACE)
        elif phase in (Phase.VERIFY, Phase.PLACE):
            result = "picked" if phase is Phase.PLACE else "missed"
            self._grasps.append(Grasp(result, {name: ticks * self._tick_s for name, ticks in self._phase_ticks.items()}))
            self._phase_ticks.clear()
            _log.info("grasp %d: %s", len(self._grasps), result)
            self._enter(Phase.HOMING)
        else:
            self._enter(_AFTER[phase])

    def _holds_block(self) -> bool:
        """Whether the camera sees something between the fingers; a frame that cannot be used counts as nothing."""
        try:
            return observation.holds_block(self._fresh_frame(), self._policy.contract.camera, self._policy.contract.episode)
        except ObservationError as error:
            _log.warning("cannot verify the grasp: %s", error)
            return False

    def _enter(self, phase: Phase) -> None:
        _log.info("%s → %s", self._state.phase, phase)
        self._state = self._task.begin(phase, self._gate.position)

    def _height_m(self, command: JointCommand) -> float:
        return kinematics.tool_height_m(command, self._task.mount)

    def _write_record(self, lateness_s: float, action: Float32 | None, wanted: JointCommand, reasons: tuple[str, ...]) -> None:
        now_s, frame = self._devices.clock.now_s(), self._frame
        self._recorder.write(
            TickRecord(
                now_s,
                lateness_s,
                self._state.phase,
                self._state.step,
                self._hold,
                frame.sequence if frame else -1,
                now_s - frame.captured_at_s if frame else -1.0,
                () if action is None else tuple(action.tolist()),
                wanted,
                self._gate.position,
                reasons,
            )
        )


def _process_age_s() -> float:
    """Seconds since this process was started, to 10 ms: field 22 of /proc/self/stat (proc(5)); 0 where there is none."""
    try:
        with open("/proc/self/stat") as stat:
            started_ticks = float(stat.read().rsplit(")", 1)[1].split()[19])
    except OSError:
        return 0.0
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started_ticks / 100.0  # USER_HZ is 100 on Linux
