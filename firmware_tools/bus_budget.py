"""Does this rate with this read-back fit the wire? Sums of what the drivers send; nothing is opened."""

import json
import sys
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from edge.buses import dofbot_board, pca9685
from edge.buses.bus_writer import WRITE_WITHIN_S
from edge.buses.i2c_time import WireTime
from edge.config import BusConfig

CLOCKS_HZ = (100_000.0, 400_000.0)  # what a Raspberry Pi has, and with dtparam=i2c_arm_baudrate=400000


class Budget(NamedTuple):
    """What one set point takes, and what it may take."""

    driver: str
    read_back: str
    clock_hz: float
    transactions: int
    bytes: int
    wire_s: float  # I2C bus, clock stretching not counted
    board_s: float  # of the DOFBOT board's own processor, meanwhile and after: answering, handing out to six servos
    share: float  # of a tick that the bus is busy
    rate_max_hz: float  # 0: no rate fits
    problem: str  # with its remedy; empty: it fits


def budgets(rate_hz: float, clocks_hz: tuple[float, ...] = CLOCKS_HZ) -> list[Budget]:
    """One for each driver and clock, as the driver is; behind the DOFBOT's board what its read-back costs."""
    answer_s, hand_out_s = dofbot_board.ANSWER_S[0], dofbot_board.HAND_OUT_S
    rows = []
    for clock_hz in clocks_hz:
        with_answer, without = (dofbot_board.tick_on_the_wire(clock_hz, read_back) for read_back in (True, False))
        rows += [
            _budget("pca9685", "none", clock_hz, pca9685.tick_on_the_wire(clock_hz), 0.0, rate_hz),
            _budget("dofbot_board", "one servo a tick", clock_hz, with_answer, answer_s + hand_out_s, rate_hz),
            _budget("dofbot_board", "if it were not read", clock_hz, without, hand_out_s, rate_hz),
        ]
    return rows


def chosen(rows: list[Budget], config: BusConfig, clock_hz: float) -> Budget | None:
    """The row of the configured driver at this clock; None for a simulator, which has no wire."""
    return next((row for row in rows if row.driver == config.driver and row.clock_hz == clock_hz), None)


def show(rows: list[Budget], row: Budget | None, driver: str, rate_hz: float, as_json: bool) -> None:
    """Print all rows, and what they say of the configured driver."""
    if as_json:
        verdict = {"driver": driver, "rate_hz": rate_hz, "fits": row is None or not row.problem}
        print(json.dumps({**verdict, "rows": [one._asdict() for one in rows]}, ensure_ascii=False))
        return
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(_table(rows, rate_hz))
    if row is None:
        console.print(f"bus.driver = '{driver}' has no wire.")
    else:
        found = f"does not fit: {row.problem}" if row.problem else f"fits; {row.rate_max_hz:.0f} Hz would"
        console.print(f"bus.driver = '{driver}' at {row.clock_hz / 1e3:g} kHz {found}.")


def _table(rows: list[Budget], rate_hz: float) -> Table:
    result = Table(title=f"One set point for six servos at {rate_hz:g} Hz: a tick of {1e3 / rate_hz:.4g} ms", title_justify="left")
    for name in ("driver", "read-back", "I²C clock"):
        result.add_column(name)
    for name in ("transactions", "bytes", "wire", "board", "bus busy", "at most"):
        result.add_column(name, justify="right")
    result.add_column("fits")
    for row in rows:
        board = f"{row.board_s * 1e3:.1f} ms" if row.board_s else ""
        result.add_row(
            row.driver,
            row.read_back,
            f"{row.clock_hz / 1e3:g} kHz",
            str(row.transactions),
            str(row.bytes),
            f"{row.wire_s * 1e3:.2f} ms",
            board,
            f"{row.share:.0%}",
            f"{row.rate_max_hz:.0f} Hz" if row.rate_max_hz else "",
            "✘" if row.problem else "✔",
        )
    return result


def _budget(driver: str, read_back: str, clock_hz: float, wire: WireTime, board_s: float, rate_hz: float) -> Budget:
    period_s, longest_s = 1.0 / rate_hz, max(wire.duration_s, board_s)
    is_late, problem = wire.duration_s > WRITE_WITHIN_S, ""
    if is_late:
        problem = f"the wire takes {wire.duration_s * 1e3:.1f} ms, a set point has {WRITE_WITHIN_S * 1e3:g} ms: set a faster I²C clock"
    elif longest_s > period_s:
        problem = f"{'the wire' if wire.duration_s > period_s else 'the board'} is not done before the next one: send fewer"
    rate_max_hz = 0.0 if is_late else 1.0 / longest_s
    share = wire.duration_s / period_s
    return Budget(driver, read_back, clock_hz, wire.transactions, wire.bytes, wire.duration_s, board_s, share, rate_max_hz, problem)
