"""Packs everything that a robot needs into one file: the wheel, all wheels it depends on, policy, configuration, units, installer.

The same tree and the same lock give the same bytes: files are sorted, and all carry the date of the last commit.
"""

import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from edge.errors import InstallError
from firmware_tools import manifest

ROOT = Path(__file__).parents[1]
LOCK = ROOT / "requirements" / "pi.lock"
POLICY = ROOT / "trainer" / "results" / "policy.onnx"
PYTHON = "3.12"  # the one that pyrealsense2 has an aarch64 wheel for
CAMERA = "pyrealsense2"
SUFFIX = ".tar.zst"
MAX_BYTES = 150_000_000
ARCHES = ("aarch64", "x86_64")
# Trixie has glibc 2.41 and Ubuntu 24.04 2.39; wheels for any older one load there, too.
PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014", "manylinux1")
UNITS = ("dofbot-grasp.service", "dofbot-grasp-recover.service", "dofbot-grasp-undo.service")
SYSTEM = (*UNITS, "dofbot-grasp.sysusers.conf", "99-dofbot.rules")
LEVEL = 10  # wheels are compressed already
EPOCH_WITHOUT_GIT = 1_577_836_800  # 2020-01-01: a zip file knows no year before 1980


def build(folder: Path, arch: str, policy: Path, say: Callable[[str], None], python: str = PYTHON) -> Path:
    """Write `folder`/dofbot-grasp-VERSION-ARCH.tar.zst and return its path; raises `InstallError`.

    For another Python than 3.12, such as a distribution's own, the camera's library stays out.
    """
    if not policy.is_file():  # before minutes are spent
        raise InstallError(f"{policy} is not there, expected what dofbot export wrote; give another --policy")
    try:
        path = _build(folder, arch, policy, say, python)
    except OSError as error:
        raise InstallError(f"{error.filename or folder}: {error.strerror or error}; mend that and run it again") from None
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise InstallError(f"{path} has {size / 1e6:.0f} MB, expected at most {MAX_BYTES / 1e6:.0f} MB; look at what {LOCK.name} brings")
    return path


def _build(folder: Path, arch: str, policy: Path, say: Callable[[str], None], python: str) -> Path:
    date_s = _date_s()
    with tempfile.TemporaryDirectory() as temporary:
        content = Path(temporary) / "content"
        wheels = content / "wheels"
        wheels.mkdir(parents=True)
        say("building the wheel")
        version = build_wheel(wheels, date_s).name.split("-")[1]
        say(f"fetching the wheels of {LOCK.name} for {arch}")
        _download(wheels, arch, python)
        assemble(content, policy)
        unpacked = sum(_unpacked_bytes(wheel) for wheel in wheels.iterdir())
        manifest.write(content, version, arch, python, unpacked)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"dofbot-grasp-{version}-{arch}{SUFFIX}"
        say(f"packing {path}")
        pack(content, path, date_s)
    return path


def assemble(content: Path, policy: Path) -> None:
    """What lies beside the wheels."""
    package = Path(__file__).parent
    (content / "system").mkdir()
    for name in SYSTEM:
        shutil.copyfile(package / name, content / "system" / name)
    shutil.copyfile(package / "config.toml", content / "config.toml")
    shutil.copyfile(package / "manifest.py", content / "install.py")
    shutil.copyfile(policy, content / "policy.onnx")
    wheels = sorted(path for path in (content / "wheels").iterdir() if not path.name.startswith("pip-"))
    lines = (f"{'=='.join(wheel.name.split('-')[:2])} --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}\n" for wheel in wheels)
    (content / "requirements.txt").write_text("".join(lines))


