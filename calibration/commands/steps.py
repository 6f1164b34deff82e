"""What the steps of `dofbot calibrate` share: options, the board, the lens and the images that they take, and the file that they write."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from edge.errors import CalibrationError, ConfigError

if TYPE_CHECKING:
    from calibration.boards import Board, MarkerBoard
    from calibration.opencv import Lens
    from calibration.session import Seen, Session
    from calibration.simulated.camera import Show, SimulatedCamera
    from edge.calibration import Calibration
    from edge.config import Config
    from edge.messages import Float32, Float64

File = Annotated[Path, typer.Option("--calibration", help="The robot's calibration file; made where there is none.")]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="TOML file that describes the robot, for a new calibration file.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def look_at(folder: Path, board: "Board", *, quiet: bool) -> "Session":
    """The folder's images, with progress and every refusal on stderr."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from calibration.session import Seen, image_paths, look

    console = Console(stderr=True, quiet=quiet)
    columns = (TextColumn("looking for the board"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(compact=True))
    with Progress(*columns, console=console, disable=quiet or not sys.stderr.isatty()) as progress:
        task = progress.add_task("", total=len(image_paths(folder)))

        def show(name: str, seen: Seen) -> None:
            progress.advance(task)
            if seen.refused:
                progress.console.print(f"{name}: {seen.refused}", highlight=False, markup=False, soft_wrap=True)

        return look(folder, board, show)


def board_of(path: Path, ruler_mm: tuple[float, float] | None) -> "Board":
    """The board, with its rulers stored if they were given."""
    from calibration import boards

    drawn = boards.load(path)
    if ruler_mm is not None:
        drawn = boards.measured(drawn, ruler_mm)
        boards.save(path, drawn)
    return drawn


def markers_of(path: Path) -> "MarkerBoard":
    """A board of markers; raises `ConfigError` for a ChArUco board."""
    from calibration.boards import MarkerBoard

    drawn = board_of(path, None)
    if not isinstance(drawn, MarkerBoard):
        raise ConfigError(f"{path} describes a ChArUco board, expected markers; print them: dofbot calibrate board blocks, or grid")
    return drawn


def lens_of(found: "Calibration", path: Path) -> "Lens":
    """The lens of a calibration; raises `ConfigError` where it has none."""
    from calibration.opencv import Lens

    if found.lens is None:
        raise ConfigError(f"calibration {path} has no lens, expected one; run dofbot calibrate intrinsics first")
    return Lens(found.lens.intrinsics, found.lens.distortion)


def pose_of(name: str, seen: "Seen", board: "Board", lens: "Lens") -> "Float64":
    """`transform_board_to_camera` of one image; raises `CalibrationError` where there is none."""
    from calibration.boards import points_m
    from calibration.opencv import board_pose

    found = seen.detection()
    pose = board_pose(points_m(board, found.ids), found.corners_px, lens)
    if pose is None:
        raise CalibrationError(f"{name}: no pose fits its corners; leave this image out")
    return pose


def depth_image(image: Path) -> "Float32":
    """(height, width) metres, beside an image and with its name; raises `ConfigError`."""
    import numpy as np

    path = image.with_suffix(".npy")
    try:
        with path.open("rb") as file:
            return np.asarray(np.lib.format.read_array(file, allow_pickle=False), np.float32)
    except (OSError, ValueError, MemoryError) as error:
        raise ConfigError(f"{path} cannot be read ({error}), expected the depth image of {image.name} in metres") from None


def write_parts(path: Path, config: Path | None, **parts: Any) -> None:
    """Put parts into the calibration file, with the others as they are."""
    import urdf
    from edge import calibration as files

    before = files.load(path) if path.exists() else files.blank(settings_of(config), urdf.dofbot_sha256())
    files.save(path, msgspec.structs.replace(before, **parts))


def settings_of(config: Path | None) -> "Config":
    """What a file configures, or the defaults."""
    from edge import config as configuration

    return configuration.load(config) if config else configuration.Config()


def settings_with(config: Path | None, found: "Calibration", path: Path) -> "Config":
    """The same beside a calibration, whose mount and servo board then hold; raises `ConfigError` for a file of another robot's."""
    from edge import calibration as files

    settings = settings_of(config)
    if config:
        files.check_robot(found, path, settings.mount, settings.bus, found.urdf_sha256)
    return settings


def simulated(board: "Board", settings: "Config", seed: int, show: "Show", *, quiet: bool) -> "SimulatedCamera":
    """A simulated camera in place of the configured one, and it says so."""
    from calibration.simulated.camera import SimulatedCamera, drawn_optics

    if not quiet:
        typer.echo("simulated: the camera, the board and who moves them; nothing real is measured", err=True)
    return SimulatedCamera(board, drawn_optics((settings.camera.width, settings.camera.height), seed), seed, show)


def print_json(value: Any) -> None:
    """For scripts."""
    typer.echo(msgspec.json.format(msgspec.json.encode(value)).decode())
