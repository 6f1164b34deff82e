"""The verbs around the robot, as `dofbot --help` lists them; `edge/__main__.py` takes the short way to `release`."""

from pathlib import Path
from typing import Annotated

import typer

from firmware_tools import release as releasing


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    for verb in (release, bus_budget):
        app.command()(verb)


def release(
    config: Annotated[Path | None, typer.Option(help="TOML file that says which bus; without it, a PCA9685 at 0x40.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print what was written as JSON.")] = False,
) -> None:
    """Switch all servos off now, whoever powered them; the arm sinks where nothing holds it.

    Stop a running service first: its next tick would power them again. Exit codes: 0 off, or no servos behind an emulated bus;
    1 no chip acknowledged, cut the supply; 2 wrong options.
    """
    raise typer.Exit(releasing.release(str(config) if config else None, json))


def bus_budget(
    config: Annotated[Path | None, typer.Option(help="TOML file that says which driver; without it, a PCA9685.")] = None,
    rate: Annotated[float, typer.Option(min=1.0, max=1000.0, help="Set points a second; the runtime sends 50.")] = 50.0,
    clock_khz: Annotated[float | None, typer.Option(min=10.0, max=1000.0, help="I2C clock. Without it: 100, and 400 beside it.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Does this rate, with this read-back, fit the I2C wire? Computed from the bytes that the drivers send; nothing is opened.

    wire: how long the bus is busy, without clock stretching and the kernel's own time. board: how long the DOFBOT's board answers
    one question and hands the set point out to six servos, one after the other.

    Exit codes: 0 the configured driver fits, or is a simulator; 1 it does not; 2 wrong options.
    """
    from edge import config as configuration
    from firmware_tools import bus_budget as budgeting

    bus = configuration.load(config).bus if config else configuration.BusConfig()
    clocks_hz = (clock_khz * 1e3,) if clock_khz else budgeting.CLOCKS_HZ
    rows = budgeting.budgets(rate, clocks_hz)
    row = budgeting.chosen(rows, bus, clocks_hz[0])
    budgeting.show(rows, row, bus.driver, rate, as_json)
    raise typer.Exit(1 if row and row.problem else 0)
