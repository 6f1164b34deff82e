"""Installs a bundle beside the version that runs, switches over, waits for its health, and switches back by itself when it does not come.

On the robot, as root, with the system's Python and the standard library alone: `python3 install.py install` in an unpacked bundle.
Whatever ends this process, and whenever: the old version or the new one is whole and runs. The next run, or the next boot, undoes a
switch that was not seen through.
"""

import argparse
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from edge.errors import InstallError, RolledBackError
from firmware_tools import manifest, provision, remote
from firmware_tools.manifest import Manifest
from firmware_tools.systemd import HEALTH_WAIT_S, reread_units, restart, wait_for_health
from firmware_tools.versions import Versions

Say = Callable[[str], None]
SPARE_BYTES = 64 << 20  # compiled Python, which is about as much again as its source, and a margin
EXIT_ILLEGAL_INSTRUCTION = -signal.SIGILL
_NEVER_IMPORTED = r"/tests/|/onnxruntime/(transformers|quantization|tools)/|/pygments/(lexers|styles)/"  # half of all source
_COPIED = ("policy.onnx", "config.toml", manifest.MANIFEST)


def install(versions: Versions, bundle: Path, say: Say, force: bool = False) -> dict[str, object]:
    """Make this bundle's version the one that runs; returns what was done. Raises `InstallError`, or `RolledBackError`."""
    began_s = time.monotonic()
    described = _check_bundle(versions, bundle, force)
    say(f"bundle {described.name}: {len(described.files)} files, as they were packed")
    with versions.locked() as lock:
        recover(versions, say)
        versions.tidy((described.name,))  # what did not come up before makes room
        steps = _prepare(versions, bundle, described, say, lock)
        built_s = time.monotonic() - began_s
        before = versions.linked("current")
        if not before:
            steps += provision.carry_out([provision.first_version(versions, described.name)], False, say)
        needs_reboot = any(step["needs_reboot"] for step in steps)
        if needs_reboot and not before:
            say("the I2C bus is on after the next start: sudo reboot, then: dofbot health")
            health: dict[str, object] = {}
        else:
            health = switch(versions, described.name, say)
            versions.tidy((described.name,))
    return {
        "version": described.name,
        "before": before,
        "health": health,
        "needs_reboot": needs_reboot,
        "installed_s": built_s,
        "took_s": time.monotonic() - began_s,
    }


def switch(versions: Versions, to: str, say: Say, wait_s: float = HEALTH_WAIT_S) -> dict[str, object]:
    """Let `to` run, and see that it is healthy; else go back to what ran before. Returns its health. Hold the lock."""
    before = versions.linked("current")
    if before != to:
        versions.begin(to)
    say(f"starting {to}; it has {wait_s:g} s to prove healthy")
    try:
        versions.point("current", to)
        began = restart(versions, wait_s)
        health = wait_for_health(versions, to, wait_s, began)
    except BaseException:
        if before != to:
            recover(versions, say)
        raise
    if health["healthy"]:
        if before and before != to:
            versions.point("previous", before)
        versions.end()
        say(f"{to} is healthy")
        return health
    found = f"{to} did not prove healthy within {wait_s:g} s: {health['reason']}"
    if before in ("", to):
        versions.end()
        raise InstallError(f"{found}; there is no other version to go back to, see: dofbot health, journalctl -u dofbot-grasp")
    raise RolledBackError(f"{found}; {recover(versions, say)}")


def recover(versions: Versions, say: Say, at_boot: bool = False) -> str:
    """Undo a switch that nobody has vouched for; returns what came of it, empty where there was none. Hold the lock.

    At boot the service is not started yet, and will find the link and its unit as they should be.
    """
    pending = versions.pending()
    if pending is None:
        versions.tidy()
        return ""
    came = f"{pending.current or 'the version before'} is gone, {versions.linked('current') or 'nothing'} stays"
    if pending.current in versions.names():  # else the link would lead nowhere
        came = f"{pending.current} is back"
        say(f"the switch to {pending.to} was not seen through: back to {pending.current}")
        versions.point("current", pending.current)
        versions.point("previous", pending.previous)
        if at_boot:
            reread_units()
        else:
            began = restart(versions, HEALTH_WAIT_S)
            health = wait_for_health(versions, pending.current, HEALTH_WAIT_S, began)
            came = f"{pending.current} runs again" if health["healthy"] else f"{came}, and not healthy either: {health['reason']}"
    say(came)
    versions.end()
    versions.tidy()
    return came


