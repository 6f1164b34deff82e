"""Keeps a policy on the robot, tries it beside the one that runs, and has the running process go over to it between two grasps.

On the robot, in the version that runs: `python -m firmware_tools.policy_install push FILE`. Started as root it takes the file, and
then is the service's user, who owns the slots. Whatever ends this process, and whenever: the old policy or the new one is whole and
runs. Where `active` and the process differ afterwards, the next call brings them together.
"""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec

import urdf
from edge import config as configuration
from edge.config import Config
from edge.contract_check import Expectation
from edge.errors import InstallError, NotListeningError, PolicyError, RefusedError
from edge.policies import signature
from edge.policies.policy_slots import BUNDLED, NAME_DIGITS, PolicySlots, Trial
from edge.policies.shadow import shadow
from edge.policy import Policy, digest, load, read
from edge.remote.commands import Accepted, Refused, Status, StatusReport, SwapPolicy
from edge.remote.control_client import REPLY_MAX_S, ControlClient
from edge.remote.control_socket import AUTO
from edge.remote.orders import SWAP_WITHIN_S
from firmware_tools import remote
from firmware_tools.provision import CONFIG

Say = Callable[[str], None]
ANSWER_WITHIN_S = SWAP_WITHIN_S + 10.0  # it reads the file first


class Installer:
    """One robot's policies, from outside the process that uses them."""

    def __init__(self, settings: Config, say: Say) -> None:
        self._settings = settings
        self._say = say
        self.slots = PolicySlots(settings)

    def push(self, data: bytes, signed: bytes | None, force: bool) -> dict[str, object]:
        """Keep a policy and go over to it; raises `PolicyError` or `OSError` with nothing changed but, at most, one more slot."""
        sha256 = digest(data)
        signature.check(signed, sha256, self._settings.policy)
        with self.slots.locked():
            is_new = sha256[:NAME_DIGITS] not in self.slots.names()
            name = self.slots.keep(data, signed)
            try:
                return self._activate(name, force)
            except PolicyError:
                if is_new:
                    self.slots.remove(name)
                raise
            finally:
                self.slots.tidy()

    def activate(self, name: str, force: bool = False) -> dict[str, object]:
        """Go over to a policy that is kept; `name` may be its beginning."""
        found = [one for one in [BUNDLED, *self.slots.names()] if name and one.startswith(name)]
        if len(found) != 1:
            raise PolicyError(f"{name!r} fits {len(found)} of the policies that are kept, expected one; dofbot policy list")
        with self.slots.locked():
            self.slots.vouched(self.slots.path(found[0]))
            return self._activate(found[0], force)

    def rollback(self) -> dict[str, object]:
        """Go back to the policy before; there is no trial then."""
        with self.slots.locked():
            self._settle()
            active, previous = self.slots.active, self.slots.linked("previous")
            if previous == active:
                raise PolicyError(f"there is no policy before {active}, expected one; dofbot policy list")
            self.slots.vouched(self.slots.path(previous))
            return self._switch(previous, None)

    def describe(self) -> list[dict[str, object]]:
        """What `dofbot policy list` shows."""
        active, previous, trial, running = self.slots.active, self.slots.linked("previous"), self.slots.trial(), self._running()
        return [
            {
                "name": name,
                "is": "active" if name == active else "previous" if name == previous and previous != active else "",
                "runs": running is not None and self.slots.name_of(running) == name,
                "signed_at": manifest.signed_at.isoformat(timespec="seconds") if (manifest := self.slots.manifest(name)) else "",
                "trial": msgspec.to_builtins(trial) if trial and trial.to == name else None,
            }
            for name in [BUNDLED, *self.slots.names()]
        ]

    def _activate(self, name: str, force: bool) -> dict[str, object]:
        self._settle()
        active = self.slots.active
        if not force:
            self._check_age(name, active)
        if name == active:
            return {"policy": name, "before": active, "running": self._running() is not None, "shadow": {}}
        tried = self._try(name)
        trial = Trial(name, active, self.slots.linked("previous"))
        return {**self._switch(name, trial), "shadow": tried}

    def _switch(self, name: str, trial: Trial | None) -> dict[str, object]:
        """First the link, then the process: killed in between, it starts with the new one, or is told the next time."""
        before, interrupted = self.slots.active, self.slots.running_trial()
        if trial is not None and name != BUNDLED:
            self.slots.note(trial)
        self.slots.point("active", name)
        try:
            running = self._swap(name)
        except BaseException:
            self.slots.point("active", before)
            if interrupted is not None:
                self.slots.note(interrupted)
            raise
        self.slots.point("previous", before)
        return {"policy": name, "before": before, "running": running}

    def _settle(self) -> None:
        """What a killed call has left: the process goes over to `active`, or `active` goes back to what it runs."""
        running = self._running()
        if running is None or self.slots.name_of(running) == self.slots.active:
            return
        self._say(f"the process runs {running[:NAME_DIGITS]}, but {self.slots.active} is active: an earlier switch was not seen through")
        try:
            self._swap(self.slots.active)
        except (PolicyError, RefusedError):
            if not (name := self.slots.name_of(running)):
                raise
            self.slots.point("active", name)

    def _check_age(self, name: str, active: str) -> None:
        new, old = self.slots.manifest(name), self.slots.manifest(active)
        if new is not None and old is not None and new.signed_at < old.signed_at:
            when, before = (f"{one.signed_at:%Y-%m-%d %H:%M:%S} UTC" for one in (new, old))
            raise PolicyError(
                f"{name} was signed at {when}, before the active {active} ({before}), expected a newer one; --force, or policy rollback"
            )

    def _try(self, name: str) -> dict[str, object]:
        """The contract against this robot and against what runs, then the shadow run."""
        policy = self._load(name)
        self._say(f"{name} fits this robot; shadow run")
        found = shadow(policy)
        self._say(f"{found.runs} decisions, all finite, p99 {found.p99_s * 1e3:.2f} ms; golden vectors to {found.golden_error:.1g}")
        try:
            active = self._load(self.slots.active)
        except PolicyError:
            return found._asdict()  # damaged, or slow just now; the process compares for itself
        if policy.contract.task != active.contract.task:
            raise PolicyError(
                f"{name} is for another task, camera or robot than {self.slots.active}, which is active, expected the same; "
                "give it to run.policy in a bundle: make deploy"
            )
        return found._asdict()

    def _load(self, name: str) -> Policy:
        return load(self.slots.path(name), Expectation(self._settings.mount, urdf.dofbot_sha256()))

    def _running(self) -> str | None:
        """The digest of the policy in the running process; None: none runs."""
        try:
            with self._client() as client:
                report = client.ask(Status())
        except NotListeningError:
            return None
        return report.policy_sha256 if isinstance(report, StatusReport) else None

    def _swap(self, name: str) -> bool:
        """Have the running process go over, once a grasp has ended; returns whether there is one. Raises `RefusedError`."""
        try:
            with self._client() as client:
                ticket = client.send(SwapPolicy(path=str(self.slots.path(name).resolve())))
                reply = client.receive(ticket, REPLY_MAX_S)
                if isinstance(reply, Accepted):
                    self._say(f"the process reads {name}, and goes over to it between two grasps")
                    reply = client.receive(ticket, ANSWER_WITHIN_S)
        except NotListeningError:
            return False
        if isinstance(reply, Refused):
            raise RefusedError(f"{reply.reason}; the policy that runs goes on")
        if reply is None:
            raise RefusedError("the process gave no answer, expected one; look at: journalctl -u dofbot-grasp")
        return True

    def _client(self) -> ControlClient:
        socket = self._settings.control.socket
        return ControlClient(None if socket in ("", AUTO) else Path(socket))


