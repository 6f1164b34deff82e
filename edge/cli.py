"""The command line: `dofbot run` here; training, simulation and tools add their own verbs through entry points."""

import logging
import signal
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from edge import config as configuration
from edge.errors import DofbotError

VERBS = "dofbot.verbs"  # entry-point group: each entry is a function that takes the app and adds commands
EXIT_SAFE = 3  # the run ended in SAFE

app = typer.Typer(
    help="Pick blocks up with a DOFBOT: train, calibrate, run. Everything also works without hardware: dofbot demo.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def _verbs() -> None:
    """Keeps `run` a verb of its own when no other is installed."""


@app.command()
def run(
    config: Annotated[Path | None, typer.Option(help="TOML file; every field has a default.")] = None,
    arm: Annotated[bool, typer.Option("--arm", help="Let the arm move. Without it everything is opened and checked, and nothing moves.")] = False,
    grasps: Annotated[int | None, typer.Option(min=0, help="Stop after so many grasps; 0: run until stopped.")] = None,
    summary: Annotated[Path | None, typer.Option(help="Write the run's figures to this JSON file.")] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log every change of state.")] = False,
) -> None:
    """Run a policy on the arm: the process that systemd starts on the Pi. Ctrl-C parks the arm and ends it."""
    from edge.contract_check import Expectation, check_camera
    from edge.devices import open_devices
    from edge.kinematics import Mount
    from edge.policy import load
    from edge.record import Recorder
    from edge.runtime import Runtime
    from edge.task import GraspTask

    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, format="%(levelname)s %(message)s")
    settings = configuration.load(config) if config else configuration.Config()
    mount = Mount(settings.mount.base_height_m, settings.mount.inverted)
    policy = load(Path(settings.run.policy), Expectation(mount))
    task = GraspTask(policy.contract, settings.run.place_in_table_m)
    recorder = Recorder(settings.run.record)
    stop_asked: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, _: stop_asked.append(received))
    devices = open_devices(settings)
    try:
        check_camera(policy.contract, devices.camera.start())
        if not arm:
            typer.echo("DISARMED: policy, bus and camera answer; nothing moves without --arm")
            return
        result = Runtime(policy, task, devices, recorder, settings.camera.max_age_s).run(
            settings.run.grasps if grasps is None else grasps, lambda: bool(stop_asked)
        )
    finally:
        devices.close()
        recorder.close()
    if summary:
        summary.write_bytes(msgspec.json.format(msgspec.json.encode(result)))
    picked = sum(grasp.result == "picked" for grasp in result.grasps)
    typer.echo(f"{picked} of {len(result.grasps)} picked; tick lateness p99 {result.lateness_s.p99 * 1e3:.2f} ms; stopped: {result.stopped_by}")
    if result.stopped_by.startswith("SAFE"):
        raise typer.Exit(EXIT_SAFE)


def main() -> None:
    """Entry point of `dofbot`: every error a user can meet is one sentence on stderr and an exit code."""
    for entry in entry_points(group=VERBS):
        entry.load()(app)
    try:
        app()
    except DofbotError as error:
        typer.echo(f"dofbot: {error}", err=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
