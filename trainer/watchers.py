"""Those who connect while an arm has the simulator: a camera may watch, everybody else is told why not.

Nothing here waits: a watcher that is slow, silent or malformed misses frames or is hung up on, and the arm's session goes on.
"""

import contextlib
import logging
import selectors
import socket
import time
from collections.abc import Sequence

from edge.errors import WireError
from edge.simulated import wire

HELLO_WITHIN_S = 1.0  # so that a silent connection does not keep others out
CONNECTIONS_MAX = 4  # at a time, beside the arm: one camera, another that takes its place, and two mistakes
STALLED_AFTER_S = 2.0  # a watcher that reads nothing for so long is hung up on
REFUSE_WITHIN_S = 0.1  # for a client that nobody waits behind
SEND_BUFFER_BYTES = 1 << 16  # a few of our images: what a stopped reader finds when it goes on is old
HELLO_MAX_BYTES = 256

_log = logging.getLogger(__name__)


class _Watcher:
    """One connection: what it has said so far, and what it has not taken yet."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.heard = bytearray()
        self.unsent = memoryview(b"")
        self.welcome = False
        self.wants_image = False
        self.deadline_s = time.monotonic() + HELLO_WITHIN_S


class Watchers:
    """The connections beside that of the arm; `admit_cameras` says whether a camera may stay."""

    def __init__(self, listener: socket.socket, selector: selectors.BaseSelector) -> None:
        self.admit_cameras = False
        self._listener = listener
        self._selector = selector
        self._watchers: dict[socket.socket, _Watcher] = {}
        selector.register(listener, selectors.EVENT_READ)

    @property
    def watching(self) -> bool:
        """Whether a camera would take an image now."""
        return any(watcher.welcome and not watcher.unsent for watcher in self._watchers.values())

    @property
    def wants_image(self) -> bool:
        """Whether one of the cameras asked for the grey image, too."""
        return any(watcher.wants_image for watcher in self._watchers.values())

    def attend(self, ready: Sequence[object]) -> None:
        """Let in who knocks, hear who speaks, and hang up on who breaks the rules or stalls."""
        if self._listener in ready:
            self._let_in()
        now_s = time.monotonic()
        for watcher in list(self._watchers.values()):
            try:
                if watcher.sock in ready:
                    self._hear(watcher)
                self._send(watcher)
                if now_s > watcher.deadline_s and (watcher.unsent or not watcher.welcome):
                    raise WireError("nothing came or was taken in time, expected a Hello, then a reader")
            except WireError as error:
                self._hang_up(watcher, str(error))
            except OSError:
                self._hang_up(watcher)

    def show(self, message: wire.DepthFrame) -> None:
        """Send an image to each camera that has taken the one before."""
        if not self.watching:
            return
        data = memoryview(_framed(message))
        for watcher in list(self._watchers.values()):
            if watcher.welcome and not watcher.unsent:
                watcher.unsent, watcher.deadline_s = data, time.monotonic() + STALLED_AFTER_S
                try:
                    self._send(watcher)
                except OSError:
                    self._hang_up(watcher)

    def close(self) -> None:
        """Hang up on all, since the arm has gone."""
        for watcher in list(self._watchers.values()):
            self._hang_up(watcher, "the arm's session has ended; connect the arm again, then the camera")

    def _let_in(self) -> None:
        sock, _ = self._listener.accept()
        if len(self._watchers) >= CONNECTIONS_MAX:
            refuse(sock, f"{CONNECTIONS_MAX} others are connected beside the arm; stop one of them", within_s=0.0)
            sock.close()
            return
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        self._watchers[sock] = _Watcher(sock)
        self._selector.register(sock, selectors.EVENT_READ)

    def _hear(self, watcher: _Watcher) -> None:
        """Take the Hello when it is whole; raises `WireError` for anything else, `OSError` when the watcher has left."""
        data = watcher.sock.recv(HELLO_MAX_BYTES)
        if not data:
            raise ConnectionResetError
        watcher.heard += data
        if watcher.welcome:
            raise WireError("a camera spoke after its Hello, expected it to listen")
        length = int.from_bytes(watcher.heard[:4], "big")
        if len(watcher.heard) >= 4 and not 0 < length <= HELLO_MAX_BYTES:
            raise WireError(f"message claims {length} bytes, expected a Hello of at most {HELLO_MAX_BYTES}")
        if len(watcher.heard) < 4 + length or len(watcher.heard) < 4:
            return
        hello = wire.decode(watcher.heard[4:], wire.Hello)
        assert isinstance(hello, wire.Hello)
        self._admit(watcher, hello)

    def _admit(self, watcher: _Watcher, hello: wire.Hello) -> None:
        if hello.protocol != wire.PROTOCOL:
            raise WireError(f"the client speaks protocol {hello.protocol}, expected {wire.PROTOCOL}; install one version on both sides")
        if hello.role != "camera":
            raise WireError("another client is connected; stop it, or start a second simulator on another port")
        if not self.admit_cameras or hello.clock != "real":
            raise WireError("a camera came on the virtual clock, expected the real one: in lockstep the arm's client takes the images")
        watcher.welcome, watcher.wants_image = True, hello.image
        watcher.unsent = memoryview(_framed(wire.Welcome(wire.PROTOCOL, 0.0)))
        watcher.deadline_s = time.monotonic() + STALLED_AFTER_S

    def _send(self, watcher: _Watcher) -> None:
        if watcher.unsent:
            with contextlib.suppress(BlockingIOError):
                watcher.unsent = watcher.unsent[watcher.sock.send(watcher.unsent) :]

    def _hang_up(self, watcher: _Watcher, reason: str = "") -> None:
        if reason:
            _log.warning("simulator watcher refused: %s", reason)
            if not watcher.unsent:  # a refusal inside half an image would be noise
                refuse(watcher.sock, reason, within_s=0.0)
        self._selector.unregister(watcher.sock)
        del self._watchers[watcher.sock]
        watcher.sock.close()


def refuse(sock: socket.socket, reason: str, within_s: float = REFUSE_WITHIN_S) -> None:
    """Say why, if the other side still listens, and hang up."""
    with contextlib.suppress(OSError):
        sock.settimeout(within_s)
        wire.send(sock, wire.Refused(reason[: wire.REASON_MAX_CHARACTERS]))
        sock.shutdown(socket.SHUT_WR)


def _framed(message: wire.Message) -> bytes:
    body = wire.encode(message)
    return len(body).to_bytes(4, "big") + body
