"""The arm in software that the tools drive where `bus.i2c = 'emulated'`: it stands alone, and is gone with its process."""

import time

from edge.config import Config
from edge.dofbot_board_emulator import DofbotBoardEmulator
from edge.emulated_smbus import EmulatedSMBus
from edge.emulator import EmulatedI2C, Pca9685Emulator
from firmware_tools.wires import Wires


class EmulatedBus:
    """One I2C bus with the configured board on it, as Blinka's `busio.I2C` and as `smbus2.SMBus`."""

    def __init__(self, config: Config) -> None:
        bus = config.bus
        self.board = DofbotBoardEmulator(time.monotonic) if bus.driver == "dofbot_board" else Pca9685Emulator()
        address = bus.board.address if bus.driver == "dofbot_board" else bus.address
        self.i2c = EmulatedI2C({address: self.board})
        self.smbus = EmulatedSMBus(self.i2c)


def emulated_wires(config: Config) -> Wires:
    """A bus of its own."""
    return Wires(EmulatedBus(config).smbus)
