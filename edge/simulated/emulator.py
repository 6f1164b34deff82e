"""A PCA9685 in software, byte for byte, and the I2C bus in front of it: Adafruit's driver runs here unchanged.

Facts are from NXP's data sheet (PCA9685 rev. 2 to 4: register table 3, restart 7.3.1.1, external clock 7.3.1, output tables 7
and 8, software reset 7.6). Not modelled: /OE and inverted outputs; the wait for the end of the PWM period before a new pulse, 20 ms at
most; and anything inside a transaction: outputs change at STOP, which is what OCH = 0 says, and nobody looks before. Equal ON and OFF
counts, which the data sheet forbids, give no pulse. A chip without a clock takes the 500 µs of the oscillator as passed.
"""

import errno
import os
from collections import deque
from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

from edge.buses.i2c_time import Exchange, on_the_wire

Buffer = bytes | bytearray | memoryview

MODE1, MODE2, LED0_ON_L, LED15_OFF_H, ALL_LED_ON_L, ALL_LED_OFF_H, PRE_SCALE = 0x00, 0x01, 0x06, 0x45, 0xFA, 0xFD, 0xFE
RESTART, EXTCLK, AUTO_INCREMENT, SLEEP = 0x80, 0x40, 0x20, 0x10  # bits of MODE1
GROUPS = {0x02: 0x08, 0x03: 0x04, 0x04: 0x02, 0x05: 0x01}  # register with a group's address (SUBADR1-3, ALLCALLADR) → its bit in MODE1
OSCILLATOR_S = 500e-6  # until it runs after SLEEP was cleared, at most
FULL = 0x10  # bit 4 of LEDn_ON_H: always on; of LEDn_OFF_H: always off
COUNTS = 4096  # of one PWM period
GENERAL_CALL_ADDRESS = 0x00
SOFTWARE_RESET = b"\x06"
POWER_UP = bytes((0x11, 0x04, 0xE2, 0xE4, 0xE8, 0xE0))  # MODE1, MODE2, SUBADR1-3, ALLCALLADR
CHANNEL_POWER_UP = bytes((0, 0, 0, FULL))  # ON_L, ON_H, OFF_L, OFF_H
PRE_SCALE_POWER_UP = 0x1E  # 200 Hz
PRE_SCALE_MIN = 3


