"""The runtime's configuration: one typed TOML file, every field with its meaning, range and default.

An unknown key, a value out of range or a missing file is one sentence that names the field.
"""

import difflib
import math
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import msgspec
from msgspec import Meta, Struct, field

from edge.errors import ConfigError
from edge.remote.control_socket import AUTO, TUNNEL
from edge.safety import DOFBOT_LIMITS
from edge.simulated.faults import Fault
from edge.simulated.faults import check as check_fault

Positive = Annotated[float, Meta(gt=0.0)]
PublicKey = Annotated[str, Meta(pattern=r"^[A-Za-z0-9+/]{43}=\Z")]  # 32 bytes in base64
PresetName = Literal["default", "high_accuracy", "high_density", "medium_density"]


class _Section(Struct, frozen=True, forbid_unknown_fields=True):
    pass


class MountConfig(_Section, frozen=True):
    """How the arm hangs or stands."""

    inverted: bool = True  # base plate above the table, arm hanging down
    base_height_m: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.388  # base plate above the table; urdf/README.md says why


class ServoConfig(_Section, frozen=True):
    """One servo: where it is plugged in and how pulse width maps to angle."""

    channel: Annotated[int, Meta(ge=0, le=15)]
    min_us: Annotated[float, Meta(ge=400, le=2600)] = 500.0  # pulse at one end of travel
    max_us: Annotated[float, Meta(ge=400, le=2600)] = 2500.0  # pulse at the other end
    travel_deg: Annotated[float, Meta(gt=0, le=360)] = 270.0  # angle between the two ends
    zero_deg: float = 0.0  # joint angle at the middle of the travel
    direction: Literal[1, -1] = 1  # -1: a longer pulse turns the joint the negative way


def _default_servos() -> tuple[ServoConfig, ...]:
    """Five 270° servos and a 180° gripper servo on channels 0-5."""
    joints = tuple(ServoConfig(channel=c, zero_deg=45.0 if c == 4 else 0.0) for c in range(5))
    return (*joints, ServoConfig(channel=5, travel_deg=180.0))


class BoardServoConfig(_Section, frozen=True):
    """One bus servo of the DOFBOT's own board: its id, and how counts map to angle."""

    id: Annotated[int, Meta(ge=1, le=6)]
    # Arm_Lib's scale and the board's default middles. Other arms had 0.0768 to 0.0845 °/count and zeros up to 2° off
    # (Practitioner108/dofbot_sci_ws, jimdinunzio/dofbot_ros2): measure yours.
    zero_raw: Annotated[float, Meta(ge=96, le=4000)] = 2000.0  # counts at joint angle 0; the gripper: at the middle of its table, 90°
    counts_per_deg: Annotated[float, Meta(ge=10.0, le=15.0)] = 2200.0 / 180.0
    direction: Literal[1, -1] = 1  # -1: more counts turn the joint the negative way
    min_raw: Annotated[int, Meta(ge=96, le=4000)] = 96  # no set point below; 96…4000 is the vendor's range (i2c_register_map.xlsx)
    max_raw: Annotated[int, Meta(ge=96, le=4000)] = 4000  # nor above


def _default_board_servos() -> tuple[BoardServoConfig, ...]:
    """As Arm_Lib drives them: ids 1-6 up the arm, servos 2-4 turned around, servo 5 with a scale of its own, the gripper 0…180°."""
    shoulder = tuple(BoardServoConfig(id=i, direction=-1 if i > 1 else 1) for i in range(1, 5))
    wrist = BoardServoConfig(id=5, zero_raw=1486.0, counts_per_deg=3320.0 / 270.0)
    return (*shoulder, wrist, BoardServoConfig(id=6, min_raw=900, max_raw=3100))


class BoardConfig(_Section, frozen=True):
    """The DOFBOT's own servo board, for driver `dofbot_board`."""

    i2c_bus: Annotated[int, Meta(ge=0, le=99)] = 1  # /dev/i2c-1: Raspberry Pi and Jetson Nano; an Orin Nano has it on 7
    address: Annotated[int, Meta(ge=0x03, le=0x77)] = 0x15
    # Time that servos take for a set point: one tick. A set point that comes before interrupts the servo's own trapezoid, felt as a
    # jerk (Practitioner108/dofbot_sci_ws); longer is smoother and later by as much, 0 is as fast as they can.
    move_ms: Annotated[int, Meta(ge=0, le=1000)] = 20
    servos: tuple[BoardServoConfig, ...] = field(default_factory=_default_board_servos)


