"""A policy is pushed to a robot that grasps: taken over between two grasps, and given up again by itself when it picks nothing."""

import datetime
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edge import config as configuration
from edge import policy
from edge.policies import signature
from edge.policies.policy_slots import PolicySlots
from edge.remote.commands import Arm, Grasp, Status, StatusReport
from edge.remote.control_client import ControlClient
from firmware_tools.provision import CONFIG
from tests.arm64.board import simulated_desk
from tests.firmware_tools.policy_robot import variant
from tests.hil.robot import ENVIRONMENT, POLICY, ROOT, Changes, Robot, wait_for
from trainer.export import Examples, export_onnx

NOW = datetime.datetime.now(datetime.UTC)
TRIAL = {"trial_grasps": 2, "trial_success_min": 0.5}  # proven by one, failed after two
GRASP_S = 30.0  # which takes half as long


class Desk:
    """The simulated desk, PyBullet's, with blocks to pick; as much of `Bench` as a `Robot` takes."""

    def __init__(self, port: int) -> None:
        self.port = port

    def tell(self, line: str) -> None:
        assert line == "reset"  # it is as it should be


class Constant(nn.Module):
    """Straight down from the start, 39 mm from where the nearest block may lie."""

    def forward(self, sight: torch.Tensor, proprio: torch.Tensor) -> torch.Tensor:
        return 0.0 * (sight.flatten(1)[:, :2] + proprio[:, :2])


def worse(path: Path) -> Path:
    """A policy of the same task, in order in every way, that looks at nothing."""
    contract = policy.load(POLICY).contract
    drawn = np.random.default_rng(0)
    examples = Examples(
        drawn.random((4, *contract.sight.tensor_shape[1:]), np.float32), drawn.random((4, len(contract.proprio.fields)), np.float32)
    )
    export_onnx(Constant(), contract, examples, path)
    return path


def sign(path: Path, key: Path, at: datetime.datetime) -> Path:
    path.with_name(path.name + signature.SUFFIX).write_bytes(signature.sign(policy.digest(path.read_bytes()), key, at))
    return path


def push(root: Path, path: Path) -> dict[str, object]:
    """What `dofbot policy push --host` calls on the robot."""
    command = [sys.executable, "-m", "firmware_tools.policy_install", "push", str(path), "--root", str(root), "--json"]
    result = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=60.0, check=False)
    assert result.returncode == 0, result.stderr
    answer: dict[str, object] = json.loads(result.stdout.splitlines()[-1])
    return answer


@contextmanager
def watched(robot: Robot) -> Iterator[list[StatusReport]]:
    """Every status, until the end."""
    client, ends = robot.keep(ControlClient(robot.socket)), threading.Event()
    reports: list[StatusReport] = []

    def watch() -> None:
        while not ends.wait(0.02):
            reply = client.ask(Status())
            assert isinstance(reply, StatusReport)
            reports.append(reply)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield reports
    finally:
        ends.set()
        thread.join()


def first_with(reports: list[StatusReport], data: bytes) -> int:
    """Index of the first report of this policy."""
    sha256 = policy.digest(data)
    return next((index for index, report in enumerate(list(reports)) if report.policy_sha256 == sha256), -1)


@pytest.mark.hil
def test_it_goes_over_between_two_grasps_and_back_from_one_that_picks_nothing(tmp_path: Path, idle: None) -> None:
    root, key = tmp_path / "root", signature.make_key(tmp_path / "key")
    good, bad = tmp_path / "good.onnx", worse(tmp_path / "bad.onnx")
    good.write_bytes(variant(1))
    sign(good, key.path, NOW)
    sign(bad, key.path, NOW + datetime.timedelta(seconds=1))

    def prepare(folder: Path) -> Changes:
        patient = {"max_age_s": 0.3}  # the simulator may have to wait for a CPU
        return {"policy": {"folder": str(root / "policies"), "trusted_keys": [key.public], **TRIAL}, "camera": patient}

    with simulated_desk(tmp_path / "desk.log") as port:
        robot = Robot(Desk(port), "pca9685", tmp_path, prepare=prepare)  # type: ignore[arg-type]
        try:
            (root / CONFIG).parent.mkdir(parents=True)
            (root / CONFIG).symlink_to(robot.config)
            slots = PolicySlots(configuration.load(robot.config))
            robot.ready().do(Arm())
            with watched(robot) as reports:
                robot.do(Grasp(count=20))
                for path in (good, bad):
                    robot.enters("APPROACH", GRASP_S, time.monotonic())
                    done = push(root, path)
                    assert done["running"] is True
                    assert done["shadow"]["runs"] == 300  # type: ignore[index]
                    at = first_with(reports, path.read_bytes())
                    assert reports[at].phase in ("HOMING", "IDLE")
                    assert reports[at - 1].policy_sha256 != reports[at].policy_sha256
                    if path == good:
                        wait_for(lambda: (slots.trial() or 0) and slots.trial().verdict == "proven", 2 * GRASP_S, "a grasp proves it")
                line = robot.said("picked 0 of 2: back to", 4 * GRASP_S)
                robot.said(f"policy {policy.digest(good.read_bytes())[:12]} decides again", GRASP_S, line.at_s)
                picked = reports[-1].picked
                wait_for(lambda: reports[-1].picked > picked, 2 * GRASP_S, "it picks again")
            assert reports[-1].policy_sha256 == policy.digest(good.read_bytes())
            assert slots.active == policy.digest(good.read_bytes())[:12]
            trial = slots.trial()
            assert trial is not None
            assert (trial.to, trial.grasps, trial.picked, trial.verdict) == (policy.digest(bad.read_bytes())[:12], 2, 0, "failed")
            assert {report.state for report in reports} <= {"DISARMED", "HOMING", "APPROACH", "GRASP", "LIFT", "VERIFY", "PLACE", "IDLE"}
        finally:
            robot.kill()
