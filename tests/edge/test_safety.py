"""The gate keeps its promise for any input, and stays out of the way of commands that need no keeping."""

import itertools
import math
import random
from collections.abc import Iterable, Iterator

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge import robot
from edge.errors import BusError, ConfigError
from edge.messages import JointCommand
from edge.safety import DOFBOT_LIMITS, GateState, Limits, Passed, gate, resting

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


def high(_: JointCommand) -> float:
    """A tool that is never near the table."""
    return 1.0


def arm_height_m(command: JointCommand) -> float:
    """Tool height of this arm hanging 0.388 m over the table, from the link lengths alone."""
    angles = itertools.accumulate(command[1:4])
    lengths = (robot.UPPER_ARM_M, robot.FOREARM_M, robot.WRIST_TO_TOOL_M)
    return 0.388 - robot.BASE_TO_SHOULDER_M - sum(length * math.cos(angle) for length, angle in zip(lengths, angles, strict=True))


def joint2(value: float) -> JointCommand:
    """Home with another joint 2: what one axis does, the others do."""
    return HOME._replace(joint2_rad=value)


def run(state: GateState, targets: Iterable[JointCommand], limits: Limits = LIMITS, height=high) -> Iterator[Passed]:
    """Pass every target through the gate, one tick each."""
    for target in targets:
        passed = gate(state, target, limits, DT_S, height)
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


@pytest.mark.parametrize("limits", [DOFBOT_LIMITS, LIMITS])
@pytest.mark.parametrize("seed", range(5))
def test_no_sequence_breaks_a_limit(seed: int, limits: Limits) -> None:
    rng = random.Random(seed)
    state = resting(JointCommand(*(rng.uniform(a, b) for a, b in zip(*CORNERS, strict=True))))
    refused = 0
    for wanted in itertools.islice(adversary(rng, limits), 2_000):
        passed = gate(state, wanted, limits, DT_S, arm_height_m)
        check_promise(state, wanted, passed, limits, DT_S)
        refused += "not finite" in passed.reasons
        state = passed.state
    assert refused > 50  # the adversary really was one


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(
    velocity=st.floats(0.01, 10.0),
    acceleration=st.floats(0.05, 100.0),
    width=st.floats(1e-4, 4.0),
    dt_s=st.sampled_from((0.001, 0.01, 0.02, 0.1)),
    targets=st.lists(st.floats(width=64) | st.floats(-3.0, 3.0) | st.sampled_from((-1.0, 1.0, -2.0, 2.0)), min_size=10, max_size=60),
)
def test_no_limits_are_broken_by_any_floats(velocity: float, acceleration: float, width: float, dt_s: float, targets: list[float]) -> None:
    """Targets are in units of half the range, so that limits of any width are really met; each is held for some ticks."""
    limits = Limits((-width,) * 6, (width,) * 6, (velocity,) * 6, (acceleration,) * 6, 0.0)
    state = resting(JointCommand(*(0.0,) * 6))
    for target in (target for target in targets for _ in range(4)):
        wanted = JointCommand(*(target * width * sign for sign in (1.0, -1.0, 0.5, -0.5, 1e-9, 1.0)))
        passed = gate(state, wanted, limits, dt_s, high)
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


@pytest.mark.parametrize("seed", range(5))
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
        passed = gate(state, wanted, LIMITS, DT_S, high)
        assert passed.command == wanted
        assert passed.reasons == ()
        state = passed.state
    assert fastest == 1.0


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


@pytest.mark.parametrize("blind", [0.0, 0.1])
def test_jumps_on_the_way_are_not_overshot_where_that_can_be_helped(blind: float) -> None:
    """Also when every tenth command is NaN. An axis that follows exactly may be led past a point: there it was told to."""
    rng = random.Random(11)
    state, target, side, fair = resting(HOME), HOME.joint2_rad, 1.0, 0
    for _ in range(8_000):
        if (not state.tracking[1] or state.velocity[1] == 0.0) and rng.random() < 0.1:
            here = state.position.joint2_rad
            target = rng.uniform(-1.5, 1.5) if rng.random() < 0.5 else min(max(here + rng.uniform(-0.3, 0.3), -1.5), 1.5)
            stop = here + braking_distance(state.velocity[1] * DT_S, RAMP_RAD)
            side = math.copysign(1.0, target - here) if (target - here) * (target - stop) > 0.0 else 0.0
        state = gate(state, joint2(math.nan if rng.random() < blind else target), LIMITS, DT_S, high).state
        assert (target - state.position.joint2_rad) * side >= -1e-12
        fair += side != 0.0
    assert fair > 6_000


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
    passed = gate(moving.state, wanted, LIMITS, DT_S, high)
    assert passed.reasons == ("not finite",)
    for a in AXES:
        slower = moving.state.velocity[a] - LIMITS.acceleration_max[a] * DT_S
        assert passed.state.velocity[a] == pytest.approx(slower, abs=1e-9)
    assert gate(resting(HOME), wanted, LIMITS, DT_S, high).command == HOME


