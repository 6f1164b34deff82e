"""The checker lets through what the gate makes, and names each limit that a set point breaks: one past it, and not one before."""

import math
import random

import pytest

from edge import kinematics
from edge.buses.lease import lease
from edge.errors import BusError
from edge.messages import JointCommand, ToolPose
from edge.robot import JOINT_NAMES
from edge.safety import DOFBOT_LIMITS, gate, resting
from edge.task import GraspTask
from trainer import spec
from trainer.command_checker import CheckedBus

TASK = GraspTask(spec.contract(), (-0.12, 0.06))
TICK_S = 0.02
RAMPS = tuple(acceleration * TICK_S**2 for acceleration in DOFBOT_LIMITS.acceleration_max)
RANGE = DOFBOT_LIMITS.position_min, DOFBOT_LIMITS.position_max
HOME = TASK.start


class FakeBus:
    def __init__(self) -> None:
        self.is_deaf = False
        self.found: JointCommand | None = None
        self.now_s_ = 0.0

    def now_s(self) -> float:
        return self.now_s_

    def sleep_until(self, deadline_s: float) -> None:
        raise AssertionError

    def open(self) -> None:
        pass

    def write(self, command: JointCommand) -> None:
        if self.is_deaf:
            raise BusError("nobody answers")

    def check(self) -> None:
        pass

    def measured(self) -> JointCommand | None:
        return self.found

    def release(self) -> None:
        pass

    def close(self) -> None:
        pass


class Rig:
    def __init__(self, at: JointCommand = HOME) -> None:
        self.bus = FakeBus()
        self.checked = CheckedBus(self.bus, TASK.mount, at, TICK_S)
        self.checked.clock = self.bus

    def send(self, command: JointCommand, after_ticks: int = 1, acknowledged: bool = True) -> dict[str, int]:
        """What was found to be broken."""
        self.bus.now_s_ += after_ticks * TICK_S
        self.bus.is_deaf = not acknowledged
        before = self.checked.why.copy()
        if acknowledged:
            self.checked.write(command)
        else:
            with pytest.raises(BusError):
                self.checked.write(command)
        return dict(self.checked.why - before)


def moved(command: JointCommand, axis: int, by: float) -> JointCommand:
    return JointCommand(*(x + by if index == axis else x for index, x in enumerate(command)))


def test_nothing_that_the_gate_makes_is_unsafe() -> None:
    rng, rig = random.Random(0), Rig(TASK.park)
    state = resting(TASK.park)
    for _ in range(3000):
        wanted = JointCommand(*(rng.uniform(low - 0.2, high + 0.2) for low, high in zip(*RANGE, strict=True)))
        passed = gate(state, wanted, DOFBOT_LIMITS, TICK_S, lambda command: kinematics.tool_in_table_m(command, TASK.mount))
        acknowledged = rng.random() > 0.1
        rig.send(passed.command, acknowledged=acknowledged)
        state = passed.state if acknowledged else resting(state.position)
    assert (rig.checked.sent, rig.checked.unsafe, dict(rig.checked.why)) == (3000, 0, {})
    assert 200 < rig.checked.unacknowledged < 400


@pytest.mark.parametrize("axis", range(6))
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_acceleration_from_rest(axis: int, sign: float) -> None:
    at = HOME._replace(opening_m=0.03)
    assert Rig(at).send(moved(at, axis, sign * RAMPS[axis])) == {}
    assert Rig(at).send(moved(at, axis, sign * 1.001 * RAMPS[axis])) == {f"{JOINT_NAMES[axis]} acceleration": 1}


@pytest.mark.parametrize("axis", [0, 4, 5])
def test_velocity(axis: int) -> None:
    top = DOFBOT_LIMITS.velocity_max[axis] * TICK_S
    rig, at, step = Rig(HOME._replace(opening_m=0.01)), HOME._replace(opening_m=0.01), 0.0
    while step < top:
        step = min(step + 0.9 * RAMPS[axis], top)
        at = moved(at, axis, step)
        assert rig.send(at) == {}
    assert rig.send(moved(at, axis, step + 0.001 * RAMPS[axis])) == {f"{JOINT_NAMES[axis]} velocity": 1}


