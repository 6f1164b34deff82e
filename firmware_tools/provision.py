"""What a robot's system needs besides the package, as a list of small steps that can be looked at, done, and done again.

The standard library alone. Every path lies below `root`, which is `/` on a robot.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

from edge.errors import InstallError
from edge.files import write_atomically
from firmware_tools.versions import PREFIX, Versions

UNIT, RECOVERY, UNDO = "dofbot-grasp.service", "dofbot-grasp-recover.service", "dofbot-grasp-undo.service"
BACKUP = ".before-dofbot-grasp"
I2C_HZ = 400_000  # the PCA9685's fast mode: 0.6 ms for six channels instead of 2.3 ms
I2C_MARK = "# dofbot-grasp: the servo bus"
I2C_LINES = f"""
[all]
{I2C_MARK}, at 400 kHz. What this file was before is in config.txt{BACKUP}
dtparam=i2c_arm=on,i2c_arm_baudrate={I2C_HZ}
"""
HOMES = ("/home", "/root", "/run/user")  # what ProtectHome hides from the service
CONFIG = Path("etc/dofbot-grasp/config.toml")
# What the system finds of a version, by way of `current`: one rename switches these, too, and switches them back.
LINKS = {
    **{Path("etc/systemd/system") / unit: f"system/{unit}" for unit in (UNIT, RECOVERY, UNDO)},
    Path("etc/udev/rules.d/99-dofbot.rules"): "system/99-dofbot.rules",
    Path("usr/local/bin/dofbot"): "bin/dofbot",
}


class Step(NamedTuple):
    """One change: whether it is there already, how it is made, and how a person takes it back."""

    name: str
    change: str
    undo: str
    is_done: Callable[[], bool]
    do: Callable[[], None]
    needs_reboot: bool = False


def plan(root: Path, source: Path) -> list[Step]:
    """The steps for a robot; `source` is a bundle or an installed version, whose system files are taken."""
    accounts = source / "system" / "dofbot-grasp.sysusers.conf"
    persons = _is_a_persons(root, "dofbot")
    steps = [
        Step(
            "user and groups",
            f"user dofbot{', whom a person logs in as' * persons}; groups dofbot, i2c, plugdev",
            "groupdel plugdev" if persons else "userdel dofbot; groupdel plugdev",
            partial(_has_accounts, root, accounts),
            partial(_run, "systemd-sysusers", f"--root={root}", str(accounts)),
        )
    ]
    if config_txt := _config_txt(root):
        undo = f"mv {config_txt}{BACKUP} {config_txt}"
        change = f"{config_txt}: the I2C bus on, at 400 kHz"
        steps.append(Step("I2C bus", change, undo, partial(_has_i2c, config_txt), partial(_add_i2c, config_txt), needs_reboot=True))
    module = root / "etc/modules-load.d/dofbot-grasp.conf"
    steps.append(_file(module, "I2C device", b"i2c-dev\n"))
    for link, target in LINKS.items():
        relative = os.path.relpath(root / PREFIX / "current" / target, (root / link).parent)
        steps.append(_link(root / link, relative))
    steps.append(_file(root / CONFIG, "configuration", (source / "config.toml").read_bytes(), keep=True))
    for unit in (UNIT, RECOVERY):
        steps.append(_link(root / "etc/systemd/system/multi-user.target.wants" / unit, f"../{unit}"))
    return steps


def carry_out(steps: list[Step], dry_run: bool, say: Callable[[str], None]) -> list[dict[str, object]]:
    """Do what is not done yet, or only say what it would be; returns name, state (done, did, to do), change and undo of each."""
    found = []
    for step in steps:
        state = "done" if step.is_done() else "to do"
        if state == "to do" and not dry_run:
            try:
                step.do()
            except OSError as error:
                raise InstallError(f"{step.name}: {step.change}: {error.strerror or error}; mend that and run it again") from None
            state = "did"
        say(f"{state:<6}{step.name}: {step.change}")
        needs_reboot = step.needs_reboot and state != "done"
        found.append({"name": step.name, "state": state, "change": step.change, "undo": step.undo, "needs_reboot": needs_reboot})
    return found


def take_effect(root: Path) -> None:
    """Have the running system notice what has changed, as far as it can without a reboot; whatever it lacks comes with the next one."""
    if root != Path("/"):
        return
    for command in ("modprobe i2c-dev", "udevadm control --reload", "udevadm trigger", "systemctl daemon-reload"):
        with suppress(OSError):
            subprocess.run(command.split(), capture_output=True, check=False)


def with_i2c(text: str) -> str:
    """A Raspberry Pi's config.txt with the I2C bus on at 400 kHz; as it was where it says so already. No line of it is lost.

    Later lines win there, and a filter such as `[pi4]` makes some hold for one board only: so ours go to the end, under `[all]`.
    Who gives another speed after ours has a reason: it stays.
    """
    section, is_on, speed = "all", False, False
    for line in text.splitlines():
        if header := re.match(r"\s*\[(\w+)", line):
            section = header[1]
        for key, value in re.findall(r"(i2c_arm_baudrate|i2c_arm|i2c_baudrate|i2c)=(\w+)", line if _is_dtparam(line) else ""):
            if key.endswith("baudrate"):
                speed = value == str(I2C_HZ) and section == "all"
            else:
                is_on = value in ("on", "true", "yes", "1") and section == "all"
    return text if is_on and (speed or I2C_MARK in text) else text.rstrip("\n") + "\n" + I2C_LINES


def find_python(root: Path, version: str) -> Path | None:
    """A Python of this version that the service can read: its sandbox hides home directories."""
    ours = sorted((root / PREFIX / "python").glob(f"cpython-{version}*/bin/python{version}"))
    on_path = shutil.which(f"python{version}")
    candidates = [*ours, *([Path(on_path)] if on_path else [])]
    return next((path for path in candidates if not any(path.resolve().is_relative_to(home) for home in HOMES)), None)


def fetch_python(root: Path, version: str, say: Callable[[str], None]) -> Path:
    """A Python of this version: what is there, or else what uv fetches; raises `InstallError`."""
    if found := find_python(root, version):
        return found
    uv = shutil.which("uv") or shutil.which("uv", path=str(Path(f"~{os.environ.get('SUDO_USER', '')}/.local/bin").expanduser()))
    if uv:
        say(f"fetching Python {version} with {uv}: the only part that needs a network")
        _run(uv, "python", "install", version, UV_PYTHON_INSTALL_DIR=str(root / PREFIX / "python"))
        if found := find_python(root, version):
            return found
    raise InstallError(
        f"Python {version} is not here, expected python{version} outside home directories, or uv to fetch one; "
        f"Ubuntu 24.04 has it (apt install python{version}), Raspberry Pi OS gets it with uv: docs/deploy.md"
    )


def _config_txt(root: Path) -> Path | None:
    """Where a Raspberry Pi's firmware reads its settings; None: this is none."""
    return next((path for name in ("boot/firmware/config.txt", "boot/config.txt") if (path := root / name).is_file()), None)


