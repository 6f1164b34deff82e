"""How each fault is brought about, and how a test knows that it really was."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from edge.remote.commands import Accepted, Arm, Done, Mode, Refused, Reply, SwapPolicy, Target
from edge.remote.control_client import ControlClient
from tests.hil.robot import POLICY, Changes, Robot, wait_for


class Delivered(NamedTuple):
    """A fault that has begun. `evidence` fails where it did not happen; `end` ends it, or waits for its end."""

    at_s: float
    evidence: Callable[[], None]
    end: Callable[[], None] = lambda: None


Deliver = Callable[[Robot], Delivered]
Prepare = Callable[[Path], Changes]  # from a folder to what is different in the configuration
JUDGED_S = 0.6  # into a descent: what comes then is found before the next one
NEXT_DESCENT_S = 20.0
KNOCKED = "mm from its place, expected at most 10; has the camera moved?"
WATCHDOG_S = 0.5  # WatchdogSec of dofbot-grasp.service


def injected(target: Target, mode: Mode, value: float = 0.0, for_s: float = 0.0) -> Deliver:
    """Through the library of faults, for so long."""

    def deliver(robot: Robot) -> Delivered:
        at_s = robot.inject(target, mode, value, for_s)
        until_s = time.monotonic() + for_s

        def evidence() -> None:
            what = f"{target} {mode}"
            wait_for(lambda: robot.status().faults.get(what, 0), 1.0, f"'{what}' is applied")

        return Delivered(at_s, evidence, lambda: time.sleep(max(0.0, until_s - time.monotonic())))

    return deliver


def capture_gets(number: signal.Signals) -> Deliver:
    """The camera's process is stopped or killed, and replaced by another."""

    def deliver(robot: Robot) -> Delivered:
        pid, at_s = robot.capture_pid(), time.monotonic()
        os.kill(pid, number)

        def evidence() -> None:
            wait_for(lambda: robot.capture_pid() != pid, 5.0, f"another capture process than {pid}")

        return Delivered(at_s, evidence)

    return deliver


def covered_camera(for_s: float) -> Deliver:
    """Something lies over the lens, for so long."""

    def deliver(robot: Robot) -> Delivered:
        at_s = time.monotonic()
        robot.bench.tell("blank true")

        def end() -> None:
            time.sleep(max(0.0, at_s + for_s - time.monotonic()))
            robot.bench.tell("blank false")

        def evidence() -> None:
            assert robot.has_said("100% of the depth pixels are invalid", at_s), robot.journal

        return Delivered(at_s, evidence, end)

    return deliver


def fixed_marker(folder: Path) -> Changes:
    """The marker that lies on the desk is looked at."""
    from trainer.grey import FIXED  # which takes OpenCV

    patient = {"max_age_s": 0.3}  # the search may have to wait for a CPU
    return {"fixed_marker": {"id": FIXED.id, "at_in_table_m": list(FIXED.at_in_table_m)}, "camera": patient}


def knocked(turn_rad: float, so_it: Literal["is found", "is not"]) -> Deliver:
    """The camera is turned on its mount, and is pushed back in the end; counted from where the next descent begins, not from the knock."""

    def deliver(robot: Robot) -> Delivered:
        if robot.status().state == "APPROACH":
            time.sleep(JUDGED_S)
        since_s = robot.inject("camera", "moved", turn_rad)
        began = robot.enters("APPROACH", NEXT_DESCENT_S, since_s)
        at_s = max(tick.now_s for tick in robot.ticks() if tick.phase == "HOMING")

        def end() -> None:
            if so_it == "is not":
                robot.enters("GRASP", NEXT_DESCENT_S, began.at_s)
            robot.inject("camera", "ok")

        def evidence() -> None:
            assert robot.status().faults["camera moved"]
            assert robot.has_said(KNOCKED, since_s) == (so_it == "is found"), robot.journal

        return Delivered(at_s, evidence, end)

    return deliver


def stalled_servos(for_s: float) -> Deliver:
    """The shafts do not move, wherever they are sent, for so long."""

    def deliver(robot: Robot) -> Delivered:
        at_s = time.monotonic()
        robot.bench.tell("stalled true")
        stands_s = time.monotonic()

        def end() -> None:
            time.sleep(max(0.0, at_s + for_s - time.monotonic()))
            until_s = time.monotonic()
            robot.bench.tell("stalled false")
            trace = [sent for sent in robot.trace(stands_s) if sent.at_s < until_s]
            assert len({sent.shafts_us for sent in trace}) == 1
            assert len({sent.pulses_us for sent in trace}) > 1

        return Delivered(at_s, lambda: None, end)

    return deliver


