"""Where the tool was sent on the table against where it was: millimetres over the table, by camera or by touch.

The camera's grid and the calibration share the camera, so an error of the hand-eye itself does not show in it. A touch test does: a pointer
in the gripper goes to crossings of a printed or etched grid, and a person reads how far beside each it stands.
"""

from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

import numpy as np

from calibration.arm import closed_form
from calibration.arm.model import Arm, State, Views, inverse
from edge.calibration import Check
from edge.errors import CalibrationError, MissingExtraError
from edge.messages import Float64

TOUCHES_MIN = 5
MEDIAN_MAX_M, MOST_MAX_M = 0.006, 0.015  # refused beyond: 3 and 8 mm are good for such servos, a 30 mm block allows 15
READ_MAX_M = 0.050  # a touch that is further off was read in another unit, or at another crossing


class Grid(NamedTuple):
    """Places on the table (n, 2), table frame."""

    commanded_in_table_m: Float64
    measured_in_table_m: Float64
    by: Literal["camera", "touch"]

    def errors_m(self) -> Float64:
        """(n, 2)"""
        return self.measured_in_table_m - self.commanded_in_table_m


class Summary(NamedTuple):
    """What a grid says, in millimetres and degrees."""

    places: int
    median_mm: float
    most_mm: float  # 95 % are below
    max_mm: float
    shift_mm: tuple[float, float]  # of all together
    turn_deg: float  # of all together, about the middle
    stretch: float  # 1: none
    left_mm: float  # median when shift, turn and stretch are taken out: what the servos leave

    def checks(self) -> tuple[Check, ...]:
        """What a calibration has to keep."""
        return (
            Check("grid error, median, mm", self.median_mm, 1e3 * MEDIAN_MAX_M),
            Check("grid error, 95 %, mm", self.most_mm, 1e3 * MOST_MAX_M),
        )


def by_camera(state: State, views: Views, points_m: Float64) -> Grid:
    """Each image's tool: where the joints should have put it, and where the board in the picture says that it was.

    `state` as estimated, in which the board's pose is known; the camera sits on the arm. Raises `CalibrationError` for too few images.
    """
    usable = np.flatnonzero(np.isfinite(views.corners_px[..., 0]).sum(axis=1) >= closed_form.CORNERS_MIN)
    if len(usable) < TOUCHES_MIN:
        raise CalibrationError(f"{len(usable)} images show the board, expected at least {TOUCHES_MIN}; take more over the table")
    views = views.take(usable)
    sent = _flange(state, views.arm)
    seen = closed_form.board_poses(views.corners_px, points_m, state.lens).transform_board_to_camera
    was = state.board @ inverse(seen) @ inverse(state.hand_eye)
    return Grid(sent[:, :2, 3], was[:, :2, 3], "camera")


def _flange(state: State, arm: Arm) -> Float64:
    if arm.fixed_camera:
        raise CalibrationError("the grid by camera is for a camera on the arm, and this one is fixed; use the touch test")
    return arm.chain(state.zeros_rad, state.scales).transform_flange_to_table


def by_touch(commanded_in_table_m: Float64, read_mm: Float64) -> Grid:
    """A person's reading at each crossing (n, 2): how far the pointer stood from it, +x right and +y away from the base, in mm.

    Raises `CalibrationError` for fewer than five crossings, or a reading that cannot be.
    """
    commanded, read = np.asarray(commanded_in_table_m, dtype=float).reshape(-1, 2), np.asarray(read_mm, dtype=float).reshape(-1, 2)
    if len(read) != len(commanded) or len(read) < TOUCHES_MIN:
        raise CalibrationError(
            f"{len(read)} touches of {len(commanded)} crossings, expected one of each and at least {TOUCHES_MIN}; touch more"
        )
    far = np.linalg.norm(read, axis=1)
    if not (far <= 1e3 * READ_MAX_M).all():  # NaN fails too
        at = int(np.argmax(np.nan_to_num(far, nan=np.inf)))
        raise CalibrationError(
            f"touch {at + 1} reads {read[at].tolist()} mm, expected within {1e3 * READ_MAX_M:.0f} mm; read it again, in mm"
        )
    return Grid(commanded, commanded + read / 1e3, "touch")


