"""What is in a bundle, file by file with its SHA-256. The standard library alone: a robot checks a bundle before it imports any of it.

The bundle's `install.py` is this file: it checks its own folder, and only then runs the installer out of the wheel that lies there.
A signature of `manifest.json` has its place beside it, in `manifest.json.sig`; the manifest lists neither.
"""

import hashlib
import json
import sys
from pathlib import Path
from typing import NamedTuple

SCHEMA_VERSION = 1
MANIFEST, SIGNATURE = "manifest.json", "manifest.json.sig"
PACKAGE = "dofbot_grasp"  # as its wheel is called
OLDEST_PYTHON = (3, 11)  # that the installer runs with


class DamagedError(Exception):
    """A bundle that is not as it was packed; the text is one sentence."""


class Manifest(NamedTuple):
    """One version of the package for one kind of machine."""

    version: str
    arch: str  # as `uname -m` has it: aarch64, x86_64
    python: str  # '3.12'
    installed_bytes: int  # that the wheels take unpacked
    files: dict[str, str]  # path in the bundle: SHA-256
    digest: str  # SHA-256 of the manifest itself

    @property
    def name(self) -> str:
        """What the installed version is called: two builds of one version lie beside each other, too."""
        return f"{self.version}-{self.digest[:8]}"


def write(folder: Path, version: str, arch: str, python: str, installed_bytes: int) -> None:
    """Describe all files in `folder`."""
    document = {
        "schema_version": SCHEMA_VERSION,
        "package": PACKAGE,
        "version": version,
        "arch": arch,
        "python": python,
        "installed_bytes": installed_bytes,
        "files": {path: _sha256(folder / path) for path in _listed(folder)},
    }
    (folder / MANIFEST).write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")


def read(folder: Path) -> Manifest:
    """The manifest alone, without a look at the files; raises `DamagedError`."""
    path = folder / MANIFEST
    try:
        data = path.read_bytes()
        document = json.loads(data)
        found = document["schema_version"]
        if found != SCHEMA_VERSION:
            raise DamagedError(f"{path} has schema_version {found}, expected {SCHEMA_VERSION}; take a bundle and a robot of one release")
        version, arch, python = (str(document[key]) for key in ("version", "arch", "python"))
        files = {str(name): str(digest) for name, digest in document["files"].items()}
        return Manifest(version, arch, python, int(document["installed_bytes"]), files, hashlib.sha256(data).hexdigest())
    except OSError as error:
        raise DamagedError(f"{path} cannot be read ({error.strerror}), expected an unpacked bundle; copy it again") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise DamagedError(f"{path} is damaged, expected what make bundle wrote; copy the bundle again") from None


def check(folder: Path) -> Manifest:
    """The manifest, after each file was hashed; raises `DamagedError` that names the first that is missing, altered or not listed."""
    manifest = read(folder)
    for name, digest in sorted(manifest.files.items()):
        try:
            found = _sha256(folder / name)
        except OSError as error:
            raise DamagedError(f"{folder / name} cannot be read ({error.strerror}), expected it in the bundle; copy it again") from None
        if found != digest:
            raise DamagedError(f"{folder / name} has SHA-256 {found[:12]}…, expected {digest[:12]}…: altered or cut short; copy it again")
    if extra := set(_listed(folder)) - set(manifest.files):
        raise DamagedError(f"{folder / min(extra)} is not in the manifest, expected only what was packed; unpack it into a new folder")
    return manifest


def _listed(folder: Path) -> list[str]:
    paths = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())
    return sorted(path for path in paths if path not in (MANIFEST, SIGNATURE))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _main() -> int:
    folder = Path(__file__).resolve().parent
    if sys.version_info < OLDEST_PYTHON:
        wanted = ".".join(map(str, OLDEST_PYTHON))
        print(f"install.py: this is Python {sys.version.split()[0]}, expected {wanted} or newer; run it with that", file=sys.stderr)
        return 2
    try:
        check(folder)
    except DamagedError as error:
        print(f"install.py: {error}", file=sys.stderr)
        return 1
    sys.path.insert(0, str(next((folder / "wheels").glob(f"{PACKAGE}-*.whl"))))
    from firmware_tools.install import main

    return main([*sys.argv[1:], "--bundle", str(folder)])


if __name__ == "__main__":
    sys.exit(_main())
