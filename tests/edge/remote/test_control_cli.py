"""The verbs say what came of a command, in a sentence and in the exit code."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edge import cli
from edge.remote import control_cli
from edge.remote.commands import (
    Accepted,
    Arm,
    Command,
    ControlCounts,
    Done,
    Grasp,
    GraspResult,
    Hold,
    Inject,
    LoopReply,
    Park,
    Refused,
    Reset,
    StatusReport,
)
from edge.remote.control import ControlServer
from edge.remote.pending import Pending

ROOT = Path(__file__).parents[3]


class FakeLoop:
    """A control loop: ticks, publishes, and answers with what `replies` says; remembers what it was told."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.told: list[Command] = []
        self.lost = ""
        self.status = StatusReport(state="READY", phase="IDLE")
        self.replies: Callable[[Command], list[LoopReply]] = lambda command: [Done(text=type(command).__name__)]
        self._server = ControlServer(path, histograms=lambda: {"lateness": {"p99": 0.001}})
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._tick)
        self._thread.start()

    def _tick(self) -> None:
        due: list[tuple[float, Pending, LoopReply]] = []
        while not self._stop.wait(0.01):
            self._server.publish(self.status)
            self.lost = self.lost or self._server.deadman_lost()
            for pending in self._server.take():
                self.told.append(pending.command)
                for index, reply in enumerate(self.replies(pending.command)):
                    due.append((time.monotonic() + 0.3 * index, pending, reply))
            for item in [item for item in due if item[0] <= time.monotonic()]:
                due.remove(item)
                item[1].answer(item[2])

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self._server.close()


@pytest.fixture
def loop(tmp_path, monkeypatch) -> Iterator[FakeLoop]:
    loop = FakeLoop(tmp_path / "control.sock")
    monkeypatch.setenv("DOFBOT_SOCKET", str(loop.path))
    yield loop
    loop.close()


