"""The runtime's configuration: one typed TOML file, every field with its meaning, range and default.

An unknown key, a value out of range or a missing file is one sentence that names the field.
"""

import difflib
import re
import tomllib
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct, field

from edge.errors import ConfigError

Positive = Annotated[float, Meta(gt=0.0)]


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


class BusConfig(_Section, frozen=True):
    """What the set points are written to."""

    driver: Literal["pca9685", "simulator"] = "pca9685"
    i2c: Literal["board", "emulated"] = "board"  # emulated: PCA9685 registers in software, outputs go to the simulator
    address: Annotated[int, Meta(ge=0x03, le=0x77)] = 0x40
    reference_clock_hz: Annotated[int, Meta(ge=22_000_000, le=28_000_000)] = 25_000_000  # oscillators of 23-27 MHz were seen
    servos: tuple[ServoConfig, ...] = field(default_factory=_default_servos)


class CameraConfig(_Section, frozen=True):
    """Where depth frames come from, and how old one may be."""

    driver: Literal["simulator"] = "simulator"
    max_age_s: Positive = 0.1  # an older frame is not used: the arm holds


class SimulatorConfig(_Section, frozen=True):
    """The simulator server, when a driver is `simulator` or the I2C bus is emulated."""

    port: Annotated[int, Meta(ge=0, le=65535)] = 5555  # on loopback; elsewhere: ssh -L
    clock: Literal["real", "virtual"] = "real"  # virtual: lockstep, as fast as the machine allows


class RunConfig(_Section, frozen=True):
    """What one run does, and what it leaves behind."""

    policy: str = "trainer/results/policy.onnx"
    grasps: Annotated[int, Meta(ge=0)] = 0  # 0: until stopped
    place_in_table_m: tuple[float, float] = (-0.12, 0.06)  # where a block is put down; outside the spawn area
    record: str = ""  # write every tick to this file (msgpack); empty: none


class Config(_Section, frozen=True):
    """The whole file. Every section may be left out."""

    mount: MountConfig = MountConfig()
    bus: BusConfig = BusConfig()
    camera: CameraConfig = CameraConfig()
    simulator: SimulatorConfig = SimulatorConfig()
    run: RunConfig = RunConfig()


def load(path: Path) -> Config:
    """Read and check a configuration file; raises `ConfigError` naming file, field, found, expected and remedy."""
    try:
        document = tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise ConfigError(f"configuration {path} does not exist; give --config a TOML file or leave it out") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"configuration {path} is not readable TOML: {error}") from None
    try:
        config = msgspec.convert(document, Config)
    except msgspec.ValidationError as error:
        raise ConfigError(f"configuration {path}: {_explain(str(error), document)}") from None
    _check(config, path)
    return config


def _check(config: Config, path: Path) -> None:
    """Rules between fields."""
    if len(config.bus.servos) != 6:
        raise ConfigError(f"configuration {path}: bus.servos has {len(config.bus.servos)} entries, expected 6 (joint1…joint5, gripper)")
    channels = [servo.channel for servo in config.bus.servos]
    if len(set(channels)) != 6:
        raise ConfigError(f"configuration {path}: bus.servos share a channel ({channels}); give each servo its own")
    for index, servo in enumerate(config.bus.servos):
        if servo.min_us >= servo.max_us:
            raise ConfigError(
                f"configuration {path}: bus.servos[{index}] has min_us {servo.min_us} >= max_us {servo.max_us}; "
                "swap them and set direction = -1 if the servo turns the other way"
            )


def _explain(message: str, document: dict[str, object]) -> str:
    """Turn msgspec's message into field, found, expected; for an unknown key also the nearest known one."""
    unknown = re.search(r"unknown field `(\w+)`(?: - at `\$\.?(.*)`)?", message)
    if unknown:
        key, section = unknown.group(1), unknown.group(2) or ""
        known = _keys_of(section)
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.0)
        where = f"[{section}] " if section else ""
        return f"unknown key {where}'{key}'; did you mean '{near[0]}'? (known: {', '.join(known)})"
    located = re.search(r"^(.*) - at `\$\.(.*)`$", message)
    if not located:
        return message
    text, where = located.groups()
    return f"{where} = {_value_at(document, where)!r}: {text[0].lower()}{text[1:]}"


def _keys_of(section: str) -> list[str]:
    """Names of the fields at a dotted path such as 'bus.servos[...]'."""
    kind: type[Struct] = Config
    for part in filter(None, section.split(".")):
        kind = ServoConfig if part.startswith("servos") else {f.name: f.type for f in msgspec.structs.fields(kind)}[part]
    return [f.name for f in msgspec.structs.fields(kind)]


def _value_at(document: object, where: str) -> object:
    """The value a user wrote at msgspec's dotted path; '…' where the path passes a list."""
    for part in where.split("."):
        if not isinstance(document, dict) or part not in document:
            return "…"
        document = document[part]
    return document
