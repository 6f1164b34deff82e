"""What is printed: boards of squares and markers, in metres, and how long their rulers came out of the printer.

A board's frame lies on the paper: origin at the upper left of its pattern, x right, y down, z into the paper.
No image shows how large a board is, so the measured rulers are part of it: without them there are no metric points.
"""

from pathlib import Path
from typing import Annotated, NamedTuple

import msgspec
import numpy as np
from msgspec import Meta, Struct

from calibration import json_file
from calibration.opencv import Ids, marker_bits
from edge.errors import CalibrationError, ConfigError
from edge.messages import Float64

RULER_MM = 100.0  # as drawn, once along x and once along y
RULER_OFF_MM = 10.0  # further off it was read wrongly: no printer scales by 10 %
BLOCK_IDS = (30, 36)  # first, and one past the last
GRID_IDS = (40, 41, 42, 43)  # upper left, upper right, lower left, lower right
GRID_MIN_MM, GRID_MAX_MM = (-100, 0), (100, 170)  # table frame: from below the base axis to where a grasp starts (164 mm)

Length = Annotated[float, Meta(gt=0.0, le=2.0)]


class Rect(NamedTuple):
    """A black or white rectangle; later ones lie over earlier ones."""

    x_m: float
    y_m: float
    width_m: float
    height_m: float
    is_black: bool


class Placed(Struct, frozen=True, forbid_unknown_fields=True):
    """A marker on the paper: its upper left corner and its width, black border included."""

    id: int
    x_m: float
    y_m: float
    size_m: Length


