"""What a training run shows and leaves: one progress line, TensorBoard scalars, `curve.csv` and `curve.png`."""

import csv
import math
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch.utils.tensorboard import SummaryWriter

from trainer.checkpoint import writing

CURVE = "curve.csv"
EVERY_STEPS = 640  # between two rows: a few seconds of training


class Row(NamedTuple):
    """One line of `curve.csv`; NaN where nothing is known yet."""

    env_steps: int
    wall_s: float
    success: float = math.nan  # training episodes, exploration noise included
    spawn_fraction: float = 1.0
    critic_loss: float = math.nan
    actor_loss: float = math.nan
    pose_error_m: float = math.nan
    alpha: float = math.nan
    eval_success: float = math.nan  # fresh blocks, deterministic actions


class RunLog:
    """Log of one run in a folder. A resumed run goes on in the same files, without the rows that it is going to repeat."""

    def __init__(self, out: Path, total_steps: int, env_steps: int, wall_s: float) -> None:
        self._path = out / CURVE
        self._last = Row(env_steps, wall_s)
        self._line = Progress(
            TextColumn("training"),
            BarColumn(bar_width=20),
            TextColumn(
                "{task.completed:,.0f}/{task.total:,.0f} steps · success {task.fields[success]} · {task.fields[speed]} steps/s · at most"
            ),
            TimeRemainingColumn(compact=True),
            console=Console(stderr=True),
            refresh_per_second=2,
        )
        self._task = self._line.add_task("training", total=total_steps, completed=env_steps, success="–", speed="–")

    def __enter__(self) -> "RunLog":
        out, env_steps = self._path.parent, self._last.env_steps
        with writing(self._path):
            out.mkdir(parents=True, exist_ok=True)
            rows = [row for row in read(out) if row.env_steps <= env_steps]
            with self._path.open("w", newline="") as file:
                csv.writer(file).writerows([Row._fields, *rows])
            self._file = self._path.open("a", newline="", buffering=1)
            self._board = SummaryWriter(str(out / "tensorboard"), purge_step=env_steps)
        self._line.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._line.stop()
        with writing(self._path):
            self._file.close()
            self._board.close()

    def show(self, env_steps: int, success: float) -> None:
        """Move the progress line on."""
        self._line.update(self._task, completed=env_steps, success="–" if math.isnan(success) else f"{success:.1%}")

    def write(self, row: Row) -> None:
        """A line in `curve.csv`, points in TensorBoard, and the speed since the last of them."""
        seconds = row.wall_s - self._last.wall_s
        speed = (row.env_steps - self._last.env_steps) / seconds if seconds > 0 else math.nan
        self._line.update(self._task, speed="–" if math.isnan(speed) else f"{speed:.0f}")
        self._last = row
        with writing(self._path):
            csv.writer(self._file).writerow(row)
            for name, value in row._asdict().items():
                if name != "env_steps" and not math.isnan(value):
                    self._board.add_scalar(f"train/{name}", value, row.env_steps, walltime=None)
            self._board.flush()


def read(out: Path) -> list[Row]:
    """The rows of a run's `curve.csv`; none where there is no such file."""
    path = out / CURVE
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [Row(int(line[0]), *map(float, line[1:])) for line in list(csv.reader(file))[1:]]
