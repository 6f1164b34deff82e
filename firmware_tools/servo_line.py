"""One servo at a time, past the drivers, which move all six: for tools, on an arm of which some servos are not there yet.

A position is what the servo itself is told: a pulse in microseconds, or counts. Joints are counted from 0, the gripper is 5.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from edge.clock import Clock, MonotonicClock
from edge.config import Config
from edge.errors import BusError, ConfigError
from edge.messages import JointCommand
from firmware_tools import emulated
from firmware_tools.board import bus_of, check_board
from firmware_tools.bus_in_use import check_free
from firmware_tools.count_line import CountLine
from firmware_tools.machine import Machine
from firmware_tools.pulse_line import PulseLine
from firmware_tools.wires import Wires, open_wires

ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class ServoLine(Protocol):
    """What the tools do with a servo. `step_s` is how often it may get a goal; every method but `release` raises `BusError`."""

    clock: Clock
    unit: str
    step_s: float

    def position(self, joint: int, deg: float) -> float:
        """What the servo is told to bring its joint to an angle."""

    def deg(self, joint: int, position: float) -> float:
        """The inverse."""

    def read(self, joint: int) -> float | None:
        """Where the servo is; None where the bus cannot tell."""

    def pose(self) -> JointCommand | None:
        """Where the whole arm is; None where not all of it is known."""

    def go(self, joint: int, position: float) -> None:
        """Power the servo and send it there; at the first call the others are switched off, or hold where they are."""

    def release(self) -> None:
        """Switch every servo off, if any was powered here, and give the bus back. Never raises."""


@contextmanager
def opened(config: Config) -> Iterator[PulseLine | CountLine]:
    """The line of the configured board, its servos as they are; what is powered here is released again however this ends.

    Raises `RefusedError` while a runtime holds the bus, and `BusError` for a board that is missing, another one, or one too many.
    """
    if config.bus.driver == "simulator":
        raise ConfigError("bus.driver = 'simulator' has no servos, expected 'pca9685' or 'dofbot_board'; set it")
    check_free(config)
    with ends_as_ctrl_c():
        line = _open(config)
        try:
            yield line
        finally:
            for number in ENDS:
                signal.signal(number, signal.SIG_IGN)  # a second one must not interrupt the release
            line.release()


@contextmanager
def ends_as_ctrl_c() -> Iterator[None]:
    """Let SIGTERM, and the end of an ssh session, release what Ctrl-C would: else the process dies, and its servos stay powered."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in ENDS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _open(config: Config) -> PulseLine | CountLine:
    is_emulated = config.bus.i2c == "emulated"
    arm = emulated.emulated_arm(config) if is_emulated else None
    wires = Wires(arm.smbus) if arm else open_wires(Machine(), bus_of(config.bus))
    clock = arm.clock if arm else MonotonicClock()
    try:
        check_board(wires, config.bus)
    except BusError:
        wires.close()
        raise
    if config.bus.driver == "dofbot_board":
        return CountLine(config.bus, wires, clock)
    wires.close()
    return PulseLine(config.bus, arm.i2c if arm else None, clock)
