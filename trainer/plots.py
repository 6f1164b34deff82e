"""Pictures of a training run and of an evaluation."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, PercentFormatter

from edge.contract import Contract, Episode
from trainer.evaluate import Outcome, causes, wilson
from trainer.randomise import RANGES

if TYPE_CHECKING:  # it brings torch, which evaluating a policy file does without
    from trainer.mount_study import Cell
    from trainer.runlog import Row

GRASPED = "tab:blue"
CAUSE_COLOURS = {"missed": "tab:red", "pushed": "tab:orange", "slipped": "tab:purple", "late": "tab:brown"}  # trainer.env
MAP_CELLS = (3, 3, 5)  # |yaw|, y, x: 15° by 17 mm by 20 mm, 22 of 1000 blocks in each

Point = tuple[float, int, int]  # noise in pixels, successes, episodes


def curve(rows: "list[Row]", path: Path) -> None:
    """Success against environment steps, with the minutes that they took on top. Without rows there is no picture."""
    if not rows:
        return
    steps, minutes = np.array([row.env_steps for row in rows]), np.array([row.wall_s / 60.0 for row in rows])
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(steps, [row.success for row in rows], color=GRASPED, label="training episodes, exploring")
    screens = [row for row in rows if row.eval_success == row.eval_success]
    if screens:
        axes.plot(
            [row.env_steps for row in screens],
            [row.eval_success for row in screens],
            "D",
            color="tab:orange",
            markersize=7,
            clip_on=False,
            label="fresh blocks, deterministic",
        )
    axes.axhline(0.99, color="0.6", linewidth=0.8, linestyle="--")
    axes.set(xlabel="environment steps", ylabel="grasp success", ylim=(0.0, 1.02), xlim=(0, 1.02 * steps[-1]))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    top = axes.secondary_xaxis("top")
    whole = np.arange(0.0, minutes[-1] + 1e-9, _round_step(minutes[-1]))
    top.set_xticks(np.interp(whole, np.r_[0.0, minutes], np.r_[0, steps]), [f"{value:g}" for value in whole])
    top.set_xlabel("minutes")
    figure.savefig(path, dpi=130)


def success_map(outcomes: list[Outcome], contract: Contract, title: str, path: Path) -> None:
    """Where blocks lay, and which were missed, in the table frame."""
    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.add_subplot()
    for cause, count in {"": sum(o.is_success for o in outcomes), **causes(outcomes)}.items():
        colour, marker, size, alpha = (GRASPED, ".", 12, 0.6) if cause == "" else (CAUSE_COLOURS.get(cause, "black"), "X", 60, 1.0)
        x_mm, y_mm = ([1e3 * getattr(o, name) for o in outcomes if o.cause == cause] for name in ("block_x_m", "block_y_m"))
        axes.scatter(x_mm, y_mm, size, colour, marker=marker, label=f"{cause or 'grasped'} ({count})", alpha=alpha)
    (x_min, y_min), (x_max, y_max) = contract.episode.spawn_min_in_table_m, contract.episode.spawn_max_in_table_m
    margin = 0.005
    axes.set(
        xlabel="block x in the table frame (mm)",
        ylabel="block y, away from the base (mm)",
        xlim=(1e3 * (x_min - margin), 1e3 * (x_max + margin)),
        ylim=(1e3 * (y_min - margin), 1e3 * (y_max + margin)),
        aspect="equal",
    )
    successes = sum(outcome.is_success for outcome in outcomes)
    low, high = wilson(successes, len(outcomes))
    axes.set_title(f"{title}: {successes} of {len(outcomes)} grasped (95 % interval {low:.1%} to {high:.1%})")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=5)
    figure.savefig(path, dpi=130)


class Cells(NamedTuple):
    """Grasps and episodes in each cell, both (|yaw|, y, x); `edges` are the cells' bounds in rad, m, m."""

    successes: np.ndarray
    episodes: np.ndarray
    edges: tuple[np.ndarray, ...]


def cells(outcomes: list[Outcome], episode: Episode) -> Cells:
    """Outcomes by where the block lay and how far it was turned."""
    (x_min, y_min), (x_max, y_max) = episode.spawn_min_in_table_m, episode.spawn_max_in_table_m
    ranges = ((0.0, episode.spawn_yaw_rad), (y_min, y_max), (x_min, x_max))
    edges = tuple(np.linspace(*ends, count + 1) for ends, count in zip(ranges, MAP_CELLS, strict=True))
    where = np.array([(abs(o.block_yaw_rad), o.block_y_m, o.block_x_m) for o in outcomes])
    successes, _ = np.histogramdd(where, edges, weights=[float(o.is_success) for o in outcomes])
    episodes, _ = np.histogramdd(where, edges)
    return Cells(successes.astype(int), episodes.astype(int), edges)


