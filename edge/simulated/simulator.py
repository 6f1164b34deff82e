"""The link to the simulator: servo pulses go out, depth frames come in.

Two clocks. `real`: the simulator keeps pace with wall time, and a thread stores the latest frame. `virtual`:
simulated time passes only in `advance_to`, in lockstep and as fast as the machine allows, and every run is the same.
One thread uses a link; on the real clock, a second one may write the pulses.
"""

import contextlib
import select
import socket
import threading
import time
from collections.abc import Sequence
from typing import cast

from edge.errors import BusError, DofbotError, ObservationError, WireError
from edge.messages import Frame
from edge.simulated import wire
from edge.simulated.wire import ClockName, RoleName

WRITE_WAIT_MS = 10  # for room in a full socket: what the I2C bus gets too; half a tick


class SimulatorLink:
    """A connection to a simulator on this machine; made by `connect`. A simulator elsewhere comes here by `ssh -L`."""

    @classmethod
    def connect(cls, port: int, clock: ClockName, timeout_s: float = 5.0, role: RoleName = "arm", image: bool = False) -> "SimulatorLink":
        """Open a session; raises `BusError` when no simulator is there or it refuses. `timeout_s` is for each answer.

        As a `camera` join the session of the arm that is connected, on the real clock: frames come, pulses are refused.
        With `image` frames have their grey image.
        """
        try:
            sock = socket.create_connection(("127.0.0.1", port), timeout_s)
        except OSError as error:
            raise BusError(f"no simulator answers on 127.0.0.1:{port} ({error}); start one in another terminal: dofbot simulate") from None
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            wire.send(sock, wire.Hello(wire.PROTOCOL, clock, role, image))
            answer = wire.receive(sock, wire.Welcome | wire.Refused)
            if isinstance(answer, wire.Welcome) and answer.protocol == wire.PROTOCOL:
                return cls(sock, port, clock, answer.now_s)
            problem = _what_came(answer)
        except (OSError, WireError) as error:
            problem = f"brought no welcome ({error}); see which program listens there"
        sock.close()
        raise BusError(f"the connection to the simulator on port {port} {problem}")

    def __init__(self, sock: socket.socket, port: int, clock: ClockName, now_s: float) -> None:
        self.clock = clock
        self.now_s = now_s  # simulated time, which only the virtual clock keeps
        self._sock = sock
        self.port = port
        self.servos_us = wire.UNKNOWN_US  # pulses that would hold the servos where they were in the newest frame, 0 = unknown
        self._latest: Frame | None = None
        self._lost = ""
        self._news = threading.Event()  # a first frame, or the loss of the connection
        self._reader = threading.Thread(target=self._read_frames, name="simulator link", daemon=True)
        if clock == "real":
            self._reader.start()

    def write_pulses(self, pulses_us: Sequence[float]) -> None:
        """Send six pulses in microseconds, 0 = off; raises `BusError` for an impossible pulse, a full or a lost connection."""
        self._check(BusError)
        try:
            message = wire.Pulses(cast(wire.PulsesUs, tuple(map(float, pulses_us))))
        except WireError as error:
            raise BusError(f"the simulator was not sent these pulses: {error}; correct the command") from None
        room = select.poll()
        room.register(self._sock, select.POLLOUT)
        if not room.poll(WRITE_WAIT_MS):
            raise BusError(f"the simulator on port {self.port} has stopped reading, pulses not sent; is it suspended?")
        try:
            wire.send(self._sock, message)
        except OSError as error:
            self._lose(f"was lost ({error})")
            self._check(BusError)

    def latest_frame(self) -> Frame | None:
        """The newest frame, or None before the first; raises `ObservationError` when the connection is lost."""
        self._check(ObservationError)
        return self._latest

    def wait_for_frame(self, timeout_s: float) -> Frame | None:
        """The newest frame; on the real clock waits for the first one. Raises `ObservationError`."""
        self._check(ObservationError)
        if self.clock == "virtual":
            self._advance(self.now_s)
        else:
            self._news.wait(timeout_s)
        return self.latest_frame()

    def advance_to(self, now_s: float) -> None:
        """Let simulated time run to `now_s`, and take the frames due until then; virtual clock only.

        A time in the past only fetches what is due. Raises `BusError` when the simulator is gone or refuses, `WireError` for NaN.
        """
        while True:
            self._check(BusError)
            self._advance(min(max(now_s, self.now_s), self.now_s + wire.ADVANCE_MAX_S))
            self._check(BusError)
            if self.now_s >= now_s:
                return

    def close(self) -> None:
        """Hang up. Idempotent, never raises."""
        self._lose("was closed by us")
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)  # wakes the reader
        if self._reader.is_alive():
            self._reader.join()
        self._sock.close()

    def _read_frames(self) -> None:
        while not self._lost:
            try:
                message = wire.receive(self._sock, wire.ServerMessage)
            except TimeoutError:
                continue  # the frame's age tells
            except (OSError, WireError) as error:
                return self._lose(f"was lost ({error})")
            arrived_s = time.monotonic()
            if not isinstance(message, wire.DepthFrame):
                return self._lose(_what_came(message))
            self._store(message, arrived_s)
        return None

    def _advance(self, until_s: float) -> None:
        """One `Advance` and all that comes back; a failure is left in `_lost`."""
        request = wire.Advance(until_s)
        frame: wire.DepthFrame | None = None
        try:
            wire.send(self._sock, request)
            while isinstance(message := wire.receive(self._sock, wire.ServerMessage), wire.DepthFrame):
                frame = message
        except (OSError, WireError) as error:
            return self._lose(f"was lost ({error})")
        if message != wire.Advanced(until_s):
            return self._lose(_what_came(message))
        self.now_s = until_s
        if frame:
            self._store(frame, until_s)
        return None

    def _store(self, message: wire.DepthFrame, arrived_s: float) -> None:
        self.servos_us = message.servos_us
        self._latest = Frame(message.depth(), message.intrinsics, arrived_s - message.age_s, message.sequence, message.grey())
        self._news.set()

    def _lose(self, why: str) -> None:
        self._lost = self._lost or why  # the first reason is the true one
        self._news.set()

    def _check(self, kind: type[DofbotError]) -> None:
        if self._lost:
            raise kind(f"the connection to the simulator on port {self.port} {self._lost}; start it again: dofbot simulate")


def _what_came(message: wire.Message | None) -> str:
    """What an answer that we did not want says about the connection."""
    if message is None:
        return "ended: the simulator hung up"
    if isinstance(message, wire.Refused):
        return f"was refused: {message.reason}"
    return f"brought {type(message).__name__} out of turn"
