"""The versions that lie side by side on a robot, and the one link that says which of them runs.

    /opt/dofbot-grasp/releases/0.1.0-3f2a91bc/   a version, complete once it has its installed.json
    /opt/dofbot-grasp/current, previous          links to two of them
    /opt/dofbot-grasp/switch.json                there from before a switch until the new version has proved healthy

A process that dies leaves the old link or the new one. While switch.json is there nobody has vouched for the new one: `pending` tells
whoever comes next, at the next run or the next boot, what to go back to. The standard library alone.
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from edge.errors import InstallError
from edge.files import link_atomically, locked, sync_folder, write_atomically

PREFIX = Path("opt/dofbot-grasp")
INSTALLED, HEALTH = "installed.json", "health.json"
LOCK_WAIT_S = 30.0


class Switch(NamedTuple):
    """A switch that nobody has vouched for yet: what `current` and `previous` were, and what was switched to."""

    current: str
    previous: str
    to: str


class Versions:
    """The versions below `root`, which is `/` on a robot."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / PREFIX
        self.releases = self.folder / "releases"
        self._switch = self.folder / "switch.json"

    @contextmanager
    def locked(self) -> Iterator[int]:
        """One installer at a time; raises `InstallError` when another one does not end.

        Pass the descriptor to child processes: what a killed installer has left running keeps the lock until it has ended, too.
        """
        try:
            with locked(self.folder, LOCK_WAIT_S) as lock:
                yield lock
        except TimeoutError:
            raise InstallError(f"another installation has been running for {LOCK_WAIT_S:g} s; wait for it, or see: ps -ef") from None

    def path(self, name: str) -> Path:
        """Where a version lies."""
        return self.releases / name

    def names(self) -> list[str]:
        """The complete versions, oldest installation first."""
        complete = self.releases.glob(f"*/{INSTALLED}")
        return [path.parent.name for path in sorted(complete, key=lambda path: path.stat().st_mtime_ns)]

    def linked(self, link: str) -> str:
        """Which version `current` or `previous` is; empty: none."""
        try:
            return Path(os.readlink(self.folder / link)).name
        except OSError:
            return ""

    def point(self, link: str, name: str) -> None:
        """Let `current` or `previous` be this version, or none if empty: before or after, never in between."""
        link_atomically(self.folder / link, Path("releases") / name if name else None)

    def complete(self, name: str, document: dict[str, object]) -> None:
        """A version is whole: all its files are on the disk, and then the one that says so."""
        os.sync()
        write_atomically(self.path(name) / INSTALLED, json.dumps(document).encode())

    def begin(self, to: str) -> Switch:
        """Write down what to go back to."""
        switch = Switch(self.linked("current"), self.linked("previous"), to)
        write_atomically(self._switch, json.dumps(switch._asdict()).encode())
        return switch

    def pending(self) -> Switch | None:
        """The switch that was begun and not ended."""
        try:
            return Switch(**json.loads(self._switch.read_bytes()))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as error:
            raise InstallError(
                f"{self._switch} is damaged ({error}), expected what a switch leaves; see that {self.folder / 'current'} is what you want, "
                "then delete the file"
            ) from None

    def end(self) -> None:
        """The switch is over: somebody vouches for what `current` is now."""
        self._switch.unlink(missing_ok=True)
        sync_folder(self.folder)

    def note_health(self, name: str, health: dict[str, object]) -> None:
        """Keep how a version was when it was last looked at, for whoever asks."""
        write_atomically(self.path(name) / HEALTH, json.dumps(health).encode())
        (self.path(name) / HEALTH).chmod(0o644)

    def describe(self) -> list[dict[str, object]]:
        """What `dofbot releases` shows."""
        current, previous = self.linked("current"), self.linked("previous")
        return [
            {
                "name": name,
                **_document(self.path(name) / INSTALLED),
                "is": "current" if name == current else "previous" if name == previous else "",
                "health": _document(self.path(name) / HEALTH),
            }
            for name in self.names()
        ]

    def tidy(self, keep: tuple[str, ...] = ()) -> None:
        """Remove what interrupted installations have left, and with `keep` every version that is neither linked nor named."""
        for leftover in self.folder.glob(".*.[0-9]*"):
            leftover.unlink()
        wanted = {self.linked("current"), self.linked("previous"), *(keep or self.names())}
        for folder in self.releases.glob("*"):
            if folder.name not in wanted:
                with suppress(FileNotFoundError):
                    (folder / INSTALLED).unlink()  # first: half of a version must not pass for one
                shutil.rmtree(folder)


def _document(path: Path) -> dict[str, object]:
    """A small JSON file for people to look at; empty when there is none that can be read."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
