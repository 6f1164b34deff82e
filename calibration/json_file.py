"""A typed value in a JSON file of its own, whole or not there."""

from pathlib import Path
from typing import Any

import msgspec

from edge.errors import ConfigError
from edge.files import write_atomically


def save(path: Path, value: msgspec.Struct, name: str) -> None:
    """Write it; raises `ConfigError`, in which `name` is what the file is called."""
    try:
        write_atomically(path, msgspec.json.format(msgspec.json.encode(value)) + b"\n")
    except OSError as error:
        raise ConfigError(f"{name} {path} cannot be written ({error.strerror}); give a path that you may write to") from None


def load(path: Path, kind: Any, name: str, remedy: str) -> Any:
    """Read one of type `kind`; raises `ConfigError` with the remedy."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except OSError as error:
        raise ConfigError(f"{name} {path} cannot be read ({error.strerror}); {remedy}") from None
    except (ValueError, RecursionError) as error:  # ValueError: msgspec's own errors, and invalid UTF-8
        raise ConfigError(f"{name} {path} is damaged or not ours ({error}); {remedy}") from None
