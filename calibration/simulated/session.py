"""A folder as a real arm and camera would have left it, of a simulated arm with errors: board, lens, pictures, joints, and the truth.

For trying every step without hardware. Only here is the truth known, so only here can a result be compared with it.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

import cv2
import msgspec
import numpy as np
from msgspec import Struct

import urdf
from calibration import boards
from calibration.arm import joints_file
from calibration.arm.model import CameraPlace, ServoArm, State, rotation, transform_board_to_camera
from calibration.lens import NAMES
from calibration.live import plan_poses
from calibration.opencv import Lens
from calibration.simulated import arm as simulated_arm
from calibration.simulated import render
from edge import calibration as files
from edge.config import BusConfig, Config
from edge.errors import ConfigError
from edge.files import write_atomically
from edge.messages import Float64, Intrinsics

BOARD, CALIBRATION, JOINTS, TRUTH = "board.json", "calibration.json", "joints.csv", "truth.json"
SERIAL = "simulated"
DRIVER: Literal["dofbot_board"] = "dofbot_board"  # of 0.08° a count; pictures are taken as if servos had none
DRAWN = boards.charuco(7, 5)  # the board of `simulated_arm`: 6 × 4 inner corners, 25 mm apart
FROM_CORNER = np.eye(4)  # `simulated_arm` counts the board from its first inner corner, 25 mm from the pattern's upper left
FROM_CORNER[:2, 3] = -0.025
LENS_SIGMA = {"fx": 0.6, "fy": 0.6, "cx": 0.5, "cy": 0.5, "k1": 0.005, "k2": 0.01}  # what 30 views of a lens calibration leave


class Truth(Struct, frozen=True, forbid_unknown_fields=True):
    """The simulated arm, in the terms of the estimate (`calibration.observability`)."""

    seed: int
    camera: CameraPlace
    servo_noise_deg: float
    hand_eye: list[list[float]]
    zeros_deg: list[float]
    scales: list[float]
    all_zeros_deg: list[float]  # those that no picture shows, too
    tool_in_table_m: dict[str, tuple[float, float]]  # where the tool really was in each image
    live: bool = False  # the arm went there, as the real one does

    @property
    def joint1_zero_deg(self) -> float:
        """By which the estimate's table is turned about the base axis."""
        return self.all_zeros_deg[0]


class Off(NamedTuple):
    """How far a result is from the truth."""

    hand_eye_mm: float
    hand_eye_deg: float
    zeros_deg: float  # the worst of those that pictures show


def take(
    folder: Path,
    seed: int,
    plan: plan_poses.Plan,
    errors: simulated_arm.Errors,
    show: Callable[[str], None],
    camera: CameraPlace = "wrist",
) -> None:
    """Fill the folder, picture by picture; pictures that are there stay. The same seed gives the same arm and pictures."""
    draws = np.random.default_rng(seed)
    one = simulated_arm.robot(draws, errors, camera)
    commanded = np.vstack((plan.calibrate_rad, plan.held_out_rad))
    true_joints = simulated_arm.true_joints(one, commanded, draws)
    arm = ServoArm(true_joints, simulated_arm.MOUNT, camera)
    names = [f"pose-{number:02d}.png" for number in range(1, len(commanded) + 1)]
    tools = arm.chain(one.truth.zeros_rad, one.truth.scales).transform_flange_to_table[:, :2, 3]
    _describe(folder, one, seed, {name: (float(x), float(y)) for name, (x, y) in zip(names, tools, strict=True)}, live=False)
    held_out = np.arange(len(commanded)) >= len(plan.calibrate_rad)
    posed = {name: joints_file.Posed(q, bool(out)) for name, q, out in zip(names, commanded, held_out, strict=True)}
    joints_file.save(folder / JOINTS, posed)
    lens = lens_of(one.truth)
    for number, (name, pose) in enumerate(zip(names, transform_board_to_camera(one.truth, arm), strict=True)):
        if not (folder / name).exists():
            noise = np.random.default_rng((seed, 2, number))
            picture = render.noisy(render.blurred(render.view(DRAWN, pose @ FROM_CORNER, lens), render.BLUR_PX), render.GREY_SD, noise)
            write_atomically(folder / name, cv2.imencode(".png", picture)[1].tobytes())
        show(name)


