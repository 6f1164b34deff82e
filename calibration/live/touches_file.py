"""What a person read in a touch test, as CSV in millimetres: where the tool was sent, and how far beside it the pointer stood.

    x_mm,y_mm,off_x_mm,off_y_mm
    -60,90,1.5,-0.5

x is to the right and y away from the base, in the table frame, as the grid is printed.
"""

import csv
import io
from pathlib import Path

import numpy as np

from edge.errors import ConfigError
from edge.files import write_atomically
from edge.messages import Float64

NAMES = ("x_mm", "y_mm", "off_x_mm", "off_y_mm")


def load(path: Path) -> Float64:
    """(n, 4) in mm, columns as `NAMES`; raises `ConfigError` for a file that is none."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--touch {path} cannot be read ({error}), expected CSV with columns {', '.join(NAMES)}; write one") from None
    reader = csv.DictReader(io.StringIO(text), skipinitialspace=True)
    missing = [name for name in NAMES if name not in (reader.fieldnames or ())]
    if missing:
        found = ", ".join(reader.fieldnames or ()) or "nothing"
        raise ConfigError(f"--touch {path} has columns {found}, expected {', '.join(NAMES)}; {missing[0]} is missing: name it so")
    rows = [_row(row, f"--touch {path}, row {number}") for number, row in enumerate(reader, 1)]
    return np.array(rows).reshape(-1, 4)


def save(path: Path, touches_mm: Float64) -> None:
    """Write the table whole; raises `ConfigError`."""
    lines = [",".join(NAMES), *(",".join(f"{value:.2f}" for value in row) for row in touches_mm.tolist())]
    try:
        write_atomically(path, ("\n".join(lines) + "\n").encode())
    except OSError as error:
        raise ConfigError(f"--touch {path} cannot be written ({error.strerror}); give a path that you may write to") from None


def _row(row: dict[str, str], where: str) -> list[float]:
    values = []
    for name in NAMES:
        try:
            values.append(float(row[name]))
        except (TypeError, ValueError):
            raise ConfigError(f"{where}: {name} is {row[name]!r}, expected a number of millimetres; correct it") from None
    return values
