"""How long transactions keep an I2C bus busy: nine clocks a byte, two for each START, repeated START and STOP (UM10204, 3.1.5 and 3.1.6).

Clock stretching, and what the kernel and the adapter take between two transactions, come on top.
"""

from collections.abc import Sequence
from typing import NamedTuple


class Exchange(NamedTuple):
    """One transaction, START to STOP: bytes written and bytes read behind a repeated START; addresses are not counted."""

    written: int
    read: int = 0


class WireTime(NamedTuple):
    """What some transactions take of the bus; `bytes` has the addresses."""

    transactions: int
    bytes: int
    duration_s: float


def on_the_wire(exchanges: Sequence[Exchange], clock_hz: float) -> WireTime:
    """The sum over all of them."""
    phases = sum((1 if e.written or not e.read else 0) + (1 if e.read else 0) for e in exchanges)  # each has a START and an address
    length = phases + sum(e.written + e.read for e in exchanges)
    return WireTime(len(exchanges), length, (9 * length + 2 * (phases + len(exchanges))) / clock_hz)
