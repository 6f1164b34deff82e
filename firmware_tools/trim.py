"""`dofbot pca9685 trim`: the frequency of this board's oscillator, from what a scope sees of its pulses.

It is 25 MHz by name; 23 to 27 MHz were measured, which is 10° on a servo (Adafruit-PWM-Servo-Driver-Library, PR 72 and issue 11).
A count of the chip takes PRE_SCALE + 1 of its clocks: Adafruit's own calibration example leaves out the 1.
"""

from msgspec import Struct

from edge import calibration
from edge.buses.pca9685 import COUNTS, pre_scale, pulse_counts
from edge.calibration import Check
from edge.config import Config
from edge.errors import ConfigError
from firmware_tools.asking import confirm, number
from firmware_tools.pulse_line import PulseLine
from firmware_tools.robot_file import path_of, save_clock
from firmware_tools.servo_line import opened

NOMINAL_HZ, TOLERANCE_HZ = 25e6, 2e6  # no board was seen outside
BY = "dofbot pca9685 trim"


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


def check_config(settings: Config) -> None:
    """Raise `ConfigError` where there is nothing to trim, or nowhere to write."""
    if settings.bus.driver != "pca9685":
        raise ConfigError(f"bus.driver = '{settings.bus.driver}' has no oscillator to trim, expected 'pca9685'; set it")
    path_of(settings)


def ask_scope(settings: Config, channel: int, commanded_us: float, yes: bool) -> float:
    """Put out a pulse, and ask how long it is on the scope."""
    with opened(settings) as line:
        if not isinstance(line, PulseLine):
            raise ConfigError("bus.driver has no pulses, expected 'pca9685'; set it")
        confirm(f"Channel {channel} gets {commanded_us:g} µs; a servo that is plugged in there leaps. Go on?", yes)
        line.pulse(channel, commanded_us)
        return number("Length of the pulse on the scope, in µs")


def trimmed(settings: Config, clock_hz: float, dry_run: bool) -> Trimmed:
    """Write an oscillator's frequency, if it can be true; raises `ConfigError`, and then nothing is written."""
    off_hz = abs(clock_hz - NOMINAL_HZ)
    if not off_hz <= TOLERANCE_HZ:
        raise ConfigError(
            f"the oscillator comes to {clock_hz / 1e6:.2f} MHz, expected 23…27 MHz; nothing was written: "
            "measure again, and check that the pulses were made with the configured reference_clock_hz"
        )
    made = calibration.made(BY, checks=(Check("oscillator off 25 MHz, MHz", off_hz / 1e6, TOLERANCE_HZ / 1e6),))
    file = "" if dry_run else str(save_clock(settings, round(clock_hz), made))
    return Trimmed(settings.bus.reference_clock_hz, round(clock_hz), file)


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
