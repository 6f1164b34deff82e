"""The gate keeps its promise for any input, and stays out of the way of commands that need no keeping."""

import itertools
import math
import random
from collections.abc import Iterable, Iterator
from operator import mul

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge import robot
from edge.errors import BusError, ConfigError
from edge.kinematics import Mount, branches, tool_in_table_m, within_limits
from edge.messages import JointCommand, ToolPose
from edge.reach import reach
from edge.safety import DOFBOT_LIMITS, GateState, Limits, Passed, Point, gate, resting

DT_S = 0.02  # 50 Hz, the servo tick
AXES = range(6)
HOME = JointCommand(0.0, 0.3, -0.4, 0.2, 0.5, 0.03)
# Slower to brake than the real arm: five ticks from full speed, so that braking has something to get wrong.
VELOCITY_RAD_S, ACCELERATION_RAD_S2 = 2.4, 24.0
LIMITS = msgspec.structs.replace(
    DOFBOT_LIMITS, velocity_max=(*(VELOCITY_RAD_S,) * 5, 0.12), acceleration_max=(*(ACCELERATION_RAD_S2,) * 5, 1.2)
)
RAMP_RAD = ACCELERATION_RAD_S2 * DT_S * DT_S  # how much a step may differ from the one before
TOP_RAD = VELOCITY_RAD_S * DT_S
NASTY = (math.nan, math.inf, -math.inf, 5e-324, -5e-324, 2.2e-308, 1.7e308, -1.7e308, 0.0, -0.0, 1e-17, 1e6)
CORNERS = (JointCommand(*LIMITS.position_min), JointCommand(*LIMITS.position_max))


LOW_M, HIGH_M = LIMITS.tool_min_in_table_m, LIMITS.tool_max_in_table_m
CENTRE_M = (0.0, 0.1, 0.2)


def clear(_: JointCommand) -> Point:
    """A tool that is never near a side of its box."""
    return CENTRE_M


def hanging(command: JointCommand) -> Point:
    """Tool of this arm hanging 0.388 m over the table, from the link lengths alone."""
    angles = list(itertools.accumulate(command[1:4]))
    lengths = (robot.UPPER_ARM_M, robot.FOREARM_M, robot.WRIST_TO_TOOL_M)
    radius_m, drop_m = (sum(map(mul, lengths, map(turn, angles))) for turn in (math.sin, math.cos))
    return radius_m * math.sin(command[0]), radius_m * math.cos(command[0]), 0.388 - robot.BASE_TO_SHOULDER_M - drop_m


def boxed(limits: Limits, low: Point, high: Point) -> Limits:
    return msgspec.structs.replace(limits, tool_min_in_table_m=low, tool_max_in_table_m=high)


def joint2(value: float) -> JointCommand:
    """Home with another joint 2: what one axis does, the others do."""
    return HOME._replace(joint2_rad=value)


def run(state: GateState, targets: Iterable[JointCommand], limits: Limits = LIMITS, tool=clear) -> Iterator[Passed]:
    """Pass every target through the gate, one tick each."""
    for target in targets:
        passed = gate(state, target, limits, DT_S, tool)
        yield passed
        state = passed.state


def check_promise(before: GateState, wanted: JointCommand, passed: Passed, limits: Limits, dt_s: float) -> None:
    """What holds for every tick, whatever was wanted; nothing here is taken from the gate's own arithmetic."""
    assert passed.state.position == passed.command
    for axis in AXES:
        sent, velocity = passed.command[axis], (passed.command[axis] - before.position[axis]) / dt_s
        assert limits.position_min[axis] <= sent <= limits.position_max[axis]
        assert abs(velocity) <= limits.velocity_max[axis] + 1e-9
        assert abs(velocity - before.velocity[axis]) <= limits.acceleration_max[axis] * dt_s + 1e-9
        assert passed.state.velocity[axis] == velocity
    assert (passed.command == wanted) == (not passed.reasons)


def braking_distance(step: float, ramp: float) -> float:
    """How far an axis still goes after `step`, summed tick by tick."""
    return math.copysign(sum(itertools.takewhile(lambda s: s > 0, (abs(step) - ramp * n for n in itertools.count(1)))), step)


