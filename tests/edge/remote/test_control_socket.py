"""The socket is where people look for it, for its owner and group only, and one process's at a time."""

import fcntl
import grp
import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from edge.errors import ConfigError, NotListeningError
from edge.remote import control_socket
from edge.remote.control_socket import client_paths, connect, listen, server_path


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path) -> None:
    for name in ("RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(control_socket, "_TEMPORARY", tmp_path / "tmp")
    monkeypatch.setattr(control_socket, "_SERVICE", tmp_path / "run/control.sock")
    (tmp_path / "tmp").mkdir()


def refusal(path: Path, mode: int = 0o660, group: str | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        listen(path, mode, group)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_socket_is_the_services_else_the_users_else_in_a_private_folder(monkeypatch, tmp_path) -> None:
    private = tmp_path / f"tmp/dofbot-grasp-{os.getuid()}"
    assert server_path("auto") == private / "control.sock"
    assert stat.S_IMODE(private.stat().st_mode) == 0o700
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert server_path("auto") == tmp_path / "dofbot-grasp.sock"
    monkeypatch.setenv("RUNTIME_DIRECTORY", "/run/dofbot-grasp:/run/other")
    assert server_path("auto") == Path("/run/dofbot-grasp/control.sock")
    assert server_path("/a/b.sock") == Path("/a/b.sock")
    assert server_path("") is None


@pytest.mark.parametrize("folder", ["", "/not/there", "relative"])
def test_a_runtime_folder_that_is_not_there_is_not_used(folder, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
    assert server_path("auto") == tmp_path / f"tmp/dofbot-grasp-{os.getuid()}/control.sock"


def test_clients_look_where_a_server_listens(monkeypatch, tmp_path) -> None:
    assert client_paths() == (tmp_path / "run/control.sock", server_path("auto"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert client_paths()[1] == server_path("auto")


def test_a_folder_that_others_can_enter_or_have_planted_is_not_used(tmp_path) -> None:
    private = tmp_path / f"tmp/dofbot-grasp-{os.getuid()}"
    private.mkdir(mode=0o755)
    with pytest.raises(ConfigError, match="not a folder of yours with mode 0700"):
        server_path("auto")
    private.rmdir()
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    private.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="not a folder of yours"):
        server_path("auto")
    private.unlink()
    private.write_text("")
    with pytest.raises(ConfigError, match="cannot be made"):
        server_path("auto")


@pytest.mark.parametrize("mode", [0o600, 0o660])
@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_the_file_has_its_mode_and_group_whatever_the_umask(mode, umask, tmp_path) -> None:
    own = grp.getgrgid(os.getgid())
    before = os.umask(umask)
    try:
        with listen(tmp_path / "a.sock", mode, own.gr_name):
            found = (tmp_path / "a.sock").stat()
    finally:
        os.umask(before)
    assert (stat.S_IMODE(found.st_mode), found.st_gid) == (mode, own.gr_gid)


def test_nobody_can_connect_before_the_mode_is_set(monkeypatch, tmp_path) -> None:
    path = tmp_path / "a.sock"

    def try_to_connect(*_: object) -> None:
        with socket.socket(socket.AF_UNIX) as early, pytest.raises(ConnectionRefusedError):
            early.connect(str(path))

    monkeypatch.setattr(os, "chmod", try_to_connect)
    listen(path, 0o660, None).close()


def test_a_file_that_a_killed_process_left_is_replaced(tmp_path) -> None:
    path = tmp_path / "a.sock"
    program = f"from edge.remote.control_socket import *; s = listen(Path({str(path)!r}), 0o660, None); print(flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, cwd=Path(__file__).parents[3]) as process:
        assert process.stdout is not None
        process.stdout.readline()
        live = refusal(path)
        assert f"pid {process.pid} of uid {os.getuid()} listens on" in live
        assert "systemctl stop" in live
        process.send_signal(signal.SIGKILL)
    assert path.is_socket()
    with listen(path, 0o660, None):
        connect(path, 1.0).close()


def test_a_live_socket_with_a_full_backlog_is_live(tmp_path) -> None:
    path = tmp_path / "a.sock"
    with listen(path, 0o660, None):
        clients = [socket.socket(socket.AF_UNIX) for _ in range(20)]
        for client in clients:
            client.setblocking(False)
            client.connect_ex(str(path))
        live = refusal(path)
        with pytest.raises(NotListeningError) as caught:
            connect(path, 0.05)
        for client in clients:
            client.close()
    assert "a process listens on" in live
    assert "does not answer" in str(caught.value)


def test_what_is_no_socket_is_left_alone(tmp_path) -> None:
    (tmp_path / "file").write_text("precious")
    assert "is not a socket" in refusal(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "precious"
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    assert "is not a socket" in refusal(tmp_path / "link")


def test_what_cannot_be_is_refused_in_one_sentence(tmp_path) -> None:
    assert "No such file" in refusal(tmp_path / "none/a.sock")
    assert "Not a directory" in refusal(Path("/dev/null/a.sock"))
    assert "does not exist; create it" in refusal(tmp_path / "a.sock", group="no-such-group")
    assert "more than 107 bytes" in refusal(tmp_path / (108 * "a"))
    longest = tmp_path / ((107 - len(str(tmp_path)) - 1) * "a")
    listen(longest, 0o600, None).close()


def test_two_processes_that_start_together_do_not_take_each_others_file_for_stale(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(control_socket, "_LOCK_WAIT_S", 0.05)
    handle = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    assert "is locked by another process" in refusal(tmp_path / "a.sock")
    os.close(handle)
    listen(tmp_path / "a.sock", 0o600, None).close()


def test_a_client_finds_the_service_first_and_passes_over_a_stale_file(tmp_path) -> None:
    users, services = server_path("auto"), tmp_path / "run/control.sock"
    assert users is not None
    services.parent.mkdir()
    with listen(users, 0o600, None), listen(services, 0o600, None), connect(None, 1.0) as connected:
        assert connected.getpeername() == str(services)
    with listen(users, 0o600, None), connect(None, 1.0) as connected:
        assert connected.getpeername() == str(users)


def test_where_nothing_listens_the_sentence_says_how_to_start_it(tmp_path) -> None:
    with pytest.raises(NotListeningError) as caught:
        connect(None, 1.0)
    assert f"{tmp_path}/run/control.sock or {tmp_path}/tmp/dofbot-grasp" in str(caught.value)
    assert "systemctl start dofbot-grasp" in str(caught.value)
    assert caught.value.exit_code == 5
    with pytest.raises(NotListeningError, match=r"nothing listens on /dev/null/x;"):
        connect(Path("/dev/null/x"), 1.0)
    with pytest.raises(NotListeningError, match="nothing listens on"):
        connect(Path("/tmp/" + 200 * "a"), 1.0)


def test_without_permission_the_sentence_says_how_to_get_it(monkeypatch, tmp_path) -> None:
    def deny(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "connect", deny)
    with pytest.raises(NotListeningError, match=r"is not yours to command; .* usermod -aG"):
        connect(tmp_path / "a.sock", 1.0)