@pytest.mark.parametrize("axis", range(6))
@pytest.mark.parametrize("end", [0, 1])
def test_position(axis: int, end: int) -> None:
    limit, outwards = RANGE[end][axis], (-1.0, 1.0)[end]
    at = moved(HOME, axis, limit - HOME[axis])
    found = Rig(at).send(moved(at, axis, outwards * 1e-6))
    assert found.pop(f"{JOINT_NAMES[axis]} position") == 1
    assert all(name.startswith("tool") for name in found)


def test_who_was_found_outside_may_come_back() -> None:
    outside = moved(HOME, 4, DOFBOT_LIMITS.position_max[4] - HOME[4] + 0.3)
    assert Rig(outside).send(moved(outside, 4, -RAMPS[4])) == {}
    assert Rig(outside).send(moved(outside, 4, RAMPS[4])) == {"joint5 position": 1}


def test_the_box_of_the_tool() -> None:
    edge_m = DOFBOT_LIMITS.tool_min_in_table_m[2]
    over = kinematics.solve(ToolPose(0.0, 0.1, edge_m + 1e-4, 0.0, math.pi), TASK.mount)
    under = kinematics.solve(ToolPose(0.0, 0.1, edge_m - 1e-4, 0.0, math.pi), TASK.mount, over)
    rig = Rig(JointCommand(*over, 0.06))
    assert rig.send(JointCommand(*under, 0.06)) == {"tool z": 1}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("axis", range(6))
def test_not_finite(axis: int, value: float) -> None:
    assert Rig().send(moved(HOME, axis, value)) == {"not finite": 1}


@pytest.mark.parametrize(("after_ticks", "found"), [(1, {}), (2, {"joint1 acceleration": 1})])
def test_after_a_pause_the_arm_rests(after_ticks: int, found: dict[str, int]) -> None:
    rig = Rig()
    for step in (1, 3):
        rig.send(moved(HOME, 0, step * RAMPS[0]))
    assert rig.send(moved(HOME, 0, 5 * RAMPS[0]), after_ticks) == found


def test_after_a_refusal_the_arm_rests_but_the_same_may_be_tried_again() -> None:
    rig = Rig()
    for step in (1, 3):
        rig.send(moved(HOME, 0, step * RAMPS[0]))
    wanted = moved(HOME, 0, 5 * RAMPS[0])
    assert rig.send(wanted, acknowledged=False) == {}
    assert rig.send(wanted, after_ticks=0, acknowledged=False) == {}
    assert rig.send(moved(HOME, 0, 4.9 * RAMPS[0])) == {"joint1 acceleration": 1}
    assert rig.checked.unacknowledged == 2


def test_servos_that_are_read_back_may_be_taken_up_where_they_are() -> None:
    rig = Rig()
    rig.bus.found = moved(HOME, 1, 0.3)
    assert rig.send(rig.bus.found) == {}
    assert rig.send(HOME)["joint2 velocity"] == 1


def test_open_and_release_bring_the_arm_to_rest() -> None:
    for stop in (CheckedBus.open, CheckedBus.release):
        rig = Rig()
        for step in (1, 3):
            rig.send(moved(HOME, 0, step * RAMPS[0]))
        stop(rig.checked)
        assert rig.send(moved(HOME, 0, 5 * RAMPS[0])) == {"joint1 acceleration": 1}


def test_examples_are_few_and_say_when() -> None:
    rig = Rig()
    for _ in range(50):
        rig.send(moved(HOME, 0, math.nan))
    assert rig.checked.unsafe == 50
    assert len(rig.checked.examples) == 20
    assert rig.checked.examples[0].startswith("at 0.02 s: not finite: ")


def test_what_comes_after_its_time_is_not_sent_and_not_counted() -> None:
    checked = CheckedBus(FakeBus(), TASK.mount, HOME, TICK_S)
    leap = HOME._replace(joint1_rad=HOME.joint1_rad + 1.0)
    with lease(lambda: True), pytest.raises(BusError, match="given up"):
        checked.write(leap)
    assert (checked.sent, checked.unsafe) == (0, 0)
    with lease(lambda: False):
        checked.write(leap)
    assert (checked.sent, checked.unsafe) == (1, 1)
