"""The register rules of the data sheet, one by one, and the bytes of Adafruit's driver."""

import errno

import pytest

from edge.simulated.emulator import EmulatedI2C, Pca9685Emulator, Transaction

ADDRESS = 0x40
MODE1, MODE2, PRE_SCALE = 0x00, 0x01, 0xFE
ASLEEP, AWAKE, AWAKE_AI, RESTART = 0x10, 0x00, 0x20, 0x80


@pytest.fixture
def chip() -> Pca9685Emulator:
    return Pca9685Emulator()


@pytest.fixture
def bus(chip: Pca9685Emulator) -> EmulatedI2C:
    return EmulatedI2C({ADDRESS: chip})


def read(chip: Pca9685Emulator, register: int, count: int = 1) -> list[int]:
    chip.write(bytes((register,)))
    return list(chip.read(count))


def awake(chip: Pca9685Emulator) -> None:
    chip.write(bytes((MODE1, AWAKE_AI)))


def pulse(chip: Pca9685Emulator, channel: int, on: int, off: int) -> float:
    chip.write(bytes((0x06 + 4 * channel, on & 0xFF, on >> 8, off & 0xFF, off >> 8)))
    return chip.pulse_us(channel)


def test_power_up_is_asleep_with_every_output_off(chip: Pca9685Emulator) -> None:
    assert [read(chip, register)[0] for register in range(6)] == [0x11, 0x04, 0xE2, 0xE4, 0xE8, 0xE0]
    assert [read(chip, register)[0] for register in range(0x06, 0x46)] == [0x00, 0x00, 0x00, 0x10] * 16
    assert read(chip, PRE_SCALE) == [0x1E]
    assert all(chip.pulse_us(channel) == 0.0 for channel in range(16))


def test_without_auto_increment_every_byte_goes_to_one_register(chip: Pca9685Emulator) -> None:
    chip.write(bytes((0x06, 1, 2, 3, 4)))
    assert [read(chip, register)[0] for register in range(0x06, 0x0A)] == [4, 0, 0, 0x10]
    assert read(chip, 0x06, 3) == [4, 4, 4]


def test_auto_increment_set_by_the_first_byte_holds_for_the_rest(chip: Pca9685Emulator) -> None:
    chip.write(bytes((MODE1, AWAKE_AI, 0x14)))
    assert read(chip, MODE1, 2) == [AWAKE_AI, 0x14]


def test_auto_increment_wraps_after_the_last_channel_and_after_pre_scale(chip: Pca9685Emulator) -> None:
    awake(chip)
    chip.write(bytes((0x45, 0x05, AWAKE_AI | 0x08)))
    assert read(chip, 0x45, 3) == [0x05, AWAKE_AI | 0x08, 0x04]
    chip.write(bytes((PRE_SCALE, 0x50, AWAKE_AI)))
    assert read(chip, PRE_SCALE, 3) == [0x1E, AWAKE_AI, 0x04]


def test_a_read_goes_on_where_the_last_one_ended(chip: Pca9685Emulator) -> None:
    awake(chip)
    read(chip, MODE1)
    assert list(chip.read(1)) == [0x04]


@pytest.mark.parametrize("register", [0x46, 0x80, 0xF9, 0xFF])
def test_a_reserved_register_is_not_acknowledged(chip: Pca9685Emulator, bus: EmulatedI2C, register: int) -> None:
    with pytest.raises(OSError, match="Remote I/O") as error:
        bus.writeto(ADDRESS, bytes((register, 0)))
    assert error.value.errno == errno.EREMOTEIO == 121


def test_reserved_bits_stay_zero(chip: Pca9685Emulator) -> None:
    awake(chip)
    for register, kept in {MODE2: 0x1F, 0x02: 0xFE, 0x05: 0xFE, 0x06: 0xFF, 0x07: 0x1F, 0x44: 0xFF, 0x45: 0x1F}.items():
        chip.write(bytes((register, 0xFF)))
        assert read(chip, register) == [kept], f"{register:#04x}"


def test_pre_scale_takes_writes_only_asleep_and_at_least_three(chip: Pca9685Emulator) -> None:
    chip.write(bytes((PRE_SCALE, 121)))
    awake(chip)
    chip.write(bytes((PRE_SCALE, 50)))
    assert read(chip, PRE_SCALE) == [121]
    chip.write(bytes((MODE1, ASLEEP)))
    chip.write(bytes((PRE_SCALE, 2)))
    assert read(chip, PRE_SCALE) == [3]


def test_all_led_writes_every_channel_and_reads_zero(chip: Pca9685Emulator) -> None:
    awake(chip)
    chip.write(bytes((0xFA, 0x11, 0x02, 0x33, 0x04)))
    assert read(chip, 0x06, 64) == [0x11, 0x02, 0x33, 0x04] * 16
    assert read(chip, 0xFA, 5) == [0, 0, 0, 0, 0x1E]


