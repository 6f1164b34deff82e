"""`dofbot record-depth`: what the wrist camera sees, into a file that plays in its place on any desk."""

import contextlib
import time
from contextlib import closing
from pathlib import Path
from typing import Annotated, NamedTuple

import msgspec
import typer

from edge import config as configuration
from edge.cameras.depth_stream import LOOK_S
from edge.cameras.realsense import RealSenseCamera
from edge.errors import ConfigError, DofbotError
from edge.messages import Intrinsics


class Recorded(NamedTuple):
    """What went into a file."""

    file: str
    serial: str
    intrinsics: Intrinsics
    frames: int  # that the camera numbered from the first to the last
    seconds: float
    bytes: int


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(epilog="Exit codes: 0 recorded, 1 the camera is away or brings nothing, 2 wrong options.")(record_depth)


def record_depth(
    file: Annotated[Path, typer.Argument(help="A new file; the SDK wants it to end in .db3.")],
    seconds: Annotated[float, typer.Option(min=0.1, help="How long; Ctrl-C ends it before, with what there is.")] = 10.0,
    config: Annotated[Path | None, typer.Option(help="TOML file; its camera section says which camera and profile.")] = None,
    image: Annotated[bool, typer.Option("--image", help="The left imager's picture as well, with the emitter off.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was recorded as JSON.")] = False,
) -> None:
    """Record the RealSense's depth; stop a running dofbot first, since one program at a time has the camera.

    Play it with camera.driver = 'replay' and camera.file. Nothing moves.
    """
    if file.suffix != ".db3" or file.exists():
        problem = "exists already" if file.exists() else "does not end in .db3"
        raise ConfigError(f"recording {file} {problem}, expected a new .db3 file; give another name")
    settings = (configuration.load(config) if config else configuration.Config()).camera
    camera = RealSenseCamera(settings.serial, settings.width, settings.height, settings.fps, settings.preset, image, str(file))
    recorded = _record(camera, file, seconds)
    recorded = recorded._replace(bytes=file.stat().st_size)  # now that it is closed
    if as_json:
        typer.echo(msgspec.json.encode(recorded._asdict()))
        return
    mode = f"{recorded.intrinsics.width}x{recorded.intrinsics.height}"
    size = f"{recorded.bytes / 1e6:.1f} MB"
    typer.echo(f"{file}: {recorded.frames} frames of {mode} in {recorded.seconds:.1f} s, {size}, camera {recorded.serial}")


def _record(camera: RealSenseCamera, file: Path, seconds: float) -> Recorded:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("recording"),
        BarColumn(bar_width=20),
        TextColumn("{task.fields[frames]} frames"),
        TimeRemainingColumn(compact=True),
    )
    with closing(camera), Progress(*columns, console=Console(stderr=True), refresh_per_second=4) as line:
        task = line.add_task("", total=seconds, frames=0)
        try:
            intrinsics = camera.start()
        except DofbotError:
            file.unlink(missing_ok=True)  # the SDK has begun it, and there is nothing in it
            raise
        first, began_s, frames, passed_s = camera.latest(), time.monotonic(), 1, 0.0
        assert first is not None
        with contextlib.suppress(KeyboardInterrupt):
            while (passed_s := time.monotonic() - began_s) < seconds:
                newest = camera.latest() or first
                frames = newest.sequence - first.sequence + 1
                line.update(task, completed=passed_s, frames=frames)
                time.sleep(LOOK_S)
        return Recorded(str(file), camera.serial, intrinsics, frames, passed_s, 0)