def process_gets(number: signal.Signals) -> Deliver:
    """A signal to the runtime."""

    def deliver(robot: Robot) -> Delivered:
        at_s = time.monotonic()
        robot.process.send_signal(number)
        return Delivered(at_s, lambda: None)

    return deliver


def hogs(count: int, for_s: float) -> Deliver:
    """So many processes that want a CPU each."""

    def deliver(robot: Robot) -> Delivered:
        at_s = time.monotonic()
        busy = f"import time\nwhile time.monotonic() < {at_s + for_s}: pass"
        processes = [subprocess.Popen([sys.executable, "-c", busy]) for _ in range(count)]

        def end() -> None:
            for process in processes:
                assert process.wait(for_s + 30.0) == 0

        def evidence() -> None:
            used_s = os.times().children_user + os.times().children_system - before_s
            assert used_s > 0.5 * for_s, f"the hogs got {used_s:.1f} s of CPU time"

        before_s = os.times().children_user + os.times().children_system
        return Delivered(at_s, evidence, end)

    return deliver


def from_the_start(said: str, for_s: float = 2.0) -> Deliver:
    """What the row's configuration or environment has done already, and the process has `said`; looked at for so long."""

    def deliver(robot: Robot) -> Delivered:
        def evidence() -> None:
            assert robot.has_said(said), robot.journal

        return Delivered(time.monotonic(), evidence, lambda: time.sleep(for_s))

    return deliver


def hung_host(address: str) -> Deliver:
    """The control thread blocks, and we are systemd: `address` is in NOTIFY_SOCKET, and what is not fed for 0.5 s gets SIGABRT."""

    def deliver(robot: Robot) -> Delivered:
        systemd = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        systemd.bind(address.replace("@", "\0", 1))
        systemd.settimeout(WATCHDOG_S)
        assert b"WATCHDOG=1" in systemd.recv(4096), "not fed although all is well"
        at_s = robot.inject("host", "stuck", 600.0)

        def end() -> None:
            with systemd, suppress(TimeoutError):
                while systemd.recv(4096):
                    assert time.monotonic() < at_s + 1.0, "fed by a loop that hangs"
            robot.process.send_signal(signal.SIGABRT)

        return Delivered(at_s, lambda: None, end)

    return deliver


def swapped_policies(robot: Robot) -> Delivered:
    """Policies that are damaged, cut short or another's are offered to the process, then one that is good."""
    at_s, before = time.monotonic(), robot.status().policy_sha256

    def end() -> None:
        for name, spoil in SPOILT.items():
            path = robot.config.with_name(f"{name}.onnx")
            path.write_bytes(spoil(POLICY.read_bytes()))
            reply = _swapped(robot, path)
            assert isinstance(reply, Refused), reply
            assert str(path) in reply.reason
            assert robot.status().policy_sha256 == before
        reply = _swapped(robot, POLICY)
        assert isinstance(reply, Done), reply

    return Delivered(at_s, lambda: None, end)


def _swapped(robot: Robot, path: Path) -> Reply | None:
    client = ControlClient(robot.socket)
    try:
        ticket = client.send(SwapPolicy(path=str(path)))
        first = client.receive(ticket, 2.0)
        return client.receive(ticket, 10.0) if isinstance(first, Accepted) else first
    finally:
        client.close()


def _flipped(data: bytes) -> bytes:
    at = len(data) // 2
    return data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :]


SPOILT: Mapping[str, Callable[[bytes], bytes]] = {
    "flipped": _flipped,
    "short": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "noise": lambda data: np.random.default_rng(0).bytes(len(data)),
}


def policy_file(spoil: Callable[[bytes], bytes]) -> Prepare:
    """The configuration names a file with other content."""

    def prepare(folder: Path) -> Changes:
        path = folder / "policy.onnx"
        path.write_bytes(spoil(POLICY.read_bytes()))
        return {"run": {"policy": str(path)}}

    return prepare


