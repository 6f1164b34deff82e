"""The fault matrix, row by row: the real process, an emulated servo board, and a desk that notes all that arrives at the servos."""

import time

import pytest

from tests.hil import react, trace
from tests.hil.conftest import Measure, Start
from tests.hil.matrix import ROWS, Row

INTO_PHASE_S = 0.2
CASES = [pytest.param(row, driver, id=f"{row.id}-{driver}", marks=pytest.mark.hil) for row in ROWS for driver in row.drivers]


@pytest.mark.parametrize(("row", "driver"), CASES)
def test_a_fault_is_met(row: Row, driver: str, start: Start, measure: Measure) -> None:
    assert row.deliver
    robot = start(driver, prepare=row.prepare, module=row.module, environment=row.environment, desk=row.desk)
    if row.phase:
        robot.ready()
        robot.begin(row.phase)
        time.sleep(INTO_PHASE_S)
    took_s = react.follows(robot, row, row.deliver(robot))
    robot.kill()
    found = trace.unsafe(robot.trace(), driver) + trace.unsafe_set_points(robot.ticks())
    assert not found, "\n".join((*found[:10], robot.journal))
    measure(row.id, driver, f"{took_s * 1e3:.0f} ms")