def test_the_pulse_is_the_counts_times_the_prescaled_clock() -> None:
    for oscillator_hz in (23e6, 25e6, 27e6):
        chip = Pca9685Emulator(oscillator_hz)
        chip.write(bytes((PRE_SCALE, 121)))
        awake(chip)
        tick_us = 122 / oscillator_hz * 1e6
        assert pulse(chip, 3, on=0, off=307) == pytest.approx(307 * tick_us)
        assert pulse(chip, 15, on=4000, off=211) == pytest.approx(307 * tick_us)  # across the end of the period
        assert pulse(chip, 0, on=100, off=100) == 0.0


def test_full_on_is_the_whole_period_and_full_off_wins(chip: Pca9685Emulator) -> None:
    awake(chip)
    assert pulse(chip, 2, on=0x1000, off=100) == pytest.approx(4096 * 31 / 25)
    assert pulse(chip, 2, on=0x1000, off=0x1000) == 0.0
    assert pulse(chip, 2, on=0, off=0x1000 | 300) == 0.0


def test_asleep_nothing_comes_out_though_writes_are_taken(chip: Pca9685Emulator) -> None:
    chip.write(bytes((MODE1, ASLEEP | AWAKE_AI)))
    assert pulse(chip, 0, on=0, off=300) == 0.0
    awake(chip)
    assert chip.pulse_us(0) > 0.0


def test_sleep_halts_running_outputs_until_restart_is_written_awake(chip: Pca9685Emulator) -> None:
    awake(chip)
    before = pulse(chip, 0, on=0, off=300)
    chip.write(bytes((MODE1, ASLEEP | AWAKE_AI)))
    assert read(chip, MODE1) == [RESTART | ASLEEP | AWAKE_AI]
    chip.write(bytes((MODE1, RESTART | ASLEEP | AWAKE_AI)))  # still asleep
    chip.write(bytes((MODE1, RESTART | AWAKE_AI)))  # wakes, too early for RESTART
    assert read(chip, MODE1) == [RESTART | AWAKE_AI]
    assert chip.pulse_us(0) == 0.0
    chip.write(bytes((MODE1, AWAKE_AI)))  # writing 0 to RESTART does nothing
    assert chip.pulse_us(0) == 0.0
    chip.write(bytes((MODE1, RESTART | AWAKE_AI)))
    assert read(chip, MODE1) == [AWAKE_AI]
    assert chip.pulse_us(0) == before


@pytest.mark.parametrize("register", [0x09, 0x0A, 0xFA])
def test_writing_a_channel_gives_up_what_was_halted(chip: Pca9685Emulator, register: int) -> None:
    awake(chip)
    pulse(chip, 0, on=0, off=300)
    chip.write(bytes((MODE1, ASLEEP)))
    chip.write(bytes((register, 0)))
    assert read(chip, MODE1) == [ASLEEP]


def test_sleep_after_an_orderly_shutdown_halts_nothing(chip: Pca9685Emulator) -> None:
    awake(chip)
    pulse(chip, 0, on=0, off=300)
    chip.write(bytes((0xFD, 0x10)))
    assert all(chip.pulse_us(channel) == 0.0 for channel in range(16))
    chip.write(bytes((MODE1, ASLEEP)))
    assert read(chip, MODE1) == [ASLEEP]


def test_the_software_reset_call_is_a_power_up(chip: Pca9685Emulator, bus: EmulatedI2C) -> None:
    awake(chip)
    pulse(chip, 0, on=0, off=300)
    for wrong in (b"\x07", b"\x06\x06"):
        with pytest.raises(OSError, match="Remote I/O"):
            bus.writeto(0x00, wrong)
    assert chip.pulse_us(0) > 0.0
    bus.writeto(0x00, b"\x06")
    assert chip.pulse_us(0) == 0.0
    assert read(chip, MODE1) == [0x11]
    with pytest.raises(OSError, match="Remote I/O"):
        bus.readfrom_into(0x00, bytearray(1))


def test_nobody_acknowledges_an_unknown_address(bus: EmulatedI2C) -> None:
    for call in (
        lambda: bus.writeto(0x41, b""),
        lambda: bus.readfrom_into(0x41, bytearray(1)),
        lambda: bus.writeto_then_readfrom(0x41, b"\x00", bytearray(1)),
        lambda: EmulatedI2C({}).writeto(0x00, b"\x06"),
    ):
        with pytest.raises(OSError, match="Remote I/O") as error:
            call()
        assert error.value.errno == errno.EREMOTEIO
    assert not bus.trace


