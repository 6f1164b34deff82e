"""What was measured on this one robot: a JSON file that the tools write and the runtime reads at start.

Each part was measured by a command of its own and says how, with the σ of every number and the thresholds that it passed. A part that
is not there leaves the configuration's numbers as they are. The file names the robot that it is for: its URDF, its mount, its servo
board, and the camera's serial number, which is all that such an arm has to be told apart by.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import Meta, Struct

from edge import __version__
from edge.config import BoardServoConfig, BusConfig, Config, MountConfig, ServoConfig, check_rules
from edge.errors import ConfigError
from edge.files import write_atomically
from edge.messages import Intrinsics

SCHEMA_VERSION = 1
PREVIOUS = ".previous"  # what was there before the last save, beside it

CAMERA_PARTS = ("lens", "hand_eye", "forearm_camera", "fixed_camera", "depth")
PARTS = ("pca9685", "dofbot_board", *CAMERA_PARTS)

Positive = Annotated[float, Meta(gt=0.0)]
Row = tuple[float, float, float, float]


class _Part(Struct, frozen=True, forbid_unknown_fields=True):
    pass


class Check(_Part, frozen=True):
    """One threshold that a result had to keep: `found` ≤ `limit`."""

    name: str  # with its unit: 'held-out error, median, mm'
    found: float
    limit: float


class Made(_Part, frozen=True):
    """How a part came to be."""

    at: str  # UTC, ISO 8601
    by: str  # the command
    version: str = __version__
    sigma: dict[str, float] = msgspec.field(default_factory=dict)  # of each number that was estimated, in its unit
    checks: tuple[Check, ...] = ()


class Pca9685Calibration(_Part, frozen=True):
    """Servos on a PCA9685: replaces `bus.reference_clock_hz` and `bus.servos`."""

    reference_clock_hz: Annotated[int, Meta(ge=22_000_000, le=28_000_000)]
    servos: tuple[ServoConfig, ServoConfig, ServoConfig, ServoConfig, ServoConfig, ServoConfig]
    made: Made


class BoardCalibration(_Part, frozen=True):
    """Servos on the DOFBOT's own board: replaces `bus.board.servos`."""

    servos: tuple[BoardServoConfig, BoardServoConfig, BoardServoConfig, BoardServoConfig, BoardServoConfig, BoardServoConfig]
    made: Made


class Lens(_Part, frozen=True):
    """The depth camera's lens: a pinhole, and Brown's distortion as OpenCV orders it (k1 k2 p1 p2 k3)."""

    serial: str
    intrinsics: Intrinsics
    distortion: tuple[float, float, float, float, float]
    made: Made


class HandEye(_Part, frozen=True):
    """Where the depth camera sits on the tool, behind joint 5: the wrist camera that policies are trained with."""

    serial: str
    transform_camera_to_tool: tuple[Row, Row, Row, Row]  # optical axes: x right, y down, z forward; metres
    made: Made


class ForearmCamera(_Part, frozen=True):
    """Where the depth camera sits on the forearm, before joint 5. Link 4's frame is the tool's while joint 5 is at 0."""

    serial: str
    transform_camera_to_link4: tuple[Row, Row, Row, Row]  # optical axes, metres
    made: Made


class FixedCamera(_Part, frozen=True):
    """Where a depth camera stands that is not on the arm."""

    serial: str
    transform_camera_to_table: tuple[Row, Row, Row, Row]  # optical axes, metres
    made: Made


class DepthCorrection(_Part, frozen=True):
    """True depth along the optical axis = `scale` · measured + `offset_m`."""

    serial: str
    scale: Annotated[float, Meta(ge=0.8, le=1.25)]
    offset_m: Annotated[float, Meta(ge=-0.05, le=0.05)]
    made: Made


