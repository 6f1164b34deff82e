"""The servo bus on an emulated wire: how long a set point with its read-back takes, and whether 50 of them a second fit."""

import math

from msgspec.structs import replace
from tables import Bench, Figures

from edge.buses.dofbot_board import DofbotBoardBus
from edge.buses.pca9685 import Pca9685Bus
from edge.buses.servos import command_from_deg
from edge.clock import Pacer
from edge.config import BusConfig
from edge.simulated.emulated_arm import PARK_DEG, EmulatedArm

RATE_HZ, TICKS = 50.0, 10_000
SWING_DEG, PERIOD_S = 20.0, 4.0  # of every joint but the gripper


def bench() -> Bench:
    """The real drivers, Adafruit's and smbus2's code included, on one emulated arm that moves."""
    rows = {
        f"{driver}, {clock_hz / 1e3:g} kHz": _drive(driver, clock_hz) for driver in ("pca9685", "dofbot_board") for clock_hz in (1e5, 4e5)
    }
    notes = (
        f"{TICKS:,} ticks at {RATE_HZ:g} Hz on a virtual clock that only the wire moves on: nine clocks a byte, no clock stretching, no "
        "time for the kernel. pca9685: MODE1 is read, six channels are written. dofbot_board: one servo is read back, six get a goal."
    )
    return Bench("Servo bus on the wire", rows, {"longest write ms": "≤ 6 at 100 kHz", "overruns": "0", "read-backs lost": "0"}, notes)


def _drive(driver: str, clock_hz: float) -> Figures:
    arm = EmulatedArm(replace(BusConfig(), driver=driver), seed=1, clock_hz=clock_hz)
    bus = Pca9685Bus(arm.config, arm.i2c) if driver == "pca9685" else DofbotBoardBus(arm.config, arm.smbus, arm.clock)
    arm.clock.sleep_until(1.0)
    bus.open()
    pacer, longest_s, busy_s, began_s = Pacer(arm.clock, RATE_HZ), 0.0, arm.i2c.busy_s, arm.clock.now_s()
    for tick in range(TICKS):
        pacer.wait()
        swing_deg = SWING_DEG * math.sin(2.0 * math.pi * tick / RATE_HZ / PERIOD_S)
        command = command_from_deg((*(deg + swing_deg for deg in PARK_DEG[:5]), PARK_DEG[5]))
        before_s = arm.clock.now_s()
        bus.write(command)
        longest_s = max(longest_s, arm.clock.now_s() - before_s)
    pacer.wait()
    return {
        "longest write ms": longest_s * 1e3,
        "bus busy %": 100.0 * (arm.i2c.busy_s - busy_s) / (arm.clock.now_s() - began_s),
        "overruns": pacer.overruns,
        "read-backs lost": getattr(bus, "rejected", None),
    }
