"""What a person read in a touch test, as CSV in millimetres: where the tool was sent, and how far beside it the pointer stood.

    x_mm,y_mm,off_x_mm,off_y_mm
    -60,90,1.5,-0.5

x is to the right and y away from the base, in the table frame, as the grid is printed.
"""

import csv
import io
from math import nan
from pathlib import Path

import numpy as np

from edge.errors import ConfigError
from edge.files import write_atomically
from edge.messages import Float64

NAMES = ("x_mm", "y_mm", "off_x_mm", "off_y_mm")
FAR_MM = 400.0  # beyond that the arm does not reach
NEAR_MM = 40.0  # places that are all nearer to the base axis are in another unit: a vertical tool reaches none of them


def load(path: Path) -> Float64:
    """(n, 4) in mm, columns as `NAMES`; raises `ConfigError` for a file that is none."""
    try:
        text = path.read_text(encoding="utf-8-sig")  # spreadsheets put a byte order mark before it
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--touch {path} cannot be read ({error}), expected CSV with columns {', '.join(NAMES)}; write one") from None
    reader = csv.DictReader(io.StringIO(text), skipinitialspace=True)
    try:
        missing = [name for name in NAMES if name not in (reader.fieldnames or ())]
        if missing:
            found = ", ".join(reader.fieldnames or ()) or "nothing"
            raise ConfigError(f"--touch {path} has columns {found}, expected {', '.join(NAMES)}; {missing[0]} is missing: name it so")
        rows = [_row(row, f"--touch {path}, row {number}") for number, row in enumerate(reader, 1)]
    except csv.Error as error:
        raise ConfigError(f"--touch {path} is no table ({error}), expected CSV with columns {', '.join(NAMES)}; write one") from None
    touches_mm = np.array(rows).reshape(-1, 4)
    if len(rows) and np.hypot(*touches_mm[:, :2].T).max() < NEAR_MM:
        raise ConfigError(f"--touch {path}: all places are nearer than {NEAR_MM:g} to the base axis, expected millimetres; convert them")
    return touches_mm


def save(path: Path, touches_mm: Float64) -> None:
    """Write the table whole; raises `ConfigError`."""
    lines = [",".join(NAMES), *(",".join(f"{value:.2f}" for value in row) for row in touches_mm.tolist())]
    try:
        write_atomically(path, ("\n".join(lines) + "\n").encode())
    except OSError as error:
        raise ConfigError(f"--touch {path} cannot be written ({error.strerror}); give a path that you may write to") from None


def _row(row: dict[str, str], where: str) -> list[float]:
    if None in row or None in row.values():
        count = sum(len(value) if isinstance(value, list) else value is not None for value in row.values())
        raise ConfigError(f"{where} has {count} values, expected one for each name of the header; write decimals with a point")
    values = []
    for name in NAMES:
        try:
            value = float(row[name])
        except ValueError:
            value = nan
        if not abs(value) <= FAR_MM:
            raise ConfigError(f"{where}: {name} is {row[name]!r}, expected a number of millimetres up to {FAR_MM:g}; correct it")
        values.append(value)
    return values
