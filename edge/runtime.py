"""The control loop: one tick reads the frame, asks the policy, steps the task, passes the gate and writes the servos.

    IDLE → HOMING → APPROACH → GRASP → LIFT → VERIFY → PLACE → HOMING … → PARK → IDLE

HOLD: where a fresh frame or a finite action is needed and missing, the arm stays as it is, and goes on once it is there.
SAFE: the bus failed, or a hold or a phase took too long; the arm is parked if it can be, released, and the run ends.
"""

import logging
import time
from collections import defaultdict, deque
from collections.abc import Callable
from typing import Literal

import msgspec

from edge import kinematics, observation
from edge.camera import DepthCamera
from edge.clock import Pacer
from edge.contract import Contract, DepthInput
from edge.contract_check import check_camera
from edge.devices import Devices
from edge.errors import BusError, DofbotError, ObservationError, PolicyError, UnreachableError
from edge.messages import Float32, Frame, JointCommand
from edge.policy import Policy
from edge.record import KEPT_GRASPS, Grasp, Recorder, Summary, TickRecord, Timings, process_age_s, resident_mb
from edge.safety import DOFBOT_LIMITS, gate, resting
from edge.task import PHASE_LIMIT_S, GraspTask, Phase

HOLD_LIMIT_S = 5.0  # PX4 holds 5 s before it acts (COM_FAIL_ACT_T)
_AFTER = {
    Phase.HOMING: Phase.APPROACH,
    Phase.APPROACH: Phase.GRASP,
    Phase.GRASP: Phase.LIFT,
    Phase.LIFT: Phase.VERIFY,
    Phase.PLACE: Phase.HOMING,
    Phase.PARK: Phase.IDLE,
}

_log = logging.getLogger(__name__)


def preflight(policy: Policy, camera: DepthCamera) -> None:
    """Wait for a first frame and see whether the policy can use it; nothing moves.

    Raises `PolicyError` for a policy that needs no image and for a camera that sees less than the policy's,
    `ObservationError` for a frame that is none or not metres.
    """
    contract, depth = policy.contract, depth_of(policy.contract)
    check_camera(contract, camera.start())
    frame = camera.latest()
    # Parked, the camera may look into an empty room: how many pixels are invalid says nothing before the descent.
    if frame is not None and frame.depth_m.any():
        any_view = msgspec.structs.replace(depth, max_invalid_fraction=1.0)
        observation.depth_input(frame, any_view, contract.camera.intrinsics)


def depth_of(contract: Contract) -> DepthInput:
    """What the policy needs of a depth image; raises `PolicyError` for one that needs the block's position instead."""
    if contract.depth is None:
        raise PolicyError(
            "contract input is the block's position (variant 'xyz'), expected depth: the runtime cannot detect a marker on the block yet; "
            "use a policy of variant 'depth'"
        )
    return contract.depth