def _is_dtparam(line: str) -> bool:
    return bool(re.match(r"\s*dtparam\s*=", line))


def _has_i2c(path: Path) -> bool:
    text = _read_lossless(path)
    return with_i2c(text) == text


def _add_i2c(path: Path) -> None:
    backup = path.with_name(path.name + BACKUP)
    if not backup.exists():
        write_atomically(backup, path.read_bytes())
    write_atomically(path, with_i2c(_read_lossless(path)).encode("utf-8", "surrogateescape"))


def _read_lossless(path: Path) -> str:
    """Text that encodes back to the same bytes, line ends and comments in any code page included."""
    return path.read_bytes().decode("utf-8", "surrogateescape")


def _has_accounts(root: Path, path: Path) -> bool:
    wanted = {line.split()[1] for line in path.read_text().splitlines() if line[:2] in ("g ", "u ")}
    found: dict[str, set[str]] = {}
    for kind in ("passwd", "group"):
        file = root / "etc" / kind
        found[kind] = {line.partition(":")[0] for line in file.read_text().splitlines()} if file.is_file() else set()
    return wanted <= found["group"] and "dofbot" in found["passwd"]


def _is_a_persons(root: Path, name: str) -> bool:
    """Whether an account is one to log in to, which must never be removed with ours: numbers from 1000 on (Debian policy 9.2.2)."""
    file = root / "etc/passwd"
    rows = [line.split(":") for line in file.read_text().splitlines()] if file.is_file() else []
    return any(row[0] == name and len(row) > 2 and row[2].isdecimal() and 1000 <= int(row[2]) < 60_000 for row in rows)


def _file(path: Path, name: str, content: bytes, keep: bool = False) -> Step:
    """A file with this content; with `keep`, whatever it holds once it is there."""

    def is_done() -> bool:
        return path.is_file() and (keep or path.read_bytes() == content)

    def do() -> None:
        write_atomically(path, content)
        path.chmod(0o644)

    return Step(name, f"{path}{', kept as it is once it is there' if keep else ''}", f"rm {path}", is_done, do)


def _link(path: Path, target: str) -> Step:
    def is_done() -> bool:
        return path.is_symlink() and os.readlink(path) == target

    def do() -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.new")
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(target)
        temporary.replace(path)

    return Step("link", f"{path} → {target}", f"rm {path}", is_done, do)


def _run(*command: str, **environment: str) -> None:
    """Run a command that must succeed; raises `InstallError` with the last thing that it said."""
    try:
        result = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    except OSError as error:
        raise InstallError(f"{command[0]} does not run ({error.strerror}), expected it on a Debian with systemd; install it") from None
    if result.returncode:
        said = (result.stderr.strip() or result.stdout.strip() or "nothing").splitlines()[-1]
        raise InstallError(f"{' '.join(command)} ended with {result.returncode} and said: {said}")


def first_version(versions: Versions, name: str) -> Step:
    """Where no version runs yet, the one that was just installed becomes `current`."""
    is_done, do = partial(versions.linked, "current"), partial(versions.point, "current", name)
    return Step("version", f"{versions.folder / 'current'} → releases/{name}", "dofbot rollback", lambda: bool(is_done()), do)
