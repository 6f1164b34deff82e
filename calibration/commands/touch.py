"""`dofbot calibrate grid --touch`: readings from a file, or of the arm that holds a pointer over the grid, and joint 1's zero from them."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np
import typer

from calibration import arm_session, hand_eye
from calibration import grid as grids
from calibration.arm.model import rotation
from calibration.boards import Board, MarkerBoard
from calibration.commands.steps import settings_of, settings_with
from calibration.grid import READ_MAX_M, Grid
from calibration.live import slow_arm, touch, touches_file
from calibration.live.plan_poses import Scene
from calibration.live.touch import HEIGHT_OFF_M, Pointer, Touched
from calibration.simulated import arm as simulated_arm
from calibration.table_turn import SIGMA_MAX_RAD, SIGNIFICANT, TableTurn, fit
from edge import calibration as files
from edge.buses import travel
from edge.calibration import Check
from edge.errors import CalibrationError, ConfigError
from edge.kinematics import Mount
from edge.messages import Float64
from edge.robot import PARK_RAD
from firmware_tools.asking import answer, confirm

if TYPE_CHECKING:
    from calibration.arm_session import ArmAsTaken
    from edge.config import Config, MountConfig
    from edge.simulated.emulated_arm import EmulatedArm

BY = "dofbot calibrate grid --touch"
ZERO, LEFT, LEFT_MOST = (
    "joint1 zero, σ, deg",
    "touch error without turn and shift, median, mm",
    "touch error without turn and shift, 95 %, mm",
)


class Options(NamedTuple):
    """How the arm is to touch."""

    pointer: Pointer
    height_m: float
    crossings: int
    yes: bool


class Robot(NamedTuple):
    """The arm as it is calibrated so far."""

    calibration: Path
    config: "Config"
    before: files.Calibration
    arm: "ArmAsTaken"


class Touches(NamedTuple):
    """What a file of touches says."""

    grid: Grid
    turn: TableTurn
    truth_deg: float | None  # joint 1's zero in a simulation


def robot(path: Path, config: Path | None, touches: Path) -> Robot:
    """The robot that is touched with.

    Raises `ConfigError` where its servos were corrected since the first touch in the file, or are configured as another robot's.
    """
    import urdf

    before = files.load(path) if path.exists() else files.blank(settings_of(config), urdf.dofbot_sha256())
    settings = settings_with(config, before, path)
    kept = touches.with_suffix(".arm.json")
    if not touches.exists():
        kept.unlink(missing_ok=True)  # of touches that somebody has thrown away
    arm = arm_session.arm_as_taken(kept, settings, before)
    now = arm_session.in_force(settings, before)
    if arm != now:
        raise ConfigError(
            f"{touches} was touched with other servos than now (corrected since, or another --config), expected the same; "
            "touch into a new file"
        )
    return Robot(path, msgspec.structs.replace(settings, mount=now.mount, bus=now.bus), before, arm)


def of_file(path: Path, mount: "MountConfig") -> Touches:
    """Raises `ConfigError` for a file that is none, `CalibrationError` for touches that tell too little."""
    rows_mm = touches_file.load(path)
    grid = grids.by_touch(rows_mm[:, :2] / 1e3, rows_mm[:, 2:])
    return Touches(grid, fit(grid.commanded_in_table_m, grid.measured_in_table_m, mount), None)


def live(path: Path, one: Robot, board: Board | None, options: Options) -> None:
    """Let the arm touch what is missing in the file; a person reads."""
    from firmware_tools import emulated

    if _is_complete(path, options):
        return
    known = " An arm without read-back must stand parked, or it leaps there at full speed." if one.config.bus.driver == "pca9685" else ""
    confirm(
        f"The arm goes at 30°/s to {options.crossings} crossings of the grid, a pointer {1e3 * options.height_m:.0f} mm over each. "
        f"Ctrl-C parks it, and what was read stays.{known} Hands away?",
        options.yes,
    )
    arm = emulated.emulated_arm(one.config) if one.config.bus.i2c == "emulated" else None
    _touch(path, one, arm, _AtTerminal(), _scale(board), options)


def simulated(path: Path, one: Robot, folder: Path, seed: int, options: Options) -> float:
    """The same by the arm that took a folder's simulated pictures, read by a simulated person; joint 1's true zero in degrees.

    Raises `ConfigError` where there are no such pictures.
    """
    from calibration.simulated import session as simulated_session
    from calibration.simulated import software_arm
    from calibration.simulated import touch as simulated_touch

    truth = simulated_session.truth_of(folder)
    if truth is None or truth.seed != seed:
        raise ConfigError(
            f"{folder} has no pictures of simulated arm {seed}, expected them, so that it is calibrated; "
            f"run dofbot calibrate handeye --simulate --seed {seed} first"
        )
    arm = software_arm.arm(truth, arm_session.arm_as_taken(folder / arm_session.NAME, one.config, one.before).bus)
    settings = msgspec.structs.replace(one.config, bus=msgspec.structs.replace(one.config.bus, i2c="emulated"))
    one = one._replace(config=settings)
    if not _is_complete(path, options):
        person = simulated_touch.SimulatedPerson(arm, _scene(one).mount, options.pointer, truth.servo_noise_deg, seed, path.name)
        typer.echo("simulated: an arm in software, and a person who answers from the truth", err=True)
        _touch(path, one, arm, person, np.ones(2), options)
    with slow_arm.opened(settings, _scene(one), np.array([PARK_RAD]), arm) as parked:
        parked.go(np.array(PARK_RAD))
        parked.settle()
    return arm.joints_deg()[0]  # where joint 1 is when it was sent to 0


def _is_complete(path: Path, options: Options) -> bool:
    return path.exists() and len(touches_file.load(path)) >= options.crossings


def _touch(path: Path, one: Robot, emulated: "EmulatedArm | None", person: touch.Person, scale: Float64, options: Options) -> None:
    with slow_arm.opened(one.config, _scene(one), np.array([PARK_RAD]), emulated) as arm:
        touch.guided(arm, options.pointer, options.height_m, options.crossings, scale, path, person, _show)


def _scene(one: Robot) -> Scene:
    """The arm with its camera where it was found, or as drawn."""
    mount, camera = one.arm.mount, hand_eye.camera_of(one.before)
    nominal = simulated_arm.scene(camera.place if camera else "wrist")
    state = nominal.state._replace(hand_eye=camera.pose) if camera else nominal.state
    limits = travel.limits_of(one.arm.bus)
    return nominal._replace(mount=Mount(mount.base_height_m, mount.inverted), state=state, limits=limits)


def _scale(board: Board | None) -> Float64:
    """(2,) true over drawn length of the print."""
    if board is None:
        return np.ones(2)
    if not isinstance(board, MarkerBoard) or board.table_origin_m is None:
        raise ConfigError("--board is not the table grid, expected what dofbot calibrate board grid wrote; give its JSON")
    return board.scale


def _show(touched: Touched) -> None:
    x, y = touched.crossing_mm
    off = "passed over" if touched.off_mm is None else "{:+.1f}, {:+.1f} mm beside it".format(*touched.off_mm)
    typer.echo(f"crossing {x:.0f}, {y:.0f}: {off}", err=True)


class _AtTerminal:
    """A person who is asked."""

    def holds_the_pointer(self) -> None:
        answer("hold the pointer straight between the fingers; Enter closes them, slowly", "")

    def steps_back(self) -> None:
        answer("hands off the pointer and away; Enter: the arm moves", "")

    def height_m(self, expected_m: float) -> float:
        low_mm, high_mm = 1e3 * (expected_m - HEIGHT_OFF_M), 1e3 * (expected_m + HEIGHT_OFF_M)
        while True:
            text = answer(f"how high is the tip over the paper, in mm? about {1e3 * expected_m:.0f}", "")
            found = _numbers(text, 1)
            if found and low_mm <= found[0] <= high_mm:
                return found[0] / 1e3
            typer.echo(
                f"'{text}' is no height from {low_mm:.0f} to {high_mm:.0f} mm: does it stick out by what --pointer-mm says?", err=True
            )

    def place_mm(self, crossing_mm: tuple[float, float], number: int, count: int) -> tuple[float, float] | None:
        x, y = crossing_mm
        while True:
            text = answer(
                f"{number} of {count}: sent to {x:.0f}, {y:.0f}. Where does the tip stand on the print? x y in mm; Enter: no answer", ""
            )
            found = _numbers(text, 2)
            if not text:
                return None
            if found and np.hypot(found[0] - x, found[1] - y) <= 1e3 * READ_MAX_M:
                return found[0], found[1]
            typer.echo(f"'{text}' is no place within {1e3 * READ_MAX_M:.0f} mm of the crossing", err=True)


def _numbers(text: str, count: int) -> list[float]:
    """So many finite numbers, or none."""
    try:
        found = [float(word) for word in text.replace(",", " ").split()]
    except ValueError:
        return []
    return found if len(found) == count and np.isfinite(found).all() else []


def told(found: Touches) -> dict[str, Any]:
    """For scripts."""
    turn = found.turn
    return {
        "joint1_zero_deg": float(np.degrees(turn.zero_rad)),
        "joint1_zero_sigma_deg": float(np.degrees(turn.zero_sigma_rad)),
        "is_significant": turn.is_significant,
        "grid_shift_mm": [1e3 * value for value in turn.shift_m],
        "grid_shift_sigma_mm": [1e3 * value for value in turn.shift_sigma_m],
        "reach_mm": 1e3 * turn.reach_m,
        "reach_sigma_mm": 1e3 * turn.reach_sigma_m,
        "left_median_mm": 1e3 * float(np.median(turn.left_m)),
        "true_joint1_zero_deg": found.truth_deg,
    }


def lines(found: Touches) -> list[str]:
    """For a person."""
    turn = found.turn
    zero_deg, sigma_deg = np.degrees(turn.zero_rad), np.degrees(turn.zero_sigma_rad)
    shift = ", ".join(f"{1e3 * value:+.1f} ± {1e3 * sigma:.1f}" for value, sigma in zip(turn.shift_m, turn.shift_sigma_m, strict=True))
    said = [
        f"joint 1's zero: {zero_deg:+.2f}° ± {sigma_deg:.2f}°"
        + ("" if turn.is_significant else f", which is not told from 0 (by {SIGNIFICANT:g} σ)"),
        f"grid or pointer beside the base axis: {shift} mm; reach {1e3 * turn.reach_m:+.1f} ± {1e3 * turn.reach_sigma_m:.1f} mm; "
        f"left without all three {1e3 * np.median(turn.left_m):.1f} mm (median)",
    ]
    if found.truth_deg is not None:
        said.append(f"off the truth, which only the simulation knows: joint 1's zero {zero_deg - found.truth_deg:+.2f}°")
    return said


def remedy(found: Touches) -> str:
    """What to do about touches that are too far off."""
    left_mm, shift_mm = 1e3 * float(np.median(found.turn.left_m)), 1e3 * float(np.hypot(*found.turn.shift_m))
    if left_mm <= 1e3 * grids.MEDIAN_MAX_M and found.turn.is_significant:
        return f"without joint 1's zero and the grid's shift {left_mm:.1f} mm are left: add --write to put the zero into the calibration"
    if left_mm <= 1e3 * grids.MEDIAN_MAX_M and shift_mm > left_mm:
        return (
            f"{shift_mm:.1f} mm are a shift of everything, which no servo makes: lay the grid's origin under the base axis, hold the "
            "pointer straight, and touch into a new file"
        )
    return "calibrate the hand-eye and the servos again, and look for play in the arm"


def write(found: Touches, one: Robot) -> None:
    """Put joint 1's zero into the calibration file; raises `CalibrationError` where it is not sure, and then nothing is written."""
    from calibration.servo_zeros import Turns, corrected

    turn = found.turn
    zero_deg, sigma_deg = float(np.degrees(turn.zero_rad)), float(np.degrees(turn.zero_sigma_rad))
    if not turn.is_significant:
        raise CalibrationError(
            f"joint 1's zero is {zero_deg:+.2f}° ± {sigma_deg:.2f}°, expected more than {SIGNIFICANT:g} σ to correct it; nothing was "
            "written: leave it, or touch more crossings"
        )
    left_mm = 1e3 * turn.left_m
    checks = (
        Check(ZERO, sigma_deg, float(np.degrees(SIGMA_MAX_RAD))),
        Check(LEFT, float(np.median(left_mm)), 1e3 * grids.MEDIAN_MAX_M),
        Check(LEFT_MOST, float(np.percentile(left_mm, 95)), 1e3 * grids.MOST_MAX_M),
    )
    failed = [check for check in checks if not check.found <= check.limit]
    if failed:
        what = "; ".join(f"{check.name} is {check.found:.2f}, expected at most {check.limit:g}" for check in failed)
        raise CalibrationError(f"{what}; nothing was written: calibrate the hand-eye and the servos first, then touch again")
    driver = one.arm.bus.driver
    before = getattr(one.before, driver)
    now = files.load(one.calibration) if one.calibration.exists() else one.before  # other steps may be done meanwhile
    if getattr(now, driver) != before:
        raise ConfigError(f"the servos in {one.calibration} were corrected meanwhile, expected the same; nothing was written: touch again")
    sigma = (before.made.sigma if before else {}) | {"joint1.zero_deg": sigma_deg}
    kept = tuple(check for check in (before.made.checks if before else ()) if check.name not in {new.name for new in checks})
    part = corrected(one.arm.bus, [Turns(1, zero_deg, 1.0), *(Turns(1, 0.0, 1.0),) * 4], files.made(BY, sigma, (*kept, *checks)))
    files.save(one.calibration, msgspec.structs.replace(now, **{driver: part}, fixed_camera=_turned(now, one, turn.zero_rad)))


def _turned(now: files.Calibration, one: Robot, zero_rad: float) -> files.FixedCamera | None:
    """A camera on a stand was found on the table as it was: turned about the base axis by joint 1's zero."""
    found, base = now.fixed_camera, _scene(one).mount.transform_base_to_table()
    if found is None:
        return None
    turn = np.eye(4)
    turn[:3, :3] = rotation(base[:3, 2] * zero_rad)
    pose = hand_eye.rows_of(turn @ np.array(found.transform_camera_to_table))
    return msgspec.structs.replace(found, transform_camera_to_table=pose)