def rollback(versions: Versions, say: Say) -> dict[str, object]:
    """Go back to the version before; raises `InstallError` where there is none, or where that one does not come up."""
    with versions.locked():
        recover(versions, say)
        before, to = versions.linked("current"), versions.linked("previous")
        if not to or to not in versions.names():
            raise InstallError(f"there is no version before {before or 'the first'}, expected one; deploy it: make deploy")
        return {"version": to, "before": before, "health": switch(versions, to, say)}


def prepare(versions: Versions, source: Path, say: Say, dry_run: bool) -> list[dict[str, object]]:
    """Everything but the switch: what `dofbot provision` does. `source` is a bundle, or the version that runs."""
    if (source / "installed.json").exists() or dry_run:
        described = manifest.read(source)
        steps = provision.carry_out(provision.plan(versions.root, source), dry_run, say)
        return [*steps, *_plan_of_version(versions, described, dry_run, say)]
    described = _check_bundle(versions, source, force=True)
    with versions.locked() as lock:
        recover(versions, say)
        steps = _prepare(versions, source, described, say, lock)
        return steps + provision.carry_out([provision.first_version(versions, described.name)], False, say)


def _plan_of_version(versions: Versions, described: Manifest, dry_run: bool, say: Say) -> list[dict[str, object]]:
    def never() -> None:
        raise InstallError("provision from an unpacked bundle to install a version")

    there = described.name in versions.names()
    python = provision.find_python(versions.root, described.python)
    step, change = provision.Step, f"Python {described.python}{f': {python}' if python else '' if there else ', fetched with uv'}"
    steps = [
        step("Python", change, f"rm -r {versions.folder}/python", lambda: there or python is not None, never),
        step("version", f"{versions.path(described.name)}", f"rm -r {versions.path(described.name)}", lambda: there, never),
    ]
    return provision.carry_out(steps, dry_run, say)


def _check_bundle(versions: Versions, bundle: Path, force: bool) -> Manifest:
    """Whether this bundle may be installed here at all; nothing has changed when it raises."""
    try:
        described = manifest.check(bundle)
    except manifest.DamagedError as error:
        raise InstallError(str(error)) from None
    if described.arch != platform.machine():
        raise InstallError(f"the bundle is for {described.arch}, expected {platform.machine()}; make bundle ARCH={platform.machine()}")
    running = versions.linked("current")
    if running and not force and _key(described.version) < _key(running):
        raise InstallError(f"the bundle has {described.version}, older than {running}, which runs; --force, or dofbot rollback")
    return described


