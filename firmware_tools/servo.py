"""`dofbot servo`: look at servos, move one of them slowly, and find out where its travel ends."""

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from edge import config as configuration
from edge.config import Config
from edge.emulated_arm import PARK_DEG
from edge.errors import BusError, ConfigError
from edge.robot import JOINT_NAMES
from edge.servos import LEAST_DEG, MOST_DEG
from firmware_tools import servo_id, servo_limits, servo_table, slow
from firmware_tools.asking import answer, confirm
from firmware_tools.robot_file import calibrated, path_of
from firmware_tools.servo_line import CountLine, ServoLine, opened

FOLLOWS_DEG = 5.0  # from set point to read-back at rest: more than sag and play, less than what the loop takes for a stall

Joint = Annotated[str, typer.Argument(help=f"Which: {', '.join(JOINT_NAMES)}, or 1…6 from the base up.")]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="TOML file that says which bus; the calibration goes where it says.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask before it moves.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]

_EPILOG = "Exit codes: 0 done, 1 the bus or a servo, 2 configuration, 4 refused: by you, or because a runtime holds the bus."

app = typer.Typer(
    no_args_is_help=True,
    help="Servos one at a time: read, jog, sweep, centre, limits, id. Asks before anything moves, at most 30°/s; Ctrl-C lets go.",
)


class Moved(msgspec.Struct, frozen=True):
    """Where a joint was sent, and where it was then; None: this bus cannot tell."""

    joint: str
    sent_deg: float
    measured_deg: float | None


def register(root: typer.Typer) -> None:
    """Add the verbs."""
    for verb in (read, centre, jog, sweep, limits, identity):
        app.command("id" if verb is identity else None, epilog=_EPILOG)(verb)
    root.add_typer(app, name="servo")