def local(root: Path, say: Say) -> Installer:
    """This machine's policies, as the user who owns them."""
    settings = configuration.load(root / CONFIG)
    if settings.policy.folder:
        _become_owner(Path(settings.policy.folder).parent)
    return Installer(settings, say)


def _become_owner(folder: Path) -> None:
    """From root to whoever owns the service's folder, for good: files that another user can write to are no place for root."""
    try:
        owner = folder.stat()
    except OSError as error:
        raise InstallError(
            f"{folder} is not there ({error.strerror}), expected what the service makes: sudo systemctl start dofbot-grasp"
        ) from None
    if os.geteuid() == 0 and owner.st_uid != 0:
        os.setgroups([])
        os.setgid(owner.st_gid)
        os.setuid(owner.st_uid)
    if not os.access(folder, os.R_OK | os.X_OK):  # else what lies in it would be taken not to be there
        raise InstallError(f"{folder} is closed to this user, expected root, or a member of its group; as root: sudo dofbot policy …")


def _read_incoming(path: Path) -> tuple[bytes, bytes | None]:
    """A policy and its signature, if there is one beside it. Raises `PolicyError`, or `OSError`."""
    signed = path.with_name(path.name + signature.SUFFIX)
    if not signed.exists():
        return read(path), None
    with signed.open("rb") as file:
        return read(path), file.read(signature.MAX_BYTES + 1)


def perform(arguments: list[str], say: Say, root: Path = Path("/")) -> object:
    """One verb, here; returns its result."""
    return _perform(_parser().parse_args([*arguments, "--root", str(root)]), say)


def _perform(asked: argparse.Namespace, say: Say) -> object:
    if asked.verb == "push":
        data, signed = _read_incoming(Path(asked.what))  # with the rights of whoever logged in
        return local(asked.root, say).push(data, signed, asked.force)
    installer = local(asked.root, say)
    match asked.verb:
        case "activate":
            return installer.activate(asked.what, asked.force)
        case "rollback":
            return installer.rollback()
        case _:
            return installer.describe()


def main(arguments: list[str] | None = None) -> int:
    """The command line, on the robot."""
    asked = _parser().parse_args(arguments)
    return remote.answer(lambda say: _perform(asked, say), asked.json, True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("policy_install", description="Keep, try, and go over to policies.")
    parser.add_argument("verb", choices=["push", "list", "activate", "rollback"])
    parser.add_argument("what", nargs="?", default="", help="push: the policy's file; activate: the policy's name")
    parser.add_argument("--root", type=Path, default=Path("/"), help="where etc/dofbot-grasp/config.toml is below")
    parser.add_argument("--force", action="store_true", help="an older policy, too")
    parser.add_argument("--json", action="store_true", help="the result as JSON on the last line of stdout, progress on stderr")
    return parser


if __name__ == "__main__":
    sys.exit(main())
