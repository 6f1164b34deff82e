"""The simulator server: one simulated world, driven over TCP as `edge.simulated.wire` says.

It listens on loopback only; from elsewhere one tunnels with ssh. One client at a time drives the arm, and on the real clock
a camera may watch beside it. Who is malformed, slow or gone costs their own session, never the server or another's. The
world is touched by the thread that runs `serve` and by no other.
"""

import logging
import select
import selectors
import socket
import threading
import time
from typing import Protocol

from edge.errors import ConfigError, WireError
from edge.messages import Float32, Grey, Intrinsics
from edge.simulated import wire
from trainer.watchers import HELLO_WITHIN_S, Watchers, refuse

STEP_S = 0.004  # on the real clock: one physics step (`trainer.world.PHYSICS_HZ`), and what a pulse waits for at most
BACKLOG_MAX_S = 0.05  # lost time that is made good in fast motion: a slow image or two; more is given up and counted
SEND_WITHIN_S = 2.0  # a reader slower than this is cut off
POLL_S = 0.1  # how soon `stop` is seen
# A frame due now must not wait a tick because 3 * 0.04 > 0.12; far below any period.
ROUNDING_S = 1e-9

_log = logging.getLogger(__name__)


class World(Protocol):
    """What is simulated; without `frame_rate_hz`, the camera takes 25 images a second.

    A world may have `grey_image()`, which gives the grey image, (height, width) uint8, that belongs to the last depth image.
    """

    @property
    def now_s(self) -> float:
        """Simulated time, from any zero."""

    def write_pulses(self, pulses_us: wire.PulsesUs) -> None:
        """New servo pulses in joint order, 0 = off; they hold until the next."""

    def step(self, duration_s: float) -> None:
        """Let simulated time pass."""

    def depth_frame(self) -> tuple[Float32, Intrinsics]:
        """What the camera sees now: (height, width) float32 metres, 0 = invalid."""

    def servos_us(self) -> wire.PulsesUs:
        """The pulse that would hold each servo where it really is now, 0 = unknown."""


class SimulatorServer:
    """Serves one world on 127.0.0.1; `port` 0 takes a free one. Raises `ConfigError` when the port is taken."""

    def __init__(self, world: World, port: int = 0) -> None:
        try:
            self._listener = socket.create_server(("127.0.0.1", port))
        except (OSError, OverflowError) as error:
            raise ConfigError(f"port {port} cannot be listened on ({error}); stop the other simulator, or set simulator.port") from None
        self.port: int = self._listener.getsockname()[1]
        self.late_s = 0.0  # wall time that the simulation could not follow, real clock only
        self.dropped_frames = 0  # not sent because the client did not read, real clock only
        self._world = world
        self._rate_hz = float(getattr(world, "frame_rate_hz", 25.0))

    def serve(self, stop: threading.Event) -> None:
        """Take client after client until `stop` is set, then close."""
        with self._listener, selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            while not stop.is_set():
                if selector.select(POLL_S):
                    client, _ = self._listener.accept()
                    with client:
                        self._converse(client, stop)

    def _converse(self, client: socket.socket, stop: threading.Event) -> None:
        try:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with _Session(self, client, stop) as session:
                session.run()
        except WireError as error:
            _log.warning("simulator client refused: %s", error)
            refuse(client, str(error))
        except OSError as error:
            _log.warning("simulator client lost: %s", error)


