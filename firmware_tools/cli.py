"""The verbs around the robot, as `dofbot --help` lists them; `edge/__main__.py` takes the short way to `release`."""

from pathlib import Path
from typing import Annotated

import typer

from edge import config as configuration
from firmware_tools import finding, servo, trim
from firmware_tools import release as releasing

EXIT_FAILED = 1

ConfigFile = Annotated[Path | None, typer.Option("--config", help="TOML file; every field has a default.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    for verb in (release, scan, doctor):
        app.command()(verb)
    servo.register(app)
    trim.register(app)


def release(
    config: Annotated[Path | None, typer.Option(help="TOML file that says which bus; without it, a PCA9685 at 0x40.")] = None,
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


def _settings(config: Path | None) -> configuration.Config:
    return configuration.load(config) if config else configuration.Config()


def _finish(findings: list[finding.Finding], as_json: bool) -> None:
    if as_json:
        typer.echo(finding.as_json(findings))
    else:
        finding.show(findings)
    if finding.has_failed(findings):
        raise typer.Exit(EXIT_FAILED)
