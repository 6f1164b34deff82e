"""Commands reach the loop and answers the client; nothing that a client does reaches the loop otherwise, or makes it wait."""

import contextlib
import json
import logging
import os
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
import pytest

from edge.errors import ConfigError
from edge.remote import control
from edge.remote.commands import (
    LINE_MAX_BYTES,
    Accepted,
    Arm,
    Command,
    Done,
    Grasp,
    GraspResult,
    Heartbeat,
    Hold,
    Park,
    Refused,
    Reply,
    Status,
    StatusReport,
    Timing,
    decode_reply,
    encode,
)
from edge.remote.control import ControlServer
from edge.remote.pending import Pending

FUZZED_FRAMES = int(os.environ.get("DOFBOT_FUZZ_FRAMES", "2000"))  # the number is 100000: about three minutes
READY = StatusReport(state="DISARMED", phase="IDLE", ticks=7)


@pytest.fixture
def server(tmp_path) -> Iterator[ControlServer]:
    server = ControlServer(tmp_path / "control.sock")
    server.publish(READY)
    yield server
    server.close()
    assert not server._thread.is_alive()


@pytest.fixture
def quick(monkeypatch) -> None:
    """No pause between two rounds of reading: for floods, which are the harder on the server so."""
    monkeypatch.setattr(control, "_PASS_S", 0.0)


class Client:
    """A raw connection."""

    def __init__(self, server: ControlServer) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(str(server._path))  # blocking: it waits while the backlog is full
        self.socket.settimeout(3.0)
        self._unread = b""

    def send(self, *commands: Command | bytes) -> None:
        self.socket.sendall(b"".join(c + b"\n" if isinstance(c, bytes) else encode(c) for c in commands))

    def reply(self) -> Reply:
        """The next reply; EOFError when the server has hung up."""
        while b"\n" not in self._unread:
            chunk = self.socket.recv(1 << 16)
            if not chunk:
                raise EOFError
            self._unread += chunk
        line, _, self._unread = self._unread.partition(b"\n")
        return decode_reply(line)

    def ask(self, command: Command | bytes) -> Reply:
        self.send(command)
        return self.reply()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


def taken(server: ControlServer, count: int = 1) -> list[Pending]:
    """What a control loop finds, ticking until `count` commands have come."""
    found: list[Pending] = []
    within(3.0, lambda: found.extend(server.take()) or len(found) >= count)
    return found


def within(limit_s: float, condition: Callable[[], object]) -> None:
    deadline_s = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline_s, "it did not come to that"
        time.sleep(0.005)


def test_a_command_reaches_the_loop_once_and_its_answer_the_client(server) -> None:
    with Client(server) as client:
        client.send(Grasp(count=3, id=17))
        (pending,) = taken(server)
        assert pending.command == Grasp(count=3, id=17)
        assert pending.peer == f"pid {os.getpid()} of uid {os.getuid()}"
        assert server.take() == []
        pending.answer(Accepted())
        assert client.reply() == Accepted(id=17)
        time.sleep(0.02)
        pending.answer(GraspResult(picked=2, missed=1, lost=0))
        assert client.reply() == GraspResult(picked=2, missed=1, lost=0, id=17)


def test_commands_keep_their_order_and_answers_go_to_whom_they_belong(server) -> None:
    with Client(server) as one, Client(server) as other:
        one.send(Grasp(id=1), Hold(id=2))
        first, second = taken(server, 2)
        other.send(Park(id=1))
        (third,) = taken(server)
        assert [first.command, second.command, third.command] == [Grasp(id=1), Hold(id=2), Park(id=1)]
        third.answer(Done(text="parked"))
        second.answer(Done(text="held"))
        first.answer(Refused(reason="held"))
        assert other.reply() == Done(text="parked", id=1)
        assert [one.reply(), one.reply()] == [Done(text="held", id=2), Refused(reason="held", id=1)]


def test_status_needs_no_loop_and_says_how_old_it_is(server) -> None:
    with Client(server) as client:
        time.sleep(0.05)
        report = client.ask(Status(id=3))
        assert isinstance(report, StatusReport)
        assert 0.05 <= report.age_s < 1.0
        assert report.control.clients == 1
        assert msgspec.structs.replace(report, id=0, age_s=0.0, control=READY.control) == READY
        server.publish(StatusReport(state="HOLD"))
        assert client.ask(Status()).state == "HOLD"
        assert server.take() == []


def test_before_the_first_report_status_is_refused(tmp_path) -> None:
    server = ControlServer(tmp_path / "a.sock")
    with Client(server) as client:
        assert isinstance(client.ask(Status()), Refused)
    server.close()