def silent_deadman(robot: Robot) -> Delivered:
    """Whoever armed with a deadman is connected still, and says nothing any more; after a second it arms again."""
    client = robot.keep(ControlClient(robot.socket))
    at_s = time.monotonic()
    assert isinstance(client.ask(Arm(deadman=True)), Done)

    def evidence() -> None:
        assert robot.has_said("which armed with a deadman, was silent", at_s), robot.journal

    def end() -> None:
        time.sleep(max(0.0, at_s + 1.0 - time.monotonic()))
        robot.do(Arm())

    return Delivered(at_s, evidence, end)


def slow_readers(count: int, for_s: float) -> Deliver:
    """Clients that ask for the status all the time and read nothing."""

    def deliver(robot: Robot) -> Delivered:
        at_s, clients = time.monotonic(), [_connected(robot) for _ in range(count)]
        before = robot.status().control.dropped

        def end() -> None:
            while time.monotonic() < at_s + for_s:
                for client in clients:
                    with suppress(OSError):
                        client.send(b'{"type":"status"}\n' * 50)
                time.sleep(0.01)

        def evidence() -> None:
            dropped = robot.status().control.dropped - before
            for client in clients:
                client.close()
            assert dropped == count, f"{dropped} of {count} were hung up on"

        return Delivered(at_s, evidence, end)

    return deliver


def malformed(lines: int, seed: int = 0) -> Deliver:
    """Lines that are no command, at the control socket, and messages that are none, at the simulator."""

    def deliver(robot: Robot) -> Delivered:
        random, at_s, before = np.random.default_rng(seed), time.monotonic(), robot.status().control.malformed
        sent = 0

        def end() -> None:
            nonlocal sent
            while sent < lines:
                with _connected(robot) as client, suppress(OSError):
                    batch = [_garbage(random) for _ in range(LINES_A_CLIENT)]
                    client.setblocking(True)
                    client.settimeout(2.0)
                    client.sendall(b"".join(batch))
                    client.shutdown(socket.SHUT_WR)
                    while client.recv(1 << 16):
                        pass
                sent += LINES_A_CLIENT
                if sent % (100 * LINES_A_CLIENT) == 0:
                    _knock_at_the_desk(robot, random)

        def evidence() -> None:
            rejected = robot.status().control.malformed - before
            assert rejected >= lines // LINES_A_CLIENT, f"{rejected} lines rejected, {sent} sent"

        return Delivered(at_s, evidence, end)

    return deliver


def connects(count: int) -> Deliver:
    """So many connections at the control socket, as fast as they come, none of which says anything."""

    def deliver(robot: Robot) -> Delivered:
        at_s, before, clients = time.monotonic(), robot.status().control.refused, []

        def end() -> None:
            for _ in range(count):
                with suppress(OSError):
                    clients.append(_connected(robot))
                    time.sleep(0.0005)
            time.sleep(0.5)
            for client in clients:
                client.close()

        def evidence() -> None:
            refused = robot.status().control.refused - before
            assert len(clients) > count / 2, f"only {len(clients)} of {count} connected"
            assert refused >= len(clients) - 8, f"{refused} of {len(clients)} were refused"

        return Delivered(at_s, evidence, end)

    return deliver


LINES_A_CLIENT = 3  # after the third malformed one it is hung up on


def _garbage(random: np.random.Generator) -> bytes:
    """A line that is no command: noise, almost JSON, almost a command, or longer than any."""
    kind = int(random.integers(5))
    if kind == 0:
        return random.bytes(int(random.integers(1, 200))).replace(b"\n", b" ") + b"\n"
    if kind == 1:
        return b'{"type":"grasp","count":' + str(int(random.integers(-(10**9), 1))).encode() + b"}\n"
    if kind == 2:
        return b'{"type":"arm","deadman":NaN}\n'
    if kind == 3:
        return b"[" * int(random.integers(1, 2000)) + b"\n"
    return b'{"type":"inject","target":"bus","mode":"off","for_s":1e999}\n'


def _knock_at_the_desk(robot: Robot, random: np.random.Generator) -> None:
    with socket.create_connection(("127.0.0.1", robot.bench.port), 2.0) as client, suppress(OSError):
        client.sendall(random.bytes(200))
        client.recv(1 << 12)


def _connected(robot: Robot) -> socket.socket:
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.connect(str(robot.socket))
    client.setblocking(False)
    return client
