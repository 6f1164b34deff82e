import contextlib
import gc
import logging
import math
import sys
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest

from edge.buses.pca9685 import Pca9685Bus
from edge.buses.servos import command_from_pulses
from edge.config import BusConfig
from edge.errors import BusError, MissingExtraError
from edge.messages import JointCommand
from edge.robot import OPENING_MAX_M, POSITION_MAX_RAD, POSITION_MIN_RAD
from edge.simulated.emulator import EmulatedI2C, Pca9685Emulator

CONFIG = BusConfig()
STRAIGHT = JointCommand(0.0, 0.0, 0.0, 0.0, 0.0, 0.030)
ADDRESS = CONFIG.address
HALF_COUNT_DEG = 0.33  # of a count of 4.88 µs, where 2000 µs are 270°


class FlakyI2C(EmulatedI2C):
    """Fails the transactions that `failing` says, counted from 0 since it was set."""

    failing: range = range(0)
    count: int = 0

    def writeto(self, address: int, buffer: bytes, *, start: int = 0, end: int | None = None) -> None:
        self._tick()
        super().writeto(address, buffer, start=start, end=end)

    def writeto_then_readfrom(self, *args: object, **kwargs: object) -> None:
        self._tick()
        super().writeto_then_readfrom(*args, **kwargs)

    def fail(self, failing: range) -> None:
        self.failing, self.count = failing, 0

    def _tick(self) -> None:
        self.count += 1
        if self.count - 1 in self.failing:
            raise OSError(121, "Remote I/O error")


@pytest.fixture
def chip() -> Pca9685Emulator:
    return Pca9685Emulator()


@pytest.fixture
def i2c(chip: Pca9685Emulator) -> FlakyI2C:
    return FlakyI2C({ADDRESS: chip})


@pytest.fixture
def bus(i2c: FlakyI2C) -> Pca9685Bus:
    bus = Pca9685Bus(CONFIG, i2c)
    bus.open()
    i2c.trace.clear()
    return bus


def pulses_of(chip: Pca9685Emulator, config: BusConfig = CONFIG) -> tuple[float, ...]:
    return tuple(chip.pulse_us(servo.channel) for servo in config.servos)


def all_off(chip: Pca9685Emulator) -> bool:
    return all(chip.pulse_us(channel) == 0.0 for channel in range(16))


def one_sentence(error: pytest.ExceptionInfo[BusError]) -> str:
    text = str(error.value)
    assert text.startswith("servo bus: ")
    assert "\n" not in text
    assert ". " not in text
    return text


def test_a_write_is_one_read_back_and_one_transaction_a_servo(bus: Pca9685Bus, i2c: FlakyI2C) -> None:
    bus.write(STRAIGHT._replace(joint5_rad=math.radians(45.0)))
    middle = [f"{0x06 + 4 * channel:02x} 00 00 33 01" for channel in range(5)]  # 1500 µs in counts of 4.88 µs: 307 = 0x133
    gripper = "1a 00 00 98 01"  # 134 of 180°: 1988.9 µs: 408 = 0x198
    assert [t.written.hex(" ") for t in i2c.trace] == ["00", *middle, gripper]


def test_opening_switches_everything_off_and_moves_nothing(chip: Pca9685Emulator) -> None:
    chip.write(bytes((0x00, 0x20)))
    for channel in range(16):
        chip.write(bytes((0x06 + 4 * channel, 0, 0, 0x33, 0x01)))  # as a killed process leaves it
    pulses_seen: list[tuple[float, ...]] = []
    i2c = EmulatedI2C({ADDRESS: chip}, on_write=lambda: pulses_seen.append(tuple(chip.pulse_us(c) for c in range(16))))
    assert not all_off(chip)
    Pca9685Bus(CONFIG, i2c).open()
    assert set(pulses_seen) == {(0.0,) * 16}


