"""A robot in a folder: real installer, real files, real processes; ssh, rsync, systemd and Python 3.12 are small scripts on PATH.

A version does as its policy file says: 'healthy', 'broken' (the service fails), 'mute' (runs, never healthy), 'illegal' (SIGILL).
The name of a moment in `kill_at` makes the script that is called then kill the installer that called it, once.
"""

import os
import platform
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

from firmware_tools import bundle, manifest
from firmware_tools.versions import Versions

ROOT = Path(__file__).parents[2]
MOMENTS = ("venv", "pip", "compileall", "probe", "daemon-reload", "restart", "health")
TOOLS = (f"firmware_tools/{path.name}" for path in (ROOT / "firmware_tools").glob("*.py"))
CODE = ("edge/__init__.py", "edge/errors.py", "edge/files.py", *TOOLS)
DATE_S = 1_600_000_000
SCRIPTS = {
    "python3": 'exec {python} -S "$@"\n',
    "python3.12": """
case "$*" in
*"-m venv"*) {kill} venv
    for folder; do :; done
    mkdir -p "$folder/bin" && cp "$0" "$folder/bin/python" ;;
*"-m pip"*) {kill} pip
    if [ -e {fake}/full ]; then echo 'ERROR: Could not install: [Errno 28] No space left on device' >&2; exit 1; fi
    if [ -e {fake}/meanwhile ]; then sh {fake}/meanwhile; fi
    for n in 1 2 3 4 5 6 7 8; do echo "$n" > "$(dirname "$0")/../module$n"; done
    cp {fake}/dofbot "$(dirname "$0")/dofbot" ;;
*"-m compileall"*) {kill} compileall ;;
*firmware_tools.probe*) {kill} probe
    for policy; do :; done
    if grep -q illegal "$policy"; then kill -ILL $$; fi ;;
*) shift; PYTHONPATH={root} exec {python} -S "$@" ;;
esac
""",
    "../dofbot": """
{kill} health
here=$(cd "$(dirname "$0")/.." && pwd)
if grep -q healthy "$here/policy.onnx" && [ "$(cat {fake}/running)" = "$(basename "$here")" ]
then echo '{{"healthy": true, "reason": "", "checks": []}}'
else echo '{{"healthy": false, "reason": "camera: no frame yet", "checks": []}}'; exit 1
fi
""",
    "systemctl": """
current=$(readlink {robot}/opt/dofbot-grasp/current)
case "$1" in
daemon-reload) {kill} daemon-reload; basename "$current" > {fake}/units ;;
restart) echo "$(basename "$current")" > {fake}/running.new; mv {fake}/running.new {fake}/running; {kill} restart ;;
is-failed) if grep -q broken "{robot}/opt/dofbot-grasp/$current/policy.onnx"; then echo failed; else echo active; exit 1; fi ;;
esac
""",
    "journalctl": "echo 'dofbot: the camera does not answer'\n",
    "systemd-sysusers": """
mkdir -p {robot}/etc
printf 'dofbot:x:999:\\ni2c:x:998:\\nplugdev:x:46:\\n' > {robot}/etc/group
echo 'dofbot:x:999:999::/:/bin/false' > {robot}/etc/passwd
""",
    "sudo": '[ "$1" = -n ] && shift\nexec "$@"\n',
    # Options, host, command; what it would do below / it does below the robot's folder, or not at all.
    "ssh": """
if [ -e {fake}/no_ssh ]; then echo 'ssh: connect to host pi port 22: No route to host' >&2; exit 255; fi
while [ "$1" = -o ]; do shift 2; done
shift
command=$(printf '%s' "$1" | sed -e 's# --json# --json --root {robot}#g' -e 's# /opt/dofbot-grasp# {robot}/opt/dofbot-grasp#g')
if [ -e {fake}/no_rsync ]; then command=$(printf '%s' "$command" | sed 's/command -v rsync/true/'); fi
case "$command" in *--root*|*uname*) ;; *) echo 'not without --root' >&2; exit 99 ;; esac
cd {home} && sh -c "$command"
code=$?
if [ -e {fake}/breaks ]; then echo 'Connection reset by peer' >&2; exit 255; fi
exit $code
""",
    "rsync": """
while [ $# -gt 2 ]; do shift; done
if [ -e {fake}/cut ]; then rm {fake}/cut; echo 'rsync error: timeout in data send/receive (code 30)' >&2; exit 30; fi
target={home}/${{2#*:}}
rm -rf "$target" && cp -r "$1" "$target"
if [ -e {fake}/flip ]; then printf X >> "$target/policy.onnx"; fi
""",
}