def read(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Show what each servo tells. Nothing moves.

    Temperature, load and voltage are not available over I2C, on either board.
    """
    settings = _settings(config)
    with opened(settings) as line:
        rows = servo_table.rows(line, settings)
    if as_json:
        _print_json(rows)
    else:
        servo_table.show(rows)
    silent = [row for row in rows if row.problem]
    if silent:
        raise BusError("; ".join(f"servo {row.id} ({row.joint}) {row.problem}" for row in silent))


def centre(joint: Joint, config: ConfigFile = None, yes: Yes = False, dry_run: DryRun = False, as_json: AsJson = False) -> None:
    """Turn a servo to angle 0, the middle of its joint, and hold it there: to fit the bracket. Enter lets go."""
    _move(joint, (0.0,), config, yes, dry_run, as_json)


def jog(
    joint: Joint,
    to: Annotated[list[float], typer.Option("--to", help="Angle in degrees, 0 is the middle; several: one after the other.")],
    config: ConfigFile = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Turn a servo to an angle, hold it there, and let go at Enter: which way is positive, does it follow?

    For example: dofbot servo jog joint1 --to 5 --to -5
    """
    _move(joint, tuple(to), config, yes, dry_run, as_json)


def sweep(
    joint: Joint,
    degrees: Annotated[float, typer.Option("--degrees", min=0.5, max=90.0, help="How far, either way, from the middle.")] = 10.0,
    config: ConfigFile = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Turn a servo to one side, to the other and back: does it run freely, and come back to the same place?"""
    low, high = LEAST_DEG[_index(joint)], MOST_DEG[_index(joint)]
    targets = tuple(min(max(deg, low), high) for deg in (0.0, degrees, -degrees, 0.0))
    _move(joint, targets, config, yes, dry_run, as_json)


def limits(joint: Joint, config: ConfigFile = None, yes: Yes = False, dry_run: DryRun = False, as_json: AsJson = False) -> None:
    """Find both end stops of a servo with you, and write them to the calibration; the file before is kept.

    On the DOFBOT's board you turn the limp servo by hand. A PCA9685 moves it for you in steps that you ask for.
    """
    index, settings = _index(joint), _settings(config)
    path = path_of(settings)
    if dry_run:
        typer.echo(f"would find the stops of {JOINT_NAMES[index]} with you, and write them to {path}")
        return
    found = servo_limits.find(index, settings, yes)
    _print_json(found) if as_json else typer.echo(str(found))


def identity(
    new: Annotated[int, typer.Argument(min=1, max=6, help="The id that the servo gets: 1 at the base … 6 the gripper.")],
    config: ConfigFile = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Give the one servo that is plugged in an id. All others must be unplugged: the board renames every servo that hears it."""
    renamed = servo_id.rename(new, _settings(config), yes, dry_run)
    _print_json(renamed) if as_json else typer.echo(str(renamed))


def _move(joint: str, targets_deg: tuple[float, ...], path: Path | None, yes: bool, dry_run: bool, as_json: bool) -> None:
    """Turn, hold until Enter, let go."""
    index, settings = _index(joint), _settings(path)
    for deg in targets_deg:
        slow.check_range(index, deg)
    way = " → ".join(f"{deg:g}°" for deg in targets_deg)
    if dry_run:
        typer.echo(f"would turn {JOINT_NAMES[index]} to {way} at {slow.SPEED_DEG_S:g}°/s, hold it until Enter, and let go")
        return
    with opened(settings) as line:
        from_deg, caution = _start(line, index)
        pose = line.pose()
        if pose is not None:  # else the speed and the joint's own limits are what is left
            slow.check_way(pose, index, targets_deg, line.step_s, settings.mount)
        confirm(f"{JOINT_NAMES[index]} turns from {from_deg:.1f}° to {way} at {slow.SPEED_DEG_S:g}°/s{caution}. Hands away?", yes)
        moved = _moved(line, index, from_deg, targets_deg, shows=not as_json)
        if not yes:
            answer("holding; Enter lets go, and what hangs on it sinks", "")
    if as_json:
        _print_json(moved)
    strayed = [one for one in moved if one.measured_deg is not None and abs(one.measured_deg - one.sent_deg) > FOLLOWS_DEG]
    if strayed:
        found = ", ".join(f"{one.measured_deg:.1f}° for {one.sent_deg:g}°" for one in strayed)
        raise BusError(
            f"{strayed[0].joint} did not follow ({found}), expected within {FOLLOWS_DEG:g}°; look for what blocks it, then its calibration"
        )


def _moved(line: ServoLine, joint: int, from_deg: float, targets_deg: tuple[float, ...], shows: bool) -> list[Moved]:
    moved = []
    for deg in targets_deg:
        slow.turn(line, joint, from_deg, deg)
        raw = line.read(joint)
        moved.append(Moved(JOINT_NAMES[joint], deg, None if raw is None else round(line.deg(joint, raw), 2)))
        if shows:
            told = "no read-back on this bus" if raw is None else f"{line.deg(joint, raw):.1f}° measured"
            typer.echo(f"{JOINT_NAMES[joint]}: {deg:g}° sent ({line.position(joint, deg):.0f} {line.unit}), {told}")
        from_deg = deg
    return moved


def _start(line: ServoLine, joint: int) -> tuple[float, str]:
    """Where the joint is, and what to be careful of."""
    raw = line.read(joint)
    if raw is not None:
        return line.deg(joint, raw), ""
    if isinstance(line, CountLine):
        raise BusError(f"servo of {JOINT_NAMES[joint]} is silent, expected its position; check its cable and its id: dofbot servo read")
    return PARK_DEG[joint], f". Where it is nobody knows: unless it is parked, it first leaps to {PARK_DEG[joint]:.0f}° at full speed"


def _index(joint: str) -> int:
    names = {name: index for index, name in enumerate(JOINT_NAMES)} | {str(index + 1): index for index in range(len(JOINT_NAMES))}
    if joint not in names:
        raise ConfigError(f"servo '{joint}' is not known, expected {', '.join(JOINT_NAMES)} or 1…6; correct it")
    return names[joint]


def _settings(path: Path | None) -> Config:
    return calibrated(configuration.load(path) if path else Config())


def _print_json(value: object) -> None:
    typer.echo(msgspec.json.format(msgspec.json.encode(value)).decode())