class Pca9685Emulator:
    """The register file of one PCA9685 and the pulses that it makes of it.

    `oscillator_hz` is the real frequency of this unit's oscillator: nominally 25 MHz, 23 to 27 MHz were seen
    (Adafruit-PWM-Servo-Driver-Library, PR 72 and issue 11). `external_hz` is what comes in at the pin EXTCLK; 0: nothing, as on
    every breakout board. `now_s` is the clock.
    """

    stretch_s = 0.0  # it never holds the clock line

    def __init__(self, oscillator_hz: float = 25e6, now_s: Callable[[], float] | None = None, external_hz: float = 0.0) -> None:
        self._oscillator_hz = oscillator_hz
        self._external_hz = external_hz
        self._now_s = now_s
        self.power_up()

    def power_up(self) -> None:
        """Forget everything: asleep, every output off, auto-increment off."""
        self._registers = bytearray(256)
        self._registers[:LED0_ON_L] = POWER_UP
        self._registers[LED0_ON_L : LED15_OFF_H + 1] = CHANNEL_POWER_UP * 16
        self._registers[PRE_SCALE] = PRE_SCALE_POWER_UP
        self._pointer = 0
        self._awake_s = 0.0  # since when

    def answers(self, address: int) -> bool:
        """Whether it is a member of the group with this address: all-call and sub-addresses, each while its bit in MODE1 is set."""
        return any(self._registers[MODE1] & bit and self._registers[register] >> 1 == address for register, bit in GROUPS.items())

    def write(self, data: bytes) -> None:
        """Take the bytes of a write to this chip: a register, then values. Raises `OSError` where the chip does not acknowledge."""
        if not data:
            return
        self._point_at(data[0])
        for value in data[1:]:
            self._store(self._pointer, value)
            self._advance()

    def read(self, count: int) -> bytes:
        """Give `count` bytes from the register last pointed at."""
        data = bytearray()
        for _ in range(count):
            data.append(self._registers[self._pointer])  # of ALL_LED_* nothing is ever stored: they read as zero
            self._advance()
        return bytes(data)

    def general_call(self, data: bytes) -> None:
        """Take a write to address 0: 0x06 alone resets the chip, everything else is not acknowledged."""
        if data != SOFTWARE_RESET:
            raise not_acknowledged()
        self.power_up()

    def pulse_us(self, channel: int) -> float:
        """Length of the pulse on an output, 0 when it is off and the whole period when it is always on."""
        first = LED0_ON_L + 4 * channel
        on_l, on_h, off_l, off_h = self._registers[first : first + 4]
        clock_hz = self._external_hz if self._registers[MODE1] & EXTCLK else self._oscillator_hz
        if self._registers[MODE1] & (SLEEP | RESTART) or off_h & FULL or not clock_hz or not self._oscillates():
            return 0.0
        counts = COUNTS if on_h & FULL else ((off_h << 8 | off_l) - (on_h << 8 | on_l)) % COUNTS
        return counts * (self._registers[PRE_SCALE] + 1) / clock_hz * 1e6

    def _oscillates(self) -> bool:
        return self._now_s is None or self._now_s() - self._awake_s >= OSCILLATOR_S

    def _point_at(self, register: int) -> None:
        """Move the pointer; 0x46-0xF9 are reserved and 0xFF is a test mode that no driver may touch."""
        if LED15_OFF_H < register < ALL_LED_ON_L or register > PRE_SCALE:
            raise not_acknowledged()
        self._pointer = register

    def _advance(self) -> None:
        if self._registers[MODE1] & AUTO_INCREMENT:
            self._pointer = 0 if self._pointer in (LED15_OFF_H, PRE_SCALE) else self._pointer + 1

    def _store(self, register: int, value: int) -> None:
        if register == MODE1:
            self._store_mode1(value)
        elif register == MODE2:
            self._registers[MODE2] = value & 0x1F  # bits 7-5 are read-only
        elif register < LED0_ON_L:
            self._registers[register] = value & 0xFE  # an address; bit 0 is read-only
        elif register <= LED15_OFF_H:
            self._registers[register] = value & (0x1F if register % 2 else 0xFF)  # …_H at odd addresses: bits 7-5 are read-only
            self._registers[MODE1] &= ~RESTART  # 7.3.1.1: a PWM register that is written gives up what was halted
        elif register <= ALL_LED_OFF_H:
            for channel in range(16):
                self._store(LED0_ON_L + 4 * channel + register - ALL_LED_ON_L, value)
        elif self._registers[MODE1] & SLEEP:
            self._registers[PRE_SCALE] = max(value, PRE_SCALE_MIN)

    def _store_mode1(self, value: int) -> None:
        """RESTART is set by going to sleep with outputs running, and cleared by writing 1 to it when awake and oscillating.

        EXTCLK is set asleep, and nothing but a reset clears it.
        """
        before = self._registers[MODE1]
        running = any(not off_h & FULL for off_h in self._registers[LED0_ON_L + 3 : LED15_OFF_H + 1 : 4])
        halted = before & RESTART or (value & SLEEP and not before & SLEEP and running)
        if value & RESTART and not (value | before) & SLEEP and self._oscillates():
            halted = False
        if before & SLEEP and not value & SLEEP and self._now_s is not None:
            self._awake_s = self._now_s()
        external = before & EXTCLK or (before & value & SLEEP and value & EXTCLK)
        self._registers[MODE1] = value & ~(RESTART | EXTCLK) | (RESTART if halted else 0) | (EXTCLK if external else 0)


class Transaction(NamedTuple):
    """One acknowledged transaction, START to STOP: the bytes written, then the bytes read."""

    address: int
    written: bytes
    read: bytes = b""


class I2CDevice(Protocol):
    """A chip behind an address; a method raises `OSError` where the chip does not acknowledge.

    `stretch_s` is how long it holds the clock line at each byte.
    """

    stretch_s: float

    def write(self, data: bytes) -> None:
        """Take the bytes of a write."""

    def read(self, count: int) -> bytes:
        """Give bytes."""

    def answers(self, address: int) -> bool:
        """Whether it listens on this address beside its own."""

    def general_call(self, data: bytes) -> None:
        """Take a write to address 0."""