class Calibration(_Part, frozen=True, omit_defaults=True):
    """The whole file."""

    schema_version: int
    urdf_sha256: str
    base_height_m: float
    inverted: bool
    driver: Literal["pca9685", "dofbot_board"]
    pca9685: Pca9685Calibration | None = None
    dofbot_board: BoardCalibration | None = None
    lens: Lens | None = None
    hand_eye: HandEye | None = None
    forearm_camera: ForearmCamera | None = None  # in place of hand_eye
    fixed_camera: FixedCamera | None = None  # in place of either
    depth: DepthCorrection | None = None


class _Version(Struct):
    schema_version: int


def blank(config: Config, urdf_sha256: str) -> Calibration:
    """A calibration of the robot that `config` describes, in which nothing is measured yet; raises `ConfigError` for a simulator's bus."""
    driver = config.bus.driver
    if driver == "simulator":
        raise ConfigError("bus.driver = 'simulator' has nothing to calibrate, expected 'pca9685' or 'dofbot_board'; set it")
    return Calibration(SCHEMA_VERSION, urdf_sha256, config.mount.base_height_m, config.mount.inverted, driver)


def made(by: str, sigma: dict[str, float] | None = None, checks: tuple[Check, ...] = ()) -> Made:
    """How a part that is measured right now came to be."""
    return Made(datetime.now(UTC).isoformat(timespec="seconds"), by, sigma=sigma or {}, checks=checks)


def load(path: Path) -> Calibration:
    """Read and check a calibration file; raises `ConfigError` naming file, field, found, expected and remedy."""
    try:
        data = path.read_bytes()
    except PermissionError:
        raise ConfigError(f"calibration {path} may not be read by this user, expected it to; sudo chmod a+r {path}") from None
    except OSError as error:
        raise ConfigError(f"calibration {path} cannot be read ({error.strerror}), expected what dofbot calibrate wrote; run it") from None
    try:
        version = msgspec.json.decode(data, type=_Version).schema_version
        if version != SCHEMA_VERSION:
            raise ConfigError(f"calibration {path} has schema_version {version}, expected {SCHEMA_VERSION}; calibrate again")
        found = msgspec.json.decode(data, type=Calibration)
    except (ValueError, RecursionError) as error:  # ValueError: msgspec's own errors, and invalid UTF-8
        remedy = f"; the one before it is in {path.name}{PREVIOUS}" if previous_of(path).exists() else "; calibrate again"
        raise ConfigError(f"calibration {path} is damaged or not ours ({error}){remedy}") from None
    _check(found, path)
    return found


def check_robot(found: Calibration, path: Path, mount: MountConfig, bus: BusConfig, urdf_sha256: str) -> None:
    """Raise `ConfigError` for a calibration of another robot than the configuration's."""
    for name, is_so, wanted in (
        ("urdf_sha256", found.urdf_sha256, urdf_sha256),
        ("inverted", found.inverted, mount.inverted),
        ("base_height_m", found.base_height_m, mount.base_height_m),
        ("driver", found.driver, bus.driver),
    ):
        if is_so != wanted:
            raise ConfigError(
                f"calibration {path} is for another robot: {name} is {is_so}, expected {wanted} as configured; calibrate this one"
            )


def check_placement(found: Calibration, path: Path) -> None:
    """Raise `ConfigError` for a camera that is not on the wrist: policies are trained with one that turns with the gripper."""
    for name, where in (("forearm_camera", "on the forearm"), ("fixed_camera", "on a stand")):
        if getattr(found, name) is not None:
            raise ConfigError(
                f"calibration {path} has the camera {where} ({name}), expected it on the wrist, as policies are trained; "
                "mount it behind joint 5 and run dofbot calibrate handeye"
            )


def check_camera(found: Calibration, path: Path, serial: str) -> None:
    """Raise `ConfigError` when a part was measured with another camera than the one that is plugged in."""
    for name in CAMERA_PARTS:
        part = getattr(found, name)
        if part is not None and part.serial != serial:
            raise ConfigError(
                f"calibration {path} is for another camera: {name}.serial is {part.serial!r}, expected {serial!r}, which is plugged in; "
                "plug the calibrated one in, or calibrate this one"
            )


