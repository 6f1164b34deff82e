"""Kills in the middle of an update: whether the robot then has the old version or the new one, whole and running.

python tests/bench/deploy.py [--kills 1000]   (seconds each; not among `make bench`)
"""

import argparse
import os
import random
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.progress import track
from tables import Bench, Figures

from firmware_tools.versions import Versions
from tests.firmware_tools.robot import KILLED, ROOT, Robot, name_of


def bench(kills: int) -> Bench:
    """Half of the kills hit the installer on the robot, half `dofbot deploy` on the workstation."""
    with tempfile.TemporaryDirectory() as folder:
        rows = {
            "the installer": _row(Robot(Path(folder) / "a"), False, kills),
            "dofbot deploy": _row(Robot(Path(folder) / "b"), True, kills),
        }
    notes = (
        "SIGKILL at a random moment of an update from one version to another, and back; then where the link leads, whether each file "
        "there is whole, and which version was started last. 'Undone or seen through': the next run left nothing unfinished. Real "
        "installer, files, processes; systemd, ssh, rsync and Python 3.12 are scripts (tests/firmware_tools/robot.py). No power cut."
    )
    return Bench("Kills during an update", rows, {"neither": "0", "not whole": "0"}, notes)


def _row(robot: Robot, remote: bool, kills: int) -> Figures:
    drawn = random.Random(0)
    bundles = {name_of(path): path for path in (robot.bundle("0.1.0"), robot.bundle("0.2.0"))}
    folders = {name: robot.unpack(path) for name, path in bundles.items()}
    first, second = bundles
    robot.install(bundles[first])
    began_s = time.monotonic()
    _start(robot, remote, bundles[second], folders[second]).wait()
    usual_s = time.monotonic() - began_s
    found = {"kills": kills, "hit before the end": 0, "old": 0, "new": 0, "neither": 0, "not whole": 0, "undone or seen through": 0}
    for _ in track(range(kills), f"killing {'dofbot deploy' if remote else 'the installer'}"):
        before = robot.current
        target = second if before == first else first
        process = _start(robot, remote, bundles[target], folders[target])
        time.sleep(drawn.uniform(0.0, usual_s))
        process.kill()
        process.communicate()
        found["hit before the end"] += process.returncode == KILLED
        found["old" if robot.current == before else "new" if robot.current == target else "neither"] += 1
        try:
            robot.assert_whole(set(bundles))
        except AssertionError:
            found["not whole"] += 1
        code, _, _ = robot.run(folders[target] / "install.py", "recover")  # waits for what is still running there
        settled = code == 0 and Versions(robot.root).pending() is None and robot.running == robot.current
        found["undone or seen through"] += settled
    return {**found, "an update, s": usual_s}


def _start(robot: Robot, remote: bool, path: Path, folder: Path):
    if not remote:
        return robot.start(folder / "install.py", "install", "--force")
    return robot.deploy(path)


def main() -> None:
    """Run it and show the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=1000)
    asked = parser.parse_args()
    os.environ["PYTHONPATH"] = str(ROOT)
    Console(width=None if sys.stdout.isatty() else 120).print(bench((asked.kills + 1) // 2).table())


if __name__ == "__main__":
    main()