def test_slices_are_honoured_and_one_buffer_may_be_both(bus: EmulatedI2C) -> None:
    bus.writeto(ADDRESS, b"??\x00\x20??", start=2, end=4)
    buffer = bytearray((MODE1, 0xAA, 0xAA, 0xAA))
    bus.writeto_then_readfrom(ADDRESS, buffer, buffer, out_end=1, in_start=1, in_end=3)
    assert buffer == bytearray((MODE1, AWAKE_AI, 0x04, 0xAA))
    bus.readfrom_into(ADDRESS, buffer, start=3)
    assert buffer[3] == 0xE2
    assert list(bus.trace) == [
        Transaction(ADDRESS, b"\x00\x20"),
        Transaction(ADDRESS, b"\x00", b"\x20\x04"),
        Transaction(ADDRESS, b"", b"\xe2"),
    ]


def test_on_write_is_called_after_each_write_that_was_acknowledged(chip: Pca9685Emulator) -> None:
    seen = []
    bus = EmulatedI2C({ADDRESS: chip}, on_write=lambda: seen.append(chip.pulse_us(0)))
    bus.writeto(ADDRESS, bytes((MODE1, AWAKE_AI)))
    bus.writeto(ADDRESS, bytes((0x06, 0, 0, 100, 0)))
    bus.writeto(ADDRESS, b"")
    bus.writeto_then_readfrom(ADDRESS, b"\x00", bytearray(1))
    with pytest.raises(OSError, match="Remote I/O"):
        bus.writeto(0x41, b"\x00\x00")
    assert seen == [0.0, pytest.approx(100 * 31 / 25)]


def test_the_bus_is_taken_once(bus: EmulatedI2C) -> None:
    assert bus.try_lock()
    assert not bus.try_lock()
    bus.unlock()
    assert bus.try_lock()


