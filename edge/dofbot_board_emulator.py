"""The DOFBOT's servo board in software, byte for byte: a device for `edge.emulator.EmulatedI2C`.

Registers are the vendor's, times and failures what its users measured (`edge.dofbot_board` names them). Where sources are silent
it is assumed that the board acknowledges every byte, ignores what makes no sense, and wakes up with torque off. Taken and
ignored: action groups, learning, offsets (0x1B, 0x1C, 0x20-0x24) and PWM ports (0x51-0x57).
"""

from collections.abc import Callable, Sequence

from edge.bus_servo import BusServo
from edge.dofbot_board import DURATION, PING, PING_OK, POSITION_OF, POSITIONS, TORQUE, VERSION
from edge.emulator import not_acknowledged

LIGHT, KEY_MODE, RESET, BUZZER, ONE, ALL, SET_ID, ANY, POSITION_OF_ANY = 0x02, 0x03, 0x05, 0x06, 0x10, 0x17, 0x18, 0x19, 0x37
MIDDLE_RAW = (2000.0, 2000.0, 2000.0, 2000.0, 1486.0, 3100.0)  # the board's default middles: where servos stand at first
FIRMWARE = 5
DURATION_S = 0.5  # until register 0x1E is written
BOOT_S = 0.2  # PRAC waits that long after a reset
SKEW_S = 0.012  # from the first servo's goal to the last one's (PRAC): the board tells them one by one
VERSION_S = 0.001  # Arm_Lib waits that long
ANSWER_S = 0.003  # of a servo (Arm_Lib waits that long)


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
        self.stretch_s = 0.0  # how long it holds the clock line at each byte: not known
        self.servos = tuple(BusServo(number, raw, ramp) for number, raw in enumerate(start_raw, 1))
        self.light = bytes(3)
        self.buzzer = self.key_mode = 0
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
        """The registers that are about the board itself."""
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

    def _move(self, goals_raw: dict[int, int], duration_s: float) -> None:
        """Tell the servos their goals, one after the other, once those of the move before are told."""
        self._moved_s = self._now_s()
        self._busy_until_s = max(self._busy_until_s, self._moved_s)
        for number, goal_raw in goals_raw.items():
            for servo in self._connected(number):
                servo.go(goal_raw, duration_s, self._busy_until_s)
            self._busy_until_s += SKEW_S / 5

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
        actual_raw = self._actual_raw() or self.positions_raw()
        found = [raw for raw, servo in zip(actual_raw, self.servos, strict=True) if servo.answers and servo.number == number]
        return round(found[0]).to_bytes(2, "big") if found else b""

    def _pong(self, number: int) -> bytes:
        return bytes(servo.status or PING_OK for servo in self._connected(number)[:1])

    def _answer(self, register: int, answer: bytes) -> None:
        """Ask a servo, once the board has told all servos their goals."""
        asked_s = max(self._now_s(), self._busy_until_s)
        is_deaf = self._now_s() < self._moved_s + self.deaf_s
        self._answers[register] = asked_s + ANSWER_S, b"" if is_deaf else answer

    def _connected(self, number: int | None = None) -> list[BusServo]:
        return [servo for servo in self.servos if servo.answers and number in (None, servo.number)]


def _number(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 2], "big")
