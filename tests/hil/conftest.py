"""The desk, for all tests; a runtime for each."""

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.hil import report
from tests.hil.robot import Bench, Robot
from tests.idle import wait_for_cpu

Start = Callable[..., Robot]
Measure = Callable[[str, str, str], None]
ENOUGH_CPU = 0.4  # a start takes 2 s of it; from then on SCHED_FIFO sees to the control thread
PATIENCE_S = float(os.environ.get("HIL_PATIENCE_S", "60"))
MEASURED: dict[tuple[str, str], str] = {}  # by row and driver


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    bench = Bench(tmp_path_factory.mktemp("desk"))
    yield bench
    bench.close()


@pytest.fixture
def idle() -> None:
    """A machine that has time."""
    wait_for_cpu(ENOUGH_CPU, PATIENCE_S)


@pytest.fixture
def start(bench: Bench, idle: None) -> Iterator[Start]:
    """Starts runtimes, each in a folder of its own with a short name (a socket's path has at most 107 bytes), and ends them."""
    started: list[Robot] = []
    with tempfile.TemporaryDirectory(prefix="hil") as folder:

        def begin(driver: str, **how: object) -> Robot:
            own = Path(folder) / str(len(started))
            own.mkdir()
            started.append(Robot(bench, driver, own, **how))  # type: ignore[arg-type]
            return started[-1]

        yield begin
        for robot in started:
            robot.kill()


@pytest.fixture(scope="session")
def measure() -> Measure:
    """Note what was measured for a row on a board."""

    def note(row_id: str, driver: str, text: str) -> None:
        MEASURED[row_id, driver] = text

    return note


def pytest_sessionfinish(exitstatus: int) -> None:
    """Renew docs/faults.md, when asked to, from a run in which every row was measured and nothing failed."""
    if os.environ.get("HIL_REPORT") and exitstatus == 0 and report.is_complete(MEASURED):
        report.write(MEASURED)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if MEASURED:
        terminalreporter.section("measured")
        for (row_id, driver), text in MEASURED.items():
            terminalreporter.write_line(f"{row_id:<5} {driver:<13} {text:>10}")
