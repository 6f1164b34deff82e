"""`dofbot calibrate grid`: where the tool was sent against where it was, over the table, by camera or by touch."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from calibration.arm_cli import AsJson, BoardFile, ConfigFile, File, Images, Joints, Seed, Simulate, Source, solved_from
from calibration.steps import print_json
from edge.errors import CalibrationError, ConfigError

if TYPE_CHECKING:
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
    plot: Annotated[Path | None, typer.Option(help="Draw the map of errors into this PNG file.")] = None,
    report: Annotated[Path | None, typer.Option(help="Write a page with the map to this HTML file.")] = None,
    simulate: Simulate = False,
    seed: Seed = 1,
    as_json: AsJson = False,
) -> None:
    """Compare where the tool was sent on the table with where it was: median, 95 %, largest, and a map.

    By camera: the straight-down images of a hand-eye session, those that were kept for the verdict if there are any. It shares the
    camera's own error, and cannot see a turn of the whole table. By touch: put a pointer into the gripper, send the tool to crossings
    of the printed grid, and write down how far beside each it stands. With --simulate the truth is shown beside the camera's view.
    """
    grids = (
        _by_touch(touch, simulate)
        if touch
        else _by_camera(solved_from(images, board, calibration, joints, config, simulate, seed, as_json))
    )
    if report:
        _write_report(report, grids, f"by touch, {touch}" if touch else f"{images}")
    _told(grids, plot, as_json)


def _by_touch(path: Path, simulate: bool) -> "dict[str, Grid]":
    from calibration import touches_file

    if simulate:
        raise ConfigError("--touch with --simulate, expected one of them: nobody can touch a simulated table; leave one out")
    return {"by touch": touches_file.load(path)}


def _by_camera(source: Source) -> "dict[str, Grid]":
    """The grid as the camera sees it; of a simulated arm also as it was."""
    import numpy as np

    from calibration import grid as grids
    from calibration import simulated_session
    from calibration.closed_form import CORNERS_MIN

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
    from calibration import grid_report

    try:
        grid_report.write(path, found, about)
    except OSError as error:
        raise ConfigError(f"--report {path} cannot be written ({error.strerror}); give a path that you may write to") from None


def _told(found: "dict[str, Grid]", plot: Path | None, as_json: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    from calibration import grid as grids
    from calibration import grid_report

    told = {name: grids.summary(one) for name, one in found.items()}
    first = next(iter(found))
    if plot:
        try:
            grids.plot(found[first], plot)
        except OSError as error:
            raise ConfigError(f"--plot {plot} cannot be written ({error.strerror}); give a path that you may write to") from None
    if as_json:
        print_json({name: one._asdict() | {"errors_mm": _errors_mm(found[name])} for name, one in told.items()})
    else:
        table = Table("", *told, title="Where the tool was sent against where it was")
        for row in grid_report.rows(told):
            table.add_row(*row)
        Console(width=110).print(table)
    failed = [one for one in told[first].checks() if not one.found <= one.limit]
    if failed:
        what = "; ".join(f"{one.name} is {one.found:.2f}, expected at most {one.limit:g}" for one in failed)
        raise CalibrationError(f"{what}; calibrate the hand-eye and the servos again, and look for play in the arm")


def _errors_mm(one: "Grid") -> "list[list[float]]":
    errors: Float64 = 1e3 * one.errors_m()
    rows: list[list[float]] = errors.tolist()
    return rows