def test_the_first_tick_starts_from_rest() -> None:
    passed = gate(resting(HOME), CORNERS[1], LIMITS, DT_S, high)
    for sent, start, acceleration in zip(passed.command, HOME, LIMITS.acceleration_max, strict=True):
        assert sent - start == pytest.approx(acceleration * DT_S**2)


def test_reasons_name_axis_and_limit() -> None:
    assert gate(resting(HOME), joint2(1.0), LIMITS, DT_S, high).reasons == ("joint2 velocity",)
    assert gate(resting(HOME), joint2(0.32), LIMITS, DT_S, high).reasons == ("joint2 acceleration",)
    at_limit = resting(joint2(math.radians(90.0)))
    assert gate(at_limit, joint2(2.0)._replace(opening_m=0.05), LIMITS, DT_S, high).reasons == (
        "joint2 position",
        "gripper velocity",
    )


@pytest.mark.parametrize("side", [1.0, -1.0])
def test_an_axis_outside_its_limits_may_stay_or_come_back_but_not_go_further(side: float) -> None:
    limit = math.radians(90.0)
    outside = side * (limit + 0.2)
    state = resting(joint2(outside))
    assert gate(state, joint2(outside), LIMITS, DT_S, high).reasons == ()
    assert gate(state, joint2(side * 9.0), LIMITS, DT_S, high).command == joint2(outside)
    targets = [joint2(side * x) for x in (0.0, 0.0, 0.0, 9.0, 9.0, 9.0, 9.0, 9.0, 0.0, 9.0) * 6] + [joint2(0.0)] * 60
    way = [abs(passed.command.joint2_rad) for passed in run(state, targets)]
    assert all(new <= max(old, limit) for old, new in itertools.pairwise([abs(outside), *way]))
    assert way[-1] == 0.0


@pytest.mark.parametrize(
    "limits", [LIMITS, *(Limits((-0.3,) * 6, (0.1,) * 6, (velocity,) * 6, (1e4,) * 6, 0.0) for velocity in (9.0, 90.0))]
)
def test_position_has_the_last_word_in_a_state_the_gate_did_not_make(limits: Limits) -> None:
    rng = random.Random(7)
    for _ in range(300):
        position = JointCommand(*(rng.uniform(*ends) for ends in zip(limits.position_min, limits.position_max, strict=True)))
        fast = GateState(position, tuple(rng.choice((-1e3, 1e3, 9.0)) for _ in AXES))
        for wanted in (HOME, *CORNERS, joint2(math.nan)):
            passed = gate(fast, wanted, limits, DT_S, high)
            rows = zip(passed.command, passed.state.velocity, limits.position_min, limits.position_max, limits.velocity_max, strict=True)
            assert all(low <= sent <= top and abs(speed) <= most + 1e-9 for sent, speed, low, top, most in rows)


@pytest.mark.parametrize("side", [1.0, -1.0])
def test_a_path_that_runs_through_a_limit_is_left_in_time(side: float) -> None:
    state = resting(joint2(0.0))
    steps = itertools.accumulate((min(n, 4.9) * RAMP_RAD * side for n in range(1, 60)), initial=0.0)
    for wanted in map(joint2, steps):
        passed = gate(state, wanted, LIMITS, DT_S, high)
        check_promise(state, wanted, passed, LIMITS, DT_S)
        state = passed.state
    assert state.position.joint2_rad == side * math.radians(90.0)


def test_the_same_input_gives_the_same_output() -> None:
    first, second = (list(itertools.islice(run(resting(HOME), adversary(random.Random(5), LIMITS)), 300)) for _ in range(2))
    assert first == second


def lift(command: JointCommand) -> float:
    """A tool that joint 2 alone moves: 0.2 m up for every radian."""
    return 0.2 * command.joint2_rad


FLOOR_RAD = LIMITS.tool_floor_m / 0.2  # where that tool is at the floor


def test_the_tool_stops_above_the_floor_on_every_axis() -> None:
    *_, before, last = run(resting(joint2(1.0)), [joint2(-1.5)._replace(joint1_rad=1.5)] * 60, height=lift)
    assert last.reasons == ("tool_floor",)
    assert last.state.velocity == (0.0,) * 6
    assert before.command == last.command
    assert 0.0 <= lift(last.command) - LIMITS.tool_floor_m < 0.2 * TOP_RAD


