"""Bus servos on the DOFBOT's own board, one at a time: a `ServoLine` whose positions are counts."""

import logging
from statistics import median

from edge.buses.board_counts import command_from_counts
from edge.buses.dofbot_board import ASK, NOISE_RAW, PING, POSITION_OF, RAW_MAX, RAW_MIN, TORQUE
from edge.clock import Clock
from edge.config import BoardServoConfig, BusConfig
from edge.errors import BusError
from edge.messages import JointCommand
from edge.robot import JOINT_NAMES
from firmware_tools.wires import Wires

# One servo's goal, with its duration (vendor: i2c_register_map.xlsx), and the register that renames every servo that is plugged in.
GOAL_OF, SET_ID = 0x10, 0x18
ID_MAX = 250
ANSWER_S = (0.005, 0.015, 0.1)  # vendor, PRAC, YAS, as in edge/buses/dofbot_board.py
RENAME_S = 0.1  # until a servo has its new id in flash; assumed
RELEASE_ATTEMPTS = 3

_log = logging.getLogger(__name__)


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
        """Each goal is where the servo is, so that none leaps when torque comes on. Raises `BusError` for one that does not tell."""
        for joint, servo in enumerate(self._config.servos):
            raw = self.read(joint)
            if raw is not None:
                self._goal(servo.id, raw)
            elif self.answers(servo.id):
                raise BusError(
                    f"servo {servo.id} ({JOINT_NAMES[joint]}) answers, but tells no position twice alike, expected one to hold it at, "
                    "so torque stays off; two servos may share its id, plug them in one at a time: dofbot servo id"
                )

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
