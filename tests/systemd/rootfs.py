"""Builds, once, a Debian root file system with systemd and Python; later calls find it in .cache/."""

import hashlib
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

from firmware_tools import bundle

ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".cache" / "hil-systemd"
PACKAGES = "systemd,systemd-sysv,dbus,python3,libusb-1.0-0"  # libusb: the camera's library loads it
# The Debian whose Python is ours: a bundle is made for it, and all wheels are in the lock for these.
SUITES = {(3, 11): "bookworm", (3, 13): "trixie"}
ENVIRONMENT = "/opt/dofbot-grasp/current"  # where the unit looks
BUILD_S = 1800  # for one command; a slow mirror is no hang


class UnavailableError(Exception):
    """No such machine can be had here; the text says why."""


def missing() -> str:
    """Why the service cannot be tested here; empty when it can."""
    absent = [tool for tool in ("debootstrap", "systemd-nspawn", "apt-get", "nsenter", "setpriv") if shutil.which(tool) is None]
    if sys.platform != "linux" or os.geteuid() != 0:
        return "needs root on Linux, to boot a root file system in systemd-nspawn"
    if absent:
        return f"needs {', '.join(absent)}: apt install debootstrap systemd-container"
    if sys.version_info[:2] not in SUITES:
        return f"needs the Python of a Debian release (3.11 or 3.13), this is {sys.version_info[0]}.{sys.version_info[1]}"
    return ""


def build() -> Path:
    """The root file system's folder; nothing of the project is in it. Raises `UnavailableError` without a Debian."""
    suite = SUITES[sys.version_info[:2]]
    base = CACHE / f"{suite}-{digest(PACKAGES.encode())}"
    if not base.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        print(f"building {base} with debootstrap: about 2 minutes, once", flush=True)
        try:
            into(base, lambda folder: run("debootstrap", "--variant=minbase", f"--include={PACKAGES}", suite, str(folder), *mirror()))
        except RuntimeError as error:
            raise UnavailableError(f"no Debian {suite} could be built: {error}") from None
    return base


def packed(folder: Path) -> Path:
    """The bundle of the working tree for this root file system, unpacked."""
    python = ".".join(map(str, sys.version_info[:2]))
    path = bundle.build(folder, platform.machine(), bundle.POLICY, lambda text: print(text, flush=True), python)
    with bundle.unpacked(path) as content:
        return Path(shutil.copytree(content, folder / "bundle"))


def mirror() -> list[str]:
    """Where this machine's apt gets Debian from; none where it runs something else, and debootstrap knows one."""
    command = ["apt-get", "indextargets", "--format", "$(ORIGIN) $(REPO_URI)", "Created-By: Packages"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return [line.removeprefix("Debian ") for line in lines if line.startswith("Debian ") and "security" not in line][:1]


def into(folder: Path, fill) -> None:
    """Fill a folder under another name first: one that was interrupted is never taken for a complete one."""
    partial = folder.with_name(f"partial-{folder.name}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    fill(partial)
    partial.rename(folder)


def run(*command: str) -> None:
    result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=BUILD_S, check=False)
    if result.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{(result.stdout + result.stderr)[-3000:]}")


def digest(*contents: bytes) -> str:
    return hashlib.sha256(b"\0".join(contents)).hexdigest()[:12]
