"""Whether the service does its work: it runs, answers, ticks in time, sees, reaches its servos, and its policy computes what it should."""

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from edge import config as configuration
from edge.errors import DofbotError, LatePolicyError
from edge.policies.policy_slots import PolicySlots
from edge.policy import Policy, digest, load, read
from edge.remote.commands import SAFE, Status, StatusReport
from edge.remote.control_cli import STALE_S
from edge.remote.control_client import ControlClient
from firmware_tools.provision import UNIT

WATCHED_S = 2.0  # a status is published every 0.1 s: so the rate is known to 5 %
RATE_MIN_HZ = 45.0  # of 50
FRAME_AGE_MAX_S = 0.5  # disarmed, the camera may be slow; armed, the loop itself holds after camera.max_age_s
SYSTEMCTL_S = 5.0


class Check(msgspec.Struct, frozen=True):
    """One thing that was looked at."""

    name: str
    ok: bool
    found: str
    expected: str


class Health(msgspec.Struct, frozen=True):
    """All of them; `reason` names those that are not as they should be, in one sentence."""

    healthy: bool
    reason: str
    checks: tuple[Check, ...]


def examine(config: Path, socket: Path | None) -> Health:
    """Look at the running service, for about two seconds; nothing moves, and nothing raises."""
    checks = [_service(), *_policy_and_process(config, socket)]
    bad = "; ".join(f"{check.name}: {check.found}, expected {check.expected}" for check in checks if not check.ok)
    return Health(not bad, bad, tuple(checks))


def _service() -> Check:
    try:
        command = ["systemctl", "is-active", UNIT]
        found = subprocess.run(command, capture_output=True, text=True, timeout=SYSTEMCTL_S, check=False).stdout.strip()
    except (OSError, subprocess.TimeoutExpired) as error:
        found = f"systemctl does not answer ({error})"
    return Check("service", found == "active", found or "unknown", "active")


def _policy_and_process(config: Path, socket: Path | None) -> list[Check]:
    golden = "its golden vectors, to their tolerance"
    try:
        slots = PolicySlots(configuration.load(config))
        path = slots.path(slots.active)
        policy, sha256 = _load(path), digest(read(path))
        found = f"largest difference {policy.golden_error:.1g}" if policy else "all come out, slowly beside the service"
        checks = [Check("golden vectors", True, found, golden)]
    except DofbotError as error:
        return [Check("golden vectors", False, str(error), golden)]
    try:
        with ControlClient(socket) as client:
            first, after_s, second = _watch(lambda: client.ask(Status()))
    except DofbotError as error:
        return [*checks, Check("status", False, str(error), "an answer")]
    return [*checks, *_judge(first, second, after_s, sha256)]


def _load(path: Path) -> Policy | None:
    """The policy, once its golden vectors are replayed; None where they fit, but this process, beside a real-time one, is slow."""
    try:
        return load(path)
    except LatePolicyError:
        return None


def _watch(ask: Callable[[], object]) -> tuple[StatusReport, float, StatusReport]:
    """Two reports, and the time between them."""
    first, began_s = ask(), time.monotonic()
    time.sleep(WATCHED_S)
    second = ask()
    if not isinstance(first, StatusReport) or not isinstance(second, StatusReport):
        other = second if isinstance(first, StatusReport) else first
        raise DofbotError(f"the process answered {type(other).__name__} when asked for its status")
    return first, time.monotonic() - began_s, second


def _judge(first: StatusReport, second: StatusReport, after_s: float, sha256: str) -> list[Check]:
    state = f"{second.state}{f' ({second.reason})' if second.reason else ''}"
    age_s = second.frame_age_s
    checks = [
        Check("state", second.state != SAFE, state, f"any but {SAFE}"),
        Check("camera", age_s is not None and age_s <= FRAME_AGE_MAX_S, _age(age_s), f"a frame of the last {FRAME_AGE_MAX_S:g} s"),
        Check("bus", second.bus.endswith(": answers"), second.bus, "answers"),
    ]
    rate_hz = (second.ticks - first.ticks) / after_s
    in_time = rate_hz >= RATE_MIN_HZ and second.age_s <= STALE_S
    checks.append(Check("loop", in_time, f"{rate_hz:.1f} ticks/s", f"at least {RATE_MIN_HZ:.0f}"))
    is_same = second.policy_sha256 == sha256
    checks.append(Check("policy", is_same, second.policy_warning or second.policy_sha256[:12], f"{sha256[:12]}, as configured"))
    return checks


def _age(age_s: float | None) -> str:
    return "no frame yet" if age_s is None else f"newest frame {age_s * 1e3:.0f} ms old"
