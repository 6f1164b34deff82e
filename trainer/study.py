"""How long does training take to 99 %, and what is each ingredient worth? `python -m trainer.study` measures it.

Each run is one `dofbot train` on the clean desk, two cores, nothing else running. Its checkpoints, one each 10,000 steps, are played
afterwards on fresh blocks. Time to 99 % is the training time of the first checkpoint that grasps 99 % and whose two
successors do as well: a lucky spike does not count.
"""

import csv
import subprocess
import sys
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from trainer import plots, runlog
from trainer.evaluate import evaluate, open_actor, summarise

GOAL = 0.99
IN_A_ROW = 3
EVALUATION_SEED = 4_000_000
VARIANTS: dict[str, tuple[str, ...]] = {
    "sac": (),
    "without demonstrations": ("--no-demos",),
    "without pose head": ("--no-auxiliary",),
    "with curriculum": ("--curriculum",),
    "sb3": ("--algo", "sb3"),
}


def main(
    variant: Annotated[str, typer.Option(help=f"One of {', '.join(VARIANTS)}.")] = "sac",
    seeds: Annotated[int, typer.Option(min=1)] = 5,
    steps: Annotated[int, typer.Option(min=10_000)] = 60_000,
    episodes: Annotated[int, typer.Option(min=1, help="Fresh blocks a checkpoint.")] = 1000,
    out: Annotated[Path, typer.Option()] = Path("out/study"),
    table: Annotated[Path, typer.Option(help="CSV that results are added to.")] = Path("trainer/results/study.csv"),
) -> None:
    """Train and measure a variant, seed by seed; results are added to the table as they come."""
    for seed in range(seeds):
        run = out / f"{variant.replace(' ', '-')}-{seed}"
        if not run.exists():
            command = ("train", "--seed", str(seed), "--steps", str(steps), "--out", str(run), "--until-success", "0", *VARIANTS[variant])
            subprocess.run([sys.executable, "-m", "edge.cli", *command, "--randomisation", "0"], check=True)
        rows = measure(run, variant, seed, episodes)
        with table.open("a", newline="") as file:
            csv.writer(file).writerows(rows)
        reached = time_to_goal(rows)
        typer.echo(f"{variant}, seed {seed}: " + (f"99 % after {reached:.0f} s" if reached else f"no 99 % in {steps} steps"))
    plots.study(table, table.with_suffix(".png"))


def measure(run: Path, variant: str, seed: int, episodes: int) -> list[tuple[object, ...]]:
    """(variant, seed, env_steps, wall_s, successes, episodes) of a run's checkpoints in turn, until enough in a row reach the goal."""
    curve = runlog.read(run)
    rows: list[tuple[object, ...]] = []
    for path in sorted((run / "actors").iterdir(), key=lambda path: int(path.stem)):
        env_steps = int(path.stem)
        wall_s = float(np.interp(env_steps, [row.env_steps for row in curve], [row.wall_s for row in curve]))
        outcomes = []
        with closing(evaluate(partial(open_actor, path), episodes, EVALUATION_SEED + seed * 10_000)) as played:
            for outcome in played:
                outcomes.append(outcome)
                if sum(not o.is_success for o in outcomes) > (1.0 - GOAL) * episodes:
                    break  # it cannot reach the goal any more
        record = summarise(outcomes, "clean")
        rows.append((variant, seed, env_steps, round(wall_s, 1), record.successes, record.episodes))
        if time_to_goal(rows):
            break
    return rows


def time_to_goal(rows: list[tuple[object, ...]]) -> float | None:
    """Training seconds at the first of `IN_A_ROW` checkpoints that all reach the goal; None when there are none."""
    reached = [float(str(row[4])) / float(str(row[5])) >= GOAL for row in rows]
    for index in range(len(rows) - IN_A_ROW + 1):
        if all(reached[index : index + IN_A_ROW]):
            return float(str(rows[index][3]))
    return None


if __name__ == "__main__":
    typer.run(main)
