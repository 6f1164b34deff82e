"""What `dofbot doctor` looks at in software: Python, the packages, the disk, and the files that the robot runs on."""

import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

from edge import calibration
from edge.config import Config
from edge.contract_check import Expectation
from edge.errors import DofbotError, LatePolicyError
from firmware_tools.finding import Finding, failed, not_applicable, ok, warning
from firmware_tools.machine import Machine
from firmware_tools.wheels import NEEDED, Tried, remedy

PYTHON_MIN, PYTHON_MAX = (3, 11), (3, 13)
# pyrealsense2's aarch64 wheels, by the version records in its ELF files (2.57.7 to 2.59.1): the one for 3.12 needs this glibc.
REALSENSE_PYTHON, REALSENSE_GLIBC = (3, 12), (2, 38)
FREE_LEAST_MB, FREE_WANTED_MB = 50, 500
INSTALL = {"cv2": "base", "smbus2": "servo", "adafruit_servokit": "servo", "pyrealsense2": "pi"}
_SERIALS = (
    "import json, pyrealsense2 as rs; print(json.dumps([d.get_info(rs.camera_info.serial_number) for d in rs.context().query_devices()]))"
)


def python_finding() -> Finding:
    """Whether this is a Python that the runtime is tested with."""
    found = f"{platform.python_version()}, {platform.machine()}"
    if not PYTHON_MIN <= sys.version_info[:2] <= PYTHON_MAX:
        return warning("Python", f"{found}, expected 3.11 to 3.13", "uv venv --python 3.12")
    if sys.maxsize < 2**32:
        return failed("Python", f"{found}: 32 bits", "install a 64-bit system: onnxruntime has no other wheels")
    return ok("Python", found)


def glibc_finding(
    arch: str = platform.machine(), glibc: str = platform.libc_ver()[1], python: tuple[int, ...] = sys.version_info[:2]
) -> Finding:
    """On a Pi, whether librealsense's wheel can load."""
    if arch != "aarch64":
        return not_applicable("glibc", f"{glibc or 'none'} on {arch}; it matters to librealsense's wheels for aarch64")
    if python != REALSENSE_PYTHON:
        found = f"{glibc}; pyrealsense2 has no wheel for Python {python[0]}.{python[1]} on aarch64"
        return warning("glibc", found, "uv venv --python 3.12, on Raspberry Pi OS Trixie or Ubuntu 24.04")
    if tuple(map(int, glibc.split("."))) < REALSENSE_GLIBC:
        found = f"{glibc}, pyrealsense2 for Python 3.12 needs 2.38"
        return warning("glibc", found, "install Raspberry Pi OS Trixie or Ubuntu 24.04: Bookworm's glibc is too old for the camera's wheel")
    return ok("glibc", glibc)


def package_findings(found: tuple[Tried, ...]) -> list[Finding]:
    """One row for all that load, and one for each that does not."""
    findings = [_package(one) for one in found if one.problem]
    return [ok("packages", f"{', '.join(one.module for one in found if not one.problem)} load"), *findings]


def disk_finding(machine: Machine, place: str = "/var/lib") -> Finding:
    """Whether there is room for recordings and the next version."""
    folder = machine.at(place)
    free_mb = shutil.disk_usage(folder if folder.exists() else "/").free / 1e6
    found = f"{free_mb / 1e3:.1f} GB free"
    if free_mb < FREE_LEAST_MB:
        return failed(
            "disk", found, "delete recordings (run.record), or use a larger card: a full disk tears no file of ours, but nothing is written"
        )
    if free_mb < FREE_WANTED_MB:
        return warning("disk", found, "delete recordings (run.record)")
    return ok("disk", found)


def policy_finding(config: Config, packages: tuple[Tried, ...]) -> Finding:
    """The policy, loaded as the runtime does it."""
    if _fails("onnxruntime", packages) or _fails("numpy", packages):
        return failed("policy", "not tried: onnxruntime does not load", "see packages")
    import urdf
    from edge.policies.policy_slots import PolicySlots
    from edge.policy import load

    slots = PolicySlots(config)
    if slots.folder and slots.folder.parent.is_dir() and not os.access(slots.folder.parent, os.R_OK | os.X_OK):
        return warning("policy", f"{slots.folder.parent} is closed to this user: which one is active is not known", "sudo dofbot doctor")
    path = slots.path(slots.active)
    try:
        policy = load(path, Expectation(config.mount, urdf.dofbot_sha256()), slots.vouched(path))
    except LatePolicyError as error:
        return warning("policy", *_split(error))
    except DofbotError as error:
        return failed("policy", *_split(error))
    return ok("policy", f"{path} fits this robot; {policy.latency_p99_s * 1e3:.1f} ms a decision (p99)")


def calibration_finding(config: Config, serials: list[str]) -> Finding:
    """The calibration, checked as the runtime does it; `serials` of the cameras that are plugged in, as far as they are known."""
    if config.bus.driver == "simulator":
        return not_applicable("calibration", "bus.driver = 'simulator' has nothing to calibrate")
    if not config.calibration.file:
        remedy = "set calibration.file, and run dofbot servo limits and dofbot calibrate"
        return warning("calibration", "calibration.file is empty: every number is nominal", remedy)
    import urdf

    path = Path(config.calibration.file)
    if not path.exists():
        return failed("calibration", f"{path} does not exist", "run dofbot servo limits and dofbot calibrate, or empty calibration.file")
    try:
        found = calibration.load(path)
        calibration.check_robot(found, path, config.mount, config.bus, urdf.dofbot_sha256())
        calibration.check_placement(found, path)
        for serial in serials:
            calibration.check_camera(found, path, serial)
    except DofbotError as error:
        return failed("calibration", *_split(error))
    parts = [name for name in calibration.PARTS if getattr(found, name) is not None]
    return ok("calibration", f"{path}: {', '.join(parts) or 'nothing measured yet'}")


def camera_serials(within_s: float = 2.0) -> list[str]:
    """What librealsense calls the cameras, asked in a child: it hangs, and dies, in more ways than one."""
    try:
        answer = subprocess.run([sys.executable, "-c", _SERIALS], capture_output=True, timeout=within_s, check=True).stdout
        return [str(serial) for serial in json.loads(answer)]
    except (OSError, ValueError, subprocess.SubprocessError):
        return []


def _package(one: Tried) -> Finding:
    if one.module in NEEDED or one.kills:
        return failed(one.module, one.problem, remedy(one))
    if one.is_missing:
        return warning(one.module, "not installed", f"pip install 'dofbot-grasp[{INSTALL[one.module]}]'")
    return warning(one.module, one.problem, remedy(one))


def _fails(module: str, packages: tuple[Tried, ...]) -> bool:
    return any(one.module == module and one.problem for one in packages)


def _split(error: DofbotError) -> tuple[str, str]:
    """A sentence of ours, before and after its last semicolon: what was found, and what to do."""
    found, _, what_to_do = str(error).rpartition("; ")
    return (found, what_to_do) if found else (what_to_do, "dofbot doctor --json, and open an issue")
