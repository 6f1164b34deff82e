"""One HTML page of a grid: figures against their limits, and the map of errors over the table."""

import io
from collections.abc import Callable, Mapping
from pathlib import Path

from calibration import grid as grids
from calibration.grid import Grid, Summary
from calibration.pages.html import picture, table
from calibration.pages.lens import page

GOOD_MM = {"grid error, median, mm": 3.0, "grid error, 95 %, mm": 8.0}  # as of the held-out error

ROWS: dict[str, Callable[[Summary], str]] = {
    "places": lambda one: f"{one.places}",
    "median, mm": lambda one: f"{one.median_mm:.2f}",
    "95 %, mm": lambda one: f"{one.most_mm:.2f}",
    "largest, mm": lambda one: f"{one.max_mm:.2f}",
    "shift x, y, mm": lambda one: "{:+.2f}, {:+.2f}".format(*one.shift_mm),
    "turn, °": lambda one: f"{one.turn_deg:+.2f}",
    "stretch": lambda one: f"{one.stretch:.4f}",
    "left without these, median, mm": lambda one: f"{one.left_mm:.2f}",
}


def write(path: Path, found: Mapping[str, Grid], about: str) -> None:
    """Write the page whole; the first grid is judged. Raises `OSError`, `MissingExtraError` without matplotlib."""
    told = {name: grids.summary(one) for name, one in found.items()}
    first = next(iter(told.values()))
    judged = [
        (one.name, f"{one.found:.2f}", f"{GOOD_MM[one.name]:g}", f"{one.limit:g}", _state(one.found, GOOD_MM[one.name], one.limit))
        for one in first.checks()
    ]
    sections = {
        "Figures": table(("figure", "found", "good", "at most", ""), judged, states=True),
        "What the errors are made of": table(("", *told), rows(told), left=(0,)),
        **{f"Over the table: {name}": _map(one, name) for name, one in found.items()},
    }
    page(path, "Where the tool was sent, against where it was", about, sections)


def rows(told: Mapping[str, Summary]) -> list[tuple[str, ...]]:
    """A row per figure, a column per grid."""
    return [(name, *(cell(one) for one in told.values())) for name, cell in ROWS.items()]


def _state(found: float, good: float, limit: float) -> str:
    return "good" if found <= good else "bearable" if found <= limit else "refused"


def _map(one: Grid, name: str) -> str:
    file = io.BytesIO()
    grids.plot(one, file)
    return picture(file.getvalue(), "png", f"Errors {name}, mm; between the places the colour is a weighted mean, not a measurement.")
