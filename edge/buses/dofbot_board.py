"""The driver of the DOFBOT's own servo board (YB-EVV01, I2C 0x15): bus servos that tell where they are.

Registers are the vendor's (`i2c_register_map.xlsx` in Practitioner108/dofbot_sci_ws), numbers big-endian. The board has no
register that tells a reset from anything else: it is found by the silence of the 200 ms that a restart takes.
"""

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

from edge.buses.board_counts import command_from_counts, counts
from edge.buses.i2c_adapter import ask_for_haste
from edge.buses.i2c_time import Exchange, WireTime, on_the_wire
from edge.buses.lease import check_lease
from edge.clock import Clock, MonotonicClock
from edge.config import BusConfig
from edge.errors import BusError, MissingExtraError
from edge.messages import JointCommand
from edge.robot import JOINT_NAMES

VERSION, TORQUE, POSITIONS, DURATION, POSITION_OF, PING = 0x01, 0x1A, 0x1D, 0x1E, 0x30, 0x38  # POSITION_OF + id
ASK = b"\x01"
PING_OK, PING_SILENT = 0xDA, 0x00
RAW_MIN, RAW_MAX = 96, 4000  # of a position; 0: the servo has not answered
SKEW_S = 0.012  # from the first servo's goal to the last one's (PRAC): the board tells them one by one
HAND_OUT_S = SKEW_S * 6 / 5  # until it has told the last one
ANSWER_S = (0.005, 0.015, 0.1, 0.015)  # vendor: 5 ms; PRAC tries again with 15 ms; after a motion YAS had to wait 100 ms, and ask again
# No servo is faster: DS-SY15A makes 250°/s without load. Noise is one count, on servo 5 two (jimdinunzio/dofbot_ros2).
SPEED_MAX_DEG_S = 300.0
NOISE_RAW = 4.0
TOLD_TIMES = 3  # alike, by a servo off its way, before it is believed: twice, flipping bits were seen to agree by chance
OFF_WAY_RAW = 60.0  # 5°: further than sag, overshoot and noise; nearer than what the loop takes for a stall
BAD_MAX = 5  # read-backs in a row: 0.1 s
RELEASE_ATTEMPTS = 3
RESTARTED_AFTER_S = 0.15  # of silence the board may have restarted, torque gone: PRAC waits 200 ms for it

_log = logging.getLogger(__name__)


class _Sample(NamedTuple):
    raw: int
    at_s: float


