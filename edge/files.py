"""Files that are whole or not there."""

import contextlib
import os
from pathlib import Path


def write_atomically(path: Path, data: bytes) -> None:
    """After a crash, a power cut or with a full disk `path` holds the old content or the new, whole. Raises `OSError`."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)  # the new name is on the disk only after this
        finally:
            os.close(directory)
    finally:
        with contextlib.suppress(OSError):  # gone already, or never there; the error says more
            temporary.unlink()
