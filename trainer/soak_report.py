"""What a soak found: a table for the terminal, a page of Markdown, a picture and the figures as JSON."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from trainer.soak import Soak
from trainer.soak_person import ACTS_AFTER_S, FAULT_EVERY_S, LASTS_S, NACKS

SIMULATED = (
    "Simulated: the PCA9685, servos, desk, camera and the person; no physics, a block is held when the fingers close over it. "
    "Real: runtime, gate, bus writer, ServoKit's driver, orders and fault injection, the process that runs on the arm."
)
SEES = {"depth": "depth images", "xyz": "where a block is, by the marker on its top in grey images"}


@contextmanager
def progress(hours: float) -> Iterator[Callable[[float], None]]:
    """A bar on standard error; the yielded function takes the hours that have passed. No log meanwhile: it tells of every fault."""
    columns = (TextColumn("soaking"), BarColumn(), TextColumn("{task.completed:.2f} of {task.total:g} h"), TimeRemainingColumn())
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with Progress(*columns, console=Console(stderr=True), refresh_per_second=1) as bar:
            task = bar.add_task("", total=hours)
            yield lambda passed_h: bar.update(task, completed=passed_h)
    finally:
        logging.disable(level)


def write(soak: Soak, out: Path, command: str) -> None:
    """Write soak.md, soak.png and soak.json into a folder."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "soak.json").write_bytes(msgspec.json.format(msgspec.json.encode(soak)) + b"\n")
    (out / "soak.md").write_text(_page(soak, command), encoding="utf-8")
    _draw(soak, out / "soak.png")


def show(soak: Soak, out: Path) -> None:
    """Print the table."""
    table = Table(title=_title(soak), caption=SIMULATED, caption_justify="left", show_header=False)
    for what, found in _rows(soak).items():
        table.add_row(what, found)
    console = Console()
    console.print(table)
    console.print(f"{soak.wall_s:.0f} s in all; the page, the picture and all figures are in {out}")


def _title(soak: Soak) -> str:
    return f"{soak.hours:.2f} hours on the {soak.clock} clock: {soak.unsafe} unsafe commands"


def _rows(soak: Soak) -> dict[str, str]:
    """What a person wants to know, in order."""
    memory, late = soak.memory, soak.lateness
    at_h = dict(zip((f"{hours:.1f} h" for hours in memory.hours), memory.resident_mb, strict=True))
    whole = {hours: mb for hours, mb in at_h.items() if hours.endswith(".0 h")}
    spans_s = max(soak.wall_s, 1e-9), max(soak.cpu_s, 1e-9)
    a_second, a_cpu_second = (f"{soak.ticks / span_s:,.0f}" for span_s in spans_s)
    start_mb, end_mb, most_mb = memory.resident_mb[0], memory.resident_mb[-1], max(memory.resident_mb)
    rows = {
        "hours": f"{soak.hours:.2f} of {soak.asked_hours:g}, ended by: {soak.ended_by}",
        "what the policy sees": f"{SEES[soak.variant]} (variant {soak.variant}; SHA-256 {soak.policy_sha256[:12]})",
        "ticks": f"{soak.ticks:,}; {a_second} a second, {a_cpu_second} a second of processor time",
        "unsafe commands": f"{soak.unsafe} of {soak.sent:,} that were sent{_listed(soak.unsafe_why, ': ')}",
        "grasps": f"{soak.attempts:,}: {soak.picked:,} picked, {soak.missed} missed, {soak.lost} lost",
        "faults injected": f"{soak.asked.get('inject', 0):,}, and {NACKS:.0%} of all transactions not acknowledged",
        "commands of the person": _listed(soak.asked) + f"; {soak.refused} refused",
        "HOLDs": f"{sum(soak.holds.values()):,}{_listed(soak.holds, ': ')}",
        "of these ended by themselves": f"{soak.recoveries:,}",
        "SAFEs": f"{sum(soak.safes.values()):,}{_listed(soak.safes, ': ')}",
        "bus": f"{soak.unacknowledged:,} attempts not acknowledged, {soak.retries:,} repeated within their tick",
        "ticks that held, that the gate clamped": f"{soak.held_ticks:,}, {soak.clamped_ticks:,}",
        "overruns, deadlines skipped, injected ones included": f"{soak.overruns:,}, {soak.skipped:,}",
        "resident memory": f"{start_mb:.1f} MiB at the start, {end_mb:.1f} at the end, {most_mb:.1f} at most",
        "at whole hours, MiB": ", ".join(f"{mb:.1f}" for mb in whole.values()),
        f"memory slope from {memory.fitted_from_h:.1f} h on": (
            f"{memory.slope_mb_per_h:+.3f} ± {memory.slope_error_mb_per_h:.3f} MiB an hour (least squares, standard error)"
        ),
    }
    if soak.clock == "real":
        late_ms = [1e3 * value for value in (late.p50, late.p99, late.p99_9, late.max)]
        rows["ticks late, injected delays included"] = "p50 {:.2f} ms, p99 {:.2f} ms, p99.9 {:.2f} ms, max {:.0f} ms".format(*late_ms)
    return rows


