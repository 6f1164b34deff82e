"""`dofbot calibrate handeye --live` and `--manual`: take the images, with the arm that moves itself, or that a person moves."""

import shlex
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import typer

from edge.errors import CalibrationError, ConfigError

if TYPE_CHECKING:
    from calibration.arm.model import CameraPlace
    from calibration.boards import Board
    from calibration.live.arm_images import Step, Take
    from calibration.live.plan_poses import Expected, Scene
    from calibration.live.slow_arm import SlowArm
    from calibration.simulated.arm import Robot
    from calibration.simulated.software_arm import SoftwareArm
    from edge.calibration import Calibration
    from edge.config import Config
    from edge.messages import Float64

STDERR = 2
TAKE_WITHIN_S = 60.0  # a camera that is opened anew needs seconds


def live(
    folder: Path,
    board: "Board",
    config: "Config",
    before: "Calibration",
    path: Path,
    command: str,
    yes: bool,
    camera: "CameraPlace | None",
    truth: "Robot | None" = None,
) -> None:
    """Move the arm to planned poses, slowly and through the gate, and take an image in each; or the simulated arm that `truth` is of."""
    from calibration.live import arm_images, plan_poses, slow_arm
    from firmware_tools import emulated
    from firmware_tools.asking import confirm

    settings, where = _ready(folder, board, config, before, camera)
    with _said("planning poses"):
        plan = plan_poses.plan(where)
    stops, count = plan_poses.stops(where, plan), len(plan.calibrate_rad) + len(plan.held_out_rad)
    simulated = _simulated(folder, before, settings, truth) if truth else None
    arm_in_software = None
    if settings.bus.i2c == "emulated":
        arm_in_software = simulated.emulated if simulated else emulated.emulated_arm(settings)
    known = " An arm without read-back must stand parked, or it leaps there at full speed." if settings.bus.driver == "pca9685" else ""
    confirm(f"The arm goes to up to {count} poses over the board at 30°/s; Ctrl-C parks it.{known} Hands away?", yes)
    taking = _taking(settings, before, path, command, simulated)
    with taking as take, slow_arm.opened(settings, where, stops, arm_in_software) as arm:
        if where.camera == "fixed" and not simulated:
            _hand_over_board(arm)
        arm_images.planned(where, plan, folder, board, arm.reach, take, _show)
    if not (folder / arm_images.JOINTS).exists():
        raise CalibrationError(
            f"no image shows the board ({folder} keeps them as .refused), expected it in view in most poses; look at one, and move it"
        )


def _simulated(folder: Path, before: "Calibration", settings: "Config", truth: "Robot") -> "SoftwareArm":
    from calibration.simulated.software_arm import SoftwareArm

    assert before.lens is not None
    return SoftwareArm(folder, truth, settings.bus, before.lens.intrinsics)


def manual(
    folder: Path, board: "Board", config: "Config", before: "Calibration", path: Path, command: str, camera: "CameraPlace | None"
) -> None:
    """A person moves the arm: for each image joints are read back, or typed in. An empty line ends it."""
    from calibration.arm import joints_file
    from calibration.live import arm_images

    settings, where = _ready(folder, board, config, before, camera)
    rows = folder / arm_images.JOINTS
    posed = joints_file.load(rows) if rows.exists() else {}
    with _taking(settings, before, path, command) as take:
        while (joints_rad := _read(settings)) is not None:
            name = next(name for number in range(1000) if (name := arm_images.name_of(number, False)) not in posed)
            take(folder / name)
            refused = arm_images.seen(folder, board, name)
            if not refused:
                posed[name] = joints_file.Posed(joints_rad)
                joints_file.save(rows, posed)
            _show(arm_images.Step(name, refused, arm_images.expected(where, posed)))
            if arm_images.is_enough(where, np.array([one.joints_rad for one in posed.values()]).reshape(-1, 5)):
                typer.echo("good enough; an empty line ends it", err=True)


def _ready(folder: Path, board: "Board", config: "Config", before: "Calibration", camera: "CameraPlace | None") -> "tuple[Config, Scene]":
    """The configuration with the servos as calibrated, and what is where; raises `ConfigError` for a folder begun with other ones."""
    from calibration import arm_session
    from calibration.live import arm_images
    from calibration.session import make_folder
    from edge.buses import travel
    from edge.kinematics import Mount

    make_folder(folder)
    arm = arm_session.arm_as_taken(folder / arm_session.NAME, config, before, camera)
    now = arm_session.in_force(config, before, arm.camera)
    if arm != now:
        raise ConfigError(
            f"{folder} was begun with other servos than now (corrected since, or another --config), expected the same; take a new folder"
        )
    assert before.lens is not None
    where = arm_images.scene(before.lens, board, Mount(now.mount.base_height_m, now.mount.inverted), arm.camera)
    return msgspec.structs.replace(config, mount=now.mount, bus=now.bus), where._replace(limits=travel.limits_of(now.bus))


