"""The driver's real code, smbus2's messages included, on the emulated board."""

import contextlib
import itertools
import logging
import math
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest

from edge.buses.board_counts import command_from_counts, counts
from edge.buses.dofbot_board import BAD_MAX, RESTARTED_AFTER_S, DofbotBoardBus, tick_on_the_wire
from edge.buses.lease import lease
from edge.config import BusConfig
from edge.errors import BusError, MissingExtraError
from edge.messages import JointCommand
from edge.robot import JOINT_NAMES, PARK_RAD
from edge.safety import DOFBOT_LIMITS, gate, resting
from edge.simulated.dofbot_board_emulator import MIDDLE_RAW, DofbotBoardEmulator
from edge.simulated.emulated_smbus import EmulatedSMBus
from edge.simulated.emulator import EmulatedI2C, Transaction

pytest.importorskip("smbus2")

CONFIG = BusConfig()
SERVOS = CONFIG.board.servos
ADDRESS = 0x15
TICK_S = 0.02
MIDDLE = command_from_counts(MIDDLE_RAW, SERVOS)
PARK = JointCommand._make((*PARK_RAD, 0.06))


class FakeClock:
    def __init__(self) -> None:
        self.time_s = 5.0

    def now_s(self) -> float:
        return self.time_s

    def sleep_until(self, deadline_s: float) -> None:
        self.time_s = max(self.time_s, deadline_s)


class FlakyI2C(EmulatedI2C):
    """Fails writes and reads that `fails` picks by number, counted from 0 since it was set; `spoil` changes what is read."""

    fails = staticmethod(lambda number: False)
    spoil = staticmethod(lambda data: data)
    number = 0

    def writeto(self, *args: object, **kwargs: object) -> None:
        self._count()
        super().writeto(*args, **kwargs)

    def writeto_then_readfrom(self, address: int, out_buffer: bytes, in_buffer: bytearray) -> None:
        self._count()
        super().writeto_then_readfrom(address, out_buffer, in_buffer)
        in_buffer[:] = self.spoil(bytes(in_buffer))

    def fail(self, fails) -> None:
        self.fails, self.number = fails, 0

    def _count(self) -> None:
        self.number += 1
        if self.fails(self.number - 1):
            raise OSError(121, "Remote I/O error")


class Rig:
    """Driver, bus, board and clock."""

    def __init__(self, config: BusConfig = CONFIG, **options: object) -> None:
        self.clock = FakeClock()
        self.board = DofbotBoardEmulator(self.clock.now_s, **options)
        self.i2c = FlakyI2C({ADDRESS: self.board})
        self.bus = DofbotBoardBus(config, EmulatedSMBus(self.i2c), self.clock)

    def holds(self) -> bool:
        """Whether the servos hold, all of them or none, once the board has told them."""
        self.clock.time_s += TICK_S
        (holds,) = set(self.board.torques())
        return holds

    def tick(self, command: JointCommand, count: int = 1) -> None:
        for _ in range(count):
            self.clock.time_s += TICK_S
            self.bus.write(command)


@pytest.fixture
def rig() -> Rig:
    rig = Rig()
    rig.bus.open()
    rig.i2c.trace.clear()
    return rig


def moved(command: JointCommand, by_rad: float) -> JointCommand:
    return JointCommand._make((*(joint + by_rad for joint in command.joints_rad), command.opening_m))


def one_sentence(error: pytest.ExceptionInfo[BusError]) -> str:
    text = str(error.value)
    assert text.startswith("servo bus: ")
    assert "\n" not in text
    assert ". " not in text
    return text


# ------------------------------------------------------------------ bytes


def test_a_tick_takes_an_answer_asks_the_next_question_and_sends_duration_and_positions(rig: Rig) -> None:
    rig.tick(MIDDLE, 2)
    rig.i2c.trace.clear()
    rig.tick(MIDDLE, 2)
    goals = "1d 07 d0 07 d0 07 d0 07 d0 05 ce 0c 1c"
    assert [(t.written.hex(" "), t.read.hex(" ")) for t in rig.i2c.trace] == [
        ("32", "07 d0"),
        ("33 01", ""),
        ("1e 00 14", ""),
        (goals, ""),
        ("33", "07 d0"),
        ("34 01", ""),
        ("1e 00 14", ""),
        (goals, ""),
    ]


