"""The DOFBOT's servo board in software, byte for byte: a device for `edge.simulated.emulator.EmulatedI2C`.

Registers are the vendor's, times and failures what its users measured (`edge.buses.dofbot_board` names them). Where sources are silent
it is assumed that the board acknowledges every byte, ignores what makes no sense, and wakes up with torque off; that servos which share
an id answer together, so that only equal answers can be read; and that middle offsets, which are added to every goal, are taken off
every position. Flash (offsets, stored poses, ids) outlasts `power_up`. Not modelled: playing stored poses (0x20), which is taken and
ignored, the keys, WiFi, and what PWM servos do at ports 1-6. There is no register for temperature, voltage or current.
"""

from collections.abc import Callable, Sequence

from edge.buses.dofbot_board import DURATION, HAND_OUT_S, PING, PING_OK, POSITION_OF, POSITIONS, TORQUE, VERSION
from edge.simulated.bus_servo import BusServo
from edge.simulated.emulator import not_acknowledged

LIGHT, KEY_MODE, RESET, BUZZER, ONE, ALL, SET_ID, ANY, POSITION_OF_ANY = 0x02, 0x03, 0x05, 0x06, 0x10, 0x17, 0x18, 0x19, 0x37
OFFSET_RESULT, SET_MIDDLE, POSES, CLEAR_POSES, STORE_POSE, PWM, ALL_PWM = 0x1B, 0x1C, 0x22, 0x23, 0x24, 0x50, 0x57
LEARNING, POSES_MAX = 1, 20  # key mode; vendor: a count of 0-20
NOT_SET, SAVED, OUT_OF_RANGE = 0, 1, 2  # of a middle offset
RESULT_S = 1.5  # after which a result that nobody has read is gone
MIDDLE_REACH_RAW = (400, 400, 400, 400, 300, 400)  # from a default middle to the furthest that is taken (i2c_register_map.xlsx)
MIDDLE_RAW = (2000.0, 2000.0, 2000.0, 2000.0, 1486.0, 3100.0)  # the board's default middles: where servos stand at first
FIRMWARE = 5
DURATION_S = 0.5  # until register 0x1E is written
BOOT_S = 0.2  # PRAC waits that long after a reset
VERSION_S = 0.001  # Arm_Lib waits that long
ANSWER_S = 0.003  # of a servo (Arm_Lib waits that long, the vendor's sheet says 5 ms)


