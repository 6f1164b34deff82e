"""A camera beside the arm sees what the arm sees, and whoever misbehaves there costs neither the arm nor another camera anything."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress

import numpy as np
import pytest

from edge.cameras.camera import SimulatorWatcher
from edge.errors import BusError, ObservationError
from edge.messages import Float32, Intrinsics
from edge.simulated import wire
from edge.simulated.simulator import SimulatorLink
from trainer import watchers
from trainer.server import SimulatorServer

LENS = Intrinsics(8, 6, 60.0, 60.0, 3.5, 2.5)
REST_US = (1500.0,) * 6
CAMERA = wire.Hello(wire.PROTOCOL, "real", "camera")


class FakeWorld:
    """Its image shows the time that has passed, and it takes 100 of them a second."""

    frame_rate_hz = 100.0

    def __init__(self, lens: Intrinsics = LENS) -> None:
        self.now_s = 0.0
        self.received: list[wire.PulsesUs] = []
        self._lens = lens

    def write_pulses(self, pulses_us: wire.PulsesUs) -> None:
        self.received.append(pulses_us)

    def step(self, duration_s: float) -> None:
        self.now_s += duration_s

    def depth_frame(self) -> tuple[Float32, Intrinsics]:
        return np.full((self._lens.height, self._lens.width), 0.1 + self.now_s, np.float32), self._lens

    def servos_us(self) -> wire.PulsesUs:
        return wire.UNKNOWN_US


Serve = Callable[..., SimulatorServer]


@pytest.fixture
def serve(monkeypatch) -> Iterator[Serve]:
    monkeypatch.setattr("trainer.server.POLL_S", 0.01)
    stop, threads = threading.Event(), []

    def start(world: FakeWorld) -> SimulatorServer:
        server = SimulatorServer(world)
        threads.append(threading.Thread(target=server.serve, args=(stop,)))
        threads[-1].start()
        return server

    yield start
    stop.set()
    for thread in threads:
        thread.join(timeout=10.0)
        assert not thread.is_alive()


def framed(message: wire.Message) -> bytes:
    body = wire.encode(message)
    return len(body).to_bytes(4, "big") + body


def knock(server: SimulatorServer, sent: bytes = b"") -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", server.port), timeout=5.0)
    sock.sendall(sent)
    return sock


def last_of(sock: socket.socket) -> wire.Message | None:
    """The last message before the server hangs up; its welcome and its frames come before."""
    last = None
    with suppress(ConnectionResetError):  # it had not read all that we sent
        while (message := wire.receive(sock, wire.ServerMessage)) is not None:
            last = message
    return last


def eventually(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 30.0
    while not condition():
        assert time.monotonic() < deadline_s, "did not happen in 30 s"
        time.sleep(0.005)


def assert_unharmed(arm: SimulatorLink, world: FakeWorld) -> None:
    """The arm's link takes pulses and brings frames as before."""
    pulses, before = len(world.received), arm.latest_frame().sequence
    arm.write_pulses(REST_US)
    eventually(lambda: len(world.received) == pulses + 1 and arm.latest_frame().sequence > before + 3)


@pytest.fixture
def world() -> FakeWorld:
    return FakeWorld()


@pytest.fixture
def server(serve, world) -> SimulatorServer:
    return serve(world)


@pytest.fixture
def arm(server) -> Iterator[SimulatorLink]:
    with closing(SimulatorLink.connect(server.port, "real")) as link:
        assert link.wait_for_frame(30.0) is not None
        yield link


def test_two_cameras_watch_beside_the_arm(server, arm, world) -> None:
    with closing(SimulatorWatcher(server.port)) as one, closing(SimulatorWatcher(server.port)) as two:
        for camera in (one, two):
            assert camera.start() == LENS
            first = camera.latest().sequence
            eventually(lambda camera=camera, first=first: camera.latest().sequence > first + 5)
            frame = camera.latest()
            assert frame.depth_m[1, 1] == pytest.approx(0.1 + frame.sequence / 100.0, abs=0.005)  # the arm's own numbers
        assert_unharmed(arm, world)
    assert_unharmed(arm, world)


def test_a_camera_that_comes_first_or_stays_behind_is_told(server) -> None:
    with pytest.raises(BusError, match="a camera came first, expected an arm; connect the arm, then the camera"):
        SimulatorWatcher(server.port)
    arm = SimulatorLink.connect(server.port, "real")
    camera = SimulatorWatcher(server.port)
    camera.start()
    arm.close()

    def why() -> str:
        try:
            return "" if camera.latest() else ""
        except ObservationError as error:
            return str(error)

    eventually(lambda: bool(why()))
    assert "the arm's session has ended; connect the arm again, then the camera" in why()
    camera.close()


