"""smbus2's own messages reach emulated chips and bring their answers back."""

import pytest

from edge.simulated.emulated_smbus import EmulatedSMBus
from edge.simulated.emulator import EmulatedI2C, Pca9685Emulator, Transaction

smbus2 = pytest.importorskip("smbus2")
ADDRESS = 0x40


@pytest.fixture
def i2c() -> EmulatedI2C:
    return EmulatedI2C({ADDRESS: Pca9685Emulator()})


def test_a_block_is_a_register_and_its_bytes(i2c) -> None:
    EmulatedSMBus(i2c).write_i2c_block_data(ADDRESS, 0x00, [0x20, 0x14])
    assert list(i2c.trace) == [Transaction(ADDRESS, b"\x00\x20\x14")]


def test_messages_write_read_and_write_then_read(i2c) -> None:
    bus, message = EmulatedSMBus(i2c), smbus2.i2c_msg
    bus.i2c_rdwr(message.write(ADDRESS, [0x00, 0x20]))
    both = message.read(ADDRESS, 2)
    bus.i2c_rdwr(message.write(ADDRESS, [0x00]), both)
    assert bytes(both) == b"\x20\x04"
    alone = message.read(ADDRESS, 1)
    bus.i2c_rdwr(alone)
    assert bytes(alone) == b"\xe2"
    assert [transaction.written for transaction in i2c.trace] == [b"\x00\x20", b"\x00", b""]
    bus.close()


def test_what_linux_refuses_is_refused(i2c) -> None:
    bus, message = EmulatedSMBus(i2c), smbus2.i2c_msg
    with pytest.raises(OSError, match="Remote I/O"):
        bus.write_i2c_block_data(0x15, 0x01, [1])
    with pytest.raises(OSError, match="Remote I/O"):
        bus.i2c_rdwr(message.write(0x15, [1]), message.read(0x15, 1))
    with pytest.raises(ValueError, match="33 bytes, expected at most 32"):
        bus.write_i2c_block_data(ADDRESS, 0x06, [0] * 33)
    with pytest.raises(ValueError, match="expected a write, a read, or one after the other"):
        bus.i2c_rdwr(message.write(ADDRESS, [1]), message.read(0x15, 1))
    assert not i2c.trace


def test_every_call_of_smbus2_is_the_bytes_that_the_kernel_would_send(i2c) -> None:
    with EmulatedSMBus(i2c) as bus:
        bus.write_quick(ADDRESS)
        bus.write_byte_data(ADDRESS, 0x00, 0x20)
        bus.write_byte(ADDRESS, 0x01)
        assert bus.read_byte(ADDRESS) == 0x04
        assert bus.read_byte_data(ADDRESS, 0xFE) == 0x1E
        bus.write_word_data(ADDRESS, 0x06, 0x1234)
        assert bus.read_word_data(ADDRESS, 0x06) == 0x1234
        bus.write_i2c_block_data(ADDRESS, 0x06, [1, 2, 3, 4])
        assert bus.read_i2c_block_data(ADDRESS, 0x06, 4) == [1, 2, 3, 4]
    assert [(t.written.hex(" "), t.read.hex(" ")) for t in i2c.trace] == [
        ("", ""),
        ("00 20", ""),
        ("01", ""),
        ("", "04"),
        ("fe", "1e"),
        ("06 34 12", ""),
        ("06", "34 12"),
        ("06 01 02 03 04", ""),
        ("06", "01 02 03 04"),
    ]


def test_each_call_is_one_of_smbus2s_own_with_its_parameters(i2c) -> None:
    import inspect

    for name, call in inspect.getmembers(EmulatedSMBus, inspect.isfunction):
        if not name.startswith("_"):
            theirs = inspect.signature(getattr(smbus2.SMBus, name)).parameters
            assert list(inspect.signature(call).parameters) == list(theirs), name


def test_nobody_is_nobody_for_every_call(i2c) -> None:
    bus = EmulatedSMBus(i2c)
    for call in (
        lambda: bus.write_quick(0x15),
        lambda: bus.read_byte(0x15),
        lambda: bus.read_byte_data(0x15, 1),
        lambda: bus.read_word_data(0x15, 1),
        lambda: bus.write_word_data(0x15, 1, 1),
        lambda: bus.read_i2c_block_data(0x15, 1, 2),
    ):
        with pytest.raises(OSError, match="Remote I/O"):
            call()
    with pytest.raises(ValueError, match="33 bytes"):
        bus.read_i2c_block_data(ADDRESS, 0x06, 33)
