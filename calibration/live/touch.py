"""The guided touch test: the arm holds a pointer over crossings of the printed grid, one by one, and a person reads where it stands.

A person reads the place on the millimetre paper, and does not jog the pointer onto the crossing: each nudge would bring the servos' noise
anew, 2 mm along the arm, so it is chased and no better known, while one look has it.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from calibration.live import touch_plan, touches_file
from calibration.live.slow_arm import SQUEEZE_M, SlowArm
from calibration.live.touch_plan import Crossing
from edge import robot
from edge.errors import CalibrationError
from edge.messages import Float64
from edge.robot import PARK_RAD

MEASURED_M, MEASURED_MAX = 0.004, 4  # servo noise moves the tip by 1 mm in height
HEIGHT_OFF_M = (
    0.012  # no reading is taken that is further from what was expected: the tip is 25 mm high, so twice this stays over the table
)


class Person(Protocol):
    """Whoever puts the pointer into the gripper and looks at it."""

    def holds_the_pointer(self) -> None:
        """Return when the pointer is between the open fingers, which then close slowly."""

    def steps_back(self) -> None:
        """Return when nobody's hands are near the arm, which then moves."""

    def height_m(self, expected_m: float) -> float:
        """How high the tip is over the paper."""

    def place_mm(self, crossing_mm: tuple[float, float], number: int, count: int) -> tuple[float, float] | None:
        """Where the tip stands on the print; None where that cannot be said."""


class Pointer(NamedTuple):
    """What is put into the gripper."""

    width_m: float
    past_tips_m: float

    @property
    def ahead_m(self) -> float:
        """Of the tool centre; the finger tips advance as they close."""
        return self.past_tips_m + float(np.interp(self.width_m, robot.TIP_ADVANCE_OPENING_M, robot.TIP_ADVANCE_M))


class Touched(NamedTuple):
    """One crossing."""

    crossing_mm: tuple[float, float]
    off_mm: tuple[float, float] | None  # None: passed over


def guided(
    arm: SlowArm,
    pointer: Pointer,
    height_m: float,
    count: int,
    scale: Float64,
    path: Path,
    person: Person,
    show: Callable[[Touched], None],
) -> None:
    """Touch crossings until the file has `count`, each written at once. `scale` (2,) is true over drawn length of the print.

    Raises `CalibrationError` for a pointer that is too long, `BusError` for an arm that does not move.
    """
    arm.scene = arm.scene._replace(pointer_m=pointer.ahead_m)
    arm.grip(robot.OPENING_MAX_M)
    person.holds_the_pointer()
    arm.grip(max(pointer.width_m - SQUEEZE_M, 0.0))
    person.steps_back()
    _measure_pointer(arm, person)
    touches_mm = touches_file.load(path) if path.exists() else np.zeros((0, 4))
    ahead = touch_plan.crossings(arm.scene, height_m, count, scale, touches_mm[:, :2] / 1e3)
    arm.stops_rad = np.vstack((PARK_RAD, *(one.lifted_rad for one in ahead)))
    for number, crossing in enumerate(ahead, len(touches_mm) + 1):
        arm.reach(crossing.joints_rad, crossing.via_rad)
        touched = _touched(crossing, person, number, count, scale)
        if touched.off_mm is not None:
            sent_mm = 1e3 * np.array(crossing.at_in_table_m)
            touches_mm = np.vstack((touches_mm, (*sent_mm, *(np.array(touched.off_mm) * scale))))
            touches_file.save(path, touches_mm)
        show(touched)
        arm.go(crossing.lifted_rad)


def _measure_pointer(arm: SlowArm, person: Person) -> None:
    """Hold it high over the table until what a person reads is what was to be expected; a slip of the pen is then no way into the table."""
    for _ in range(MEASURED_MAX):
        high = touch_plan.first(arm.scene)
        arm.reach(high.joints_rad, high.via_rad)
        longer_m = touch_plan.FIRST_HEIGHT_M - person.height_m(touch_plan.FIRST_HEIGHT_M)
        arm.go(high.lifted_rad)
        arm.scene = arm.scene._replace(pointer_m=arm.scene.pointer_m + longer_m)
        if abs(longer_m) <= MEASURED_M:
            return
    raise CalibrationError(
        f"{MEASURED_MAX} readings of the tip's height differ by more than {1e3 * MEASURED_M:.0f} mm from what the one before led to, "
        "expected it to stand still; fasten the pointer, and measure from the paper to its tip"
    )


def _touched(crossing: Crossing, person: Person, number: int, count: int, scale: Float64) -> Touched:
    x, y = (1e3 * np.array(crossing.at_in_table_m) / scale).round(6).tolist()
    stands = person.place_mm((x, y), number, count)
    return Touched((x, y), None if stands is None else (stands[0] - x, stands[1] - y))