class DofbotBoardBus:
    """Six bus servos, with one of them read back in each `write`.

    A read-back takes the board some milliseconds, so a `write` asks for a position and the next one fetches it. The board does one thing
    after the other: it answers (5 ms), then hands out the set point (14 ms), and is done when the next one comes, 20 ms later. `smbus`
    has the methods of `smbus2.SMBus`; None opens `/dev/i2c-N`. `rejected` counts the read-backs that could not be true.
    """

    def __init__(self, config: BusConfig, smbus: Any = None, clock: Clock | None = None) -> None:
        self._config = config.board
        self._smbus = smbus
        self._injected = smbus is not None
        self._clock = clock or MonotonicClock()
        self._message: Any = None  # smbus2.i2c_msg
        self._samples: tuple[_Sample, ...] = ()
        self._measured: JointCommand | None = None
        self._powered = False  # torque was switched on since `open`
        self._holds = False  # and by an `open` before: servos that hold an arm up must go on
        self._silent_since_s: float | None = None
        self._asked: tuple[int, float] | None = None  # which servo, and when
        self._next = 0
        self._bad_in_a_row = 0
        self._rejected_joint = ""
        self._told = [(0, 0)] * len(JOINT_NAMES)  # by each servo: what, and how many times alike
        self._goals: tuple[int, ...] = ()  # sent last
        self.rejected = 0

    def open(self) -> None:
        """See that the board and its six servos answer, and read where they are; nothing moves, torque is off until `write`.

        Called again after `write` it leaves torque as it is, or the arm would fall. About 0.15 s. Raises `BusError` that
        names what is silent, or `MissingExtraError` without smbus2.
        """
        self._samples, self._measured, self._asked, self._silent_since_s, self._powered = (), None, None, None, False
        self._bad_in_a_row = 0
        self._told, self._goals = [(0, 0)] * len(JOINT_NAMES), ()
        self._message = _import_smbus2().i2c_msg
        if self._smbus is None:
            self._smbus = _open_smbus(self._config.i2c_bus)
        try:
            if not self._holds:
                self._send(TORQUE, b"\x00")
            if not self._ask(VERSION, ASK, 1)[0]:
                raise BusError(f"servo bus: the board at {self._where()} tells version 0, expected 1…255; is it another device?")
            self._ping_all()
            self._samples = tuple(self._first_sample(index) for index in range(len(JOINT_NAMES)))
        except OSError as error:
            raise self._unanswered(error) from error
        self._measure()

    def write(self, command: JointCommand) -> None:
        """Read one servo back, and send one set point to all: four transactions, `tick_on_the_wire`.

        The first one after `open` or `release` switches torque on. Raises `BusError` before the first byte when a servo
        cannot go there, and with no set point sent when five read-backs in a row made no sense.
        """
        if not self._samples:
            raise BusError("servo bus: written to while closed, expected it open; call open() first")
        self._check_silence()
        goals = counts(command, self._config.servos)
        is_asked = self._read_back()  # first, or the question would wait until this set point is handed out, and have no time left
        self._judge_read_back()
        try:
            self._move(goals)
            self._goals = goals
            if not self._powered:
                self._send(TORQUE, b"\x01")  # only now, so that no servo leaps to an old goal
                self._powered = self._holds = True
        except OSError as error:
            self._silent_since_s = self._silent_since_s or self._clock.now_s()
            raise self._unanswered(error) from error
        self._silent_since_s = None
        if not is_asked:
            self._reject(self._next)

    def check(self) -> None:
        """Ask for the version without waiting for it: whether anybody acknowledges. Raises `BusError`."""
        if not self._samples:
            raise BusError("servo bus: asked while closed, expected it open; call open() first")
        try:
            self._send(VERSION, ASK)
        except OSError as error:
            raise self._unanswered(error) from error

    def measured(self) -> JointCommand | None:
        """Where the servos were when last read: each is read every sixth `write`."""
        return self._measured

    def release(self) -> None:
        """Switch torque off. Never raises; a failure is logged as an error."""
        if self._smbus is None:
            return
        self._powered = self._holds = False
        for attempts_left in reversed(range(RELEASE_ATTEMPTS)):
            try:
                self._smbus.write_i2c_block_data(self._config.address, TORQUE, [0])  # whatever became of a lease
                return
            except Exception as error:
                if not attempts_left:
                    _log.error("%s; its servos may still be powered: cut their supply", self._unanswered(error))

    def close(self) -> None:
        """Release, and give back a bus that `open` took."""
        self.release()
        self._samples, self._measured = (), None
        if not self._injected and self._smbus is not None:
            self._smbus.close()
            self._smbus = None

    def _check_silence(self) -> None:
        """Close the bus where the board may have restarted: set points would go to servos without torque, and later make them leap."""
        silent_s = 0.0 if self._silent_since_s is None else self._clock.now_s() - self._silent_since_s
        if silent_s > RESTARTED_AFTER_S:
            self._samples, self._measured = (), None
            raise BusError(
                f"servo bus: the DOFBOT's board at {self._where()} was silent for {silent_s:.2f} s, expected less than "
                f"{RESTARTED_AFTER_S:g} s: it may have restarted; open the bus again"
            )

    def _move(self, goals: Sequence[int]) -> None:
        """All six at once. The duration goes before, each time: a board that was reset takes 500 ms, and says nothing."""
        by_id = dict(zip((servo.id for servo in self._config.servos), goals, strict=True))
        self._send(DURATION, self._config.move_ms.to_bytes(2, "big"))
        self._send(POSITIONS, b"".join(by_id[number].to_bytes(2, "big") for number in sorted(by_id)))

    def _read_back(self) -> bool:
        """Fetch one answer and ask the next servo; False when nobody hears that: a read-back is lost, no set point.

        A question that is younger than its answer, because this set point is sent once more, is let be.
        """
        if self._asked is not None:
            if self._clock.now_s() - self._asked[1] < ANSWER_S[0]:
                return True
            self._fetch(*self._asked)
            self._asked = None
        try:
            self._send(POSITION_OF + self._config.servos[self._next].id, ASK)
        except OSError:
            return False
        self._asked = self._next, self._clock.now_s()
        self._next = (self._next + 1) % len(JOINT_NAMES)
        return True

    def _fetch(self, index: int, at_s: float) -> None:
        """Take the answer to the last question, if it can be true."""
        servo, last = self._config.servos[index], self._samples[index]
        try:
            raw = int.from_bytes(self._read(POSITION_OF + servo.id, 2), "big")
        except OSError:
            raw = 0
        reach_raw = NOISE_RAW + servo.counts_per_deg * SPEED_MAX_DEG_S * (at_s - last.at_s)
        if RAW_MIN <= raw <= RAW_MAX and abs(raw - last.raw) <= reach_raw and self._is_believed(index, raw):
            self._bad_in_a_row = 0
            self._samples = (*self._samples[:index], _Sample(raw, at_s), *self._samples[index + 1 :])
            self._measure()
        else:
            self._reject(index)

    def _is_believed(self, index: int, raw: int) -> bool:
        """On the servo's way to its set point, or told three times: flipped bits must not look like a joint that was pushed away."""
        before, times = self._told[index]
        times = times + 1 if abs(raw - before) <= OFF_WAY_RAW else 1
        self._told[index] = raw, times
        low, high = sorted((self._samples[index].raw, self._goals[index] if self._goals else self._samples[index].raw))
        return low - OFF_WAY_RAW <= raw <= high + OFF_WAY_RAW or times >= TOLD_TIMES

    def _reject(self, index: int) -> None:
        """Ask the same servo again at once: in the 0.12 s until its next turn a joint may get 14° away from what is known of it."""
        self._next = index
        self._rejected_joint = JOINT_NAMES[index]
        self.rejected += 1
        self._bad_in_a_row += 1

    def _judge_read_back(self) -> None:
        if self._bad_in_a_row >= BAD_MAX:
            raise BusError(
                f"servo bus: {self._bad_in_a_row} read-backs of {self._rejected_joint} in a row were none or cannot be true, "
                f"expected fewer than {BAD_MAX}; check the cables between the servos"
            )

    def _measure(self) -> None:
        self._measured = command_from_counts([sample.raw for sample in self._samples], self._config.servos)

    def _ping_all(self) -> None:
        """Raise `BusError` that names every servo that is silent or reports a fault."""
        problems = []
        for name, servo in zip(JOINT_NAMES, self._config.servos, strict=True):
            answer = PING_SILENT
            for wait_s in ANSWER_S:
                answer = answer or self._ask(PING, bytes((servo.id,)), 1, wait_s)[0]
            if answer == PING_SILENT:
                problems.append(f"servo {servo.id} ({name}) is silent")
            elif answer != PING_OK:
                problems.append(f"servo {servo.id} ({name}) reports {_faults(answer)}")
        if problems:
            raise BusError(
                f"servo bus: {', '.join(problems)}, expected all six well; check the cables between the servos, the 12 V supply and the ids"
            )

    def _first_sample(self, index: int) -> _Sample:
        """Where a servo is, told twice alike: it is sent there first, and one bit that flipped on the wires would be a leap of 20°."""
        register, raw = POSITION_OF + self._config.servos[index].id, 0
        for wait_s in ANSWER_S:
            raw, again = (int.from_bytes(self._ask(register, ASK, 2, wait), "big") for wait in (wait_s, ANSWER_S[0]))
            if RAW_MIN <= raw <= RAW_MAX and abs(raw - again) <= NOISE_RAW:
                return _Sample(raw, self._clock.now_s())
        raise BusError(
            f"servo bus: servo {register - POSITION_OF} ({JOINT_NAMES[index]}) tells position {raw}, expected {RAW_MIN}…{RAW_MAX}, twice "
            "alike; turn it back by hand, or check its cable"
        )

    def _ask(self, register: int, question: bytes, length: int, wait_s: float = ANSWER_S[0]) -> bytes:
        """Ask, wait, fetch: only while opening, never in a tick."""
        self._send(register, question)
        self._clock.sleep_until(self._clock.now_s() + wait_s)
        return self._read(register, length)

    def _send(self, register: int, data: bytes) -> None:
        check_lease()
        self._smbus.write_i2c_block_data(self._config.address, register, list(data))

    def _read(self, register: int, length: int) -> bytes:
        """The register's bytes. Its number is written again: what was written since the question has moved the pointer (PRAC)."""
        check_lease()
        answer = self._message.read(self._config.address, length)
        self._smbus.i2c_rdwr(self._message.write(self._config.address, [register]), answer)
        return bytes(answer)

    def _unanswered(self, error: Exception) -> BusError:
        return BusError(
            f"servo bus: the DOFBOT's board at {self._where()} did not answer ({error}); check its supply and wiring, "
            "and bus.board in the configuration"
        )

    def _where(self) -> str:
        return f"I2C address {self._config.address:#04x}"