def heat_map(outcomes: list[Outcome], contract: Contract, file: BinaryIO) -> None:
    """Success in each cell of the spawn area, a panel for each range of yaw; a cell without a block stays blank."""
    found = cells(outcomes, contract.episode)
    yaw_deg, y_mm, x_mm = np.degrees(found.edges[0]), found.edges[1] * 1e3, found.edges[2] * 1e3
    figure = Figure(figsize=(12, 2.9), layout="constrained")
    panels = figure.subplots(1, MAP_CELLS[0], sharey=True)
    for panel, successes, episodes, low, high in zip(panels, found.successes, found.episodes, yaw_deg, yaw_deg[1:], strict=False):
        share = np.ma.masked_invalid(np.divide(successes, episodes, out=np.full(episodes.shape, np.nan), where=episodes > 0))
        mesh = panel.pcolormesh(x_mm, y_mm, share, cmap="RdYlBu", vmin=0.0, vmax=1.0, edgecolors="white", linewidth=1.5)
        for (row, column), count in np.ndenumerate(episodes):
            if count:
                middle = (x_mm[column : column + 2].mean(), y_mm[row : row + 2].mean())
                colour = "white" if abs(share[row, column] - 0.5) > 0.4 else "black"
                text = f"{share[row, column]:.0%}\n{successes[row, column]}/{count}"
                panel.annotate(text, middle, ha="center", va="center", fontsize=8, color=colour)
        panel.set(title=f"turned {low:.0f} to {high:.0f}°", xlabel="block x (mm)", aspect="equal", xticks=x_mm, yticks=y_mm.round(1))
    panels[0].set_ylabel("block y (mm)")
    figure.colorbar(mesh, ax=panels, label="grasped", format=PercentFormatter(1.0), shrink=0.7)
    figure.savefig(file, dpi=110)


def noise_curve(curves: dict[str, list[Point]], file: BinaryIO) -> None:
    """Success against the camera's disparity noise with its 95 % interval, a line for each policy."""
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.add_subplot()
    for who, points in curves.items():
        noise_px, successes, episodes = np.array(points).T
        share = successes / episodes
        low, high = np.array([wilson(int(s), int(n)) for s, n in zip(successes, episodes, strict=True)]).T
        axes.errorbar(noise_px, share, (share - low, high - share), fmt="o-", capsize=4, label=who)
    usual = RANGES.noise_px
    axes.axvspan(usual.low, usual.high, color="0.92", label="drawn in 'randomised'")
    axes.set(xlabel="disparity noise of the depth camera (pixels, standard deviation)", ylabel="grasped", ylim=(0.0, 1.02))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower left")
    figure.savefig(file, dpi=110)


def study(table: Path, path: Path) -> None:
    """Success on fresh blocks against training time: a colour for each variant, a line for each seed; `trainer.study` writes the table."""
    with table.open(newline="") as file:
        rows = [
            (variant, int(seed), float(wall_s) / 60.0, int(successes) / int(episodes))
            for variant, seed, _, wall_s, successes, episodes in csv.reader(file)
        ]
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for number, variant in enumerate(dict.fromkeys(row[0] for row in rows)):
        for seed in dict.fromkeys(row[1] for row in rows if row[0] == variant):
            minutes, success = zip(*(row[2:] for row in rows if row[:2] == (variant, seed)), strict=True)
            axes.plot(minutes, success, ".-", color=f"C{number}", alpha=0.7, label=variant if seed == 0 else None)
    axes.axhline(0.99, color="0.6", linewidth=0.8, linestyle="--")
    axes.set(xlabel="minutes of training", ylabel="fresh blocks grasped", xlim=(0, None), ylim=(0.0, 1.02))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=130)


def mounts(shares: "dict[Cell, tuple[int, int]]", named: Callable[[str, float], str], path: Path) -> None:
    """Success against how far the camera is from where it was meant, a panel each for lengths and angles; see `trainer.mount_study`."""
    figure = Figure(figsize=(9.5, 4.2), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    places = list(dict.fromkeys((cell.sensor, cell.back_mm) for cell in shares))
    for panel, unit, field, other in zip(panels, ("mm", "°"), ("off_mm", "off_deg"), ("off_deg", "off_mm"), strict=True):
        for number, (place, is_reprojected) in enumerate((place, how) for place in places for how in (True, False)):
            mine = {c: found for c, found in shares.items() if c[0:2] == place and c.is_reprojected == is_reprojected}
            chosen = {getattr(c, field): found for c, found in mine.items() if getattr(c, other) == 0.0}
            if not chosen:
                continue
            off, (wins, episodes) = np.array(list(chosen)), np.array(list(chosen.values())).T
            low, high = np.array([wilson(int(s), int(n)) for s, n in zip(wins, episodes, strict=True)]).T
            share, aside = wins / episodes, 0.12 * (number - 2.5)  # side by side, or intervals hide each other
            label = f"{named(*place)}, {'virtual camera' if is_reprojected else 'image as it is'}"
            look = {"color": f"C{number // 2}", "fmt": "o-" if is_reprojected else "s:"}
            panel.errorbar(off + aside, share, (share - low, high - share), capsize=3, label=label, **look)
        panel.set(xlabel=f"camera {'shifted' if unit == 'mm' else 'turned'} by ({unit})", ylim=(-0.03, 1.03))
        panel.yaxis.set_major_formatter(PercentFormatter(1.0))
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("grasped (95 % interval)")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(places))
    figure.savefig(path, dpi=110)


def _round_step(length: float) -> float:
    """Distance between ticks: the round number that gives at most eight of them."""
    return next(step for step in (0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 600.0, np.inf) if length / step <= 8)