@pytest.fixture
def dofbot(monkeypatch, capsys) -> Callable[..., tuple[int, str, str]]:
    """Runs a verb as the shell does: exit code, stdout, stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["dofbot", *arguments])
        monkeypatch.setattr(cli, "_add_verbs", lambda: None)
        with pytest.raises(SystemExit) as caught:
            cli.main()
        code = caught.value.code
        out, err = capsys.readouterr()
        return (code if isinstance(code, int) else 0), out, err

    return run


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (["arm"], Arm(id=1)),
        (["hold"], Hold(id=1)),
        (["park"], Park(id=1)),
        (["reset"], Reset(id=1)),
        (["inject", "camera", "stuck"], Inject(target="camera", mode="stuck", id=1)),
        (
            ["inject", "bus", "intermittent", "--for", "2.5", "--value", "0.05"],
            Inject(target="bus", mode="intermittent", for_s=2.5, value=0.05, id=1),
        ),
    ],
)
def test_a_verb_is_its_command_and_prints_the_answer(arguments, command, loop, dofbot) -> None:
    assert dofbot(*arguments) == (0, f"{type(command).__name__}\n", "")
    assert loop.told == [command]
    code, out, _ = dofbot(*arguments, "--json")
    assert (code, json.loads(out)) == (0, {"type": "done", "text": type(command).__name__, "id": 1})


def test_a_socket_can_be_named(loop, dofbot, monkeypatch) -> None:
    monkeypatch.delenv("DOFBOT_SOCKET")
    assert dofbot("hold", "--socket", str(loop.path))[0] == 0


@pytest.mark.parametrize("verb", ["arm", "grasp", "hold", "park", "reset"])
def test_a_refusal_is_its_reason_and_exit_code_4_or_3_in_safe(verb, loop, dofbot) -> None:
    loop.replies = lambda _: [Refused(reason="bus.driver is 'x', expected 'y'; change it")]
    assert dofbot(verb) == (4, "", "dofbot: bus.driver is 'x', expected 'y'; change it\n")
    loop.status = StatusReport(state="SAFE", reason="the bus failed", latched=True)
    time.sleep(0.05)
    assert dofbot(verb)[::2] == (3, "dofbot: bus.driver is 'x', expected 'y'; change it\n")
    code, out, err = dofbot(verb, "--json")
    assert (code, json.loads(out)["type"]) == (3, "refused")
    assert err


@pytest.mark.parametrize("verb", ["arm", "grasp", "hold", "park", "reset", "status"])
def test_where_nothing_listens_the_exit_code_is_5_and_the_sentence_says_how_to_start_it(verb, dofbot, tmp_path) -> None:
    code, out, err = dofbot(verb, "--socket", str(tmp_path / "none.sock"))
    assert (code, out) == (5, "")
    assert "systemctl start dofbot-grasp` or `dofbot run`" in err
    assert err.count("\n") == 1


def test_a_loop_that_does_not_answer_is_a_refusal(loop, dofbot, monkeypatch) -> None:
    monkeypatch.setattr("edge.remote.control.ANSWER_MAX_S", 0.1)
    loop.replies = lambda _: []
    code, _, err = dofbot("hold")
    assert code == 4
    assert "whether 'hold' was carried out is unknown" in err


@pytest.mark.parametrize(
    ("count", "result", "code", "out"),
    [
        (1, GraspResult(picked=1, missed=0, lost=0), 0, "picked"),
        (1, GraspResult(picked=0, missed=1, lost=0), 6, "missed"),
        (1, GraspResult(picked=0, missed=0, lost=1), 7, "lost"),
        (3, GraspResult(picked=3, missed=0, lost=0), 0, "3 picked, 0 missed, 0 lost"),
        (3, GraspResult(picked=2, missed=1, lost=0), 6, "2 picked, 1 missed, 0 lost"),
        (3, GraspResult(picked=1, missed=1, lost=1), 7, "1 picked, 1 missed, 1 lost"),
        (3, GraspResult(picked=1, missed=0, lost=0, reason="parked"), 6, "1 picked, 0 missed, 0 lost; ended after 1 of 3: parked"),
        (1, GraspResult(picked=0, missed=0, lost=0, reason="parked"), 6, "0 picked, 0 missed, 0 lost; ended after 0 of 1: parked"),
    ],
)
def test_grasp_waits_for_its_result(count, result, code, out, loop, dofbot) -> None:
    loop.replies = lambda _: [Accepted(), result]
    assert dofbot("grasp", "-n", str(count)) == (code, f"{out}\n", "")
    assert loop.told == [Grasp(count=count, id=1)]


def test_a_grasp_that_ends_in_safe_has_its_reason_and_exit_code_3(loop, dofbot) -> None:
    loop.replies = lambda _: [Accepted(), GraspResult(picked=0, missed=0, lost=0, reason="the bus failed")]
    loop.status = StatusReport(state="SAFE")
    code, out, err = dofbot("grasp", "--json")
    assert (code, json.loads(out)["reason"], err) == (3, "the bus failed", "dofbot: the bus failed\n")


def test_a_grasp_shows_its_progress_on_a_terminal(loop, dofbot, monkeypatch) -> None:
    monkeypatch.setattr(control_cli, "_PROGRESS_S", 0.05)
    monkeypatch.setattr(control_cli, "_on_terminal", lambda: True)
    loop.status = StatusReport(state="HOLD", phase="APPROACH", reason="no frame", attempts=2, picked=1)
    loop.replies = lambda _: [Accepted(), GraspResult(picked=1, missed=0, lost=0)]
    code, out, err = dofbot("grasp")
    assert (code, out) == (0, "picked\n")
    assert "HOLD APPROACH (no frame): 1 picked of 2, 0 s" in err
    assert err.endswith("\r")


def test_status_is_a_table_for_people_and_json_for_programs(loop, dofbot) -> None:
    loop.status = StatusReport(
        state="HOLD", phase="APPROACH", reason="no frame", since_s=75.0, attempts=12, picked=10, missed=1, lost=1, ticks=23044,
        skipped=2, holds=14, frame_age_s=0.038, bus="pca9685", policy="policy.onnx", policy_sha256=64 * "a",
        policy_warning="not the active one, 3f2a91bc04d7: cut short", realtime=("FIFO 50", "not granted: locked memory"), release="0.4.0",
    )  # fmt: skip
    time.sleep(0.05)
    code, out, _ = dofbot("status")
    assert code == 0
    table = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert table["state"] == "HOLD for 1 min 15 s: no frame"
    assert table["grasps"] == "12: 10 picked, 1 missed, 1 lost"
    assert table["loop"] == "23,044 ticks, 2 skipped, 14 held"
    assert table["camera"] == "newest frame 38 ms old"
    assert table["policy"] == "policy.onnx aaaaaaaaaaaa; not the active one, 3f2a91bc04d7: cut short"
    assert table["realtime"] == "FIFO 50; not granted: locked memory"
    report = json.loads(dofbot("status", "--json")[1])
    assert (report["type"], report["state"], report["ticks"], report["control"]["clients"]) == ("status_report", "HOLD", 23044, 1)
    assert json.loads(dofbot("status", "--timing")[1])["histograms"] == {"lateness": {"p99": 0.001}}


@pytest.mark.parametrize("extra", [[], ["--json"]])
def test_status_of_an_arm_in_safe_has_exit_code_3_and_says_what_to_do(extra, loop, dofbot) -> None:
    loop.status = StatusReport(state="SAFE", reason="the bus failed", latched=True)
    time.sleep(0.05)
    code, out, err = dofbot("status", *extra)
    assert (code, err) == (3, "")
    assert "the bus failed" in out
    assert extra or "dofbot reset, once you have looked at it" in out


def test_a_report_that_is_old_says_that_the_loop_is_stuck() -> None:
    rows = dict(control_cli.rows(StatusReport(state="READY", age_s=3.21, since_s=7380.0, control=ControlCounts(clients=1))))
    assert "NO REPORT FOR 3.2 s, the loop is stuck" in rows["loop"]
    assert rows["state"] == "READY for 2 h 03 min"
    assert rows["camera"] == "newest frame none yet"
    assert "bus" not in rows
    assert "stuck" not in dict(control_cli.rows(StatusReport(state="READY", age_s=0.1)))["loop"]


@pytest.mark.parametrize(
    "arguments", [["grasp", "-n", "0"], ["grasp", "-n", "1001"], ["inject", "moon", "off"], ["inject", "bus", "off", "--for", "-1"]]
)
def test_what_cannot_be_is_refused_before_it_is_sent(arguments, loop, dofbot) -> None:
    assert dofbot(*arguments)[0] == 2
    assert loop.told == []


@pytest.mark.parametrize("verb", ["arm", "grasp", "hold", "park", "reset", "status", "inject"])
def test_help_teaches_the_exit_codes(verb, dofbot) -> None:
    code, out, _ = dofbot(verb, "--help")
    assert code == 0
    assert "Exit codes: 0 done, 3 the arm is in SAFE, 4 refused, 5 nothing listens." in " ".join(out.replace("│", " ").split())


@contextmanager
def started(*arguments: str) -> Iterator["subprocess.Popen[str]"]:
    """A verb in a process of its own, which does not outlive a failed test."""
    command = [sys.executable, "-m", "edge.cli", *arguments]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ) as process:
        try:
            yield process
        finally:
            process.kill()


def within(limit_s: float, condition: Callable[[], object]) -> None:
    deadline_s = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline_s, "it did not come to that"
        time.sleep(0.01)


@pytest.mark.parametrize("arguments", [["arm", "--deadman"], ["grasp", "-n", "9"]])
def test_ctrl_c_holds_the_arm(arguments, loop, monkeypatch) -> None:
    monkeypatch.setattr("edge.remote.control.DEADMAN_S", 1.5)  # three times what it is: the other process may have to wait for a CPU
    loop.replies = lambda command: [Accepted()] if isinstance(command, Grasp) else [Done()]
    with started(*arguments) as process:
        within(30.0, lambda: loop.told)
        time.sleep(1.8)
        assert loop.lost == ""
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30.0)
    assert process.returncode == 130
    assert isinstance(loop.told[-1], Hold)


def test_a_killed_deadman_is_lost(loop) -> None:
    with started("arm", "--deadman") as process:
        within(30.0, lambda: loop.told)
        process.kill()
        began_s = time.monotonic()
        within(1.0, lambda: loop.lost)
        assert time.monotonic() - began_s < 0.5
    assert "has closed its connection" in loop.lost


@pytest.mark.parametrize(("state", "code"), [("SAFE", 3), ("DISARMED", 0)])
def test_a_deadman_has_nothing_to_do_where_the_arm_is_no_longer_armed(state, code, loop, dofbot) -> None:
    loop.status = StatusReport(state=state, reason="the bus failed")
    found, _, err = dofbot("arm", "--deadman")
    assert found == code
    assert f"the arm is in {state}: the bus failed" in err


def test_a_process_that_ends_meanwhile_is_said_so(loop, dofbot) -> None:
    loop.replies = lambda _: [Accepted()]

    def end() -> None:
        within(10.0, lambda: loop.told)
        time.sleep(0.1)
        loop.close()

    ending = threading.Thread(target=end)
    ending.start()
    code, _, err = dofbot("grasp")
    ending.join()
    assert code == 5
    assert "closed the connection before it answered" in err
