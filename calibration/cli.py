"""`dofbot calibrate …`: print a board, then measure lens, block and depth with it; each result goes into one file, or is refused."""

import enum
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from calibration import arm_cli, grid_cli
from calibration.steps import board_of, depth_image, lens_of, look_at, markers_of, pose_of, print_json, write_parts
from edge.errors import CalibrationError, ConfigError

if TYPE_CHECKING:
    from calibration.boards import Board
    from calibration.intrinsics import Calibrated
    from calibration.session import Session
    from calibration.verdict import Figure

EXIT_MOVED, EXIT_CANNOT_SAY = 1, 2
POLL_S = 0.5

Images = Annotated[Path, typer.Option(help="Folder of one stream's images; what is found in them is kept there, so more may be added.")]
BoardFile = Annotated[Path, typer.Option("--board", help="The JSON that was written beside the board's PDF.")]
Ruler = Annotated[
    tuple[float, float] | None,
    typer.Option("--ruler-mm", metavar="X Y", help="The printed rulers as you measured them; kept in the board's JSON."),
]
File = Annotated[Path, typer.Option("--calibration", help="The robot's calibration file; made where there is none.")]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="TOML file that describes the robot, for a new calibration file.")]
Serial = Annotated[str, typer.Option(help="The camera's serial number, as rs-enumerate-devices or dofbot doctor tells it.")]
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
    epilog = "Exit codes: 0 done, 2 wrong options or files, 9 refused: the reason is said, and nothing was written."
    for step in (board, ruler, intrinsics, arm_cli.handeye, arm_cli.servos, grid_cli.grid, depth, block):
        group.command(epilog=epilog)(step)
    group.command(epilog="Exit codes: 0 where it was, 1 the camera has moved, 2 cannot say: the reason is said.")(check)
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
    from calibration import board_pdf, boards
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