def test_in_lockstep_there_is_no_watching(server) -> None:
    with closing(SimulatorLink.connect(server.port, "virtual")) as arm:
        for clock in ("real", "virtual"):
            with pytest.raises(BusError, match="on the virtual clock, expected the real one"):
                SimulatorLink.connect(server.port, clock, role="camera")
        arm.advance_to(0.1)
        assert arm.latest_frame().sequence == 10


def test_a_second_arm_is_turned_away_and_a_camera_is_not(server, arm, world) -> None:
    with pytest.raises(BusError, match="another client is connected"):
        SimulatorLink.connect(server.port, "real")
    with closing(SimulatorWatcher(server.port)) as camera:
        camera.start()
        assert_unharmed(arm, world)


BAD = {
    "http": b"GET / HTTP/1.1\r\n\r\n",
    "oversize": b"\xff\xff\xff\xff",
    "empty": bytes(4),
    "zeros": (100).to_bytes(4, "big") + bytes(100),
    "other protocol": framed(wire.Hello(99, "real", "camera")),
    "pulses for a hello": framed(wire.Pulses(REST_US)),
    "camera on the virtual clock": framed(wire.Hello(wire.PROTOCOL, "virtual", "camera")),
    "more than a hello": framed(CAMERA) + framed(wire.Pulses(REST_US)),
}


@pytest.mark.parametrize("sent", BAD.values(), ids=BAD.keys())
def test_a_bad_watcher_is_told_why(sent, server, arm, world) -> None:
    with knock(server, sent) as bad:
        refused = last_of(bad)
        assert isinstance(refused, wire.Refused)
        assert "expected" in refused.reason
    assert_unharmed(arm, world)
    assert set(world.received) == {REST_US}


def test_a_camera_that_sends_pulses_moves_nothing(server, arm, world) -> None:
    with knock(server, framed(CAMERA)) as bad:
        assert isinstance(wire.receive(bad, wire.ServerMessage), wire.Welcome)
        bad.sendall(framed(wire.Pulses((600.0,) * 6)))
        last_of(bad)
    assert_unharmed(arm, world)
    assert set(world.received) == {REST_US}


def test_who_is_silent_or_stalls_is_cut_off_and_makes_room(server, arm, world, monkeypatch) -> None:
    monkeypatch.setattr(watchers, "HELLO_WITHIN_S", 0.1)
    full = [knock(server, sent) for sent in (b"", b"\x00\x00", framed(CAMERA)[:9], b"\x00\x00\x00\x40part")]
    with knock(server) as one_too_many:
        refused = last_of(one_too_many)
        assert isinstance(refused, wire.Refused)
        assert "others are connected beside the arm" in refused.reason
    for sock in full:
        with sock:
            assert isinstance(last_of(sock), wire.Refused)
    with closing(SimulatorWatcher(server.port)) as camera:
        camera.start()
    assert_unharmed(arm, world)


def test_a_camera_that_does_not_read_misses_images_and_is_hung_up_on(serve, monkeypatch) -> None:
    monkeypatch.setattr(watchers, "STALLED_AFTER_S", 0.2)
    world = FakeWorld(Intrinsics(256, 256, 60.0, 60.0, 127.5, 127.5))
    server = serve(world)
    with closing(SimulatorLink.connect(server.port, "real")) as arm, closing(SimulatorWatcher(server.port)) as good:
        arm.wait_for_frame(30.0)
        good.start()
        with socket.socket() as bad:
            bad.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            bad.settimeout(5.0)
            bad.connect(("127.0.0.1", server.port))
            bad.sendall(framed(CAMERA))
            before = good.latest().sequence
            time.sleep(0.4)
            assert_unharmed(arm, world)
            eventually(lambda: good.latest().sequence > before + 5)
            received = 0
            with suppress(ConnectionResetError):
                while data := bad.recv(1 << 16):
                    received += len(data)
            assert received < 1 << 20  # a few images of 256 KiB, not all that there were


def test_random_bytes_from_many_watchers_leave_the_arm_alone(server, arm, world) -> None:
    rng = np.random.default_rng(17)
    valid = framed(CAMERA) + framed(wire.Pulses((600.0,) * 6))
    for index in range(200):
        data = bytearray(valid if index % 2 else rng.bytes(int(rng.integers(1, 300))))
        for bit in rng.integers(0, 8 * len(data), 3):
            data[bit // 8] ^= 1 << bit % 8
        with suppress(ConnectionError), knock(server, bytes(data)):
            pass
    assert_unharmed(arm, world)
    assert set(world.received) == {REST_US}
