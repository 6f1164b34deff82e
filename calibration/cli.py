"""`dofbot calibrate …`: print a board, then measure lens, block and depth with it; each result goes into one file, or is refused."""

import enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from calibration.commands import check, grid, hand_eye, intrinsics
from calibration.commands.steps import (
    board_of,
    depth_image,
    lens_of,
    look_at,
    markers_of,
    pose_of,
    print_json,
    settings_of,
    simulated,
    write_parts,
)
from edge.errors import CalibrationError, ConfigError

if TYPE_CHECKING:
    from calibration.boards import Board
    from edge.calibration import Calibration
    from edge.config import Config


Images = Annotated[Path, typer.Option(help="Folder of one stream's images; what is found in them is kept there, so more may be added.")]
BoardFile = Annotated[Path, typer.Option("--board", help="The JSON that was written beside the board's PDF.")]
Ruler = Annotated[
    tuple[float, float] | None,
    typer.Option("--ruler-mm", metavar="X Y", help="The printed rulers as you measured them; kept in the board's JSON."),
]
File = Annotated[Path, typer.Option("--calibration", help="The robot's calibration file; made where there is none.")]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="TOML file that describes the robot, for a new calibration file.")]
Serial = Annotated[str, typer.Option(help="The camera's serial number, as rs-enumerate-devices or dofbot doctor tells it.")]
Simulate = Annotated[bool, typer.Option("--simulate", help="Let a simulated camera take the pairs: the one of intrinsics --simulate.")]
Seed = Annotated[int, typer.Option(min=0, help="--simulate: which camera.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


class Kind(enum.StrEnum):
    """What can be printed."""

    charuco = "charuco"
    aruco = "aruco"
    blocks = "blocks"
    grid = "grid"


class Paper(enum.StrEnum):
    """Paper sizes."""

    a4 = "a4"
    a3 = "a3"
    letter = "letter"


def register(app: typer.Typer) -> None:
    """Add the verb with its steps."""
    group = typer.Typer(
        help="Measure this robot, step by step: board, intrinsics, handeye, depth, block; check whether it still holds.",
        no_args_is_help=True,
    )
    epilog = (
        "Exit codes: 0 done, 1 camera or bus is away, 2 wrong options or files, 4 a runtime has the robot, "
        "9 refused: the reason is said, and nothing was written."
    )
    for step in (board, ruler, intrinsics.intrinsics, hand_eye.handeye, hand_eye.servos, grid.grid, depth, block):
        group.command(epilog=epilog)(step)
    group.command(epilog="Exit codes: 0 where it was, 1 the camera has moved, 2 cannot say: the reason is said.")(check.check)
    app.add_typer(group, name="calibrate")


def board(
    kind: Annotated[Kind, typer.Argument(help="charuco: for lens and hand-eye. blocks: markers for blocks' tops. grid: the table in mm.")],
    out: Annotated[Path, typer.Option(help="PDF to write; the JSON that later steps take goes beside it.")],
    paper: Annotated[Paper, typer.Option(help="Paper to print on.")] = Paper.a4,
    columns: Annotated[int, typer.Option(min=3, max=30, help="charuco: squares across.")] = 5,
    rows: Annotated[int, typer.Option(min=3, max=31, help="charuco: squares down, an odd number.")] = 7,
    square_mm: Annotated[float, typer.Option(min=5.0, max=200.0, help="charuco: a square's width.")] = 25.0,
    as_json: AsJson = False,
) -> None:
    """Write a board as a PDF at true scale.

    Print it at 100 %, glue it on something flat (glass, aluminium), and measure both rulers: no image shows how large a board is,
    and 1 % of its size is 1 % of every length that is measured with it.
    """
    from calibration import boards
    from calibration.pages import board_pdf
    from edge.files import write_atomically

    made: dict[Kind, Any] = {
        Kind.charuco: lambda: boards.charuco(columns, rows, square_mm * 1e-3, round(0.72 * square_mm * 1e-3, 6)),
        Kind.aruco: boards.aruco,
        Kind.blocks: boards.blocks,
        Kind.grid: boards.grid,
    }
    drawn = made[kind]()
    page = board_pdf.pdf(drawn, paper.value)
    try:
        write_atomically(out, page)
    except OSError as error:
        raise ConfigError(f"--out {out} cannot be written ({error.strerror}); give a path that you may write to") from None
    description = out.with_suffix(".json")
    boards.save(description, drawn)
    if as_json:
        return print_json({"pdf": str(out), "board": str(description), "what": board_pdf.description(drawn)[0]})
    typer.echo(f"{out}: {board_pdf.description(drawn)[0]}")
    typer.echo(f"{description}: for the next steps; measure the print first: dofbot calibrate ruler")
    return None


def ruler(
    board: Annotated[Path, typer.Argument(help="The JSON that was written beside the board's PDF.")],
    x_mm: Annotated[float, typer.Argument(help="Measured length of the ruler along x, from end mark to end mark.")],
    y_mm: Annotated[float, typer.Argument(help="The same along y.")],
    as_json: AsJson = False,
) -> None:
    """Keep how long a print's rulers came out, for every later step: 100.4 instead of 100 makes all it measures 0.4 % longer."""
    scale = board_of(board, (x_mm, y_mm)).scale
    if as_json:
        return print_json({"board": str(board), "ruler_mm": [x_mm, y_mm]})
    typer.echo(f"{board}: {scale[0] - 1.0:+.2%} along x, {scale[1] - 1.0:+.2%} along y")
    return None


def depth(
    images: Annotated[Path, typer.Option(help="Folder of pairs: NAME.png, and NAME.npy with depth (height, width) in metres, 0 = none.")],
    board: BoardFile,
    calibration: File,
    ruler_mm: Ruler = None,
    config: ConfigFile = None,
    live: Annotated[
        bool, typer.Option("--live", help="Take the pairs: whenever the board is still at a new distance, until it is enough.")
    ] = False,
    simulate: Simulate = False,
    seed: Seed = 1,
    as_json: AsJson = False,
) -> None:
    """Compare measured depth with the board's plane: scale, offset, tilt, noise and holes at three distances or more.

    Both images of a pair come from the sensor whose lens was calibrated: the infrared left one, with the emitter off for the picture.
    With --live you hold the board before the camera, first near, then further and further away; Ctrl-C ends it, started again it goes on.
    """
    from calibration import depth as depths
    from edge import calibration as files

    drawn = board_of(board, ruler_mm)
    before = files.load(calibration)
    lens = lens_of(before, calibration)
    if live or simulate:
        _take_pairs(images, drawn, settings_of(config), (before, calibration), seed if simulate else None, quiet=as_json)
    session = look_at(images, drawn, quiet=as_json)
    looks = [depths.look(depth_image(images / name), pose_of(name, one, drawn, lens), drawn, lens) for name, one in session.used.items()]
    found = depths.fit(looks)
    serial = before.lens.serial if before.lens else ""
    for one in [] if as_json else sorted((*found.looks, *found.blind)):
        off_mm = (one.measured_m - one.distance_m) * 1e3
        typer.echo(
            f"{one.distance_m * 1e3:5.0f} mm: {off_mm:+6.2f} mm, σ {one.noise_m * 1e3:.2f} mm, {one.tilt_deg:.2f}°, {one.filled:.0%} filled"
        )
    write_parts(calibration, None, depth=depths.correction(found, serial))
    if as_json:
        return print_json(found._asdict() | {"looks": [x._asdict() for x in found.looks], "blind": [x._asdict() for x in found.blind]})
    typer.echo(f"true = {found.scale:.4f} · measured {found.offset_m * 1e3:+.2f} mm; written to {calibration}")
    return None


def _take_pairs(
    images: Path, board: "Board", settings: "Config", calibration: "tuple[Calibration, Path]", seed: int | None, *, quiet: bool
) -> None:
    """Fill the folder."""
    import numpy as np

    from calibration.live import camera_file, collecting, live_display, stills
    from calibration.live.depth_guide import DistanceGuide
    from calibration.live.lens_guide import FACING, Wanted
    from calibration.simulated.camera import Hand

    camera = None
    if seed is not None:
        hand = Hand(board, np.random.default_rng((seed, 4, len(list(images.glob("*.png"))))), fills=(0.3, 1.0))
        hand.follow(Wanted("middle", FACING))
        camera = simulated(board, settings, seed, hand, quiet=quiet)
    with stills.opened(settings, calibration, camera) as source:
        guide = DistanceGuide()
        camera_file.keep(images, source)
        collection = collecting.Collection(source, images, board, guide, keeps_depth=True)
        with live_display.shown(guide, quiet=quiet) as show:
            collecting.fill(collection, show, lambda: guide.is_complete)


def block(
    blocks: Annotated[Path, typer.Option(help="The block markers' JSON, rulers measured.")],
    grid: Annotated[Path, typer.Option(help="The table grid's JSON, rulers measured; it tells where the camera is.")],
    calibration: File,
    image: Annotated[Path | None, typer.Argument(help="Image of blocks on the table grid; left out with --live.")] = None,
    live: Annotated[bool, typer.Option("--live", help="Take the image.")] = False,
    config: ConfigFile = None,
    block_mm: Annotated[float, typer.Option(min=10.0, max=100.0, help="A block's height.")] = 30.0,
    as_json: AsJson = False,
) -> None:
    """Tell where marked blocks lie in an image, x, y and yaw in the table frame: put one on a crossing of the grid and compare."""
    import math

    from calibration.block import BlockFinder, camera_over_grid
    from calibration.detect import detect
    from calibration.live.stills import opened
    from calibration.session import read_image
    from edge import calibration as files

    if (image is None) != live:
        raise ConfigError("an image or --live, expected one of both; give the image's file, or let the camera take it")
    before = files.load(calibration)
    lens = lens_of(before, calibration)
    drawn, table = markers_of(blocks), markers_of(grid)
    if image is None:
        with opened(settings_of(config), (before, calibration)) as stills:
            picture = stills.still()
    else:
        picture = read_image(image)
    camera = camera_over_grid(detect(picture, table), table, lens)
    found = BlockFinder(drawn, block_mm * 1e-3, lens).find(picture, camera)
    if as_json:
        return print_json([one._asdict() for one in found])
    for one in found:
        x, y, z = (1e3 * value for value in one.centre_in_table_m)
        typer.echo(f"marker {one.marker}: x {x:.1f}, y {y:.1f}, z {z:.1f} mm, yaw {math.degrees(one.yaw_rad):.1f}°")
    if not found:
        raise CalibrationError(f"no block is in {image or 'the image'}, expected a marker of {blocks}; show its top")
    return None