class Robot:
    """One robot below `folder`, and what is needed to reach it."""

    def __init__(self, folder: Path) -> None:
        self.root, self.home, self.fake = folder / "robot", folder / "home", folder / "fake"
        self.versions = Versions(self.root)
        bin_folder = self.fake / "bin"
        for path in (self.root / "etc", self.home, bin_folder, self.root / "boot" / "firmware"):
            path.mkdir(parents=True)
        (self.root / "boot" / "firmware" / "config.txt").write_text("dtparam=i2c_arm=on,i2c_arm_baudrate=400000\n")
        killer = f'kill_at() {{ if [ "$(cat {self.fake}/kill_at 2>/dev/null)" = "$1" ]; then rm {self.fake}/kill_at; kill -9 $PPID; fi; }}'
        places = {"python": sys.executable, "root": ROOT, "robot": self.root, "home": self.home, "fake": self.fake, "kill": "kill_at"}
        for name, text in SCRIPTS.items():
            script = bin_folder / name
            script.write_text(f"#!/bin/sh\n{killer}\n{text.format(**places)}")
            script.chmod(0o755)
        self.path = f"{bin_folder}:/usr/bin:/bin"

    def bundle(self, version: str, does: str = "healthy", arch: str = platform.machine(), installed_bytes: int = 1_000_000) -> Path:
        """A bundle whose installer is the real one."""
        content = self.fake / "content"
        shutil.rmtree(content, ignore_errors=True)
        (content / "wheels").mkdir(parents=True)
        with zipfile.ZipFile(content / "wheels" / f"dofbot_grasp-{version}-py3-none-any.whl", "w") as wheel:
            for name in CODE:
                wheel.write(ROOT / name, name)
        (content / "wheels" / "pip-1.0-py3-none-any.whl").write_bytes(b"")
        (self.fake / "policy").write_text(does)
        bundle.assemble(content, self.fake / "policy")
        manifest.write(content, version, arch, "3.12", installed_bytes)
        path = self.fake.parent / f"dofbot-grasp-{version}-{arch}{bundle.SUFFIX}"
        bundle.pack(content, path, DATE_S)
        return path

    def unpack(self, path: Path) -> Path:
        """The bundle as it lies on the robot; its folder and the installed version's name."""
        folder = self.home / path.name.removesuffix(bundle.SUFFIX)
        with bundle.unpacked(path) as content:
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(content, folder)
        return folder

    def start(self, *command: object) -> "subprocess.Popen[str]":
        """One of the installer's verbs, as the robot runs it."""
        environment = {**os.environ, "PATH": self.path}
        line = ["python3", "-B", *map(str, command), "--root", str(self.root), "--json"]
        return subprocess.Popen(line, cwd=self.home, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def deploy(self, path: Path) -> "subprocess.Popen[str]":
        """`dofbot deploy`, on the workstation; it leads a process group, in which what it has begun on the robot stays."""
        environment = {**os.environ, "PATH": self.path, "PYTHONPATH": str(ROOT)}
        code = "import pathlib, sys; from firmware_tools.deploy import deploy; deploy('pi@robot', pathlib.Path(sys.argv[1]), True, print)"
        line = [sys.executable, "-c", code, str(path)]
        quiet = subprocess.DEVNULL
        return subprocess.Popen(line, env=environment, stdout=quiet, stderr=quiet, text=True, start_new_session=True)

    def run(self, *command: object) -> tuple[int, str, str]:
        """Exit code, stdout, stderr."""
        process = self.start(*command)
        out, errors = process.communicate(timeout=60)
        return process.returncode, out, errors

    def install(self, path: Path, *options: str) -> tuple[int, str, str]:
        """`install.py install` of a bundle."""
        return self.run(self.unpack(path) / "install.py", "install", *options)

    def recover(self) -> tuple[int, str, str]:
        """What the next run does first."""
        return self.run(next(self.home.glob("dofbot-grasp-*")) / "install.py", "recover")

    @property
    def running(self) -> str:
        """The version whose process was started last."""
        path = self.fake / "running"
        return path.read_text().strip() if path.exists() else ""

    @property
    def units(self) -> str:
        """The version whose unit files systemd has read last."""
        return (self.fake / "units").read_text().strip()

    @property
    def current(self) -> str:
        """The version that the next start would run."""
        return self.versions.linked("current")

    def assert_whole(self, among: set[str]) -> None:
        """Old or new, complete, and one of the two runs."""
        assert self.current in among
        assert self.current in self.versions.names()
        assert self.running in among
        folder = self.versions.path(self.current)
        assert (folder / "module8").read_text() == "8\n"
        assert (folder / "policy.onnx").read_text() == "healthy"
        assert os.access(folder / "bin" / "dofbot", os.X_OK)
        assert (folder / "system" / "dofbot-grasp.service").is_file()


def name_of(path: Path) -> str:
    """What the version in a bundle is called once it is installed."""
    with bundle.unpacked(path) as content:
        return manifest.read(content).name


KILLED = -signal.SIGKILL
