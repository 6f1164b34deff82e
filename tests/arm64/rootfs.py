"""Builds, once, an arm64 Debian root file system with nothing but Python in it; later calls find it in .cache/."""

import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from firmware_tools import bundle
from tests.systemd.rootfs import ROOT, UnavailableError, digest, into, mirror, run

CACHE = ROOT / ".cache" / "hil-arm64"
# The smallest Debian that the runtime is supported on; no camera's library for its Python, which is the one thing that a bundle then lacks.
SUITE, PYTHON = "bookworm", "3.11"
PACKAGES = "python3,systemd-standalone-sysusers"
QEMU = "qemu-aarch64-static"
BINFMT = Path("/proc/sys/fs/binfmt_misc")
HANDLER = "dofbot-arm64"
# elf(5): 64 bits, little endian, EM_AARCH64. F: the kernel opens QEMU now, so that it is found in any root.
ELF_MAGIC = r"\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00"
ELF_MASK = r"\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff"
# What a Raspberry Pi 4 says, per core. On the PC's own, onnxruntime's look for processor features ends in a segmentation fault.
CORE = """processor\t: {}
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm crc32 cpuid
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: 0xd08
CPU revision\t: 3

"""


def missing() -> str:
    """Why arm64 cannot be emulated here; empty when it can."""
    tools = {
        "debootstrap": "debootstrap",
        QEMU: "qemu-user-static",
        "unshare": "util-linux",
        "setpriv": "util-linux",
        "dpkg-deb": "dpkg",
        "apt-get": "apt",
    }
    absent = [tool for tool in tools if shutil.which(tool) is None]
    if sys.platform != "linux" or os.geteuid() != 0:
        return "needs root on Linux, for another root file system"
    if absent:
        return f"needs {', '.join(absent)}: apt install {' '.join(sorted({tools[tool] for tool in absent}))}"
    return ""


@contextmanager
def emulation() -> Iterator[None]:
    """The kernel starts arm64 programs with QEMU; as it was before, afterwards. Raises `UnavailableError` where it cannot."""
    mounted = (BINFMT / "register").exists()
    try:
        if not mounted:
            run("mount", "-t", "binfmt_misc", "binfmt_misc", str(BINFMT))
        own = not any(_is_fixed(BINFMT / name) for name in ("qemu-aarch64", HANDLER))
        if own:
            (BINFMT / "register").write_text(f":{HANDLER}:M::{ELF_MAGIC}:{ELF_MASK}:{shutil.which(QEMU)}:F")
    except (OSError, RuntimeError) as error:
        raise UnavailableError(f"the kernel takes no other programs than its own here (binfmt_misc): {error}") from None
    try:
        yield
    finally:
        if own:
            (BINFMT / HANDLER).write_text("-1")
        if not mounted:
            run("umount", str(BINFMT))


def build() -> Path:
    """The root file system's folder; nothing of the project is in it. Raises `UnavailableError` without a Debian."""
    base = CACHE / f"{SUITE}-{digest(PACKAGES.encode())}"
    if not base.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        print(f"building {base} with debootstrap: about 2 minutes, once", flush=True)
        try:
            into(base, _bootstrap)
        except RuntimeError as error:
            raise UnavailableError(f"no arm64 Debian {SUITE} could be built: {error}") from None
    return base


def packed(folder: Path) -> Path:
    """The bundle of the working tree for this root file system."""
    return bundle.build(folder, "aarch64", bundle.POLICY, lambda text: print(text, flush=True), PYTHON)


def _is_fixed(handler: Path) -> bool:
    """Whether QEMU is registered, and found in any root."""
    return handler.exists() and bool(re.search(r"^flags: \w*F", handler.read_text(), re.M))


def _bootstrap(folder: Path) -> None:
    """Packages are unpacked and not configured, which would take QEMU minutes and do nothing that Python needs."""
    options = ["--arch=arm64", "--foreign", "--variant=minbase", f"--include={PACKAGES}"]
    run("debootstrap", *options, SUITE, str(folder), *mirror())
    for archive in sorted((folder / "var/cache/apt/archives").glob("*.deb")):
        unpack = 'dpkg-deb --fsys-tarfile "$0" | tar --extract --keep-directory-symlink --directory "$1"'
        run("sh", "-c", unpack, str(archive), str(folder))
        archive.unlink()
    for name in ("passwd", "group"):  # which base-passwd's configuration would copy
        shutil.copyfile(folder / f"usr/share/base-passwd/{name}.master", folder / "etc" / name)
    for name in ("proc", "sys", "dev"):  # where debootstrap is in a container itself, it makes links of some
        if (folder / name).is_symlink():
            (folder / name).unlink()
        (folder / name).mkdir(exist_ok=True)
