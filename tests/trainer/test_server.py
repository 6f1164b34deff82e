"""The link drives a simulated world over loopback, on both clocks, and no client can take the server down."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress

import numpy as np
import pytest

from edge.cameras.camera import SimulatorCamera
from edge.clock import Pacer, VirtualClock
from edge.errors import BusError, ConfigError, ObservationError, WireError
from edge.messages import Float32, Grey, Intrinsics
from edge.simulated import wire
from edge.simulated.simulator import SimulatorLink
from trainer import server as server_module
from trainer.server import SimulatorServer

INTRINSICS = Intrinsics(8, 6, 60.0, 60.0, 3.5, 2.5)
REST_US = (1500.0,) * 6


class FakeWorld:
    """Time passes in whole physics steps of 4 ms; the image shows how much time has passed and the first pulse."""

    def __init__(self, intrinsics: Intrinsics = INTRINSICS, render_s: float = 0.0) -> None:
        self.now_s = 100.0  # another client was here before
        self.pulses_us: wire.PulsesUs = (0.0,) * 6
        self.received: list[tuple[float, wire.PulsesUs]] = []
        self.threads: set[int] = set()
        self._intrinsics = intrinsics
        self._render_s = render_s

    def write_pulses(self, pulses_us: wire.PulsesUs) -> None:
        self.threads.add(threading.get_ident())
        self.pulses_us = pulses_us
        self.received.append((round(self.now_s, 6), pulses_us))

    def step(self, duration_s: float) -> None:
        self.threads.add(threading.get_ident())
        assert duration_s > 0.0
        self.now_s += int(duration_s / 0.004 + 1e-6) * 0.004

    def servos_us(self) -> wire.PulsesUs:
        self.threads.add(threading.get_ident())
        return self.pulses_us

    def depth_frame(self) -> tuple[Float32, Intrinsics]:
        self.threads.add(threading.get_ident())
        time.sleep(self._render_s)
        depth_m = np.full((self._intrinsics.height, self._intrinsics.width), self.pulses_us[0] / 1e4, np.float32)
        depth_m[0, 0] = self.now_s - 100.0
        return depth_m, self._intrinsics


Serve = Callable[..., SimulatorServer]


@pytest.fixture
def serve() -> Iterator[Serve]:
    stops: list[tuple[threading.Event, threading.Thread]] = []

    def start(world: FakeWorld) -> SimulatorServer:
        server = SimulatorServer(world)
        stop = threading.Event()
        thread = threading.Thread(target=server.serve, args=(stop,))
        thread.start()
        stops.append((stop, thread))
        return server

    yield start
    for stop, thread in stops:
        stop.set()
        thread.join(timeout=10.0)
        assert not thread.is_alive()


def raw(server: SimulatorServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=5.0)


def eventually(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 5.0
    while not condition():
        assert time.monotonic() < deadline_s, "did not happen in 5 s"
        time.sleep(0.005)


def assert_serves(server: SimulatorServer) -> None:
    with closing(SimulatorLink.connect(server.port, "virtual")) as link:
        link.advance_to(0.1)
        assert link.now_s == 0.1
        assert link.latest_frame().captured_at_s > 0.05


# ------------------------------------------------------------------ virtual clock


def test_virtual_time_passes_only_in_advance(serve) -> None:
    world = FakeWorld()
    with closing(SimulatorLink.connect(serve(world).port, "virtual")) as link:
        assert link.now_s == 0.0
        assert link.latest_frame() is None
        assert link.servos_us == wire.UNKNOWN_US
        time.sleep(0.05)
        assert world.now_s == 100.0
        link.advance_to(0.5)
        assert link.now_s == 0.5
        assert world.now_s == pytest.approx(100.5)
        link.advance_to(0.2)  # the past: nothing moves
        assert link.now_s == 0.5
        assert world.now_s == pytest.approx(100.5)


class SeeingWorld(FakeWorld):
    """With a grey image that has the same number in it as the depth."""

    def grey_image(self) -> Grey:
        return np.full((self._intrinsics.height, self._intrinsics.width), int(self.pulses_us[0] / 10.0) % 256, np.uint8)


def test_the_grey_image_comes_to_whoever_asks_for_it_and_costs_nobody_else(serve) -> None:
    world = SeeingWorld()
    port = serve(world).port
    with closing(SimulatorLink.connect(port, "virtual")) as link:
        link.advance_to(0.1)
        assert link.latest_frame().image is None
    with closing(SimulatorLink.connect(port, "virtual", image=True)) as link:
        link.write_pulses([1500.0] * 6)
        link.advance_to(0.1)
        frame = link.latest_frame()
        assert (frame.image == 150).all()
        assert frame.image.shape == frame.depth_m.shape
    with closing(SimulatorLink.connect(port, "real")) as arm:
        assert arm.wait_for_frame(5.0).image is None
        with closing(SimulatorLink.connect(port, "real", role="camera", image=True)) as camera:
            assert camera.wait_for_frame(5.0).image is not None
            eventually(lambda: arm.latest_frame().image is not None)
        eventually(lambda: arm.latest_frame().image is None)


def test_a_world_without_a_grey_image_sends_none(serve) -> None:
    with closing(SimulatorLink.connect(serve(FakeWorld()).port, "virtual", image=True)) as link:
        link.advance_to(0.1)
        assert link.latest_frame().image is None


def test_frames_come_on_their_grid_with_their_time(serve) -> None:
    with closing(SimulatorLink.connect(serve(FakeWorld()).port, "virtual")) as link:
        pacer = Pacer(VirtualClock(link), 50.0)
        for tick in range(1, 200):
            assert pacer.wait() == 0.0
            frame = link.latest_frame()
            assert frame.sequence == tick // 2  # 25 images a second, the first at 0
            assert frame.captured_at_s == pytest.approx(frame.sequence * 0.04, abs=1e-9)
            assert frame.depth_m[0, 0] == pytest.approx(frame.captured_at_s, abs=1e-5)
            assert frame.intrinsics == INTRINSICS


def test_frame_rate_is_the_worlds(serve) -> None:
    world = FakeWorld()
    world.frame_rate_hz = 10.0
    with closing(SimulatorLink.connect(serve(world).port, "virtual")) as link:
        link.advance_to(1.0)
        assert link.latest_frame().sequence == 10


def test_an_advance_beyond_what_one_message_may_ask_is_split(serve) -> None:
    world = FakeWorld()
    with closing(SimulatorLink.connect(serve(world).port, "virtual")) as link:
        link.advance_to(25.0)
        assert link.now_s == 25.0
        assert world.now_s == pytest.approx(125.0)
        assert link.latest_frame().sequence == 625


def test_a_tick_that_no_physics_step_divides_does_not_drift(serve) -> None:
    world = FakeWorld()
    with closing(SimulatorLink.connect(serve(world).port, "virtual")) as link:
        for tick in range(1, 301):
            link.advance_to(tick / 60.0)
            assert -1e-6 < link.now_s - (world.now_s - 100.0) < 0.004 + 1e-6


def test_pulses_act_at_the_simulated_time_they_were_sent(serve) -> None:
    world = FakeWorld()
    with closing(SimulatorLink.connect(serve(world).port, "virtual")) as link:
        link.write_pulses(REST_US)
        link.advance_to(0.02)
        link.write_pulses((1600.0, *REST_US[1:5], 0.0))
        link.advance_to(0.04)
        assert world.received == [(100.0, REST_US), (100.02, (1600.0, *REST_US[1:5], 0.0))]
        assert link.latest_frame().depth_m[1, 1] == pytest.approx(0.16)
        assert link.servos_us == world.pulses_us


def test_a_virtual_run_is_the_same_each_time(serve) -> None:
    def run() -> tuple[list[object], list[object]]:
        world = FakeWorld()
        rng = np.random.default_rng(5)
        seen: list[object] = []
        with closing(SimulatorLink.connect(serve(world).port, "virtual")) as link:
            pacer = Pacer(VirtualClock(link), 50.0)
            for _ in range(200):
                pacer.wait()
                link.write_pulses(rng.uniform(500.0, 2500.0, 6))
                frame = link.latest_frame()
                seen.append((link.now_s, frame.sequence, frame.captured_at_s, frame.depth_m.tobytes()))
            link.advance_to(link.now_s)  # the last pulses have been taken when this is answered
        return seen, world.received

    assert run() == run()


# ------------------------------------------------------------------ real clock


def test_real_time_follows_the_wall_and_frames_are_fresh(serve) -> None:
    world = FakeWorld(render_s=0.01)
    server = serve(world)
    with closing(SimulatorLink.connect(server.port, "real")) as link:
        started_s = time.monotonic()
        assert SimulatorCamera(link).start() == INTRINSICS
        link.write_pulses(REST_US)
        sequences = set()
        while time.monotonic() - started_s < 0.6:
            frame = link.latest_frame()
            age_s = time.monotonic() - frame.captured_at_s
            assert 0.009 < age_s < 0.3  # not younger than its rendering took
            sequences.add(frame.sequence)
            time.sleep(0.01)
        passed_s = world.now_s - 100.0 + server.late_s
        assert passed_s == pytest.approx(time.monotonic() - started_s, abs=0.1)
        assert 8 <= len(sequences) <= 17
        assert [pulses_us for _, pulses_us in world.received] == [REST_US]


@pytest.mark.parametrize("clock", ["virtual", "real"])
def test_the_last_pulses_arrive_though_the_link_is_closed_at_once(clock, serve) -> None:
    server = serve(world := FakeWorld())
    for last_us in np.linspace(500.0, 2500.0, 20):
        with closing(SimulatorLink.connect(server.port, clock)) as link:
            link.wait_for_frame(5.0)
            link.write_pulses((last_us,) * 6)
        eventually(lambda last_us=last_us: world.pulses_us == (last_us,) * 6)


def test_a_slow_world_counts_its_lateness_and_still_takes_pulses(serve) -> None:
    world = FakeWorld(render_s=0.12)  # three times longer than the camera's period
    server = serve(world)
    with closing(SimulatorLink.connect(server.port, "real")) as link:
        started_s = time.monotonic()
        while time.monotonic() - started_s < 1.0:
            link.write_pulses(REST_US)
            time.sleep(0.02)
        passed_s = time.monotonic() - started_s
        assert server.late_s > 0.3
        assert world.now_s - 100.0 + server.late_s == pytest.approx(passed_s, abs=0.3)
        assert len(world.received) > 20


def test_a_client_that_does_not_read_misses_frames_and_nothing_stops(serve) -> None:
    world = FakeWorld(Intrinsics(128, 128, 60.0, 60.0, 63.5, 63.5))
    world.frame_rate_hz = 250.0
    server = serve(world)
    with raw(server) as client:
        wire.send(client, wire.Hello(wire.PROTOCOL, "real"))
        eventually(lambda: server.dropped_frames > 10)
        wire.send(client, wire.Pulses(REST_US))
        eventually(lambda: bool(world.received))
    assert_serves(server)


# ------------------------------------------------------------------ one world, one thread, one client


def test_only_the_serving_thread_touches_the_world(serve) -> None:
    world = FakeWorld()
    server = serve(world)
    assert_serves(server)
    with closing(SimulatorLink.connect(server.port, "real")) as link:
        link.write_pulses(REST_US)
        link.wait_for_frame(5.0)
    eventually(lambda: bool(world.received))
    assert len(world.threads) == 1
    assert threading.get_ident() not in world.threads


@pytest.mark.parametrize("clock", ["virtual", "real"])
def test_a_second_client_is_told_and_the_first_goes_on(clock, serve) -> None:
    server = serve(FakeWorld())
    with closing(SimulatorLink.connect(server.port, clock)) as link:
        with pytest.raises(BusError, match="another client is connected"):
            SimulatorLink.connect(server.port, clock)
        assert link.wait_for_frame(5.0) is not None
    assert_serves(server)


def test_it_listens_on_loopback_only() -> None:
    server = SimulatorServer(FakeWorld())
    assert server._listener.getsockname()[0] == "127.0.0.1"
    with pytest.raises(ConfigError, match=f"port {server.port} cannot be listened on"):
        SimulatorServer(FakeWorld(), server.port)
    stop = threading.Event()
    stop.set()
    server.serve(stop)
    with pytest.raises(BusError, match="start one in another terminal: dofbot simulate"):
        SimulatorLink.connect(server.port, "real")


# ------------------------------------------------------------------ clients that break the rules


def hello(clock: str, protocol: int = wire.PROTOCOL) -> bytes:
    return framed(wire.encode(wire.Hello(protocol, clock)))


def framed(body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + body


def pulses(last_us: float) -> bytes:
    return framed(wire.encode(wire.Pulses(REST_US)).replace(np.array(1500.0, ">f8").tobytes(), np.array(last_us, ">f8").tobytes()))


BAD = {
    "http": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "oversize": b"\xff\xff\xff\xff" + bytes(1000),
    "empty message": bytes(4),
    "zeros": framed(bytes(100)),
    "pulses before hello": pulses(1500.0),
    "other protocol": hello("real", 99),
    "two hellos": hello("real") + hello("real"),
    "nan pulse": hello("real") + pulses(np.nan),
    "infinite pulse": hello("virtual") + pulses(np.inf),
    "short pulse": hello("virtual") + pulses(299.0),
    "advance on the real clock": hello("real") + framed(wire.encode(wire.Advance(1.0))),
    "advance too far": hello("virtual") + framed(wire.encode(wire.Advance(10.1))),
    "advance back": hello("virtual") + framed(wire.encode(wire.Advance(1.0))) + framed(wire.encode(wire.Advance(0.9))),
    "a server's message": hello("virtual") + framed(wire.encode(wire.Advanced(1.0))),
}


@pytest.mark.parametrize("sent", BAD.values(), ids=BAD.keys())
def test_a_bad_client_is_told_why_and_the_next_one_is_served(sent, serve) -> None:
    world = FakeWorld()
    server = serve(world)
    with raw(server) as client:
        client.sendall(sent)
        for _ in range(50):  # frames come first; on the real clock they never end
            last = wire.receive(client, wire.ServerMessage)
            if last is None or isinstance(last, wire.Refused):
                break
        assert isinstance(last, wire.Refused)
        assert "expected" in last.reason
    assert world.received == []
    assert_serves(server)


def test_a_silent_and_a_stalled_client_are_cut_off(serve, monkeypatch) -> None:
    monkeypatch.setattr(server_module, "HELLO_WITHIN_S", 0.05)
    monkeypatch.setattr(server_module, "SEND_WITHIN_S", 0.05)
    server = serve(FakeWorld())
    for sent in (b"", b"\x00\x00", hello("real")[:9], hello("virtual") + b"\x00\x00\x00\x40part"):
        with raw(server) as client:
            client.sendall(sent)
            answers = []
            while (message := wire.receive(client, wire.ServerMessage)) is not None:
                answers.append(message)
            assert isinstance(answers[-1], wire.Refused)
    assert_serves(server)


def test_a_reader_that_stalls_in_lockstep_is_cut_off(serve, monkeypatch) -> None:
    monkeypatch.setattr(server_module, "SEND_WITHIN_S", 0.1)
    server = serve(FakeWorld(Intrinsics(400, 400, 60.0, 60.0, 200.0, 200.0)))
    with raw(server) as slow:
        wire.send(slow, wire.Hello(wire.PROTOCOL, "virtual"))
        wire.send(slow, wire.Advance(10.0))  # 250 frames of 640 kB, more than sockets hold
        started_s = time.monotonic()
        assert_serves_when_free(server)
        assert time.monotonic() - started_s < 3.0


def assert_serves_when_free(server: SimulatorServer) -> None:
    """As `assert_serves`, once the server is done with the client it has."""
    deadline_s = time.monotonic() + 5.0
    while True:
        try:
            return assert_serves(server)
        except BusError:
            assert time.monotonic() < deadline_s


def test_random_bytes_from_many_clients_leave_the_server_standing(serve) -> None:
    server = serve(world := FakeWorld())
    rng = np.random.default_rng(11)
    valid = hello("virtual") + pulses(1500.0) + framed(wire.encode(wire.Advance(0.1)))
    for index in range(200):
        data = bytearray(valid if index % 2 else rng.bytes(int(rng.integers(1, 300))))
        for bit in rng.integers(0, 8 * len(data), 3):
            data[bit // 8] ^= 1 << bit % 8
        with raw(server) as client:
            client.sendall(data)
    for _, pulses_us in world.received:
        assert all(pulse_us == 0.0 or 300.0 <= pulse_us <= 2700.0 for pulse_us in pulses_us)
    assert_serves_when_free(server)


# ------------------------------------------------------------------ the link's errors


@pytest.mark.parametrize("clock", ["virtual", "real"])
def test_a_lost_server_is_one_sentence_at_the_next_use(clock) -> None:
    server = SimulatorServer(FakeWorld())
    stop = threading.Event()
    thread = threading.Thread(target=server.serve, args=(stop,))
    thread.start()
    link = SimulatorLink.connect(server.port, clock)
    camera = SimulatorCamera(link)
    camera.start()
    stop.set()
    thread.join()
    if clock == "virtual":
        with pytest.raises(BusError, match="start it again: dofbot simulate"):
            link.advance_to(1.0)
    else:
        eventually(lambda: link._lost != "")
    for use, error in ((lambda: link.write_pulses(REST_US), BusError), (camera.latest, ObservationError), (camera.start, ObservationError)):
        with pytest.raises(error, match=f"the connection to the simulator on port {server.port} .*; start it again: dofbot simulate"):
            use()
    link.close()


def test_impossible_pulses_are_refused_before_they_are_sent(serve) -> None:
    world = FakeWorld()
    with closing(SimulatorLink.connect(serve(world).port, "virtual")) as link:
        for bad in (
            (*REST_US[:5], np.nan),
            (*REST_US[:5], 299.0),
            (*REST_US[:5], 20_000.0),
            (*REST_US[:5], -1500.0),
            REST_US[:5],
            (*REST_US, 0.0),
        ):
            with pytest.raises(BusError, match="correct the command"):
                link.write_pulses(bad)
        with pytest.raises(WireError, match="until_s is nan"):
            link.advance_to(float("nan"))
        link.write_pulses(REST_US)
        link.advance_to(0.02)
        assert [pulses_us for _, pulses_us in world.received] == [REST_US]


@pytest.mark.parametrize("clock", ["virtual", "real"])
def test_closing_twice_is_fine_and_a_closed_link_says_so(clock, serve) -> None:
    link = SimulatorLink.connect(serve(FakeWorld()).port, clock)
    camera = SimulatorCamera(link)
    camera.start()
    camera.close()
    assert camera.latest() is not None  # the link belongs to the runtime
    link.close()
    link.close()
    with pytest.raises(BusError, match="closed by us"):
        link.write_pulses(REST_US)


@contextmanager
def fake_simulator(answer: bytes) -> Iterator[tuple[int, threading.Event]]:
    """A program on a port of its own that answers the first bytes it gets, and reads the rest once the event is set."""
    read_on = threading.Event()

    def answer_one() -> None:
        with listener.accept()[0] as client, suppress(ConnectionResetError):
            client.recv(1000)
            client.sendall(answer)
            read_on.wait(5.0)
            while client.recv(1000):
                pass

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        thread = threading.Thread(target=answer_one)
        thread.start()
        yield listener.getsockname()[1], read_on
        read_on.set()
        thread.join()


WELCOME = framed(wire.encode(wire.Welcome(wire.PROTOCOL, 0.0)))


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (b"", "timed out"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "claims 1397966893 bytes"),
        (framed(wire.encode(wire.Welcome(wire.PROTOCOL + 1, 0.0))), "Welcome out of turn"),
        (framed(wire.encode(wire.Refused("full"))), "was refused: full"),
    ],
)
def test_another_program_on_the_port_is_told_from_a_simulator(answer, says) -> None:
    with fake_simulator(answer) as (port, _), pytest.raises(BusError, match=f"the connection to the simulator on port {port} .*{says}"):
        SimulatorLink.connect(port, "real", timeout_s=0.1)


def test_a_simulator_without_frames_is_an_observation_error() -> None:
    with (
        fake_simulator(WELCOME) as (port, _),
        closing(SimulatorLink.connect(port, "real")) as link,
        pytest.raises(ObservationError, match=r"no depth frame in 0\.05 s"),
    ):
        SimulatorCamera(link, timeout_s=0.05).start()


def test_a_suspended_simulator_does_not_hold_the_control_thread() -> None:
    with fake_simulator(WELCOME) as (port, read_on), closing(SimulatorLink.connect(port, "real")) as link:
        link._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        longest_s = 0.0

        def write() -> None:
            nonlocal longest_s
            started_s = time.monotonic()
            try:
                link.write_pulses(REST_US)
            finally:
                longest_s = max(longest_s, time.monotonic() - started_s)

        def write_until_full() -> None:
            for _ in range(10_000):
                write()

        with pytest.raises(BusError, match="has stopped reading, pulses not sent"):
            write_until_full()
        assert 0.01 <= longest_s < 0.5
        read_on.set()
        time.sleep(0.1)
        write()  # the connection has survived
