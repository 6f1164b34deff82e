"""`docs/faults.md`: the fault matrix, with what was measured."""

import re
from collections.abc import Mapping
from pathlib import Path

from tests.hil.matrix import EITHER, ROWS, Row
from tests.hil.robot import ROOT

DOCUMENT = ROOT / "docs" / "faults.md"
Measured = Mapping[tuple[str, str], str]  # by row and driver; a row without drivers has ''

HEAD = """# What may go wrong, and what follows

`make hil` has written this: it starts `dofbot run` with each of the two servo boards emulated, breaks something while the arm moves, and
reads from what arrives at the servos whether the arm did what it must, and nothing that it must not: no command that is not finite,
leaves the joint limits or the box, is too fast or too sudden, or comes within 5 ms of another. `tests/hil/matrix.py` is the table.

*Bound* is the time from the fault to what follows, *measured* how long that took on two x86 cores: to HOLD, to SAFE, to the end of the
process; where the arm goes on, how late a set point came at most; a dash is nothing measured. T is a tick, 20 ms. *First proposal* is
what a survey of PX4, ArduPilot, Klipper, ros2_control, moteus and LinuxCNC suggested.

| # | fault | during | what follows | bound | measured: PCA9685 | DOFBOT board | first proposal | ours differs, because |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
"""
TAIL = """
Pairs of these faults in all phases are in `tests/hil/test_pairs.py`: the severest reaction wins. The wires, the chips and the desk are
simulated; no fault of a real one has been tried.
"""


def document(measured: Measured) -> str:
    """The whole text."""
    return HEAD + "".join(f"| {' | '.join(_cells(row, measured))} |\n" for row in ROWS) + TAIL


def without_measurements(text: str) -> str:
    """What does not change from one run to the next."""
    lines = text.splitlines()
    return "\n".join(re.sub(r"^((?: ?[^|]*\|){6})[^|]*\|[^|]*\|", r"\1 | |", line) for line in lines)


def is_complete(measured: Measured) -> bool:
    """Whether every row was measured on each of its boards."""
    return all((row.id, driver) in measured for row in ROWS for driver in row.drivers or ("",))


def write(measured: Measured, path: Path = DOCUMENT) -> None:
    """Write the file."""
    path.write_text(document(measured), encoding="utf-8")


def _cells(row: Row, measured: Measured) -> tuple[str, ...]:
    took = [measured.get((row.id, driver), "–") for driver in EITHER]
    if not row.drivers:
        took[0] = measured.get((row.id, ""), "–")
    bound = f"{row.bound_s * 1e3:g} ms" if row.bound_s else "–"
    back = f", back {row.back_s:g} s after its end" if row.back_s else ""
    return row.id, row.fault, row.phase or "–", row.follows + back, bound, *took, row.facts, row.why
