"""`dofbot release`, as `dofbot --help` lists it; `edge/__main__.py` takes the short way."""

from pathlib import Path
from typing import Annotated

import typer

from firmware_tools import release as releasing


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(release)


def release(
    config: Annotated[Path | None, typer.Option(help="TOML file that says which bus; without it, a PCA9685 at 0x40.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print what was written as JSON.")] = False,
) -> None:
    """Switch all servos off now, whoever powered them; the arm sinks where nothing holds it.

    Stop a running service first: its next tick would power them again. Exit codes: 0 off, or no servos behind an emulated bus;
    1 no chip acknowledged, cut the supply; 2 wrong options.
    """
    raise typer.Exit(releasing.release(str(config) if config else None, json))
