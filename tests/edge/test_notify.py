import os
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from edge.notify import Notifier, watchdog_period_s
from edge.runtime import ARM_WITHIN_S


@pytest.fixture(params=["file", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, Notifier]]:
    name = f"@dofbot-test-{os.getpid()}" if request.param == "abstract" else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(name.replace("@", "\0"))
        listener.settimeout(1.0)
        notifier = Notifier({"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "500000"})
        yield listener, notifier
        notifier.close()


def test_every_message_is_one_datagram_of_assignments(systemd: tuple[socket.socket, Notifier]) -> None:
    listener, notifier = systemd
    notifier.ready("DISARMED")
    notifier.alive()
    notifier.status("HOLD: no frame")
    notifier.stopping("parking")
    notifier.ended()
    assert [listener.recv(4096) for _ in range(5)] == [
        b"READY=1\nSTATUS=DISARMED",
        b"WATCHDOG=1",
        b"STATUS=HOLD: no frame",
        b"STOPPING=1\nSTATUS=parking",
        b"WATCHDOG_USEC=5000000",
    ]


def fed_s(systemd: tuple[socket.socket, Notifier], monkeypatch: pytest.MonkeyPatch, ticks_s: np.ndarray) -> np.ndarray:
    """When the watchdog was fed, of ticks that ended then."""
    listener, notifier = systemd
    listener.setblocking(False)
    found = []
    for tick_s in ticks_s:
        monkeypatch.setattr(time, "monotonic", lambda tick_s=tick_s: 1000.0 + tick_s)
        notifier.alive()
        with suppress(BlockingIOError):
            assert listener.recv(4096) == b"WATCHDOG=1"
            found.append(tick_s)
    return np.array(found)


def test_the_watchdog_is_fed_four_times_in_what_it_bears(systemd: tuple[socket.socket, Notifier], monkeypatch: pytest.MonkeyPatch) -> None:
    found = fed_s(systemd, monkeypatch, np.arange(100) * 0.02)
    assert found[0] == 0.0
    assert np.allclose(np.diff(found), 0.14)  # the first tick after 125 ms


@pytest.mark.parametrize("tick", range(1, 9))
def test_a_board_that_does_not_answer_when_armed_leaves_the_watchdog_fed(
    tick: int, systemd: tuple[socket.socket, Notifier], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without its supply for one: that is said to whoever arms, and no reason to end the process. Two ticks are left for a busy machine."""
    ticks_s = np.arange(50) * 0.02
    ticks_s[tick:] += ARM_WITHIN_S
    assert np.diff(fed_s(systemd, monkeypatch, ticks_s)).max() <= 0.5 - 0.04


def test_without_a_watchdog_there_is_none_to_feed(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.setblocking(False)
        notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify")})
        notifier.alive()
        notifier.close()
        with pytest.raises(BlockingIOError):
            listener.recv(4096)


@pytest.mark.parametrize("text", ["HOLD\nMAINPID=1", "\r\n\nWATCHDOG=1", "no\x0bline\x85is\u2028left", "caf\u00e9", "half a \ud800 pair"])
def test_no_status_smuggles_in_another_assignment(systemd: tuple[socket.socket, Notifier], text: str) -> None:
    listener, notifier = systemd
    notifier.status(text)
    said = listener.recv(4096).decode()
    assert said.startswith("STATUS=")
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize("address", ["", "vsock:2:1234", "/no/such/socket", "@dofbot-test-nobody-listens"])
def test_where_nobody_listens_it_is_silent(address: str) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": address} if address else {})
    notifier.ready("DISARMED")
    notifier.alive()
    notifier.close()
    notifier.alive()


def test_a_systemd_that_does_not_read_never_blocks_the_loop(systemd: tuple[socket.socket, Notifier]) -> None:
    _, notifier = systemd
    began_s = time.monotonic()
    for _ in range(5000):  # the kernel queues 10 to 512 of them
        notifier.status("HOLD")
    assert time.monotonic() - began_s < 1.0


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "500000"}, 0.25),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": str(os.getpid())}, 0.25),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": "1"}, None),  # it is meant for our parent
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "-5"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdog_is_fed_twice_as_often_as_it_must(environment: dict[str, str], expected: float | None) -> None:
    assert watchdog_period_s(environment) == expected
