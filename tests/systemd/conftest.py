"""One machine for all tests: built once, booted once. Each test gets a stopped service with nothing held against it."""

import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.idle import wait_for_cpu
from tests.systemd import rootfs
from tests.systemd.machine import CONFIG, POLICY, Machine

Measure = Callable[[str, float, float], None]
GOOD_POLICY = rootfs.ROOT / "trainer" / "results" / "policy.onnx"
ENOUGH_CPU = 0.6
MEASURED: list[str] = []


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--patience", type=float, default=60.0, metavar="S", help="before each test, wait so long for an idle CPU")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if MEASURED:
        terminalreporter.section("measured under systemd")
        terminalreporter.write_line("\n".join(MEASURED))


@pytest.fixture(scope="session")
def measure() -> Measure:
    """Note how long something took, and fail when it took longer than it may."""

    def note(what: str, took_s: float, bound_s: float) -> None:
        MEASURED.append(f"{what:<58} {took_s * 1e3:7.0f} ms   at most {bound_s * 1e3:5.0f} ms")
        assert took_s <= bound_s, MEASURED[-1]

    return note


@pytest.fixture(scope="session")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    reason = rootfs.missing()
    if reason:
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("machine")
    try:
        machine = Machine(rootfs.build(), rootfs.packed(folder), folder / "console.log")
    except rootfs.UnavailableError as error:
        pytest.skip(str(error))
    MEASURED.append(f"{'boot, with nothing installed':<58} {machine.boot_s * 1e3:7.0f} ms")
    try:
        yield machine
    finally:
        machine.stop()


@pytest.fixture(scope="session")
def simulator(machine: Machine, tmp_path_factory: pytest.TempPathFactory) -> Iterator["subprocess.Popen[bytes]"]:
    process = machine.simulator(tmp_path_factory.mktemp("simulator") / "log")
    yield process
    process.kill()
    process.wait()


@pytest.fixture(scope="session")
def installed(machine: Machine, simulator: "subprocess.Popen[bytes]", measure: Measure, request: pytest.FixtureRequest) -> dict[str, Any]:
    """What the installer has said."""
    wait_for_cpu(ENOUGH_CPU, request.config.getoption("--patience"))
    began_s = time.monotonic()
    answer = machine.install()
    measure("the bundle installed by its installer, found healthy", time.monotonic() - began_s, 60.0)
    return answer


@pytest.fixture
def service(
    machine: Machine, installed: dict[str, Any], simulator: "subprocess.Popen[bytes]", request: pytest.FixtureRequest
) -> Iterator[Machine]:
    """The machine, its service stopped, with the configuration and the policy that work."""
    wait_for_cpu(ENOUGH_CPU, request.config.getoption("--patience"))
    machine.write("/etc/dofbot-grasp/config.toml", CONFIG)
    machine.write(POLICY, Path(GOOD_POLICY).read_bytes())
    machine.systemctl("stop", check=False)
    machine.systemctl("reset-failed", check=False)
    machine.mark()
    yield machine
    simulator.send_signal(signal.SIGCONT)
    machine.systemctl("stop", check=False)
    print("\n".join(f"{line.at_s:10.3f} {line.text}" for line in machine.journal()))  # shown when the test failed
