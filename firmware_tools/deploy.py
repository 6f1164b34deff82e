"""Brings a bundle to a robot with the system's own ssh and rsync, and has it installed there.

The robot's part goes on by itself when the connection breaks: it has its own clock, and its own way back (firmware_tools/install.py).
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edge.errors import InstallError, RolledBackError
from firmware_tools import bundle, manifest
from firmware_tools.manifest import Manifest

Say = Callable[[str], None]
INCOMING = ".cache/dofbot-grasp/bundle"  # in the home of whoever logs in; kept, so that the next bundle is only what has changed
SSH = ("ssh", "-o", "ConnectTimeout=10", "-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=3")
RSYNC = ("rsync", "--recursive", "--times", "--checksum", "--partial", "--delete", "--timeout=30", f"--rsh={' '.join(SSH)}")
COPY_TRIES = 3
SSH_FAILED = 255
# Answers a line each; one call, because each may ask for a password.
QUESTIONS = """mkdir -p {folder} || exit 1
echo arch $(uname -m)
echo python $(python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
echo rsync $(command -v rsync)
if [ "$(id -u)" = 0 ] || sudo -n true 2>/dev/null; then echo root yes; fi
echo free_mb $(df -Pm {folder} | awk 'NR == 2 {{ print $4 }}')"""
PYTHON = "/opt/dofbot-grasp/current/bin/python -I"
INSTALLED = f"{PYTHON} -m firmware_tools.install"


def deploy(host: str, path: Path, force: bool, say: Say) -> Any:
    """Copy, check, install, switch, wait for health; returns the robot's answer. Raises `InstallError`, or `RolledBackError`."""
    began_s = time.monotonic()
    check_host(host)
    with bundle.unpacked(path) as content:
        described = manifest.read(content)
        say(f"{path.name}: version {described.name} for {described.arch}")
        _ask(host, described, sum(file.stat().st_size for file in content.rglob("*")))
        copy(content, host, INCOMING, say)
        copied_s = time.monotonic() - began_s
    answer = on_robot(host, f"python3 -B {INCOMING}/install.py install{' --force' if force else ''}", say)
    return {"host": host, **answer, "copied_s": copied_s, "deployed_s": time.monotonic() - began_s}


def rollback(host: str, say: Say) -> Any:
    """Have the robot go back to its version before."""
    check_host(host)
    return on_robot(host, f"{INSTALLED} rollback", say)


def releases(host: str) -> Any:
    """What is installed on the robot."""
    check_host(host)
    return on_robot(host, f"{INSTALLED} releases", lambda _: None)


def on_robot(host: str, command: str, say: Say) -> Any:
    """Run one of the installer's verbs as root on the robot; its progress is said, its JSON is returned, its error is raised here."""
    last = ""
    with _started([*SSH, host, f"if [ $(id -u) = 0 ]; then {command} --json; else sudo -n {command} --json; fi"]) as process:
        assert process.stderr is not None
        assert process.stdout is not None
        for line in process.stderr:
            last = line.rstrip() or last
            if not last.startswith("dofbot: "):
                say(f"  {last}")
        answer = process.stdout.read()
    code = process.returncode
    if code == SSH_FAILED:
        raise InstallError(
            f"the connection to {host} broke ({last or 'no reason given'}); the robot ends what it began by itself, or undoes it; "
            f"see: dofbot releases {host}"
        )
    if code:
        said = last.removeprefix("dofbot: ") or f"exit code {code}"
        raise (RolledBackError if code == RolledBackError.exit_code else InstallError)(f"{host}: {said}")
    try:
        return json.loads(answer.splitlines()[-1])
    except (ValueError, IndexError):
        raise InstallError(f"{host} answered {answer[-200:]!r}, expected JSON; is another version of dofbot-grasp there?") from None


def _ask(host: str, described: Manifest, size: int) -> None:
    """Whether the robot can take this bundle, before anything is copied."""
    found = reach(host, INCOMING, size)
    arch, python, oldest = found.get("arch", "unknown"), found.get("python", ""), manifest.OLDEST_PYTHON
    if arch != described.arch:
        raise InstallError(f"the bundle is for {described.arch}, but {host} is {arch}; make bundle ARCH={arch}")
    if not python or tuple(map(int, python.split("."))) < oldest:
        raise InstallError(f"{host} has Python {python or 'nowhere'}, expected python3 of {oldest[0]}.{oldest[1]} or newer; install it")


def reach(host: str, folder: str, size: int) -> dict[str, str]:
    """Make a folder there, and see that `size` bytes can be copied into it and used by root; returns what the robot says of itself."""
    process = _started([*SSH, host, QUESTIONS.format(folder=folder)])
    said, errors = process.communicate()
    if process.returncode:
        reason = (errors.strip().splitlines() or [f"exit code {process.returncode}"])[-1]
        raise InstallError(f"{host} cannot be reached or written to ({reason}), expected ssh to work; try: ssh {host}")
    found = dict(line.split(" ", 1) for line in said.splitlines() if " " in line.strip())
    if not found.get("rsync"):
        raise InstallError(f"{host} has no rsync; there: sudo apt install rsync")
    if not found.get("root"):
        raise InstallError(f"{host}: sudo asks for a password, expected none; give root@… as host, or allow it: docs/deploy.md")
    if int(found.get("free_mb", "0")) << 20 < size:
        raise InstallError(f"{host} has {found.get('free_mb', '0')} MB free, expected {(size >> 20) + 1} MB; free some space")
    return found


def copy(content: Path, host: str, folder: str, say: Say) -> None:
    """rsync, which goes on where it broke: at most three times here, and again at the next deploy."""
    progress = ["--info=progress2"] if sys.stderr.isatty() else []
    command = [*RSYNC, *progress, f"{content}/", f"{host}:{folder}/"]
    for attempt in range(1, COPY_TRIES + 1):
        say(f"copying to {host}" + (f", attempt {attempt} of {COPY_TRIES}" if attempt > 1 else ""))
        process = _started(command, shows=bool(progress))
        _, errors = process.communicate()
        if process.returncode == 0:
            return
    reason = ((errors or "").strip().splitlines() or [f"exit code {process.returncode}"])[0]
    raise InstallError(
        f"copying to {host} failed {COPY_TRIES} times ({reason}); nothing has changed there; run it again, it goes on from here"
    )


def _started(command: list[str], shows: bool = False) -> "subprocess.Popen[str]":
    """A child; `shows`: on this terminal, on stderr, because stdout may be for a program. What is not in our code page is not lost."""
    out, errors = (sys.stderr, None) if shows else (subprocess.PIPE, subprocess.PIPE)
    try:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=errors, text=True, errors="backslashreplace")
    except OSError as error:
        raise InstallError(
            f"{command[0]} does not run here ({error.strerror}), expected it installed; apt install openssh-client rsync"
        ) from None


def check_host(host: str) -> None:
    """Raise `InstallError` for what ssh would take for something else."""
    if not host or host.startswith("-") or any(letter.isspace() or letter in ":;'\"" for letter in host):
        raise InstallError(f"{host!r} is no host, expected user@name as ssh takes it, such as pi@dofbot.local")
