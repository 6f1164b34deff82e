"""A machine that is made of files: a Raspberry Pi on which all is well, to be broken by each test."""

import struct
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from edge.config import Config
from edge.simulated.emulated_smbus import EmulatedSMBus
from edge.simulated.emulator import EmulatedI2C
from firmware_tools.machine import Machine
from firmware_tools.usb import RULES
from firmware_tools.wires import Wires

LIMITS = """Limit                     Soft Limit           Hard Limit           Units
Max locked memory         {memory}            unlimited            bytes
Max realtime priority     {priority}                   99
"""
STATUS = "Name:\tpython3\nCapEff:\t0000000000000000\n"


class FakeMachine(Machine):
    """Its files lie in a folder, its commands answer from a table."""

    def __init__(self, root: Path, groups: Sequence[str] = ("i2c", "plugdev", "video")) -> None:
        self.answers = {"vcgencmd": "throttled=0x0", "systemctl": "LoadState=loaded\nActiveState=active\nSubState=running\nResult=success"}
        super().__init__(root, frozenset(groups), lambda command: self.answers.get(command[0], ""))

    def put(self, path: str, content: str | bytes = "") -> Path:
        """Write a file of the machine."""
        file = self.at(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        return file

    def plug_in(self, port: str, vendor: str, product: str, speed: str = "5000") -> None:
        """A USB device."""
        for name, text in {"idVendor": vendor, "idProduct": product, "speed": speed, "busnum": "2", "devnum": "3"}.items():
            self.put(f"/sys/bus/usb/devices/{port}/{name}", f"{text}\n")
        self.put("/dev/bus/usb/002/003")

    def limit(self, priority: str, memory: str) -> None:
        """What /proc says that the process may have."""
        self.put("/proc/self/limits", LIMITS.format(priority=priority, memory=memory))

    def set_i2c_speed(self, speed_hz: int, bus: int = 1) -> None:
        """As a device tree states it."""
        self.put(f"/sys/bus/i2c/devices/i2c-{bus}/of_node/clock-frequency", struct.pack(">I", speed_hz))


@pytest.fixture
def pc(tmp_path: Path) -> FakeMachine:
    """A machine that has nothing."""
    machine = FakeMachine(tmp_path / "pc", groups=())
    machine.answers.clear()
    return machine


@pytest.fixture
def pi(tmp_path: Path) -> FakeMachine:
    """A Raspberry Pi with all that is needed."""
    machine = FakeMachine(tmp_path / "root")
    machine.put("/proc/device-tree/model", "Raspberry Pi 5 Model B Rev 1.0\0")
    machine.put("/proc/self/status", STATUS)
    machine.limit("50", "unlimited")
    machine.put("/dev/i2c-1")
    machine.put("/sys/bus/i2c/devices/i2c-1/name", "Synopsys DesignWare I2C adapter\n")
    machine.set_i2c_speed(100_000)
    machine.put("/etc/udev/rules.d/99-dofbot.rules", RULES.read_bytes())
    machine.put("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "performance\n")
    machine.plug_in("2-1", "8086", "0b5b")
    machine.put("/var/lib/keep")
    return machine


@pytest.fixture(autouse=True)
def _nobody_drives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A runtime on this machine must not be found by tests."""
    monkeypatch.setattr("edge.remote.control_socket.client_paths", lambda: (tmp_path / "nobody.sock",))


@pytest.fixture
def opening() -> Callable[[dict[int, object]], Callable[[Machine, str], Wires]]:
    """Buses with these chips on /dev/i2c-1, and nothing on the others."""

    def on(chips: dict[int, object]) -> Callable[[Machine, str], Wires]:
        return lambda machine, path: Wires(EmulatedSMBus(EmulatedI2C(chips if path == "/dev/i2c-1" else {})))  # type: ignore[arg-type]

    return on


@pytest.fixture
def config() -> Config:
    """The defaults."""
    return Config()