@pytest.mark.parametrize(
    ("histograms", "refused"),
    [
        (None, "measures no timing"),
        (lambda: {}["x"], "cannot be read just now (KeyError('x'))"),
        (lambda: {"a": np.float32(1)}, "cannot be said in JSON"),
        (lambda: {"a": 70000 * "b"}, "expected at most 65536"),
    ],
)
def test_histograms_that_are_not_there_are_a_refusal_and_the_next_client_is_served(histograms, refused, tmp_path) -> None:
    server = ControlServer(tmp_path / "a.sock", histograms=histograms)
    with Client(server) as client:
        reply = client.ask(Timing(id=9))
        assert isinstance(reply, Refused)
        assert refused in reply.reason
        assert reply.id == 9
        client.send(Hold())
        assert len(taken(server)) == 1
    server.close()


def test_histograms_are_sent_as_they_are(tmp_path) -> None:
    server = ControlServer(tmp_path / "a.sock", histograms=lambda: {"lateness": {"p99": 0.1}})
    with Client(server) as client:
        assert client.ask(Timing()).histograms == {"lateness": {"p99": 0.1}}
    server.close()


def test_what_the_loop_does_not_take_is_refused_and_not_carried_out_later(server, monkeypatch) -> None:
    monkeypatch.setattr(control, "ANSWER_MAX_S", 0.1)
    with Client(server) as client:
        reply = client.ask(Arm(id=5))
        assert isinstance(reply, Refused)
        assert "did not answer within 0.1 s, so 'arm' was not carried out" in reply.reason
        assert reply.id == 5
        assert server.take() == []


def test_what_the_loop_takes_and_does_not_answer_is_unknown_and_a_late_answer_is_dropped(server, monkeypatch) -> None:
    monkeypatch.setattr(control, "ANSWER_MAX_S", 0.1)
    with Client(server) as client:
        client.send(Park())
        (pending,) = taken(server)
        assert "whether 'park' was carried out is unknown" in client.reply().reason
        pending.answer(Done())
        time.sleep(0.05)
        assert isinstance(client.ask(Status()), StatusReport)
        assert isinstance(client.ask(Status()), StatusReport)


def test_an_accepted_command_may_take_its_time(server, monkeypatch) -> None:
    monkeypatch.setattr(control, "ANSWER_MAX_S", 0.05)
    with Client(server) as client:
        client.send(Grasp())
        (pending,) = taken(server)
        pending.answer(Accepted())
        assert client.reply() == Accepted()
        time.sleep(0.3)
        pending.answer(GraspResult(picked=1, missed=0, lost=0))
        assert client.reply() == GraspResult(picked=1, missed=0, lost=0)


def test_a_client_has_few_commands_outstanding_and_another_gets_through(server) -> None:
    with Client(server) as greedy, Client(server) as other:
        greedy.send(*(Park(id=index) for index in range(1, 7)))
        assert {greedy.reply().id, greedy.reply().id} == {5, 6}
        other.send(Grasp())
        commands = [pending.command for pending in taken(server, 5)]
        assert commands == [Park(id=1), Park(id=2), Park(id=3), Park(id=4), Grasp()]


def test_a_hold_gets_through_although_much_is_outstanding(server) -> None:
    with Client(server) as client:
        client.send(*(Park(id=i) for i in range(1, 5)), Hold(id=5), Hold(id=6))
        assert client.reply() == Refused(reason="4 commands of this client are not answered yet, expected fewer; wait for a reply", id=6)
        assert [pending.command for pending in taken(server, 5)] == [*(Park(id=i) for i in range(1, 5)), Hold(id=5)]


def test_a_hold_is_carried_out_although_its_client_is_gone(server) -> None:
    """Whoever stops the arm and drops everything means it; any other command is withdrawn."""
    with Client(server) as client:
        client.socket.shutdown(socket.SHUT_RD)  # nobody takes a reply any more
        client.send(Status(), Park(), Hold())
    within(3.0, lambda: len(server._arrived) == 2 and not server._connections)
    (pending,) = server.take()
    assert pending.command == Hold()
    pending.answer(Done(text="holding"))
    with Client(server) as client:
        assert client.ask(Status(id=1)).id == 1


def test_a_client_that_says_all_and_listens_gets_its_answer(server) -> None:
    with Client(server) as client:  # echo … | socat - UNIX:…
        client.send(Hold())
        client.socket.shutdown(socket.SHUT_WR)
        taken(server)[0].answer(Done())
        assert client.reply() == Done()
        with pytest.raises(EOFError):
            client.reply()