def adversary(rng: random.Random, limits: Limits) -> Iterator[JointCommand]:
    """Jumps, alternating extremes, targets just at and past a limit, values no joint can have; each for some ticks."""
    low, top = limits.position_min, limits.position_max

    def inside() -> JointCommand:
        return JointCommand(*(rng.uniform(low[a], top[a]) for a in AXES))

    def edge() -> JointCommand:
        near = (math.nextafter(top[0], 9), 1e-12, -1e-12, 0.0, 1e-3)
        return JointCommand(*(rng.choice((low[a], top[a])) + rng.choice(near[1:]) for a in AXES))

    def nasty() -> JointCommand:
        return JointCommand(*(rng.choice(NASTY) if rng.random() < 0.3 else value for value in inside()))

    while True:
        kind, ticks = rng.choice((inside, edge, nasty)), rng.choice((1, 1, 2, 3, 8, 40))
        targets = [kind() for _ in range(rng.choice((1, 2, ticks)))]
        yield from itertools.islice(itertools.cycle(targets), ticks)


def test_a_moving_target_is_followed_without_lag_once_caught() -> None:
    """From rest to 0.9 rad/s at once is more than two ticks of acceleration; the third is exact."""
    ramp = [joint2(0.3 + 0.9 * DT_S * n) for n in range(1, 30)]
    sent = list(run(resting(HOME), ramp))
    assert [passed.reasons for passed in sent] == [("joint2 acceleration",)] * 2 + [()] * 27
    assert [passed.command for passed in sent[2:]] == ramp[2:]


def test_a_target_faster_than_that_is_trailed_by_its_braking_distance() -> None:
    speed = 2.0
    ramp = [joint2(-1.0 + speed * DT_S * n) for n in range(1, 45)]
    *_, last = run(resting(joint2(-1.0)), ramp)
    assert last.reasons
    assert 0.0 < ramp[-1].joint2_rad - last.command.joint2_rad <= speed**2 / (2 * ACCELERATION_RAD_S2)
    *_, last = run(last.state, [ramp[-1]] * 10)
    assert last.command == ramp[-1]


@pytest.mark.parametrize("distance", [1e-9, RAMP_RAD, 1.5 * RAMP_RAD, 2 * RAMP_RAD, 3 * RAMP_RAD, TOP_RAD, 0.2, 0.7, 1.2, -1.5])
def test_a_jump_is_reached_in_near_the_shortest_time_and_not_overshot(distance: float) -> None:
    start, velocity, acceleration = HOME.joint2_rad, VELOCITY_RAD_S, ACCELERATION_RAD_S2
    length = abs(distance)
    ramps_s = velocity / acceleration
    shortest_s = length / velocity + ramps_s if length > velocity * ramps_s else 2 * math.sqrt(length / acceleration)
    ticks = math.ceil(shortest_s / DT_S) + 1
    way = [passed.command.joint2_rad for passed in run(resting(HOME), [joint2(start + distance)] * (ticks + 5))]
    progress = [(value - start) * math.copysign(1.0, distance) for value in way]
    assert progress == sorted(progress)
    assert way[ticks - 1 :] == [start + distance] * 6  # reached to the bit, and stays


def test_after_one_lost_command_the_target_is_caught_again() -> None:
    """At 1.5 rad/s the arm brakes for one tick, and makes up for it in the next two."""
    path = [joint2(-1.0 + 1.5 * DT_S * n) for n in range(1, 25)]
    sent = list(run(resting(joint2(-1.0)), [*path[:10], joint2(math.nan), *path[11:]], DOFBOT_LIMITS))
    assert sent[10].reasons == ("not finite",)
    assert [passed.command for passed in sent[3:10] + sent[13:]] == path[3:10] + path[13:]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("axis", AXES)
def test_one_field_that_is_not_finite_brakes_every_axis(axis: int, value: float) -> None:
    *_, moving = run(resting(HOME), [CORNERS[1]] * 4)
    wanted = JointCommand(*(value if a == axis else x for a, x in enumerate(CORNERS[1])))
    passed = gate(moving.state, wanted, LIMITS, DT_S, clear)
    assert passed.reasons == ("not finite",)
    for a in AXES:
        slower = moving.state.velocity[a] - LIMITS.acceleration_max[a] * DT_S
        assert passed.state.velocity[a] == pytest.approx(slower, abs=1e-9)
    assert gate(resting(HOME), wanted, LIMITS, DT_S, clear).command == HOME


def test_the_first_tick_starts_from_rest() -> None:
    passed = gate(resting(HOME), CORNERS[1], LIMITS, DT_S, clear)
    for sent, start, acceleration in zip(passed.command, HOME, LIMITS.acceleration_max, strict=True):
        assert sent - start == pytest.approx(acceleration * DT_S**2)


