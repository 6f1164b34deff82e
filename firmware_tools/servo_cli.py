"""`dofbot servo …` and `dofbot pca9685 trim`, as `--help` lists them; what they do is imported when it is asked for."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from edge.errors import BusError, ConfigError
from edge.robot import JOINT_NAMES

if TYPE_CHECKING:
    from edge.config import Config
    from firmware_tools.servo import Moved

Joint = Annotated[str, typer.Argument(help=f"Which: {', '.join(JOINT_NAMES)}, or 1…6 from the base up.")]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="TOML file that says which bus; the calibration goes where it says.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask before it moves, nor hold it until Enter afterwards.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]

EPILOG = "Exit codes: 0 done, 1 the bus or a servo, 2 configuration, 4 refused: by you, or because a runtime holds the bus."


def register(root: typer.Typer) -> None:
    """Add both groups of verbs."""
    about = "Servos one at a time. Asks before anything moves, at most 30°/s; Ctrl-C lets go."
    servo = typer.Typer(no_args_is_help=True, help=about)
    for verb in (read, centre, jog, sweep, limits):
        servo.command(epilog=EPILOG)(verb)
    servo.command("id", epilog=EPILOG)(identity)
    root.add_typer(servo, name="servo")
    pca9685 = typer.Typer(no_args_is_help=True, help="What a PCA9685 board needs once.")
    pca9685.callback()(_pca9685)  # or typer would make its only verb the whole group
    pca9685.command(epilog=EPILOG)(trim)
    root.add_typer(pca9685, name="pca9685")


def read(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Show what each servo tells. Nothing moves.

    Temperature, load and voltage are not available over I2C, on either board.
    """
    from firmware_tools import servo_table
    from firmware_tools.servo_line import opened

    settings = _settings(config)
    with opened(settings) as line:
        rows = servo_table.rows(line, settings)
    if as_json:
        _print_json(rows)
    else:
        servo_table.show(rows)
    problems = [f"servo {row.id} ({row.joint}) {row.problem}" for row in rows if row.problem]
    if problems:
        raise BusError("; ".join(problems))


def centre(joint: Joint, config: ConfigFile = None, yes: Yes = False, dry_run: DryRun = False, as_json: AsJson = False) -> None:
    """Turn a servo to angle 0, the middle of its joint, and hold it there: to fit the bracket. Enter lets go."""
    _move(joint, [0.0], config, yes, dry_run, as_json)


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
    _move(joint, to, config, yes, dry_run, as_json)


def sweep(
    joint: Joint,
    degrees: Annotated[float, typer.Option("--degrees", min=0.5, max=90.0, help="How far, either way, from the middle.")] = 10.0,
    config: ConfigFile = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Turn a servo to one side, to the other and back: does it run freely, and come back to the same place?"""
    _move(joint, [0.0, degrees, -degrees, 0.0], config, yes, dry_run, as_json)


def limits(joint: Joint, config: ConfigFile = None, yes: Yes = False, dry_run: DryRun = False, as_json: AsJson = False) -> None:
    """Find both end stops of a servo with you, and write them to the calibration; the file before is kept.

    On the DOFBOT's board you turn the limp servo by hand. A PCA9685 moves it for you in steps that you ask for.
    """
    from firmware_tools import servo_limits
    from firmware_tools.robot_file import path_of

    index, settings = _index(joint), _settings(config)
    path = path_of(settings)
    if dry_run:
        return _would(f"find the stops of {JOINT_NAMES[index]} with you, and write them to {path}", as_json)
    return _finish(servo_limits.find(index, settings, yes), as_json)


def identity(
    new: Annotated[int, typer.Argument(min=1, max=6, help="The id that the servo gets: 1 at the base … 6 the gripper.")],
    config: ConfigFile = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Give the one servo that is plugged in an id. All others must be unplugged: the board renames every servo that hears it."""
    from firmware_tools import servo_id

    _finish(servo_id.rename(new, _settings(config), yes, dry_run), as_json)


def trim(
    measured_hz: Annotated[float | None, typer.Option(help="Repetition rate of any output's pulses, about 50 Hz.")] = None,
    measured_us: Annotated[float | None, typer.Option(help="Length of a pulse; finer than the rate if the scope is.")] = None,
    commanded_us: Annotated[float, typer.Option(min=400.0, max=2600.0, help="What that pulse was meant to be.")] = 1500.0,
    channel: Annotated[int, typer.Option(min=0, max=15, help="Without a reading: the output that gets the pulse.")] = 15,
    config: ConfigFile = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Measure the board's oscillator with a scope or a logic analyser, and write it to the calibration.

    Without a reading the tool puts out a pulse and asks what the scope shows. With one, the pulses must have been made with the
    reference_clock_hz that is configured or calibrated now, as dofbot run and this tool make them.
    """
    from firmware_tools import trim as trimming

    settings = _settings(config)
    trimming.check_config(settings)
    if measured_hz is None and measured_us is None:
        if dry_run:
            return _would(f"put out {commanded_us:g} µs on channel {channel}, and ask what the scope shows", as_json)
        measured_us = trimming.ask_scope(settings, channel, commanded_us, yes)
    configured_hz = settings.bus.reference_clock_hz
    if measured_hz is not None:
        clock_hz = trimming.clock_from_rate(measured_hz, configured_hz)
    else:
        clock_hz = trimming.clock_from_pulse(measured_us or 0.0, commanded_us, configured_hz)
    return _finish(trimming.trimmed(settings, clock_hz, dry_run), as_json)


def _pca9685() -> None:
    """What a PCA9685 board needs once."""


def _move(joint: str, targets_deg: list[float], path: Path | None, yes: bool, dry_run: bool, as_json: bool) -> None:
    from firmware_tools import servo

    index, settings = _index(joint), _settings(path)
    servo.check_targets(index, targets_deg)
    if dry_run:
        holds = "" if yes else " hold it until Enter,"
        return _would(f"turn {servo.described(index, targets_deg)},{holds} and let go", as_json)

    def show(moved: "Moved") -> None:
        if not as_json:
            typer.echo(str(moved))

    moved = servo.move(index, targets_deg, settings, yes, show)
    if as_json:
        _print_json(moved)
    return servo.check_followed(moved)


def _index(joint: str) -> int:
    names = {name: index for index, name in enumerate(JOINT_NAMES)} | {str(index + 1): index for index in range(len(JOINT_NAMES))}
    if joint not in names:
        raise ConfigError(f"servo '{joint}' is not known, expected {', '.join(JOINT_NAMES)} or 1…6; correct it")
    return names[joint]


def _settings(path: Path | None) -> "Config":
    from edge import config as configuration
    from firmware_tools.robot_file import calibrated

    return calibrated(configuration.load(path) if path else configuration.Config())


def _would(what: str, as_json: bool) -> None:
    """What a dry run leaves undone."""
    if as_json:
        _print_json({"would": what})
    else:
        typer.echo(f"would {what}")


def _finish(result: msgspec.Struct, as_json: bool) -> None:
    if as_json:
        _print_json(result)
    else:
        typer.echo(str(result))


def _print_json(value: object) -> None:
    typer.echo(msgspec.json.format(msgspec.json.encode(value)).decode())
