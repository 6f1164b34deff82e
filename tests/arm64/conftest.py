"""One emulated board for all tests: its root file system is built once, and each run installs a new bundle into a copy."""

import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, NamedTuple

import pytest

from tests.arm64 import rootfs
from tests.arm64.board import Board, simulated_desk
from tests.idle import wait_for_cpu
from tests.systemd.rootfs import UnavailableError

ENOUGH_CPU = 0.4
PATIENCE_S = 60.0
MEASURED: list[str] = []


class Installed(NamedTuple):
    """A board with the bundle on it, and what its installer has said of each step."""

    board: Board
    steps: dict[str, Any]


class Measure:
    """Notes what was found beside what it may be; `took` notes how long the time since then was."""

    def note(self, what: str, found: float, unit: str, bound: float | None = None) -> None:
        text = f"{what:<66} {found:10.4g} {unit}"
        MEASURED.append(text if bound is None else f"{text}   at most {bound:g}")
        assert bound is None or found <= bound, MEASURED[-1]

    def took(self, what: str, since_s: float) -> None:
        self.note(what, time.monotonic() - since_s, "s")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if MEASURED:
        terminalreporter.section("measured on an emulated Cortex-A72")
        terminalreporter.write_line("\n".join(MEASURED))


@pytest.fixture(scope="session")
def measure() -> Measure:
    return Measure()


@pytest.fixture(scope="session")
def installed(measure: Measure) -> Iterator[Installed]:
    if reason := rootfs.missing():
        pytest.skip(reason)
    folder = rootfs.CACHE / "board"
    with ExitStack() as stack:
        try:
            stack.enter_context(rootfs.emulation())
            began_s = time.monotonic()
            base = rootfs.build()
        except UnavailableError as error:
            pytest.skip(str(error))
        measure.took("Debian for arm64, which is kept from then on", began_s)
        shutil.rmtree(folder, ignore_errors=True)
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        board = Board(base, folder)
        began_s = time.monotonic()
        path = rootfs.packed(rootfs.CACHE)
        measure.took("bundle packed", began_s)
        measure.note("bundle", path.stat().st_size / 1e6, "MB", 150.0)
        began_s = time.monotonic()
        steps = board.install(path)
        measure.took("bundle installed by its installer, emulated", began_s)
        yield Installed(board, steps)


@pytest.fixture
def board(installed: Installed) -> Board:
    """The board, once a policy is fast enough there, which the runtime asks for: emulated it takes ten times as long."""
    wait_for_cpu(ENOUGH_CPU, PATIENCE_S)
    return installed.board


@pytest.fixture(scope="session")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Where the simulator listens, which runs outside."""
    with simulated_desk(tmp_path_factory.mktemp("desk") / "log") as port:
        yield port
