"""Grasp after grasp on live devices: which phase follows, what the policy decides, and what came of it.

IDLE → HOMING → APPROACH → GRASP → LIFT → VERIFY → PLACE → IDLE, and PARK from anywhere.
"""

import time
from collections.abc import Callable
from typing import NamedTuple

from edge import kinematics, observation
from edge.block import BlockTracker
from edge.cameras.fixed_marker import FixedMarker
from edge.cameras.sight import Sight
from edge.cameras.wrist import WristCamera
from edge.contract import Point
from edge.messages import Float32, Frame, JointCommand
from edge.policies.decider import Decider
from edge.policy import Policy
from edge.records.record import Outcome, Timings
from edge.records.tally import Tally
from edge.task import GraspTask, Phase, TaskState

_AFTER = {Phase.HOMING: Phase.APPROACH, Phase.APPROACH: Phase.GRASP, Phase.GRASP: Phase.LIFT, Phase.LIFT: Phase.VERIFY}


class Step(NamedTuple):
    """What the task is to be after a tick, and what it wants of the arm."""

    state: TaskState
    wanted: JointCommand
    before: TaskState  # what the task was when it was asked
    action: Float32 | None = None  # the decision it took
    began_s: float | None = None  # when the task was asked, by `time.perf_counter`; None: it was not


class Markers(NamedTuple):
    """What is looked at in frames that were searched for markers."""

    wrist: WristCamera
    block: BlockTracker | None = None  # for a policy that is told where the block is
    fixed: FixedMarker | None = None  # where one is glued to the table

    def look(self, frame: Frame, sent: JointCommand) -> Point | None:
        """Where the block is, for a policy that is told. Raises `ObservationError` as the two do."""
        if self.fixed is not None:
            self.fixed.check(frame)
        return None if self.block is None else self.block.place_m(frame, sent)

    def forget(self) -> None:
        """Another try begins."""
        for one in (self.block, self.fixed):
            if one is not None:
                one.forget()


class Grasping:
    """The task and its policy, with eyes. `sent` is always the set points that the servos have.

    A step counts only once it is `taken`, and only if nothing else was begun since; until then the same one is asked for again.
    `measured` tells where the joints were read to be, `markers` what markers tell.
    """

    def __init__(
        self,
        policy: Policy,
        task: GraspTask,
        sight: Sight,
        decider: Decider,
        measured: Callable[[], JointCommand | None],
        timings: Timings,
        markers: Markers | None,
    ) -> None:
        self.policy = policy
        self.tally = Tally(task.tick_hz)
        self.state = task.begin(Phase.IDLE, task.park)
        self._task = task
        self._sight = sight
        self._decider = decider
        self._measured = measured
        self._markers = markers
        self._timings = timings
        self._held_once = False  # in this try: what is gone later was lost, not missed

    @property
    def phase(self) -> Phase:
        """What the arm is doing."""
        return self.state.phase

    @property
    def is_expired(self) -> bool:
        """Whether the phase takes longer than any may."""
        return self._task.expired(self.state)

    def is_parked(self, sent: JointCommand) -> bool:
        """Whether a park has arrived."""
        return self.phase is Phase.PARK and self._task.finished(self.state, sent)

    def grasp(self, count: int, sent: JointCommand) -> None:
        """Grasp so many times, from home on."""
        self.tally.want(count)
        self._begin_try(sent)

    def go_on_with(self, phase: Phase, sent: JointCommand) -> None:
        """Park, or wait; a grasp under way is forgotten."""
        self.tally.abandon()
        self._enter(phase, sent)

    def held(self, sent: JointCommand) -> Step:
        """A step that goes nowhere."""
        return Step(self.state, sent, self.state)

    def step(self, sent: JointCommand) -> Step:
        """What to do next; raises `ObservationError`, `PolicyError` or `UnreachableError` where that cannot be said: ask again."""
        self._next_phase(sent)
        action = self._decide(sent) if self.phase is Phase.APPROACH else None
        began_s = time.perf_counter()
        return Step(*self._task.tick(self.state, sent, action), self.state, action, began_s)

    def taken(self, step: Step, command: JointCommand, at_s: float) -> None:
        """The servos have acknowledged a step: they have had its set points, as the gate passed them, since `at_s`."""
        if self.state is step.before:  # a command that came before a late acknowledgement has ended that phase
            self.state = step.state
        if self._markers is not None:
            self._markers.wrist.sent(command, at_s)

    def _next_phase(self, sent: JointCommand) -> None:
        """Enter the phase that follows a finished one; raises `ObservationError` when that needs a frame and there is none."""
        if self._task.arrived_over_place(self.state) and not self._holds_block():
            return self._conclude("lost", sent)  # on the way; nothing is put down
        if not self._task.finished(self.state, sent) or self.phase is Phase.PARK:
            return None
        if self.phase is Phase.PLACE:
            return self._conclude("picked", sent)
        if self.phase is Phase.VERIFY:
            if self._holds_block():
                return self._enter(Phase.PLACE, sent)
            return self._conclude("lost" if self._held_once else "missed", sent)
        if self.phase is Phase.LIFT:
            self._held_once = self._holds_block()
        return self._enter(_AFTER[self.phase], sent)

    def _decide(self, sent: JointCommand) -> Float32 | None:
        """The policy's action where a step begins, else None; raises when there is no frame to go on with, or no action to take."""
        frame = self._sight.fresh()
        block_m = None if self._markers is None else self._markers.look(frame, sent)
        if not self._task.needs_action(self.state):
            return None
        self._sight.used(frame)
        action = self._decider.decide(*self._observe(frame, block_m, sent))
        self._timings.inference.add(self._decider.took_s)
        return action

    def _observe(self, frame: Frame, block_m: Point | None, sent: JointCommand) -> tuple[Float32, Float32]:
        """What the policy gets to see: the frame, or where the block is, and how the arm is."""
        began_s, contract = time.perf_counter(), self.policy.contract
        if contract.block is not None and block_m is not None:
            seen = observation.block_input(block_m, contract.block)
        else:
            assert contract.depth is not None
            seen = observation.depth_input(frame, contract.depth, contract.camera.intrinsics)
        tool = kinematics.tool_pose(sent, self._task.mount)
        proprio = observation.proprio_input(tool, self.state.before, self._task.steps_left(self.state))
        self._timings.observation.add(time.perf_counter() - began_s)
        return seen, proprio

    def _holds_block(self) -> bool:
        return self._sight.holds_block(self._measured(), self.policy.contract)

    def _begin_try(self, sent: JointCommand) -> None:
        self._held_once = False
        self._decider.begin()
        if self._markers is not None:
            self._markers.forget()
        self._enter(Phase.HOMING, sent)

    def _conclude(self, result: Outcome, sent: JointCommand) -> None:
        if self.tally.conclude(result):
            self._begin_try(sent)
        else:
            self._enter(Phase.IDLE, sent)

    def _enter(self, phase: Phase, sent: JointCommand) -> None:
        self.state = self._task.begin(phase, sent)
