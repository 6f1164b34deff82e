"""Environment steps a second on one core: ours, and what the reference's way of stepping costs on the same arm."""

import math
import time
from collections.abc import Callable

import gymnasium as gym
import numpy as np
import pybullet
from pybullet_utils.bullet_client import BulletClient
from tables import Bench, Figures

import trainer.env  # noqa: F401 - registers the environment
import urdf
from edge import robot
from trainer import spec
from trainer.env import DofbotGrasp

MEASURED_S = 4.0
EPISODE = spec.EPISODE
SETTLING_STEPS = 100  # what the reference does after it has loaded its models,
LIFTING_STEPS = 35  # and at the end of an episode


def bench() -> Bench:
    """Whole episodes: reset, a hundred observed steps, close, lift and hold."""
    env = gym.make("DofbotGrasp-v0").unwrapped
    assert isinstance(env, DofbotGrasp)
    rng = np.random.default_rng(0)
    rows = {
        "DofbotGrasp-v0, random policy": _measure(lambda: _episode(env, lambda: rng.uniform(-1.0, 1.0, 2).astype(np.float32))),
        "DofbotGrasp-v0, expert": _measure(lambda: _episode(env, env.expert_action)),
        "the reference's stepping, re-created": _measure(Recreation(rng).episode),
        "the reference, its own code": {"steps/s": 25.6},
    }
    notes = (
        "Re-created on our URDF of boxes and cylinders, not on the reference's meshes: a step is calculateInverseKinematics"
        "(maxNumIterations=1000, residualThreshold=0.01), one stepSimulation and a 64×64 depth image by TinyRenderer; a reset is "
        "resetSimulation, three loadURDF and 100 steps; 35 steps lift. The last row was measured on another day, with its meshes. "
        "CPU seconds do not count what other programs took of the core."
    )
    return Bench("Environment, one core", rows, {"steps/s": "≥ 1000"}, notes)


def _measure(episode: Callable[[], int]) -> Figures:
    """Steps a second over whole episodes, after one that does not count."""
    episode()
    steps, began_s, cpu_began_s = 0, time.perf_counter(), time.process_time()
    while (elapsed_s := time.perf_counter() - began_s) < MEASURED_S:
        steps += episode()
    cpu_s = time.process_time() - cpu_began_s
    return {"steps/s": steps / elapsed_s, "steps/CPU s": steps / cpu_s, "steps": steps}


def _episode(env: DofbotGrasp, act: Callable[[], np.ndarray]) -> int:
    env.reset()
    for step in range(1, EPISODE.steps + 1):
        if env.step(act())[2]:
            return step
    raise AssertionError("an episode must end with the contract's last step")


class Recreation:
    """Calls PyBullet as often, and with the same settings, as the reference's environment does."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._client = BulletClient(connection_mode=pybullet.DIRECT)

    def episode(self) -> int:
        """One of a hundred steps towards random places."""
        client = self._client
        self._load()
        x_m, y_m, z_m = EPISODE.start_in_table_m
        for _ in range(EPISODE.steps):
            x_m, y_m = (np.array([x_m, y_m]) + self._rng.uniform(-0.01, 0.01, 2)).tolist()
            z_m -= EPISODE.descent_per_step_m
            self._step((x_m, y_m, z_m))
        for _ in range(LIFTING_STEPS):
            client.stepSimulation()
        return EPISODE.steps

    def _load(self) -> None:
        client = self._client
        client.resetSimulation()
        client.setGravity(0.0, 0.0, -9.81)
        client.loadURDF(str(urdf.TABLE), useFixedBase=True)
        client.loadURDF(str(urdf.BLOCK), (0.0, 0.1, 0.015))
        height_m = spec.contract().robot.base_height_m
        self._arm = client.loadURDF(str(urdf.DOFBOT), (0.0, 0.0, height_m), (0.0, 1.0, 0.0, 0.0), useFixedBase=True)
        infos = [client.getJointInfo(self._arm, index) for index in range(client.getNumJoints(self._arm))]
        joint, link = ({info[field].decode(): info[0] for info in infos} for field in (1, 12))
        self._tool, self._driven = link["tool"], [joint[name] for name in robot.JOINT_NAMES[:5]]
        for _ in range(SETTLING_STEPS):
            client.stepSimulation()

    def _step(self, target_m: tuple[float, float, float]) -> None:
        client = self._client
        down = client.getQuaternionFromEuler((math.pi, 0.0, EPISODE.yaw_rad))
        joints = client.calculateInverseKinematics(self._arm, self._tool, target_m, down, maxNumIterations=1000, residualThreshold=0.01)
        client.setJointMotorControlArray(self._arm, self._driven, pybullet.POSITION_CONTROL, joints[:5])
        client.stepSimulation()
        view = client.computeViewMatrix((0.0, 0.2, 0.2), (0.0, 0.1, 0.0), (0.0, 0.0, 1.0))
        projection = client.computeProjectionMatrixFOV(45.0, 1.0, 0.01, 3.0)
        client.getCameraImage(64, 64, view, projection, renderer=pybullet.ER_TINY_RENDERER)
