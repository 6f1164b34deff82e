"""Two faults at once, in every phase: the severest reaction wins, nothing unsafe is sent, and it ends as the table says."""

import itertools
import random
import time
from typing import NamedTuple

import pytest

from edge.remote.commands import Mode, Park, Target
from tests.hil import react, trace
from tests.hil.conftest import Start
from tests.hil.matrix import EITHER
from tests.hil.robot import Robot, wait_for

SEED = 4
FOR_S = 0.4
BACK_S = 2.0  # after the end of both
INTO_PHASE_S = 0.1
PHASES = ("HOMING", "APPROACH", "GRASP", "LIFT", "PLACE", "PARK")
APPROACH = ("APPROACH",)
BAD_ACTIONS = 3  # in a row are SAFE


class Fault(NamedTuple):
    """What is injected, and in which phases it keeps the arm from going on."""

    target: Target
    mode: Mode
    holds_in: tuple[str, ...]
    value: float = 0.0

    @property
    def name(self) -> str:
        """As the process counts it."""
        return f"{self.target} {self.mode}"


FAULTS = (
    Fault("camera", "off", APPROACH),
    Fault("camera", "delayed", APPROACH),
    Fault("camera", "garbage", APPROACH, 0.9),
    Fault("bus", "off", PHASES),
    Fault("bus", "stuck", PHASES),
    Fault("bus", "wrong", PHASES),
    Fault("policy", "garbage", APPROACH),
    Fault("policy", "slow", APPROACH),
    Fault("host", "delayed", PHASES[:-1], 0.03),
    Fault("host", "slow", (), 0.012),
)
Pair = tuple[Fault, Fault]


def sample() -> list[tuple[str, Pair, str]]:
    """Two pairs for each phase, one on each board."""
    chance = random.Random(SEED)
    pairs = [pair for pair in itertools.combinations(FAULTS, 2) if pair[0].target != pair[1].target]
    return [(phase, chance.choice(pairs), driver) for phase in PHASES for driver in EITHER]


@pytest.mark.hil
@pytest.mark.parametrize(
    ("phase", "pair", "driver"), [pytest.param(*case, id=f"{case[0]}-{case[1][0].name}-{case[1][1].name}-{case[2]}") for case in sample()]
)
def test_the_severest_of_two_wins(phase: str, pair: Pair, driver: str, start: Start) -> None:
    robot = start(driver).ready()
    begin(robot, phase)
    at_s = min([robot.inject(fault.target, fault.mode, fault.value, FOR_S) for fault in pair])
    time.sleep(FOR_S)
    applied = wait_for(lambda: counts(robot, pair), 1.0, "a fault is applied")
    if applied.get("policy garbage", 0) >= BAD_ACTIONS and phase in APPROACH:
        react.is_parked_and_latched(robot, at_s)
    elif any(phase in fault.holds_in and applied.get(fault.name) for fault in pair):
        held = robot.enters("HOLD", 1.0, at_s)
        robot.said("HOLD → ", BACK_S, held.at_s)
    else:
        assert not robot.has_said("HOLD", at_s), robot.journal
    if phase == "PARK":
        robot.enters("DISARMED", react.PARKED_S, at_s)
    robot.kill()
    found = trace.unsafe(robot.trace(), driver) + trace.unsafe_set_points(robot.ticks())
    assert not found, "\n".join((*found[:10], robot.journal))


def begin(robot: Robot, phase: str) -> None:
    if phase == "PARK":
        robot.begin("HOMING")
        time.sleep(0.5)
        robot.do(Park())
    else:
        robot.begin(phase)
    time.sleep(INTO_PHASE_S)


def counts(robot: Robot, pair: Pair) -> dict[str, int]:
    """How often each was really applied; empty: neither was."""
    found = robot.status().faults
    return {fault.name: found[fault.name] for fault in pair if found.get(fault.name)}
