"""A folder of images with the joints they were taken at, solved: hand-eye, servo zeros and directions by both methods.

The servos that were in force when the images were taken are kept in the folder (`arm.json`): a result corrects them, and the same images
solved a second time must not correct them twice.
"""

from collections.abc import Mapping
from contextlib import suppress
from itertools import permutations
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np
from msgspec import Struct

from calibration import hand_eye, observability, servo_zeros
from calibration.arm import closed_form
from calibration.arm.images import CORNERS_MIN, IMAGES_MIN
from calibration.arm.model import Arm, CameraPlace, Chain, ServoArm, State, Views, inverse
from calibration.arm.placements import WHERE
from calibration.boards import Board, points_m
from calibration.lens import NAMES, lens_of
from edge.calibration import Calibration, Lens, applied
from edge.config import BusConfig, Config, MountConfig
from edge.errors import CalibrationError, ConfigError
from edge.files import write_atomically
from edge.kinematics import Mount
from edge.messages import Float64
from edge.robot import JOINT_NAMES

if TYPE_CHECKING:
    from calibration.arm.joints_file import Posed
    from calibration.session import Session

NAME = "arm.json"
LENS_FIXED = 1e-8  # σ of a number that the lens calibration did not fit
LENS_DRIFT = (1.0, 1.0, 1.0, 1.0, 0.01, 0.02)  # since then, by warmth and focus: assumed, not measured
BETTER = 0.4  # another order of the joints is believed when the boards then lie together so much closer


class ArmAsTaken(Struct, frozen=True, forbid_unknown_fields=True):
    """The arm while the images were taken."""

    mount: MountConfig
    bus: BusConfig
    camera: CameraPlace = "wrist"


class Solved(NamedTuple):
    """What a folder says."""

    views: Views  # with the joints turned as `signs` has them
    held_out: Views | None
    points_m: Float64
    signs: tuple[int, ...]  # of each servo's direction, against the configured one
    found: hand_eye.Estimate
    arm: ArmAsTaken


class RefusedEstimateError(CalibrationError):
    """An estimate that did not keep its thresholds; it may be shown, and is not written."""

    def __init__(self, message: str, solved: Solved) -> None:
        super().__init__(message)
        self.solved = solved


def arm_as_taken(path: Path, config: Config, calibration: Calibration, camera: CameraPlace | None = None) -> ArmAsTaken:
    """As kept in the file; at the first call, what is in force now, which is then kept.

    Raises `ConfigError` for a damaged file, and where the camera was elsewhere; None: wherever it was, else on the wrist.
    """
    try:
        kept = msgspec.json.decode(path.read_bytes(), type=ArmAsTaken)
        if camera not in (None, kept.camera):
            raise ConfigError(
                f"{path} says that the camera was {WHERE[kept.camera]}, expected --camera {kept.camera}; or take a new folder"
            )
        return kept
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is damaged or not ours ({error}); remove it if no servo was calibrated since") from None
    now = in_force(config, calibration, camera or "wrist")
    try:
        write_atomically(path, msgspec.json.format(msgspec.json.encode(now)) + b"\n")
    except OSError as error:
        raise ConfigError(f"{path} cannot be written ({error.strerror}), expected a folder of your own; copy what is in it") from None
    return now


def check_configured(kept: ArmAsTaken, path: Path, config: Config, calibration: Calibration) -> None:
    """Raise `ConfigError` for servos in the file that are not the configured ones, unless a calibration may be why."""
    driver = kept.bus.driver
    same = kept.bus.board.servos == config.bus.board.servos
    if driver == "pca9685":
        same = (kept.bus.reference_clock_hz, kept.bus.servos) == (config.bus.reference_clock_hz, config.bus.servos)
    if getattr(calibration, driver) is None and not same:
        raise ConfigError(
            f"{path} has other servos than are configured, expected those that the images were taken with: leave --config out where the "
            f"file is right, else remove {path.name}"
        )


def in_force(config: Config, calibration: Calibration, camera: CameraPlace = "wrist") -> ArmAsTaken:
    """Mount and servos as calibrated so far."""
    bus = msgspec.structs.replace(applied(config, calibration).bus, driver=calibration.driver)
    return ArmAsTaken(MountConfig(inverted=calibration.inverted, base_height_m=calibration.base_height_m), bus, camera)