def _listed(counts: dict[str, int], before: str = "") -> str:
    text = ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items(), key=lambda item: -item[1]))
    return before + text if text else ""


def _page(soak: Soak, command: str) -> str:
    (low_s, high_s), (soonest_s, latest_s) = LASTS_S, ACTS_AFTER_S
    lines = [
        "# Soak",
        "",
        f"Written by `{command}`. {SIMULATED}",
        "",
        f"About every {FAULT_EVERY_S:g} s a fault is drawn, at random from all kinds below, for {low_s:g} to {high_s:g} s (logarithmically "
        f"uniform), and {NACKS:.0%} of all bus transactions are not acknowledged throughout. A scripted person acts every {soonest_s:g} to "
        f"{latest_s:g} s: arms, orders 1 to 5 grasps, at times holds or parks the arm, and resets it after SAFE. Every attempt to send a "
        "set point is checked by arithmetic of its own (`trainer/command_checker.py`): finite, position, velocity, acceleration, box.",
        "",
        "| what | found |",
        "| --- | --- |",
        *(f"| {what} | {found} |" for what, found in _rows(soak).items()),
        "",
        "How often each fault was really applied:",
        "",
        "| fault | applied |",
        "| --- | --- |",
        *(f"| {fault} | {count:,} |" for fault, count in sorted(soak.faults.items())),
        "",
        "The standard error takes the samples for independent, which they are not quite: take twice of it.",
        *(f"\nUnsafe: {example}" for example in soak.unsafe_examples),
        "",
        "![Resident memory, HOLDs and SAFEs over the hours](soak.png)",
        "",
    ]
    return "\n".join(lines)


def _draw(soak: Soak, path: Path) -> None:
    """Memory, and how often the arm held or went to SAFE, over the hours."""
    figure = Figure(figsize=(9, 5.5), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    memory = soak.memory
    upper.plot(memory.hours, memory.resident_mb, ".-", color="tab:blue", label="resident memory")
    kept = [hour for hour in memory.hours if hour >= memory.fitted_from_h]
    if kept:
        _draw_fit(upper, soak, kept)
    upper.set(ylabel="MiB", ylim=(0.0, 1.15 * max(*memory.resident_mb, 1.0)))
    upper.legend(loc="lower right")
    events = {"HOLD": (soak.hold_at_h, "tab:orange"), "SAFE": (soak.safe_at_h, "tab:red")}
    bins = max(int(min(soak.hours * 4.0, 96.0)), 12)
    width_h = max(soak.hours, 1e-6) / bins
    for name, (at_h, colour) in events.items():
        counts = [0] * bins
        for hour in at_h:
            counts[min(int(hour / width_h), bins - 1)] += 1
        edges = [width_h * index for index in range(bins + 1)]
        lower.stairs(counts, edges, fill=True, color=colour, alpha=0.8, label=f"{name} ({len(at_h):,})")
    lower.set(xlabel=f"hours on the {soak.clock} clock", ylabel=f"in {width_h * 60.0:.2g} minutes", xlim=(0.0, max(soak.hours, 1e-6)))
    lower.legend(loc="upper right")
    for axes in (upper, lower):
        axes.grid(alpha=0.3)
    figure.suptitle(_title(soak))
    figure.savefig(path, dpi=120)


def _draw_fit(axes: Axes, soak: Soak, hours: list[float]) -> None:
    """The fitted slope, through the middle of what it was fitted to."""
    memory = soak.memory
    kept_mb = [mb for hour, mb in zip(memory.hours, memory.resident_mb, strict=True) if hour >= memory.fitted_from_h]
    middle_h, middle_mb = sum(hours) / len(hours), sum(kept_mb) / len(kept_mb)
    fitted = [middle_mb + memory.slope_mb_per_h * (hour - middle_h) for hour in hours]
    label = f"{memory.slope_mb_per_h:+.3f} ± {memory.slope_error_mb_per_h:.3f} MiB an hour"
    axes.plot(hours, fitted, color="black", linewidth=1.0, label=label)
