"""Takes commands for the running process on a Unix socket, in a thread of its own; the control loop never waits for it.

    client ─ a line ─► ControlServer's thread ─ take() ─► control loop
           ◄─ a line ─                        ◄─ answer() ─

The loop's side (`take`, `Pending.answer`, `publish`, `deadman_lost`) takes no lock: single operations on deques and lists, which
the interpreter does not interrupt, and one non-blocking byte to wake the thread. `Status` is answered by the thread from
the newest report that the loop has published, `Timing` from the histograms as they are.
"""

import contextlib
import logging
import os
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from edge.errors import WireError
from edge.remote.commands import (
    Accepted,
    Arm,
    Command,
    ControlCounts,
    Done,
    Heartbeat,
    Hold,
    LoopReply,
    Refused,
    Reply,
    Status,
    StatusReport,
    Timing,
    TimingReport,
    decode_command,
)
from edge.remote.control_connection import Connection
from edge.remote.control_socket import listen, peer
from edge.remote.pending import Pending

CONNECTIONS_MAX = 8
OUTSTANDING_MAX = 4  # commands of one client that wait for the loop; a hold may be one more
ANSWER_MAX_S = 1.0  # fifty ticks
DEADMAN_S = 0.5  # facts/deployment.md, N3; PX4 takes a lost manual link for lost after the same time
MALFORMED_MAX = 3
STUCK_MAX_S = 5.0

_POLL_S = 0.1  # how late a time-out may be noticed
_PASS_S = 0.005  # between two rounds of reading, so that a flood of lines leaves the interpreter to the control loop
_ACCEPTED_A_PASS = 16
_SEAT_S = 1.0  # a client that has been silent for longer gives its seat up when none is free
_WARNING_S = 1.0  # at most one a second: a flood must not fill the journal

_log = logging.getLogger(__name__)


