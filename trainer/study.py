"""How long does training take to 99 %, and what is each ingredient worth? `python -m trainer.study` measures it.

Each run is one `dofbot train` on the clean desk. Its actors, one each 2,000 steps, are played afterwards on fresh blocks. Time to 99 %
is the training time of the first that grasps 990 of 1000 and whose two successors grasp 297 of 300: a lucky spike does not count.
"""

import csv
import signal
import subprocess
import sys
from contextlib import closing
from functools import partial
from math import inf
from pathlib import Path
from statistics import median
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from trainer import plots, runlog
from trainer.cli import EXIT_INTERRUPTED
from trainer.evaluate import evaluate, open_actor, summarise

GOAL = 0.99
IN_A_ROW = 3
AGAIN_EPISODES = 300  # of those that only have to show that it lasts
PLAYED_FROM = 0.8  # success in training, exploring; what is below is not worth 1000 episodes, and does not count as reached
EVALUATION_SEED = 4_000_000
VARIANTS: dict[str, tuple[str, ...]] = {
    "sac": (),
    "without demonstrations": ("--no-demos",),
    "without pose head": ("--no-auxiliary",),
    "without privileged critics": ("--no-privileged",),
    "sparse reward": ("--reward", "sparse"),
    "curriculum in levels": ("--curriculum", "steps"),
    "continuous curriculum": ("--curriculum", "continuous"),
    "sb3": ("--algo", "sb3"),
    "xyz": ("--variant", "xyz"),
}


def main(
    variant: Annotated[str, typer.Option(help=f"One of {', '.join(VARIANTS)}.")] = "sac",
    seeds: Annotated[int, typer.Option(min=1)] = 5,
    steps: Annotated[int, typer.Option(min=6_000, help="What the learning rate is annealed over.")] = 60_000,
    minutes: Annotated[float, typer.Option(min=0.1, help="A training that takes longer is stopped.")] = 30.0,
    episodes: Annotated[int, typer.Option(min=1, help="Fresh blocks a checkpoint.")] = 1000,
    out: Annotated[Path, typer.Option()] = Path("out/study"),
    table: Annotated[Path, typer.Option(help="CSV that results are added to.")] = Path("trainer/results/study.csv"),
) -> None:
    """Train and measure a variant, seed by seed; results are added to the table as they come."""
    for seed in range(seeds):
        run = out / f"{variant.replace(' ', '-')}-{seed}"
        if not run.exists():
            command = ("train", "--seed", str(seed), "--steps", str(steps), "--out", str(run), "--until-success", "0", *VARIANTS[variant])
            _train([sys.executable, "-m", "edge.cli", *command, "--randomisation", "0"], 60.0 * minutes)
        rows = measure(run, variant, seed, episodes)
        with table.open("a", newline="") as file:
            csv.writer(file).writerows(rows)
        reached = time_to_goal(rows)
        if reached:
            typer.echo(f"{variant}, seed {seed}: 99 % after {reached:.0f} s")
        else:
            typer.echo(f"{variant}, seed {seed}: no 99 % in {rows[-1][2]} steps, {rows[-1][3]} s; best {best(rows):.1%}")
        for level, env_steps, wall_s in levels(runlog.read(run)):
            typer.echo(f"  level {level:.0%} of the spawn area after {env_steps} steps, {wall_s:.0f} s")
    plots.study(table, table.with_suffix(".png"))
    _summarise(table)


def _summarise(table: Path) -> None:
    """What the whole table says: how long each variant takes, over its seeds."""
    with table.open(newline="") as file:
        rows = [tuple(row) for row in csv.reader(file)]
    shown = Table("variant", "seeds", "reach 99 %", "median", "worst", "at the end")
    for variant in dict.fromkeys(row[0] for row in rows):
        seeds = dict.fromkeys(row[1] for row in rows if row[0] == variant)
        runs: list[list[tuple[object, ...]]] = [[row for row in rows if row[:2] == (variant, seed)] for seed in seeds]
        times_s = [time_to_goal(run) or inf for run in runs]
        ends = ", ".join(f"{best(run[-1:]):.1%}" for run in runs)
        reached = sum(time_s < inf for time_s in times_s)
        shown.add_row(variant, str(len(runs)), str(reached), f"{median(times_s):.0f} s", f"{max(times_s):.0f} s", ends)
    Console().print(shown)


def _train(command: list[str], limit_s: float) -> None:
    """Run it; one that takes too long is told to save and stop."""
    with subprocess.Popen(command) as process:
        try:
            process.wait(limit_s)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
    if process.returncode not in (0, EXIT_INTERRUPTED):
        raise typer.Exit(process.returncode)


def levels(curve: list[runlog.Row]) -> list[tuple[float, int, float]]:
    """(part of the spawn area, env_steps, wall_s) at which a curriculum first reached each quarter; nothing without one."""
    if not curve or curve[0].spawn_fraction == 1.0:
        return []
    reached = [next((row for row in curve if row.spawn_fraction >= level), None) for level in (0.25, 0.5, 0.75, 1.0)]
    return [(row.spawn_fraction, row.env_steps, row.wall_s) for row in reached if row]


def best(rows: list[tuple[object, ...]]) -> float:
    """The greatest share of grasps; of a checkpoint that was given up early, of what was played."""
    return max(float(str(row[4])) / float(str(row[5])) for row in rows)


def measure(run: Path, variant: str, seed: int, episodes: int) -> list[tuple[object, ...]]:
    """(variant, seed, env_steps, wall_s, successes, episodes) of a run's actors in turn, until enough in a row reach the goal.

    `episodes` are for the first in a row. The last actor is played as well: what was reached must not be lost again.
    """
    curve = runlog.read(run)
    actors = sorted((run / "actors").iterdir(), key=lambda path: int(path.stem))
    known = np.array([(row.env_steps, row.wall_s, np.nan_to_num(row.success)) for row in curve]).T
    rows: list[tuple[object, ...]] = []
    for path in actors:
        env_steps = int(path.stem)
        wall_s, success = (float(np.interp(env_steps, known[0], values)) for values in known[1:])
        if path != actors[-1] and (time_to_goal(rows) or success < PLAYED_FROM):
            continue
        outcomes, most = [], min(AGAIN_EPISODES, episodes) if rows and _is_good(rows[-1]) else episodes
        with closing(evaluate(partial(open_actor, path), most, EVALUATION_SEED + seed * 10_000)) as played:
            for outcome in played:
                outcomes.append(outcome)
                if sum(not o.is_success for o in outcomes) > (1.0 - GOAL) * most:
                    break  # it cannot reach the goal any more
        record = summarise(outcomes, "clean")
        rows.append((variant, seed, env_steps, round(wall_s, 1), record.successes, record.episodes))
    return rows


def _is_good(row: tuple[object, ...]) -> bool:
    return best([row]) >= GOAL


def time_to_goal(rows: list[tuple[object, ...]]) -> float | None:
    """Training seconds at the first of `IN_A_ROW` checkpoints that all reach the goal; None when there are none."""
    reached = [_is_good(row) for row in rows]
    for index in range(len(rows) - IN_A_ROW + 1):
        if all(reached[index : index + IN_A_ROW]):
            return float(str(rows[index][3]))
    return None


if __name__ == "__main__":
    typer.run(main)