def summary(grid: Grid) -> Summary:
    """Errors over the table, and which part of them is one motion of the whole: a base that stands askew, not servos."""
    errors, centre = grid.errors_m(), grid.commanded_in_table_m.mean(axis=0)
    size_mm = 1e3 * np.linalg.norm(errors, axis=1)
    shift = errors.mean(axis=0)
    x, y = (grid.commanded_in_table_m - centre).T
    rows = np.concatenate((np.column_stack((x, -y)), np.column_stack((y, x))))
    (grow, turn), *_ = np.linalg.lstsq(rows, (errors - shift).T.ravel(), rcond=None)
    left = errors - shift - np.column_stack((grow * x - turn * y, turn * x + grow * y))
    return Summary(
        len(errors), float(np.median(size_mm)), float(np.percentile(size_mm, 95)), float(size_mm.max()),
        (1e3 * float(shift[0]), 1e3 * float(shift[1])), float(np.degrees(np.arctan2(turn, 1.0 + grow))), float(np.hypot(1.0 + grow, turn)),
        1e3 * float(np.median(np.linalg.norm(left, axis=1))),
    )  # fmt: skip


def plot(grid: Grid, file: Path | BinaryIO) -> None:
    """Draw errors over the table: colour for their size in mm, arrows (five times as long) for where they point.

    Raises `MissingExtraError` without matplotlib.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise MissingExtraError("matplotlib", "sim") from None
    told = summary(grid)
    x, y = 1e3 * grid.commanded_in_table_m.T
    error_x, error_y = 1e3 * grid.errors_m().T
    size = np.hypot(error_x, error_y)
    figure = Figure(figsize=(8.5, 6.0), layout="constrained")
    axes = figure.add_subplot()
    top = max(1.0, float(size.max()))
    heat = axes.imshow(
        _between(x, y, size), extent=_extent(x, y), origin="lower", cmap="viridis", vmin=0.0, vmax=top, aspect="equal", alpha=0.85
    )
    axes.scatter(x, y, c=size, cmap="viridis", vmin=0.0, vmax=top, edgecolors="white", s=45, zorder=3)
    axes.quiver(x, y, error_x, error_y, angles="xy", scale_units="xy", scale=0.2, color="white", width=0.004, zorder=4)
    figure.colorbar(heat, ax=axes, label="error, mm")
    axes.set(xlabel="x on the table, mm (right); arrows are 5 times as long as the error", ylabel="y on the table, mm (away from the base)")
    axes.set_title(
        f"Sent against measured by {grid.by}: median {told.median_mm:.1f}, 95 % {told.most_mm:.1f}, max {told.max_mm:.1f} mm\n"
        f"shift ({told.shift_mm[0]:+.1f}, {told.shift_mm[1]:+.1f}) mm, turn {told.turn_deg:+.1f}°, without both {told.left_mm:.1f} mm",
        fontsize=10,
    )
    figure.savefig(file, dpi=120, format="png")


MARGIN_MM = 25.0  # room for arrows


def _extent(x_mm: Float64, y_mm: Float64) -> tuple[float, float, float, float]:
    return x_mm.min() - MARGIN_MM, x_mm.max() + MARGIN_MM, y_mm.min() - MARGIN_MM, y_mm.max() + MARGIN_MM


def _between(x_mm: Float64, y_mm: Float64, values: Float64, cells: int = 80) -> Float64:
    """(cells, cells) weighted means of the values, which fall off with the distance: a map, not a measurement."""
    left, right, low, high = _extent(x_mm, y_mm)
    at_x, at_y = np.meshgrid(np.linspace(left, right, cells), np.linspace(low, high, cells))
    squared = (at_x[..., None] - x_mm) ** 2 + (at_y[..., None] - y_mm) ** 2
    weights = np.exp(-squared / (2.0 * 15.0**2)) + 1e-12
    return np.asarray((weights * values).sum(axis=-1) / weights.sum(axis=-1))
