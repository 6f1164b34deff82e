"""The service as systemd sees it: start a version, and wait until it proves healthy. The standard library alone."""

import json
import subprocess
import time
from contextlib import suppress

from firmware_tools.provision import UNIT
from firmware_tools.versions import Versions

# For the stop, which parks an arm in motion, the start, and health, which imports onnxruntime and watches two seconds of ticks. Going back
# is a stop and a start, and all of it has 30 s.
HEALTH_WAIT_S = 20.0
SYSTEMCTL_S = 10.0
BETWEEN_S = 0.2


def restart(versions: Versions, within_s: float) -> float:
    """Start what `current` is now, with its own unit file; returns when that began. A start that fails is for the health check to tell."""
    began_s = time.monotonic()
    reread_units()
    _systemctl("reset-failed", UNIT)  # else the crashes of the version before would count for this one
    _systemctl("restart", UNIT, within_s=within_s)  # returns once READY=1 has come, or failed
    return began_s


def reread_units() -> None:
    """Have systemd forget the unit files of another version: their options would meet a program that does not know them."""
    _systemctl("daemon-reload")


def wait_for_health(versions: Versions, name: str, within_s: float, began_s: float) -> dict[str, object]:
    """Ask the version how it is until it is healthy, or has failed, or the time since `began_s` is over; returns the last answer."""
    while True:
        health = ask(versions, name, max(1.0, began_s + within_s - time.monotonic()))
        health["after_s"] = round(time.monotonic() - began_s, 2)
        over = time.monotonic() - began_s > within_s or _systemctl("is-failed", UNIT) == "failed"
        if health["healthy"] or over:
            if not health["healthy"] and (said := last_words()):
                health["reason"] = f"{health['reason']}; its last words: {said}"
            with suppress(OSError):  # a full disk says nothing about the version
                versions.note_health(name, health)
            return health
        time.sleep(BETWEEN_S)


def ask(versions: Versions, name: str, within_s: float) -> dict[str, object]:
    """`dofbot health` of this version: {healthy, reason, checks}."""
    command = [str(versions.path(name) / "bin" / "dofbot"), "health", "--json"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=within_s, check=False)
        found = json.loads(result.stdout)
        return {"healthy": bool(found["healthy"]) and result.returncode == 0, "reason": str(found["reason"]), "checks": found["checks"]}
    except subprocess.TimeoutExpired:
        reason = f"dofbot health gave no answer within {within_s:.0f} s"
    except OSError as error:
        reason = f"dofbot health does not run ({error.strerror})"
    except (ValueError, KeyError, TypeError):
        said = result.stderr.strip() or f"exit code {result.returncode}"
        reason = f"dofbot health gave no answer: {said.splitlines()[-1]}"
    return {"healthy": False, "reason": reason, "checks": []}


def last_words() -> str:
    """What the service said last, where a person would look."""
    try:
        command = ["journalctl", f"--unit={UNIT}", "--output=cat", "--no-pager", "--lines=20"]
        lines = subprocess.run(command, capture_output=True, text=True, timeout=SYSTEMCTL_S, check=False).stdout.splitlines()
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return next((line for line in reversed(lines) if line.startswith("dofbot: ")), "").removeprefix("dofbot: ")


def _systemctl(*arguments: str, within_s: float = SYSTEMCTL_S) -> str:
    """What systemctl says; empty when it takes too long or is not there."""
    try:
        result = subprocess.run(["systemctl", *arguments], capture_output=True, text=True, timeout=within_s, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return result.stdout.strip()