def _read(settings: "Config") -> "Float64 | None":
    """Joints (5,) in rad, read back or typed; None: the end."""
    from edge.buses.servos import LEAST_DEG, MOST_DEG
    from firmware_tools.asking import answer
    from firmware_tools.servo_line import opened

    reads_back = settings.bus.driver == "dofbot_board"
    question = "arm in place? Enter reads its joints, q ends" if reads_back else "joint1 … joint5 in degrees, an empty line ends"
    while True:
        text = answer(question, "")
        if text == ("q" if reads_back else ""):
            return None
        if reads_back:
            with opened(settings) as line:
                pose = line.pose()
            if pose is None:
                typer.echo("not every servo tells where it is; look at cables and ids: dofbot servo read", err=True)
                continue
            outside = _outside(np.degrees(pose.joints_rad).tolist())
            if not outside:
                return np.array(pose.joints_rad)
            typer.echo(f"{outside}; turn it back by hand", err=True)
            continue
        try:
            degrees = [float(word) for word in text.replace(",", " ").split()]
        except ValueError:
            degrees = []
        if len(degrees) == 5 and all(low <= deg <= high for low, deg, high in zip(LEAST_DEG, degrees, MOST_DEG, strict=False)):
            return np.radians(degrees)
        typer.echo(f"'{text}' are not five angles inside the joints' limits", err=True)


def _outside(joints_deg: "list[float]") -> str:
    """The first joint that the table of joints would not take, in words; empty: there is none."""
    from calibration.arm.joints_file import SLACK_DEG
    from edge.buses.servos import LEAST_DEG, MOST_DEG
    from edge.robot import JOINT_NAMES

    for name, deg, low, high in zip(JOINT_NAMES, joints_deg, LEAST_DEG, MOST_DEG, strict=False):
        if not low - SLACK_DEG <= deg <= high + SLACK_DEG:
            return f"{name} is at {deg:.0f}°, expected {low:.0f}…{high:.0f}°"
    return ""


def _hand_over_board(arm: "SlowArm") -> None:
    """Let the gripper take what the board is glued on, for a camera that is not on the arm."""
    from calibration.live.slow_arm import SQUEEZE_M
    from edge.robot import OPENING_MAX_M
    from firmware_tools.asking import answer, number

    arm.grip(OPENING_MAX_M)
    thick_m = number("how thick is the board's handle where the fingers hold it, in mm?") / 1e3
    answer("hold it between the fingers, the board across and facing away from the arm; Enter closes them, slowly", "")
    arm.grip(min(max(thick_m - SQUEEZE_M, 0.0), OPENING_MAX_M))
    answer("hands off the board; Enter: the arm moves", "")


@contextmanager
def _taking(config: "Config", before: "Calibration", path: Path, command: str, simulated: "SoftwareArm | None" = None) -> "Iterator[Take]":
    """What takes an image: the configured camera, opened here, a simulated arm's, or a command for another one."""
    if command:
        yield lambda image: _by_command(command, image)
        return
    from calibration.live import collecting, stills

    with stills.opened(config, (before, path), simulated.camera if simulated else None) as camera:

        def take(image: Path) -> None:
            collecting.write_image(image, camera.still())
            if simulated:
                simulated.note(image)

        yield take


def _by_command(command: str, path: Path) -> None:
    path.unlink(missing_ok=True)  # of a run that was ended in between: another pose
    try:
        words = [word.replace("{}", str(path)) for word in shlex.split(command)] or [""]
        subprocess.run(words, check=True, timeout=TAKE_WITHIN_S, stdout=STDERR)  # stdout may be for JSON
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise CalibrationError(f"--take did not work ({error}), expected an image in {path}; try the command by hand") from None
    if not path.is_file():
        raise CalibrationError(f"--take wrote no image, expected {path}; put {{}} where the command takes its file name")


def _show(step: "Step") -> None:
    told = f"left out: {step.refused}" if step.refused else "the board is seen"
    typer.echo(f"{step.name}: {told}{_expected(step.expected)}", err=True)


def _expected(found: "Expected | None") -> str:
    if found is None:
        return ""
    shift_mm, turn_deg, zero_deg = 1e3 * found.hand_eye_m, np.degrees(found.hand_eye_rad), np.degrees(found.zeros_rad)
    return f"; expected so far: camera ± {shift_mm:.2f} mm and {turn_deg:.2f}°, zeros ± {zero_deg:.2f}°"


@contextmanager
def _said(what: str) -> Iterator[None]:
    from rich.console import Console

    with Console(stderr=True).status(what):
        yield
