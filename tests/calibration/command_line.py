"""`dofbot calibrate`, called as a person calls it."""

import typer
from typer.testing import CliRunner, Result

from calibration import cli
from edge.errors import DofbotError

app = typer.Typer()
cli.register(app)


@app.callback()
def _root() -> None:
    """What `dofbot` is."""


def run(*arguments: object, typed: str = "") -> Result:
    return CliRunner().invoke(app, ["calibrate", *map(str, arguments)], input=typed)


def refusal(result: Result, error: type[DofbotError]) -> str:
    assert isinstance(result.exception, error), result.output
    message = str(result.exception)
    assert "\n" not in message
    return message