def test_a_line_without_an_end_is_no_command(server) -> None:
    with Client(server) as client:
        client.socket.sendall(b'{"type":"hold"}')
        client.socket.shutdown(socket.SHUT_WR)
        assert "do not end with a newline" in client.reply().reason
        assert server.take() == []


def test_commands_may_come_in_pieces(server) -> None:
    with Client(server) as client:
        for byte in encode(Grasp(count=12)):
            client.socket.sendall(bytes((byte,)))
            time.sleep(0.001)
        assert taken(server)[0].command == Grasp(count=12)


def test_three_malformed_lines_end_the_conversation(server, caplog) -> None:
    with Client(server) as client, caplog.at_level(logging.WARNING):
        assert "JSON is malformed" in client.ask(b"hello").reason
        assert isinstance(client.ask(Status()), StatusReport)
        assert isinstance(client.ask(b'{"type":"hello"}'), Refused)
        client.send(b"", Hold())
        assert isinstance(client.reply(), Refused)
        with pytest.raises((EOFError, ConnectionResetError)):
            client.reply()
    assert server.take() == []
    assert "after 3 malformed lines" in caplog.text


@pytest.mark.parametrize("end", [b"", b"\n"])
def test_a_line_has_a_largest_length(end, server) -> None:
    with Client(server) as client:
        client.socket.sendall(b'{"type":"hold"}'.ljust(LINE_MAX_BYTES) + b"\n")
        assert taken(server)[0].command == Hold()
        client.socket.sendall(b'{"type":"hold"}'.ljust(LINE_MAX_BYTES + 1) + end)
        assert f"more than {LINE_MAX_BYTES} bytes" in client.reply().reason
        with pytest.raises((EOFError, ConnectionResetError)):
            client.reply()
    assert server.take() == []


# Seats.


def test_the_ninth_client_is_refused_while_eight_are_lively(server) -> None:
    clients = [Client(server) for _ in range(control.CONNECTIONS_MAX)]
    for client in clients:
        assert isinstance(client.ask(Status()), StatusReport)
    with Client(server) as ninth:
        assert "8 clients are connected already" in ninth.reply().reason
        with pytest.raises(EOFError):
            ninth.reply()
    clients.pop().socket.close()
    within(1.0, lambda: clients[0].ask(Status()).control.clients == 7)
    with Client(server) as again:
        assert again.ask(Status()).control.refused == 1
    for client in clients:
        client.socket.close()


def test_a_silent_client_gives_its_seat_up_unless_it_waits_for_the_loop(server, monkeypatch) -> None:
    monkeypatch.setattr(control, "_SEAT_S", 0.05)
    clients = [Client(server) for _ in range(control.CONNECTIONS_MAX)]
    for client in clients:
        client.ask(Status())
    clients[0].send(Hold())
    (pending,) = taken(server)
    for client in clients[1:]:
        client.ask(Status())
    time.sleep(0.1)
    for client in clients[2:]:
        client.ask(Status())
    with Client(server) as ninth:
        assert ninth.ask(Status()).control.clients == 8
    pending.answer(Done())
    assert clients[0].reply() == Done()
    with pytest.raises((EOFError, ConnectionResetError)):
        clients[1].reply()
    for client in clients:
        client.socket.close()


def test_a_thousand_connects_leave_it_as_it_was(server, quick) -> None:
    for _ in range(1000):
        Client(server).socket.close()

    def clients() -> int:
        """How many are connected, by a report; 0 while all seats are taken."""
        with Client(server) as client, contextlib.suppress(OSError, EOFError):
            report = client.ask(Status())
            return report.control.clients if isinstance(report, StatusReport) else 0
        return 0

    within(3.0, lambda: clients() == 1)
    assert len(server._selector.get_map()) <= 2 + 1  # the listener, the waker, and perhaps the client that asked last
    assert server.take() == []


# What slow and hostile clients cannot do.


def test_fifty_slow_clients_do_not_delay_the_loop(server, quick) -> None:
    stop = threading.Event()
    clients = []
    for _ in range(50):
        clients.append(client := Client(server))
        client.socket.setblocking(False)

    def ask_and_never_read() -> None:
        lines = 100 * encode(Status())
        while not stop.wait(0.002):
            for client in clients:
                with contextlib.suppress(OSError):
                    client.socket.send(lines)

    thread = threading.Thread(target=ask_and_never_read)
    thread.start()
    spent_s = []
    for _ in range(60):
        time.sleep(0.005)
        began_s = time.perf_counter()
        server.take()
        server.publish(READY)
        server.deadman_lost()
        spent_s.append(time.perf_counter() - began_s)
    stop.set()
    thread.join()
    assert sum(len(connection.outgoing) for connection in server._connections) <= 8 * (1 << 17)
    assert float(np.percentile(spent_s, 90)) < 1e-3
    for client in clients:
        client.socket.close()
    within(3.0, lambda: not server._connections)


