"""Whatever the policy says, the arm stays where the task allows it, comes down in time, and gets from every phase to the next."""

import itertools
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import msgspec
import numpy as np
import pytest

from edge import kinematics, robot
from edge.errors import UnreachableError
from edge.messages import JointCommand, ToolPose
from edge.safety import DOFBOT_LIMITS, GateState, gate, resting
from edge.task import PHASE_LIMIT_S, GraspTask, Phase, TaskState
from trainer import spec

CONTRACT = spec.contract()
EPISODE = CONTRACT.episode
TASK = GraspTask(CONTRACT, (-0.12, 0.06))
TICK_S = 1.0 / CONTRACT.rates.tick_hz
SCALE_M = CONTRACT.action.scale_m
GRASP_M = EPISODE.start_in_table_m[2] - EPISODE.steps * EPISODE.descent_per_step_m
AFTER_APPROACH = (Phase.GRASP, Phase.LIFT, Phase.VERIFY, Phase.PLACE)
Act = Callable[[int], np.ndarray]  # policy step → action (2,)


class Tick(NamedTuple):
    """One tick on its way through task and gate."""

    state: TaskState
    wanted: JointCommand
    sent: GateState
    reasons: tuple[str, ...]

    @property
    def tool(self) -> ToolPose:
        return kinematics.tool_pose(self.sent.position, TASK.mount)


def tool_in_table_m(command: JointCommand) -> tuple[float, float, float]:
    return kinematics.tool_in_table_m(command, TASK.mount)


def drive(phase: Phase, sent: GateState, act: Act | None = None) -> Iterator[Tick]:
    """A phase from its beginning to its end, as the runtime drives it; fails when it takes longer than a phase may."""
    state = TASK.begin(phase, sent.position)
    while not TASK.finished(state, sent.position):
        assert not TASK.expired(state), f"{phase} did not end from {sent}"
        action = act(state.step) if act and TASK.needs_action(state) else None
        state, wanted = TASK.tick(state, sent.position, action)
        passed = gate(sent, wanted, DOFBOT_LIMITS, TICK_S, tool_in_table_m)
        sent = passed.state
        yield Tick(state, wanted, sent, passed.reasons)


def last(ticks: Iterator[Tick], sent: GateState) -> GateState:
    for tick in ticks:
        sent = tick.sent
    return sent


