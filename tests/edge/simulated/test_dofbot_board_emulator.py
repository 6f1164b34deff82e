"""The registers of the vendor's sheet, one by one, in the time that users measured."""

import pytest

from edge.simulated.dofbot_board_emulator import BOOT_S, MIDDLE_RAW, DofbotBoardEmulator
from edge.simulated.emulator import EmulatedI2C

VERSION, LIGHT, RESET, BUZZER, ALL, SET_ID, ANY, TORQUE, POSITIONS, DURATION = 0x01, 0x02, 0x05, 0x06, 0x17, 0x18, 0x19, 0x1A, 0x1D, 0x1E
GOALS = (2100, 2200, 2300, 1900, 1500, 3000)


class Rig:
    """A board and its clock."""

    def __init__(self, **options: object) -> None:
        self.now_s = 10.0
        self.board = DofbotBoardEmulator(lambda: self.now_s, **options)

    def send(self, *data: int) -> None:
        self.board.write(bytes(data))

    def wait(self, duration_s: float) -> "Rig":
        self.now_s += duration_s
        return self

    def ask(self, register: int, question: int = 1, length: int = 1, wait_s: float = 0.005) -> int:
        self.send(register, question)
        self.now_s += wait_s
        self.send(register)
        return int.from_bytes(self.board.read(length), "big")

    def move(self, goals: tuple[int, ...] = GOALS, duration_ms: int = 20) -> None:
        self.send(DURATION, *duration_ms.to_bytes(2, "big"))
        self.send(POSITIONS, *b"".join(goal.to_bytes(2, "big") for goal in goals))


@pytest.fixture
def rig() -> Rig:
    return Rig()


@pytest.fixture
def live(rig: Rig) -> Rig:
    rig.send(TORQUE, 1)
    return rig


def test_it_answers_version_ping_and_positions(rig: Rig) -> None:
    assert rig.ask(VERSION) == 5
    assert [rig.ask(0x38, number) for number in range(8)] == [0, *[0xDA] * 6, 0]
    assert [rig.ask(0x30 + number, length=2) for number in range(1, 7)] == list(MIDDLE_RAW)
    assert rig.ask(0x37, 5, length=2) == 1486


def test_an_answer_takes_its_time_and_is_zero_before(rig: Rig) -> None:
    rig.send(0x31, 1)
    rig.send(0x31)
    assert rig.board.read(2) == b"\x00\x00"
    rig.wait(0.0031)
    assert rig.board.read(2) == (2000).to_bytes(2, "big")
    assert rig.board.read(4) == (2000).to_bytes(2, "big") + b"\x00\x00"


def test_who_does_not_point_again_reads_beside_the_answer(rig: Rig) -> None:
    rig.send(0x31, 1)
    rig.wait(0.01)
    assert rig.board.read(2) == b"\x00\x00"


def test_six_goals_have_one_duration_and_are_handed_out_in_12_ms(live: Rig) -> None:
    live.move(duration_ms=100)
    live.wait(0.1)
    short = [abs(goal - raw) for goal, raw in zip(GOALS, live.board.positions_raw(), strict=True)]
    assert short[0] == 0.0
    way = [abs(goal - raw) for goal, raw in zip(GOALS, MIDDLE_RAW, strict=True)]
    assert [s / w for s, w in zip(short, way, strict=True)] == pytest.approx([0, 0.024, 0.048, 0.072, 0.096, 0.12])
    live.wait(0.012)
    assert live.board.positions_raw() == pytest.approx(GOALS)


def test_a_duration_holds_until_the_next_and_is_500_ms_at_first(live: Rig) -> None:
    live.send(POSITIONS, *b"".join(goal.to_bytes(2, "big") for goal in GOALS))
    live.wait(0.25)
    assert live.board.positions_raw()[0] == pytest.approx(2050)


def test_single_servos_take_their_own_time(live: Rig) -> None:
    live.send(0x12, *(2200).to_bytes(2, "big"), *(200).to_bytes(2, "big"))
    live.send(ANY, 3, *(1800).to_bytes(2, "big"), *(100).to_bytes(2, "big"))
    live.wait(0.1)
    assert live.board.positions_raw()[1] == pytest.approx(2100)
    live.wait(0.0025)
    assert live.board.positions_raw()[2] == pytest.approx(1800)
    live.send(ALL, *(2000).to_bytes(2, "big"), 0, 0)
    live.wait(1.0)
    assert live.board.positions_raw() == pytest.approx((2000,) * 6)