def intrinsics(
    images: Images,
    board: BoardFile,
    serial: Serial,
    calibration: File,
    ruler_mm: Ruler = None,
    factory: Annotated[
        tuple[float, float, float, float] | None,
        typer.Option(
            metavar="FX FY CX CY", help="The camera's own intrinsics of this stream: a start, and what is not seen stays near them."
        ),
    ] = None,
    config: ConfigFile = None,
    watch: Annotated[bool, typer.Option("--watch", help="Wait for more images until every figure is good.")] = False,
    report: Annotated[Path | None, typer.Option(help="Write a page with pictures to this HTML file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Measure the lens: 25 to 40 images of the ChArUco board, tilted by 20° to 45°, near enough to fill the image, in all its parts.

    Run it again after every few images: it shows where corners are missing, looks at new images only, and writes once the result is
    good enough. With --watch it does so by itself whenever images come, until every figure is good; Ctrl-C ends it.
    """
    from calibration import report as reports
    from calibration import verdict

    drawn = board_of(board, ruler_mm)
    drawn.scale  # noqa: B018 - raises at once where the rulers were not measured, not after a minute
    while True:
        try:
            session = look_at(images, drawn, quiet=as_json)
            found, judged = _lens_from(session, drawn, factory, quiet=as_json)
        except (CalibrationError, ConfigError) as error:
            if not watch:
                raise
            typer.echo(f"{error}", err=True)
        else:
            if not watch or all(one.state == "good" for one in judged):
                break
        _wait_for_images(images)
    if report:
        try:
            reports.write(report, found, judged, session, images, drawn)
        except OSError as error:
            raise ConfigError(f"--report {report} cannot be written ({error.strerror}); give a path that you may write to") from None
    part = verdict.lens_part(found, judged, serial, drawn)
    write_parts(calibration, config, lens=part)
    if as_json:
        return print_json({"lens": part, "model": found.model, "held_out_px": found.held_out_px, "left_out": found.rejected})
    fx, fy, cx, cy = part.intrinsics[2:]
    typer.echo(f"fx {fx:.2f}, fy {fy:.2f}, cx {cx:.2f}, cy {cy:.2f} px; written to {calibration}")
    return None


def depth(
    images: Annotated[Path, typer.Option(help="Folder of pairs: NAME.png, and NAME.npy with depth (height, width) in metres, 0 = none.")],
    board: BoardFile,
    calibration: File,
    ruler_mm: Ruler = None,
    as_json: AsJson = False,
) -> None:
    """Compare measured depth with the board's plane: scale, offset, tilt, noise and holes at three distances or more.

    Both images of a pair come from the sensor whose lens was calibrated: the infrared left one, with the emitter off for the picture.
    """
    from calibration import depth as depths
    from edge import calibration as files

    drawn = board_of(board, ruler_mm)
    before = files.load(calibration)
    lens = lens_of(before, calibration)
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


def block(
    image: Annotated[Path, typer.Argument(help="Image of blocks on the table grid.")],
    blocks: Annotated[Path, typer.Option(help="The block markers' JSON, rulers measured.")],
    grid: Annotated[Path, typer.Option(help="The table grid's JSON, rulers measured; it tells where the camera is.")],
    calibration: File,
    block_mm: Annotated[float, typer.Option(min=10.0, max=100.0, help="A block's height.")] = 30.0,
    as_json: AsJson = False,
) -> None:
    """Tell where marked blocks lie in an image, x, y and yaw in the table frame: put one on a crossing of the grid and compare."""
    import math

    from calibration.block import BlockFinder, camera_over_grid
    from calibration.detect import detect
    from calibration.session import read_image
    from edge import calibration as files

    lens = lens_of(files.load(calibration), calibration)
    drawn, table = markers_of(blocks), markers_of(grid)
    picture = read_image(image)
    camera = camera_over_grid(detect(picture, table), table, lens)
    found = BlockFinder(drawn, block_mm * 1e-3, lens).find(picture, camera)
    if as_json:
        return print_json([one._asdict() for one in found])
    for one in found:
        x, y, z = (1e3 * value for value in one.centre_in_table_m)
        typer.echo(f"marker {one.marker}: x {x:.1f}, y {y:.1f}, z {z:.1f} mm, yaw {math.degrees(one.yaw_rad):.1f}°")
    if not found:
        raise CalibrationError(f"no block is in {image}, expected a marker of {blocks}; show its top")
    return None


def check(
    images: Images,
    board: BoardFile,
    reference: Annotated[Path, typer.Option(help="What the board looked like when all was well.")],
    learn: Annotated[
        bool, typer.Option("--learn", help="Take the reference: images of three returns of the arm to this pose or more.")
    ] = False,
    calibration: Annotated[
        Path | None,
        typer.Option(
            help="The robot's calibration file: with --learn its lens is taken, later the result is kept beside it, "
            "for calibration.check_max_age_h: dofbot arm asks for it."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say whether the camera has moved since: a board that is fixed to the table, seen from the same pose of the arm.

    What decides is how many mm beside its place on the board a block would be looked for. A board that was moved looks the same.
    """
    from calibration import check as checks
    from edge import calibration as files
    from edge import camera_check

    try:
        session = look_at(images, board_of(board, None), quiet=True)
        size, seen = session.size, [one.detection() for one in session.used.values()]
        if learn:
            if calibration is None:
                raise ConfigError("--learn needs the lens, expected --calibration FILE; give the robot's calibration file")
            lens = lens_of(files.load(calibration), calibration)
            if size != lens.intrinsics[:2]:
                raise ConfigError(f"images have {size} pixels, the lens {tuple(lens.intrinsics[:2])}, expected the same stream; take it")
            taken = checks.learn(seen, session.board, lens)
            checks.save(reference, taken)
            result: dict[str, Any] = {"returns": taken.returns, "spread_mm": taken.spread_mm, "limit_mm": taken.limit_mm}
            line = f"{taken.returns} returns differ by up to {taken.spread_mm:.2f} mm on the board; "
            line += f"more than {taken.limit_mm:.2f} mm is a move"
            moved = False
        else:
            shifts = [checks.compare(checks.load(reference), one, size) for one in seen]
            worst = max(shifts, key=lambda shift: (shift.has_moved, shift.off_mm))
            moved = worst.has_moved
            if calibration:
                camera_check.save(calibration, camera_check.Checked(camera_check.now(), moved, worst.off_mm, worst.limit_mm))
            result = worst._asdict() | {"has_moved": moved}
            line = str(worst)
    except (CalibrationError, ConfigError) as error:
        typer.echo(f"dofbot: cannot say: {error}", err=True)
        raise typer.Exit(EXIT_CANNOT_SAY) from None
    if as_json:
        print_json(result)
    else:
        typer.echo(line)
    raise typer.Exit(EXIT_MOVED if moved else 0)


def _lens_from(
    session: "Session", board: "Board", factory: tuple[float, float, float, float] | None, *, quiet: bool
) -> "tuple[Calibrated, list[Figure]]":
    """The lens so far and what speaks for it, with the map of where corners were seen, and what to do next."""
    from calibration import coverage, verdict
    from calibration.boards import points_m
    from calibration.bundle import View
    from calibration.intrinsics import calibrate
    from edge.messages import Intrinsics

    size = session.size
    seen = coverage.counts((one.detection().corners_px for one in session.used.values()), size)
    if not quiet:
        typer.echo(f"corners seen in {coverage.share(seen):.0%} of the image:\n{coverage.picture(seen)}")
    views = [View(name, points_m(board, one.detection().ids), one.detection().corners_px) for name, one in session.used.items()]
    found = calibrate(views, size, Intrinsics(*size, *factory) if factory else None)
    judged = verdict.figures(found, seen)
    for one in judged if not quiet else ():
        advice = "" if one.state == "good" else f"  → {one.remedy}"
        typer.echo(f"{one.state:9} {one.found:8.3g}  (good {one.good:g}, at most {one.limit:g})  {one.name}{advice}")
    return found, judged


def _wait_for_images(folder: Path) -> None:
    """Come back when the folder has other images than now."""
    before = set(folder.glob("*.*"))
    while set(folder.glob("*.*")) == before:
        time.sleep(POLL_S)
    time.sleep(POLL_S)  # until the newest is whole
