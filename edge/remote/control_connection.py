"""One client of the control socket: bytes in, lines out, and never more of either than fits."""

import socket
import time

import msgspec

from edge.errors import WireError
from edge.remote.commands import LINE_MAX_BYTES, Refused, Reply, encode

OUTGOING_MAX_BYTES = 1 << 17  # two of the longest replies
_CHUNK_BYTES = 1024  # read at a time; at most 64 commands


class Connection:
    """A non-blocking connection; nothing here raises."""

    def __init__(self, sock: socket.socket, peer: str) -> None:
        self.sock = sock
        self.peer = peer
        self.outgoing = bytearray()
        self.heard_s = time.monotonic()  # when the last command came
        self.malformed = 0
        self.overlong = ""  # what is wrong with a line that has no end
        self.leaving = False  # hang up once the outgoing bytes are written
        self.ended = False  # nothing more comes from the client
        self.gone = False  # the client has closed, or reset the connection
        self.broken = False  # nothing more can be sent
        self._incoming = bytearray()
        self._moved_s = time.monotonic()  # when the client last took a byte, or had none to take

    def receive(self) -> list[bytes]:
        """The lines that one read completes, without their ends; sets `ended` and `overlong`."""
        try:
            chunk = self.sock.recv(_CHUNK_BYTES)
        except BlockingIOError:
            return []
        except OSError:
            self.ended = self.gone = self.broken = True
            return []
        self.ended = not chunk
        self._incoming += chunk
        *lines, rest = self._incoming.split(b"\n")
        self._incoming = rest
        if len(rest) > LINE_MAX_BYTES or any(len(line) > LINE_MAX_BYTES for line in lines):
            self.overlong = f"line of more than {LINE_MAX_BYTES} bytes, expected one command a line"
            self._incoming = bytearray()
            return []
        if self.ended and rest:  # it may be cut short, and mean something else than was meant
            self.overlong = f"the last {len(rest)} bytes do not end with a newline, expected whole lines"
        return [bytes(line) for line in lines]

    def send(self, reply: Reply, command_id: int = 0) -> None:
        """Queue a reply, which is that to the command of this id; a client that leaves too much unread is `broken`."""
        reply = _with_id(reply, command_id)
        try:
            line = encode(reply)
        except WireError as error:
            line = encode(_with_id(Refused(reason=f"{error}; this is a fault of the process, please report it"), command_id))
        if not self.outgoing:
            self._moved_s = time.monotonic()
        if len(self.outgoing) + len(line) > OUTGOING_MAX_BYTES:
            self.broken = True
        else:
            self.outgoing += line

    def flush(self) -> None:
        """Write what the client takes; sets `broken` when it has gone."""
        if not self.outgoing or self.broken:
            return
        try:
            written = self.sock.send(self.outgoing)
        except BlockingIOError:
            return
        except OSError:
            self.ended = self.gone = self.broken = True
            return
        del self.outgoing[:written]
        self._moved_s = time.monotonic()

    def stuck_s(self) -> float:
        """For how long the client has read nothing of what is there for it."""
        return time.monotonic() - self._moved_s if self.outgoing else 0.0

    def close(self) -> None:
        """Hang up."""
        self.ended = True
        self.sock.close()


def _with_id(reply: Reply, command_id: int) -> Reply:
    return msgspec.structs.replace(reply, id=command_id)