def test_reasons_name_axis_and_limit() -> None:
    assert gate(resting(HOME), joint2(1.0), LIMITS, DT_S, clear).reasons == ("joint2 velocity",)
    assert gate(resting(HOME), joint2(0.32), LIMITS, DT_S, clear).reasons == ("joint2 acceleration",)
    at_limit = resting(joint2(math.radians(90.0)))
    assert gate(at_limit, joint2(2.0)._replace(opening_m=0.05), LIMITS, DT_S, clear).reasons == (
        "joint2 position",
        "gripper velocity",
    )


@pytest.mark.parametrize("side", [1.0, -1.0])
def test_a_speed_that_is_the_limit_is_only_too_sudden(side: float) -> None:
    start = resting(joint2(0.0))
    assert gate(start, joint2(side * TOP_RAD), LIMITS, DT_S, clear).reasons == ("joint2 acceleration",)
    assert gate(start, joint2(side * math.nextafter(TOP_RAD, 1.0)), LIMITS, DT_S, clear).reasons == ("joint2 velocity",)


def test_the_fastest_target_that_is_caught_from_rest_moves_by_two_ramps_a_tick() -> None:
    path = [joint2(2.0 * RAMP_RAD * n) for n in range(1, 9)]
    assert [passed.command for passed in run(resting(joint2(0.0)), path)][2:] == path[2:]
    faster = [joint2(2.01 * RAMP_RAD * n) for n in range(1, 9)]
    assert all(passed.reasons for passed in run(resting(joint2(0.0)), faster))


def test_a_step_that_rounding_made_too_long_is_passed_and_nothing_longer() -> None:
    start = resting(joint2(0.0))
    for share, passes in ((0.9e-10, True), (1.1e-10, False)):
        wanted = joint2(RAMP_RAD * (1.0 + share))
        assert (gate(start, wanted, LIMITS, DT_S, clear).command == wanted) == passes


@pytest.mark.parametrize("side", [1.0, -1.0])
def test_an_axis_outside_its_limits_may_stay_or_come_back_but_not_go_further(side: float) -> None:
    limit = math.radians(90.0)
    outside = side * (limit + 0.2)
    state = resting(joint2(outside))
    assert gate(state, joint2(outside), LIMITS, DT_S, clear).reasons == ()
    assert gate(state, joint2(side * 9.0), LIMITS, DT_S, clear).command == joint2(outside)
    targets = [joint2(side * x) for x in (0.0, 0.0, 0.0, 9.0, 9.0, 9.0, 9.0, 9.0, 0.0, 9.0) * 6] + [joint2(0.0)] * 60
    way = [abs(passed.command.joint2_rad) for passed in run(state, targets)]
    assert all(new <= max(old, limit) for old, new in itertools.pairwise([abs(outside), *way]))
    assert way[-1] == 0.0


@pytest.mark.parametrize("side", [1.0, -1.0])
def test_a_path_that_runs_through_a_limit_is_left_in_time(side: float) -> None:
    state = resting(joint2(0.0))
    steps = itertools.accumulate((min(n, 4.9) * RAMP_RAD * side for n in range(1, 60)), initial=0.0)
    for wanted in map(joint2, steps):
        passed = gate(state, wanted, LIMITS, DT_S, clear)
        check_promise(state, wanted, passed, LIMITS, DT_S)
        state = passed.state
    assert state.position.joint2_rad == side * math.radians(90.0)


def test_the_same_input_gives_the_same_output() -> None:
    first, second = (list(itertools.islice(run(resting(HOME), adversary(random.Random(5), LIMITS)), 300)) for _ in range(2))
    assert first == second


def lift(command: JointCommand) -> Point:
    """A tool that joint 2 alone moves: 0.2 m up for every radian."""
    return 0.0, 0.1, 0.2 * command.joint2_rad


FLOOR_RAD = LOW_M[2] / 0.2  # where that tool is at the floor


def test_the_tool_stops_above_the_floor_on_every_axis() -> None:
    *_, before, last = run(resting(joint2(1.0)), [joint2(-1.5)._replace(joint1_rad=1.5)] * 60, tool=lift)
    assert last.reasons == ("tool z",)
    assert last.state.velocity == (0.0,) * 6
    assert before.command == last.command
    assert 0.0 <= lift(last.command)[2] - LOW_M[2] < 0.2 * TOP_RAD


def test_a_slow_descent_is_exact_down_to_the_floor() -> None:
    descent = [joint2(0.3 - 0.004 * n) for n in range(1, 80)]
    for wanted, passed in zip(descent, run(resting(joint2(0.3)), descent, tool=lift), strict=True):
        assert (passed.reasons == ()) == (lift(wanted)[2] >= LOW_M[2])
        assert lift(passed.command)[2] >= LOW_M[2]


