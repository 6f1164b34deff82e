"""Health is what a running process shows: each thing that can be wrong is named, and alone makes it unhealthy."""

import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import typer
from typer.testing import CliRunner

from edge.errors import LatePolicyError
from edge.policy import load
from edge.remote.commands import StatusReport
from edge.remote.control import ControlServer
from firmware_tools import deploy_cli, health

POLICY = Path(__file__).parents[2] / "trainer" / "results" / "policy.onnx"
SHA256 = load(POLICY).sha256
GOOD = StatusReport(state="DISARMED", frame_age_s=0.05, bus="pca9685: answers", policy_sha256=SHA256)


class Process:
    """A service that answers on a socket; `report` gives its status after so many ticks."""

    def __init__(self, path: Path, report: Callable[[int], StatusReport]) -> None:
        self._server = ControlServer(path, 0o600, None, dict)
        self._report, self._stop = report, threading.Event()
        self._server.publish(report(0))  # a fast machine asks before a tick has passed
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        ticks = 0
        while not self._stop.wait(0.02):
            ticks += 1
            self._server.publish(self._report(ticks))

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self._server.close()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "config.toml").write_text(f'[run]\npolicy = "{POLICY}"\n')
    systemctl = tmp_path / "systemctl"
    systemctl.write_text("#!/bin/sh\necho ${STATE:-active}\n")
    systemctl.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(health, "WATCHED_S", 0.5)
    return tmp_path


def examined(place: Path, report: Callable[[int], StatusReport]) -> health.Health:
    process = Process(place / "socket", report)
    try:
        return health.examine(place / "config.toml", place / "socket")
    finally:
        process.close()


def changed(**fields: object) -> Callable[[int], StatusReport]:
    return lambda ticks: msgspec.structs.replace(GOOD, **{"ticks": ticks * 3, **fields})  # thrice: publishing may be slow here


def test_a_service_that_does_its_work_is_healthy(place: Path) -> None:
    found = examined(place, changed())
    assert found.healthy, found.reason
    assert [check.name for check in found.checks] == ["service", "golden vectors", "state", "camera", "bus", "loop", "policy"]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"frame_age_s": None}, "camera: no frame yet, expected a frame of the last 0.5 s"),
        ({"frame_age_s": 2.0}, "camera: newest frame 2000 ms old, expected a frame of the last 0.5 s"),
        ({"bus": "pca9685: no acknowledgement"}, "bus: pca9685: no acknowledgement, expected answers"),
        ({"ticks": 100}, "loop: 0.0 ticks/s, expected at least 45"),
        ({"state": "SAFE", "reason": "bus silent"}, "state: SAFE (bus silent), expected any but SAFE"),
        ({"policy_sha256": "0" * 64}, f"policy: 000000000000, expected {SHA256[:12]}, as configured"),
    ],
)
def test_one_thing_that_is_wrong_is_the_reason(place: Path, fields: dict[str, object], expected: str) -> None:
    found = examined(place, changed(**fields))
    assert not found.healthy
    assert found.reason == expected


def test_which_policy_is_in_memory_is_told_where_this_process_is_slow(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def late(*_: object) -> None:
        raise LatePolicyError("slow just now")

    monkeypatch.setattr(health, "load", late)
    assert examined(place, changed()).healthy
    assert examined(place, changed(policy_sha256="0" * 64)).reason == f"policy: 000000000000, expected {SHA256[:12]}, as configured"


def test_a_service_that_is_not_active_is_not_healthy(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATE", "failed")
    assert examined(place, changed()).reason == "service: failed, expected active"


def test_nobody_there_and_a_damaged_policy_are_sentences_and_an_exit_code(place: Path) -> None:
    app = typer.Typer()
    deploy_cli.register(app)
    arguments = ["health", "--config", str(place / "config.toml"), "--socket", str(place / "none"), "--json"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1
    assert "nothing listens on" in msgspec.json.decode(result.stdout, type=health.Health).reason
    damaged = bytearray(POLICY.read_bytes())
    damaged[1000] ^= 1
    shutil.copyfile(POLICY, place / "policy.onnx")
    (place / "policy.onnx").write_bytes(damaged)
    (place / "config.toml").write_text(f'[run]\npolicy = "{place / "policy.onnx"}"\n')
    reason = msgspec.json.decode(CliRunner().invoke(app, arguments).stdout, type=health.Health).reason
    assert reason.startswith("golden vectors: ")
    assert "Traceback" not in reason
