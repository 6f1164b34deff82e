"""Whatever is plugged in is named, and whatever is wrong with it comes with what mends it."""

import errno
import json
import threading
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from edge.buses.pca9685 import Pca9685Bus
from edge.cli import app
from edge.config import BoardConfig, BusConfig, Config
from edge.errors import BusError
from edge.messages import JointCommand
from edge.remote.control_socket import listen
from edge.simulated.dofbot_board_emulator import DofbotBoardEmulator
from edge.simulated.emulated_smbus import EmulatedSMBus
from edge.simulated.emulator import EmulatedI2C, Pca9685Emulator
from firmware_tools import cli
from firmware_tools.board import check_board
from firmware_tools.scan import scan
from firmware_tools.wires import Wires, open_wires

BOARD = Config(bus=BusConfig(driver="dofbot_board"))


class Sensor:
    """A chip that is no servo board: its registers read 0xFF, and it remembers what was written."""

    stretch_s = 0.0

    def __init__(self) -> None:
        self.written: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def read(self, count: int) -> bytes:
        return b"\xff" * count

    def answers(self, address: int) -> bool:
        return False

    def general_call(self, data: bytes) -> None:
        raise OSError(errno.EREMOTEIO, "not for me")


def board() -> DofbotBoardEmulator:
    return DofbotBoardEmulator(time.monotonic)


def by_name(findings):
    return {finding.name: finding for finding in findings}


@pytest.mark.parametrize(
    ("config", "chips", "says"),
    [(Config(), {0x40: Pca9685Emulator()}, "PCA9685 at /dev/i2c-1 0x40"), (BOARD, {0x15: board()}, "DOFBOT board at /dev/i2c-1 0x15")],
)
def test_the_configured_board_is_named_and_a_camera_with_its_speed(pi, opening, config, chips, says) -> None:
    found = by_name(scan(pi, config, opening(chips)))
    assert found["servo board"].verdict == "ok"
    assert says in found["servo board"].found
    assert found["camera D405"].verdict == "ok"
    assert "5000 Mbit/s" in found["camera D405"].found
    assert "Synopsys" in found["/dev/i2c-1"].found


def test_the_version_of_the_dofbot_board_is_told(pi, opening) -> None:
    assert "firmware 0.5" in by_name(scan(pi, BOARD, opening({0x15: board()})))["servo board"].found


@pytest.mark.parametrize(
    ("config", "chips", "found", "remedy"),
    [
        (Config(), {}, "none answers, expected bus.driver = 'pca9685' at /dev/i2c-1 0x40", "supply on"),
        (Config(), {0x41: Pca9685Emulator()}, "PCA9685 at /dev/i2c-1 0x41", "[bus] address = 0x41"),
        (Config(), {0x15: board()}, "DOFBOT board", "[bus] driver = 'dofbot_board'"),
        (BOARD, {0x40: Pca9685Emulator()}, "PCA9685", "[bus] driver = 'pca9685'"),
        (Config(), {0x15: board(), 0x40: Pca9685Emulator()}, "both answer, expected one", "unplug"),
        (Config(), {0x40: Sensor()}, "none answers", "supply on"),
    ],
    ids=["none", "wrong address", "other board", "other chip", "two boards", "a sensor at 0x40"],
)
def test_a_wrong_board_is_one_sentence_and_its_remedy(pi, opening, config, chips, found, remedy) -> None:
    judged = by_name(scan(pi, config, opening(chips)))["servo board"]
    assert judged.verdict == "failed"
    assert found in judged.found
    assert remedy in judged.remedy
    with pytest.raises(BusError, match="servo board: ") as caught:
        check_board(opening(chips)(pi, "/dev/i2c-1"), config.bus)
    assert "\n" not in str(caught.value)


def test_a_board_on_another_bus_says_which(pi) -> None:
    pi.put("/dev/i2c-7")
    buses = {"/dev/i2c-1": {}, "/dev/i2c-7": {0x15: board()}}
    judged = by_name(scan(pi, BOARD, lambda _, path: Wires(EmulatedSMBus(EmulatedI2C(buses[path])))))["servo board"]
    assert "[bus.board] i2c_bus = 7" in judged.remedy
    there = Config(bus=BusConfig(driver="dofbot_board", board=BoardConfig(i2c_bus=7)))
    assert by_name(scan(pi, there, lambda _, path: Wires(EmulatedSMBus(EmulatedI2C(buses[path])))))["servo board"].verdict == "ok"


def test_nothing_is_written_to_a_chip_that_could_be_anything(pi, opening) -> None:
    sensors = {0x29: Sensor(), 0x40: Sensor(), 0x50: Sensor(), 0x68: Sensor(), 0x77: Sensor()}
    found = by_name(scan(pi, Config(), opening(sensors)))["/dev/i2c-1"].found
    assert all(f"{address:#04x} (unknown)" in found for address in sensors)
    for address, sensor in sensors.items():  # at 0x40 a register is pointed at, and none is written
        assert all(len(data) <= (1 if address == 0x40 else 0) for data in sensor.written)


def test_memories_are_read_from_and_never_get_an_empty_write(pi, opening) -> None:
    memory = Sensor()
    scan(pi, Config(), opening({0x50: memory}))
    assert memory.written == []