def views_of(session: "Session", posed: "Mapping[str, Posed]", arm: ArmAsTaken, board: Board) -> tuple[Views, Views | None, Float64]:
    """Images to estimate from, those kept for the verdict, and the board's points (m, 3).

    Raises `ConfigError` for an image without joints, `CalibrationError` for a board whose rulers were not measured.
    """
    missing = [name for name in session.used if name not in posed]
    if missing:
        raise ConfigError(f"{missing[0]} has no row in the joints file ({len(missing)} images have none), expected one each; add it")
    session.size  # noqa: B018 - raises for images of mixed size
    ids = np.array(sorted(board.nominal_points_m()))
    index = {int(number): at for at, number in enumerate(ids)}
    names, corners = tuple(session.used), np.full((len(session.used), len(ids), 2), np.nan)
    for row, seen in enumerate(session.used.values()):
        corners[row, [index[number] for number in seen.ids]] = seen.corners_px
    joints = np.array([posed[name].joints_rad for name in names])
    views = Views(ServoArm(joints, Mount(arm.mount.base_height_m, arm.mount.inverted), arm.camera), corners, names)
    kept_back = np.array([posed[name].held_out for name in names])
    held_out = views.take(np.flatnonzero(kept_back)) if kept_back.sum() >= hand_eye.HELD_OUT_MIN else None
    return views.take(np.flatnonzero(~kept_back)) if held_out else views, held_out, points_m(board, ids)


def solve(views: Views, held_out: Views | None, points: Float64, lens: Lens, arm: ArmAsTaken, guess: Float64) -> Solved:
    """Directions first, then the estimate; raises `CalibrationError`, which names the order of the joints where that is what is wrong."""
    told, pivots = lens_of(lens.intrinsics, lens.distortion), servo_zeros.pivots_rad(arm.bus)
    usable = views.take(np.flatnonzero(np.isfinite(views.corners_px[..., 0]).sum(axis=1) >= min(CORNERS_MIN, len(points))))
    signs: tuple[int, ...] = (1,) * 5
    if len(usable.names) >= IMAGES_MIN:  # with fewer the estimate says so
        _require_motion(usable, points, told, guess)
        signs = servo_zeros.directions(views, points, told, pivots, guess)
    turned = servo_zeros.turned(views, signs, pivots)
    fresh = None if held_out is None else servo_zeros.turned(held_out, signs, pivots)
    try:
        found = hand_eye.estimate(turned, points, told, lens_sigma(lens), fresh, guess)
    except CalibrationError as error:
        raise CalibrationError(f"{error}{_order(usable, points, told)}") from None
    if not found.passed:
        failed = "; ".join(f"{one.name}: {one.found:.3g}, at most {one.limit:g}" for one in found.checks if not one.found <= one.limit)
        raise RefusedEstimateError(
            f"the result is too uncertain to be used ({failed}); add poses that differ more{_order(usable, points, told)}",
            Solved(turned, fresh, points, signs, found, arm),
        )
    return Solved(turned, fresh, points, signs, found, arm)


def _require_motion(views: Views, points: Float64, lens: Float64, guess: Float64) -> None:
    """Raise `CalibrationError` for poses that leave something open: directions and order would then be guessed from nothing."""
    count = len(views.arm.joint_names)
    seen = closed_form.board_poses(views.corners_px, points, lens).transform_board_to_camera
    boards = _hand(views.arm.chain(np.zeros(count), np.zeros(count)), views.arm) @ guess @ seen
    state = State(guess, boards[0], np.zeros(count), np.zeros(count), lens)
    observability.require(views.arm, state, points, np.isfinite(views.corners_px[..., 0]))


def _hand(chain: Chain, arm: Arm) -> Float64:
    """(n, 4, 4) what the hand-eye is multiplied with from the left to end at the board."""
    return inverse(chain.transform_flange_to_table) if arm.fixed_camera else chain.transform_flange_to_table


def _order(views: Views, points: Float64, lens: Float64) -> str:
    with suppress(CalibrationError):
        order = better_order(views, points, lens)
        if order:
            return f"; the images fit joints in the order {', '.join(order)}: look at the joints file's columns"
    return ""


def lens_sigma(lens: Lens) -> Float64:
    """(6,) how well the lens is known, as its calibration says."""
    known = lens.made.sigma
    if not known:
        return hand_eye.LENS_SIGMA
    return np.array([np.hypot(known[name], more) if name in known else LENS_FIXED for name, more in zip(NAMES, LENS_DRIFT, strict=True)])


def better_order(views: Views, points: Float64, lens: Float64) -> tuple[str, ...] | None:
    """The order of the joints in which the images agree far better on one place of the board; None: as they are."""
    arm = views.arm
    if len(views.names) < IMAGES_MIN or not isinstance(arm, ServoArm):
        return None
    seen = closed_form.board_poses(views.corners_px, points, lens).transform_board_to_camera
    apart = {}
    for order in permutations(range(5)):
        flange = _hand(ServoArm(arm.commanded[:, order], arm.mount, arm.camera).chain(np.zeros(5), np.zeros(5)), arm)
        apart[order] = float(np.median(closed_form.agreement(closed_form.park(flange, seen), flange, seen, points)))
    best = min(apart, key=lambda order: apart[order])
    if best == tuple(range(5)) or apart[best] > BETTER * apart[tuple(range(5))]:
        return None
    return tuple(JOINT_NAMES[best.index(column)] for column in range(5))