@pytest.mark.parametrize(("clock_hz", "most_s"), [(100_000, 0.0026), (400_000, 0.00065)])
def test_the_bus_budget_is_what_a_tick_puts_on_the_wire(rig: Rig, clock_hz: float, most_s: float) -> None:
    def length(t: Transaction) -> int:
        return (1 + len(t.written) if t.written else 0) + (1 + len(t.read) if t.read else 0)

    rig.tick(MIDDLE, 2)
    rig.i2c.trace.clear()
    rig.tick(MIDDLE)
    wire = tick_on_the_wire(clock_hz)
    assert (wire.transactions, wire.bytes) == (len(rig.i2c.trace), sum(map(length, rig.i2c.trace)))
    assert 9 * wire.bytes / clock_hz < wire.duration_s < most_s
    assert tick_on_the_wire(clock_hz, read_back=False).bytes == 18


def test_ids_duration_and_address_are_the_configurations() -> None:
    servos = tuple(msgspec.structs.replace(servo, id=7 - servo.id) for servo in SERVOS)
    board = msgspec.structs.replace(CONFIG.board, servos=servos, move_ms=300)
    rig = Rig(msgspec.structs.replace(CONFIG, board=board), start_raw=MIDDLE_RAW[::-1])
    rig.bus.open()
    assert rig.bus.measured() == pytest.approx(MIDDLE, abs=1e-9)
    rig.i2c.trace.clear()
    rig.tick(MIDDLE, 2)
    goals = "1d 0c 1c 05 ce 07 d0 07 d0 07 d0 07 d0"
    first, second = ["36 01", "1e 01 2c", goals, "1a 01"], ["36", "35 01", "1e 01 2c", goals]
    assert [t.written.hex(" ") for t in rig.i2c.trace] == first + second


# ------------------------------------------------------------------ opening, torque


def test_opening_moves_nothing_powers_nothing_and_knows_where_the_arm_is() -> None:
    start = counts(PARK, SERVOS)
    rig = Rig(start_raw=start)
    rig.bus.open()
    assert rig.bus.measured() == pytest.approx(PARK, abs=0.002)
    assert not rig.holds()
    assert rig.board.positions_raw() == start


def test_the_first_write_powers_the_servos_without_a_leap() -> None:
    """A board that had another goal before, as a run that ended elsewhere leaves it."""
    rig = Rig()
    rig.board.write(bytes((0x1A, 1)))
    rig.board.write(b"\x1d" + b"".join((raw).to_bytes(2, "big") for raw in (2500, 2500, 2500, 2500, 2000, 2000)))
    rig.clock.time_s += 1.0
    rig.bus.open()
    rig.board.write(b"\x1d" + b"".join((raw).to_bytes(2, "big") for raw in (1000,) * 6))
    rig.clock.time_s += 1.0
    start = rig.bus.measured()
    rig.bus.write(start)
    seen = []
    for _ in range(100):
        rig.clock.time_s += 0.001
        seen.append(rig.board.positions_raw())
    assert rig.holds()
    for raws in seen:
        assert raws == pytest.approx((2500, 2500, 2500, 2500, 2000, 2000), abs=1.0)


@pytest.mark.parametrize("missing", range(6))
def test_a_missing_servo_is_named(missing: int) -> None:
    rig = Rig()
    rig.board.servos[missing].answers = False
    with pytest.raises(BusError, match=rf"servo {missing + 1} \({JOINT_NAMES[missing]}\) is silent, expected all six") as error:
        rig.bus.open()
    one_sentence(error)
    with pytest.raises(BusError, match="closed"):
        rig.bus.write(MIDDLE)
    assert not rig.holds()