class DofbotBoardEmulator:
    """The board and its six servos; `now_s` is the clock.

    `actual_raw`, where it gives six positions, tells where the shafts really are: something outside moves them, or
    holds them against their goals. `deaf_s` is how long after a move a question to a servo stays without answer; `ramp` is the servos'.
    """

    def __init__(
        self,
        now_s: Callable[[], float],
        start_raw: Sequence[float] = MIDDLE_RAW,
        actual_raw: Callable[[], Sequence[float] | None] = lambda: None,
        deaf_s: float = 0.0,
        ramp: float = 0.0,
    ) -> None:
        self._now_s = now_s
        self._actual_raw = actual_raw
        self.deaf_s = deaf_s
        self.answer_s = ANSWER_S
        self.stretch_s = 0.0  # how long it holds the clock line at each byte: not known
        self.servos = tuple(BusServo(number, raw, ramp) for number, raw in enumerate(start_raw, 1))
        self.offsets_raw = [0.0] * 6  # flash: of ids 1-6
        self.poses: list[tuple[float, ...]] = []  # flash: what was learnt
        self._supplied = True
        self._start()
        self._ready_s = now_s()

    def brown_out(self) -> None:
        """Take the supply away: nothing answers, the servos are limp. `power_up` brings it back."""
        self._supplied = False
        for servo in self.servos:
            servo.power_up(self._now_s())

    def power_up(self) -> None:
        """Start, from off or on: deaf for `BOOT_S`, then torque off and nothing remembered."""
        self._supplied = True
        self._start()

    def write(self, data: bytes) -> None:
        """Take a write: a register, then its payload. Raises `OSError` while the board is off or starting."""
        self._check_awake()
        if not data:
            return
        register, payload = data[0], data[1:]
        # The pointer moves on with what is written: who does not point again reads beside the answer (PRAC).
        self._pointer = register + len(payload)
        if payload:
            self._take(register, payload)

    def read(self, count: int) -> bytes:
        """Give `count` bytes from the register last pointed at, zeros while there is no answer. Raises `OSError` as `write` does."""
        self._check_awake()
        ready_s, answer = self._answers.get(self._pointer, (0.0, b""))
        if self._pointer == OFFSET_RESULT:
            self._answers.pop(OFFSET_RESULT, None)
        return (answer if self._now_s() >= ready_s else b"").ljust(count, b"\x00")[:count]

    def answers(self, address: int) -> bool:
        """It has one address."""
        return False

    def general_call(self, data: bytes) -> None:
        """A microcontroller does not listen on address 0."""
        raise not_acknowledged()

    def positions_raw(self) -> tuple[float, ...]:
        """Where the shafts are by the servos' own model (6)."""
        return tuple(servo.raw(self._now_s()) for servo in self.servos)

    def torques(self) -> tuple[bool, ...]:
        """Which servos hold (6)."""
        return tuple(servo.holds(self._now_s()) for servo in self.servos)

    def _start(self) -> None:
        now_s = self._now_s()
        self._ready_s = now_s + BOOT_S
        self._pointer = 0
        self._duration_s = DURATION_S
        self._moved_s = self._busy_until_s = float("-inf")
        self._answers: dict[int, tuple[float, bytes]] = {}
        self._offset_result = (NOT_SET, float("-inf"))  # and when
        self.light = bytes(3)
        self.buzzer = self.key_mode = 0
        self.pwm_deg: list[int | None] = [None] * 6  # what ports 1-6 were told
        for servo in self.servos:
            servo.power_up(now_s)

    def _check_awake(self) -> None:
        if not self._supplied or self._now_s() < self._ready_s:
            raise not_acknowledged()

    def _take(self, register: int, payload: bytes) -> None:
        if register == POSITIONS and len(payload) >= 12:
            self._move({number: _number(payload, 2 * number - 2) for number in range(1, 7)}, self._duration_s)
        elif ONE < register <= ONE + 6 and len(payload) >= 4:
            self._move({register - ONE: _number(payload, 0)}, _number(payload, 2) / 1e3)
        elif register == ALL and len(payload) >= 4:
            self._move(dict.fromkeys((servo.number for servo in self.servos), _number(payload, 0)), _number(payload, 2) / 1e3)
        elif register == ANY and len(payload) >= 5:
            self._move({payload[0]: _number(payload, 1)}, _number(payload, 3) / 1e3)
        elif register == DURATION and len(payload) >= 2:
            self._duration_s = _number(payload, 0) / 1e3
        elif POSITION_OF < register <= POSITION_OF + 6:
            self._answer(register, self._position(register - POSITION_OF))
        elif register == POSITION_OF_ANY:
            self._answer(register, self._position(payload[0]))
        elif register == PING:
            self._answer(register, self._pong(payload[0]))
        else:
            self._set(register, payload)

    def _set(self, register: int, payload: bytes) -> None:
        """The registers that are about all servos, or the board itself."""
        if register == TORQUE:
            self._turn_torque(on=payload[0] != 0)
        elif register == RESET and payload[0] == 1:
            self.power_up()
        elif register == VERSION:
            self._answers[VERSION] = self._now_s() + VERSION_S, bytes((FIRMWARE,))
        elif register == LIGHT and len(payload) >= 3:
            self.light = payload[:3]
        elif register == KEY_MODE:
            self.key_mode = payload[0]
        elif register == BUZZER:
            self.buzzer = payload[0]
        elif register == SET_ID and 1 <= payload[0] <= 250:
            for servo in self._connected():  # every servo on the cable hears it
                servo.number = payload[0]
        elif PWM < register <= ALL_PWM and payload[0] <= 180:
            ports = range(6) if register == ALL_PWM else (register - PWM - 1,)
            self.pwm_deg = [payload[0] if port in ports else deg for port, deg in enumerate(self.pwm_deg)]
        else:
            self._keep(register, payload[0])

    def _keep(self, register: int, value: int) -> None:
        """The registers that are about flash."""
        now_s = self._now_s()
        if register == SET_MIDDLE and value <= 6:
            self._offset_result = self._set_middle(value), now_s
        elif register == OFFSET_RESULT:
            (result, at_s), self._offset_result = self._offset_result, (NOT_SET, now_s)
            self._answers[OFFSET_RESULT] = now_s + VERSION_S, bytes((result if now_s - at_s < RESULT_S else NOT_SET,))
        elif register == STORE_POSE and self.key_mode == LEARNING and len(self.poses) < POSES_MAX:
            self.poses.append(tuple(self._actual_raw() or self.positions_raw()))
        elif register == CLEAR_POSES:
            self.poses.clear()
        elif register == POSES:
            self._answers[POSES] = now_s + VERSION_S, bytes((len(self.poses),))

    def _set_middle(self, number: int) -> int:
        """Where a servo stands now is its middle from now on; 0: the defaults again, for all. Returns what became of it."""
        if not number:
            self.offsets_raw = [0.0] * 6
            return SAVED
        found = self._standing(number)
        if len(found) != 1:
            return NOT_SET
        offset_raw = found[0] - MIDDLE_RAW[number - 1]
        if abs(offset_raw) > MIDDLE_REACH_RAW[number - 1]:
            return OUT_OF_RANGE
        self.offsets_raw[number - 1] = offset_raw
        return SAVED

    def _move(self, goals_raw: dict[int, int], duration_s: float) -> None:
        """Tell the servos their goals, one after the other, once those of the move before are told."""
        self._moved_s = self._now_s()
        self._busy_until_s = max(self._busy_until_s, self._moved_s)
        for number, goal_raw in goals_raw.items():
            for servo in self._connected(number):
                servo.go(round(goal_raw + self._offset_raw(number)), duration_s, self._busy_until_s)
            self._busy_until_s += HAND_OUT_S / 6

    def _turn_torque(self, on: bool) -> None:
        actual_raw, now_s = self._actual_raw(), self._now_s()
        for index, servo in enumerate(self.servos):
            if actual_raw is not None:
                servo.turn_by_hand(actual_raw[index], now_s)
            if servo.answers and on and not servo.holds(now_s):
                servo.hold(max(now_s, self._busy_until_s))  # once they all have their goals
            elif servo.answers and not on:
                servo.let_go(now_s)

    def _position(self, number: int) -> bytes:
        """The answer of a servo: its position, or none."""
        return _together([round(max(raw - self._offset_raw(number), 0.0)).to_bytes(2, "big") for raw in self._standing(number)])

    def _standing(self, number: int) -> list[float]:
        """Where the servos with this id stand."""
        actual_raw = self._actual_raw() or self.positions_raw()
        return [raw for raw, servo in zip(actual_raw, self.servos, strict=True) if servo.answers and servo.number == number]

    def _offset_raw(self, number: int) -> float:
        return self.offsets_raw[number - 1] if 1 <= number <= 6 else 0.0

    def _pong(self, number: int) -> bytes:
        return _together([bytes((servo.error or PING_OK,)) for servo in self._connected(number)])

    def _answer(self, register: int, answer: bytes) -> None:
        """Ask a servo, once the board has told all servos their goals."""
        self._busy_until_s = max(self._now_s(), self._busy_until_s) + self.answer_s
        is_deaf = self._now_s() < self._moved_s + self.deaf_s
        self._answers[register] = self._busy_until_s, b"" if is_deaf else answer

    def _connected(self, number: int | None = None) -> list[BusServo]:
        return [servo for servo in self.servos if servo.answers and number in (None, servo.number)]


def _together(answers: list[bytes]) -> bytes:
    """What the board makes of servos that answer at once on one wire: where they differ the checksum is wrong."""
    return answers[0] if len(set(answers)) == 1 else b""


def _number(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 2], "big")
