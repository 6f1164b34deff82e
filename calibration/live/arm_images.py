"""Images of a board from planned poses, one after the other: the arm goes there, an image is taken, and it is told what to expect.

It can be ended at any time and goes on where it was: what was taken is in the folder, with `joints.csv`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from calibration.arm import joints_file, placements
from calibration.arm.joints_file import Posed
from calibration.arm.model import CameraPlace
from calibration.boards import Board, points_m
from calibration.lens import lens_of
from calibration.live import plan_poses
from calibration.live.plan_poses import Expected, Plan, Scene
from calibration.session import look
from edge.calibration import Lens
from edge.errors import CalibrationError
from edge.kinematics import Mount
from edge.messages import Float64

JOINTS = "joints.csv"
ENOUGH_MIN = plan_poses.DOWN + plan_poses.TILTED // 2  # poses, whatever the prediction says: it knows no misfit

Go = Callable[[Float64], None]  # joints (5,) in rad: the arm is there, at rest, when it returns
Take = Callable[[Path], None]  # writes an image to that path


class Step(NamedTuple):
    """One image: what came of it, and what the images so far lead to."""

    name: str
    refused: str  # empty: the board was seen
    expected: Expected | None  # None: too few images


def scene(lens: Lens, board: Board, mount: Mount, camera: CameraPlace = "wrist") -> Scene:
    """The arm with its camera as drawn, the board before it on the table, or in its gripper."""
    points = points_m(board, np.array(sorted(board.nominal_points_m())))
    state = placements.drawn(camera, points, lens_of(lens.intrinsics, lens.distortion))
    return Scene(mount, state, points, camera, (lens.intrinsics.width, lens.intrinsics.height))


def name_of(number: int, held_out: bool) -> str:
    """The file of a planned pose."""
    return f"{'judge' if held_out else 'pose'}-{number + 1:02d}.png"


def planned(where: Scene, plan: Plan, folder: Path, board: Board, go: Go, take: Take, show: Callable[[Step], None]) -> None:
    """Take the plan's images that are missing; once more would not help, only those to judge by. Raises `CalibrationError`, `BusError`."""
    path = folder / JOINTS
    posed = joints_file.load(path) if path.exists() else {}
    for held_out, poses in ((False, plan.calibrate_rad), (True, plan.held_out_rad)):
        for number, joints_rad in enumerate(poses):
            done = np.array([one.joints_rad for one in posed.values() if not one.held_out]).reshape(-1, 5)
            if not held_out and is_enough(where, done):
                break
            name = name_of(number, held_out)
            if name in posed and (folder / name).exists():
                continue
            try:
                go(joints_rad)
            except CalibrationError as error:
                show(Step(name, str(error), None))
                continue
            take(folder / name)
            refused = seen(folder, board, name)
            if not refused:
                posed[name] = Posed(joints_rad, held_out)
                joints_file.save(path, posed)
            show(Step(name, refused, expected(where, posed)))


def seen(folder: Path, board: Board, name: str) -> str:
    """Why an image cannot be used; empty: it can. One that cannot is put away, so that it is taken again."""
    refused = look(folder, board).images[name].refused
    if refused:
        (folder / name).rename((folder / name).with_suffix(".refused"))
    return refused


def expected(where: Scene, posed: dict[str, Posed]) -> Expected | None:
    """What the images so far lead to."""
    done = np.array([one.joints_rad for one in posed.values() if not one.held_out]).reshape(-1, 5)
    return plan_poses.advise(where, done, done).expected if len(done) >= 2 else None


def is_enough(where: Scene, done_rad: Float64) -> bool:
    """Whether more poses are not worth their time."""
    return len(done_rad) >= ENOUGH_MIN and plan_poses.advise(where, done_rad, done_rad).enough