def pack(content: Path, path: Path, date_s: int) -> None:
    """One reproducible archive of a folder; there whole, or not at all."""
    import zstandard

    name = path.name.removesuffix(SUFFIX)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with (
            partial.open("wb") as file,
            zstandard.ZstdCompressor(level=LEVEL, write_checksum=True).stream_writer(file) as stream,
            tarfile.open(fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT) as archive,
        ):
            for member in sorted(member for member in content.rglob("*") if member.is_file()):
                entry = tarfile.TarInfo(f"{name}/{member.relative_to(content).as_posix()}")
                entry.size, entry.mtime, entry.mode = member.stat().st_size, date_s, 0o644
                with member.open("rb") as data:
                    archive.addfile(entry, data)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def unpacked(path: Path) -> Iterator[Path]:
    """A bundle's content, checked file by file, in a folder that is gone afterwards; raises `InstallError`."""
    import zstandard

    with tempfile.TemporaryDirectory() as temporary:
        try:
            with (
                path.open("rb") as file,
                zstandard.ZstdDecompressor().stream_reader(file) as stream,
                tarfile.open(fileobj=io.BufferedReader(stream), mode="r|") as archive,
            ):
                archive.extractall(temporary, filter="data")
            folders = list(Path(temporary).iterdir())
            if len(folders) != 1:
                raise InstallError(f"{path} holds {len(folders)} folders, expected one; make bundle")
            manifest.check(folders[0])
        except FileNotFoundError:
            raise InstallError(f"{path} is not there, expected a bundle; make bundle") from None
        except OSError as error:
            raise InstallError(f"{path} cannot be unpacked in {temporary} ({error.strerror}); mend that and run it again") from None
        except (EOFError, ValueError, tarfile.TarError, zstandard.ZstdError) as error:
            raise InstallError(f"{path} cannot be unpacked ({error}), expected what make bundle wrote; make it again") from None
        except manifest.DamagedError as error:
            raise InstallError(f"{path}: {error}") from None
        yield folders[0]


def build_wheel(folder: Path, date_s: int) -> Path:
    """The working tree as a wheel, built from a copy: a build folder left in the tree would add files that are gone."""
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary) / "tree"
        ignored = shutil.ignore_patterns(".*", "build", "dist", "out", "tests", "docs", "__pycache__", "*.egg-info")
        shutil.copytree(ROOT, copy, ignore=ignored)
        _pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(copy), date_s=date_s)
    return next(folder.glob(f"{manifest.PACKAGE}-*.whl"))


def _download(folder: Path, arch: str, python: str) -> None:
    if not LOCK.exists():
        raise InstallError(f"{LOCK} is not there: bundles are made from a working tree, expected a clone; run make bundle in it")
    platforms = [f"--platform={platform}_{arch}" for platform in PLATFORMS]
    tags = ["--python-version", python, "--implementation", "cp", "--abi", f"cp{python.replace('.', '')}", "--abi", "abi3", "--abi", "none"]
    options = ["--no-deps", "--require-hashes", "--only-binary=:all:", *platforms, *tags]
    pins = re.split(r"^(?=\w)", LOCK.read_text(), flags=re.M)
    chosen = folder.parent / "chosen.lock"
    chosen.write_text("".join(pin for pin in pins if python == PYTHON or not pin.startswith(CAMERA)))
    _pip("download", *options, "--dest", str(folder), "--requirement", str(chosen))
    chosen.unlink()


def _pip(verb: str, *arguments: str, date_s: int | None = None) -> None:
    environment = os.environ if date_s is None else {**os.environ, "SOURCE_DATE_EPOCH": str(date_s)}
    command = [sys.executable, "-m", "pip", verb, "--quiet", "--disable-pip-version-check", *arguments]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if result.returncode:
        errors = [line for line in result.stderr.splitlines() if line.startswith("ERROR")] or ["no error message"]
        raise InstallError(f"pip {verb} failed ({errors[-1]}), expected a network and a whole {LOCK.name}; mend that and run it again")


def _date_s() -> int:
    """When the tree was last committed."""
    try:
        command = ["git", "-C", str(ROOT), "log", "-1", "--format=%ct"]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    except (OSError, ValueError, subprocess.CalledProcessError):
        return EPOCH_WITHOUT_GIT


def _unpacked_bytes(wheel: Path) -> int:
    with zipfile.ZipFile(wheel) as archive:
        return sum(member.file_size for member in archive.infolist())
