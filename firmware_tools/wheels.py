"""Packages that cannot be imported here, or that kill whoever imports them: tried in a child, since SIGILL takes no excuse.

A wheel that was compiled for newer processors dies at the first instruction that this one lacks, without a word. The standard
library alone: `edge/__main__.py` asks here before it imports any of them.
"""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from functools import cache
from pathlib import Path
from typing import NamedTuple

WITHIN_S = 4.0
SLOW = "is not imported within"
PIP = f"{sys.executable} -m pip install"
NEEDED = ("numpy", "msgspec", "onnxruntime", "typer", "rich")
VITAL = ("numpy", "msgspec", "typer", "rich")  # every verb imports these
OPTIONAL = ("cv2", "smbus2", "adafruit_servokit", "pyrealsense2")
DISTRIBUTIONS = {"cv2": "opencv-contrib-python-headless", "adafruit_servokit": "adafruit-circuitpython-servokit"}
LIBRARIES = {"libusb-1.0.so.0": "libusb-1.0-0", "libudev.so.1": "libudev1", "libGL.so.1": "libgl1"}  # Debian's packages
_CHILD = """
import importlib, json, sys
for name in sys.argv[1:]:
    print(json.dumps([name]), flush=True)
    try:
        importlib.import_module(name)
        found = ""
    except BaseException as error:
        found = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if not isinstance(error, ModuleNotFoundError) or error.name != name:
            found = "does not load: " + found
    print(json.dumps([name, found]), flush=True)
"""


class Tried(NamedTuple):
    """What importing a package came to; `problem` is empty where it works, and `kills` says that it takes its process along."""

    module: str
    problem: str = ""
    kills: bool = False

    @property
    def is_missing(self) -> bool:
        """Whether it is just not installed."""
        return self.problem.startswith("No module named")


@cache
def tried(modules: tuple[str, ...] = NEEDED + OPTIONAL, within_s: float = WITHIN_S, path: Path | None = None) -> tuple[Tried, ...]:
    """Import them one after the other in a child, and those after one that kills it in the next child. `path` is searched first."""
    found: list[Tried] = []
    while len(found) < len(modules):
        found += _in_one_child(modules[len(found) :], within_s, path)
    return tuple(found)


def refuse_deadly() -> None:
    """End with one sentence where a package that every verb imports kills its process, or does not load: no verb could say so."""
    for one in tried():
        if one.module in VITAL and one.problem:
            sys.exit(f"dofbot: {sentence(one)}")


def sentence(one: Tried) -> str:
    """What is wrong with a package, and what mends it."""
    return f"{one.module}: {one.problem}; {remedy(one)}"


def remedy(one: Tried) -> str:
    """What mends a package."""
    distribution = DISTRIBUTIONS.get(one.module, one.module)
    if one.kills:
        return f"take an older version, or compile it for this processor: {PIP} --force-reinstall --no-binary {distribution} {distribution}"
    if one.problem.startswith(SLOW):
        return "run it again while the machine is less busy"
    if lacking := re.search(r"(?:No module named|platform library) '([\w.-]+)'", one.problem):
        return f"{PIP} {DISTRIBUTIONS.get(lacking[1], lacking[1])}"
    if library := re.match(r"does not load: (lib[\w.-]+): cannot open", one.problem):
        return f"sudo apt install {LIBRARIES.get(library[1], f'the package that has {library[1]}')}"
    if "GLIBC" in one.problem:
        return "install a newer system: Raspberry Pi OS Trixie or Ubuntu 24.04"
    return f"{PIP} --force-reinstall {distribution}"


def _in_one_child(modules: tuple[str, ...], within_s: float, path: Path | None) -> list[Tried]:
    """As many as one child gets through, at least one."""
    # Blinka would ask on a terminal whether it may install what it lacks.
    environment = {**os.environ, "BLINKA_SKIP_DEPENDENCY_CHECK": "1"}
    if path is not None:
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(path), environment.get("PYTHONPATH", ""))))
    child = subprocess.Popen(
        [sys.executable, "-c", _CHILD, *modules],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    began_s, clock = time.monotonic(), threading.Timer(within_s, child.kill)
    clock.start()
    output, _ = child.communicate()
    is_late = time.monotonic() - began_s >= within_s  # the timer's thread may not have ended yet
    clock.cancel()
    lines = [json.loads(line) for line in output.splitlines() if line.startswith(b"[") and line.endswith(b"]")]
    found = [Tried(*line) for line in lines if len(line) == 2]
    if len(found) == len(modules):
        return found
    if is_late:
        return [*found, Tried(modules[len(found)], f"{SLOW} {within_s:g} s")]
    return [*found, Tried(modules[len(found)], f"kills the process that imports it: {_cause(child.returncode)}", kills=True)]


def _cause(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name
    return f"{name}, illegal instruction: compiled for another processor" if name == "SIGILL" else name
