"""Each threshold is met to the tick: one less is a glitch."""

import math

import numpy as np
import pytest

from edge.messages import JointCommand
from edge.robot import VELOCITY_MAX_RAD_S
from edge.states import Cause
from edge.vigil import CLAMPED_SHARE, OVERRUNS, QUIET_S, STALL_RAD, STALL_S, Vigil

TICK_HZ = 50.0
HOME = JointCommand(0.1, 0.2, 0.3, 0.4, 0.5, 0.03)


def moved(command: JointCommand, joint: int, by_rad: float) -> JointCommand:
    return JointCommand._make(value + by_rad * (index == joint) for index, value in enumerate(command))


def test_a_quiet_robot_has_no_problems() -> None:
    vigil = Vigil(TICK_HZ)
    for _ in range(1000):
        assert vigil.look(0, HOME) == {}
        vigil.sent(HOME, ())


def test_a_person_and_a_lost_link_count_until_they_are_taken_back() -> None:
    vigil = Vigil(TICK_HZ)
    vigil.hold("wait")
    vigil.link = "silent"
    assert vigil.look(0, None) == {Cause.PERSON: "wait", Cause.LINK: "silent"}
    vigil.hold("")
    vigil.link = ""
    assert vigil.look(0, None) == {}


def host(overran: list[bool]) -> list[bool]:
    vigil, count, found = Vigil(TICK_HZ), 0, []
    for new in overran:
        count += new
        found.append(Cause.HOST in vigil.look(count, None))
    return found


def test_three_overruns_in_a_row_hold_until_a_fifth_of_a_second_without() -> None:
    assert not any(host([True, True, False] * 50))
    quiet = round(QUIET_S * TICK_HZ)
    found = host([True] * OVERRUNS + [False] * 50)
    assert found == [False] * (OVERRUNS - 1) + [True] * quiet + [False] * (51 - quiet)


def test_an_overrun_while_it_holds_starts_the_quiet_time_anew() -> None:
    found = host([True] * 3 + [False] * 5 + [True] + [False] * 50)
    assert found == [False] * 2 + [True] * (1 + 5 + 10) + [False] * 41


@pytest.mark.parametrize("joint", range(5))
@pytest.mark.parametrize("side", [-1, 1])
def test_a_joint_that_is_off_for_long_enough_is_named(joint, side) -> None:
    vigil, found = Vigil(TICK_HZ), []
    for _ in range(30):
        found.append(vigil.look(0, moved(HOME, joint, side * (STALL_RAD + 0.02))).get(Cause.SERVO, ""))
        vigil.sent(HOME, ())
    first = next(index for index, text in enumerate(found) if text)
    assert first / TICK_HZ == pytest.approx(STALL_S, abs=0.021)
    assert found[first].startswith(f"joint{joint + 1} is 9° from where it was sent, expected 8° at most")


def test_less_than_that_and_the_gripper_are_no_problem() -> None:
    vigil = Vigil(TICK_HZ)
    for _ in range(100):
        measured = moved(HOME, 2, STALL_RAD - 1e-6)._replace(opening_m=0.06)
        assert vigil.look(0, measured) == {}
        vigil.sent(HOME, ())


def test_where_nothing_is_read_back_nothing_stalls() -> None:
    vigil = Vigil(TICK_HZ)
    for tick in range(100):
        assert vigil.look(0, None) == {}
        vigil.sent(moved(HOME, 1, tick * 0.02), ())


@pytest.mark.parametrize("late_ticks", [0, 3, 7])
def test_a_joint_at_full_speed_that_is_read_back_late_is_not_blocked(late_ticks) -> None:
    vigil, sent = Vigil(TICK_HZ), [HOME] * 10
    for tick in range(60):
        assert vigil.look(0, sent[-1 - late_ticks]) == {}
        sent.append(moved(sent[-1], 1, VELOCITY_MAX_RAD_S / TICK_HZ * (1 if tick < 30 else -1)))
        vigil.sent(sent[-1], ())


@pytest.mark.parametrize("speed_rad_s", [0.3, 1.0, VELOCITY_MAX_RAD_S])
def test_a_blocked_joint_is_found_320_ms_after_it_is_8_degrees_off(speed_rad_s) -> None:
    vigil, command, off_since = Vigil(TICK_HZ), HOME, None
    for _ in range(20):
        vigil.sent(HOME, ())
    for tick in range(200):
        if Cause.SERVO in vigil.look(0, HOME):
            break
        command = moved(command, 3, speed_rad_s / TICK_HZ)
        if off_since is None and command[3] - HOME[3] > STALL_RAD:
            off_since = tick
        vigil.sent(command, ())
    assert (tick - off_since) / TICK_HZ <= 0.32 + 1e-9
    assert math.isclose(STALL_RAD, math.radians(8.0))


def test_set_points_that_were_put_where_the_joints_are_count_from_then_on() -> None:
    vigil, hung = Vigil(TICK_HZ), moved(HOME, 1, 1.0)
    for _ in range(20):
        vigil.sent(HOME, ())
    vigil.taken_up()
    for _ in range(100):  # while nothing is sent: the bus is away again
        assert vigil.look(0, hung) == {}
    for _ in range(100):
        vigil.sent(hung, ())
        assert vigil.look(0, hung) == {}


@pytest.mark.parametrize(("share", "is_found"), [(CLAMPED_SHARE, False), (CLAMPED_SHARE + 0.02, True), (1.0, True)])
def test_a_policy_that_mostly_asks_for_what_it_does_not_get_is_found(share, is_found) -> None:
    vigil, rng = Vigil(TICK_HZ), np.random.default_rng(1)
    clamped = rng.permutation(np.arange(50) < round(share * 50))
    for _ in range(3):
        for is_clamped in clamped:
            vigil.sent(HOME, ("joint1 velocity",) if is_clamped else ())
    assert (Cause.CLAMPED in vigil.look(0, None)) == is_found


def test_a_gripper_that_is_clamped_says_nothing_of_the_policy() -> None:
    vigil = Vigil(TICK_HZ)
    for _ in range(100):
        vigil.sent(HOME, ("gripper velocity",))
    assert vigil.look(0, None) == {}
