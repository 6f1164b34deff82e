"""The bench: the desk's process, and the runtime's own, started as a person starts it and commanded over its socket."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar

from edge.records.record import TickRecord, read
from edge.remote.commands import Accepted, Arm, Command, Done, Grasp, Inject, Mode, Reply, Status, StatusReport, Target
from edge.remote.control_client import ControlClient
from tests.hil import trace
from tests.hil.trace import Sent

ROOT = Path(__file__).parents[2]
POLICY = Path(os.environ.get("HIL_POLICY", ROOT / "trainer" / "results" / "policy.onnx"))  # to try one before it is committed
START_S = 20.0  # on a machine that does other things as well
POLL_S = 0.005
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"}
T = TypeVar("T")
Changes = Mapping[str, Mapping[str, Any]]


def wait_for(question: Callable[[], T], within_s: float, what: str) -> T:
    """The first true answer; fails when none comes in time."""
    deadline_s = time.monotonic() + within_s
    while not (answer := question()):
        assert time.monotonic() < deadline_s, f"not within {within_s:g} s: {what}"
        time.sleep(POLL_S)
    return answer


class Line(NamedTuple):
    """One that the process wrote, and when it came out of the pipe."""

    at_s: float
    text: str


class Bench:
    """The desk, for one runtime after another."""

    def __init__(self, folder: Path) -> None:
        self._trace = folder / "trace"
        self._trace.touch()
        command = [sys.executable, "-m", "tests.hil.world", str(self._trace)]
        self._desk = subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._desk.stdout
        self.port = int(self._desk.stdout.readline())

    def tell(self, line: str) -> None:
        """Change the desk, and wait until it is so."""
        assert self._desk.stdin
        assert self._desk.stdout
        self._desk.stdin.write(f"{line}\n")
        self._desk.stdin.flush()
        assert self._desk.stdout.readline() == "done\n"

    def trace(self, since_s: float = 0.0) -> list[Sent]:
        """What has arrived at the servos."""
        return trace.load(self._trace, since_s)

    def close(self) -> None:
        """End the desk."""
        self._desk.communicate(timeout=10.0)


class Robot:
    """One runtime process with an emulated servo board, from its start to its end."""

    def __init__(
        self,
        bench: Bench,
        driver: str,
        folder: Path,
        prepare: Callable[[Path], Changes] = lambda folder: {},
        module: str = "edge.cli",
        environment: Mapping[str, str] = {},
        desk: str = "",
    ) -> None:
        """`prepare` gets the folder and returns what is to be different in the configuration; `desk` is a line for the desk."""
        self.bench, self.driver, self._desk = bench, driver, desk
        self.socket, self.record, self.config = folder / "s", folder / "record", folder / "dofbot.toml"
        self._command = [sys.executable, "-m", module, "run", "--config", str(self.config), "-v"]
        self._environment = ENVIRONMENT | dict(environment)
        self._clients: list[ControlClient] = []
        self._configure(prepare(folder))
        self.start()

    def start(self) -> None:
        """Start the process, on a desk where the arm is parked; once more, after it has ended."""
        self._hang_up()
        self.bench.tell("reset")
        if self._desk:
            self.bench.tell(self._desk)
        self.began_s = time.monotonic()
        self.lines: list[Line] = []
        self.process = subprocess.Popen(
            self._command,
            cwd=ROOT,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, args=(self.process.stdout, self.lines), daemon=True)
        self._reader.start()

    def ready(self) -> "Robot":
        """Wait until it is DISARMED and listens."""
        self.said("DISARMED, listening", START_S)
        wait_for(lambda: isinstance(self.ask(Status()), StatusReport), 1.0, "it reports its state")
        return self

    # Commands.

    def ask(self, command: Command) -> Reply:
        """Its first reply to a command; after a second of silence, `NotListeningError`."""
        if not self._clients:
            self.keep(ControlClient(self.socket))
        return self._clients[0].ask(command)

    def keep(self, client: ControlClient) -> ControlClient:
        """A client that stays connected until the process has ended."""
        self._clients.append(client)
        return client

    def do(self, command: Command) -> None:
        """Have a command carried out."""
        reply = self.ask(command)
        assert isinstance(reply, Done | Accepted), reply

    def status(self) -> StatusReport:
        """What it last published: at most 5 ticks old."""
        reply = self.ask(Status())
        assert isinstance(reply, StatusReport), reply
        return reply

    def inject(self, target: Target, mode: Mode, value: float = 0.0, for_s: float = 0.0) -> float:
        """Inject a fault; returns the time just before."""
        before_s = time.monotonic()
        self.do(Inject(target=target, mode=mode, value=value, for_s=for_s))
        return before_s

    def begin(self, phase: str) -> None:
        """Arm, and grasp until the phase has begun."""
        if phase == "DISARMED":
            return
        self.do(Arm())
        if phase != "IDLE":
            self.do(Grasp(count=5))
            self.enters(phase)

    # What it does.

    def said(self, text: str, within_s: float, since_s: float = 0.0) -> Line:
        """The first line with this text since a time."""
        return wait_for(lambda: self._found(text, since_s), within_s, f"'{text}' is said; so far:\n{self.journal}")

    def enters(self, state: str, within_s: float = 15.0, since_s: float = 0.0) -> Line:
        """The line that says that it has entered a state."""
        return self.said(f"→ {state}", within_s, since_s)

    def has_said(self, text: str, since_s: float = 0.0) -> bool:
        """Whether a line has this text."""
        return self._found(text, since_s) is not None

    @property
    def journal(self) -> str:
        """All lines."""
        return "\n".join(f"{line.at_s - self.began_s:7.3f} {line.text}" for line in self.lines)

    def trace(self, since_s: float | None = None) -> list[Sent]:
        """What has arrived at the servos since the process was started, or since a time."""
        return self.bench.trace(self.began_s if since_s is None else since_s)

    def ticks(self) -> Iterator[TickRecord]:
        """What it has recorded itself."""
        return read(self.record) if self.record.exists() else iter(())

    def capture_pid(self) -> int:
        """The capture process that runs now."""
        return wait_for(lambda: next(iter(self._captures()), 0), 5.0, "a capture process runs")

    def _captures(self) -> list[int]:
        found = []
        for task in Path(f"/proc/{self.process.pid}/task").glob("*/children"):
            for pid in task.read_text().split():
                command = Path(f"/proc/{pid}/cmdline")
                if command.exists() and b"edge.cameras.capture" in command.read_bytes():
                    found.append(int(pid))
        return found

    # Its end.

    def ends(self, within_s: float) -> int:
        """Its exit code."""
        code = self.process.wait(within_s)
        self._reader.join(5.0)
        return code

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone and all is read."""
        self._hang_up()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.ends(10.0)

    def _hang_up(self) -> None:
        while self._clients:
            self._clients.pop().close()

    def _configure(self, changes: Changes) -> None:
        keys: dict[str, dict[str, Any]] = {
            "bus": {"driver": self.driver, "i2c": "emulated"},
            "simulator": {"port": self.bench.port, "clock": "real"},
            "run": {"policy": str(POLICY), "record": str(self.record)},
            "control": {"socket": str(self.socket)},
            "faults": {"allow": True},
        }
        for section, values in changes.items():
            keys[section] = keys.get(section, {}) | dict(values)
        lines = (f"[{name}]\n" + "".join(f"{key} = {_toml(value)}\n" for key, value in one.items()) for name, one in keys.items())
        self.config.write_text("".join(lines))

    def _read(self, output: IO[str], lines: list[Line]) -> None:
        with output:
            for line in output:
                lines.append(Line(time.monotonic(), line.rstrip()))

    def _found(self, text: str, since_s: float) -> Line | None:
        return next((line for line in list(self.lines) if text in line.text and line.at_s >= since_s), None)


def _toml(value: Any) -> str:
    """JSON, but for inline tables."""
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    return f"{{{', '.join(f'{key} = {_toml(one)}' for key, one in value.items())}}}" if isinstance(value, dict) else json.dumps(value)