def _prepare(versions: Versions, bundle: Path, described: Manifest, say: Say, lock: int) -> list[dict[str, object]]:
    steps = provision.carry_out(provision.plan(versions.root, bundle), False, say)
    if any(step["state"] == "did" for step in steps):
        provision.take_effect(versions.root)
    if described.name in versions.names():
        say(f"done  version: {versions.path(described.name)}")
        return steps
    python = provision.fetch_python(versions.root, described.python, say)
    folder = versions.path(described.name)
    _check_space(versions, described)
    say(f"installing into {folder}")
    try:
        _build(folder, bundle, python, lock)
        _check_unchanged(bundle, described)
        versions.complete(
            described.name, {"version": described.version, "installed_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
        )
    except BaseException as error:
        with suppress(OSError):
            shutil.rmtree(folder)
        if isinstance(error, OSError):
            raise InstallError(
                f"{folder} cannot be written ({error.strerror or error}); free some space, the old version runs on"
            ) from None
        raise
    say(f"did   version: {folder}")
    return steps


def _build(folder: Path, bundle: Path, python: Path, lock: int) -> None:
    """The version as a virtual environment, from the bundle's wheels alone, each with its hash; then a first look at the policy."""
    pip = next((bundle / "wheels").glob("pip-*.whl"))
    environment = {"PATH": os.environ.get("PATH", os.defpath), "PYTHONPATH": str(pip), "PIP_CONFIG_FILE": os.devnull, "LANG": "C.UTF-8"}
    inside = str(folder / "bin" / "python")
    options = ["--isolated", "install", "--quiet", "--no-index", "--no-cache-dir", "--no-compile", "--disable-pip-version-check"]
    _run([str(python), "-m", "venv", "--without-pip", "--clear", str(folder)], environment, lock)
    wheels = ["--require-hashes", "--find-links", str(bundle / "wheels"), "--requirement", str(bundle / "requirements.txt")]
    _run([inside, "-m", "pip", *options, *wheels], environment, lock)
    # With all cores, where pip takes one. The service itself could not: its sandbox lets it write nothing here.
    _run([inside, "-m", "compileall", "-q", "-j", "0", "-x", _NEVER_IMPORTED, str(folder / "lib")], environment, lock)
    for name in _COPIED:
        shutil.copyfile(bundle / name, folder / name)
    shutil.copytree(bundle / "system", folder / "system")
    _run([inside, "-I", "-m", "firmware_tools.probe", str(folder / "policy.onnx")], environment, lock)


def _check_unchanged(bundle: Path, described: Manifest) -> None:
    """Another deployment copies into the same folder: what was checked before may not be what was installed."""
    with suppress(manifest.DamagedError):
        if manifest.check(bundle) == described:
            return
    raise InstallError(f"{bundle} changed while it was being installed, expected one deployment at a time; run it again after the other")


def _run(command: list[str], environment: dict[str, str], lock: int) -> None:
    result = subprocess.run(command, env=environment, capture_output=True, text=True, pass_fds=(lock,), check=False)
    if result.returncode == EXIT_ILLEGAL_INSTRUCTION:
        raise InstallError(
            f"{command[0]} died of an illegal instruction: a wheel is made for a newer processor than this {platform.machine()}; "
            "make a bundle with other versions of numpy and onnxruntime"
        )
    if result.returncode:
        said = (result.stderr.strip() or result.stdout.strip() or f"nothing, exit code {result.returncode}").splitlines()[-1]
        hint = "free some space; " if "No space left" in result.stderr + result.stdout else ""
        raise InstallError(f"{Path(command[0]).name} {' '.join(command[1:4])} … failed: {said}; {hint}the version that runs goes on")


def _check_space(versions: Versions, described: Manifest) -> None:
    wanted, free = described.installed_bytes + SPARE_BYTES, shutil.disk_usage(versions.folder).free
    if free < wanted:
        raise InstallError(f"{versions.folder} has {free >> 20} MB free, expected {wanted >> 20} MB; free some space")


def _key(version: str) -> tuple[int, ...]:
    """The release's numbers, to compare: a candidate, 0.2.0rc1, is no older than its release, and an installed version has a digest."""
    return tuple(map(int, re.findall(r"\d+", re.split(r"[^\d.]", version, maxsplit=1)[0])))


def _perform(asked: argparse.Namespace, versions: Versions, say: Say) -> object:
    match asked.verb:
        case "install":
            return install(versions, asked.bundle, say, asked.force)
        case "provision":
            return prepare(versions, asked.bundle, say, asked.dry_run)
        case "rollback":
            return rollback(versions, say)
        case "recover":
            with versions.locked():
                return {"recovered": bool(recover(versions, say, asked.boot))}
        case _:
            return versions.describe()


def main(arguments: list[str] | None = None) -> int:
    """The command line, on the robot."""
    parser = argparse.ArgumentParser("install.py", description="Install this bundle, or change which installed version runs.")
    parser.add_argument("verb", choices=["install", "provision", "rollback", "releases", "recover"])
    parser.add_argument("--bundle", type=Path, help="folder of the unpacked bundle; install.py knows its own")
    parser.add_argument("--root", type=Path, default=Path("/"), help="install below this folder instead of /")
    parser.add_argument("--dry-run", action="store_true", help="provision: only say what would be done")
    parser.add_argument("--force", action="store_true", help="install: an older version, too")
    parser.add_argument("--boot", action="store_true", help="recover: the service is not started yet")
    parser.add_argument("--json", action="store_true", help="the result as JSON on the last line of stdout, progress on stderr")
    asked = parser.parse_args(arguments)
    if asked.verb in ("install", "provision") and not asked.bundle:
        parser.error(f"{asked.verb} needs --bundle, or is run as install.py of an unpacked bundle")
    os.umask(0o022)  # the service is another user, whatever whoever logged in keeps from others
    prints = asked.json or asked.verb == "releases"
    return remote.answer(lambda say: _checked(asked, say), asked.json, prints)


def _checked(asked: argparse.Namespace, say: Say) -> object:
    if asked.root == Path("/") and os.geteuid() and asked.verb != "releases" and not asked.dry_run:
        raise InstallError("this changes the system, expected root; run it with sudo")
    return _perform(asked, Versions(asked.root.resolve()), say)


if __name__ == "__main__":
    sys.exit(main())
