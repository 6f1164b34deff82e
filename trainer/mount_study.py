"""What is a camera worth that sits elsewhere than the policy's? `python -m trainer.mount_study` measures it, in simulation.

The camera is off by a length in any direction, or turned by an angle about any axis. Everything else is as in suite 'randomised', where
its place is uncertain by another ±2 mm and ±1° that nobody knows of: what a calibration leaves. The same blocks, with the same
errors, are tried with the real image as it is and with it projected into the policy's camera. A D435, which is blind where the policy's
camera sees the fingers, is also tried farther back on the policy's optical axis.
"""

import csv
import math
from contextlib import closing
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn
from rich.table import Table

from edge import policy as edge_policy
from edge.cameras.virtual_camera import Reprojection
from edge.contract import Episode
from edge.errors import ObservationError
from edge.messages import NO_DISTORTION
from trainer import plots
from trainer.env import DofbotGrasp
from trainer.evaluate import Act, play, wilson
from trainer.randomise import Scene, draw_scene
from trainer.sensors import LENS, SENSORS, Sensor, mounted

SEED = 6_000_000  # of the first episode; no other evaluation has these
MOUNTS = ((0.0, 0.0), (2.5, 0.0), (5.0, 0.0), (10.0, 0.0), (0.0, 2.5), (0.0, 5.0), (0.0, 10.0))  # mm, degrees
PLACES = (("d405", 0.0), ("d435", 0.0), ("d435", 60.0))  # camera, and how many mm farther back than the policy's it sits
AT_A_TIME = 10  # episodes of a cell in turn: the table can be read long before it is whole


class Cell(NamedTuple):
    """What is tried."""

    sensor: str
    back_mm: float
    off_mm: float
    off_deg: float
    is_reprojected: bool


class Row(NamedTuple):
    """One episode."""

    cell: Cell
    seed: int
    is_success: bool
    miss_m: float
    blind_m: float  # this camera's, drawn
    cause: str  # as `trainer.env` names it, or 'blind': a frame without enough depth, at which the robot would stop


def _cells() -> list[Cell]:
    """All but the hopeless: a D435 where the policy's camera is, or with its image as it is, is only tried where it is not off as well."""
    return [
        Cell(*place, *mount, is_reprojected)
        for place in PLACES
        for is_reprojected in (True, False)
        for mount in (MOUNTS if place[0] == "d405" or (is_reprojected and place[1]) else MOUNTS[:1])
    ]


CELLS = _cells()


def main(
    policy: Annotated[Path, typer.Option(help="Policy file.")] = Path("trainer/results/policy.onnx"),
    episodes: Annotated[int, typer.Option(min=1, help="In each of the cells.")] = 100,
    table: Annotated[Path, typer.Option(help="CSV, one line an episode; what is in it already is not tried again.")] = Path(
        "trainer/results/mount.csv"
    ),
    picture: Annotated[Path, typer.Option()] = Path("docs/mount.png"),
) -> None:
    """Try a policy with cameras that sit elsewhere; Ctrl-C leaves what was found until then."""
    loaded = edge_policy.load(policy)
    rows = read(table) if table.exists() else []
    todo = remaining(rows, episodes)
    with closing(DofbotGrasp(loaded.contract)) as env, table.open("a", newline="") as file:
        lines = csv.writer(file)
        columns = "[progress.description]{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        with Progress(*columns, console=Console(stderr=True)) as progress:
            for cell, seed in progress.track(todo, description="episodes"):
                row = attempt(env, loaded.act, cell, seed)
                rows.append(row)
                lines.writerow((*cell, seed, int(row.is_success), f"{row.miss_m:.5f}", f"{row.blind_m:.4f}", row.cause))
                file.flush()
    show(rows)
    plots.mounts(shares(rows), named, picture)


def remaining(rows: list[Row], episodes: int) -> list[tuple[Cell, int]]:
    """What is still to be tried, a few episodes of each cell in turn."""
    done = {(row.cell, row.seed) for row in rows}
    begins = range(0, episodes, AT_A_TIME)
    order = [(cell, SEED + i) for begin in begins for cell in CELLS for i in range(begin, min(begin + AT_A_TIME, episodes))]
    return [one for one in order if one not in done]


def attempt(env: DofbotGrasp, act: Act, cell: Cell, seed: int) -> Row:
    """One block with a camera that is off in a direction of this seed's own, the same in every cell."""
    rng = np.random.default_rng(seed)
    shift_m, turn_rad = _any_way(rng, cell.off_mm * 1e-3), _any_way(rng, math.radians(cell.off_deg))
    camera = env.contract.camera
    env.world.camera = real = mounted(mounted(camera, (0.0, 0.0, -1e-3 * cell.back_mm)), shift_m, turn_rad)
    pose = np.array(real.transform_camera_to_tool)
    env.reprojection = Reprojection(LENS, NO_DISTORTION, pose, camera) if cell.is_reprojected else None
    env.draw = _scene_of(SENSORS[cell.sensor])
    try:
        _, _, _, _, is_success, miss_m, cause, _ = play(env, act, seed)
    except ObservationError:
        is_success, miss_m, cause = False, env.distance_m(), "blind"
    return Row(cell, seed, is_success, miss_m, env.scene.faults.near_blind_m, cause)


def _scene_of(sensor: Sensor):
    def draw(rng: np.random.Generator, episode: Episode) -> Scene:
        scene = draw_scene(rng, episode, 1.0)
        return scene._replace(faults=sensor.faults(rng, scene.faults))

    return draw


def _any_way(rng: np.random.Generator, length: float) -> list[float]:
    """Three components of a vector in any direction, all alike."""
    along = rng.standard_normal(3)
    return (length / np.linalg.norm(along) * along).tolist()


def read(table: Path) -> list[Row]:
    """What `main` wrote."""
    with table.open(newline="") as file:
        return [
            Row(Cell(who, float(back), float(mm), float(deg), how == "True"), int(seed), success == "1", float(miss_m), float(blind_m), why)
            for who, back, mm, deg, how, seed, success, miss_m, blind_m, why in csv.reader(file)
        ]


def shares(rows: list[Row]) -> dict[Cell, tuple[int, int]]:
    """Grasps and episodes of each cell, in the order of `CELLS`."""
    found = {cell: [row.is_success for row in rows if row.cell == cell] for cell in CELLS}
    return {cell: (sum(wins), len(wins)) for cell, wins in found.items() if wins}


def show(rows: list[Row]) -> None:
    """For the terminal: a line for each mount, cameras and ways side by side."""
    found = shares(rows)
    table = Table("camera off by")
    ways = [(place, how) for place in PLACES for how in (False, True)]
    for place, how in ways:
        table.add_column(f"{named(*place)}, {'virtual camera' if how else 'as it is'}", justify="right")
    for mm, deg in MOUNTS:
        cells = [found.get(Cell(*place, mm, deg, how)) for place, how in ways]
        table.add_row(f"{mm:g} mm" if mm or not deg else f"{deg:g}°", *(_shown(*cell) if cell else "" for cell in cells))
    Console().print(table)


def named(sensor: str, back_mm: float) -> str:
    """For people."""
    return sensor.upper() + (f" {back_mm:g} mm back" if back_mm else "")


def _shown(wins: int, episodes: int) -> str:
    low, high = wilson(wins, episodes)
    return f"{wins}/{episodes} ({low:.0%}-{high:.0%})"


if __name__ == "__main__":
    typer.run(main)