def test_opening_again_leaves_nothing_to_collect(bus: Pca9685Bus, i2c: FlakyI2C) -> None:
    """The collector is off while the arm runs: what refers to itself stays for ever."""
    gc.collect()
    gc.disable()
    try:
        for number in range(6):
            i2c.fail(range(number, number + number % 2))  # every second time something on the way is not acknowledged
            with contextlib.suppress(BusError):
                bus.open()
        assert gc.collect() == 0
    finally:
        gc.enable()
    bus.open()
    bus.write(STRAIGHT)


def test_what_the_servos_are_told_is_the_nearest_count_to_the_command(bus: Pca9685Bus, chip: Pca9685Emulator) -> None:
    """ServoKit's own servos take the next lower one, which bends the whole arm one way, by 4 mm at the tool."""
    rng, short = np.random.default_rng(3), []
    for joints_rad in rng.uniform(POSITION_MIN_RAD, POSITION_MAX_RAD, (300, 5)).tolist():
        command = JointCommand(*joints_rad, float(rng.uniform(0, OPENING_MAX_M)))
        bus.write(command)
        told = command_from_pulses(pulses_of(chip), CONFIG.servos)
        short.append(np.degrees(command.joints_rad) - np.degrees(told.joints_rad))
        assert abs(told.opening_m - command.opening_m) < 0.0003  # 0.22° where the table is steepest, 1.25 mm/°
    assert np.abs(short).max() <= HALF_COUNT_DEG
    assert np.abs(np.mean(short, axis=0)).max() < 0.05


@pytest.mark.parametrize("limits", [POSITION_MIN_RAD, POSITION_MAX_RAD])
@pytest.mark.parametrize("opening_m", [0.0, OPENING_MAX_M])
def test_the_limits_themselves_can_be_sent(bus: Pca9685Bus, chip: Pca9685Emulator, limits: tuple[float, ...], opening_m: float) -> None:
    bus.write(JointCommand(*limits, opening_m))
    told = command_from_pulses(pulses_of(chip), CONFIG.servos)
    assert np.degrees(told.joints_rad) == pytest.approx(np.degrees(limits), abs=HALF_COUNT_DEG)


@pytest.mark.parametrize("oscillator_hz", [23_000_000, 24_060_000, 27_000_000])
def test_the_reference_clock_trims_the_oscillator_of_a_unit(oscillator_hz: int) -> None:
    def told(reference_clock_hz: int) -> float:
        chip = Pca9685Emulator(oscillator_hz)
        config = msgspec.structs.replace(CONFIG, reference_clock_hz=reference_clock_hz)
        bus = Pca9685Bus(config, EmulatedI2C({ADDRESS: chip}))
        bus.open()
        bus.write(STRAIGHT)
        return math.degrees(command_from_pulses(pulses_of(chip), config.servos).joint1_rad)

    assert abs(told(oscillator_hz)) < HALF_COUNT_DEG
    assert abs(told(25_000_000)) > 7.0


@pytest.mark.parametrize("reference_clock_hz", [22_000_000, 25_088_000, 25_190_400, 28_000_000])
def test_every_reference_clock_passes_the_read_back(reference_clock_hz: int, i2c: FlakyI2C) -> None:
    Pca9685Bus(msgspec.structs.replace(CONFIG, reference_clock_hz=reference_clock_hz), i2c).open()


def test_servos_answer_on_their_own_channels(chip: Pca9685Emulator, i2c: FlakyI2C) -> None:
    servos = tuple(msgspec.structs.replace(servo, channel=15 - 2 * index) for index, servo in enumerate(CONFIG.servos))
    config = msgspec.structs.replace(CONFIG, servos=servos)
    bus = Pca9685Bus(config, i2c)
    bus.open()
    bus.write(STRAIGHT)
    assert command_from_pulses(pulses_of(chip, config), servos).joints_rad == pytest.approx(
        STRAIGHT.joints_rad, abs=math.radians(HALF_COUNT_DEG)
    )
    assert [channel for channel in range(16) if chip.pulse_us(channel)] == [5, 7, 9, 11, 13, 15]


@pytest.mark.parametrize("field", JointCommand._fields)
@pytest.mark.parametrize("value", [math.nan, math.inf, 9.0])
def test_a_command_that_cannot_be_sends_no_byte(bus: Pca9685Bus, i2c: FlakyI2C, field: str, value: float) -> None:
    with pytest.raises(BusError, match="joint|gripper"):
        bus.write(STRAIGHT._replace(**{field: value}))
    assert not i2c.trace