def test_no_torque_no_movement(rig: Rig) -> None:
    rig.move()
    assert rig.wait(1.0).board.positions_raw() == MIDDLE_RAW
    rig.send(TORQUE, 1)
    assert rig.wait(1.0).board.positions_raw() == pytest.approx(GOALS)
    rig.move(tuple(map(int, MIDDLE_RAW)), 1000)
    rig.wait(0.5).send(TORQUE, 0)
    where = rig.board.positions_raw()
    assert not any(rig.board.torques())
    assert rig.wait(5.0).board.positions_raw() == where


@pytest.mark.parametrize("how", ["register", "supply"])
def test_a_restart_is_silent_for_a_while_and_leaves_torque_off(live: Rig, how: str) -> None:
    live.move()
    live.wait(1.0)
    if how == "register":
        live.send(RESET, 1)
    else:
        live.board.brown_out()
        with pytest.raises(OSError, match="Remote I/O"):
            live.wait(9.0).send(VERSION, 1)
        live.board.power_up()
    for call in (lambda: live.send(VERSION, 1), lambda: live.board.read(1)):
        with pytest.raises(OSError, match="Remote I/O"):
            call()
    live.wait(BOOT_S)
    assert live.ask(VERSION) == 5
    live.move(tuple(map(int, MIDDLE_RAW)))
    assert live.wait(1.0).board.positions_raw() == GOALS
    assert not any(live.board.torques())


def test_a_question_right_after_a_move_waits_for_the_board_or_is_lost(live: Rig) -> None:
    live.move()
    assert live.ask(0x31, length=2) == 0
    assert 2000 < live.ask(0x31, length=2, wait_s=0.02) <= 2100
    deaf = Rig(deaf_s=0.1)
    deaf.move()
    assert deaf.ask(0x31, length=2, wait_s=0.05) == 0
    deaf.wait(0.1)
    assert deaf.ask(0x31, length=2) == 2000


def test_a_servo_whose_cable_is_out_and_one_that_complains(live: Rig) -> None:
    live.board.servos[2].answers = False
    live.board.servos[4].status = 0x20
    assert [live.ask(0x38, number) for number in (2, 3, 5)] == [0xDA, 0, 0x20]
    assert live.ask(0x33, length=2) == 0
    live.move()
    live.wait(1.0)
    assert live.board.positions_raw()[1:4] == (2200, 2000, 1900)


def test_where_the_shafts_are_can_come_from_outside() -> None:
    actual: list[tuple[float, ...]] = [(1000.0, 1100.0, 1200.0, 1300.0, 1400.0, 1600.0)]
    rig = Rig(actual_raw=lambda: actual[0])
    assert rig.ask(0x36, length=2) == 1600
    rig.send(TORQUE, 1)
    assert rig.board.positions_raw() == actual[0]  # limp until now, so there they were


def test_setting_an_id_hits_every_servo_on_the_cable(rig: Rig) -> None:
    for servo in rig.board.servos[1:]:
        servo.answers = False
    rig.send(SET_ID, 6)
    for servo in rig.board.servos[1:]:
        servo.answers = True
    assert [rig.ask(0x38, number) for number in (1, 2, 6)] == [0, 0xDA, 0xDA]


def test_light_buzzer_and_what_makes_no_sense(rig: Rig) -> None:
    rig.send(LIGHT, 10, 20, 30)
    rig.send(BUZZER, 0xFF)
    assert (rig.board.light, rig.board.buzzer) == (b"\x0a\x14\x1e", 0xFF)
    for nonsense in ((), (POSITIONS, 1), (DURATION, 1), (0x11, 1), (ALL,), (0xEE, 1, 2, 3), (0x20, 1), (SET_ID, 0)):
        rig.send(*nonsense)
    assert rig.ask(VERSION) == 5
    with pytest.raises(OSError, match="Remote I/O"):
        rig.board.general_call(b"\x06")


# ------------------------------------------------------------------ what is kept in flash


def middle_result(rig: Rig) -> int:
    return rig.ask(0x1B)