def begin(folder: Path, seed: int, errors: simulated_arm.Errors, camera: CameraPlace = "wrist") -> simulated_arm.Robot:
    """The same arm before its first picture, for one that takes them live; a folder that was begun stays as it is."""
    one = simulated_arm.robot(np.random.default_rng(seed), errors, camera)
    if truth_of(folder) is None:
        _describe(folder, one, seed, {}, live=True)
    return one


def note(image: Path, tool_in_table_m: tuple[float, float]) -> None:
    """Add to the truth where the tool really was in a live image."""
    truth = truth_of(image.parent)
    assert truth is not None  # `begin` has written it
    _save(image.parent, msgspec.structs.replace(truth, tool_in_table_m=truth.tool_in_table_m | {image.name: tool_in_table_m}))


def lens_of(state: State) -> Lens:
    """The lens that a state has."""
    fx, fy, cx, cy = map(float, state.lens[:4])
    return Lens(Intrinsics(*plan_poses.IMAGE_PX, fx, fy, cx, cy))


def _as_told(state: State, seed: int) -> State:
    """With the lens as a calibration would have found it: off by its σ."""
    sigma = np.array([LENS_SIGMA[name] for name in NAMES[:4]])
    told = state.lens.copy()
    told[:4] += np.random.default_rng((seed, 1)).normal(0.0, sigma)
    return state._replace(lens=told)


def _describe(folder: Path, one: simulated_arm.Robot, seed: int, tools: dict[str, tuple[float, float]], *, live: bool) -> None:
    """Board, lens and truth; the calibration file, too, unless it is there: it may have results."""
    folder.mkdir(parents=True, exist_ok=True)
    boards.save(folder / BOARD, boards.measured(DRAWN, (100.0, 100.0)))
    gauge = one.in_gauge()
    truth = Truth(
        seed, one.camera, one.errors.gauss_deg, gauge.hand_eye.tolist(), np.degrees(gauge.zeros_rad).tolist(), gauge.scales.tolist(),
        np.degrees(one.truth.zeros_rad).tolist(), tools, live,
    )  # fmt: skip
    _save(folder, truth)
    if not (folder / CALIBRATION).exists():
        lens = lens_of(_as_told(one.truth, seed))
        part = files.Lens(SERIAL, lens.intrinsics, lens.distortion, files.made("dofbot calibrate handeye --simulate", LENS_SIGMA))
        blank = files.blank(Config(bus=BusConfig(driver=DRIVER)), urdf.dofbot_sha256())
        files.save(folder / CALIBRATION, msgspec.structs.replace(blank, lens=part))


def _save(folder: Path, truth: Truth) -> None:
    write_atomically(folder / TRUTH, msgspec.json.format(msgspec.json.encode(truth)) + b"\n")


def truth_of(folder: Path) -> Truth | None:
    """The truth, where the folder is of a simulated arm; raises `ConfigError` for one of another version."""
    path = folder / TRUTH
    if not path.exists():
        return None
    try:
        return msgspec.json.decode(path.read_bytes(), type=Truth)
    except msgspec.DecodeError as error:
        raise ConfigError(f"{path} is damaged or of another version ({error}); simulate into a new folder") from None


def in_gauge(truth: Truth, tool_in_table_m: Float64) -> Float64:
    """Places (n, 2) as the estimate has them, in which joint 1 has no zero: the table is turned about the base axis."""
    axis = simulated_arm.MOUNT.transform_base_to_table()[:3, 2]
    turn = rotation(axis * -np.radians(truth.joint1_zero_deg))
    return np.asarray(tool_in_table_m @ turn[:2, :2].T)


def off(truth: Truth, state: State) -> Off:
    """Distance from the truth, in mm and degrees."""
    true: Float64 = np.array(truth.hand_eye)
    cosine = (np.trace(true[:3, :3].T @ state.hand_eye[:3, :3]) - 1.0) / 2.0
    zeros_deg = np.abs(np.degrees(state.zeros_rad) - truth.zeros_deg)
    return Off(
        1e3 * float(np.linalg.norm(true[:3, 3] - state.hand_eye[:3, 3])),
        float(np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0)))),
        float(zeros_deg.max()),
    )