def test_from_below_the_floor_the_only_way_is_up() -> None:
    below = resting(joint2(FLOOR_RAD - 0.5))
    aside = below.position._replace(joint1_rad=0.005)
    assert gate(below, below.position, LIMITS, DT_S, lift).reasons == ()
    for wanted in (joint2(FLOOR_RAD - 0.505), aside):
        assert gate(below, wanted, LIMITS, DT_S, lift)[::2] == (below.position, ("tool z",))
    *_, up = run(below, [joint2(1.0)] * 60, tool=lift)
    assert up.command == joint2(1.0)


@pytest.mark.parametrize("side", [-1.0, 1.0])
@pytest.mark.parametrize("coordinate", range(3))
def test_each_wall_lets_the_tool_up_to_it_and_no_further(coordinate: int, side: float) -> None:
    """A tool that joint 2 moves along one coordinate, a metre a radian; a target beyond it is not reached, one at it is."""
    wall_m, name = (LOW_M, HIGH_M)[side > 0.0][coordinate], ("tool x", "tool y", "tool z")[coordinate]

    def sliding(command: JointCommand) -> Point:
        x, y, z = (command.joint2_rad if axis == coordinate else CENTRE_M[axis] for axis in range(3))
        return x, y, z

    start = resting(joint2(CENTRE_M[coordinate]))
    *_, at = run(start, [joint2(wall_m)] * 30, tool=sliding)
    assert (at.command, at.reasons) == (joint2(wall_m), ())
    beyond = joint2(math.nextafter(wall_m, side * math.inf))
    assert gate(at.state, beyond, LIMITS, DT_S, sliding)[::2] == (joint2(wall_m), (name,))
    *_, stopped = run(start, [joint2(wall_m + side)] * 40, tool=sliding)
    assert stopped.reasons == (name,)
    assert 0.0 <= side * (wall_m - stopped.command.joint2_rad) < TOP_RAD
    outside = resting(joint2(wall_m + 0.1 * side))
    sideways, back = outside.position._replace(joint1_rad=1e-3), joint2(wall_m + 0.0999 * side)
    assert gate(outside, sideways, LIMITS, DT_S, sliding)[::2] == (outside.position, (name,))
    assert gate(outside, back, LIMITS, DT_S, sliding)[::2] == (back, ())
    *_, inside = run(outside, [joint2(CENTRE_M[coordinate])] * 60, tool=sliding)
    assert (inside.command, inside.reasons) == (joint2(CENTRE_M[coordinate]), ())


def test_an_arm_below_the_floor_that_would_stop_above_it_may_not_choose_to_stop_below() -> None:
    """Braking ends 3 ramps ahead, on a bank 10 mm over the floor; faster would end behind it, higher than now but too low."""

    def banked(command: JointCommand) -> Point:
        ramps = command.joint2_rad / RAMP_RAD
        return 0.0, 0.1, LOW_M[2] + (-0.010 if ramps < 1.0 else 0.010 if ramps < 6.0 else -0.005)

    below = GateState(joint2(0.0), (0.0, 3.0 * RAMP_RAD / DT_S, 0.0, 0.0, 0.0, 0.0))
    passed = gate(below, joint2(4.0 * RAMP_RAD), LIMITS, DT_S, banked)
    assert passed.reasons == ("tool z",)
    assert passed.command.joint2_rad == pytest.approx(2.0 * RAMP_RAD)


@pytest.mark.parametrize(("stop_m", "wanted_m", "end_m"), [(0.009, 0.003, 0.005), (0.001, 0.003, 0.002)])
def test_an_arm_on_its_way_back_may_not_turn_round(stop_m: float, wanted_m: float, end_m: float) -> None:
    """Wanted is nearer to the floor than before, 10 mm. But the arm would end lower than that, or than if it stopped now."""

    def banked(command: JointCommand) -> Point:
        ramps = command.joint2_rad / RAMP_RAD
        return 0.0, 0.1, LOW_M[2] - (0.010 if ramps < 1.0 else stop_m if ramps < 3.5 else wanted_m if ramps < 5.0 else end_m)

    below = GateState(joint2(0.0), (0.0, 3.0 * RAMP_RAD / DT_S, 0.0, 0.0, 0.0, 0.0))
    passed = gate(below, joint2(4.0 * RAMP_RAD), LIMITS, DT_S, banked)
    assert passed.reasons == ("tool z",)
    assert passed.command.joint2_rad == pytest.approx(2.0 * RAMP_RAD)


