"""What this machine says of itself below /proc, /sys, /dev and /etc; a test gives a copy of them as `root`."""

import grp
import os
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

RUN_WITHIN_S = 1.0


class Machine:
    """Reads files, raises nothing: what is not there, or not ours to read, is empty. Paths are absolute, as on the machine."""

    def __init__(self, root: Path = Path("/"), groups: frozenset[str] | None = None, run: Callable[[Sequence[str]], str] | None = None):
        """`groups` are the names of the user's groups; `run` returns the output of a command, empty where there is none."""
        self.root = root
        self.groups = _groups() if groups is None else groups
        self.run = run or _run

    def at(self, path: str) -> Path:
        """Where `path` of the machine is for us."""
        return self.root / path.removeprefix("/")

    def text(self, path: str) -> str:
        """A file's text without blanks and the NULs of a device tree at its ends."""
        return self.data(path).decode("utf-8", "replace").strip("\0 \n\t")

    def data(self, path: str) -> bytes:
        """A file's bytes."""
        try:
            return self.at(path).read_bytes()
        except OSError:
            return b""

    def find(self, pattern: str) -> list[str]:
        """Paths of the machine that a pattern fits, sorted."""
        return sorted(f"/{path.relative_to(self.root)}" for path in self.root.glob(pattern.removeprefix("/")))

    def may_use(self, path: str) -> bool:
        """Whether we may read and write a device."""
        return os.access(self.at(path), os.R_OK | os.W_OK)

    def model(self) -> str:
        """What its device tree calls it: 'Raspberry Pi 5 Model B Rev 1.0'; empty on a PC."""
        return self.text("/proc/device-tree/model")

    def is_pi(self) -> bool:
        """Whether it is a Raspberry Pi."""
        return self.model().startswith("Raspberry Pi")

    def has_capability(self, bit: int) -> bool:
        """Whether we have one of root's powers (capabilities(7))."""
        found = [line for line in self.text("/proc/self/status").splitlines() if line.startswith("CapEff:")]
        return bool(found) and bool(int(found[0].split()[1], 16) >> bit & 1)


def _groups() -> frozenset[str]:
    names = set()
    for number in {*os.getgroups(), os.getegid()}:
        try:
            names.add(grp.getgrgid(number).gr_name)
        except KeyError:
            continue  # a number without a name, as in a container
    return frozenset(names)


def _run(command: Sequence[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=RUN_WITHIN_S, check=False).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""