def test_a_middle_is_where_the_servo_stands_and_goals_and_positions_count_from_it(rig: Rig) -> None:
    rig.board.servos[1].turn_by_hand(2150.0, rig.now_s)
    assert rig.ask(0x32, length=2) == 2150
    rig.send(0x1C, 2)
    assert middle_result(rig) == 1
    assert rig.ask(0x32, length=2) == 2000
    rig.board.power_up()  # flash
    rig.wait(BOOT_S)
    rig.send(TORQUE, 1)
    rig.move((2000,) * 6)
    rig.wait(2.0)
    assert rig.board.positions_raw()[:2] == (2000.0, 2150.0)
    rig.send(0x1C, 0)
    assert middle_result(rig) == 1
    assert rig.ask(0x32, length=2) == 2150


@pytest.mark.parametrize(("number", "reach"), [(1, 400), (4, 400), (5, 300), (6, 400)])
def test_a_middle_too_far_from_the_default_is_refused(rig: Rig, number: int, reach: int) -> None:
    for sign in (-1, 1):
        rig.board.servos[number - 1].turn_by_hand(MIDDLE_RAW[number - 1] + sign * (reach + 1), rig.now_s)
        rig.send(0x1C, number)
        assert middle_result(rig) == 2
        rig.board.servos[number - 1].turn_by_hand(MIDDLE_RAW[number - 1] + sign * reach, rig.now_s)
        rig.send(0x1C, number)
        assert middle_result(rig) == 1
    assert rig.board.offsets_raw[number - 1] == reach


def test_a_result_is_read_once_and_within_its_time(rig: Rig) -> None:
    assert middle_result(rig) == 0
    rig.send(0x1C, 1)
    assert middle_result(rig) == 1
    assert rig.board.read(1) == b"\x00"
    assert middle_result(rig) == 0
    rig.send(0x1C, 1)
    rig.wait(1.6)
    assert middle_result(rig) == 0


def test_the_middle_of_a_servo_that_is_not_there_or_there_twice_is_not_set(rig: Rig) -> None:
    rig.board.servos[2].answers = False
    rig.send(0x1C, 3)
    assert middle_result(rig) == 0
    rig.board.servos[3].number = 1
    rig.send(0x1C, 1)
    assert middle_result(rig) == 0
    assert rig.board.offsets_raw == [0.0] * 6
    rig.send(0x1C, 7)


def test_servos_that_share_an_id_are_heard_only_where_they_agree(rig: Rig) -> None:
    rig.send(SET_ID, 4)
    assert [rig.ask(0x38, number) for number in (1, 4)] == [0, 0xDA]
    assert rig.ask(0x34, length=2) == 0  # positions differ
    rig.board.servos[0].status = 0x20
    assert rig.ask(0x38, 4) == 0
    rig.send(TORQUE, 1)
    rig.send(0x14, *(2200).to_bytes(2, "big"), 0, 0)
    assert rig.wait(2.0).board.positions_raw() == pytest.approx((2200.0,) * 6)  # they all obey
    assert rig.ask(0x34, length=2) == 2200
    rig.board.power_up()
    assert rig.wait(BOOT_S).ask(0x38, 1) == 0  # an id is for good


def test_poses_are_learnt_in_learn_mode_only_up_to_twenty(rig: Rig) -> None:
    rig.send(0x24, 1)
    assert rig.ask(0x22) == 0
    rig.send(0x03, 1)
    for _ in range(25):
        rig.send(0x24, 1)
    assert rig.ask(0x22) == 20
    assert rig.board.poses[0] == MIDDLE_RAW
    rig.board.power_up()
    assert rig.wait(BOOT_S).ask(0x22) == 20
    assert rig.board.key_mode == 0
    rig.send(0x23, 1)
    assert rig.ask(0x22) == 0


def test_pwm_ports_take_an_angle_each_or_all_one(rig: Rig) -> None:
    rig.send(0x51, 30)
    rig.send(0x56, 180)
    rig.send(0x53, 181)
    assert rig.board.pwm_deg == [30, None, None, None, None, 180]
    rig.send(0x57, 90)
    assert rig.board.pwm_deg == [90] * 6
    rig.board.power_up()
    assert rig.board.pwm_deg == [None] * 6


def test_a_stretched_clock_is_time_on_the_wire() -> None:
    rig = Rig()
    plain, slow = EmulatedI2C({0x15: rig.board}), EmulatedI2C({0x15: rig.board})
    plain.writeto(0x15, b"\x1e\x00\x14")
    rig.board.stretch_s = 50e-6
    slow.writeto(0x15, b"\x1e\x00\x14")
    assert slow.busy_s == pytest.approx(plain.busy_s + 4 * 50e-6)
