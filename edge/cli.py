"""The command line: `dofbot run` here; training, simulation and tools add their own verbs through entry points."""

import logging
import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from importlib.metadata import entry_points
from logging.handlers import QueueHandler, QueueListener
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer
from typer.core import TyperGroup

from edge import __version__
from edge import config as configuration
from edge.cameras import record_depth
from edge.errors import ConfigError, DofbotError, MissingExtraError
from edge.remote import control_cli

if TYPE_CHECKING:
    from edge.records.record import Summary

VERBS = "dofbot.verbs"  # entry-point group: each entry is a function that takes the app and adds commands
EXIT_SAFE = 3  # the run ended in SAFE
NOT_A_NUMBER = re.compile(r"(--[\w-]+=)?[+-]?nan", re.IGNORECASE)
EXIT_INTERRUPTED = 130  # as a shell reports a process that SIGINT ended
# What brings a package that the base install does not; pyproject.toml says the same.
EXTRAS = {
    **dict.fromkeys(("adafruit_servokit", "smbus2"), "servo"),
    "pyrealsense2": "pi",
    "nacl": "deploy",
    **dict.fromkeys(("cv2", "fpdf"), "calibration"),
    "scipy": "dev",
    "zstandard": "deploy",
    **dict.fromkeys(("PIL", "gymnasium", "matplotlib", "numba", "pybullet"), "sim"),
    **dict.fromkeys(("onnx", "stable_baselines3", "tensorboard", "torch"), "trainer"),
}


class Verbs(TyperGroup):
    """Refuses, for all verbs, what passes every range: a value that is not a number is neither below the least nor above the most."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Take the words behind `dofbot`; raises `BadParameter`."""
        for word in args:
            if NOT_A_NUMBER.fullmatch(word):
                raise typer.BadParameter(f"'{word}' is not a number; give one", ctx)
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=Verbs,
    help="Pick blocks up with a DOFBOT: train, calibrate, run. Everything also works without hardware: dofbot demo.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"dofbot {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")] = False,
) -> None:
    """What goes before the verb."""


@app.command()
def run(
    config: Annotated[Path | None, typer.Option(help="TOML file; every field has a default.")] = None,
    arm: Annotated[bool, typer.Option("--arm", help="Grasp at once, then end. Without it: disarmed, until dofbot arm.")] = False,
    grasps: Annotated[int | None, typer.Option(min=0, help="With --arm: stop after so many grasps; 0: run until stopped.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Open and check everything, and end.")] = False,
    summary: Annotated[Path | None, typer.Option(help="Write the run's figures to this JSON file.")] = None,
    camera_within: Annotated[
        float,
        typer.Option(min=0.0, max=600.0, metavar="SECONDS", help="Wait so long for a camera that is away: it may come late after a boot."),
    ] = 0.0,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log every change of state.")] = False,
) -> None:
    """Run a policy on the arm: the process that systemd starts on the Pi.

    It starts DISARMED and listens: dofbot arm, grasp, hold, park, status. Ctrl-C parks the arm and ends it; a second Ctrl-C
    switches the servos off where they are.
    """
    from edge.notify import Notifier
    from edge.service import opened, run_once, serve

    settings = configuration.load(config) if config else configuration.Config()
    with _logging(verbose), closing(Notifier()) as systemd, opened(settings, not check, camera_within, systemd.status) as parts:
        if check:
            typer.echo("DISARMED: policy, bus and camera answer")
            return
        with _signals() as stop:
            if arm:
                result = run_once(parts, settings, settings.run.grasps if grasps is None else grasps, stop, systemd)
            else:
                result = serve(parts, settings, stop, systemd)
    _report(result, summary)


@app.command()
def timing(
    file: Annotated[Path, typer.Argument(help="What `dofbot run --summary` wrote, or the demo's demo.json.")],
    json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
    png: Annotated[Path | None, typer.Option(help="Draw the histograms into this file, too.")] = None,
) -> None:
    """Show how late a run's ticks were, how old its frames, and how long each stage took."""
    from edge.records import timing as figures

    found = figures.load(file)
    if json:
        typer.echo(msgspec.json.format(msgspec.json.encode(found)))
    else:
        figures.show(found)
    if png:
        figures.draw(found, png)


control_cli.register(app)
record_depth.register(app)


@contextmanager
def _logging(verbose: bool) -> Iterator[None]:
    """Log lines are written in a thread of their own: a terminal that is paused (Ctrl-S) must not hold up the control loop."""
    lines: SimpleQueue[logging.LogRecord] = SimpleQueue()
    level = logging.INFO if verbose else logging.WARNING
    logging.basicConfig(level=level, format="%(levelname)s %(message)s", handlers=[QueueHandler(lines)])
    writer = QueueListener(lines, logging.StreamHandler())
    writer.start()
    try:
        yield
    finally:
        writer.stop()


@contextmanager
def _signals() -> Iterator[Callable[[], bool]]:
    """Turn Ctrl-C, SIGTERM and the end of an ssh session into a question that the loop asks; a second Ctrl-C interrupts it."""
    received: list[int] = []

    def receive(number: int, _: object) -> None:
        if number == signal.SIGINT and number in received:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # a third must not interrupt the release
            raise KeyboardInterrupt
        received.append(number)

    before = {number: signal.signal(number, receive) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _report(result: "Summary", path: Path | None) -> None:
    """One line, the figures as JSON, and exit code 3 after SAFE."""
    late_ms = result.timing.lateness_s.p99 * 1e3
    typer.echo(f"{result.picked} of {result.attempts} picked; tick lateness p99 {late_ms:.2f} ms; stopped: {result.stopped_by}")
    if path:
        try:
            path.write_bytes(msgspec.json.format(msgspec.json.encode(result)))
        except OSError as error:
            raise ConfigError(f"--summary {path} cannot be written ({error.strerror}); give another path") from None
    if result.safe_reason:
        raise typer.Exit(EXIT_SAFE)


def _add_verbs() -> None:
    """Add what other parts register; one that cannot be imported says so when it is asked for, and only then."""
    for entry in entry_points(group=VERBS):
        try:
            register = entry.load()
        except ImportError as error:
            app.command(entry.name, help=f"Not available: {error}.")(_refuse(error))
        else:
            register(app)


def _refuse(error: ImportError) -> Callable[[], None]:
    def verb() -> None:
        raise error

    return verb


def main() -> None:
    """Entry point of `dofbot`: every error a user can meet is one sentence on stderr and an exit code."""
    try:
        _add_verbs()
        app()
    except DofbotError as error:
        _fail(error)
    except ImportError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRAS:
            raise
        _fail(MissingExtraError(package, EXTRAS[package]))
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)


def _fail(error: DofbotError) -> None:
    typer.echo(f"dofbot: {error}", err=True)
    sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
