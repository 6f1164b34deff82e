"""The PCA9685 driver: the chip that Adafruit's ServoKit sets up, and what that leaves out: off at open, read-back, nearest counts, release.

ServoKit imports Blinka's `board` even when it is given a bus (ServoKit 1.3.24, Blinka 10.0.0, tried on x86-64):
- a Raspberry Pi needs `gpiod` installed as well, or `board` fails, though no GPIO pin is used;
- a plain x86-64 Linux has a `board` without I2C: enough for an injected bus, not for the default one;
- a machine that Blinka does not know, an ARM laptop for one, fails unless BLINKA_OS_AGNOSTIC is set.
So an injected bus sets BLINKA_OS_AGNOSTIC and works on all three.
"""

import importlib
import logging
import os
from typing import Any

from edge.buses.i2c_adapter import ask_for_haste
from edge.buses.i2c_time import Exchange, WireTime, on_the_wire
from edge.buses.lease import check_lease
from edge.buses.servos import pulses_us
from edge.config import BusConfig
from edge.errors import BusError, MissingExtraError
from edge.messages import JointCommand
from edge.robot import JOINT_NAMES

FRAME_HZ = 50  # what hobby servos are made for; the chip gives 50.03 Hz, and steps of 4.88 µs
MODE1_RUNNING = 0x20  # awake, auto-increment, nothing else: what ServoKit leaves behind
COUNTS = 4096  # of one period
LED0, FULL_OFF = 0x06, 0x1000  # first register of output 0; bit 4 of LEDn_OFF_H
ALL_OFF = bytes((0xFD, 0x10))  # bit 4 of ALL_LED_OFF_H: every output off at once, the data sheet's fastest shutdown (7.3.1.1)
RELEASE_ATTEMPTS = 3  # one glitch on the wires must not leave servos powered

_log = logging.getLogger(__name__)


class Pca9685Bus:
    """Six PWM servos on a PCA9685; there is no position feedback.

    `i2c` has the methods of Blinka's `busio.I2C`; None takes `board.I2C()` when the bus is opened.
    One thread only: Blinka's bus lock is a plain flag.
    """

    def __init__(self, config: BusConfig, i2c: Any = None) -> None:
        self._config = config
        self._i2c = i2c
        self._injected = i2c is not None
        self._kit: Any = None
        self._chip: Any = None
        self._channels: list[Any] = []

    def open(self) -> None:
        """Wake the chip with all outputs off; nothing moves before the first `write`.

        Called again, it starts over: that is the way back after the chip lost power. About 20 ms at 100 kHz.
        Raises `BusError`, or `MissingExtraError` without ServoKit.
        """
        self._channels = []
        kit_class = _import_servokit(injected=self._injected)
        clock_hz = self._config.reference_clock_hz
        try:
            if self._i2c is None:
                self._i2c = _board_i2c()
            # ServoKit's start-up would bring back whatever pulses a killed process left in the registers.
            self._i2c.writeto(self._config.address, ALL_OFF)
            if self._kit is None:
                self._kit = kit_class(
                    channels=16, i2c=self._i2c, address=self._config.address, reference_clock_speed=clock_hz, frequency=FRAME_HZ
                )
            else:  # a kit refers to itself, and nobody collects it while the arm runs: what its start-up does, once more
                self._kit._pca.reset()
                self._kit._pca.frequency = FRAME_HZ
            self._chip = self._kit._pca  # ServoKit has no public way to its chip
            self._check("PRE_SCALE", self._chip.prescale_reg, pre_scale(clock_hz))
            self._check("MODE1", self._chip.mode1_reg, MODE1_RUNNING)
            channels = [self._chip.channels[servo.channel] for servo in self._config.servos]
        except (OSError, ValueError, RuntimeError) as error:
            raise self._unanswered(error) from error
        self._channels = channels

    def write(self, command: JointCommand) -> None:
        """Send one set point: one read-back, then one transaction a servo, about 4 ms at 100 kHz.

        Raises `BusError` before the first byte when a servo cannot go there, and without moving anything when the
        chip has lost its settings: a PCA9685 that was reset still acknowledges, asleep. After an error half way,
        the servos before it have taken the command.
        """
        if not self._channels:
            raise BusError("servo bus: written to while closed, expected it open; call open() first")
        # Past ServoKit's servos, which take the next lower count: 0.33° too low on average where 2000 µs are 270°.
        pulses = pulses_us(command, self._config.servos)
        index = 0
        try:
            self._check("MODE1", self._chip.mode1_reg, MODE1_RUNNING)
            for index, pulse_us in enumerate(pulses):
                check_lease()
                self._channels[index].duty_cycle = pulse_counts(pulse_us, self._config.reference_clock_hz) << 4
        except OSError as error:
            raise self._unanswered(error, f", channel {self._config.servos[index].channel} ({JOINT_NAMES[index]}),") from error

    def write_pulse(self, channel: int, pulse_us: float) -> None:
        """Send one output's pulse, wherever the servo's travel ends: for the tools that find out where. 0 switches it off.

        Checks no limit; the pulse is the nearest that the chip has, by `reference_clock_hz`. Raises `BusError`.
        """
        if not self._channels:
            raise BusError("servo bus: written to while closed, expected it open; call open() first")
        counts = pulse_counts(pulse_us, self._config.reference_clock_hz)
        off = counts if counts else FULL_OFF
        try:
            self._check("MODE1", self._chip.mode1_reg, MODE1_RUNNING)
            self._i2c.writeto(self._config.address, bytes((LED0 + 4 * channel, 0, 0, off & 0xFF, off >> 8)))
        except OSError as error:
            raise self._unanswered(error, f", channel {channel},") from error

    def check(self) -> None:
        """Read one register; raises `BusError` where nothing answers, and where the chip has lost its settings."""
        if not self._channels:
            raise BusError("servo bus: asked while closed, expected it open; call open() first")
        try:
            self._check("MODE1", self._chip.mode1_reg, MODE1_RUNNING)
        except OSError as error:
            raise self._unanswered(error) from error

    def measured(self) -> None:
        """A PCA9685 sends pulses and hears nothing."""

    def release(self) -> None:
        """Switch all sixteen outputs off, also when only half open. Never raises; a failure is logged as an error."""
        if self._i2c is None:
            return
        for attempts_left in reversed(range(RELEASE_ATTEMPTS)):
            try:
                # Past ServoKit, whose wait for the bus lock would never end if this interrupts a transaction.
                self._i2c.writeto(self._config.address, ALL_OFF)
                return
            except Exception as error:
                if not attempts_left:
                    _log.error("%s; its servos may still be powered: cut their supply", self._unanswered(error))

    def close(self) -> None:
        """Release, and give back a bus that `open` took."""
        self.release()
        self._channels = []
        if not self._injected and self._i2c is not None:
            self._i2c.deinit()
            self._i2c = self._kit = None

    def _check(self, register: str, found: int, expected: int) -> None:
        if found != expected:
            raise BusError(
                f"servo bus: {register} of the PCA9685 at I2C address {self._config.address:#04x} reads {found:#04x}, "
                f"expected {expected:#04x}; it was reset or is another chip: check its supply, then open the bus again"
            )

    def _unanswered(self, error: Exception, what: str = "") -> BusError:
        return BusError(
            f"servo bus: the PCA9685 at I2C address {self._config.address:#04x}{what} did not answer ({_first_line(error)}); "
            "check its supply and wiring, and bus.address in the configuration"
        )