@pytest.mark.parametrize("corner", [LOW_M, HIGH_M])
def test_a_tool_on_a_wall_may_slide_along_it_while_it_comes_back_from_beyond_another(corner: Point) -> None:
    below = resting(joint2(FLOOR_RAD - 0.5))
    passed = gate(below, joint2(FLOOR_RAD - 0.495), LIMITS, DT_S, lambda command: (corner[0], corner[1], lift(command)[2]))
    assert passed[::2] == (joint2(FLOOR_RAD - 0.495), ())


@pytest.mark.parametrize("coordinate", range(3))
def test_a_tool_that_is_not_a_number_is_outside(coordinate: int) -> None:
    x, y, z = (math.nan if axis == coordinate else value for axis, value in enumerate(CENTRE_M))
    passed = gate(resting(HOME), joint2(0.301), LIMITS, DT_S, lambda _: (x, y, z))
    assert passed[::2] == (HOME, (("tool x", "tool y", "tool z")[coordinate],))


# --- starts, pauses, swaps, and inputs of the wrong kind


def test_after_a_pause_the_arm_starts_from_rest() -> None:
    """The bus was gone for 2 s: what was sent last is where the arm is, but not how fast it goes."""
    *_, moving = run(resting(HOME), [CORNERS[1]] * 4, DOFBOT_LIMITS)
    assert all(moving.state.velocity[:5])
    resumed = resting(moving.state.position)
    assert resumed.velocity == (0.0,) * 6
    for wanted in (CORNERS[0], CORNERS[1], JointCommand(*(1e308,) * 6)):
        passed = gate(resumed, wanted, DOFBOT_LIMITS, DT_S, clear)
        check_promise(resumed, wanted, passed, DOFBOT_LIMITS, DT_S)
    held = gate(moving.state, moving.state.position, DOFBOT_LIMITS, DT_S, clear).state
    assert held.velocity != (0.0,) * 6  # a hold is no pause: the arm brakes first


def test_another_policy_finds_the_arm_as_the_last_one_left_it() -> None:
    """Between two ticks at full speed the wanted set points jump to the other end of every axis."""
    *_, first = run(resting(HOME), [CORNERS[1]] * 3)
    for before, passed in itertools.pairwise([first, *run(first.state, [CORNERS[0]] * 200)]):
        check_promise(before.state, CORNERS[0], passed, LIMITS, DT_S)
    assert passed.command == CORNERS[0]


def test_zeros_of_both_signs_and_the_smallest_numbers_are_passed_on() -> None:
    state = resting(JointCommand(*(0.0,) * 6))
    for wanted in (JointCommand(*(-0.0,) * 6), JointCommand(*(5e-324,) * 6), JointCommand(*(2.2e-308,) * 6)):
        assert gate(state, wanted, LIMITS, DT_S, clear)[::2] == (wanted, ())


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", [np.float32, np.float64, int])
def test_numbers_of_another_kind_become_floats(kind: type) -> None:
    state = resting(JointCommand(*map(kind, (0.0, 1.0, -1.0, 0.0, 1.0, 0.0))))
    assert [type(value) for value in state.position] == [float] * 6
    largest = kind(np.finfo(kind).max) if kind is not int else 10**300
    for wanted in (JointCommand(*(largest,) * 6), JointCommand(*(-largest,) * 6), JointCommand(*map(kind, HOME))):
        passed = gate(state, wanted, LIMITS, DT_S, clear)
        check_promise(state, wanted, passed, LIMITS, DT_S)
        assert {type(value) for value in (*passed.command, *passed.state.velocity)} == {float}


def test_a_field_that_is_missing_is_an_error_and_no_command() -> None:
    with pytest.raises(ValueError, match="zip"):
        gate(resting(HOME), HOME[:5], LIMITS, DT_S, clear)  # type: ignore[arg-type]


@pytest.mark.parametrize("dt_s", [0.0, -0.02, 0.0009, 0.1001, math.nan, math.inf, 5e-324, 1e308])
def test_a_tick_that_is_none_is_refused(dt_s: float) -> None:
    with pytest.raises(ConfigError, match=r"tick is .* s, expected 0\.001…0\.1 s"):
        gate(resting(HOME), HOME, LIMITS, dt_s, clear)


@pytest.mark.parametrize("dt_s", [0.001, 0.1])
def test_the_fastest_and_the_slowest_tick_are_ticks(dt_s: float) -> None:
    assert gate(resting(HOME), HOME, LIMITS, dt_s, clear).reasons == ()