def test_a_slow_descent_is_exact_down_to_the_floor() -> None:
    descent = [joint2(0.3 - 0.004 * n) for n in range(1, 80)]
    for wanted, passed in zip(descent, run(resting(joint2(0.3)), descent, height=lift), strict=True):
        assert (passed.reasons == ()) == (lift(wanted) >= LIMITS.tool_floor_m)
        assert lift(passed.command) >= LIMITS.tool_floor_m


def test_from_below_the_floor_the_only_way_is_up() -> None:
    below = resting(joint2(FLOOR_RAD - 0.5))
    aside = below.position._replace(joint1_rad=0.005)
    assert gate(below, below.position, LIMITS, DT_S, lift).reasons == ()
    for wanted in (joint2(FLOOR_RAD - 0.505), aside):
        assert gate(below, wanted, LIMITS, DT_S, lift)[::2] == (below.position, ("tool_floor",))
    *_, up = run(below, [joint2(1.0)] * 60, height=lift)
    assert up.command == joint2(1.0)


def test_at_the_floor_is_not_below_it() -> None:
    assert gate(resting(HOME), joint2(0.301), LIMITS, DT_S, lambda _: LIMITS.tool_floor_m).reasons == ()


def test_an_arm_below_the_floor_that_would_stop_above_it_may_not_choose_to_stop_below() -> None:
    """Braking ends 3 ramps ahead, on a bank 10 mm over the floor; faster would end behind it, higher than now but too low."""

    def banked(command: JointCommand) -> float:
        ramps = command.joint2_rad / RAMP_RAD
        return LIMITS.tool_floor_m + (-0.010 if ramps < 1.0 else 0.010 if ramps < 6.0 else -0.005)

    below = GateState(joint2(0.0), (0.0, 3.0 * RAMP_RAD / DT_S, 0.0, 0.0, 0.0, 0.0))
    passed = gate(below, joint2(4.0 * RAMP_RAD), LIMITS, DT_S, banked)
    assert passed.reasons == ("tool_floor",)
    assert passed.command.joint2_rad == pytest.approx(2.0 * RAMP_RAD)


def test_a_height_that_is_not_a_number_is_below_the_floor() -> None:
    passed = gate(resting(HOME), joint2(0.301), LIMITS, DT_S, lambda _: math.nan)
    assert passed[::2] == (HOME, ("tool_floor",))


def low_arm(limits: Limits, seed: int) -> float:
    """How far an adversary gets this arm below a floor of 0.1 m."""
    rng = random.Random(seed)
    limits = msgspec.structs.replace(limits, tool_floor_m=0.1)
    state, deepest_m, refused = resting(HOME._replace(joint4_rad=1.8)), 0.0, 0
    assert arm_height_m(state.position) > 0.1
    for wanted in itertools.islice(adversary(rng, limits), 4_000):
        passed = gate(state, wanted, limits, DT_S, arm_height_m)
        check_promise(state, wanted, passed, limits, DT_S)
        state, deepest_m = passed.state, max(deepest_m, 0.1 - arm_height_m(passed.command))
        refused += "tool_floor" in passed.reasons
    assert refused > 100
    return deepest_m


@pytest.mark.parametrize("seed", range(2))
def test_no_sequence_gets_this_arm_below_the_floor(seed: int) -> None:
    assert low_arm(DOFBOT_LIMITS, seed) <= 1e-9


def test_an_arm_that_brakes_for_several_ticks_dips_no_deeper_than_documented() -> None:
    assert low_arm(LIMITS, 17) <= 0.0052


def test_the_limits_are_those_of_the_arm() -> None:
    assert DOFBOT_LIMITS.position_min == (*robot.POSITION_MIN_RAD, 0.0)
    assert DOFBOT_LIMITS.position_max == (*robot.POSITION_MAX_RAD, robot.OPENING_MAX_M)
    assert DOFBOT_LIMITS.tool_floor_m >= max(robot.TIP_ADVANCE_M)  # closing at the floor does not push the tips into the table


def test_an_unknown_pose_is_refused() -> None:
    with pytest.raises(BusError, match="expected six finite"):
        resting(joint2(math.nan))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("position_min", math.nan),
        ("position_max", math.inf),
        ("position_max", -9.0),
        ("velocity_max", 0.0),
        ("velocity_max", math.inf),
        ("acceleration_max", -1.0),
        ("acceleration_max", math.nan),
    ],
)
def test_limits_that_limit_nothing_are_refused(field: str, value: float) -> None:
    row = (*getattr(LIMITS, field)[:5], value)
    with pytest.raises(ConfigError, match="limits of gripper"):
        msgspec.convert({**msgspec.structs.asdict(LIMITS), field: row}, Limits)


def test_a_floor_that_is_not_a_number_is_refused() -> None:
    with pytest.raises(ConfigError, match="tool_floor_m = nan"):
        msgspec.convert({**msgspec.structs.asdict(LIMITS), "tool_floor_m": math.nan}, Limits)