def tick_on_the_wire(clock_hz: float, read_back: bool = True) -> WireTime:
    """The bus budget of one `DofbotBoardBus.write`. Clock stretching comes on top; how much is not known."""
    set_point = (Exchange(1 + 2), Exchange(1 + 12))  # register, data
    return on_the_wire((*set_point, Exchange(1 + 1), Exchange(1, 2)) if read_back else set_point, clock_hz)


def _faults(status: int) -> str:
    """What a servo's status byte says (vendor: desheng_servo_protocol_v4.01.pdf)."""
    names = [name for bit, name in ((0, "a wrong voltage"), (2, "overheating"), (5, "overload")) if status >> bit & 1]
    return " and ".join(names) or f"status {status:#04x}"


def _import_smbus2() -> Any:
    try:
        import smbus2
    except ModuleNotFoundError:
        raise MissingExtraError("smbus2", "servo") from None
    return smbus2


def _open_smbus(number: int) -> Any:
    """`/dev/i2c-N`, which answers in time; raises `BusError`."""
    try:
        bus = _import_smbus2().SMBus(number)
        ask_for_haste(bus.fd)
    except OSError as error:
        raise BusError(
            f"servo bus: /dev/i2c-{number} does not open ({error.strerror}), expected an I2C bus; switch I2C on and join the group i2c, "
            "or set bus.i2c = 'emulated'"
        ) from error
    return bus
