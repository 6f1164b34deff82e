"""An I2C bus as the tools ask it: who is there, and what is in this register. On `/dev/i2c-N`, or emulated."""

import errno
from typing import Any

from edge.buses.i2c_adapter import ask_for_haste
from edge.errors import BusError, MissingExtraError
from firmware_tools.machine import Machine

FIRST, LAST = 0x08, 0x77  # outside are reserved addresses
# As i2cdetect does it: a write of no bytes tells who is there, except where memories and sensors live that could take it for more.
READ_INSTEAD = (*range(0x30, 0x38), *range(0x50, 0x60))
TIMEOUTS = (errno.ETIMEDOUT, errno.EAGAIN)
STUCK_AFTER = 3  # of them: on a healthy bus nobody keeps us waiting for 10 ms
ENABLE_I2C = "sudo raspi-config nonint do_i2c 0 (elsewhere: dtparam=i2c_arm=on in /boot/firmware/config.txt, sudo modprobe i2c-dev)"
JOIN_I2C = "sudo usermod -aG i2c $USER, then log in again"


class Wires:
    """One bus. `smbus` has the methods of `smbus2.SMBus`; its calls raise `OSError` where nobody acknowledges."""

    def __init__(self, smbus: Any, can_write_nothing: bool = True) -> None:
        self.smbus = smbus
        self._can_write_nothing = can_write_nothing
        self._message = _smbus2().i2c_msg

    def probe(self, address: int) -> None:
        """Find out whether anybody is there, writing no data."""
        if address in READ_INSTEAD or not self._can_write_nothing:
            self.smbus.read_byte(address)
        else:
            self.smbus.write_quick(address)

    def write(self, address: int, data: bytes) -> None:
        """One transaction."""
        self.smbus.i2c_rdwr(self._message.write(address, list(data)))

    def read(self, address: int, register: int, count: int) -> bytes:
        """Point at a register and read it, in one transaction."""
        answer = self._message.read(address, count)
        self.smbus.i2c_rdwr(self._message.write(address, [register]), answer)
        return bytes(answer)

    def close(self) -> None:
        """Give the bus back."""
        self.smbus.close()

    def present(self) -> list[int]:
        """Who answers. Raises `BusError` for wires that hang."""
        found, timeouts = [], 0
        for address in range(FIRST, LAST + 1):
            number = self._error_of(address)
            if number in (0, errno.EBUSY):  # busy: a kernel driver has it, so somebody is there
                found.append(address)
            timeouts += number in TIMEOUTS
            if timeouts >= STUCK_AFTER:
                raise BusError(
                    f"the I2C bus hangs ({timeouts} addresses timed out), expected each to answer at once or not at all; "
                    "check that SDA and SCL are neither swapped nor shorted, and that the board has power"
                )
        return found

    def _error_of(self, address: int) -> int:
        try:
            self.probe(address)
        except OSError as error:
            return error.errno or errno.EIO
        return 0


def open_wires(machine: Machine, path: str) -> Wires:
    """`/dev/i2c-N`, given up after 10 ms instead of the kernel's 1 s; raises `BusError`, or `MissingExtraError` without smbus2."""
    smbus2 = _smbus2()
    try:
        bus = smbus2.SMBus(str(machine.at(path)))
        ask_for_haste(bus.fd)
    except OSError as error:
        remedy = JOIN_I2C if error.errno == errno.EACCES else ENABLE_I2C
        raise BusError(f"{path} does not open ({error.strerror}), expected an I2C bus that you may use; {remedy}") from error
    # The Pi 5's controller cannot send a write of no bytes, and says so.
    return Wires(bus, bool(bus.funcs & smbus2.I2cFunc.SMBUS_QUICK))


def _smbus2() -> Any:
    try:
        import smbus2
    except ModuleNotFoundError:
        raise MissingExtraError("smbus2", "servo") from None
    return smbus2
