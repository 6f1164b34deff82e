"""The verbs around the robot, as `dofbot --help` lists them; `edge/__main__.py` takes the short way to `release`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from firmware_tools import finding, servo_cli
from firmware_tools import release as releasing

if TYPE_CHECKING:
    from edge.config import Config

EXIT_FAILED = 1

ConfigFile = Annotated[Path | None, typer.Option("--config", help="TOML file; every field has a default.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    for verb in (release, scan, doctor, bus_budget):
        app.command()(verb)
    servo_cli.register(app)


def release(
    config: Annotated[
        Path | None, typer.Option(help="TOML file that says which bus; without it, the service's; without that, a PCA9685 at 0x40.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print what was written as JSON.")] = False,
) -> None:
    """Switch all servos off now, whoever powered them; the arm sinks where nothing holds it.

    Stop a running service first: its next tick would power them again. Exit codes: 0 off, or no servos behind an emulated bus;
    1 no chip acknowledged, cut the supply; 2 wrong options.
    """
    raise typer.Exit(releasing.release(str(config) if config else None, json))


def scan(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Say what is plugged in: I2C buses, the servo board, cameras; and what mends what is missing. Nothing moves.

    Addresses are probed as i2cdetect does it. Exit codes: 0 the configured servo board is there; 1 something is wrong; 2 wrong options.
    """
    from firmware_tools.machine import Machine
    from firmware_tools.scan import scan as look

    _finish(look(Machine(), _settings(config)), as_json)


def doctor(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Say what is wrong with this machine, and how to mend it: Python, packages, buses, permissions, real time, policy, calibration.

    Nothing moves and nothing is written. Exit codes: 0 all well, or warnings only; 1 something is wrong; 2 wrong options.
    """
    from firmware_tools.doctor import examine
    from firmware_tools.machine import Machine

    _finish(examine(Machine(), config), as_json)


def bus_budget(
    config: ConfigFile = None,
    rate: Annotated[float, typer.Option(min=1.0, max=1000.0, help="Set points a second; the runtime sends 50.")] = 50.0,
    clock_khz: Annotated[float | None, typer.Option(min=10.0, max=1000.0, help="I2C clock. Without it: 100, and 400 beside it.")] = None,
    as_json: AsJson = False,
) -> None:
    """Does this rate, with this read-back, fit the I2C wire? Computed from the bytes that the drivers send; nothing is opened.

    wire: how long the bus is busy, without clock stretching and the kernel's own time. board: how long the DOFBOT's board answers
    one question and hands the set point out to six servos, one after the other.

    Exit codes: 0 the configured driver fits, or is a simulator; 1 it does not; 2 wrong options.
    """
    from firmware_tools import bus_budget as budgeting

    bus = _settings(config).bus
    clocks_hz = (clock_khz * 1e3,) if clock_khz else budgeting.CLOCKS_HZ
    rows = budgeting.budgets(rate, clocks_hz)
    row = budgeting.chosen(rows, bus, clocks_hz[0])
    budgeting.show(rows, row, bus.driver, rate, as_json)
    raise typer.Exit(1 if row and row.problem else 0)


def _settings(config: Path | None) -> "Config":
    from edge import config as configuration  # numpy, which must not be imported for a list of verbs

    return configuration.load(config) if config else configuration.Config()


def _finish(findings: list[finding.Finding], as_json: bool) -> None:
    if as_json:
        typer.echo(finding.as_json(findings))
    else:
        finding.show(findings)
    if finding.has_failed(findings):
        raise typer.Exit(EXIT_FAILED)
