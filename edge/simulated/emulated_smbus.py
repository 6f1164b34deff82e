"""The face of `smbus2.SMBus` in front of an emulated I2C bus: the same calls, and smbus2's own messages.

Not there: process calls, block transfers with a length byte, and PEC, which no chip here knows.
"""

import ctypes
from typing import Any, Self

from edge.simulated.emulator import EmulatedI2C
from edge.simulated.faulty import FaultyI2C

I2C_M_RD = 0x0001  # <linux/i2c.h>: a flag of a message that reads
BLOCK_MAX = 32  # what SMBus allows, and smbus2 refuses beyond


class EmulatedSMBus:
    """The calls that drivers and tools make; each raises `OSError` as the kernel does. `force` is there because smbus2 has it."""

    def __init__(self, i2c: EmulatedI2C | FaultyI2C) -> None:
        self._i2c = i2c

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write_quick(self, i2c_addr: int, force: bool | None = None) -> None:
        """Whether anybody acknowledges the address."""
        self._i2c.writeto(i2c_addr, b"")

    def read_byte(self, i2c_addr: int, force: bool | None = None) -> int:
        """One byte, from wherever the chip's pointer is."""
        data = bytearray(1)
        self._i2c.readfrom_into(i2c_addr, data)
        return data[0]

    def write_byte(self, i2c_addr: int, value: int, force: bool | None = None) -> None:
        """One byte: with most chips it moves the register pointer."""
        self._i2c.writeto(i2c_addr, bytes((value,)))

    def read_byte_data(self, i2c_addr: int, register: int, force: bool | None = None) -> int:
        """One register."""
        return self._read(i2c_addr, register, 1)[0]

    def write_byte_data(self, i2c_addr: int, register: int, value: int, force: bool | None = None) -> None:
        """One register."""
        self._i2c.writeto(i2c_addr, bytes((register, value)))

    def read_word_data(self, i2c_addr: int, register: int, force: bool | None = None) -> int:
        """Two bytes, the low one first: SMBus has it so."""
        return int.from_bytes(self._read(i2c_addr, register, 2), "little")

    def write_word_data(self, i2c_addr: int, register: int, value: int, force: bool | None = None) -> None:
        """Two bytes, the low one first."""
        self._i2c.writeto(i2c_addr, bytes((register, *value.to_bytes(2, "little"))))

    def read_i2c_block_data(self, i2c_addr: int, register: int, length: int, force: bool | None = None) -> list[int]:
        """Up to 32 bytes from a register on."""
        _check_block(length)
        return list(self._read(i2c_addr, register, length))

    def write_i2c_block_data(self, i2c_addr: int, register: int, data: list[int], force: bool | None = None) -> None:
        """Write a register and up to 32 bytes."""
        _check_block(len(data))
        self._i2c.writeto(i2c_addr, bytes((register, *data)))

    def i2c_rdwr(self, *i2c_msgs: Any) -> None:
        """One transaction of `smbus2.i2c_msg`: one to write, one to read, or a write and a read after a repeated START."""
        match [(message.addr, bool(message.flags & I2C_M_RD)) for message in i2c_msgs]:
            case [(address, False)]:
                self._i2c.writeto(address, bytes(i2c_msgs[0]))
            case [(address, True)]:
                data = bytearray(len(i2c_msgs[0]))
                self._i2c.readfrom_into(address, data)
                _fill(i2c_msgs[0], data)
            case [(address, False), (same, True)] if address == same:
                data = bytearray(len(i2c_msgs[1]))
                self._i2c.writeto_then_readfrom(address, bytes(i2c_msgs[0]), data)
                _fill(i2c_msgs[1], data)
            case shape:
                raise ValueError(f"the emulated bus was given the messages {shape}, expected a write, a read, or one after the other")

    def close(self) -> None:
        """The chips stay."""

    def _read(self, address: int, register: int, length: int) -> bytes:
        data = bytearray(length)
        self._i2c.writeto_then_readfrom(address, bytes((register,)), data)
        return bytes(data)


def _check_block(length: int) -> None:
    if length > BLOCK_MAX:
        raise ValueError(f"I2C block has {length} bytes, expected at most {BLOCK_MAX}")


def _fill(message: Any, data: bytearray) -> None:
    ctypes.memmove(message.buf, bytes(data), len(data))