def test_nothing_is_written_before_open_and_after_close(i2c: FlakyI2C, chip: Pca9685Emulator) -> None:
    bus = Pca9685Bus(CONFIG, i2c)
    with pytest.raises(BusError, match="closed"):
        bus.write(STRAIGHT)
    assert not i2c.trace
    bus.open()
    bus.write(STRAIGHT)
    bus.close()
    with pytest.raises(BusError, match="closed"):
        bus.write(STRAIGHT)
    assert all_off(chip)


def test_release_leaves_every_output_off_and_may_be_repeated(bus: Pca9685Bus, chip: Pca9685Emulator) -> None:
    bus.write(STRAIGHT)
    assert not all_off(chip)
    bus.release()
    bus.release()
    assert all_off(chip)
    bus.write(STRAIGHT)
    assert all(pulse > 0.0 for pulse in pulses_of(chip))


def test_release_outlasts_two_glitches_and_a_taken_lock(bus: Pca9685Bus, chip: Pca9685Emulator, i2c: FlakyI2C) -> None:
    bus.write(STRAIGHT)
    i2c.fail(range(2))
    i2c.try_lock()  # as when a signal interrupts a transaction
    bus.release()
    assert all_off(chip)


def test_release_on_a_dead_bus_raises_nothing_and_says_so(bus: Pca9685Bus, i2c: FlakyI2C, caplog: pytest.LogCaptureFixture) -> None:
    i2c.fail(range(1000))
    with caplog.at_level(logging.ERROR):
        bus.release()
        bus.close()
    assert "may still be powered" in caplog.text


@pytest.mark.parametrize("survived", range(10))
def test_release_works_however_far_open_came(chip: Pca9685Emulator, i2c: FlakyI2C, survived: int) -> None:
    chip.write(bytes((0x00, 0x20)))
    chip.write(bytes((0x06, 0, 0, 0x33, 0x01)))
    bus = Pca9685Bus(CONFIG, i2c)
    i2c.fail(range(survived, 1000))
    with pytest.raises(BusError, match="0x40"):
        bus.open()
    with pytest.raises(BusError, match="closed"):
        bus.write(STRAIGHT)
    i2c.fail(range(0))
    bus.release()
    assert all_off(chip)


def test_releasing_what_was_never_opened_is_allowed() -> None:
    bus = Pca9685Bus(CONFIG)
    bus.release()
    bus.close()


def test_an_absent_chip_is_one_sentence() -> None:
    i2c = EmulatedI2C({})
    with pytest.raises(BusError) as error:
        Pca9685Bus(CONFIG, i2c).open()
    text = one_sentence(error)
    assert "0x40" in text
    assert "Remote I/O" in text
    assert "check its supply and wiring" in text
    assert not i2c.trace


@pytest.mark.parametrize(("failing", "servo"), [(0, "channel 0 (joint1)"), (1, "channel 0 (joint1)"), (4, "channel 3 (joint4)")])
def test_a_lost_acknowledge_names_the_channel(bus: Pca9685Bus, i2c: FlakyI2C, failing: int, servo: str) -> None:
    i2c.fail(range(failing, failing + 1))
    with pytest.raises(BusError) as error:
        bus.write(STRAIGHT)
    text = one_sentence(error)
    assert servo in text
    assert "0x40" in text
    bus.write(STRAIGHT)  # a glitch is over with the next command


def test_a_chip_that_stays_asleep_is_found_at_open(i2c: FlakyI2C) -> None:
    class Sleeper(Pca9685Emulator):
        def write(self, data: bytes) -> None:
            super().write(data)
            if data[:1] == b"\x00" and len(data) > 1:
                super().write(b"\x00\x31")

    chip = Sleeper()
    bus = Pca9685Bus(CONFIG, EmulatedI2C({ADDRESS: chip}))
    with pytest.raises(BusError, match="MODE1 .* reads 0x31, expected 0x20") as error:
        bus.open()
    one_sentence(error)
    with pytest.raises(BusError, match="closed"):
        bus.write(STRAIGHT)