class EmulatedI2C:
    """One bus with any number of emulated chips, and the calls of Blinka's `busio.I2C`, so that Adafruit's drivers run on it.

    `devices` maps 7-bit addresses to chips; an address that nobody acknowledges fails as on Linux, with `OSError` EREMOTEIO. Where
    several chips answer, a 0 bit wins: the line is low. `on_write` is called after every acknowledged write of at least one byte.
    `on_wire` is told how long the bus is busy, before the bytes of a write take effect; `busy_s` is the sum. `trace` keeps the last
    1024 acknowledged transactions.
    """

    def __init__(
        self,
        devices: Mapping[int, I2CDevice],
        on_write: Callable[[], None] | None = None,
        on_wire: Callable[[float], None] | None = None,
        clock_hz: float = 100_000.0,
    ) -> None:
        self._devices = devices
        self._on_write = on_write
        self._on_wire = on_wire
        self._clock_hz = clock_hz
        self._locked = False
        self.busy_s = 0.0
        self.trace: deque[Transaction] = deque(maxlen=1024)

    def try_lock(self) -> bool:
        """Take the bus; False when it is taken. Like Blinka's, no lock between threads."""
        taken = not self._locked
        self._locked = True
        return taken

    def unlock(self) -> None:
        """Give the bus back."""
        self._locked = False

    def scan(self) -> list[int]:
        """Addresses from which one byte can be read: how Blinka scans on Linux."""
        found = []
        for address in range(0x80):
            try:
                self.readfrom_into(address, bytearray(1))
            except OSError:
                continue
            found.append(address)
        return found

    def deinit(self) -> None:
        """The chips stay."""

    def writeto(self, address: int, buffer: Buffer, *, start: int = 0, end: int | None = None) -> None:
        """Write `buffer[start:end]`; raises `OSError` where nobody acknowledges."""
        data = bytes(buffer[start:end])
        self._write(address, data, Exchange(len(data)))
        self.trace.append(Transaction(address, data))
        if data and self._on_write is not None:
            self._on_write()

    def readfrom_into(self, address: int, buffer: bytearray | memoryview, *, start: int = 0, end: int | None = None) -> None:
        """Read into `buffer[start:end]`; raises `OSError` where nobody acknowledges."""
        count = len(buffer[start:end])
        data = self._read(address, count, Exchange(0, count))
        buffer[start : start + count] = data
        self.trace.append(Transaction(address, b"", data))

    def writeto_then_readfrom(
        self,
        address: int,
        out_buffer: Buffer,
        in_buffer: bytearray | memoryview,
        *,
        out_start: int = 0,
        out_end: int | None = None,
        in_start: int = 0,
        in_end: int | None = None,
    ) -> None:
        """Write, then read after a repeated START; the two buffers may be the same one."""
        written, count = bytes(out_buffer[out_start:out_end]), len(in_buffer[in_start:in_end])
        self._write(address, written, Exchange(len(written), count))
        data = self._read(address, count, None)
        in_buffer[in_start : in_start + count] = data
        self.trace.append(Transaction(address, written, data))

    def _write(self, address: int, data: bytes, exchange: Exchange) -> None:
        """Let all who hear it take the bytes, once they are over; one who acknowledges is enough."""
        listening = list(self._devices.values()) if address == GENERAL_CALL_ADDRESS else self._hearing(address)
        self._pass_time(exchange, listening)
        errors = []
        for device in listening:
            try:
                device.general_call(data) if address == GENERAL_CALL_ADDRESS else device.write(data)
            except OSError as error:
                errors.append(error)
        if len(errors) == len(listening):
            raise errors[0] if errors else not_acknowledged()

    def _read(self, address: int, count: int, exchange: Exchange | None) -> bytes:
        answering = self._hearing(address)
        if exchange is not None:
            self._pass_time(exchange, answering)
        if not answering:
            raise not_acknowledged()
        data = bytes(b"\xff" * count)
        for device in answering:
            data = bytes(a & b for a, b in zip(data, device.read(count), strict=True))
        return data

    def _hearing(self, address: int) -> list[I2CDevice]:
        return [device for at, device in self._devices.items() if at == address or device.answers(address)]

    def _pass_time(self, exchange: Exchange, listening: list[I2CDevice]) -> None:
        """An address that nobody acknowledges ends the transaction."""
        wire = on_the_wire([exchange if listening else Exchange(0)], self._clock_hz)
        duration_s = wire.duration_s + wire.bytes * max((device.stretch_s for device in listening), default=0.0)
        self.busy_s += duration_s
        if self._on_wire is not None:
            self._on_wire(duration_s)


def not_acknowledged() -> OSError:
    """What Linux reports when nobody pulls the line low: errno 121."""
    return OSError(errno.EREMOTEIO, os.strerror(errno.EREMOTEIO))