def applied(config: Config, found: Calibration) -> Config:
    """The configuration with the servos as they were measured."""
    bus = config.bus
    if found.pca9685 is not None:
        bus = msgspec.structs.replace(bus, reference_clock_hz=found.pca9685.reference_clock_hz, servos=found.pca9685.servos)
    if found.dofbot_board is not None:
        bus = msgspec.structs.replace(bus, board=msgspec.structs.replace(bus.board, servos=found.dofbot_board.servos))
    return msgspec.structs.replace(config, bus=bus)


def save(path: Path, found: Calibration) -> None:
    """Write a calibration whole, and keep the one before as `path`.previous; raises `ConfigError`, and then nothing is written.

    Refused: a part that did not pass its thresholds, and whatever `load` would refuse.
    """
    for name, part in _parts(found):
        for one in part.made.checks:
            if not one.found <= one.limit:  # NaN fails too
                what = f"calibration {path}: {name} was not written: {one.name} is {one.found:g}"
                raise ConfigError(f"{what}, expected at most {one.limit:g}; nothing has changed")
    try:
        again = msgspec.json.decode(msgspec.json.encode(found), type=Calibration)
    except msgspec.ValidationError as error:
        raise ConfigError(f"calibration {path} was not written: {error}") from None
    _check(again, path)
    try:
        if path.exists():
            write_atomically(previous_of(path), path.read_bytes())
        write_atomically(path, msgspec.json.format(msgspec.json.encode(found)) + b"\n")
    except OSError as error:
        raise ConfigError(f"calibration {path} cannot be written ({error.strerror}); give a path that you may write to") from None


def previous_of(path: Path) -> Path:
    """Where `save` keeps what was there before."""
    return path.with_name(path.name + PREVIOUS)


def _parts(found: Calibration) -> list[tuple[str, Any]]:
    return [(name, part) for name in PARTS if (part := getattr(found, name)) is not None]


def _check(found: Calibration, path: Path) -> None:
    """Rules that no single field can have."""
    if not np.isfinite(_numbers(msgspec.to_builtins(found))).all():
        raise ConfigError(f"calibration {path} has a number that is not finite; calibrate again")
    check_rules(applied(Config(), found), f"calibration {path}")
    if found.lens is not None and min(found.lens.intrinsics[:4]) <= 0:
        raise ConfigError(f"calibration {path}: lens has {found.lens.intrinsics}, expected width, height, fx and fy > 0; calibrate again")
    poses = {
        "hand_eye.transform_camera_to_tool": found.hand_eye and found.hand_eye.transform_camera_to_tool,
        "forearm_camera.transform_camera_to_link4": found.forearm_camera and found.forearm_camera.transform_camera_to_link4,
        "fixed_camera.transform_camera_to_table": found.fixed_camera and found.fixed_camera.transform_camera_to_table,
    }
    measured = {name: pose for name, pose in poses.items() if pose is not None}
    for name, pose in measured.items():
        if not _is_rigid(np.array(pose)):
            raise ConfigError(f"calibration {path}: {name} is no rigid pose; calibrate again")
    if len(measured) > 1:
        raise ConfigError(f"calibration {path} has {' and '.join(measured)}, expected one place of the camera; calibrate again")


def _is_rigid(pose: "np.ndarray[Any, np.dtype[np.float64]]") -> bool:
    rotation = pose[:3, :3]
    return bool(
        np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-6) and np.linalg.det(rotation) > 0 and np.allclose(pose[3], (0, 0, 0, 1))
    )


def _numbers(value: Any) -> list[float]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return [number for item in value for number in _numbers(item)]
    return [] if isinstance(value, bool | str) or value is None else [float(value)]
