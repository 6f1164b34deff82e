"""`dofbot calibrate grid`: where the tool was sent against where it was, over the table, by camera or by touch."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from calibration.commands.hand_eye import BoardFile, ConfigFile, File, Images, Joints, Seed, Simulate, solved_from
from calibration.commands.hand_eye_result import Source
from calibration.commands.steps import AsJson, print_json
from edge.errors import CalibrationError, ConfigError

if TYPE_CHECKING:
    from calibration.commands.touch import Options
    from calibration.grid import Grid
    from edge.messages import Float64

DOWN_MAX = 0.02  # sine of how far the tool may point away from straight down


def grid(
    images: Images = None,
    board: BoardFile = None,
    calibration: File = None,
    joints: Joints = None,
    config: ConfigFile = None,
    touch: Annotated[
        Path | None, typer.Option(help="Judge by hand: CSV x_mm,y_mm,off_x_mm,off_y_mm of five crossings or more, in place of images.")
    ] = None,
    live: Annotated[
        bool, typer.Option("--live", help="--touch: let the arm hold a pointer over crossings by itself, slowly, and type where it stands.")
    ] = False,
    crossings: Annotated[int, typer.Option(min=5, max=40, help="--live: how many to touch, those in the file counted.")] = 9,
    pointer_mm: Annotated[
        float, typer.Option(min=5.0, max=60.0, help="--live: how far the pointer sticks out past the finger tips.")
    ] = 20.0,
    width_mm: Annotated[float, typer.Option(min=2.0, max=40.0, help="--live: how thick it is where the fingers hold it.")] = 8.0,
    above_mm: Annotated[float, typer.Option(min=8.0, max=20.0, help="--live: how high over the paper its tip stops.")] = 10.0,
    write: Annotated[
        bool, typer.Option("--write", help="--touch: put joint 1's zero into the calibration, if it is more than three σ from none.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="--live: do not ask before the arm moves.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Draw the map of errors into this PNG file.")] = None,
    report: Annotated[Path | None, typer.Option(help="Write a page with the map to this HTML file.")] = None,
    simulate: Simulate = False,
    seed: Seed = 1,
    as_json: AsJson = False,
) -> None:
    """Compare where the tool was sent on the table with where it was: median, 95 %, largest, and a map.

    By camera: the straight-down images of a hand-eye session, those that were kept for the verdict if there are any. It shares the
    camera's own error, and cannot see a turn of the whole table. By touch: put a pointer into the gripper, lay the printed grid straight
    under the base axis, and read where the tip stands. With --live the arm goes to the crossings itself. A turn of the table is joint 1's
    zero, which no camera sees. With --simulate the truth is shown beside the camera's view, and touches are read by a simulated person.
    """
    if touch is None:
        if live or write:
            raise ConfigError("--live and --write are for the touch test, expected --touch FILE.csv with them; give it")
        found = _by_camera(solved_from(images, None, board, calibration, joints, config, simulate, seed, as_json))
        if report:
            _write_report(report, found, f"{images}")
        _show(found, plot, as_json, {}, [])
        return _require(next(iter(found.values())), "calibrate the hand-eye and the servos again, and look for play in the arm")
    from calibration.commands import touch as touches
    from calibration.live.touch import Pointer

    options = touches.Options(Pointer(width_mm / 1e3, pointer_mm / 1e3), above_mm / 1e3, crossings, yes)
    return _touch(touch, images, board, calibration, config, live, write, plot, report, seed if simulate else None, options, as_json)


def _touch(
    touch: Path,
    images: Path | None,
    board: Path | None,
    calibration: Path | None,
    config: Path | None,
    live: bool,
    write: bool,
    plot: Path | None,
    report: Path | None,
    seed: int | None,
    options: "Options",
    as_json: bool,
) -> None:
    """Touch what is missing, then judge what the file has."""
    from calibration.commands import touch as touches
    from calibration.commands.steps import board_of
    from edge import config as configuration

    truth_deg, one = None, None
    if seed is not None:
        folder = images or Path(f"simulated-arm-{seed}")
        one = touches.robot(calibration or folder / "calibration.json", config, touch)
        truth_deg = touches.simulated(touch, one, folder, seed, options)
    elif live or write:
        if calibration is None:
            raise ConfigError("--calibration is missing, expected the robot's calibration file with --live and --write; give it")
        one = touches.robot(calibration, config, touch)
        if live:
            touches.live(touch, one, board_of(board, None) if board else None, options)
    settings = one.config if one else configuration.load(config) if config else configuration.Config()
    found = touches.of_file(touch, settings.mount)._replace(truth_deg=truth_deg)
    if report:
        _write_report(report, {"by touch": found.grid}, f"by touch, {touch}")
    _show({"by touch": found.grid}, plot, as_json, touches.told(found), touches.lines(found))
    if one is None or not write:
        return _require(found.grid, touches.remedy(found))
    touches.write(found, one)
    typer.echo(f"written to {one.calibration}: joint 1's zero", err=as_json)
    return None


def _by_camera(source: Source) -> "dict[str, Grid]":
    """The grid as the camera sees it; of a simulated arm also as it was."""
    import numpy as np

    from calibration import grid as grids
    from calibration.arm.closed_form import CORNERS_MIN
    from calibration.simulated import session as simulated_session

    if source.refusal:
        raise source.refusal
    solved = source.solved
    views = solved.held_out or solved.views
    tilt = views.arm.commanded[:, 1:4].sum(axis=1)
    views = views.take(np.flatnonzero(np.abs(np.sin(tilt)) < DOWN_MAX))
    state = solved.found.state
    found = {"by camera": grids.by_camera(state, views, solved.points_m)}
    truth = simulated_session.truth_of(source.images)
    if truth is not None:
        usable = [
            name for name, seen in zip(views.names, np.isfinite(views.corners_px[..., 0]).sum(axis=1), strict=True) if seen >= CORNERS_MIN
        ]
        true = np.array([truth.tool_in_table_m[name] for name in usable])
        found["truth"] = grids.Grid(found["by camera"].commanded_in_table_m, true, "touch")
        found["truth, turned as the camera cannot see"] = grids.Grid(
            found["by camera"].commanded_in_table_m, simulated_session.in_gauge(truth, true), "touch"
        )
    return found


def _write_report(path: Path, found: "dict[str, Grid]", about: str) -> None:
    from calibration.pages import grid as grid_page

    try:
        grid_page.write(path, found, about)
    except OSError as error:
        raise ConfigError(f"--report {path} cannot be written ({error.strerror}); give a path that you may write to") from None


def _show(found: "dict[str, Grid]", plot: Path | None, as_json: bool, more: dict[str, Any], lines: list[str]) -> None:
    from rich.console import Console
    from rich.table import Table

    from calibration import grid as grids
    from calibration.pages import grid as grid_page

    told = {name: grids.summary(one) for name, one in found.items()}
    if plot:
        try:
            grids.plot(next(iter(found.values())), plot)
        except OSError as error:
            raise ConfigError(f"--plot {plot} cannot be written ({error.strerror}); give a path that you may write to") from None
    if as_json:
        return print_json({name: one._asdict() | {"errors_mm": _errors_mm(found[name])} | more for name, one in told.items()})
    table = Table("", *told, title="Where the tool was sent against where it was")
    for row in grid_page.rows(told):
        table.add_row(*row)
    console = Console(width=110)
    console.print(table)
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)
    return None


def _require(one: "Grid", remedy: str) -> None:
    """Raise `CalibrationError` for a grid that is too far off."""
    from calibration import grid as grids

    failed = [check for check in grids.summary(one).checks() if not check.found <= check.limit]
    if failed:
        what = "; ".join(f"{check.name} is {check.found:.2f}, expected at most {check.limit:g}" for check in failed)
        raise CalibrationError(f"{what}; {remedy}")


def _errors_mm(one: "Grid") -> "list[list[float]]":
    errors: Float64 = 1e3 * one.errors_m()
    rows: list[list[float]] = errors.tolist()
    return rows
