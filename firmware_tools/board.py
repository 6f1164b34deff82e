"""Which servo board is on a bus. All that is written is the number of a register to read, and to 0x15 the question for its version."""

import time
from contextlib import suppress
from typing import NamedTuple

import msgspec

from edge.buses.dofbot_board import ASK, VERSION
from edge.config import BusConfig
from edge.errors import BusError
from edge.simulated.emulator import ALL_LED_ON_L, MODE1, MODE2, PRE_SCALE, PRE_SCALE_MIN, SLEEP
from firmware_tools.finding import Finding, failed, ok
from firmware_tools.wires import Wires

PCA9685_ADDRESSES = range(0x40, 0x48)  # 0x40, and what the first three solder jumpers make of it
ALL_CALL = 0x70  # a PCA9685 that nobody has set up answers there, too
BOARD_ADDRESS = 0x15
VERSION_S, VERSION_TRIES = 0.001, 10  # Arm_Lib waits 1 ms, and asks once
DRIVERS = {"PCA9685": "pca9685", "DOFBOT board": "dofbot_board"}


class Board(NamedTuple):
    """A servo board that answers."""

    chip: str
    bus: str
    address: int
    what: str  # what else it tells

    def __str__(self) -> str:
        return f"{self.chip} at {self.bus} {self.address:#04x} ({self.what})"


def bus_of(config: BusConfig) -> str:
    """The bus that the configured driver opens."""
    if config.i2c == "emulated":
        return "emulated bus"
    return f"/dev/i2c-{config.board.i2c_bus if config.driver == 'dofbot_board' else 1}"  # Blinka's board.I2C() is bus 1 on every Pi


def identify(wires: Wires, bus: str, addresses: list[int], config: BusConfig) -> list[Board]:
    """The servo boards among those who answer: where one is expected by its design or by the configuration, and nowhere else."""
    boards = []
    for address in addresses:
        with suppress(OSError):  # it answered before; then it is none of ours
            what = None
            if address in (BOARD_ADDRESS, config.board.address) and (what := _dofbot_board(wires, address)):
                boards.append(Board("DOFBOT board", bus, address, what))
            elif address in (*PCA9685_ADDRESSES, config.address) and (what := _pca9685(wires, address)):
                boards.append(Board("PCA9685", bus, address, what))
    return boards


def judge(boards: list[Board], config: BusConfig) -> Finding:
    """Whether the one board of the configuration is there, and no other."""
    address = config.address if config.driver == "pca9685" else config.board.address
    wanted = f"bus.driver = '{config.driver}' at {bus_of(config)} {address:#04x}"
    name = "servo board"
    if config.driver == "simulator":
        return Finding(name, "warning" if boards else "ok", ", ".join(map(str, boards)) or "none, as bus.driver = 'simulator' has it")
    if len(boards) > 1:
        found = f"{' and '.join(map(str, boards))} both answer, expected one"
        return failed(name, found, "unplug the one that does not drive the arm: which servos would move is not known")
    if not boards:
        remedy = "switch the servo board's supply on; check SDA (pin 3), SCL (pin 5), GND (pin 6), and for a PCA9685 VCC (3.3 V, pin 1)"
        return failed(name, f"none answers, expected {wanted}", remedy)
    board = boards[0]
    if (DRIVERS[board.chip], board.bus, board.address) == (config.driver, bus_of(config), address):
        return ok(name, str(board))
    return failed(name, f"{board}, expected {wanted}", f"in the configuration: {_settings(board, config)}")


def check_board(wires: Wires, config: BusConfig) -> None:
    """Raise `BusError` unless the one board of the configuration is on its bus, and no other. Nothing has moved then."""
    finding = judge(identify(wires, bus_of(config), wires.present(), config), config)
    if finding.verdict != "ok":
        raise BusError(f"{finding.name}: {finding.found}; {finding.remedy}")


def _settings(found: Board, config: BusConfig) -> str:
    """What makes the configuration fit the board."""
    if found.bus != bus_of(msgspec.structs.replace(config, driver=DRIVERS[found.chip])) and found.chip == "PCA9685":
        return f"move it to /dev/i2c-1 (pins 3 and 5): the driver opens no other bus, and it is on {found.bus}"
    settings = {"[bus] driver": f"'{DRIVERS[found.chip]}'"}
    if found.chip == "PCA9685":
        settings["[bus] address"] = f"{found.address:#04x}"
    else:
        settings |= {"[bus.board] address": f"{found.address:#04x}", "[bus.board] i2c_bus": found.bus.rpartition("-")[2]}
    return ", ".join(f"{key} = {value}" for key, value in settings.items())


def _pca9685(wires: Wires, address: int) -> str | None:
    """How it is, where registers are as a PCA9685's can be (data sheet, table 3): reserved bits and ALL_LED 0, PRE_SCALE 3 or more."""
    mode1, mode2, pre_scale, all_led = (wires.read(address, register, 1)[0] for register in (MODE1, MODE2, PRE_SCALE, ALL_LED_ON_L))
    if mode2 & 0xE0 or pre_scale < PRE_SCALE_MIN or all_led:
        return None
    state = "asleep, not set up since it got power" if mode1 & SLEEP else "awake"
    return f"{state}; {25e6 / 4096 / (pre_scale + 1):.0f} Hz if its clock has 25 MHz"


def _dofbot_board(wires: Wires, address: int) -> str | None:
    wires.write(address, bytes((VERSION, *ASK)))
    for _ in range(VERSION_TRIES):
        time.sleep(VERSION_S)
        version = wires.read(address, VERSION, 1)[0]
        if version:
            return f"firmware 0.{version}"
    return None
