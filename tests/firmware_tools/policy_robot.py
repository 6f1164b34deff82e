"""A robot in a folder that takes policies: the real installer and control socket; the process behind it only loads and swaps.

The policy is this repository's own. Its variants differ in one byte of the training record, so that each has a digest of its own.
"""

import datetime
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import urdf
from edge import config as configuration
from edge import policy
from edge.contract_check import Expectation
from edge.errors import PolicyError
from edge.policies import signature
from edge.policies.policy_slots import PolicySlots
from edge.remote.commands import Accepted, Done, Refused, StatusReport, SwapPolicy
from edge.remote.control import ControlServer
from firmware_tools.provision import CONFIG
from tests.firmware_tools.robot import ROOT, SCRIPTS

BUNDLED_DATA = (ROOT / "trainer" / "results" / "policy.onnx").read_bytes()
NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
# As `python -I -m firmware_tools.policy_install` does it, on a machine that may be busy.
CALL = "import sys; from edge import policy; from firmware_tools import policy_install as its; "
CALL += "policy.LATENCY_PROBES = 100; sys.exit(its.main())"
SETTINGS = """[run]
policy = "{root}/bundled.onnx"
[policy]
folder = "{root}/policies"
trusted_keys = ["{key}"]
allow_unsigned = {allow_unsigned}
[control]
socket = "{root}/control.sock"
"""


def variant(number: int) -> bytes:
    """A policy that decides as the bundled one does, with another digest."""
    marker = b'"commit":"'
    at = BUNDLED_DATA.index(marker) + len(marker)
    return policy.stamp(BUNDLED_DATA[:at] + f"{number:04d}".encode() + BUNDLED_DATA[at + 4 :])


class PolicyRobot:
    """One robot below `folder`, its configuration, a key that it trusts, and what is needed to reach it."""

    def __init__(self, folder: Path, allow_unsigned: bool = False) -> None:
        self.root, self.home, self.fake = folder / "robot", folder / "home", folder / "fake"
        for path in (self.root / CONFIG).parent, self.home, self.fake / "bin":
            path.mkdir(parents=True)
        self.key = signature.make_key(folder / "policy.key")
        (self.root / "bundled.onnx").write_bytes(BUNDLED_DATA)
        text = SETTINGS.format(root=self.root, key=self.key.public, allow_unsigned=str(allow_unsigned).lower())
        (self.root / CONFIG).write_text(text)
        self.settings = configuration.load(self.root / CONFIG)
        self.slots = PolicySlots(self.settings)
        places = {"robot": self.root, "home": self.home, "fake": self.fake}
        for name in ("ssh", "rsync", "sudo"):
            script = self.fake / "bin" / name
            script.write_text(f"#!/bin/sh\n{SCRIPTS[name].format(**places)}")
            script.chmod(0o755)
        python = self.root / "opt/dofbot-grasp/current/bin/python"
        python.parent.mkdir(parents=True)
        python.write_text(f"#!/bin/sh\nshift 3; PYTHONPATH={ROOT} exec {sys.executable} -c '{CALL}' \"$@\"\n")
        python.chmod(0o755)
        self.path = f"{self.fake / 'bin'}:{os.environ['PATH']}"

    def file(self, data: bytes, signed_at: datetime.datetime | None = NOW, key: Path | None = None) -> Path:
        """A policy on the workstation, signed unless told otherwise."""
        path = self.fake.parent / f"{policy.digest(data)[:12]}.onnx"
        path.write_bytes(data)
        signed = path.with_name(path.name + signature.SUFFIX)
        signed.unlink(missing_ok=True)
        if signed_at is not None:
            signed.write_bytes(signature.sign(policy.digest(data), key or self.key.path, signed_at))
        return path


class Process:
    """What a running process does for those outside: it says which policy it has, and takes another one, in a thread."""

    def __init__(self, robot: PolicyRobot) -> None:
        self.robot = robot
        self.refuses = ""
        self.sha256 = policy.digest(robot.slots.path(robot.slots.active).read_bytes())
        self._server = ControlServer(Path(robot.settings.control.socket), 0o600, None, dict)
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def _serve(self) -> None:
        while not self._ends.is_set():
            self._server.publish(StatusReport(state="DISARMED", policy_sha256=self.sha256))
            for pending in self._server.take():
                assert isinstance(pending.command, SwapPolicy)
                pending.answer(Accepted(text="reading it"))
                pending.answer(self._swap(Path(pending.command.path)))
            time.sleep(0.005)

    def _swap(self, path: Path) -> Done | Refused:
        if self.refuses:
            return Refused(reason=self.refuses)
        try:
            self.sha256 = policy.load(path, Expectation(self.robot.settings.mount, urdf.dofbot_sha256())).sha256
        except PolicyError as error:
            return Refused(reason=str(error))
        self._server.publish(StatusReport(state="DISARMED", policy_sha256=self.sha256))
        return Done()

    @contextmanager
    def serving(self) -> "Iterator[Process]":
        """While it runs."""
        self._thread.start()
        try:
            yield self
        finally:
            self._ends.set()
            self._thread.join()
            self._server.close()


# Imports once, then forks a child for each line: starting Python and onnxruntime anew takes longer than a push.
FORKS = """
import os, sys
from edge import policy
from edge.policies import shadow
from firmware_tools import policy_install
policy.LATENCY_PROBES, shadow.RUNS = 100, 20
for line in sys.stdin:
    if (child := os.fork()) == 0:
        os.dup2(2, 1)
        os._exit(policy_install.main(line.split()))
    print(child, flush=True)
    sys.stdin.readline()  # until then its process id is nobody else's
    print(os.waitpid(child, 0)[1], flush=True)
"""


class Pushed:
    """A call that is under way, in a process of its own."""

    def __init__(self, pid: int, server: "subprocess.Popen[str]") -> None:
        self.pid = pid
        self._server = server
        self._began_s = time.monotonic()

    def is_killed(self) -> bool:
        """Whether it was, once it has ended."""
        return os.WIFSIGNALED(int(self._line()))

    def lasts_s(self) -> float:
        """How long it takes."""
        assert int(self._line()) == 0
        return time.monotonic() - self._began_s

    def _line(self) -> str:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        print(file=self._server.stdin, flush=True)
        return self._server.stdout.readline()


@contextmanager
def ready_robot(robot: PolicyRobot) -> Iterator[Callable[..., Pushed]]:
    """The robot's part, ready to push FILE and to activate NAME by force."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    server = subprocess.Popen(
        [sys.executable, "-c", FORKS], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert server.stdin is not None
    assert server.stdout is not None

    def start(verb: str, what: object) -> Pushed:
        print(verb, what, "--force", "--json", "--root", robot.root, file=server.stdin, flush=True)
        return Pushed(int(server.stdout.readline()), server)

    try:
        yield start
    finally:
        server.stdin.close()
        server.wait()
        server.stdout.close()
