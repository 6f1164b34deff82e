"""An emulated board: a root file system of its own, the network of this machine, and a processor as on a Raspberry Pi 4."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from firmware_tools import bundle
from tests.arm64.rootfs import CORE
from tests.systemd.rootfs import ROOT, run

CPU = "cortex-a72"  # of a Raspberry Pi 4: the oldest processor that we support
CURRENT = "/opt/dofbot-grasp/current"
COMMAND_S = 900.0  # for one command inside; an emulated processor is slow
START_S = 120.0
LATE = "half a policy period"  # what the runtime says of a processor that decides too slowly
# In a mount namespace that ends with its process: nothing stays mounted here, and the process keeps its number.
ENTER = """
mount --bind /proc "$0/proc" && mount --bind "$0/cpuinfo" "$0/proc/cpuinfo" && mount --rbind /sys "$0/sys" && mount --rbind /dev "$0/dev" &&
root="$0" && exec chroot "$root" "$@"
"""


class Memory(NamedTuple):
    """A process's memory in MB. `resident` is all that the kernel sees, QEMU included; `without_qemu` at most what it takes by itself.

    QEMU keeps translated code where memory is both writable and executable, which no page of the emulated program is here, and its own
    data on the heap: both are left out, and its program. `share` counts of pages that several processes have each one's part.
    """

    resident: float
    without_qemu: float
    share: float  # of `without_qemu`

    @classmethod
    def of(cls, pid: int) -> "Memory":
        """What /proc/PID/smaps says."""
        resident = without_qemu = share = 0.0
        is_qemu = False
        for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
            first, *rest = line.split()
            if not first.endswith(":"):  # a mapping: addresses, access, offset, device, inode, and perhaps a name
                is_qemu = rest[0].startswith("rwx") or rest[-1] == "[heap]" or "/qemu-" in rest[-1]
                continue
            size = int(rest[0]) * 1024 / 1e6 if first in ("Rss:", "Pss:") else 0.0
            resident += size if first == "Rss:" else 0.0
            without_qemu += size if first == "Rss:" and not is_qemu else 0.0
            share += size if first == "Pss:" and not is_qemu else 0.0
        return cls(resident, without_qemu, share)


class Board:
    """Runs commands inside `base`'s copy in `folder`."""

    def __init__(self, base: Path, folder: Path) -> None:
        self.root = folder
        run("cp", "--archive", "--reflink=auto", str(base), str(folder))
        (folder / "cpuinfo").write_text("".join(map(CORE.format, range(4))))

    def start(self, *command: str, log: Path) -> "subprocess.Popen[str]":
        """Start a command inside, which ends with us."""
        with log.open("w") as output:
            return subprocess.Popen(
                self._inside(command), env=_environment(), stdin=subprocess.DEVNULL, stdout=output, stderr=output, text=True
            )

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command inside, as root. Nothing may ever die of a signal there: an illegal instruction is one."""
        inside = self._inside(command)
        result = subprocess.run(inside, env=_environment(), capture_output=True, text=True, timeout=COMMAND_S, check=False)
        skip_where_late(result.stderr)
        said = f"{' '.join(command)}: {result.returncode}\n{result.stdout}{result.stderr}"
        assert 0 <= result.returncode < 128, said
        assert not check or result.returncode == 0, said
        return result

    def dofbot(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """One of our own verbs, as a person has it on the PATH."""
        return self.run("dofbot", *arguments, check=check)

    def install(self, path: Path) -> dict[str, Any]:
        """Unpack a bundle inside, and have its own installer do all but start the service: there is no systemd. Returns its answer."""
        with bundle.unpacked(path) as content:
            shutil.copytree(content, self.root / "bundle")
        steps = json.loads(self.run("python3", "/bundle/install.py", "provision", "--json").stdout)
        return {step["name"]: step for step in steps}

    def write(self, path: str, text: str) -> str:
        """A file inside; returns its path there."""
        (self.root / path.lstrip("/")).write_text(text)
        return path

    def _inside(self, command: tuple[str, ...]) -> list[str]:
        enter = ["unshare", "--mount", "--propagation", "private", "sh", "-c", ENTER, str(self.root)]
        return ["setpriv", "--pdeathsig", "KILL", *enter, *command]


def skip_where_late(said: str) -> None:
    """Skip the test where the runtime has refused this machine's speed: that is the emulation's, and says nothing of a Raspberry Pi's."""
    if LATE in said:
        pytest.skip("emulated on this machine, a decision takes longer than the runtime allows; run it with nothing else to do")


@contextmanager
def simulated_desk(log: Path) -> Iterator[int]:
    """`dofbot simulate` outside, on a free port of the loopback that both share; yields it."""
    command = ["setpriv", "--pdeathsig", "KILL", sys.executable, "-m", "edge", "simulate", "--port", "0"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    with log.open("w") as output:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        deadline_s = time.monotonic() + START_S
        while "Ctrl-C" not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline_s, log.read_text()
            time.sleep(0.1)
        yield int(log.read_text().partition("127.0.0.1:")[2].partition(",")[0])
    finally:
        process.kill()
        process.wait()


def _environment() -> dict[str, str]:
    return {"PATH": "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "QEMU_CPU": CPU, "HOME": "/root", "TERM": "dumb"}
