"""Policies that came by themselves, kept side by side, and the link that says which one the arm works with.

    /var/lib/dofbot-grasp/policies/3f2a91bc04d7.onnx, .sig   a policy, named by its digest; whole once the .onnx is there
    /var/lib/dofbot-grasp/policies/active, previous          links to two of them; none: the version's own, run.policy
    /var/lib/dofbot-grasp/policies/trial.json                how the newest one does, and what comes back if it does not

A trial counts for what `active` is, and nothing else: one that a killed process left behind is of no effect.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

import msgspec

from edge.config import Config
from edge.errors import PolicyError
from edge.files import link_atomically, locked, write_atomically
from edge.policies import signature
from edge.policy import digest, read

BUNDLED = "bundled"  # what run.policy is called here
NAME_DIGITS = 12
KEPT = 5  # newest ones, besides those that are linked: 1 MB each
LOCK_WAIT_S = 60.0  # longer than a shadow run and a swap take


class Trial(msgspec.Struct, frozen=True):
    """How many grasps a policy has done since it was activated, what was before it, and what came of the trial."""

    to: str
    before: str
    previous: str  # what `previous` was then
    grasps: int = 0
    picked: int = 0
    verdict: Literal["", "proven", "failed"] = ""


class PolicySlots:
    """The slots of one robot. Names are those of slots, or `BUNDLED`."""

    def __init__(self, settings: Config) -> None:
        self.folder = Path(settings.policy.folder) if settings.policy.folder else None
        self._config = settings.policy
        self._bundled = Path(settings.run.policy)

    @property
    def active(self) -> str:
        """Which policy the arm works with from its next start on."""
        return self.linked("active")

    def linked(self, link: Literal["active", "previous"]) -> str:
        """Which policy a link leads to."""
        try:
            return Path(os.readlink(self._at(link))).stem if self.folder else BUNDLED
        except OSError:
            return BUNDLED

    def point(self, link: Literal["active", "previous"], name: str) -> None:
        """Let a link lead to this policy. Raises `OSError`."""
        link_atomically(self._at(link), None if name == BUNDLED else Path(f"{name}.onnx"))

    def path(self, name: str) -> Path:
        """Where a policy lies."""
        return self._bundled if name == BUNDLED else self._at(f"{name}.onnx")

    def signature_path(self, name: str) -> Path:
        """Where its signature lies, if it has one."""
        return self.path(name).with_suffix(signature.SUFFIX)

    def names(self) -> list[str]:
        """The slots, the oldest first."""
        found = sorted(self.folder.glob("[0-9a-f]*.onnx"), key=lambda path: path.stat().st_mtime_ns) if self.folder else []
        return [path.stem for path in found]

    def name_of(self, sha256: str) -> str:
        """What the policy with this digest is called here; empty: it is none of ours."""
        name = sha256[:NAME_DIGITS]
        if name in self.names():
            return name
        with suppress(PolicyError):
            return BUNDLED if digest(read(self._bundled)) == sha256 else ""
        return ""

    def vouched(self, path: Path) -> bytes:
        """The content of a policy, for the file may change: what is looked at here, and nothing else, may decide.

        Raises `PolicyError` for one that must not: unsigned, altered, or by a key that was withdrawn since. A version's own came with
        its bundle and needs no signature; nor does any where no policies are kept.
        """
        try:
            if self.folder is None:
                return read(path)
            if path.resolve() == self._bundled.resolve():
                return read(self._bundled)
            data = read(path)
            signature.check(_read_signature(path.with_suffix(signature.SUFFIX)), digest(data), self._config)
        except PolicyError as error:
            raise PolicyError(f"policy {path}: {error}") from None
        return data

    def manifest(self, name: str) -> signature.Manifest | None:
        """What was signed about a policy; None: nothing."""
        try:
            return signature.read(self.signature_path(name).read_bytes())
        except OSError:
            return None

    def keep(self, data: bytes, signed: bytes | None) -> str:
        """Keep a policy; returns its name. Raises `OSError`: it is not there then."""
        name = digest(data)[:NAME_DIGITS]
        if signed is not None:
            write_atomically(self.signature_path(name), signed)
        write_atomically(self.path(name), data)
        return name

    def remove(self, name: str) -> None:
        """Forget a policy. Raises `OSError`."""
        self.path(name).unlink(missing_ok=True)
        self.signature_path(name).unlink(missing_ok=True)

    def tidy(self) -> None:
        """Remove what killed processes have left, and all but the newest policies that no link or trial names. Hold the lock."""
        if self.folder is None or not self.folder.is_dir():
            return
        for leftover in self.folder.glob(".*.[0-9]*"):
            leftover.unlink(missing_ok=True)
        names, trial = self.names(), self.trial()
        wanted = {self.active, self.linked("previous"), *names[-KEPT:], *((trial.before, trial.previous) if trial else ())}
        signed = {path.stem for path in self.folder.glob(f"*{signature.SUFFIX}")}
        for name in ({*names} - wanted) | (signed - {*names}):
            self.remove(name)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Whoever changes the slots is alone; raises `PolicyError` where another one does not end."""
        try:
            with locked(self._at(""), LOCK_WAIT_S):
                yield
        except TimeoutError:
            raise PolicyError(f"another dofbot policy has been at work for {LOCK_WAIT_S:g} s; wait for it, or see: ps -ef") from None

    def trial(self) -> Trial | None:
        """The last trial, whether it counts or not."""
        try:
            return msgspec.json.decode(self._at("trial.json").read_bytes(), type=Trial) if self.folder else None
        except (OSError, ValueError):
            return None

    def running_trial(self) -> Trial | None:
        """The trial of what is active, if that is still on trial."""
        trial = self.trial()
        return trial if trial is not None and trial.to == self.active and not trial.verdict else None

    def note(self, trial: Trial) -> None:
        """Keep how a trial stands. Raises `OSError`. Hold the lock."""
        write_atomically(self._at("trial.json"), msgspec.json.encode(trial))

    def _at(self, name: str) -> Path:
        if self.folder is None:
            raise PolicyError(
                "policy.folder = '' keeps no policies, expected a folder; in the robot's configuration: "
                '[policy] folder = "/var/lib/dofbot-grasp/policies"'
            )
        return self.folder / name


def _read_signature(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            return file.read(signature.MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise PolicyError(f"its signature {path} is not readable ({error.strerror}), expected what came with it; push it again") from None