class _Session:
    """One client, from its Hello to its end. Simulated time 0 is at the Hello."""

    def __init__(self, server: SimulatorServer, client: socket.socket, stop: threading.Event) -> None:
        self._server = server
        self._world = server._world
        self._client = client
        self._stop = stop
        self._virtual = self._wants_image = False
        self._origin_s = self._world.now_s
        self._now_s = 0.0
        self._frames = 0  # taken so far: the next one is due at _frames / rate
        self._selector = selectors.DefaultSelector()
        self._watchers = Watchers(server._listener, self._selector)
        self._room = select.poll()
        self._room.register(client, select.POLLOUT)

    def __enter__(self) -> "_Session":
        self._selector.register(self._client, selectors.EVENT_READ)
        return self

    def __exit__(self, *_: object) -> None:
        self._watchers.close()
        self._selector.close()

    def run(self) -> None:
        """Serve until the client leaves or `stop` is set; raises `WireError` when it breaks the rules, `OSError` when it is lost."""
        self._client.settimeout(HELLO_WITHIN_S)
        try:
            hello = wire.receive(self._client, wire.Hello)
        except TimeoutError:
            raise WireError(f"nothing came in {HELLO_WITHIN_S:g} s, expected a Hello") from None
        if not isinstance(hello, wire.Hello):
            return
        if hello.protocol != wire.PROTOCOL:
            raise WireError(f"the client speaks protocol {hello.protocol}, expected {wire.PROTOCOL}; install one version on both sides")
        if hello.role == "camera":
            raise WireError("a camera came first, expected an arm; connect the arm, then the camera")
        self._virtual, self._wants_image = hello.clock == "virtual", hello.image
        self._watchers.admit_cameras = not self._virtual
        self._client.settimeout(SEND_WITHIN_S)
        wire.send(self._client, wire.Welcome(wire.PROTOCOL, self._now_s))
        if self._virtual:
            while not self._stop.is_set() and self._take_message(POLL_S):
                pass
        else:
            self._follow_wall_time()

    def _follow_wall_time(self) -> None:
        start_s = time.monotonic()
        while not self._stop.is_set():
            behind_s = time.monotonic() - start_s - self._now_s
            if not self._take_message(max(STEP_S - behind_s, 0.0)):
                return
            behind_s = time.monotonic() - start_s - self._now_s
            if behind_s > BACKLOG_MAX_S:
                start_s += behind_s - BACKLOG_MAX_S
                self._server.late_s += behind_s - BACKLOG_MAX_S
            if behind_s >= STEP_S:
                self._move_to(self._now_s + STEP_S)
                self._show_latest()

    def _take_message(self, wait_s: float) -> bool:
        """Do what the next message says, if one comes in time; False when the client has left."""
        ready = [key.fileobj for key, _ in self._selector.select(wait_s)]
        if self._client not in ready:
            # Only now: a client that hangs up and comes back at once must not be turned away by its own past.
            self._watchers.attend(ready)
            return True
        message = wire.receive(self._client, wire.ClientMessage)
        if isinstance(message, wire.Pulses):
            self._world.write_pulses(message.pulses_us)
        elif isinstance(message, wire.Advance) and self._virtual:
            self._advance(message.until_s)
        elif message is not None:
            raise WireError(f"{type(message).__name__} came out of turn, expected Pulses{' or Advance' if self._virtual else ''}")
        return message is not None

    def _advance(self, until_s: float) -> None:
        if not self._now_s <= until_s <= self._now_s + wire.ADVANCE_MAX_S:
            raise WireError(f"until_s is {until_s}, expected {self._now_s}…{self._now_s + wire.ADVANCE_MAX_S}: forward, in smaller steps")
        while (due_s := self._frames / self._server._rate_hz) <= until_s + ROUNDING_S:
            if self._stop.is_set():
                return
            self._move_to(due_s)
            self._send_frame(*self._take(), max(until_s - due_s, 0.0))
        self._move_to(until_s)
        self._now_s = until_s
        wire.send(self._client, wire.Advanced(until_s))

    def _show_latest(self) -> None:
        """Send an image if one is due; a client that does not read misses it, and the world goes on."""
        if self._frames / self._server._rate_hz > self._now_s + ROUNDING_S:
            return
        arm_reads = bool(self._room.poll(0))
        if not arm_reads:
            self._server.dropped_frames += 1
        if not arm_reads and not self._watchers.watching:
            self._frames += 1
            return
        taken_s = time.monotonic()
        self._send_frame(*self._take(), time.monotonic() - taken_s, arm_reads)

    def _take(self) -> tuple[Float32, Intrinsics, Grey | None]:
        depth_m, intrinsics = self._world.depth_frame()
        grey_image = getattr(self._world, "grey_image", None)
        if grey_image is None or not (self._wants_image or self._watchers.wants_image):
            return depth_m, intrinsics, None
        return depth_m, intrinsics, grey_image()

    def _send_frame(self, depth_m: Float32, intrinsics: Intrinsics, grey: Grey | None, age_s: float, arm_reads: bool = True) -> None:
        message = wire.DepthFrame.of(depth_m, intrinsics, self._frames, age_s, self._world.servos_us(), grey)
        self._frames += 1
        self._watchers.show(message)
        if arm_reads:
            wire.send(self._client, message)

    def _move_to(self, now_s: float) -> None:
        # From the world's own time: one that moves in whole physics steps then never drifts off.
        duration_s = now_s - (self._world.now_s - self._origin_s)
        if duration_s > 0.0:
            self._world.step(duration_s)
        self._now_s = now_s