def test_the_limits_are_those_of_the_arm() -> None:
    assert DOFBOT_LIMITS.position_min == (*robot.POSITION_MIN_RAD, 0.0)
    assert DOFBOT_LIMITS.position_max == (*robot.POSITION_MAX_RAD, robot.OPENING_MAX_M)
    assert LOW_M[2] >= max(robot.TIP_ADVANCE_M)  # closing at the floor does not push the tips into the table


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e308, -1e308, 6.2832, -6.2832])
@pytest.mark.parametrize("axis", AXES)
def test_an_unknown_pose_is_refused(axis: int, value: float) -> None:
    with pytest.raises(BusError, match="expected six set points within ±2π"):
        resting(JointCommand(*(value if a == axis else x for a, x in enumerate(HOME))))


@pytest.mark.parametrize("side", [1.0, -1.0])
def test_a_pose_far_outside_its_limits_is_known(side: float) -> None:
    far = resting(JointCommand(*(side * 2.0 * math.pi,) * 6))
    for before, passed in itertools.pairwise([Passed(far.position, far, ()), *run(far, [HOME] * 300)]):
        moved = [abs(new - old) for new, old in zip(passed.command, before.command, strict=True)]
        assert all(step <= most * DT_S + 1e-9 for step, most in zip(moved, LIMITS.velocity_max, strict=True))
    assert passed.command[:5] == HOME[:5]


NO_RATE = (0.0, -1.0, math.nan, math.inf, math.nextafter(1e-3, 0.0), math.nextafter(1e4, 1e5))
ROWS = ("position_min", "position_max", "velocity_max", "acceleration_max")


@pytest.mark.parametrize(
    ("field", "value", "refused"),
    [
        ("position_min", math.nan, True),
        ("position_min", -6.2832, True),
        ("position_min", -2.0 * math.pi, False),
        ("position_min", 0.06, True),
        ("position_max", math.inf, True),
        ("position_max", -9.0, True),
        ("position_max", 6.2832, True),
        ("position_max", 2.0 * math.pi, False),
        *(
            (rate, value, True)
            for rate in ROWS[2:]
            for value in (0.0, -1.0, math.nan, math.inf, math.nextafter(1e-3, 0.0), math.nextafter(1e4, 1e5))
        ),
        *((rate, value, False) for rate in ROWS[2:] for value in (1e-3, 1e4)),
    ],
)
@pytest.mark.parametrize("axis", [0, 5])
def test_limits_that_limit_nothing_are_refused(field: str, value: float, refused: bool, axis: int) -> None:
    rows = {name: getattr(LIMITS, name) for name in ROWS} | {"position_min": (0.0,) * 6, "position_max": (0.06,) * 6}
    row = tuple(value if a == axis else x for a, x in enumerate(rows[field]))
    values = {**msgspec.structs.asdict(LIMITS), **rows, field: row}
    if refused:
        with pytest.raises(ConfigError, match=f"limits of {robot.JOINT_NAMES[axis]} are position .*expected min < max within ±2π"):
            msgspec.convert(values, Limits)
    else:
        assert getattr(msgspec.convert(values, Limits), field) == row


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, "other"])
@pytest.mark.parametrize(("field", "other"), [("tool_min_in_table_m", HIGH_M), ("tool_max_in_table_m", LOW_M)])
@pytest.mark.parametrize("coordinate", range(3))
def test_a_box_without_an_inside_is_refused(field: str, other: Point, value: float | str, coordinate: int) -> None:
    corner, name = list(getattr(LIMITS, field)), ("tool x", "tool y", "tool z")[coordinate]
    corner[coordinate] = other[coordinate] if isinstance(value, str) else value
    with pytest.raises(ConfigError, match=f"limits of {name} are .* expected finite numbers, min < max"):
        msgspec.convert({**msgspec.structs.asdict(LIMITS), field: corner}, Limits)


@pytest.mark.parametrize("field", [*ROWS, "tool_min_in_table_m", "tool_max_in_table_m"])
def test_a_row_that_is_too_short_or_too_long_is_refused(field: str) -> None:
    row = getattr(LIMITS, field)
    for other in (row[:-1], (*row, 9.0)):
        with pytest.raises(ValueError, match="zip"):
            msgspec.structs.replace(LIMITS, **{field: other})


def test_limits_have_no_other_fields_and_do_not_change() -> None:
    with pytest.raises(msgspec.ValidationError, match="unknown field"):
        msgspec.convert({**msgspec.structs.asdict(LIMITS), "tool_floor_m": 0.0}, Limits)
    with pytest.raises(AttributeError):
        LIMITS.velocity_max = (9.0,) * 6  # type: ignore[misc]