class ControlServer:
    """The control socket of one process. Make it before the control loop starts; `close` it afterwards.

    `histograms` is called in the server's thread when a client asks for the timing.
    """

    def __init__(
        self, path: Path, mode: int = 0o660, group: str | None = None, histograms: Callable[[], Mapping[str, Any]] | None = None
    ) -> None:
        """Raises `ConfigError` when the socket cannot be there, or is another process's."""
        self._path = path
        self._listener = listen(path, mode, group)
        self._inode = os.stat(path).st_ino
        self._histograms = histograms
        self._wake, self._waker = socket.socketpair()
        self._wake.setblocking(False)
        self._waker.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._wake, selectors.EVENT_READ)
        self._connections: list[Connection] = []
        self._open: list[Pending] = []  # not answered finally
        # More than clients can have outstanding, so what a stuck loop lets fall out has been refused already.
        self._arrived: deque[Pending] = deque(maxlen=2 * CONNECTIONS_MAX * OUTSTANDING_MAX)
        self._answers: deque[tuple[Pending, LoopReply]] = deque()
        self._published: tuple[StatusReport, float] | None = None
        self._armed_by: Connection | None = None
        self._lost = ""
        self._malformed = self._refused = self._dropped = 0
        self._warned_s = float("-inf")
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="control", daemon=True)
        self._thread.start()

    # What the control loop calls.

    def take(self) -> list[Pending]:
        """The commands that have arrived since the last call, oldest first; each wants an `answer`. Never blocks."""
        taken = []
        while self._arrived:
            pending = self._arrived.popleft()
            if pending.claim():
                taken.append(pending)
        return taken

    def publish(self, status: StatusReport) -> None:
        """Set what `Status` is answered with from now on. Never blocks."""
        self._published = (status, time.monotonic())

    def deadman_lost(self) -> str:
        """Why the client that armed with a deadman is taken to be gone; empty: it is there, or there is none. Never blocks.

        Judged in the caller's thread, so that a stuck server counts as a lost client. Lost stays lost until the next `Arm` is `Done`.
        """
        owner = self._armed_by
        if owner is None or self._lost:
            return self._lost
        silent_s = time.monotonic() - owner.heard_s
        if owner.ended:
            self._lost = f"{owner.peer or 'the client'}, which armed with a deadman, has closed its connection; arm again"
        elif silent_s > DEADMAN_S:
            found = f"{owner.peer or 'the client'}, which armed with a deadman, was silent for {silent_s:.2f} s"
            self._lost = f"{found}, expected a line every {DEADMAN_S:g} s; arm again"
        return self._lost

    def _take_answer(self, pending: Pending, reply: LoopReply) -> None:
        if isinstance(pending.command, Arm) and isinstance(reply, Done):
            self._lost = ""
            self._armed_by = pending.connection if pending.command.deadman else None
        self._answers.append((pending, reply))
        self._wake_up()

    def _wake_up(self) -> None:
        with contextlib.suppress(OSError):  # full: it wakes anyway; closed: nobody is left to wake
            self._waker.send(b"\0")

    def close(self) -> None:
        """Hang up and remove the socket file; idempotent, never raises."""
        self._stopping.set()
        self._wake_up()
        self._thread.join(timeout=1.0)
        self._deliver()  # the loop's last words: whoever waits for the end of a grasp hears of it
        for connection in self._connections:
            connection.flush()
            connection.close()
        with contextlib.suppress(OSError):
            if os.stat(self._path).st_ino == self._inode:  # else another process has put its own there
                self._path.unlink()
        for end in (self._selector, self._listener, self._wake, self._waker):
            end.close()

    # What the server's thread does.

    def _run(self) -> None:
        _be_ordinary()
        while not self._stopping.is_set():
            try:
                self._pass()
            except Exception:  # whatever a client has found, it must not end the process or leave it deaf
                self._warn("an error in the control socket's thread", exc_info=True)
                self._stopping.wait(_POLL_S)

    def _pass(self) -> None:
        ready = self._selector.select(_POLL_S if self._connections else None)
        for key, mask in ready:
            if key.fileobj is self._listener:
                self._accept()
            elif key.fileobj is self._wake:
                with contextlib.suppress(BlockingIOError):
                    self._wake.recv(4096)
            else:
                self._serve(key.data, mask)
        self._deliver()
        self._expire()
        for connection in list(self._connections):
            self._settle(connection)
        if any(key.fileobj is not self._wake for key, _ in ready):
            self._stopping.wait(_PASS_S)

    def _accept(self) -> None:
        for _ in range(_ACCEPTED_A_PASS):
            try:
                sock, _address = self._listener.accept()
            except OSError:  # none left, gone already, or no file descriptors: the next pass tries again
                return
            sock.setblocking(False)
            connection = Connection(sock, peer(sock))
            if len(self._connections) >= CONNECTIONS_MAX and not self._free_a_seat():
                self._refused += 1
                connection.send(Refused(reason=f"{CONNECTIONS_MAX} clients are connected already, expected fewer; close one and try again"))
                connection.flush()
                connection.close()
                continue
            self._connections.append(connection)
            self._selector.register(sock, selectors.EVENT_READ, connection)

    def _free_a_seat(self) -> bool:
        """Hang up on the client that has been silent longest, if it does not wait for the loop; a deadman was given up for lost before."""
        waiting = {pending.connection for pending in self._open if not pending.acknowledged}
        idle = [c for c in self._connections if c not in waiting and time.monotonic() - c.heard_s > _SEAT_S]
        if not idle:
            return False
        self._refused += 1
        self._drop(min(idle, key=lambda connection: connection.heard_s))
        return True

    def _serve(self, connection: Connection, mask: int) -> None:
        if mask & selectors.EVENT_READ:
            for line in connection.receive():
                if connection.leaving:
                    break
                try:
                    command = decode_command(line)
                except WireError as error:
                    self._reject(connection, str(error))
                else:
                    connection.heard_s = time.monotonic()
                    self._dispatch(command, connection)
            if connection.overlong:
                self._reject(connection, connection.overlong, at_once=True)

    def _reject(self, connection: Connection, reason: str, at_once: bool = False) -> None:
        """Answer a malformed line; the third one, or one that has no end, ends the conversation."""
        self._malformed += 1
        connection.malformed += 1
        connection.send(Refused(reason=reason))
        if at_once or connection.malformed >= MALFORMED_MAX:
            self._dropped += 1
            connection.leaving = True
            self._warn(f"hung up on {connection.peer or 'a client'} after {connection.malformed} malformed lines, the last: {reason}")

    def _dispatch(self, command: Command, connection: Connection) -> None:
        match command:
            case Heartbeat():
                pass
            case Status():
                connection.send(self._status(), command.id)
            case Timing():
                connection.send(self._timing(), command.id)
            case _ if sum(pending.connection is connection for pending in self._open) >= OUTSTANDING_MAX + isinstance(command, Hold):
                found = f"{OUTSTANDING_MAX} commands of this client are not answered yet"
                connection.send(Refused(reason=f"{found}, expected fewer; wait for a reply"), command.id)
            case _:
                pending = Pending(command, connection, self._take_answer)
                self._open.append(pending)
                self._arrived.append(pending)

    def _status(self) -> Reply:
        if self._published is None:
            return Refused(reason="the control loop has not begun, expected its first report within a second of the start; try again")
        status, published_s = self._published
        counts = ControlCounts(len(self._connections), self._malformed, self._refused, self._dropped)
        return msgspec.structs.replace(status, age_s=time.monotonic() - published_s, control=counts)

    def _timing(self) -> Reply:
        if self._histograms is None:
            return Refused(reason="this process measures no timing, expected histograms; look at `dofbot status`")
        try:
            return TimingReport(histograms=dict(self._histograms()))
        except Exception as error:  # it reads what the loop writes at the same time
            return Refused(reason=f"the histograms cannot be read just now ({error!r}), expected figures; try again")

    def _deliver(self) -> None:
        """Pass the loop's answers on; one that comes after its time, or for a client that has left, is dropped."""
        while self._answers:
            pending, reply = self._answers.popleft()
            if not pending.closed:
                self._reply(pending, reply)

    def _reply(self, pending: Pending, reply: LoopReply) -> None:
        pending.connection.send(reply, pending.command.id)
        pending.acknowledged = True
        if not isinstance(reply, Accepted):
            pending.closed = True
            self._open.remove(pending)

    def _expire(self) -> None:
        """Refuse what the loop has not answered in time. What it had not even taken, it will not carry out later."""
        now_s = time.monotonic()
        for pending in [p for p in self._open if not p.acknowledged and now_s - p.arrived_s > ANSWER_MAX_S]:
            name = type(pending.command).__name__.lower()
            outcome = f"'{name}' was not carried out" if pending.claim() else f"whether '{name}' was carried out is unknown"
            found = f"the control loop did not answer within {ANSWER_MAX_S:g} s"
            self._reply(pending, Refused(reason=f"{found}, so {outcome}; look at `dofbot status`"))

    def _settle(self, connection: Connection) -> None:
        """Write what can be written, hang up where it is time to, and else wait for the right thing."""
        connection.flush()
        if connection.broken or connection.stuck_s() > STUCK_MAX_S:
            if not connection.broken:
                self._warn(f"hung up on {connection.peer or 'a client'}, which does not read its replies")
            self._dropped += not connection.gone
            return self._drop(connection)
        done = connection.leaving or (connection.ended and all(pending.connection is not connection for pending in self._open))
        if done and not connection.outgoing:
            return self._drop(connection)
        reading = 0 if connection.ended or connection.leaving else selectors.EVENT_READ
        self._watch(connection, reading | (selectors.EVENT_WRITE if connection.outgoing else 0))
        return None

    def _watch(self, connection: Connection, events: int) -> None:
        key = self._selector.get_map().get(connection.sock)
        if key is None and events:
            self._selector.register(connection.sock, events, connection)
        elif key is not None and not events:
            self._selector.unregister(connection.sock)
        elif key is not None and key.events != events:
            self._selector.modify(connection.sock, events, connection)

    def _drop(self, connection: Connection) -> None:
        """Hang up, and withdraw what the loop has not taken of this client's commands; a hold is carried out all the same."""
        self._watch(connection, 0)
        connection.close()
        self._connections.remove(connection)
        for pending in [p for p in self._open if p.connection is connection]:
            if not isinstance(pending.command, Hold):
                pending.claim()
            pending.closed = True
            self._open.remove(pending)

    def _warn(self, text: str, exc_info: bool = False) -> None:
        now_s = time.monotonic()
        if now_s - self._warned_s > _WARNING_S:
            self._warned_s = now_s
            _log.warning("control socket: %s", text, exc_info=exc_info)


def _be_ordinary() -> None:
    """Give this thread no real-time priority: it inherits what the thread that started it was granted."""
    with contextlib.suppress(AttributeError, OSError):  # not Linux; forbidden by a sandbox
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))  # on Linux, 0 is the calling thread
