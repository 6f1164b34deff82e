"""Questions before anything moves: `--yes` answers them, and where nobody can answer nothing moves."""

import math
from contextlib import suppress

import typer

from edge.errors import RefusedError


def confirm(question: str, yes: bool) -> None:
    """Ask; raises `RefusedError` unless the answer is yes."""
    if yes:
        return
    try:
        agreed = typer.confirm(question, err=True)
    except typer.Abort as abort:
        _check_interrupt(abort)
        raise RefusedError(f"nobody answered '{question}', so nothing was done; say --yes where nobody sits at the terminal") from None
    if not agreed:
        raise RefusedError("nothing was done")


def answer(question: str, default: str) -> str:
    """A line that somebody types; raises `RefusedError` when nobody does."""
    try:
        return str(typer.prompt(question, default=default, show_default=False, err=True)).strip()
    except typer.Abort as abort:
        _check_interrupt(abort)
        raise RefusedError(f"nobody answered '{question}'; this tool needs a person at the terminal") from None


def number(question: str) -> float:
    """A number that somebody types; asks again until it is one."""
    while True:
        text = answer(question, "")
        with suppress(ValueError):
            if math.isfinite(found := float(text)):
                return found
        typer.echo(f"'{text}' is no number", err=True)


def _check_interrupt(abort: typer.Abort) -> None:
    """Typer makes one of Ctrl-C and of an input that has ended: tell them apart again."""
    if isinstance(abort.__context__, KeyboardInterrupt):
        raise abort.__context__
