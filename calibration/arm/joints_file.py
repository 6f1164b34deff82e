"""Which angles the joints were sent to in each image: a table beside the images, as CSV or JSON, in degrees.

    image,joint1_deg,joint2_deg,joint3_deg,joint4_deg,joint5_deg,held_out
    001.png,0,12.5,-40,-90,0,0

JSON has a list of objects with the same names. `held_out` may be missing; 1 keeps an image for the verdict.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from math import isfinite, pi
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from edge.buses.servos import LEAST_DEG, MOST_DEG
from edge.errors import ConfigError
from edge.files import write_atomically
from edge.messages import Float64
from edge.robot import JOINT_NAMES

NAMES = tuple(f"{name}_deg" for name in JOINT_NAMES[:5])
SLACK_DEG = 1.0  # a read-back lies beside its limit by sag and play
ROWS_FOR_UNIT = 4  # so many poses within 2π of zero in every joint are radians: planned ones span a hundred degrees


class Posed(NamedTuple):
    """Commanded joints (5,) in rad of one image, and whether it is only for the verdict."""

    joints_rad: Float64
    held_out: bool = False


def find(folder: Path, given: Path | None) -> Path:
    """The joints file: as given, or `joints.csv` or `joints.json` among the images; raises `ConfigError`."""
    for path in (given,) if given else (folder / "joints.csv", folder / "joints.json"):
        if path.is_file():
            return path
    where = str(given) if given else f"{folder}/joints.csv"
    raise ConfigError(f"{where} does not exist, expected a table with columns image, {', '.join(NAMES)}; write one, or give --joints FILE")


def load(path: Path) -> dict[str, Posed]:
    """Joints by the image's file name; raises `ConfigError` for another order, unit or count, naming the row."""
    try:
        text = path.read_text(encoding="utf-8-sig")  # spreadsheets put a byte order mark before it
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"joints {path} cannot be read ({error}), expected CSV or JSON; write it again") from None
    rows = _json_rows(text, path) if path.suffix.lower() == ".json" else _csv_rows(text, path)
    found: dict[str, Posed] = {}
    for number, row in enumerate(rows, 1):
        name, posed = _posed(row, f"joints {path}, row {number}")
        if name in found:
            raise ConfigError(f"joints {path}, row {number}: {name} is there twice, expected one row an image; remove one")
        found[name] = posed
    _check_unit(found, path)
    return found


def save(path: Path, posed: Mapping[str, Posed]) -> None:
    """Write the table whole."""
    lines = [",".join(("image", *NAMES, "held_out"))]
    for name, one in posed.items():
        lines.append(",".join((name, *(f"{deg:.4f}" for deg in np.degrees(one.joints_rad)), str(int(one.held_out)))))
    write_atomically(path, ("\n".join(lines) + "\n").encode())


def _csv_rows(text: str, path: Path) -> list[dict[str, Any]]:
    reader = csv.DictReader(io.StringIO(text), skipinitialspace=True)
    try:
        _check_names(reader.fieldnames or (), path)
        rows = list(reader)
    except csv.Error as error:
        raise ConfigError(f"joints {path} is no table ({error}), expected CSV with columns image, {', '.join(NAMES)}; correct it") from None
    for number, row in enumerate(rows, 1):
        if None in row or None in row.values():
            raise ConfigError(
                f"joints {path}, row {number} has too few or too many values, expected one for each name of the header; correct it"
            )
    return rows


def _json_rows(text: str, path: Path) -> list[dict[str, Any]]:
    try:
        rows = msgspec.json.decode(text, type=list[dict[str, float | str]])
    except (msgspec.DecodeError, RecursionError) as error:
        raise ConfigError(
            f"joints {path} is no list of objects ({error}), expected image, {', '.join(NAMES)} in each; correct it"
        ) from None
    for row in rows:
        _check_names(tuple(row), path)
    return rows


def _check_names(names: Sequence[str], path: Path) -> None:
    missing = [name for name in ("image", *NAMES) if name not in names]
    if missing:
        found = ", ".join(names) or "nothing"
        raise ConfigError(
            f"joints {path} has columns {found}, expected image, {', '.join(NAMES)}, in degrees; {missing[0]} is missing: name it so"
        )


def _posed(row: Mapping[str, Any], where: str) -> tuple[str, Posed]:
    degrees = []
    for joint, name in enumerate(NAMES):
        try:
            value = float(row[name])
        except ValueError:
            raise ConfigError(f"{where}: {name} is {row[name]!r}, expected a number of degrees; correct it") from None
        low, high = LEAST_DEG[joint], MOST_DEG[joint]
        if not (isfinite(value) and low - SLACK_DEG <= value <= high + SLACK_DEG):
            raise ConfigError(
                f"{where}: {name} is {value:g}, expected {low:.0f}…{high:.0f}°; "
                "are these servo angles, counts, or joints in another order? joint angles are 0 where the arm is stretched"
            )
        degrees.append(value)
    held_out = str(row.get("held_out", "0")).strip().lower() in ("1", "1.0", "true", "yes")
    return str(row["image"]).strip(), Posed(np.radians(degrees), held_out)


def _check_unit(found: Mapping[str, Posed], path: Path) -> None:
    if len(found) < ROWS_FOR_UNIT:
        return
    largest = float(np.degrees(np.abs([one.joints_rad for one in found.values()]).max()))
    if largest <= 2.0 * pi:
        raise ConfigError(f"joints {path}: no angle is larger than {largest:.3g}, expected degrees; these look like radians: convert them")
