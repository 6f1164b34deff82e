"""The bundle for a Raspberry Pi does there, on an emulated one, what it does on a PC."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge.records.record import read
from tests.arm64 import golden
from tests.arm64.board import CURRENT, Board, Memory, skip_where_late
from tests.arm64.conftest import Installed, Measure
from tests.hil import trace
from tests.systemd.rootfs import ROOT

pytestmark = pytest.mark.arm64
POLICY = f"{CURRENT}/policy.onnx"
PC_POLICY = str(ROOT / "trainer" / "results" / "policy.onnx")
CONFIG = "/etc/dofbot-grasp/config.toml"
DRIVERS = ("pca9685", "dofbot_board")
GOLDEN_BOUND = 1e-4
RESIDENT_MB = 120.0
WITHIN_S = 300.0  # for what a Raspberry Pi does in a few seconds


MARKER = """
import cv2, numpy as np
table, dictionary = np.full((400, 400), 255, np.uint8), cv2.aruco.getPredefinedDictionary(cv2.aruco.DICT_4X4_50)
table[100:300, 100:300] = cv2.aruco.generateImageMarker(dictionary, 7, 200)
print(cv2.aruco.ArucoDetector(dictionary).detectMarkers(table)[1].ravel())
"""


def configuration(driver: str, port: int, clock: str = "virtual", record: str = "", extra: str = "") -> str:
    return f"""
[bus]
driver = "{driver}"
i2c = "emulated"
[simulator]
port = {port}
clock = "{clock}"
[run]
policy = "{POLICY}"
record = "{record}"
[control]
socket = "/tmp/control.sock"
{extra}"""


def wait_for(question: Callable[[], object], process: "subprocess.Popen[str]", log: Path) -> None:
    deadline_s = time.monotonic() + WITHIN_S
    while not question():
        if process.poll() is not None:
            skip_where_late(log.read_text())
            pytest.fail(log.read_text())
        assert time.monotonic() < deadline_s, log.read_text()
        time.sleep(0.1)


def on_pc(*arguments: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, env=environment, stdout=subprocess.PIPE, check=True, text=True).stdout


def grasp(measure: Measure, board: Board, port: int, driver: str, extra: str = "") -> dict[str, Any]:
    """One grasp inside, in lockstep with the simulator outside; returns its summary. All set points are safe."""
    path = board.write("/tmp/grasp.toml", configuration(driver, port, record="/tmp/record", extra=extra))
    began_s = time.monotonic()
    board.dofbot("run", "--config", path, "--arm", "--grasps", "1", "--summary", "/tmp/summary.json")
    measure.took(f"a grasp {'with faults ' if extra else ''}in lockstep, {driver}", began_s)
    ticks = list(read(board.root / "tmp/record"))
    assert len(ticks) > 200
    # A record does not tell where the arm was before its first tick, so the step to the second cannot be judged.
    second = f"at {ticks[1].now_s:.3f} s"
    assert not [unsafe for unsafe in trace.unsafe_set_points(ticks) if not unsafe.startswith(second)]
    summary: dict[str, Any] = json.loads((board.root / "tmp/summary.json").read_bytes())
    return summary


def test_the_installer_made_its_version_the_current_one(installed: Installed) -> None:
    assert {step["state"] for step in installed.steps.values()} <= {"did", "done"}
    releases = json.loads(installed.board.run("python3", "/bundle/install.py", "releases").stdout)
    assert [release["is"] for release in releases] == ["current"]
    assert installed.board.run("uname", "-m").stdout.strip() == "aarch64"
    assert installed.board.dofbot("--version").stdout.startswith("dofbot")


def test_doctor_finds_no_package_that_does_not_load(board: Board, port: int, measure: Measure) -> None:
    path = board.write("/tmp/doctor.toml", configuration("pca9685", port))
    began_s = time.monotonic()
    answer = board.dofbot("doctor", "--json", "--config", path, check=False)
    measure.took("dofbot doctor", began_s)
    print(answer.stdout)
    findings = {finding["name"]: finding for finding in json.loads(answer.stdout)["findings"]}
    assert findings["Python"]["verdict"] == "ok"
    assert "aarch64" in findings["Python"]["found"]
    assert not [finding for finding in findings.values() if "kills" in finding["found"] or "SIGILL" in finding["found"]]
    assert {"numpy", "msgspec", "onnxruntime", "typer", "rich"} <= set(findings["packages"]["found"].removesuffix(" load").split(", "))


def test_its_opencv_finds_a_marker(board: Board) -> None:
    assert board.run(f"{CURRENT}/bin/python", "-c", MARKER).stdout.strip() == "[7]"


def test_the_policy_decides_as_on_a_pc(board: Board, measure: Measure) -> None:
    (board.root / "tmp" / "golden.py").write_bytes(Path(golden.__file__).read_bytes())
    here = json.loads(on_pc(golden.__file__, PC_POLICY))
    on_board = json.loads(board.run(f"{CURRENT}/bin/python", "/tmp/golden.py", POLICY).stdout)
    assert (here["machine"], on_board["machine"]) == ("x86_64", "aarch64")
    computed = np.array(on_board["actions"])
    assert computed.shape == np.array(here["actions"]).shape
    measure.note("golden vectors: aarch64 against x86-64", float(np.abs(computed - here["actions"]).max()), "", GOLDEN_BOUND)
    measure.note("golden vectors: aarch64 against those in the file", float(np.abs(computed - on_board["stated"]).max()), "", GOLDEN_BOUND)


@pytest.mark.parametrize("driver", DRIVERS)
def test_it_picks_up_a_block(board: Board, port: int, driver: str, measure: Measure) -> None:
    summary = grasp(measure, board, port, driver)
    assert (summary["attempts"], summary["picked"], summary["stopped_by"]) == (1, 1, "done")


@pytest.mark.parametrize("driver", DRIVERS)
def test_it_holds_while_bus_and_camera_are_away_and_goes_on(board: Board, port: int, driver: str, measure: Measure) -> None:
    script = """[faults]
