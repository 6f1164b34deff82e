"""What a benchmark gives: a table of figures, with the bar that they are to pass beside them. Nothing here fails."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from rich.table import Table

Figures = dict[str, Any]  # figure's name, with its unit → number


class Bench(NamedTuple):
    """One subject: a row of figures for each candidate, and what one must know to read them."""

    title: str
    rows: dict[str, Figures]  # candidate → figures
    bars: Figures  # figure's name → bar
    notes: str

    def table(self) -> Table:
        """For the terminal."""
        names = list(dict.fromkeys(name for figures in self.rows.values() for name in figures))
        table = Table(title=self.title, title_justify="left", title_style="bold", caption=self.notes, caption_justify="left", min_width=100)
        table.add_column("")
        for name in names:
            table.add_column(name + (f"\nbar: {self.bars[name]}" if name in self.bars else ""), justify="right")
        for candidate, figures in self.rows.items():
            table.add_row(candidate, *(_shown(figures.get(name)) for name in names))
        return table


def _shown(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else f"{value:.3g}" if abs(value) < 1000.0 else f"{value:,.0f}"


def durations_s(call: Callable[[Any], object], arguments: list[Any]) -> np.ndarray:
    """How long each call took, after one that does not count."""
    call(arguments[0])
    durations = []
    for argument in arguments:
        began_s = time.perf_counter()
        call(argument)
        durations.append(time.perf_counter() - began_s)
    return np.array(durations)
