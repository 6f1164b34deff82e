"""A booted machine of its own: systemd as process 1, a network that is loopback only, and the bundle installed as on a Pi."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from tests.systemd.rootfs import ENVIRONMENT, ROOT, UnavailableError

UNIT = "dofbot-grasp.service"
POLICY = f"{ENVIRONMENT}/policy.onnx"
CONFIG = f"""[bus]
i2c = "emulated"
[run]
policy = "{POLICY}"
"""
COMMAND_S = 180.0  # for one command inside; the installation takes longest
BOOT_S = 60.0
T = TypeVar("T")


def wait_for(question: Callable[[], T], within_s: float, what: str) -> T:
    """The first true answer; fails when none comes in time."""
    deadline_s = time.monotonic() + within_s
    while not (answer := question()):
        assert time.monotonic() < deadline_s, f"not within {within_s:g} s: {what}"
        time.sleep(0.02)
    return answer


class Line(NamedTuple):
    """One of the journal: the monotonic clock, which is the same inside and outside, and the text."""

    at_s: float
    text: str


class Machine:
    """Boots `rootfs` without changing it; all is gone when it stops, and it stops with the process that started it.

    Raises `UnavailableError` where systemd-nspawn gives up.
    """

    def __init__(self, rootfs: Path, bundle: Path, log: Path) -> None:
        self._log = log.open("w")
        options = ["--quiet", "--register=no", "--keep-unit", "--link-journal=no", "--console=pipe", "--private-network"]
        options += [f"--directory={rootfs}", "--volatile=overlay", f"--machine=dofbot-{os.getpid()}", f"--bind-ro={bundle}:/bundle"]
        self._nspawn = subprocess.Popen(
            ["setpriv", "--pdeathsig", "TERM", "systemd-nspawn", *options, "--boot"],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )
        self._leader = ""
        began_s = time.monotonic()
        try:
            wait_for(self._is_up, BOOT_S, "the machine boots")
        except UnavailableError:
            self._log.close()
            raise
        self.boot_s = time.monotonic() - began_s
        self._marked_s = 0.0

    def run(self, *command: str, check: bool = True, text: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run a command inside, as root."""
        assert self._nspawn.poll() is None, f"the machine has gone:\n{Path(self._log.name).read_text()[-2000:]}"
        inside = ["nsenter", f"--target={self._leader}", "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--", *command]
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
        result = subprocess.run(inside, input=text, capture_output=True, text=True, timeout=COMMAND_S, env=environment, check=False)
        assert not check or result.returncode == 0, f"{' '.join(command)}: {result.returncode}\n{result.stdout}{result.stderr}"
        return result

    def systemctl(self, verb: str, *options: str, check: bool = True) -> float:
        """`systemctl VERB` of the service; returns how long it took."""
        began_s = time.monotonic()
        self.run("systemctl", verb, *options, UNIT, check=check)
        return time.monotonic() - began_s

    def dofbot(self, *arguments: str, check: bool = True, text: str | None = None) -> subprocess.CompletedProcess[str]:
        """One of our own verbs."""
        return self.run(f"{ENVIRONMENT}/bin/dofbot", *arguments, check=check, text=text)

    def write(self, path: str, content: str | bytes) -> None:
        """A file inside, readable by everybody."""
        data = content.encode() if isinstance(content, str) else content
        self.run("python3", "-c", f"import sys; open({path!r}, 'wb').write(bytes.fromhex(sys.stdin.read()))", text=data.hex())

    def copy(self, path: Path, to: str) -> None:
        """A file or folder of the outside."""
        inside = Path(f"/proc/{self._leader}/root{to}")
        inside.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            shutil.copytree(path, inside, dirs_exist_ok=True)
        else:
            shutil.copyfile(path, inside)

    def packages(self) -> str:
        """Where the installed version has its Python packages."""
        return self.run(f"{ENVIRONMENT}/bin/python", "-c", "import sysconfig; print(sysconfig.get_path('platlib'))").stdout.strip()

    def show(self, name: str) -> str:
        """A property of the service."""
        return self.run("systemctl", "show", "--property", name, "--value", UNIT).stdout.strip()

    def mark(self) -> None:
        """From here on is what `journal` tells."""
        self._marked_s = time.monotonic()

    def journal(self) -> list[Line]:
        """What the service, and systemd about it, have said since the mark."""
        found = self.run("journalctl", f"--unit={UNIT}", "--output=json", "--no-pager", "--boot").stdout.splitlines()
        lines = [Line(int(entry["__MONOTONIC_TIMESTAMP"]) / 1e6, entry["MESSAGE"]) for entry in map(json.loads, found)]
        return [line for line in lines if line.at_s > self._marked_s]

    def said(self, text: str, within_s: float = 10.0) -> Line:
        """The first line since the mark that has this text."""
        return wait_for(lambda: next((line for line in self.journal() if text in line.text), None), within_s, f"the journal says '{text}'")

    def simulator(self, log: Path) -> "subprocess.Popen[bytes]":
        """A simulated arm, outside, on the machine's loopback; it needs PyBullet, which the arm does not."""
        network = f"--net=/proc/{self._leader}/ns/net"
        command = ["setpriv", "--pdeathsig", "KILL", "nsenter", network, sys.executable, "-m", "edge", "simulate"]
        with log.open("w") as output:
            process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        wait_for(lambda: "Ctrl-C" in log.read_text() or process.poll() is not None, 60.0, "the simulator starts")
        assert process.poll() is None, log.read_text()
        return process

    def stop(self) -> None:
        """Power off, or pull the plug."""
        self._nspawn.terminate()
        try:
            self._nspawn.wait(20.0)
        except subprocess.TimeoutExpired:
            self._nspawn.kill()
            self._nspawn.wait()
        self._log.close()

    def install(self) -> dict[str, Any]:
        """The bundle, by its own installer, which also starts the service and waits for its health. Returns its answer."""
        self.run("mkdir", "-p", "/etc/dofbot-grasp")
        self.write("/etc/dofbot-grasp/config.toml", CONFIG)
        answer: dict[str, Any] = json.loads(self.run("python3", "/bundle/install.py", "install", "--json").stdout.splitlines()[-1])
        return answer

    def _is_up(self) -> bool:
        if self._nspawn.poll() is not None:
            raise UnavailableError(f"systemd-nspawn cannot boot here: {Path(self._log.name).read_text()[-2000:]}")
        # setpriv has become nspawn; its only child is process 1 of the machine.
        children = Path(f"/proc/{self._nspawn.pid}/task/{self._nspawn.pid}/children").read_text().split()
        if not children:
            return False
        self._leader = children[0]
        return self.run("systemctl", "is-system-running", check=False).stdout.strip() in ("running", "degraded")
