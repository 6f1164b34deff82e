"""Where the control socket is, and how it comes to be there: for its owner and group only, and never two processes on one."""

import fcntl
import grp
import os
import socket
import stat
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edge.errors import ConfigError, NotListeningError
from edge.files import SERVICE_RUNTIME

AUTO = "auto"
PATH_MAX_BYTES = 107  # sockaddr_un, unix(7)
TUNNEL = (
    "commands are taken on a Unix socket of this machine only; "
    "from another, tunnel: ssh -L local.sock:/run/dofbot-grasp/control.sock pi@robot, then dofbot status --socket local.sock"
)

_SERVICE = SERVICE_RUNTIME / "control.sock"
_TEMPORARY = Path("/tmp")  # the same for server and clients, whatever $TMPDIR is
_BACKLOG = 16
_LOCK_WAIT_S = 1.0
_KNOCK_S = 0.01


def server_path(setting: str) -> Path | None:
    """Where the process listens by `control.socket`; None: nowhere. Makes the folder in /tmp, if that is where."""
    if setting != AUTO:
        return Path(setting) if setting else None
    if folder := os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]:
        return Path(folder) / "control.sock"
    path = _without_service()
    if path.parent.parent == _TEMPORARY:
        _own(path.parent)
    return path


def client_paths() -> tuple[Path, ...]:
    """Where to look for a running process: the service first."""
    return _SERVICE, _without_service()


def _without_service() -> Path:
    folder = os.environ.get("XDG_RUNTIME_DIR", "")
    if Path(folder).is_absolute() and Path(folder).is_dir():
        return Path(folder) / "dofbot-grasp.sock"
    return _TEMPORARY / f"dofbot-grasp-{os.getuid()}" / "control.sock"


def _own(folder: Path) -> None:
    """Make a folder that nobody else can enter; raises `ConfigError` where another has made it first."""
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise ConfigError(f"{folder} cannot be made ({error.strerror}); set control.socket to a path of yours") from None
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise ConfigError(
            f"{folder} is not a folder of yours with mode 0700, so others could command the arm; remove it, or set control.socket"
        )


def listen(path: Path, mode: int, group: str | None) -> socket.socket:
    """A listening socket at `path`, of this mode and group from its first moment.

    A socket file that a killed process left behind is replaced. Raises `ConfigError` when a live process listens there, when
    something else than a socket lies there, and when the file cannot have this place, mode or group.
    """
    if len(os.fsencode(path)) > PATH_MAX_BYTES:
        raise ConfigError(f"control.socket = '{path}' has more than {PATH_MAX_BYTES} bytes; give a shorter path, such as {_SERVICE}")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _alone_in(path.parent):
            _remove_stale(path)
            listener.bind(os.fspath(path))
            # Between bind and listen nobody can connect, so the umask does not matter.
            os.chmod(path, mode)
            if group is not None:
                os.chown(path, -1, _group_id(group))
            listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"control.socket = '{path}' cannot be set up ({error.strerror}); give a path in a folder that uid {os.getuid()} may write to, "
            "and a group that it belongs to"
        ) from None
    except ConfigError:
        listener.close()
        raise
    listener.setblocking(False)
    return listener


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Keep a second process that starts now from taking our new socket file for a stale one."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        deadline_s = time.monotonic() + _LOCK_WAIT_S
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline_s:
                    raise ConfigError(f"{folder} is locked by another process; end it, or set control.socket to another folder") from None
                time.sleep(0.01)
        yield
    finally:
        os.close(handle)


def _remove_stale(path: Path) -> None:
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise ConfigError(f"control.socket = '{path}' is there and is not a socket; remove it, or give another path")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except BlockingIOError:  # alive, and its backlog is full
            owner = "a process"
        else:
            owner = peer(probe) or "a process"
    raise ConfigError(
        f"{owner} listens on control.socket = '{path}' already; end it (systemctl stop dofbot-grasp, or Ctrl-C where it runs), "
        "or give this one another path"
    )


def _group_id(group: str) -> int:
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise ConfigError(f"control.group = '{group}' does not exist; create it with: sudo groupadd --system {group}") from None


def peer(connected: socket.socket) -> str:
    """Who is at the other end, such as 'pid 71 of uid 1000'; empty where the system does not tell."""
    if not hasattr(socket, "SO_PEERCRED"):  # Linux only
        return ""
    pid, uid, _ = struct.unpack("3i", connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return f"pid {pid} of uid {uid}"


def connect(path: Path | None, timeout_s: float) -> socket.socket:
    """Connect to the running process, at `path` or where it usually is; raises `NotListeningError` when nothing listens."""
    paths = (path,) if path else client_paths()
    for candidate in paths:
        connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connected.settimeout(timeout_s)
        try:
            _knock(connected, candidate, time.monotonic() + timeout_s)
        except NotListeningError:
            connected.close()
            raise
        except OSError:  # none there, stale, or a path that cannot be
            connected.close()
        else:
            return connected
    where = " or ".join(map(str, paths))
    raise NotListeningError(f"nothing listens on {where}; start it with `systemctl start dofbot-grasp` or `dofbot run`")


def _knock(connected: socket.socket, path: Path, deadline_s: float) -> None:
    while True:
        try:
            return connected.connect(os.fspath(path))
        except BlockingIOError:  # its backlog is full: with a time-out, connect(2) does not wait for that
            if time.monotonic() > deadline_s:
                raise NotListeningError(f"{path} does not answer; look at: journalctl -u dofbot-grasp") from None
            time.sleep(_KNOCK_S)
        except PermissionError:
            raise NotListeningError(
                f"{path} is not yours to command; join the group that `ls -l` shows (sudo usermod -aG GROUP $USER), and log in anew"
            ) from None
