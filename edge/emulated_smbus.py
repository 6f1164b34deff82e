"""The face of `smbus2.SMBus` that a driver sees, in front of an emulated I2C bus: the messages are smbus2's own."""

import ctypes
from typing import Any

from edge.emulator import EmulatedI2C
from edge.faulty import FaultyI2C

I2C_M_RD = 0x0001  # <linux/i2c.h>: a flag of a message that reads


class EmulatedSMBus:
    """The calls that `edge.dofbot_board` makes; raises `OSError` as the kernel does."""

    def __init__(self, i2c: EmulatedI2C | FaultyI2C) -> None:
        self._i2c = i2c

    def write_i2c_block_data(self, i2c_addr: int, register: int, data: list[int]) -> None:
        """Write a register and up to 32 bytes: what SMBus allows, and smbus2 refuses beyond."""
        if len(data) > 32:
            raise ValueError(f"I2C block has {len(data)} bytes, expected at most 32")
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


def _fill(message: Any, data: bytearray) -> None:
    ctypes.memmove(message.buf, bytes(data), len(data))