class Runtime:
    """One run: a policy, the task it was trained for, and open devices."""

    def __init__(
        self,
        policy: Policy,
        task: GraspTask,
        devices: Devices,
        recorder: Recorder,
        max_frame_age_s: float,
        alive: Callable[[], None] = lambda: None,  # called after every write that the bus acknowledged
    ) -> None:
        self._policy = policy
        self._depth = depth_of(policy.contract)
        self._task = task
        self._devices = devices
        self._recorder = recorder
        self._max_frame_age_s = max_frame_age_s
        self._alive = alive
        self._tick_s = 1.0 / task.tick_hz
        # Without read-back the arm is taken to be parked, as the last run left it.
        self._gate = resting(task.park)
        self._state = task.begin(Phase.IDLE, task.park)
        self._frame: Frame | None = None
        self._hold: type[DofbotError] | None = None
        self._held_ticks = 0
        self._phase_ticks: dict[str, int] = defaultdict(int)
        self._grasps: deque[Grasp] = deque(maxlen=KEPT_GRASPS)
        self._timings = Timings.empty()
        self._attempts = self._picked = self._ticks = self._overruns = self._skipped = self._holds = self._clamped = 0
        self._first_tick_s = 0.0
        self._stopped_by = self._safe_reason = ""

    def run(self, grasps: int, stop: Callable[[], bool]) -> Summary:
        """Grasp `grasps` times (0: until `stop`), park, release. Never leaves servos powered, whatever happens."""
        try:
            self._loop(grasps, stop)
        except BusError as error:
            self._enter_safe(f"{error}; servos released")
        finally:
            self._devices.bus.release()
        return self._summary()

    def _loop(self, grasps: int, stop: Callable[[], bool]) -> None:
        pacer = Pacer(self._devices.clock, self._task.tick_hz)
        self._enter(Phase.HOMING)
        while self._state.phase is not Phase.IDLE:
            lateness_s = pacer.wait()
            self._overruns, self._skipped = pacer.overruns, pacer.skipped
            if not self._ticks:
                self._first_tick_s = process_age_s()
            if not self._stopped_by:
                self._stopped_by = "done" if 0 < grasps <= self._attempts else "signal" if stop() else ""
                if self._stopped_by:
                    self._enter(Phase.PARK)
            self._tick(lateness_s)

    def _tick(self, lateness_s: float) -> None:
        """Phase → frame → policy → task → gate → servos; then the record."""
        began_s = time.perf_counter()
        wanted, action, hold = self._gate.position, None, None
        try:
            self._next_phase()
            if self._task.needs_action(self._state):
                action = self._decide()
            task_began_s = time.perf_counter()
            self._state, wanted = self._task.tick(self._state, self._gate.position, action)
        except (ObservationError, PolicyError, UnreachableError) as error:
            hold = error.with_traceback(None)  # which refers to this frame: a cycle, and the collector may be off
        passed = gate(self._gate, wanted, DOFBOT_LIMITS, self._tick_s, self._tool_in_table_m)
        gated_s = time.perf_counter()
        self._devices.bus.write(passed.command)
        written_s = time.perf_counter()
        self._alive()
        self._gate = passed.state
        if action is not None:
            self._timings.decision.add(written_s - began_s)
        if hold is None:
            self._timings.task.add(gated_s - task_began_s)
        self._timings.bus.add(written_s - gated_s)
        self._timings.lateness.add(lateness_s)
        self._ticks += 1
        self._clamped += bool(passed.reasons)
        self._phase_ticks[self._state.phase] += 1
        self._write_record(lateness_s, hold, action, wanted, passed.reasons)
        self._judge(hold)

    def _next_phase(self) -> None:
        """Enter the phase that follows a finished one; raises `ObservationError` when that needs a frame and there is none."""
        phase = self._state.phase
        if not self._task.finished(self._state, self._gate.position):
            return
        if phase is Phase.PARK and any(self._gate.velocity):  # the next run begins where this one lets go: at rest
            return
        following = _AFTER[phase] if phase is not Phase.VERIFY else Phase.PLACE if self._holds_block() else Phase.HOMING
        if following is Phase.HOMING:
            self._conclude("picked" if phase is Phase.PLACE else "missed")
        self._enter(following)

    def _decide(self) -> Float32:
        """The policy's action for the newest frame; raises when there is none to act on, or the action is none."""
        frame, observing_s = self._fresh_frame(), time.perf_counter()
        depth = observation.depth_input(frame, self._depth, self._policy.contract.camera.intrinsics)
        tool = kinematics.tool_pose(self._gate.position, self._task.mount)
        proprio = observation.proprio_input(tool, self._state.before, self._task.steps_left(self._state))
        inferring_s = time.perf_counter()
        action = self._policy.act(depth, proprio)
        self._timings.observation.add(inferring_s - observing_s)
        self._timings.inference.add(time.perf_counter() - inferring_s)
        return action

    def _holds_block(self) -> bool:
        contract = self._policy.contract
        return observation.holds_block(self._fresh_frame(), contract.camera, contract.episode)

    def _fresh_frame(self) -> Frame:
        """The camera's newest frame; raises `ObservationError` when there is none, or none fresh enough to act on."""
        self._frame = frame = self._devices.camera.latest()
        if frame is None:
            raise ObservationError("no depth frame has come yet, expected about 25 a second; is the camera running?")
        age_s, most_s = self._devices.clock.now_s() - frame.captured_at_s, self._max_frame_age_s
        # A frame from the future has another clock's time: its age is unknown.
        if not abs(age_s) <= most_s:
            found = f"the newest depth frame is {age_s * 1e3:.0f} ms old"
            raise ObservationError(f"{found}, expected at most {most_s * 1e3:.0f} ms (camera.max_age_s); is the camera running?")
        self._timings.frame_age.add(age_s)
        return frame

    def _conclude(self, result: Literal["picked", "missed"]) -> None:
        """Book an attempt."""
        self._attempts += 1
        self._picked += result == "picked"
        self._grasps.append(Grasp(result, {phase: ticks / self._task.tick_hz for phase, ticks in self._phase_ticks.items()}))
        self._phase_ticks.clear()
        _log.info("grasp %d: %s", self._attempts, result)

    def _judge(self, hold: DofbotError | None) -> None:
        """Count holds, log each change once, and give up when a hold or a phase lasts."""
        kind = type(hold) if hold else None
        if kind is not self._hold:
            if hold:
                _log.warning("HOLD in %s: %s", self._state.phase, hold)
            else:
                _log.warning("resumed %s after %d ticks", self._state.phase, self._held_ticks)
        self._hold = kind
        self._holds += hold is not None
        self._held_ticks = self._held_ticks + 1 if hold else 0
        if self._held_ticks > HOLD_LIMIT_S * self._task.tick_hz:
            self._give_up(f"held for {HOLD_LIMIT_S:g} s: {hold}")
        elif self._task.expired(self._state):
            self._give_up(f"{self._state.phase} took more than {PHASE_LIMIT_S:g} s; set run.record, and see there what the gate clamped")

    def _give_up(self, reason: str) -> None:
        """SAFE: park; if even that does not end, stop where the arm is."""
        self._enter_safe(reason)
        self._hold, self._held_ticks = None, 0
        self._enter(Phase.IDLE if self._state.phase is Phase.PARK else Phase.PARK)

    def _enter_safe(self, reason: str) -> None:
        _log.error("SAFE: %s", reason)
        self._stopped_by = "SAFE"
        self._safe_reason = self._safe_reason or reason  # the first one is the cause

    def _enter(self, phase: Phase) -> None:
        _log.info("%s → %s", self._state.phase, phase)
        self._state = self._task.begin(phase, self._gate.position)

    def _tool_in_table_m(self, command: JointCommand) -> tuple[float, float, float]:
        return kinematics.tool_in_table_m(command, self._task.mount)

    def _write_record(
        self, lateness_s: float, hold: DofbotError | None, action: Float32 | None, wanted: JointCommand, reasons: tuple[str, ...]
    ) -> None:
        now_s, frame = self._devices.clock.now_s(), self._frame
        self._recorder.write(
            TickRecord(
                now_s,
                lateness_s,
                self._state.phase,
                self._state.step,
                str(hold or ""),
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
            attempts=self._attempts,
            picked=self._picked,
            grasps=tuple(self._grasps),
            stopped_by=self._stopped_by,
            safe_reason=self._safe_reason,
            ticks=self._ticks,
            overruns=self._overruns,
            skipped=self._skipped,
            holds=self._holds,
            clamped=self._clamped,
            timing=self._timings.so_far(),
            start_to_first_tick_s=self._first_tick_s,
            resident_mb=resident_mb(),
        )