@pytest.mark.parametrize(("stuck_s", "outgoing_bytes"), [(0.1, 1 << 24), (5.0, 1 << 17)])
def test_a_client_that_reads_nothing_is_hung_up_on(stuck_s, outgoing_bytes, server, quick, monkeypatch) -> None:
    monkeypatch.setattr(control, "STUCK_MAX_S", stuck_s)
    monkeypatch.setattr("edge.remote.control_connection.OUTGOING_MAX_BYTES", outgoing_bytes)
    with Client(server) as client, Client(server) as other:
        client.send(*(2000 * [Status()]))  # a megabyte of replies
        within(3.0, lambda: other.ask(Status()).control.dropped == 1)
        assert other.ask(Status()).control.clients == 1


def malformed_frames(seed: int, count: int) -> Iterator[bytes]:
    """Lines that are no commands, each for a reason of its own."""
    rng = np.random.default_rng(seed)
    commands = [
        b'{"type":"arm","deadman":true}',
        b'{"type":"grasp","count":12}',
        b'{"type":"inject","target":"bus","mode":"off","for_s":2.5}',
    ]
    wrong = [None, "1", 1.5, -1, 10**30, [], {}, [1], {"count": 1}, "\x00"]
    for index in range(count):
        command = commands[int(rng.integers(len(commands)))]
        match index % 9:
            case 0:
                yield b"\xfe" + rng.bytes(int(rng.integers(1, 300))).replace(b"\n", b" ")
            case 1:
                yield command[: rng.integers(len(command))]
            case 2:
                yield json.dumps({"type": "grasp", "count": wrong[int(rng.integers(len(wrong)))]}).encode()
            case 3:
                depth = int(rng.integers(2, 1900))
                yield (b'{"type":"hold","id":' if rng.integers(2) else b"") + depth * [b"[", b'{"a":'][int(rng.integers(2))][:1]
            case 4:
                at = int(rng.integers(len(command) + 1))
                yield command[:at] + b"\x00" + command[at:]
            case 5:
                yield command.replace(b'"type"', b'"t\xc3ype"')
            case 6:
                yield command[:-1] + b',"%d":0}' % rng.integers(10**6)
            case 7:
                yield json.dumps({"type": wrong[int(rng.integers(len(wrong)))]}).encode()
            case _:
                yield rng.integers(32, 127, 6000 if rng.integers(2) else 60).astype(np.uint8).tobytes()  # too long, or prose


