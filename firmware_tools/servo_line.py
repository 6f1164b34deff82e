"""One servo at a time, past the drivers, which move all six: for tools, on an arm of which some servos are not there yet.

A position is what the servo itself is told: a pulse in microseconds, or counts. Joints are counted from 0, the gripper is 5.
"""

import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median
from typing import Any, Protocol

from edge import last_pose
from edge.board_counts import command_from_counts
from edge.clock import Clock, MonotonicClock
from edge.config import BoardServoConfig, BusConfig, Config
from edge.dofbot_board import ASK, NOISE_RAW, PING, POSITION_OF, RAW_MAX, RAW_MIN, TORQUE
from edge.errors import BusError, ConfigError
from edge.messages import JointCommand
from edge.pca9685 import Pca9685Bus
from edge.robot import JOINT_NAMES
from firmware_tools import emulated
from firmware_tools.board import bus_of, check_board
from firmware_tools.bus_in_use import check_free
from firmware_tools.machine import Machine
from firmware_tools.wires import Wires, open_wires

# One servo's goal, with its duration (vendor: i2c_register_map.xlsx), and the register that renames every servo that is plugged in.
GOAL_OF, SET_ID = 0x10, 0x18
ID_MAX = 250
ANSWER_S = (0.005, 0.015, 0.1)  # vendor, PRAC, YAS, as in edge/dofbot_board.py
RENAME_S = 0.1  # until a servo has its new id in flash; assumed
PULSE_MIN_US, PULSE_MAX_US = 400.0, 2600.0  # as bus.servos may have them
RELEASE_ATTEMPTS = 3
SERVICE_LAST_POSE = Path("/run/dofbot-grasp/last_pose")  # $RUNTIME_DIRECTORY of dofbot-grasp.service

_log = logging.getLogger(__name__)


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


class PulseLine:
    """Servos on a PCA9685: nobody knows where they are, so the first pulse may make one leap. The others stay limp."""

    unit = "µs"
    step_s = 0.02  # one period

    def __init__(self, config: BusConfig, i2c: Any, clock: Clock) -> None:
        self._servos = config.servos
        self._driver = Pca9685Bus(config, i2c)
        self._is_open = False
        self.clock = clock

    def position(self, joint: int, deg: float) -> float:
        """A pulse in microseconds."""
        servo = self._servos[joint]
        middle_us = (servo.min_us + servo.max_us) / 2
        return middle_us + servo.direction * (deg - servo.zero_deg) * (servo.max_us - servo.min_us) / servo.travel_deg

    def deg(self, joint: int, position: float) -> float:
        """The joint's angle, if the servo follows."""
        servo = self._servos[joint]
        turned_us = position - (servo.min_us + servo.max_us) / 2
        return servo.zero_deg + servo.direction * turned_us * servo.travel_deg / (servo.max_us - servo.min_us)

    def read(self, joint: int) -> float | None:
        """Not known."""
        return None

    def pose(self) -> JointCommand | None:
        """Not known."""
        return None

    def go(self, joint: int, position: float) -> None:
        """Send a pulse; all outputs are off before the first one."""
        self.pulse(self._servos[joint].channel, position)

    def pulse(self, channel: int, pulse_us: float) -> None:
        """The same for any output."""
        if not self._is_open:
            _forget_last_pose()
            self._is_open = True  # before it is: an interrupt in between must release it
            self._driver.open()
        self._driver.write_pulse(channel, pulse_us)

    def release(self) -> None:
        """All outputs off."""
        if self._is_open:
            self._driver.close()