def test_a_servo_that_complains_is_named_with_its_complaint() -> None:
    rig = Rig()
    rig.board.servos[1].status, rig.board.servos[5].status = 0x25, 0x02
    with pytest.raises(BusError) as error:
        rig.bus.open()
    assert "servo 2 (joint2) reports a wrong voltage and overheating and overload, servo 6 (gripper) reports status 0x02" in one_sentence(
        error
    )


def test_a_servo_without_a_position_and_a_board_without_a_version_are_refused(rig: Rig) -> None:
    rig.i2c.spoil = lambda data: b"\x00\x00" if len(data) == 2 else data
    with pytest.raises(BusError, match="servo 1 .joint1. tells position 0, expected 96…4000"):
        rig.bus.open()
    rig.i2c.spoil = lambda data: bytes(len(data))
    with pytest.raises(BusError, match="version 0"):
        rig.bus.open()


@pytest.mark.parametrize("bit", range(3, 16))
def test_one_flipped_bit_is_not_where_the_arm_is(rig: Rig, bit: int) -> None:
    answers = itertools.count()

    def spoil(data: bytes) -> bytes:
        """A position in seven is wrong."""
        is_spoilt = len(data) == 2 and next(answers) % 7 == 0
        return (int.from_bytes(data, "big") ^ 1 << bit).to_bytes(2, "big") if is_spoilt else data

    rig.i2c.spoil = spoil
    rig.bus.open()
    assert rig.bus.measured() == MIDDLE


def test_opening_is_patient_with_a_board_that_moved_just_now() -> None:
    rig = Rig(deaf_s=0.1)
    rig.board.write(b"\x1d" + bytes(12))
    rig.bus.open()
    assert rig.bus.measured() is not None


def test_an_absent_board_is_one_sentence() -> None:
    bus = DofbotBoardBus(CONFIG, EmulatedSMBus(EmulatedI2C({})), FakeClock())
    with pytest.raises(BusError, match="0x15 did not answer .*Remote I/O.*check its supply") as error:
        bus.open()
    one_sentence(error)
    bus.release()
    bus.close()


def test_without_an_i2c_bus_or_smbus2_one_sentence_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    config = msgspec.structs.replace(CONFIG, board=msgspec.structs.replace(CONFIG.board, i2c_bus=99))
    with pytest.raises(BusError, match="/dev/i2c-99 does not open .No such file"):
        DofbotBoardBus(config).open()
    monkeypatch.setitem(__import__("sys").modules, "smbus2", None)
    with pytest.raises(MissingExtraError, match=r"dofbot-grasp\[servo\]"):
        DofbotBoardBus(config).open()


def test_a_real_bus_gets_a_time_out_of_10_ms_and_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []

    class Bus(EmulatedSMBus):
        fd = 7

        def close(self) -> None:
            calls.append("closed")

    rig = Rig()
    fake = SimpleNamespace(SMBus=lambda number: calls.append(number) or Bus(rig.i2c), i2c_msg=__import__("smbus2").i2c_msg)
    monkeypatch.setattr("edge.buses.dofbot_board._import_smbus2", lambda: fake)
    monkeypatch.setattr("edge.buses.i2c_adapter.ioctl", lambda *arguments: calls.append(arguments))
    bus = DofbotBoardBus(CONFIG, clock=rig.clock)
    bus.open()
    bus.close()
    bus.close()
    assert calls == [1, (7, 0x0702, 1), (7, 0x0701, 0), "closed"]


# ------------------------------------------------------------------ release


def test_release_lets_go_and_the_next_write_holds_again(rig: Rig) -> None:
    rig.tick(MIDDLE)
    assert rig.holds()
    rig.bus.release()
    rig.bus.release()
    assert not rig.holds()
    rig.tick(MIDDLE)
    assert rig.holds()
    rig.bus.close()
    assert not rig.holds()
    with pytest.raises(BusError, match="closed"):
        rig.bus.write(MIDDLE)


def test_release_outlasts_two_glitches_and_a_lease_that_is_over(rig: Rig) -> None:
    rig.tick(MIDDLE)
    rig.i2c.fail(lambda number: number < 2)
    with lease(lambda: True):
        rig.bus.release()
    assert not rig.holds()