class BusConfig(_Section, frozen=True):
    """What the set points are written to."""

    driver: Literal["pca9685", "dofbot_board", "simulator"] = "pca9685"
    i2c: Literal["board", "emulated"] = "board"  # emulated: the driver's chip in software, its servos in the simulator
    address: Annotated[int, Meta(ge=0x03, le=0x77)] = 0x40  # of the PCA9685
    reference_clock_hz: Annotated[int, Meta(ge=22_000_000, le=28_000_000)] = 25_000_000  # oscillators of 23-27 MHz were seen
    servos: tuple[ServoConfig, ...] = field(default_factory=_default_servos)  # on the PCA9685; the simulator's are wired so too
    board: BoardConfig = BoardConfig()


class CameraConfig(_Section, frozen=True):
    """Where depth frames come from, and how old one may be. docs/realsense.md has the reasons."""

    driver: Literal["simulator", "realsense", "replay"] = "simulator"
    max_age_s: Positive = 0.1  # an older frame is not used: the arm holds
    serial: str = ""  # of the RealSense to use; empty: the only one that is plugged in
    width: Annotated[int, Meta(ge=1, le=1280)] = 424  # a larger image sees less near: edge/cameras/realsense.py
    height: Annotated[int, Meta(ge=1, le=800)] = 240
    fps: Annotated[int, Meta(ge=15, le=90)] = 30
    preset: PresetName = "high_density"  # the camera's visual preset; policies are trained with 2 % of holes at most
    file: str = ""  # the recording, for driver `replay`
    loop: bool = False  # play it for ever


class CalibrationConfig(_Section, frozen=True):
    """What was measured on this robot; it goes before what the sections above say of servos."""

    file: str = ""  # what dofbot calibrate and dofbot servo write; empty: none, every number is nominal
    check_max_age_h: Annotated[float, Meta(ge=0.0)] = 0.0  # how old the last dofbot calibrate check may be to arm; 0: none is asked for


class BlockConfig(_Section, frozen=True):
    """The markers on top of the blocks, which a policy of variant `xyz` is told the place of: dofbot calibrate board blocks prints them."""

    dictionary: str = "DICT_4X4_50"  # OpenCV's name
    # The ids that count; others are not looked at.
    markers: Annotated[tuple[Annotated[int, Meta(ge=0, le=999)], ...], Meta(min_length=1)] = (30, 31, 32, 33, 34, 35)
    marker_m: Annotated[float, Meta(ge=0.010, le=0.100)] = 0.025  # the black square's edge, as measured on the print


class FixedMarkerConfig(_Section, frozen=True):
    """A marker that is glued to the table where the camera sees it as a descent begins: seen elsewhere, the camera has moved."""

    id: Annotated[int, Meta(ge=-1, le=999)] = -1  # in block.dictionary; -1: there is none
    at_in_table_m: tuple[float, float] = (0.0, 0.0)  # its middle
    size_m: Annotated[float, Meta(ge=0.010, le=0.100)] = 0.030  # the black square's edge; dofbot calibrate board aruco prints such
    # 10 mm off its place a camera costs every fifth grasp (docs/camera.md); less is not told from an arm's own errors: of 200 honest
    # descents 1 is more than 10 mm off, 7 more than 8, 40 more than 5 (tests/bench/knocked.py).
    off_max_m: Annotated[float, Meta(gt=0.0, le=0.1)] = 0.010


class SimulatorConfig(_Section, frozen=True):
    """The simulator server; nobody connects to it unless a driver is `simulator` or the I2C bus is emulated."""

    port: Annotated[int, Meta(ge=0, le=65535)] = 5555  # on loopback; elsewhere: ssh -L
    clock: Literal["real", "virtual"] = "real"  # virtual: lockstep, as fast as the machine allows


class ControlConfig(_Section, frozen=True):
    """Where `dofbot arm`, `grasp`, `status` and the like reach the process: a Unix socket, never a network."""

    socket: str = AUTO  # auto: in the service's folder, $XDG_RUNTIME_DIR or /tmp, see edge/remote/control_socket.py; a path; empty: none
    mode: int = 0o660  # of the socket file: 0o660, owner and group may command the arm, or 0o600, the owner alone
    group: str = ""  # of the socket file; empty: the process's own


class RunConfig(_Section, frozen=True):
    """What one run does, and what it leaves behind."""

    policy: str = "trainer/results/policy.onnx"
    grasps: Annotated[int, Meta(ge=0)] = 0  # 0: until stopped
    place_in_table_m: tuple[float, float] = (-0.12, 0.06)  # where a block is put down; outside the spawn area
    record: str = ""  # write every tick to this file (msgpack); empty: none