def tick_on_the_wire(clock_hz: float) -> WireTime:
    """The bus budget of one `Pca9685Bus.write`: MODE1 is read, and each servo gets its register and four bytes."""
    return on_the_wire((Exchange(1, 1), *(Exchange(1 + 4),) * len(JOINT_NAMES)), clock_hz)


def pre_scale(clock_hz: float) -> int:
    """What ServoKit writes into PRE_SCALE for `FRAME_HZ`: one less than the clocks of a count (data sheet 7.3.5)."""
    return int(clock_hz / COUNTS / FRAME_HZ + 0.5) - 1


def pulse_counts(pulse_us: float, clock_hz: float) -> int:
    """The pulse in counts of the chip, if its oscillator has `clock_hz`."""
    return min(max(round(pulse_us * 1e-6 * clock_hz / (pre_scale(clock_hz) + 1)), 0), COUNTS - 1)


def _import_servokit(injected: bool) -> Any:
    """The class `ServoKit`; raises `MissingExtraError`, or `BusError` where Blinka does not run."""
    # On a terminal Blinka 10 offers to pip-install what it finds missing, and waits for an answer.
    os.environ.setdefault("BLINKA_SKIP_DEPENDENCY_CHECK", "1")
    if injected:
        os.environ.setdefault("BLINKA_OS_AGNOSTIC", "1")
    try:
        from adafruit_servokit import ServoKit
    except ModuleNotFoundError:
        raise MissingExtraError("adafruit-circuitpython-servokit", "servo") from None
    except RuntimeError as error:  # an unknown machine, a Pi without gpiod
        raise BusError(
            f"servo bus: Adafruit's Blinka does not run here ({_first_line(error)}), expected a Raspberry Pi with its libraries; "
            "install what it names, or set bus.i2c = 'emulated'"
        ) from error
    return ServoKit


def _board_i2c() -> Any:
    """The I2C bus of this machine, which answers in time; raises `BusError` where there is none."""
    board = importlib.import_module("board")
    if not hasattr(board, "I2C"):
        raise BusError("servo bus: this machine has no I2C bus, expected a Raspberry Pi; run it there, or set bus.i2c = 'emulated'")
    i2c = board.I2C()
    try:
        ask_for_haste(i2c._i2c._i2c_bus._device.fileno())  # Blinka 10's way to the file has no public name
    except (AttributeError, OSError) as error:
        _log.warning("the I2C bus keeps the kernel's time-out of 1 s (%s); a stuck wire holds up the release by as much", error)
    return i2c


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