def test_malformed_frames_deliver_nothing_and_the_server_lives(server, quick) -> None:
    frames = list(malformed_frames(seed=1, count=FUZZED_FRAMES))
    # The too long one hangs up at once, so it comes last.
    rounds = [sorted(frames[at : at + 3], key=len) for at in range(0, len(frames), 3)]

    def throw(frames: list[bytes]) -> int:
        refused = 0
        with Client(server) as client:
            try:
                client.send(*frames)
                while True:
                    refused += isinstance(client.reply(), Refused)
            except (EOFError, OSError):
                return refused

    with ThreadPoolExecutor(4) as pool:
        refused = sum(pool.map(throw, [r for r in rounds if len(r) == 3]))
    with Client(server) as client:
        report = client.ask(Status())
    assert report.control.malformed == 3 * (len(frames) // 3)  # each was really delivered
    assert refused > 0.9 * len(frames)
    assert report.state == READY.state
    assert server.take() == []
    assert not server._open
    print(f"{len(frames)} frames: {report.control.malformed} malformed lines, {refused} refusals read")


def test_a_fault_of_our_own_does_not_end_the_thread(server, monkeypatch, caplog) -> None:
    with Client(server) as client:
        client.ask(Status())
        with monkeypatch.context() as patched:
            patched.setattr(server, "_dispatch", lambda *_: 1 / 0)
            client.send(Hold())
            within(1.0, lambda: "ZeroDivisionError" in caplog.text)
        assert isinstance(client.ask(Status()), StatusReport)


# The deadman.


def arm(server: ControlServer, client: Client, deadman: bool, reply: Reply | None = None) -> None:
    client.send(Arm(deadman=deadman))
    taken(server)[0].answer(reply or Done())
    client.reply()


def test_a_client_that_armed_with_a_deadman_must_not_be_silent(server, monkeypatch) -> None:
    monkeypatch.setattr(control, "DEADMAN_S", 0.2)
    with Client(server) as client:
        assert server.deadman_lost() == ""
        arm(server, client, deadman=True)
        for _ in range(8):
            time.sleep(0.05)
            client.send(Heartbeat())
            assert server.deadman_lost() == ""
        began_s = time.monotonic()
        within(1.0, server.deadman_lost)
        assert 0.15 < time.monotonic() - began_s < 0.3
        assert "was silent for 0.2" in server.deadman_lost()
        client.send(Heartbeat())
        time.sleep(0.03)
        assert server.deadman_lost()  # until it arms again
        arm(server, client, deadman=True)
        assert server.deadman_lost() == ""


def test_malformed_lines_are_no_sign_of_life(server, monkeypatch) -> None:
    monkeypatch.setattr(control, "DEADMAN_S", 0.1)
    with Client(server) as client:
        arm(server, client, deadman=True)
        time.sleep(0.09)
        client.ask(b"alive")
        within(0.1, server.deadman_lost)


@pytest.mark.parametrize("leave", ["close", "shutdown"])
def test_a_client_that_armed_with_a_deadman_must_not_leave(leave, server) -> None:
    with Client(server) as client, Client(server):
        arm(server, client, deadman=True)
        client.socket.close() if leave == "close" else client.socket.shutdown(socket.SHUT_WR)
        began_s = time.monotonic()
        within(0.3, server.deadman_lost)
        assert "has closed its connection" in server.deadman_lost()
        assert time.monotonic() - began_s < control.DEADMAN_S


def test_no_deadman_without_asking_for_one_or_where_arming_was_refused(server, monkeypatch) -> None:
    monkeypatch.setattr(control, "DEADMAN_S", 0.05)
    with Client(server) as client, Client(server) as other:
        arm(server, other, deadman=True, reply=Refused(reason="latched"))
        time.sleep(0.1)
        assert server.deadman_lost() == ""
        arm(server, client, deadman=False)
        time.sleep(0.1)
        assert server.deadman_lost() == ""
        arm(server, other, deadman=True)
        within(1.0, server.deadman_lost)
        arm(server, client, deadman=False)
        assert server.deadman_lost() == ""


def test_a_stuck_server_counts_as_a_lost_client(server, monkeypatch) -> None:
    monkeypatch.setattr(control, "DEADMAN_S", 0.1)
    with Client(server) as client:
        arm(server, client, deadman=True)
        monkeypatch.setattr(server, "_dispatch", lambda *_: time.sleep(0.4))
        client.send(Heartbeat())
        time.sleep(0.2)
        client.send(Heartbeat())
        assert server.deadman_lost()


# The file, and the end.


def test_the_file_has_the_mode_asked_for_and_goes_with_the_server(tmp_path) -> None:
    path = tmp_path / "a.sock"
    server = ControlServer(path, mode=0o600)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(ConfigError, match="listens on"):
        ControlServer(path)
    server.close()
    server.close()
    assert not path.exists()
    ControlServer(path).close()


def test_closing_hangs_up_leaves_a_strange_file_and_answers_after_it_go_nowhere(server) -> None:
    with Client(server) as client:
        client.send(Hold())
        (pending,) = taken(server)
        path: Path = server._path
        path.unlink()
        path.write_text("another's")
        server.close()
        pending.answer(Done())
        with pytest.raises(EOFError):
            client.reply()
        assert path.read_text() == "another's"


@pytest.mark.skipif(not hasattr(os, "sched_setscheduler"), reason="not Linux")
def test_the_thread_takes_no_real_time_priority_over(tmp_path) -> None:
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    except OSError:
        pytest.skip("real-time priority is not granted here")
    try:
        server = ControlServer(tmp_path / "a.sock")
        with Client(server) as client:
            client.ask(Status())
        assert os.sched_getscheduler(server._thread.native_id or 0) == os.SCHED_OTHER
        assert os.sched_getscheduler(0) == os.SCHED_FIFO
        server.close()
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def test_the_loops_last_words_arrive_though_the_server_is_closed_at_once(tmp_path) -> None:
    for _ in range(20):
        server = ControlServer(tmp_path / "a.sock")
        with Client(server) as client:
            client.send(Park(id=3))
            (pending,) = taken(server)
            pending.answer(Accepted())
            pending.answer(Done(text="parked"))
            server.close()
            assert [client.reply(), client.reply()] == [Accepted(id=3), Done(text="parked", id=3)]