def test_a_wrong_prescale_is_found_at_open() -> None:
    class Stubborn(Pca9685Emulator):
        def write(self, data: bytes) -> None:
            super().write(b"\xfe\x78" if data == b"\xfe\x79" else data)

    with pytest.raises(BusError, match="PRE_SCALE .* reads 0x78, expected 0x79"):
        Pca9685Bus(CONFIG, EmulatedI2C({ADDRESS: Stubborn()})).open()


def test_a_chip_that_was_reset_is_found_at_the_next_write_and_open_brings_it_back(
    bus: Pca9685Bus, chip: Pca9685Emulator, i2c: FlakyI2C
) -> None:
    bus.write(STRAIGHT)
    chip.power_up()
    i2c.trace.clear()
    with pytest.raises(BusError, match="MODE1 .* reads 0x11, expected 0x20") as error:
        bus.write(STRAIGHT)
    one_sentence(error)
    assert [t.written for t in i2c.trace] == [b"\x00"]
    bus.open()
    assert all_off(chip)
    bus.write(STRAIGHT)
    assert all(pulse > 0.0 for pulse in pulses_of(chip))


def test_a_bus_that_could_not_be_opened_again_is_closed(bus: Pca9685Bus, i2c: FlakyI2C) -> None:
    i2c.fail(range(1))
    with pytest.raises(BusError, match="did not answer"):
        bus.open()
    with pytest.raises(BusError, match="closed"):
        bus.write(STRAIGHT)


def test_without_servokit_the_extra_is_named(i2c: FlakyI2C, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "adafruit_servokit", None)
    with pytest.raises(MissingExtraError, match=r"dofbot-grasp\[servo\]"):
        Pca9685Bus(CONFIG, i2c).open()
    assert not i2c.trace


def test_a_machine_that_blinka_does_not_know_is_one_sentence(i2c: FlakyI2C, monkeypatch: pytest.MonkeyPatch) -> None:
    class Unknown:
        def __getattr__(self, name: str) -> object:
            raise NotImplementedError("\n   unable to identify the board\n   and more lines\n")

    monkeypatch.setitem(sys.modules, "adafruit_servokit", Unknown())
    with pytest.raises(BusError, match="unable to identify the board") as error:
        Pca9685Bus(CONFIG, i2c).open()
    one_sentence(error)


def test_the_boards_own_bus_is_taken_at_open_and_given_back(chip: Pca9685Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    given_back = []
    device = SimpleNamespace(fileno=lambda: 7)
    calls: list[object] = []
    monkeypatch.setattr("edge.buses.i2c_adapter.ioctl", lambda *arguments: calls.append(arguments))

    class BoardI2C(EmulatedI2C):
        _i2c = SimpleNamespace(_i2c_bus=SimpleNamespace(_device=device))  # as in Blinka 10

        def deinit(self) -> None:
            given_back.append(all_off(chip))

    monkeypatch.setitem(sys.modules, "board", SimpleNamespace(I2C=lambda: BoardI2C({ADDRESS: chip})))
    bus = Pca9685Bus(CONFIG)
    bus.open()
    bus.write(STRAIGHT)
    bus.close()
    bus.close()
    assert given_back == [True]
    assert calls == [(7, 0x0702, 1), (7, 0x0701, 0)]  # a time-out of 10 ms, no retries


def test_a_bus_that_keeps_the_kernels_time_out_says_so_and_works(
    chip: Pca9685Emulator, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "board", SimpleNamespace(I2C=lambda: EmulatedI2C({ADDRESS: chip})))
    bus = Pca9685Bus(CONFIG)
    bus.open()
    bus.write(STRAIGHT)
    assert "time-out of 1 s" in caplog.text


def test_a_machine_without_i2c_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "board", SimpleNamespace())
    with pytest.raises(BusError, match="no I2C bus") as error:
        Pca9685Bus(CONFIG).open()
    one_sentence(error)
