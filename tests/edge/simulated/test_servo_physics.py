"""One flaw at a time: each does what its name says, and the nominal servo has none."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge import kinematics
from edge.kinematics import Mount
from edge.messages import JointCommand
from edge.simulated.servo_physics import STALL_DEG, ServoTraits, Shaft, leverages


def settled(shaft: Shaft, goal_deg: float, leverage: float = 0.0) -> Shaft:
    for _ in range(1000):
        shaft.step(goal_deg, leverage, 0.005)
    return shaft


def test_a_servo_without_flaws_goes_there_at_its_speed_and_stays() -> None:
    shaft = Shaft(ServoTraits(speed_deg_s=200.0), 0.0)
    seen = []
    for _ in range(60):
        shaft.step(50.0, 0.0, 0.005)
        seen.append(shaft.deg)
    assert seen[:50] == pytest.approx([1.0 * step for step in range(1, 51)])
    assert seen[50:] == [50.0] * 10
    assert shaft.joint_deg == 50.0


@pytest.mark.parametrize("from_deg", [-30.0, 30.0])
def test_it_stops_a_dead_band_short_of_its_goal_and_ignores_steps_within(from_deg: float) -> None:
    shaft = settled(Shaft(ServoTraits(dead_band_deg=0.3), from_deg), 0.0)
    assert shaft.deg == pytest.approx(math.copysign(0.3, from_deg))
    where_deg = shaft.deg
    assert settled(shaft, math.copysign(0.5, from_deg)).deg == pytest.approx(where_deg)  # 0.2 from where it is


def test_the_joint_lags_by_the_play_on_either_way() -> None:
    shaft = settled(Shaft(ServoTraits(play_deg=0.5), 0.0), 10.0)
    assert shaft.joint_deg == pytest.approx(9.5)
    assert settled(shaft, 9.2).joint_deg == pytest.approx(9.5)  # taken up half of it
    assert settled(shaft, 0.0).joint_deg == pytest.approx(0.5)


def test_load_pulls_it_from_its_goal_and_makes_it_slow() -> None:
    traits = ServoTraits(speed_deg_s=200.0, load=0.45, sag_deg=1.2)
    assert settled(Shaft(traits, 0.0), 40.0, 1.0).deg == pytest.approx(41.2)
    assert settled(Shaft(traits, 0.0), 40.0, -0.5).deg == pytest.approx(39.4)
    shaft = Shaft(traits, 0.0)
    shaft.step(90.0, 1.0, 0.1)
    assert shaft.deg == pytest.approx(200.0 * 0.55 * 0.1)


@pytest.mark.parametrize("stall_s", [3.0, 5.0])
def test_what_is_in_its_way_stops_it_and_in_the_end_overloads_it(stall_s: float) -> None:
    shaft = Shaft(ServoTraits(stall_s=stall_s, stops_deg=(-20.0, 20.0)), 0.0)
    pushed_s, steps = [], int(1.2 * stall_s / 0.01)
    for step in range(steps):
        shaft.step(40.0, 0.0, 0.01)
        if shaft.is_overloaded:
            pushed_s.append(step * 0.01)
    assert shaft.deg == 20.0
    assert pushed_s[0] == pytest.approx(stall_s + 0.1, abs=0.02)  # 20° at 200°/s before
    shaft.step(None, 0.0, 0.01)
    assert not shaft.is_overloaded


def test_a_servo_that_is_nearly_there_does_not_stall_and_a_block_can_go() -> None:
    shaft = Shaft(ServoTraits(stall_s=0.5), 0.0)
    shaft.block_deg = (-5.0, 5.0)
    assert not settled(shaft, 5.0 + STALL_DEG).is_overloaded
    assert settled(shaft, 30.0).is_overloaded
    shaft.block_deg = (-180.0, 180.0)
    assert settled(shaft, 30.0).deg == pytest.approx(30.0)
    assert shaft.pushing_s == 0.0


def test_a_limp_shaft_stays_and_a_hand_turns_it_as_far_as_its_stops() -> None:
    shaft = Shaft(ServoTraits(stops_deg=(-90.0, 90.0)), 10.0)
    shaft.step(None, 1.0, 5.0)
    assert shaft.deg == 10.0
    shaft.turn_to(120.0)
    assert shaft.deg == 90.0


@pytest.mark.parametrize("inverted", [False, True])
def test_gravity_pulls_a_joint_the_way_that_lowers_the_tool(inverted: bool) -> None:
    """Against the kinematics: a step of a joint along its leverage lowers the tool, and the leverage is the level way to it."""
    mount, rng = Mount(0.388, inverted), np.random.default_rng(5)
    for degrees in rng.uniform(-80.0, 80.0, (50, 5)).tolist():
        pulls = leverages((*degrees, 0.0), inverted)
        assert pulls[0] == pulls[4] == pulls[5] == 0.0
        command = JointCommand._make((*map(math.radians, degrees), 0.03))
        for joint in (1, 2, 3):
            ahead, behind = (
                JointCommand._make(deg + step * (index == joint) for index, deg in enumerate(command)) for step in (1e-5, -1e-5)
            )
            rise_m = (kinematics.tool_in_table_m(ahead, mount)[2] - kinematics.tool_in_table_m(behind, mount)[2]) / 2e-5  # m per rad
            assert pulls[joint] == pytest.approx(-rise_m / 0.3449, abs=1e-4)  # over the full reach
    assert leverages((0.0, 90.0, 0.0, 0.0, 0.0, 0.0), False)[1] == pytest.approx(1.0)


ANGLES = st.floats(-400.0, 400.0)
STEPS = st.lists(st.tuples(st.one_of(st.none(), ANGLES), st.floats(-1.0, 1.0), st.floats(1e-4, 0.02)), max_size=30)
TRAITS = st.builds(
    ServoTraits,
    speed_deg_s=st.floats(50.0, 300.0),
    dead_band_deg=st.floats(0.0, 1.0),
    play_deg=st.floats(0.0, 1.0),
    load=st.floats(0.0, 0.9),
    sag_deg=st.floats(0.0, 3.0),
    stall_s=st.floats(0.1, 5.0),
    stops_deg=st.tuples(st.floats(-180.0, -1.0), st.floats(1.0, 180.0)),
)


@settings(deadline=None, max_examples=100, derandomize=True)
@given(traits=TRAITS, steps=STEPS)
def test_whatever_it_is_told_it_keeps_its_stops_its_speed_and_its_play(traits: ServoTraits, steps: list) -> None:
    shaft = Shaft(traits, 0.0)
    for goal_deg, leverage, duration_s in steps:
        before_deg = shaft.deg
        shaft.step(goal_deg, leverage, duration_s)
        assert traits.stops_deg[0] <= shaft.deg <= traits.stops_deg[1]
        assert abs(shaft.deg - before_deg) <= traits.speed_deg_s * duration_s + 1e-9
        assert goal_deg is not None or shaft.deg == before_deg
        assert abs(shaft.joint_deg - shaft.deg) <= traits.play_deg + 1e-9