class CountLine:
    """Servos on the DOFBOT's own board, which tell where they are; its torque switch is for all of them."""

    unit = "counts"
    step_s = 0.1  # a new goal interrupts the servo's own trapezoid: few goals, each with its duration, are smooth (PRAC)

    def __init__(self, config: BusConfig, wires: Wires, clock: Clock) -> None:
        self._config = config.board
        self._wires = wires
        self.clock = clock
        self._powered = False

    def position(self, joint: int, deg: float) -> float:
        """Counts."""
        servo = self._servo(joint)
        return servo.zero_raw + servo.direction * deg * servo.counts_per_deg

    def deg(self, joint: int, position: float) -> float:
        """The joint's angle."""
        servo = self._servo(joint)
        return servo.direction * (position - servo.zero_raw) / servo.counts_per_deg

    def read(self, joint: int) -> float | None:
        """Counts, the middle of three answers; None: it is silent."""
        number = self._servo(joint).id
        answers = [raw for _ in range(3) if (raw := self._position(number))]
        return median(answers) if len(answers) == 3 and max(answers) - min(answers) <= 2 * NOISE_RAW else None

    def pose(self) -> JointCommand | None:
        """By all six read-backs."""
        raws = [self.read(joint) for joint in range(len(JOINT_NAMES))]
        known = [raw for raw in raws if raw is not None]
        return command_from_counts(known, self._config.servos) if len(known) == len(raws) else None

    def go(self, joint: int, position: float) -> None:
        """Send a goal for one step; all others were told to stay where they are before torque came on."""
        if not self._powered:
            self._hold_all()
            self._powered = True  # before torque is: an interrupt in between must release it
            self._write(TORQUE, b"\x01")
        self._goal(self._servo(joint).id, position)

    def release(self) -> None:
        """Torque off, for all; a failure is logged as an error."""
        for attempts_left in reversed(range(RELEASE_ATTEMPTS if self._powered else 0)):
            try:
                self.let_go()
                break
            except BusError as error:
                if not attempts_left:
                    _log.error("%s; its servos may still be powered: cut their supply", error)
        self._wires.close()

    def let_go(self) -> None:
        """Switch torque off, whoever switched it on."""
        self._write(TORQUE, b"\x00")
        self._powered = False

    def answers(self, number: int, waits_s: tuple[float, ...] = ANSWER_S) -> int:
        """What a servo's ping comes to: 0 silence, `PING_OK`, else its fault bits."""
        for wait_s in waits_s:
            answer = self._ask(PING, bytes((number,)), 1, wait_s)[0]
            if answer:
                return answer
        return 0

    def rename(self, number: int) -> None:
        """Give every servo that is plugged in this id."""
        self._write(SET_ID, bytes((number,)))
        self._sleep(RENAME_S)

    def _hold_all(self) -> None:
        """Each goal is where the servo is, so that none leaps when torque comes on."""
        for joint, servo in enumerate(self._config.servos):
            raw = self.read(joint)
            if raw is not None:
                self._goal(servo.id, raw)

    def _goal(self, number: int, raw: float) -> None:
        goal = min(max(round(raw), RAW_MIN), RAW_MAX)
        duration_ms = round(self.step_s * 1000)
        self._write(GOAL_OF + number, goal.to_bytes(2, "big") + duration_ms.to_bytes(2, "big"))

    def _position(self, number: int) -> int:
        """0: no answer, or none that can be."""
        for wait_s in ANSWER_S:
            raw = int.from_bytes(self._ask(POSITION_OF + number, ASK, 2, wait_s), "big")
            if RAW_MIN <= raw <= RAW_MAX:
                return raw
        return 0

    def _servo(self, joint: int) -> BoardServoConfig:
        return self._config.servos[joint]

    def _ask(self, register: int, question: bytes, count: int, wait_s: float) -> bytes:
        self._write(register, question)
        self._sleep(wait_s)
        try:
            return self._wires.read(self._config.address, register, count)
        except OSError as error:
            raise self._unanswered(error) from error

    def _write(self, register: int, data: bytes) -> None:
        try:
            self._wires.write(self._config.address, bytes((register, *data)))
        except OSError as error:
            raise self._unanswered(error) from error

    def _sleep(self, duration_s: float) -> None:
        self.clock.sleep_until(self.clock.now_s() + duration_s)

    def _unanswered(self, error: OSError) -> BusError:
        where = f"the DOFBOT's board at {self._config.address:#04x}"
        return BusError(f"servo bus: {where} did not answer ({error.strerror}); check its 12 V supply and its wiring")


def _forget_last_pose() -> None:
    """A runtime must not believe that the arm is where it left it: without read-back it then takes it to be parked."""
    for path in {last_pose.path(), SERVICE_LAST_POSE}:
        if path is not None:
            with suppress(OSError):  # not there; or the service's, which another user may not touch
                path.unlink()


@contextmanager
def opened(config: Config) -> Iterator[PulseLine | CountLine]:
    """The line of the configured board, its servos as they are; what is powered here is released again however this ends.

    Raises `RefusedError` while a runtime holds the bus, and `BusError` for a board that is missing, another one, or one too many.
    """
    if config.bus.driver == "simulator":
        raise ConfigError("bus.driver = 'simulator' has no servos, expected 'pca9685' or 'dofbot_board'; set it")
    check_free(config)
    with _ends_as_ctrl_c():
        line = _open(config)
        try:
            yield line
        finally:
            line.release()


@contextmanager
def _ends_as_ctrl_c() -> Iterator[None]:
    """Let SIGTERM, and the end of an ssh session, release what Ctrl-C would: else the process dies, and its servos stay powered."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
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
