"""Commands the running process from another one: what the verbs use, and programs that pick blocks by themselves.

with ControlClient() as client:
    client.ask(Arm())
    ticket = client.send(Grasp(count=3))
    client.receive(ticket, 1.5)  # Accepted
    client.receive(ticket, 300.0)  # GraspResult
"""

import time
from collections import defaultdict, deque
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from edge.errors import NotListeningError, WireError
from edge.remote.commands import REPLY_MAX_BYTES, Command, Refused, Reply, decode_reply, encode
from edge.remote.control_socket import connect

REPLY_MAX_S = 2.0  # the server answers within 1.1 s, whatever the control loop does


class ControlClient:
    """One connection, for one thread. Every method raises `NotListeningError` when the process has ended."""

    def __init__(self, path: Path | None = None) -> None:
        """Connect to the process at `path`, or to the one that is found in the usual places."""
        self._socket = connect(path, REPLY_MAX_S)
        self._last_id = 0
        self._incoming = bytearray()
        self._unread: dict[int, deque[Reply]] = defaultdict(deque)

    def send(self, command: Command) -> int:
        """Send a command; returns the id with which its replies come back."""
        self._last_id += 1
        try:
            self._socket.sendall(encode(msgspec.structs.replace(command, id=self._last_id)))
        except BrokenPipeError:
            pass  # why it hung up may still be there to be received
        except OSError as error:
            raise _ended(error) from None
        return self._last_id

    def receive(self, command_id: int, timeout_s: float) -> Reply | None:
        """The next reply to a command; None when none has come in time. Replies to others are kept for their turn."""
        deadline_s = time.monotonic() + timeout_s
        while not self._unread[command_id]:
            reply = self._read(deadline_s)
            if reply is None:
                return None
            # With no id: not to a command but to us, before the server hangs up.
            self._unread[command_id if isinstance(reply, Refused) and reply.id == 0 else reply.id].append(reply)
        return self._unread[command_id].popleft()

    def ask(self, command: Command) -> Reply:
        """Send a command and wait for its first reply."""
        reply = self.receive(self.send(command), REPLY_MAX_S)
        if reply is None:
            raise NotListeningError(f"no answer within {REPLY_MAX_S:g} s, expected one in 1 s; look at: journalctl -u dofbot-grasp")
        return reply

    def _read(self, deadline_s: float) -> Reply | None:
        while b"\n" not in self._incoming:
            remaining_s = deadline_s - time.monotonic()
            if remaining_s <= 0.0:
                return None
            self._socket.settimeout(remaining_s)
            try:
                chunk = self._socket.recv(4096)
            except TimeoutError:
                return None
            except OSError as error:
                raise _ended(error) from None
            if not chunk:
                raise _ended(None)
            self._incoming += chunk
            if len(self._incoming) > 2 * REPLY_MAX_BYTES:
                raise WireError(f"a reply of more than {REPLY_MAX_BYTES} bytes has come, expected a line; is this dofbot's socket?")
        line, _, self._incoming = self._incoming.partition(b"\n")
        return decode_reply(line)

    def close(self) -> None:
        """Hang up. Commands that the loop has taken go on."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _ended(error: OSError | None) -> NotListeningError:
    found = f" ({error.strerror})" if error else ""
    return NotListeningError(f"the process closed the connection before it answered{found}; look at: journalctl -u dofbot-grasp")
