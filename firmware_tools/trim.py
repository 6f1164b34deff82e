"""`dofbot pca9685 trim`: the frequency of this board's oscillator, from what a scope sees of its pulses.

It is 25 MHz by name; 23 to 27 MHz were measured, which is 10° on a servo (Adafruit-PWM-Servo-Driver-Library, PR 72 and issue 11).
A count of the chip takes PRE_SCALE + 1 of its clocks: Adafruit's own calibration example leaves out the 1.
"""

from typing import Annotated

import msgspec
import typer
from msgspec import Struct

from edge import calibration
from edge import config as configuration
from edge.calibration import Check
from edge.config import Config
from edge.errors import ConfigError
from edge.pca9685 import COUNTS, pre_scale, pulse_counts
from firmware_tools.asking import confirm, number
from firmware_tools.robot_file import calibrated, path_of, save_clock
from firmware_tools.servo import AsJson, ConfigFile, DryRun, Yes
from firmware_tools.servo_line import PULSE_MAX_US, PULSE_MIN_US, PulseLine, opened

NOMINAL_HZ, TOLERANCE_HZ = 25e6, 2e6  # no board was seen outside
BY = "dofbot pca9685 trim"
MIDDLE_US = 1500.0

app = typer.Typer(no_args_is_help=True, help="What a PCA9685 board needs once.")


class Trimmed(Struct, frozen=True):
    """The oscillator as configured before and as measured now, and the file that has it; empty: nothing was written."""

    before_hz: int
    now_hz: int
    file: str

    def __str__(self) -> str:
        off = (self.now_hz / self.before_hz - 1) * 100
        return f"reference_clock_hz {self.now_hz:,}, before {self.before_hz:,} ({off:+.2f} %), " + (
            f"written to {self.file}" if self.file else "not written"
        )


def register(root: typer.Typer) -> None:
    """Add the verb."""
    app.callback()(_group)
    app.command(epilog="Exit codes: 0 done, 1 the bus, 2 configuration or a reading that cannot be, 4 refused.")(trim)
    root.add_typer(app, name="pca9685")


def trim(
    measured_hz: Annotated[float | None, typer.Option(help="Repetition rate of any output's pulses, about 50 Hz.")] = None,
    measured_us: Annotated[float | None, typer.Option(help="Length of a pulse; finer than the rate if the scope is.")] = None,
    commanded_us: Annotated[float, typer.Option(min=PULSE_MIN_US, max=PULSE_MAX_US, help="What that pulse was meant to be.")] = MIDDLE_US,
    channel: Annotated[int, typer.Option(min=0, max=15, help="Without a reading: the output that gets the pulse.")] = 15,
    config: ConfigFile = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Measure the board's oscillator with a scope or a logic analyser, and write it to the calibration.

    Without a reading the tool puts out a pulse and asks what the scope shows. The pulses must have been made with the
    reference_clock_hz that is configured or calibrated now, as dofbot run and this tool make them.
    """
    settings = calibrated(configuration.load(config) if config else Config())
    path_of(settings)
    if settings.bus.driver != "pca9685":
        raise ConfigError(f"bus.driver = '{settings.bus.driver}' has no oscillator to trim, expected 'pca9685'; set it")
    if measured_hz is None and measured_us is None:
        if dry_run:
            typer.echo(f"would put out {commanded_us:g} µs on channel {channel}, and ask what the scope shows")
            return
        measured_us = _ask_scope(settings, channel, commanded_us, yes)
    before_hz = settings.bus.reference_clock_hz
    now_hz = clock_from_rate(measured_hz, before_hz) if measured_hz else clock_from_pulse(measured_us or 0.0, commanded_us, before_hz)
    result = Trimmed(before_hz, _plausible(now_hz), "" if dry_run else _save(settings, now_hz))
    typer.echo(msgspec.json.format(msgspec.json.encode(result)).decode() if as_json else str(result))


def clock_from_rate(measured_hz: float, configured_hz: float) -> float:
    """The oscillator of a chip that was set up for 50 Hz by `configured_hz`, and pulses at `measured_hz`."""
    return measured_hz * COUNTS * (pre_scale(configured_hz) + 1)


def clock_from_pulse(measured_us: float, commanded_us: float, configured_hz: float) -> float:
    """The oscillator of a chip that was told `commanded_us` by `configured_hz`, rounded to whole counts, and pulses `measured_us` long."""
    clocks = pulse_counts(commanded_us, configured_hz) * (pre_scale(configured_hz) + 1)
    return clocks / (measured_us * 1e-6) if measured_us > 0.0 else 0.0


def clock_from_angles(turned_deg: float, commanded_us: tuple[float, float], us_per_deg: float, configured_hz: float) -> float:
    """The oscillator by a servo that turned `turned_deg` (> 0, seen by a marker on its horn) between two commanded pulses.

    `us_per_deg` is the servo's true scale, which has to be known from elsewhere: scale and oscillator cannot be told apart by
    looking at one servo.
    """
    first, second = (pulse_counts(pulse_us, configured_hz) for pulse_us in commanded_us)
    clocks = abs(second - first) * (pre_scale(configured_hz) + 1)
    return clocks / (turned_deg * us_per_deg * 1e-6) if turned_deg > 0.0 else 0.0


def _ask_scope(settings: Config, channel: int, commanded_us: float, yes: bool) -> float:
    with opened(settings) as line:
        if not isinstance(line, PulseLine):
            raise ConfigError("bus.driver has no pulses, expected 'pca9685'; set it")
        confirm(f"Channel {channel} gets {commanded_us:g} µs; a servo that is plugged in there leaps. Go on?", yes)
        line.pulse(channel, commanded_us)
        return number("Length of the pulse on the scope, in µs")


def _plausible(clock_hz: float) -> int:
    if not abs(clock_hz - NOMINAL_HZ) <= TOLERANCE_HZ:
        raise ConfigError(
            f"the oscillator comes to {clock_hz / 1e6:.2f} MHz, expected 23…27 MHz; nothing was written: "
            "measure again, and check that the pulses were made with the configured reference_clock_hz"
        )
    return round(clock_hz)


def _save(settings: Config, clock_hz: float) -> str:
    check = Check("oscillator off 25 MHz, MHz", abs(_plausible(clock_hz) - NOMINAL_HZ) / 1e6, TOLERANCE_HZ / 1e6)
    return str(save_clock(settings, round(clock_hz), calibration.made(BY, checks=(check,))))


def _group() -> None:
    """What a PCA9685 board needs once."""