def policies(seed: int) -> dict[str, Act]:
    """Actions that a policy may give, from calm to spiteful; some lie outside [-1, 1], where they are clipped."""
    rng = np.random.default_rng(seed)
    constant = rng.choice([-1.0, 0.0, 1.0], 2)
    held = {block: rng.uniform(-1.5, 1.5, 2) for block in range(EPISODE.steps // 10 + 1)}
    return {
        "noise": lambda step: rng.uniform(-1.0, 1.0, 2),
        "bang": lambda step: rng.choice([-1.0, 1.0], 2),
        "constant": lambda step: constant,
        "held": lambda step: held[step // 10],
        "circle": lambda step: np.array([math.cos(0.3 * step), math.sin(0.3 * step)]),
        "huge": lambda step: rng.choice([-1e30, 1e30], 2) if step % 7 else np.zeros(2),
    }


def descents(seeds: range) -> Iterator[tuple[str, list[Tick]]]:
    for seed in seeds:
        for name, act in policies(seed).items():
            yield name, list(drive(Phase.APPROACH, resting(TASK.start), act))


@pytest.fixture(scope="module")
def played() -> list[tuple[str, list[Tick]]]:
    """Descents of all kinds of policies; 400 ticks each."""
    return list(descents(range(6)))


# --- the descent


def test_a_descent_ends_at_the_grasp_height_after_exactly_its_steps(played: list[tuple[str, list[Tick]]]) -> None:
    for _, ticks in played:
        assert len(ticks) == EPISODE.steps * CONTRACT.rates.ticks_per_step
        assert ticks[-1].state.step == EPISODE.steps
        assert ticks[-1].state.goal.z_m == pytest.approx(GRASP_M, abs=1e-12)
        assert ticks[-1].tool.z_m == pytest.approx(GRASP_M, abs=6e-3)  # a turn in the last steps is cut, and leaves the tool behind


@pytest.mark.parametrize("move", [(0.0, 0.0), (0.3, -0.5), (-0.2, -0.4), (0.0, -1.0)])
def test_a_calm_descent_falls_one_step_at_a_time_and_ends_exactly(move: tuple[float, float]) -> None:
    ticks = list(drive(Phase.APPROACH, resting(TASK.start), lambda step: np.array(move) if step < 50 else np.zeros(2)))
    assert ticks[-1].tool.z_m == pytest.approx(GRASP_M, abs=1e-9)
    assert ticks[-1].tool.tilt_rad == pytest.approx(0.0, abs=1e-9)
    goals_m = [tick.state.goal.z_m for tick in ticks[:: CONTRACT.rates.ticks_per_step]]
    assert np.diff([EPISODE.start_in_table_m[2], *goals_m]) == pytest.approx(-EPISODE.descent_per_step_m, abs=1e-12)


def test_no_goal_leaves_the_workspace_or_the_reach(played: list[tuple[str, list[Tick]]]) -> None:
    (x_min, y_min), (x_max, y_max) = EPISODE.workspace_min_in_table_m, EPISODE.workspace_max_in_table_m
    widest_m = 0.0
    for _, ticks in played:
        for tick in ticks:
            x_m, y_m, z_m, *_ = tick.state.goal
            assert x_min - 1e-12 <= x_m <= x_max + 1e-12
            assert y_min - 1e-12 <= y_m <= y_max + 1e-12
            radius_m = math.hypot(x_m, y_m)
            assert TASK.reach.clamp(radius_m, z_m) == pytest.approx(radius_m, abs=1e-12)
            widest_m = max(widest_m, abs(x_m))
    assert widest_m > 0.0749  # these policies did try


def test_what_is_sent_follows_the_goal(played: list[tuple[str, list[Tick]]]) -> None:
    """Full turns from step to step are cut joint by joint, so the tool tilts and trails: by this much, and no more."""
    (x_min, y_min), (x_max, y_max) = EPISODE.workspace_min_in_table_m, EPISODE.workspace_max_in_table_m
    for _, ticks in played:
        for tick in ticks:
            assert abs(tick.tool.tilt_rad) < 0.12
            assert x_min - 0.012 < tick.tool.x_m < x_max + 0.012
            assert y_min - 0.012 < tick.tool.y_m < y_max + 0.012


def test_no_descent_moves_faster_than_the_servos_or_below_the_floor(played: list[tuple[str, list[Tick]]]) -> None:
    step_max = np.array(DOFBOT_LIMITS.velocity_max) * TICK_S
    for _, ticks in played:
        sent = np.array([TASK.start, *(tick.sent.position for tick in ticks)])
        assert (np.abs(np.diff(sent, axis=0)) <= step_max + 1e-12).all()
        assert min(tick.tool.z_m for tick in ticks) >= DOFBOT_LIMITS.tool_min_in_table_m[2]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("axis", [0, 1])
def test_an_action_that_is_not_finite_is_an_error_and_moves_nothing(bad: float, axis: int) -> None:
    action = np.zeros(2, np.float32)
    action[axis] = bad
    state = TASK.begin(Phase.APPROACH, TASK.start)
    with pytest.raises(ValueError, match=rf"action is \[.*{bad}.*\], expected finite numbers in \[-1, 1\]"):
        TASK.tick(state, TASK.start, action)


def test_a_step_without_an_action_is_an_error() -> None:
    state = TASK.begin(Phase.APPROACH, TASK.start)
    assert TASK.needs_action(state)
    with pytest.raises(ValueError, match="needs an action"):
        TASK.tick(state, TASK.start)


def test_actions_are_asked_for_once_a_policy_step() -> None:
    asked = []
    ticks = list(drive(Phase.APPROACH, resting(TASK.start), lambda step: asked.append(step) or np.zeros(2)))  # type: ignore[func-returns-value]
    assert asked == list(range(EPISODE.steps))
    assert [tick.state.step for tick in ticks] == [1 + tick // CONTRACT.rates.ticks_per_step for tick in range(len(ticks))]
    assert TASK.steps_left(TASK.begin(Phase.APPROACH, TASK.start)) == EPISODE.steps
    assert TASK.steps_left(ticks[-1].state) == 0


@pytest.mark.parametrize("move", [*itertools.product((-1.0, 0.0, 1.0), repeat=2)])
def test_what_the_gate_cuts_is_not_asked_for_later(move: tuple[float, float]) -> None:
    """An arm that does not move at all, as when every command is cut: the goal never gets further ahead than one action and the next."""
    sent = JointCommand(*kinematics.solve(ToolPose(0.0, 0.11, 0.04, 0.0, EPISODE.yaw_rad), TASK.mount), EPISODE.open_m)
    state = TASK.begin(Phase.APPROACH, sent)._replace(step=70)  # low enough for room on all sides
    for _ in range(20 * CONTRACT.rates.ticks_per_step):
        state, _ = TASK.tick(state, sent, np.array(move, np.float32))
        assert abs(state.goal.x_m) <= 2.0 * SCALE_M + 1e-9
        assert abs(state.goal.y_m - 0.11) <= 2.0 * SCALE_M + 1e-9
    assert state.goal.x_m == pytest.approx(2.0 * SCALE_M * move[0], abs=1e-9)


@pytest.mark.parametrize("excess", [1.0, math.nextafter(1.0, 2.0), 1.7, 1e30])
def test_an_action_beyond_one_moves_no_further_than_one(excess: float) -> None:
    sent = JointCommand(*kinematics.solve(ToolPose(0.0, 0.11, 0.04, 0.0, EPISODE.yaw_rad), TASK.mount), EPISODE.open_m)
    for sign in (1.0, -1.0):
        state = TASK.begin(Phase.APPROACH, sent)._replace(step=70)
        goal = TASK.tick(state, sent, sign * np.array([excess, excess]))[0].goal
        assert (goal.x_m, goal.y_m) == pytest.approx((sign * SCALE_M, 0.11 + sign * SCALE_M), abs=1e-9)


def test_a_full_action_moves_the_tool_by_its_scale() -> None:
    sent = resting(JointCommand(*kinematics.solve(ToolPose(0.0, 0.11, 0.04, 0.0, EPISODE.yaw_rad), TASK.mount), EPISODE.open_m))
    for x, y in ((1.0, 0.0), (0.0, 1.0), (-1.0, 0.5), (0.2, -1.0)):
        state = TASK.begin(Phase.APPROACH, sent.position)._replace(step=70)
        begin = sent
        for _ in range(CONTRACT.rates.ticks_per_step):
            state, wanted = TASK.tick(state, begin.position, np.array([x, y]))
            begin = gate(begin, wanted, DOFBOT_LIMITS, TICK_S, tool_in_table_m).state
        tool = kinematics.tool_pose(begin.position, TASK.mount)
        assert (tool.x_m, tool.y_m) == pytest.approx((x * SCALE_M, 0.11 + y * SCALE_M), abs=2e-3)
        assert (state.goal.x_m, state.goal.y_m) == pytest.approx((x * SCALE_M, 0.11 + y * SCALE_M), abs=1e-9)


# --- the other phases


def run_grasp(act: Act) -> Iterator[tuple[Phase, list[Tick]]]:
    """A whole grasp, from the parked arm to the next start."""
    sent = resting(TASK.park)
    for phase in (Phase.HOMING, Phase.APPROACH, *AFTER_APPROACH, Phase.HOMING, Phase.PARK):
        ticks = list(drive(phase, sent, act))
        yield phase, ticks
        sent = ticks[-1].sent


@pytest.fixture(scope="module")
def grasps() -> list[list[tuple[Phase, list[Tick]]]]:
    # Seeds 4, 6 and 228 of 'noise' and 'bang' end a descent tilted onto the floor.
    return [list(run_grasp(policies(seed)[name])) for seed in (1, 4, 6, 12, 18) for name in ("noise", "bang", "held", "constant")]


def test_every_phase_ends_in_time_whatever_the_descent_did(grasps: list[list[tuple[Phase, list[Tick]]]]) -> None:
    for grasp in grasps:
        assert [phase for phase, _ in grasp][-1] is Phase.PARK  # `drive` fails where a phase does not end
        assert max(len(ticks) for _, ticks in grasp) * TICK_S < 0.9 * PHASE_LIMIT_S


def test_nothing_is_sent_below_the_floor_or_outside_the_limits(grasps: list[list[tuple[Phase, list[Tick]]]]) -> None:
    low, high = np.array(DOFBOT_LIMITS.position_min), np.array(DOFBOT_LIMITS.position_max)
    for _, ticks in itertools.chain.from_iterable(grasps):
        sent = np.array([tick.sent.position for tick in ticks])
        assert ((low <= sent) & (sent <= high)).all()
        assert min(tick.tool.z_m for tick in ticks) >= DOFBOT_LIMITS.tool_min_in_table_m[2]


def test_phases_do_what_they_are_named_for(grasps: list[list[tuple[Phase, list[Tick]]]]) -> None:
    for grasp in grasps:
        ends = dict(grasp[:-2])
        touched = ends[Phase.APPROACH][-1].tool
        assert ends[Phase.HOMING][-1].sent.position == pytest.approx(TASK.start, abs=2e-3)
        held = ends[Phase.GRASP][-1]
        assert held.sent.position.opening_m == pytest.approx(EPISODE.closed_m, abs=1e-9)
        # What straightens of a tilted tool is its tip: the lever is the hand.
        assert math.dist(held.tool[:3], touched[:3]) < 0.003 + robot.WRIST_TO_TOOL_M * abs(touched.tilt_rad)
        for phase in (Phase.LIFT, Phase.VERIFY):
            assert all(tick.sent.position.opening_m == pytest.approx(EPISODE.closed_m, abs=1e-9) for tick in ends[phase])
            assert ends[phase][-1].tool.z_m >= held.tool.z_m + EPISODE.lift_m - 1e-4
        hold_s = len(ends[Phase.VERIFY]) * TICK_S
        assert EPISODE.success_hold_s <= hold_s < EPISODE.success_hold_s + 0.2
        placed = [tick for tick in ends[Phase.PLACE] if tick.tool.z_m < TASK.place_pose.z_m + 1e-4]
        assert placed[0].sent.position.opening_m == pytest.approx(EPISODE.closed_m, abs=1e-9)
        assert placed[-1].sent.position.opening_m == pytest.approx(EPISODE.open_m, abs=1e-9)
        assert all(math.dist(tick.tool[:2], TASK.place_pose[:2]) < 1e-3 for tick in placed)
        assert grasp[-1][1][-1].sent.position[:5] == pytest.approx(TASK.park[:5], abs=1e-3)


def test_the_path_between_park_and_home_keeps_clear_of_the_table() -> None:
    sent = resting(TASK.park)
    for phase in (Phase.HOMING, Phase.PARK, Phase.HOMING):
        ticks = list(drive(phase, sent))
        assert min(tick.tool.z_m for tick in ticks) > 0.030
        sent = ticks[-1].sent


@pytest.mark.parametrize("phase", [Phase.PARK, Phase.HOMING])
def test_the_arm_gets_away_from_wherever_it_was_interrupted(phase: Phase, grasps: list[list[tuple[Phase, list[Tick]]]]) -> None:
    """From the lowest, the last and some other ticks of every phase; a joint move from low down would dip into the table."""
    for number, (_, ticks) in enumerate(itertools.chain.from_iterable(grasps)):
        lowest = min(ticks, key=lambda tick: tick.tool.z_m)
        for tick in (lowest, ticks[-1], ticks[(number * 37) % len(ticks)]):
            left = list(drive(phase, tick.sent))
            assert all(after.tool.z_m >= DOFBOT_LIMITS.tool_min_in_table_m[2] for after in left)
            if tick.tool.z_m < 0.03 and left:
                raised = next(after for after in left if after.tool.z_m > 0.055)
                assert raised.sent.position.opening_m == pytest.approx(tick.sent.position.opening_m, abs=2e-3), "nothing may be dropped"


def test_a_descent_begins_with_an_open_gripper_although_the_arm_has_arrived_before() -> None:
    closed = TASK.start._replace(opening_m=EPISODE.closed_m)
    ticks = list(drive(Phase.HOMING, resting(closed)))
    assert len(ticks) > 10
    assert ticks[-1].sent.position.opening_m == pytest.approx(EPISODE.open_m, abs=1e-4)
    assert all(tick.sent.position.joints_rad == pytest.approx(TASK.start.joints_rad) for tick in ticks)


def test_idle_goes_nowhere_and_never_ends() -> None:
    state = TASK.begin(Phase.IDLE, TASK.park)
    for _ in range(int(2 * PHASE_LIMIT_S / TICK_S)):
        state, wanted = TASK.tick(state, TASK.park)
        assert wanted == TASK.park
        assert not TASK.finished(state, TASK.park)
        assert not TASK.expired(state)


@pytest.mark.parametrize("phase", [Phase.HOMING, Phase.LIFT, Phase.PLACE, Phase.PARK])
def test_a_phase_that_gets_nowhere_expires(phase: Phase) -> None:
    """An arm that does not move: held by the gate, or by a hand."""
    stuck = JointCommand(*kinematics.solve(ToolPose(0.0, 0.11, 0.02, 0.0, EPISODE.yaw_rad), TASK.mount), EPISODE.open_m)
    state = TASK.begin(phase, stuck)
    ticks = 0
    while not TASK.expired(state):
        assert not TASK.finished(state, stuck)
        state, _ = TASK.tick(state, stuck)
        ticks += 1
    assert ticks == PHASE_LIMIT_S / TICK_S + 1


def test_the_same_ticks_give_the_same_commands() -> None:
    one, other = (list(run_grasp(policies(5)["held"])) for _ in range(2))
    assert one == other


# --- contracts that this arm cannot do


def changed(**values: object) -> GraspTask:
    episode = msgspec.structs.replace(EPISODE, **values)
    return GraspTask(msgspec.structs.replace(CONTRACT, episode=episode), (-0.12, 0.06))


def test_a_start_or_a_place_out_of_reach_is_refused() -> None:
    with pytest.raises(UnreachableError, match=r"tool at \(0\.0, 200\.0, 110\.0\) mm"):
        changed(start_in_table_m=(0.0, 0.2, 0.110))
    with pytest.raises(UnreachableError, match=r"tool at \(-300\.0, 60\.0, 12\.0\) mm"):
        GraspTask(CONTRACT, (-0.3, 0.06))