def test_release_on_a_dead_bus_raises_nothing_and_says_so(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    rig.i2c.fail(lambda number: True)
    rig.bus.release()
    rig.bus.close()
    assert "may still be powered" in caplog.text
    assert all(record.levelno >= logging.ERROR for record in caplog.records)
    DofbotBoardBus(CONFIG).close()


@pytest.mark.parametrize("survived", range(0, 27, 2))
def test_release_works_however_far_open_came(survived: int) -> None:
    rig = Rig()
    rig.board.write(bytes((0x1A, 1)))
    rig.i2c.fail(lambda number: number >= survived)
    with pytest.raises(BusError, match="did not answer"):
        rig.bus.open()
    rig.i2c.fail(lambda number: False)
    rig.bus.release()
    assert not rig.holds()


# ------------------------------------------------------------------ read-back


def test_what_is_measured_follows_the_arm_within_a_round(rig: Rig) -> None:
    state = resting(MIDDLE)
    for _ in range(60):
        state = gate(state, moved(MIDDLE, 0.5), DOFBOT_LIMITS, TICK_S, lambda command: (0.0, 0.15, 0.1)).state
        rig.tick(state.position)
    rig.tick(state.position, 8)
    assert rig.bus.measured() == pytest.approx(moved(MIDDLE, 0.5), abs=0.002)
    assert rig.bus.rejected == 0


@pytest.mark.parametrize("raw", [0, 95, 4001, 0xFFFF, 3990])
def test_one_impossible_read_back_is_ignored_and_counted(rig: Rig, raw: int) -> None:
    rig.tick(MIDDLE, 2)
    before = rig.bus.measured()
    rig.i2c.spoil = lambda data: raw.to_bytes(2, "big")
    rig.tick(MIDDLE)
    rig.i2c.spoil = lambda data: data
    assert rig.bus.measured() == before
    assert rig.bus.rejected == 1
    rig.tick(MIDDLE, 20)
    assert rig.bus.rejected == 1


def test_a_joint_that_seems_to_have_been_pushed_away_is_believed_when_it_says_so_three_times(rig: Rig) -> None:
    rig.tick(MIDDLE, 20)
    before = rig.bus.measured()
    rig.i2c.spoil = lambda data: (int.from_bytes(data, "big") ^ 1 << 7).to_bytes(2, "big")  # 10°: plausible, and further than a stall
    rig.tick(MIDDLE, 2)
    rig.i2c.spoil = lambda data: data
    rig.tick(MIDDLE, 20)
    assert rig.bus.measured() == before
    assert rig.bus.rejected == 2
    rig.i2c.spoil = lambda data: (int.from_bytes(data, "big") ^ 1 << 7).to_bytes(2, "big")
    for _ in range(18):
        with contextlib.suppress(BusError):
            rig.tick(MIDDLE)
    measured = rig.bus.measured()
    assert measured is not None
    assert min(abs(now - then) for now, then in zip(measured[:5], MIDDLE[:5], strict=True)) > math.radians(8.0)


def test_five_in_a_row_are_an_error_within_100_ms_with_nothing_sent_and_one_good_one_ends_it(rig: Rig) -> None:
    """Who hears of an error goes on from rest at the set point before: one that the servos got all the same would be gone back on."""
    rig.tick(MIDDLE, 3)
    rig.i2c.spoil = lambda data: b"\x00\x00"
    rig.tick(MIDDLE, BAD_MAX - 1)
    rig.i2c.trace.clear()
    with pytest.raises(BusError, match="5 read-backs of joint[1-5] in a row were none or cannot be true") as error:
        rig.tick(moved(MIDDLE, 0.01))
    one_sentence(error)
    assert not any(t.written[:1] == b"\x1d" for t in rig.i2c.trace)
    rig.i2c.spoil = lambda data: data
    rig.tick(moved(MIDDLE, 0.01))
    assert any(t.written[:1] == b"\x1d" for t in rig.i2c.trace)


def test_a_servo_that_falls_silent_alone_is_asked_again_and_found_in_five_ticks(rig: Rig) -> None:
    rig.tick(MIDDLE, 6)
    rig.board.servos[3].answers = False
    with pytest.raises(BusError, match="5 read-backs of joint4 in a row"):
        rig.tick(MIDDLE, 6 + BAD_MAX)


def test_a_lost_read_back_is_asked_for_again_in_the_next_tick(rig: Rig) -> None:
    rig.tick(MIDDLE, 2)
    rig.i2c.spoil = lambda data: b"\x00\x00"
    rig.tick(MIDDLE)
    rig.i2c.spoil = lambda data: data
    rig.i2c.trace.clear()
    rig.tick(MIDDLE, 2)
    asked = [t.written[0] for t in rig.i2c.trace if 0x31 <= t.written[0] <= 0x36 and len(t.written) == 2]
    read = [t.written[0] for t in rig.i2c.trace if 0x31 <= t.written[0] <= 0x36 and len(t.written) == 1]
    assert read[1] == asked[0]
    assert asked[0] < asked[1] == asked[0] + 1
    assert rig.bus.rejected == 1


def test_a_read_back_that_nobody_acknowledges_costs_no_set_point(rig: Rig) -> None:
    rig.tick(MIDDLE, 2)
    rig.i2c.trace.clear()
    rig.i2c.fail(lambda number: number in (0, 1))  # the answer, and the next question
    rig.tick(moved(MIDDLE, 0.1))
    assert [t.written[0] for t in rig.i2c.trace] == [0x1E, 0x1D]
    assert rig.bus.rejected == 2
    rig.i2c.fail(lambda number: False)
    rig.tick(MIDDLE, 20)
    assert rig.bus.rejected == 2


def test_a_held_servo_is_measured_where_it_is_held(rig: Rig) -> None:
    rig.tick(MIDDLE, 2)
    rig.board.servos[1].stall(True, rig.clock.time_s)
    target = MIDDLE
    for _ in range(40):
        target = moved(target, 0.01)
        rig.tick(target)
    measured = rig.bus.measured()
    assert measured.joint2_rad == pytest.approx(MIDDLE.joint2_rad, abs=0.002)
    assert measured.joint1_rad == pytest.approx(target.joint1_rad, abs=0.1)


# ------------------------------------------------------------------ faults


def test_nothing_is_written_before_open_or_that_cannot_be(rig: Rig) -> None:
    with pytest.raises(BusError, match="closed"):
        Rig().bus.write(MIDDLE)
    for bad in (math.nan, math.inf, 9.0):
        with pytest.raises(BusError, match="joint2"):
            rig.bus.write(MIDDLE._replace(joint2_rad=bad))
    assert not rig.i2c.trace


@pytest.mark.parametrize("failing", [2, 3])
def test_a_lost_acknowledge_is_one_sentence_and_over_with_the_next_write(rig: Rig, failing: int) -> None:
    rig.tick(MIDDLE)
    rig.i2c.fail(lambda number: number == failing)
    with pytest.raises(BusError, match="did not answer") as error:
        rig.tick(MIDDLE)
    one_sentence(error)
    assert isinstance(error.value.__cause__, OSError)
    rig.tick(MIDDLE)


def test_a_board_that_lost_its_supply_is_not_written_to_until_it_was_opened_again(rig: Rig) -> None:
    rig.tick(MIDDLE, 10)
    rig.board.brown_out()
    rig.clock.time_s += TICK_S
    rig.board.power_up()
    began_s = rig.clock.time_s
    while rig.clock.time_s - began_s < 0.5:
        with pytest.raises(BusError):
            rig.tick(moved(MIDDLE, 0.3))
    with pytest.raises(BusError, match="closed"):
        rig.tick(MIDDLE)
    assert rig.board.positions_raw() == pytest.approx(MIDDLE_RAW)
    rig.bus.open()
    assert not rig.holds()
    rig.tick(rig.bus.measured())
    assert rig.holds()


def test_short_silence_needs_no_opening(rig: Rig) -> None:
    rig.tick(MIDDLE, 3)
    rig.i2c.fail(lambda number: True)
    for _ in range(int(RESTARTED_AFTER_S / TICK_S) - 1):
        with pytest.raises(BusError, match="did not answer"):
            rig.tick(MIDDLE)
    rig.i2c.fail(lambda number: False)
    rig.tick(MIDDLE)


def test_opening_again_does_not_let_the_arm_fall(rig: Rig) -> None:
    rig.tick(moved(MIDDLE, 0.01), 5)
    rig.i2c.fail(lambda number: number < 300)
    for _ in range(100):
        with pytest.raises(BusError):
            rig.tick(MIDDLE)
    with pytest.raises(BusError):
        rig.bus.open()
    rig.i2c.fail(lambda number: False)
    rig.bus.open()
    assert rig.holds()
    rig.bus.release()
    rig.bus.open()
    assert not rig.holds()


def test_a_set_point_that_was_given_up_goes_no_further(rig: Rig) -> None:
    rig.tick(MIDDLE, 2)
    rig.i2c.trace.clear()
    with lease(lambda: len(rig.i2c.trace) >= 3), pytest.raises(BusError, match="given up"):
        rig.tick(moved(MIDDLE, 0.3))
    assert [t.written[0] for t in rig.i2c.trace] == [0x32, 0x33, 0x1E]


def test_a_set_point_that_is_sent_once_more_asks_nothing_twice_and_fetches_nothing_too_early(rig: Rig) -> None:
    rig.tick(MIDDLE, 3)
    rig.i2c.trace.clear()
    rig.i2c.fail(lambda number: number == 3)  # the positions; the writer tries again, at once
    with pytest.raises(BusError, match="did not answer"):
        rig.tick(MIDDLE)
    rig.clock.time_s += 0.001
    rig.bus.write(MIDDLE)
    assert [t.written.hex(" ")[:5] for t in rig.i2c.trace] == ["33", "34 01", "1e 00", "1e 00", "1d 07"]
    rig.tick(MIDDLE, 10)
    assert rig.bus.rejected == 0


def test_a_silent_bus_costs_no_read_backs(rig: Rig) -> None:
    """Or one good set point after three lost ones would be called the last of five bad read-backs."""
    rig.tick(MIDDLE, 3)
    rig.i2c.fail(lambda number: number < 7)
    for _ in range(3):
        with pytest.raises(BusError, match="did not answer"):
            rig.tick(MIDDLE)
    rig.i2c.fail(lambda number: False)
    rig.tick(MIDDLE, 10)
    assert rig.bus.rejected == 1  # the one that was to be fetched when it began


@pytest.mark.parametrize("answer_s", [0.003, 0.005])
def test_a_board_that_takes_the_vendors_5_ms_is_done_before_the_next_tick(rig: Rig, answer_s: float) -> None:
    rig.board.answer_s = answer_s
    rig.tick(MIDDLE, 100)
    assert rig.bus.rejected == 0
    for late_s in (0.008, 0.0) * 50:  # a late tick, and the next one in time
        rig.clock.time_s += TICK_S + late_s
        rig.bus.write(MIDDLE)
        rig.clock.time_s -= late_s
    assert rig.bus.rejected == 0


def test_a_thousand_random_ticks_with_faults_send_only_gated_counts(rig: Rig) -> None:
    rng = np.random.default_rng(4)
    state, sent = resting(MIDDLE), []
    for _ in range(1000):
        goal = JointCommand._make((*rng.uniform(-0.5, 0.5, 5).tolist(), float(rng.uniform(0.0, 0.06))))
        state = gate(state, goal, DOFBOT_LIMITS, TICK_S, lambda command: (0.0, 0.15, 0.1)).state
        rig.i2c.fail(int(rng.integers(0, 40)).__eq__)
        rig.i2c.trace.clear()
        try:
            rig.tick(state.position)
        except BusError:
            continue
        sent += [t.written for t in rig.i2c.trace if t.written[0] == 0x1D]
        assert sent[-1] == b"\x1d" + b"".join(raw.to_bytes(2, "big") for raw in counts(state.position, SERVOS))
    assert len(sent) > 900