class PolicyConfig(_Section, frozen=True):
    """Policies that come without a new version (dofbot policy), who may send them, and when one is given up again."""

    folder: str = ""  # where they are kept; the active one goes before run.policy. Empty: none are taken, run.policy alone counts
    trusted_keys: tuple[PublicKey, ...] = ()  # of whoever may sign policies, as dofbot policy keygen prints them
    allow_unsigned: bool = False  # true: whoever can log in as root here may change what the arm does, no signature needed
    # A new policy is on trial for so many grasps, 3 minutes of them; 0: for none. It goes as soon as it can no longer reach the share.
    # Of 20 grasps at 70 %: one that really picks 95 % is given up once in 30 000 trials, one of 50 % stays in 6 of 100 (binomial).
    trial_grasps: Annotated[int, Meta(ge=0, le=1000)] = 20
    trial_success_min: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.7  # the share to be picked; else the policy before comes back


class RealtimeConfig(_Section, frozen=True):
    """What the control thread asks of the kernel. What is not granted is said once, and the run goes on."""

    fifo_priority: Annotated[int, Meta(ge=0, le=98)] = 50  # SCHED_FIFO; 0: ordinary scheduling; 99 is left to the kernel
    cpus: tuple[Annotated[int, Meta(ge=0, le=1023)], ...] = ()  # cores that the thread stays on; empty: any
    lock_memory: bool = True  # what was touched once is never paged out
    freeze_gc: bool = True  # no garbage collection during a run


class FaultsConfig(_Section, frozen=True):
    """Faults that are injected on purpose, in tests; `edge/simulated/faults.py` says what there is."""

    allow: bool = False  # without it no fault can be injected, neither by the script nor while it runs
    script: tuple[Fault, ...] = ()  # its times count from the opening of the devices
    seed: Annotated[int, Meta(ge=0)] = 0  # of the faults that are random


class Config(_Section, frozen=True):
    """The whole file. Every section may be left out."""

    mount: MountConfig = MountConfig()
    bus: BusConfig = BusConfig()
    camera: CameraConfig = CameraConfig()
    calibration: CalibrationConfig = CalibrationConfig()
    block: BlockConfig = BlockConfig()
    fixed_marker: FixedMarkerConfig = FixedMarkerConfig()
    simulator: SimulatorConfig = SimulatorConfig()
    control: ControlConfig = ControlConfig()
    run: RunConfig = RunConfig()
    policy: PolicyConfig = PolicyConfig()
    realtime: RealtimeConfig = RealtimeConfig()
    faults: FaultsConfig = FaultsConfig()