def test_it_leaves_running_servos_as_they_are(pi) -> None:
    chip = Pca9685Emulator(24.1e6)
    i2c = EmulatedI2C({0x40: chip})
    bus = Pca9685Bus(BusConfig(), i2c)
    bus.open()
    bus.write(JointCommand(0.1, 0.2, 0.3, 0.4, 0.5, 0.03))
    before = [chip.pulse_us(channel) for channel in range(16)]
    i2c.trace.clear()
    scan(pi, Config(), lambda *_: Wires(EmulatedSMBus(i2c)))
    assert max(len(transaction.written) for transaction in i2c.trace) == 1
    assert [chip.pulse_us(channel) for channel in range(16)] == before
    bus.check()


def test_wires_that_hang_are_given_up(pi) -> None:
    class Stuck(EmulatedSMBus):
        asked = 0

        def write_quick(self, i2c_addr: int, force: bool | None = None) -> None:
            Stuck.asked += 1
            raise TimeoutError(errno.ETIMEDOUT, "Connection timed out")

    finding = by_name(scan(pi, Config(), lambda *_: Wires(Stuck(EmulatedI2C({})))))["/dev/i2c-1"]
    assert (finding.verdict, Stuck.asked) == ("failed", 3)
    assert "SDA and SCL" in finding.remedy


def test_a_controller_that_cannot_write_nothing_reads_instead(opening) -> None:
    class Pi5(EmulatedSMBus):
        def write_quick(self, i2c_addr: int, force: bool | None = None) -> None:
            raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    assert Wires(Pi5(EmulatedI2C({0x40: Pca9685Emulator()})), can_write_nothing=False).present()[0] == 0x40


def test_no_bus_and_no_permission_are_told_apart(pi, pc, opening, monkeypatch) -> None:
    finding = by_name(scan(pc, Config()))["I2C"]
    assert (finding.verdict, "emulated" in finding.remedy) == ("failed", True)
    monkeypatch.setattr(type(pi), "may_use", lambda self, path: False)
    pi.groups = frozenset()
    finding = by_name(scan(pi, Config(), opening({0x40: Pca9685Emulator()})))["/dev/i2c-1"]
    assert finding.verdict == "failed"
    assert "not in the group i2c" in finding.found
    assert "usermod -aG i2c" in finding.remedy
    pi.at("/dev/i2c-1").unlink()
    assert "raspi-config" in by_name(scan(pi, Config()))["I2C"].remedy


def test_a_bus_that_does_not_open_says_how_to_get_one(pi) -> None:
    with pytest.raises(BusError, match="does not open"):
        open_wires(pi, "/dev/i2c-1")  # a plain file takes no ioctl
    with pytest.raises(BusError, match="raspi-config"):
        open_wires(pi, "/dev/i2c-3")


def test_mainboards_and_monitors_are_left_alone(pi) -> None:
    pi.put("/sys/bus/i2c/devices/i2c-1/name", "SMBus I801 adapter at efa0\n")
    assert by_name(scan(pi, Config(), lambda *_: pytest.fail("asked")))["/dev/i2c-1"].verdict == "not applicable"


@pytest.mark.parametrize(
    ("product", "speed", "verdict", "says"),
    [("0b5b", "480", "warning", "USB 2"), ("0b3a", "10000", "ok", "10000"), ("0b5c", "5000", "warning", "no profile")],
)
def test_cameras_are_judged(pi, opening, product, speed, verdict, says) -> None:
    pi.plug_in("2-1", "8086", product, speed)
    finding = next(finding for finding in scan(pi, Config(), opening({})) if finding.name.startswith("camera"))
    assert finding.verdict == verdict
    assert says in finding.found


def test_the_serial_dofbot_is_recognised_and_not_supported(pi, opening) -> None:
    pi.plug_in("1-1", "1a86", "7523", "12")
    pi.put("/dev/ttyUSB0")
    finding = by_name(scan(pi, Config(), opening({})))["serial"]
    assert finding.verdict == "warning"
    assert "/dev/ttyUSB0" in finding.found
    assert "not supported" in finding.found


class Runtime:
    """Listens where a runtime does, and hangs up on whoever asks."""

    def __init__(self, path: Path) -> None:
        self._listener = listen(path, 0o600, None)
        self._listener.setblocking(True)
        self._thread = threading.Thread(target=self._hang_up)
        self._thread.start()

    def _hang_up(self) -> None:
        connection, _ = self._listener.accept()
        connection.close()

    def close(self) -> None:
        self._thread.join()
        self._listener.close()


def test_a_bus_that_a_runtime_drives_is_not_asked(pi, tmp_path) -> None:
    runtime = Runtime(tmp_path / "nobody.sock")
    found = by_name(scan(pi, Config(), lambda *_: pytest.fail("asked")))
    runtime.close()
    assert "belongs to" in found["servo bus"].found
    # What it leaves behind is a socket file without a listener.
    assert "servo bus" not in by_name(scan(pi, Config(), lambda *_: Wires(EmulatedSMBus(EmulatedI2C({})))))


def test_the_verb_prints_a_table_or_json_and_ends_with_what_it_found(tmp_path) -> None:
    path = tmp_path / "emulated.toml"
    path.write_text('[bus]\ni2c = "emulated"\n')
    cli.register(app)
    result = CliRunner().invoke(app, ["scan", "--config", str(path), "--json"])
    assert result.exit_code == 0
    assert json.loads(result.stdout)["findings"][1]["name"] == "servo board"
    result = CliRunner().invoke(app, ["scan", "--config", str(path)])
    assert "0x40 PCA9685" in result.stdout


def test_an_emulated_board_is_found_at_any_address(pi) -> None:
    for config in (BusConfig(i2c="emulated", address=0x47), BusConfig(i2c="emulated", driver="dofbot_board")):
        assert by_name(scan(pi, Config(bus=config)))["servo board"].verdict == "ok"
