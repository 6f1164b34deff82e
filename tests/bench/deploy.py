"""Kills in the middle of an update: whether the robot then has the old one or the new one, whole and running.

python tests/bench/deploy.py [--kills 1000]   (half a second each on idle cores; not among `make bench`)
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Protocol

from rich.console import Console
from rich.progress import track
from tables import Bench, Figures

from edge import policy
from firmware_tools.versions import Versions
from tests.firmware_tools.policy_robot import PolicyRobot, Process, Pushed, ready_robot, variant
from tests.firmware_tools.robot import KILLED, ROOT, Robot, name_of

PARTS = {"the installer": 0.4, "dofbot deploy": 0.3, "policy push, activate": 0.3}  # of all kills
LEFT = {".lock"}  # of hidden files, once a call has been seen through


class Updates(Protocol):
    """A robot with two things to update to, called 0 and 1."""

    def begin(self, target: int) -> None:
        """Start an update to this one, in a process of its own."""

    def end(self) -> None:
        """Wait for it."""

    def kill(self) -> bool:
        """Kill it, and return whether it had not ended yet."""

    def found(self) -> int:
        """Which one the robot would start with now; -1: neither."""

    def is_whole(self) -> bool:
        """Whether what it would start with, and what runs, is each one of the two, in order, to the last file."""

    def is_settled(self) -> bool:
        """Whether after the next call nothing is left unfinished."""


class VersionUpdates:
    """The whole version, from the robot's own installer or from the workstation."""

    def __init__(self, folder: Path, is_remote: bool) -> None:
        self._robot, self._is_remote = Robot(folder), is_remote
        self._bundles = [self._robot.bundle("0.1.0"), self._robot.bundle("0.2.0")]
        self._names = [name_of(path) for path in self._bundles]
        self._folders = [self._robot.unpack(path) for path in self._bundles]
        self._robot.install(self._bundles[0])
        self._process: subprocess.Popen[str]

    def begin(self, target: int) -> None:
        if self._is_remote:
            self._process = self._robot.deploy(self._bundles[target])
        else:
            self._process = self._robot.start(self._folders[target] / "install.py", "install", "--force")

    def end(self) -> None:
        self._process.communicate()
        assert self._process.returncode == 0, "an update that nobody killed failed"

    def kill(self) -> bool:
        self._process.kill()
        self._process.communicate()
        return self._process.returncode == KILLED

    def found(self) -> int:
        return self._names.index(self._robot.current) if self._robot.current in self._names else -1

    def is_whole(self) -> bool:
        try:
            self._robot.assert_whole(set(self._names))
        except AssertionError:
            return False
        return True

    def is_settled(self) -> bool:
        # What a killed `dofbot deploy` has begun on the robot goes on there, and may not have come to its lock yet.
        while self._is_running():
            time.sleep(0.01)
        code, _, _ = self._robot.run(self._folders[0] / "install.py", "recover")
        return code == 0 and Versions(self._robot.root).pending() is None and self._robot.running == self._robot.current

    def _is_running(self) -> bool:
        try:
            os.killpg(self._process.pid, 0)
        except ProcessLookupError:
            return False
        return True


class PolicyUpdates:
    """The policy alone, by turns pushed and activated, while a process runs that takes it over."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._robot = PolicyRobot(folder)
        self._data = [variant(0), variant(1)]
        self._files = [self._robot.file(data) for data in self._data]
        self._digests = [policy.digest(data) for data in self._data]
        self._process = stack.enter_context(Process(self._robot).serving())
        self._start = stack.enter_context(ready_robot(self._robot))
        self._call: Pushed
        self._turn = 0
        for target in (1, 0):
            self.begin(target)
            self.end()

    def begin(self, target: int) -> None:
        self._turn += 1
        is_kept = self._robot.slots.name_of(self._digests[target]) != ""
        what = ("activate", self._digests[target][:12]) if is_kept and self._turn % 2 else ("push", str(self._files[target]))
        self._call = self._start(*what)

    def end(self) -> None:
        self._call.lasts_s()

    def kill(self) -> bool:
        os.kill(self._call.pid, signal.SIGKILL)
        return self._call.is_killed()

    def found(self) -> int:
        names = [digest[:12] for digest in self._digests]
        return names.index(self._robot.slots.active) if self._robot.slots.active in names else -1

    def is_whole(self) -> bool:
        at = self.found()
        path = self._robot.slots.path(self._robot.slots.active)
        return at >= 0 and path.is_file() and path.read_bytes() == self._data[at] and self._process.sha256 in self._digests

    def is_settled(self) -> bool:
        """The next call: what is active is pushed once more, which brings the process to it, and tidies."""
        at = max(self.found(), 0)
        call = self._start("push", str(self._files[at]))
        try:
            call.lasts_s()
        except AssertionError:
            return False
        hidden = {path.name for path in self._robot.slots.path("x").parent.glob(".*")}
        return self._process.sha256 == self._digests[at] == self._digests[self.found()] and hidden == LEFT


def bench(kills: int) -> Bench:
    """Each way to update gets its part of the kills."""
    with _robots() as robots:
        rows = {name: _row(name, robots[name], round(part * kills)) for name, part in PARTS.items()}
    notes = (
        "SIGKILL at a random moment of an update from one to the other, and back; then where the link leads, whether each file there is "
        "whole, and what was started last or decides. 'Undone or seen through': the next call left nothing unfinished. Real installer, "
        "files, processes, control socket; systemd, ssh, rsync, Python 3.12 and the process that takes a policy over are stand-ins "
        "(tests/firmware_tools/robot.py, policy_robot.py). No power cut."
    )
    return Bench("Kills during an update", rows, {"neither": "0", "not whole": "0"}, notes)


@contextmanager
def _robots() -> Iterator[dict[str, Updates]]:
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        folder = Path(temporary)
        robots = (VersionUpdates(folder / "a", False), VersionUpdates(folder / "b", True), PolicyUpdates(folder / "c", stack))
        yield dict(zip(PARTS, robots, strict=True))


def _row(name: str, robot: Updates, kills: int) -> Figures:
    """Until so many have hit before the end: one that comes later shows nothing, but is looked at, too."""
    drawn = random.Random(0)
    began_s = time.monotonic()
    for target in (1, 0):
        robot.begin(target)
        robot.end()
    usual_s = within_s = (time.monotonic() - began_s) / 2
    found = {"kills": 0, "hit before the end": 0, "old": 0, "new": 0, "neither": 0, "not whole": 0, "undone or seen through": 0}
    for wanted in track(range(1, kills + 1), f"killing {name}"):
        while found["hit before the end"] < wanted:
            before = robot.found()
            target = 0 if before else 1
            robot.begin(target)
            time.sleep(drawn.uniform(0.0, within_s))
            is_hit = robot.kill()
            now = robot.found()
            found["kills"] += 1
            found["hit before the end"] += is_hit
            found["old" if now == before else "new" if now == target else "neither"] += 1
            found["not whole"] += not robot.is_whole()
            found["undone or seen through"] += robot.is_settled()
            within_s *= 1.02 if is_hit else 0.92  # four of five hit, however busy the machine is just then
    return {**found, "an update, s": usual_s}


def main() -> None:
    """Run it and show the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=1000, help="that hit before the end, in all")
    asked = parser.parse_args()
    os.environ["PYTHONPATH"] = str(ROOT)
    Console(width=None if sys.stdout.isatty() else 120).print(bench(asked.kills).table())


if __name__ == "__main__":
    main()
