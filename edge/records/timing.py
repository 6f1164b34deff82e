"""What `dofbot timing` shows of a run: quantiles and histograms of its stages, as a table or as a picture."""

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct
from rich.console import Console
from rich.table import Table

from edge.errors import ConfigError
from edge.records.histogram import LONGEST_S, RATIO, SHORTEST_S, Durations, bucket_ends_s
from edge.records.record import Timing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STAGES = {
    "lateness_s": "tick late",
    "frame_age_s": "age of the frame used",
    "observation_s": "observation",
    "inference_s": "policy",
    "task_s": "task, IK and gate",
    "bus_s": "servo bus",
    "decision_s": "decision, all of it",
}
_BARS = " ▁▂▃▄▅▆▇█"
_CELLS_PER_DECADE = 4
_DECADES = round(math.log10(LONGEST_S / SHORTEST_S))
_NOTE = "From 1 µs to 10 s, a decade between two marks. Heights are logarithmic: a single sample shows."


class _Run(Struct):
    timing: Timing


def load(path: Path) -> Timing:
    """The timing in a summary; raises `ConfigError` when the file has none."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Run).timing
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}); give the file that dofbot run --summary wrote") from None
    except (ValueError, RecursionError) as error:  # ValueError: msgspec's own errors, and invalid UTF-8
        raise ConfigError(f"{path} is no summary of a run ({error}); give the file that dofbot run --summary wrote") from None


def show(timing: Timing) -> None:
    """Print a row for each stage."""
    table = Table(caption=_NOTE, caption_justify="left")
    for heading in ("", "samples", "p50 ms", "p99 ms", "p99.9 ms", "max ms"):
        table.add_column(heading, justify="right" if heading else "left")
    table.add_column(("╷" + " " * (_CELLS_PER_DECADE - 1)) * _DECADES, no_wrap=True)
    for field, stage in STAGES.items():
        found: Durations = getattr(timing, field)
        quantiles = (found.p50, found.p99, found.p99_9, found.max)
        table.add_row(stage, str(found.count), *(_milliseconds(quantile_s) for quantile_s in quantiles), bars(found))
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def bars(found: Durations) -> str:
    """A histogram in one line of text, four characters a decade; one that is not empty is never blank where there are samples."""
    cells = [0] * (_CELLS_PER_DECADE * _DECADES)
    for bucket, samples in found.buckets.items():
        low_s, _ = bucket_ends_s(bucket)
        cell = _CELLS_PER_DECADE * math.log10(low_s / SHORTEST_S) if low_s else 0.0
        cells[min(int(cell + 1e-9), len(cells) - 1)] += samples
    most = math.log1p(max(cells))
    return "".join(_BARS[math.ceil(math.log1p(samples) / most * (len(_BARS) - 1))] if samples else " " for samples in cells)


def draw(timing: Timing, path: Path) -> None:
    """Draw the stages under each other on one axis of time; needs matplotlib. Raises `ConfigError` where no PNG file can be written."""
    if path.suffix != ".png":
        raise ConfigError(f"--png {path} ends in {path.suffix!r}, expected .png; give another path")
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    figure = Figure(figsize=(9, 9), layout="constrained")
    panels = figure.subplots(len(STAGES), 1, sharex=True)
    for panel, (field, stage) in zip(panels, STAGES.items(), strict=True):
        _draw_stage(panel, getattr(timing, field), stage)
    every = [getattr(timing, field) for field in STAGES]
    slowest_s = max((found.max for found in every), default=0.0)
    panels[-1].set(xlim=(0.9 * SHORTEST_S, max(0.03, 2.0 * slowest_s)), xlabel="duration; both axes are logarithmic")
    panels[-1].xaxis.set_major_formatter(FuncFormatter(lambda value, _: _rounded(value)))
    figure.suptitle("Where the time of a tick goes: samples by duration")
    try:
        figure.savefig(path, dpi=120)
    except OSError as error:
        raise ConfigError(f"--png {path} cannot be written ({error.strerror}); give another path") from None


def _draw_stage(panel: "Axes", found: Durations, stage: str) -> None:
    """One histogram with its quantiles."""
    panel.set(xscale="log", yscale="log", ylim=(0.6, 3.0 * max(found.buckets.values(), default=10)))
    panel.set_title(f"{stage} ({found.count:,})", loc="left", fontsize=9, pad=3)
    if found.count:
        shown = range(min(found.buckets), max(found.buckets) + 1)
        edges_s = [max(bucket_ends_s(bucket)[0], SHORTEST_S / RATIO) for bucket in (*shown, shown.stop)]
        panel.stairs([found.buckets.get(bucket, 0.0) for bucket in shown], edges_s, fill=True, color="tab:blue")
        quantiles = {"p50": found.p50, "p99": found.p99, "p99.9": found.p99_9, "max": found.max}
        colours = ("0.5", "tab:orange", "tab:red", "black")
        for (name, quantile_s), colour in zip(quantiles.items(), colours, strict=True):
            label = f"{name} {_rounded(quantile_s)}"
            panel.axvline(max(quantile_s, SHORTEST_S), color=colour, linewidth=1.2, label=label)
        panel.legend(loc="lower right", bbox_to_anchor=(1.0, 0.97), fontsize=8, ncols=4, frameon=False, borderaxespad=0.0, handlelength=1.0)
    panel.grid(alpha=0.3)
    panel.tick_params(labelsize=8)


def _milliseconds(duration_s: float) -> str:
    return f"{duration_s * 1e3:.3g}" if duration_s < 1.0 else f"{duration_s * 1e3:,.0f}"


def _rounded(duration_s: float) -> str:
    """In the unit that a person would choose."""
    unit, scale = next((unit, scale) for unit, scale in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)) if duration_s >= scale or unit == "µs")
    return f"{duration_s / scale:.3g} {unit}"