# --- searches: last, because they take longest


@pytest.mark.parametrize("limits", [DOFBOT_LIMITS, LIMITS])
@pytest.mark.parametrize("seed", range(2))
def test_no_sequence_breaks_a_limit(seed: int, limits: Limits) -> None:
    rng = random.Random(seed)
    state = resting(JointCommand(*(rng.uniform(a, b) for a, b in zip(*CORNERS, strict=True))))
    refused = 0
    for wanted in itertools.islice(adversary(rng, limits), 2_000):
        passed = gate(state, wanted, limits, DT_S, hanging)
        check_promise(state, wanted, passed, limits, DT_S)
        refused += "not finite" in passed.reasons
        state = passed.state
    assert refused > 50  # the adversary really was one


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(
    velocity=st.floats(0.01, 10.0),
    acceleration=st.floats(0.05, 100.0),
    width=st.floats(1e-4, 4.0),
    dt_s=st.sampled_from((0.001, 0.01, 0.02, 0.1)),
    targets=st.lists(st.floats(width=64) | st.floats(-3.0, 3.0) | st.sampled_from((-1.0, 1.0, -2.0, 2.0)), min_size=10, max_size=60),
)
def test_no_limits_are_broken_by_any_floats(velocity: float, acceleration: float, width: float, dt_s: float, targets: list[float]) -> None:
    """Targets are in units of half the range, so that limits of any width are really met; each is held for some ticks."""
    limits = Limits((-width,) * 6, (width,) * 6, (velocity,) * 6, (acceleration,) * 6, LOW_M, HIGH_M)
    state = resting(JointCommand(*(0.0,) * 6))
    for target in (target for target in targets for _ in range(4)):
        wanted = JointCommand(*(target * width * sign for sign in (1.0, -1.0, 0.5, -0.5, 1e-9, 1.0)))
        passed = gate(state, wanted, limits, dt_s, clear)
        check_promise(state, wanted, passed, limits, dt_s)
        state = passed.state


def test_the_arm_can_always_stop_inside_its_limits() -> None:
    rng = random.Random(3)
    nothing = JointCommand(*(math.nan,) * 6)
    ticks = math.ceil(VELOCITY_RAD_S / ACCELERATION_RAD_S2 / DT_S) + 1
    for before in itertools.islice(run(resting(HOME), adversary(rng, LIMITS)), 0, 2_000, 10):
        state = before.state
        for passed in run(state, (nothing,) * ticks):
            check_promise(state, nothing, passed, LIMITS, DT_S)
            assert all(abs(new) <= max(abs(old) - 1e-9, 0.0) for new, old in zip(passed.state.velocity, state.velocity, strict=True))
            state = passed.state
        assert state.velocity == (0.0,) * 6


@pytest.mark.parametrize("seed", range(2))
def test_what_is_feasible_is_passed_bit_for_bit(seed: int) -> None:
    """Each axis accelerates at random, often as hard as it may, and brakes as late as it may before a limit."""
    rng = random.Random(seed)
    position, step, fastest = list(HOME), [0.0] * 6, 0.0
    state = resting(HOME)
    for _ in range(600):
        for axis in AXES:
            ramp, top = (x * DT_S**n for n, x in ((2, LIMITS.acceleration_max[axis]), (1, LIMITS.velocity_max[axis])))
            wish = step[axis] + ramp * rng.choice((-1.0, 1.0, 1.0, 0.0, rng.uniform(-1.0, 1.0)))
            wish = min(max(wish, -top), top)
            end = position[axis] + wish + braking_distance(wish, ramp)
            if not LIMITS.position_min[axis] <= end <= LIMITS.position_max[axis]:
                wish = math.copysign(max(abs(step[axis]) - ramp, 0.0), step[axis])
            step[axis], fastest = wish, max(fastest, abs(wish) / top)
            position[axis] = min(max(position[axis] + wish, LIMITS.position_min[axis]), LIMITS.position_max[axis])
        wanted = JointCommand(*position)
        passed = gate(state, wanted, LIMITS, DT_S, clear)
        assert passed.command == wanted
        assert passed.reasons == ()
        state = passed.state
    assert fastest == 1.0