def load(path: Path) -> Config:
    """Read and check a configuration file; raises `ConfigError` naming file, field, found, expected and remedy."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"configuration {path} does not exist; give --config a TOML file or leave it out") from None
    except (OSError, UnicodeDecodeError, RecursionError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"configuration {path} is not readable TOML: {error}") from None
    found = _not_finite(document)
    if found:
        raise ConfigError(f"configuration {path}: {found}: expected a finite number")
    try:
        config = msgspec.convert(document, Config)
    except msgspec.ValidationError as error:
        raise ConfigError(f"configuration {path}: {_explain(str(error), document)}") from None
    check_rules(config, f"configuration {path}")
    return config


def check_rules(config: Config, where: str) -> None:
    """Rules between fields; raises `ConfigError` that begins with `where`, the file that the numbers are from."""
    if len(config.bus.servos) != 6:
        raise ConfigError(f"{where}: bus.servos has {len(config.bus.servos)} entries, expected 6 (joint1…joint5, gripper)")
    channels = [servo.channel for servo in config.bus.servos]
    if len(set(channels)) != 6:
        raise ConfigError(f"{where}: bus.servos share a channel ({channels}); give each servo its own")
    for index, servo in enumerate(config.bus.servos):
        if servo.min_us >= servo.max_us:
            raise ConfigError(
                f"{where}: bus.servos[{index}] has min_us {servo.min_us} >= max_us {servo.max_us}; "
                "swap them and set direction = -1 if the servo turns the other way"
            )
    _check_place(config.run.place_in_table_m, where)
    _check_control(config.control, where)
    _check_board(config.bus.board, where)
    _check_faults(config.faults, where)
    if config.policy.folder and not config.policy.folder.startswith("/"):
        raise ConfigError(f"{where}: policy.folder = {config.policy.folder!r}, expected an absolute path, or '' for none")
    if config.calibration.check_max_age_h > 0.0 and not config.calibration.file:
        found = f"calibration.check_max_age_h = {config.calibration.check_max_age_h:g} with calibration.file = ''"
        raise ConfigError(f"{where}: {found}, expected the file that is checked; name it, or set check_max_age_h = 0")
    if config.fixed_marker.id in config.block.markers:
        raise ConfigError(f"{where}: fixed_marker.id = {config.fixed_marker.id} is one of block.markers, expected another; change either")
    if config.camera.driver == "replay" and not config.camera.file:
        raise ConfigError(f"{where}: camera.file = '' with camera.driver = 'replay', expected a recording (.db3); name it")


def _check_place(place: tuple[float, float], where: str) -> None:
    low, high = DOFBOT_LIMITS.tool_min_in_table_m[:2], DOFBOT_LIMITS.tool_max_in_table_m[:2]
    if not all(least <= at <= most for least, at, most in zip(low, place, high, strict=True)):
        raise ConfigError(
            f"{where}: run.place_in_table_m = {place}, expected a place in the safety gate's box, {low}…{high}; move it there"
        )


def _check_control(control: ControlConfig, where: str) -> None:
    if control.socket not in ("", AUTO) and (not control.socket.startswith("/") or "\0" in control.socket):
        raise ConfigError(f"{where}: control.socket = {control.socket!r}: expected '{AUTO}' or an absolute path; {TUNNEL}")
    if control.mode not in (0o600, 0o660):
        raise ConfigError(
            f"{where}: control.mode = {control.mode:#o}: expected 0o660 or 0o600, "
            "because whoever may write to the socket moves the arm; put people into control.group instead"
        )


def _check_board(board: BoardConfig, where: str) -> None:
    ids = [servo.id for servo in board.servos]
    if sorted(ids) != [1, 2, 3, 4, 5, 6]:
        raise ConfigError(f"{where}: bus.board.servos have ids {ids}, expected each of 1…6 once, in the order joint1…joint5, gripper")
    for index, servo in enumerate(board.servos):
        if servo.min_raw >= servo.max_raw:
            raise ConfigError(
                f"{where}: bus.board.servos[{index}] has min_raw {servo.min_raw} >= max_raw {servo.max_raw}; "
                "swap them and set direction = -1 if the servo turns the other way"
            )


def _check_faults(faults: FaultsConfig, where: str) -> None:
    if faults.script and not faults.allow:
        found = f"faults.script has {len(faults.script)} faults"
        raise ConfigError(f"{where}: {found}, expected none while faults.allow = false; set it to true, or empty the script")
    for index, fault in enumerate(faults.script):
        try:
            check_fault(fault)
        except ConfigError as error:
            raise ConfigError(f"{where}: faults.script[{index}]: {error}") from None


def _explain(message: str, document: dict[str, object]) -> str:
    """Turn msgspec's message into field, found, expected; for an unknown key also the nearest known one."""
    unknown = re.search(r"unknown field `(.*?)`(?: - at `\$\.(.*)`)?$", message)
    if unknown:
        key, section = unknown.group(1), unknown.group(2) or ""
        known = [f.name for f in msgspec.structs.fields(_section_at(section))]
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
        meant = f"; did you mean '{near[0]}'?" if near else ""
        where = f"[{section}] " if section else ""
        tunnel = f"; {TUNNEL}" if section == "control" and not near else ""  # whoever writes host or port means that
        return f"unknown key {where}'{key}'{meant} (known: {', '.join(known)}){tunnel}"
    located = re.search(r"^(.*) - at `\$\.(.*)`$", message)
    if not located:
        return message
    text, where = located.groups()
    if text.startswith("Invalid enum value"):
        section, _, key = where.rpartition(".")
        allowed = {f.name: get_args(f.type) for f in msgspec.structs.fields(_section_at(section))}[key]
        text = f"expected {' or '.join(map(repr, allowed))}"
    tunnel = f"; {TUNNEL}" if where == "control.socket" else ""  # a port number
    return f"{where} = {_value_at(document, where)!r}: {text[0].lower()}{text[1:]}{tunnel}"


def _section_at(where: str) -> type[Struct]:
    """The type of the section at a dotted path such as 'bus.servos[0]'."""
    kind: Any = Config
    for part in filter(None, where.split(".")):
        name, _, index = part.partition("[")
        kind = {f.name: f.type for f in msgspec.structs.fields(kind)}[name]
        kind = get_args(kind)[0] if index else kind
    section: type[Struct] = kind
    return section


def _value_at(document: Any, where: str) -> object:
    """The value a user wrote at msgspec's path, such as 'bus.servos[0].channel'."""
    for key, index in re.findall(r"(\w+)|\[(\d+)\]", where):
        document = document[key] if key else document[int(index)]
    return document


def _not_finite(value: object, where: str = "") -> str:
    """Where the first nan or inf is, which TOML allows and a range lets through, and which it is; empty: there is none."""
    if isinstance(value, float):
        return "" if math.isfinite(value) else f"{where} = {value}"
    items: Iterable[tuple[str, object]] = ()
    if isinstance(value, dict):
        items = ((f"{where}.{key}" if where else str(key), item) for key, item in value.items())
    elif isinstance(value, list):
        items = ((f"{where}[{index}]", item) for index, item in enumerate(value))
    return next((found for path, item in items if (found := _not_finite(item, path))), "")
