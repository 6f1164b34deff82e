"""Files and links that are whole or not there, and a lock for whoever changes them."""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

SERVICE_RUNTIME = Path("/run/dofbot-grasp")  # $RUNTIME_DIRECTORY of dofbot-grasp.service, kept while it is stopped
_BETWEEN_TRIES_S = 0.05


def write_atomically(path: Path, data: bytes) -> None:
    """After a crash, a power cut or with a full disk `path` holds the old content or the new, whole. Raises `OSError`."""
    temporary = path.parent / f".{path.name}.{os.getpid()}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)
        with temporary.open("xb") as file:  # follows no link
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    finally:
        with contextlib.suppress(OSError):  # gone already, or never there; the error says more
            temporary.unlink()


def link_atomically(path: Path, target: Path | None) -> None:
    """Let `path` be a link to `target`, or not there: before or after, never in between. Raises `OSError`."""
    if target is None:
        path.unlink(missing_ok=True)
    else:
        temporary = path.parent / f".{path.name}.{os.getpid()}"
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(target)
        temporary.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """The names in it are on the disk only after this."""
    directory = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


@contextlib.contextmanager
def locked(folder: Path, wait_s: float) -> Iterator[int]:
    """Make `folder`, and be the only one to change it; gives the lock's descriptor. Raises `TimeoutError`."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        deadline_s = time.monotonic() + wait_s
        while not _try_lock(lock):
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"{folder} has been locked for {wait_s:g} s")
            time.sleep(_BETWEEN_TRIES_S)
        yield lock
    finally:
        os.close(lock)


def _try_lock(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
