"""Every byte that the drivers send, with what the data sheet or the vendor's register map says it does.

`W` is a write; `R` a write of the register and, behind a repeated START, a read. ServoKit's and smbus2's own code runs.
"""

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from edge.buses.board_counts import command_from_counts
from edge.buses.dofbot_board import DofbotBoardBus
from edge.buses.pca9685 import Pca9685Bus
from edge.buses.servos import command_from_deg
from edge.clock import SteppedClock
from edge.config import BusConfig
from edge.simulated.dofbot_board_emulator import BOOT_S, MIDDLE_RAW, DofbotBoardEmulator
from edge.simulated.emulated_smbus import EmulatedSMBus
from edge.simulated.emulator import EmulatedI2C, Pca9685Emulator

Trace = list[str]


def told(i2c: EmulatedI2C, call: Callable[[], object]) -> Trace:
    """What a call puts on the bus."""
    i2c.trace.clear()
    call()
    return [f"R {t.written.hex(' ')} → {t.read.hex(' ')}" if t.read else f"W {t.written.hex(' ')}".strip() for t in i2c.trace]


# ------------------------------------------------------------------ PCA9685

ALL_OFF = "W fd 10"  # ALL_LED_OFF_H bit 4: every output off at the next STOP, also in a chip that a killed process left pulsing
PROBE = "W"  # the address alone: does anybody acknowledge?
START_UP = [
    "W 00 00",  # MODE1 = 0: awake (bit 4), no all-call (bit 0), no auto-increment yet (bit 5)
    "R 00 → 00",  # MODE1, to keep its bits
    "W 00 10",  # MODE1 SLEEP: PRE_SCALE can be written asleep only
    "W fe 79",  # PRE_SCALE = 121 = round(25 MHz / (4096 · 50 Hz)) - 1
    "W 00 00",  # MODE1: awake again; ServoKit waits 5 ms, ten times what the oscillator takes
    "W 00 a0",  # MODE1 RESTART (bit 7: nothing was halted, so it clears itself) and auto-increment
]
READ_BACK = ["R fe → 79", "R 00 → 20"]  # PRE_SCALE took; MODE1 is awake, with auto-increment, and nothing else
CHECK = "R 00 → 20"  # MODE1 before each set point: a chip that was reset reads 11
FIVE_MIDDLES = [
    # register LEDn_ON_L = 06 + 4n; ON = 0; OFF = 0x0133 = 307 counts of 4.88 µs = 1498 µs; all five load at this STOP (OCH = 0)
    "W 06 00 00 33 01",
    "W 0a 00 00 33 01",
    "W 0e 00 00 33 01",
    "W 12 00 00 33 01",
    "W 16 00 00 33 01",
]
GRIPPER = "W 1a 00 00 98 01"  # 134 of 180°: 1988.9 µs, nearest are 408 counts = 1991 µs


@pytest.fixture
def pca9685() -> tuple[EmulatedI2C, Pca9685Bus]:
    pytest.importorskip("adafruit_servokit")
    i2c = EmulatedI2C({0x40: Pca9685Emulator()})
    return i2c, Pca9685Bus(BusConfig(), i2c)


def test_the_bytes_of_servokit(pca9685: tuple[EmulatedI2C, Pca9685Bus]) -> None:
    i2c, bus = pca9685
    command = command_from_deg((0.0, 0.0, 0.0, 0.0, 45.0, 44.0))
    assert told(i2c, bus.open) == [ALL_OFF, PROBE, *START_UP, *READ_BACK]
    for _ in ("first", "second"):  # no difference: the first pulse is a set point like the others
        assert told(i2c, lambda: bus.write(command)) == [CHECK, *FIVE_MIDDLES, GRIPPER]
    assert told(i2c, bus.check) == [CHECK]
    assert told(i2c, bus.release) == [ALL_OFF]
    i2c.writeto(0x00, b"\x06")  # SWRST: as after a brown-out, the chip acknowledges, asleep
    assert told(i2c, bus.open) == [ALL_OFF, *START_UP, *READ_BACK]
    assert told(i2c, bus.close) == [ALL_OFF]


def test_a_channel_that_is_let_go_gets_full_off() -> None:
    pytest.importorskip("adafruit_servokit")
    i2c = EmulatedI2C({0x40: Pca9685Emulator()})
    bus = Pca9685Bus(BusConfig(), i2c)
    bus.open()
    assert told(i2c, lambda: bus.write_pulse(3, 0.0)) == [CHECK, "W 12 00 00 00 10"]  # LED3_OFF_H bit 4: full OFF


# ------------------------------------------------------------------ the DOFBOT's board

TORQUE_OFF, TORQUE_ON = "W 1a 00", "W 1a 01"  # 0x1A: all six
VERSION = ["W 01 01", "R 01 → 05"]  # 0x01: ask, wait, fetch
DURATION = "W 1e 00 14"  # 0x1E: 20 ms for the set point that follows, big-endian
POSITIONS = "W 1d 07 d0 07 d0 07 d0 07 d0 05 ce 0c 1c"  # 0x1D: counts of servos 1-6: 2000 ×4, 1486, 3100


def ping(number: int) -> Trace:
    return [f"W 38 {number:02x}", "R 38 → da"]  # 0x38: 0xDA is well


def position(number: int) -> Trace:
    raw = int(MIDDLE_RAW[number - 1])
    return [f"W {0x30 + number:02x} 01", f"R {0x30 + number:02x} → {raw.to_bytes(2, 'big').hex(' ')}"]  # 0x31-0x36: counts, big-endian


def test_the_bytes_of_the_boards_driver() -> None:
    pytest.importorskip("smbus2")
    clock = SteppedClock()
    board = DofbotBoardEmulator(clock.now_s)
    i2c = EmulatedI2C({0x15: board})
    config = replace(BusConfig(), driver="dofbot_board")
    bus = DofbotBoardBus(config, EmulatedSMBus(i2c), clock)
    command = command_from_counts(MIDDLE_RAW, config.board.servos)
    pings = [line for number in range(1, 7) for line in ping(number)]
    positions = [line for number in range(1, 7) for line in position(number) * 2]  # told twice alike
    assert told(i2c, bus.open) == [TORQUE_OFF, *VERSION, *pings, *positions]
    assert told(i2c, lambda: bus.write(command)) == [position(1)[0], DURATION, POSITIONS, TORQUE_ON]  # torque once it knows its goal
    for number in (1, 2, 3, 4, 5, 6, 1):  # round robin: the answer to the last tick's question, and the next question
        clock.sleep_until(clock.now_s() + 0.02)
        assert told(i2c, lambda: bus.write(command)) == [position(number)[1], position(number % 6 + 1)[0], DURATION, POSITIONS]
    assert told(i2c, bus.check) == [VERSION[0]]
    assert told(i2c, bus.release) == [TORQUE_OFF]
    board.power_up()
    clock.sleep_until(clock.now_s() + BOOT_S)
    assert told(i2c, bus.open) == [TORQUE_OFF, *VERSION, *pings, *positions]
    assert told(i2c, bus.close) == [TORQUE_OFF]