@pytest.mark.parametrize("blind", [0.0, 0.1])
def test_jumps_on_the_way_are_not_overshot_where_that_can_be_helped(blind: float) -> None:
    """Also when every tenth command is NaN. An axis that follows exactly may be led past a point: there it was told to."""
    rng = random.Random(11)
    state, target, side, fair = resting(HOME), HOME.joint2_rad, 1.0, 0
    for _ in range(2_000):
        if (not state.tracking[1] or state.velocity[1] == 0.0) and rng.random() < 0.1:
            here = state.position.joint2_rad
            target = rng.uniform(-1.5, 1.5) if rng.random() < 0.5 else min(max(here + rng.uniform(-0.3, 0.3), -1.5), 1.5)
            stop = here + braking_distance(state.velocity[1] * DT_S, RAMP_RAD)
            side = math.copysign(1.0, target - here) if (target - here) * (target - stop) > 0.0 else 0.0
        state = gate(state, joint2(math.nan if rng.random() < blind else target), LIMITS, DT_S, clear).state
        assert (target - state.position.joint2_rad) * side >= -1e-12
        fair += side != 0.0
    assert fair > 1_500


@pytest.mark.parametrize(
    "limits", [LIMITS, *(Limits((-0.3,) * 6, (0.1,) * 6, (velocity,) * 6, (1e4,) * 6, LOW_M, HIGH_M) for velocity in (9.0, 90.0))]
)
def test_position_has_the_last_word_in_a_state_the_gate_did_not_make(limits: Limits) -> None:
    rng = random.Random(7)
    for _ in range(300):
        position = JointCommand(*(rng.uniform(*ends) for ends in zip(limits.position_min, limits.position_max, strict=True)))
        fast = GateState(position, tuple(rng.choice((-1e3, 1e3, 9.0)) for _ in AXES))
        for wanted in (HOME, *CORNERS, joint2(math.nan)):
            passed = gate(fast, wanted, limits, DT_S, clear)
            rows = zip(passed.command, passed.state.velocity, limits.position_min, limits.position_max, limits.velocity_max, strict=True)
            assert all(low <= sent <= top and abs(speed) <= most + 1e-9 for sent, speed, low, top, most in rows)


def low_arm(limits: Limits, seed: int) -> float:
    """How far an adversary gets this arm below a floor of 0.1 m."""
    rng = random.Random(seed)
    limits = boxed(limits, (-9.0, -9.0, 0.1), (9.0, 9.0, 9.0))
    state, deepest_m, refused = resting(HOME._replace(joint4_rad=1.8)), 0.0, 0
    assert hanging(state.position)[2] > 0.1
    for wanted in itertools.islice(adversary(rng, limits), 2_000):
        passed = gate(state, wanted, limits, DT_S, hanging)
        check_promise(state, wanted, passed, limits, DT_S)
        state, deepest_m = passed.state, max(deepest_m, 0.1 - hanging(passed.command)[2])
        refused += "tool z" in passed.reasons
    assert refused > 50
    return deepest_m


@pytest.mark.parametrize("seed", range(2))
def test_no_sequence_gets_this_arm_below_the_floor(seed: int) -> None:
    assert low_arm(DOFBOT_LIMITS, seed) <= 1e-9


def test_an_arm_that_brakes_for_several_ticks_dips_no_deeper_than_documented() -> None:
    assert low_arm(LIMITS, 17) <= 0.0052


def test_the_box_holds_every_way_between_park_and_the_places_in_front_of_the_arm_and_little_more() -> None:
    rng, low_m, high_m = random.Random(1), [9.0] * 3, [-9.0] * 3
    for mount in (Mount(0.388, inverted=True), Mount(0.15, inverted=False)):  # the widest and the highest there are
        band = reach(mount, math.pi)
        for _ in range(100):
            height_m, azimuth_rad = rng.uniform(0.010, band.heights_m[-1]), rng.uniform(-math.pi / 2.0, math.pi / 2.0)
            radius_m = rng.choice(band.band_m(height_m))
            place = ToolPose(radius_m * math.sin(azimuth_rad), radius_m * math.cos(azimuth_rad), height_m, 0.0, math.pi)
            for solution in filter(within_limits, branches(place, mount)):
                for part in (0.0, 0.25, 0.5, 0.75, 1.0):
                    way = [(1.0 - part) * a + part * b for a, b in zip(solution, robot.PARK_RAD, strict=True)]
                    tool_m = tool_in_table_m(JointCommand(*way, 0.0), mount)
                    low_m, high_m = list(map(min, low_m, tool_m)), list(map(max, high_m, tool_m))
    assert all(0.019 <= low_m[axis] - LOW_M[axis] <= 0.035 for axis in (0, 1))  # what dips below the floor, the task goes around
    assert all(0.019 <= HIGH_M[axis] - high_m[axis] <= 0.035 for axis in range(3)), high_m
