"""One decision of the robot, from the camera's frame to the bytes on the servo bus, on one core."""

import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tables import Bench, Figures

from edge import kinematics, observation
from edge import policy as policies
from edge.buses.pca9685 import Pca9685Bus
from edge.config import BusConfig
from edge.messages import Frame, Intrinsics
from edge.policy import Policy
from edge.safety import DOFBOT_LIMITS, gate, resting
from edge.simulated.emulator import EmulatedI2C, Pca9685Emulator
from edge.task import GraspTask, Phase
from trainer import spec
from trainer.render import BOX, DepthRenderer

TRAINED = Path("trainer/results/policy.onnx")
DESCENTS = 4  # of 100 decisions
D405 = Intrinsics(424, 240, 212.5, 212.5, 211.5, 119.5)
STAGES = ("observation", "policy", "task and IK", "gate", "servo bus", "all")


class Parts(NamedTuple):
    """What a decision goes through."""

    policy: Policy
    task: GraspTask
    bus: Pca9685Bus


def bench(path: Path) -> Bench:
    """p50 and p99 of every stage over some descents; `path` is the policy file."""
    policy = policies.load(path)
    config = BusConfig()
    bus = Pca9685Bus(config, EmulatedI2C({config.address: Pca9685Emulator()}))
    bus.open()
    parts = Parts(policy, GraspTask(policy.contract, (-0.12, 0.06)), bus)
    _descend(parts)
    times_ms = np.concatenate([_descend(parts) for _ in range(DESCENTS)]) * 1e3
    bus.close()
    rows: dict[str, Figures] = {
        stage: {"p50 ms": float(np.percentile(column, 50)), "p99 ms": float(np.percentile(column, 99)), "max ms": float(column.max())}
        for stage, column in zip(STAGES, times_ms.T, strict=True)
    }
    notes = (
        f"{len(times_ms)} decisions with {'the trained policy' if path == TRAINED else 'an untrained policy of the same shape'}; frames of "
        "424×240; the driver's bytes go to an emulated PCA9685, so the 4 ms that they take on a 100 kHz bus are not in here."
    )
    return Bench("Decision, one core", rows, {}, notes)


def policy_file(folder: str) -> Path:
    """The trained policy, or one of the same shape with random weights, exported into `folder`."""
    if TRAINED.exists():
        return TRAINED
    import torch

    from trainer.export import Examples, export_onnx
    from trainer.sac.networks import Actor

    torch.manual_seed(0)
    contract = spec.contract()
    camera = contract.camera.intrinsics
    rng = np.random.default_rng(0)
    depth = rng.random((4, 1, camera.height, camera.width), dtype=np.float32)
    proprio = np.array([[0.0, 0.16, 0.11, 100.0], [0.05, 0.12, 0.06, 50.0], [-0.05, 0.1, 0.03, 20.0], [0.0, 0.08, 0.01, 1.0]], np.float32)
    proprio = np.concatenate([proprio, np.zeros((4, 2), np.float32)], 1)  # at rest
    path = Path(folder) / "policy.onnx"
    export_onnx(Actor(contract).eval(), contract, Examples(depth, proprio), path)
    return path


def _descend(parts: Parts) -> np.ndarray:
    """(decisions, stages) seconds of one APPROACH; the ticks between decisions pass uncounted."""
    contract, task = parts.policy.contract, parts.task
    tick_s = 1.0 / contract.rates.tick_hz
    renderer = DepthRenderer(D405, np.array(contract.camera.transform_camera_to_tool))
    block = np.eye(4)
    block[:3, 3] = (0.02, 0.1, 0.015)
    sent, state = resting(task.start), task.begin(Phase.APPROACH, task.start)
    rows = []
    while not task.finished(state, sent.position):
        action, decides = None, task.needs_action(state)
        if decides:
            depth_m = renderer.render(kinematics.transform_tool_to_table(sent.position, task.mount), [(BOX, np.full(3, 0.015), block)])
            frame = Frame(depth_m, D405, 0.0, 0)
        marks_s = [time.perf_counter()]
        if decides:
            depth = observation.depth_input(frame, contract.depth, contract.camera.intrinsics)
            proprio = observation.proprio_input(kinematics.tool_pose(sent.position, task.mount), state.before, task.steps_left(state))
            marks_s.append(time.perf_counter())
            action = parts.policy.act(depth, proprio)
            marks_s.append(time.perf_counter())
        state, wanted = task.tick(state, sent.position, action)
        marks_s.append(time.perf_counter())
        sent = gate(sent, wanted, DOFBOT_LIMITS, tick_s, lambda command: kinematics.tool_in_table_m(command, task.mount)).state
        marks_s.append(time.perf_counter())
        parts.bus.write(sent.position)
        marks_s.append(time.perf_counter())
        if decides:
            rows.append([*np.diff(marks_s), marks_s[-1] - marks_s[0]])
    return np.array(rows)