class _Printed(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    dictionary: str
    ruler_mm: tuple[float, float] | None = None  # measured length of the ruler along x, along y

    @property
    def scale(self) -> Float64:
        """(2,) true over drawn length along x and y; raises `CalibrationError` where the rulers were not measured."""
        if self.ruler_mm is None:
            remedy = "measure both on the paper and give them: dofbot calibrate ruler, or --ruler-mm X Y"
            raise CalibrationError(f"the board's rulers are not measured, and no image tells how large it is; {remedy}")
        return np.array(self.ruler_mm) / RULER_MM


class CharucoBoard(_Printed, frozen=True, tag="charuco"):
    """A chessboard with markers in its white squares; corner ids count the inner corners row by row."""

    columns: Annotated[int, Meta(ge=3, le=30)]
    rows: Annotated[int, Meta(ge=3, le=31)]
    square_m: Length
    marker_m: Length

    def __post_init__(self) -> None:
        """Refuse what detectors disagree about."""
        if self.rows % 2 == 0:
            raise ValueError(f"rows = {self.rows}, expected an odd number: with an even one OpenCV has two layouts that look alike")
        if not 0.5 <= self.marker_m / self.square_m <= 0.9:
            raise ValueError(f"marker_m = {self.marker_m} in squares of {self.square_m}, expected 0.5 to 0.9 of a square; 0.72 is good")

    @property
    def size_m(self) -> tuple[float, float]:
        """Width and height of the pattern."""
        return self.columns * self.square_m, self.rows * self.square_m

    @property
    def markers(self) -> tuple[Placed, ...]:
        """One in each white square, counted row by row."""
        margin = (self.square_m - self.marker_m) / 2.0
        white = [(column, row) for row in range(self.rows) for column in range(self.columns) if (row + column) % 2]
        return tuple(
            Placed(i, column * self.square_m + margin, row * self.square_m + margin, self.marker_m) for i, (column, row) in enumerate(white)
        )

    def nominal_points_m(self) -> dict[int, tuple[float, float]]:
        """Each corner id's place as drawn."""
        across = self.columns - 1
        places = ((i, i % across + 1, i // across + 1) for i in range(across * (self.rows - 1)))
        return {i: (column * self.square_m, row * self.square_m) for i, column, row in places}

    def rects(self) -> list[Rect]:
        """The pattern, white ground first."""
        square = self.square_m
        black = [(column, row) for row in range(self.rows) for column in range(self.columns) if (row + column) % 2 == 0]
        squares = [Rect(column * square, row * square, square, square, True) for column, row in black]
        return [Rect(0.0, 0.0, *self.size_m, False), *squares, *_marker_rects(self)]


class MarkerBoard(_Printed, frozen=True, tag="markers"):
    """Markers at known places; the corner id is 4 · marker id + 0 to 3, clockwise from the marker's upper left."""

    size_m: tuple[Length, Length]
    markers: tuple[Placed, ...]
    table_origin_m: tuple[float, float] | None = None  # where the table frame's origin lies on the paper; its y points up the paper

    def nominal_points_m(self) -> dict[int, tuple[float, float]]:
        """Each corner id's place as drawn."""
        around = ((0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0))
        return {
            4 * one.id + k: (one.x_m + right * one.size_m, one.y_m + down * one.size_m)
            for one in self.markers
            for k, (right, down) in enumerate(around)
        }

    def rects(self) -> list[Rect]:
        """The pattern, white ground first."""
        return [Rect(0.0, 0.0, *self.size_m, False), *_marker_rects(self)]


Board = CharucoBoard | MarkerBoard


def charuco(
    columns: int = 5, rows: int = 7, square_m: float = 0.025, marker_m: float = 0.018, dictionary: str = "DICT_4X4_50"
) -> CharucoBoard:
    """A ChArUco board; as it stands it fills the image at 0.25 m and its modules have 5 pixels at 0.34 m (fx 610)."""
    try:
        board = CharucoBoard(columns=columns, rows=rows, square_m=square_m, marker_m=marker_m, dictionary=dictionary)
    except ValueError as error:
        raise ConfigError(f"board: {error}") from None
    marker_bits(dictionary, len(board.markers) - 1)  # raises where the dictionary is too small
    return board


def aruco(columns: int = 4, rows: int = 5, marker_m: float = 0.030, gap_m: float = 0.010, dictionary: str = "DICT_4X4_50") -> MarkerBoard:
    """A grid of markers, for where a chessboard would be covered in part."""
    marker_bits(dictionary, columns * rows - 1)
    pitch = marker_m + gap_m
    markers = tuple(
        Placed(row * columns + column, column * pitch, row * pitch, marker_m) for row in range(rows) for column in range(columns)
    )
    return MarkerBoard(size_m=(columns * pitch - gap_m, rows * pitch - gap_m), markers=markers, dictionary=dictionary)


def blocks(marker_m: float = 0.025, block_m: float = 0.030, dictionary: str = "DICT_4X4_50") -> MarkerBoard:
    """Six markers to cut out, one for the top of each block; smaller than 25 mm they are not seen well enough."""
    if not 0.025 <= marker_m <= 0.9 * block_m:
        found = f"block markers of {marker_m * 1e3:g} mm on blocks of {block_m * 1e3:g} mm"
        raise ConfigError(f"board: {found}, expected 25 mm to 0.9 of the block, so that white is left around them; change either")
    margin, pitch = (block_m - marker_m) / 2.0, block_m + 0.010
    ids = range(*BLOCK_IDS)
    markers = tuple(Placed(i, n % 3 * pitch + margin, n // 3 * pitch + margin, marker_m) for n, i in enumerate(ids))
    return MarkerBoard(size_m=(2 * pitch + block_m, pitch + block_m), markers=markers, dictionary=dictionary)


def grid(marker_m: float = 0.025, dictionary: str = "DICT_4X4_50") -> MarkerBoard:
    """Millimetres on the table, in the table frame, with a marker beside each corner."""
    (x0, y0), (x1, y1) = GRID_MIN_MM, GRID_MAX_MM
    beside, width, height = marker_m + 0.005, (x1 - x0) * 1e-3, (y1 - y0) * 1e-3
    places = [(x, y) for y in (0.0, height - marker_m) for x in (0.0, 2 * beside + width - marker_m)]
    markers = tuple(Placed(i, x, y, marker_m) for i, (x, y) in zip(GRID_IDS, places, strict=True))
    origin = (beside - x0 * 1e-3, height + y0 * 1e-3)
    return MarkerBoard(size_m=(2 * beside + width, height), markers=markers, table_origin_m=origin, dictionary=dictionary)


def points_m(board: Board, ids: Ids) -> Float64:
    """(n, 3) where corners are on the paper as it was printed; raises `CalibrationError` without measured rulers."""
    return drawn_points_m(board, ids) * (*board.scale, 1.0)


def drawn_points_m(board: Board, ids: Ids) -> Float64:
    """(n, 3) where corners are as drawn."""
    nominal = board.nominal_points_m()
    return np.array([(*nominal[int(i)], 0.0) for i in ids]).reshape(-1, 3)


def measured(board: Board, ruler_mm: tuple[float, float]) -> Board:
    """The board with its rulers as measured; raises `ConfigError` for a length that cannot be."""
    _check_rulers(ruler_mm, "--ruler-mm")
    return msgspec.structs.replace(board, ruler_mm=ruler_mm)


def save(path: Path, board: Board) -> None:
    """Write the board's JSON whole; raises `ConfigError`."""
    json_file.save(path, board, "board")


def load(path: Path) -> Board:
    """Read a board's JSON; raises `ConfigError`."""
    board: Board = json_file.load(path, CharucoBoard | MarkerBoard, "board", "write one: dofbot calibrate board")
    if board.ruler_mm is not None:
        _check_rulers(board.ruler_mm, f"board {path}")
    return board


def _check_rulers(ruler_mm: tuple[float, float], where: str) -> None:
    for axis, length in zip("xy", ruler_mm, strict=True):
        if not abs(length - RULER_MM) <= RULER_OFF_MM:
            expected = f"expected {RULER_MM:g} ± {RULER_OFF_MM:g}; measure from end mark to end mark"
            raise ConfigError(f"{where}: the ruler along {axis} is {length:g} mm, {expected}")


def _marker_rects(board: Board) -> list[Rect]:
    """Each marker black, with its white modules on it, joined along rows."""
    rects = []
    for one in board.markers:
        bits = marker_bits(board.dictionary, one.id)
        module = one.size_m / len(bits)
        rects.append(Rect(one.x_m, one.y_m, one.size_m, one.size_m, True))
        for row, line in enumerate(bits):
            edges = np.flatnonzero(np.diff(np.concatenate(([0], line.astype(np.int8), [0]))))
            for start, end in edges.reshape(-1, 2).tolist():
                rects.append(Rect(one.x_m + start * module, one.y_m + row * module, (end - start) * module, module, False))
    return rects