def test_servokit_sends_the_bytes_that_were_recorded_from_it(
    chip: Pca9685Emulator, bus: EmulatedI2C, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ServoKit 1.3.24 on a recording fake bus gave these; here the answers come from the register file."""
    monkeypatch.setenv("BLINKA_OS_AGNOSTIC", "1")
    from adafruit_servokit import ServoKit

    def new() -> list[tuple[str, str]]:
        transactions = [(t.written.hex(" "), t.read.hex(" ")) for t in bus.trace]
        bus.trace.clear()
        return transactions

    kit = ServoKit(channels=16, i2c=bus, address=ADDRESS, reference_clock_speed=25_000_000, frequency=50)
    probe, construct = ("", ""), ("00 00", "")
    frequency = [("00", "00"), ("00 10", ""), ("fe 79", ""), ("00 00", ""), ("00 a0", "")]
    assert new() == [probe, construct, *frequency]
    assert read(chip, MODE1) == [AWAKE_AI]  # all-call is off from then on

    servo = kit.servo[0]
    assert new() == [("fe", "79")] * 2
    servo.set_pulse_width_range(500, 2500)
    assert new() == [("fe", "79")] * 2
    servo.angle = 90
    assert new() == [("06 00 00 33 01", "")]
    assert chip.pulse_us(0) == pytest.approx(307 * 4.88)
    assert -0.44 < servo.angle - 90 <= 0
    assert new() == [("06", "00 00 33 01")] * 4
    kit.servo[5].angle = 0
    assert new()[-1][0].startswith("1a 00 00 ")
    servo.angle = None
    assert new() == [("06 00 00 00 10", "")]
    assert chip.pulse_us(0) == 0.0


# ------------------------------------------------------------------ external clock, oscillator, groups


class Time:
    now_s = 3.0


@pytest.fixture
def time() -> Time:
    return Time()


def test_the_oscillator_takes_half_a_millisecond_to_start(time: Time) -> None:
    chip = Pca9685Emulator(now_s=lambda: time.now_s)
    awake(chip)
    assert pulse(chip, 0, on=0, off=300) == 0.0
    time.now_s += 499e-6
    assert chip.pulse_us(0) == 0.0
    time.now_s += 2e-6
    assert chip.pulse_us(0) > 0.0


def test_a_restart_that_comes_too_early_is_not_honoured(time: Time) -> None:
    chip = Pca9685Emulator(now_s=lambda: time.now_s)
    awake(chip)
    pulse(chip, 0, on=0, off=300)
    time.now_s += 0.1
    chip.write(bytes((MODE1, ASLEEP | AWAKE_AI)))
    chip.write(bytes((MODE1, AWAKE_AI)))
    time.now_s += 400e-6
    chip.write(bytes((MODE1, RESTART | AWAKE_AI)))
    time.now_s += 0.1
    assert read(chip, MODE1) == [RESTART | AWAKE_AI]
    assert chip.pulse_us(0) == 0.0
    chip.write(bytes((MODE1, RESTART | AWAKE_AI)))
    assert read(chip, MODE1) == [AWAKE_AI]
    assert chip.pulse_us(0) > 0.0


def test_the_external_clock_is_switched_on_asleep_and_off_by_a_reset_only() -> None:
    extclk = 0x40
    chip = Pca9685Emulator(external_hz=50e6)
    awake(chip)
    chip.write(bytes((MODE1, AWAKE_AI | extclk)))
    assert read(chip, MODE1) == [AWAKE_AI]  # not while awake
    chip.write(bytes((MODE1, ASLEEP | extclk)))
    assert read(chip, MODE1) == [ASLEEP]  # nor with the same write that goes to sleep
    chip.write(bytes((MODE1, ASLEEP | extclk)))
    awake(chip)
    assert read(chip, MODE1) == [AWAKE_AI | extclk]  # sticky
    assert pulse(chip, 0, on=0, off=300) == pytest.approx(300 * 31 / 50)
    chip.power_up()
    assert read(chip, MODE1) == [0x11]


def test_an_external_clock_that_is_not_there_is_no_pulse(chip: Pca9685Emulator) -> None:
    for value in (ASLEEP, ASLEEP | 0x40, AWAKE_AI):
        chip.write(bytes((MODE1, value)))
    assert pulse(chip, 0, on=0, off=300) == 0.0


@pytest.mark.parametrize(("register", "bit", "default"), [(0x02, 0x08, 0x71), (0x03, 0x04, 0x72), (0x04, 0x02, 0x74), (0x05, 0x01, 0x70)])
def test_a_group_answers_while_its_bit_is_set(chip: Pca9685Emulator, bus: EmulatedI2C, register: int, bit: int, default: int) -> None:
    chip.write(bytes((MODE1, bit)))
    bus.writeto(default, bytes((MODE1, bit | AWAKE_AI)))
    chip.write(bytes((register, 0x66 << 1)))
    with pytest.raises(OSError, match="Remote I/O"):
        bus.writeto(default, b"")
    bus.writeto(0x66, bytes((MODE1, AWAKE_AI)))
    with pytest.raises(OSError, match="Remote I/O"):
        bus.writeto(0x66, b"")


def test_all_call_reaches_every_chip_and_where_their_answers_differ_zeros_win() -> None:
    chips = Pca9685Emulator(), Pca9685Emulator()
    bus = EmulatedI2C({0x40: chips[0], 0x41: chips[1]})
    assert bus.scan() == [0x40, 0x41, 0x70]
    bus.writeto(0x70, bytes((MODE1, AWAKE_AI | 0x01)))
    bus.writeto(0x70, bytes((0x06, 0, 0, 0x33, 0x01)))
    assert chips[0].pulse_us(0) == chips[1].pulse_us(0) > 0.0
    bus.writeto(0x41, bytes((0x08, 0x0F)))
    buffer = bytearray(1)
    bus.writeto_then_readfrom(0x70, b"\x08", buffer)
    assert buffer[0] == 0x33 & 0x0F
    bus.writeto(0x00, b"\x06")
    assert [read(chip, MODE1) for chip in chips] == [[0x11], [0x11]]


# ------------------------------------------------------------------ time on the wire, and who else calls


def test_the_wire_is_busy_before_the_bytes_take_effect_and_a_missing_chip_costs_its_address(chip: Pca9685Emulator) -> None:
    seen: list[tuple[float, float]] = []
    awake(chip)
    bus = EmulatedI2C({ADDRESS: chip}, on_wire=lambda duration_s: seen.append((duration_s, chip.pulse_us(0))), clock_hz=400_000.0)
    bus.writeto(ADDRESS, bytes((0x06, 0, 0, 100, 0)))
    bus.writeto_then_readfrom(ADDRESS, b"\x00", bytearray(1))
    with pytest.raises(OSError, match="Remote I/O"):
        bus.writeto(0x41, b"\x00\x00\x00")
    with pytest.raises(OSError, match="Remote I/O"):
        bus.readfrom_into(0x41, bytearray(3))
    pulses = [0.0, *[pytest.approx(100 * 31 / 25)] * 3]
    clocks = [9 * 6 + 4, 9 * 4 + 6, 13, 13]
    assert seen == list(zip([pytest.approx(clock / 400_000.0) for clock in clocks], pulses, strict=True))
    assert bus.busy_s == pytest.approx(sum(clocks) / 400_000.0)


def test_adafruits_i2c_device_finds_its_chip_and_no_other(bus: EmulatedI2C) -> None:
    device_class = pytest.importorskip("adafruit_bus_device.i2c_device").I2CDevice
    device, buffer = device_class(bus, ADDRESS), bytearray(2)
    with device:
        device.write(bytes((MODE1, AWAKE_AI)))
        device.write_then_readinto(bytes((MODE1,)), buffer)
    assert buffer == bytes((AWAKE_AI, 0x04))
    with pytest.raises(ValueError, match="No I2C device at address: 0x41"):
        device_class(bus, 0x41)
    assert bus.try_lock()  # given back
    bus.deinit()