allow = true
script = [{target = "bus", mode = "off", start_s = 1.0, for_s = 0.3}, {target = "camera", mode = "off", start_s = 5.0, for_s = 2.0}]
"""
    summary = grasp(measure, board, port, driver, script)
    assert (summary["attempts"], summary["picked"], summary["safe_reason"]) == (1, 1, "")
    assert summary["holds"] > 50  # of the 100 ticks that two seconds have


def test_a_damaged_policy_is_refused_in_one_sentence(board: Board, port: int) -> None:
    data = bytearray((board.root / POLICY.lstrip("/")).read_bytes())
    data[len(data) // 2] ^= 1
    (board.root / "tmp/damaged.onnx").write_bytes(data)
    path = board.write("/tmp/damaged.toml", configuration("pca9685", port).replace(POLICY, "/tmp/damaged.onnx"))
    answer = board.dofbot("run", "--config", path, "--arm", "--grasps", "1", check=False)
    assert answer.returncode == 78
    assert "damaged" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_a_sigterm_in_motion_parks_first(board: Board, port: int, tmp_path: Path) -> None:
    path, log = board.write("/tmp/term.toml", configuration("pca9685", port)), tmp_path / "log"
    process = board.start("dofbot", "run", "--config", path, "--arm", "--grasps", "0", "-v", log=log)
    wait_for(lambda: "→ APPROACH" in log.read_text(), process, log)
    process.send_signal(signal.SIGTERM)
    assert process.wait(WITHIN_S) == 0, log.read_text()
    assert "→ PARK" in log.read_text()


def test_the_service_is_small_and_a_kill_leaves_it_to_the_release_helper(board: Board, port: int, tmp_path: Path, measure: Measure) -> None:
    path, log = board.write("/tmp/real.toml", configuration("pca9685", port, "real")), tmp_path / "log"
    process = board.start("dofbot", "run", "--config", path, "-v", log=log)
    try:
        wait_for(lambda: "DISARMED, listening" in log.read_text(), process, log)
        status = json.loads(board.dofbot("status", "--json", "--socket", "/tmp/control.sock").stdout)
        assert status["state"] == "DISARMED"
        camera = [int(pid) for task in Path(f"/proc/{process.pid}/task").glob("*/children") for pid in task.read_text().split()]
        assert len(camera) == 1
        found = {"runtime": Memory.of(process.pid), "its camera process": Memory.of(camera[0])}
    finally:
        process.kill()
        process.wait()
    for name, memory in found.items():
        measure.note(f"{name}, resident, QEMU included", memory.resident, "MB")
        measure.note(f"{name}, resident, QEMU's heap and translation left out", memory.without_qemu, "MB", RESIDENT_MB)
    measure.note("both, with each shared page once", sum(memory.share for memory in found.values()), "MB")
    assert board.dofbot("release", "--config", path).returncode == 0
