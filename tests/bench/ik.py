"""Inverse kinematics: ours, PyBullet's with the reference's settings, and ikpy, for the same targets of the same URDF."""

import math
import warnings
from collections.abc import Callable

import numpy as np
import pybullet
from pybullet_utils.bullet_client import BulletClient
from tables import Bench, durations_s

import urdf
from edge import kinematics, robot
from edge.kinematics import Mount
from edge.messages import ToolPose
from trainer import spec

CONTRACT = spec.contract()
MOUNT = Mount(CONTRACT.robot.base_height_m, CONTRACT.robot.inverted)
TARGETS = 300
IKPY_TARGETS = 10  # it takes a tenth of a second for most, and more than one for some
HEIGHT_MAX_M = 0.040  # from here down every spawn is in reach
Solve = Callable[[ToolPose], object]


def bench() -> Bench:
    """Time per solve, and how far the tool then is from where it should be, by PyBullet's forward kinematics."""
    arm = Arm()
    start = list(kinematics.solve(ToolPose(*CONTRACT.episode.start_in_table_m, 0.0, CONTRACT.episode.yaw_rad), MOUNT))
    targets = _targets()
    ikpy = Ikpy(start)
    rows = {}
    for name, solve, poses in (
        ("edge.kinematics.solve", lambda pose: kinematics.solve(pose, MOUNT), targets),
        ("PyBullet, the reference's settings", lambda pose: arm.solve(pose, start, 1000, 0.01), targets),
        ("PyBullet, 1000 iterations to 1e-6", lambda pose: arm.solve(pose, start, 1000, 1e-6), targets),
        ("ikpy", ikpy.solve, targets[:IKPY_TARGETS]),
    ):
        times_us = durations_s(solve, poses) * 1e6
        errors_um = np.array([arm.miss_m(solve(pose), pose) for pose in poses]) * 1e6
        rows[name] = {
            "median µs": float(np.median(times_us)),
            "p99 µs": float(np.percentile(times_us, 99)),
            "median error µm": float(np.median(errors_um)),
            "max error µm": float(errors_um.max()),
        }
    notes = (
        f"{TARGETS} vertical targets in the spawn area, 10–40 mm high (ikpy: {IKPY_TARGETS}); each solve begins at the start pose. "
        "Reference's settings: maxNumIterations=1000, residualThreshold=0.01."
    )
    return Bench("Inverse kinematics", rows, {"median µs": "≤ 25", "max error µm": "≤ 1"}, notes)


def _targets() -> list[ToolPose]:
    episode = CONTRACT.episode
    low, high = (*episode.spawn_min_in_table_m, 0.010), (*episode.spawn_max_in_table_m, HEIGHT_MAX_M)
    places = np.random.default_rng(0).uniform(low, high, (TARGETS, 3))
    return [ToolPose(x, y, z, 0.0, episode.yaw_rad) for x, y, z in places.tolist()]


class Arm:
    """Our URDF in PyBullet."""

    def __init__(self) -> None:
        self._client = BulletClient(connection_mode=pybullet.DIRECT)
        self._body = self._client.loadURDF(str(urdf.DOFBOT), (0.0, 0.0, MOUNT.base_height_m), (0.0, 1.0, 0.0, 0.0), useFixedBase=True)
        infos = [self._client.getJointInfo(self._body, index) for index in range(self._client.getNumJoints(self._body))]
        joint = {info[1].decode(): info[0] for info in infos}
        self._tool = {info[12].decode(): info[0] for info in infos}["tool"]
        self._driven = [joint[name] for name in robot.JOINT_NAMES[:5]]

    def solve(self, pose: ToolPose, start: list[float], iterations: int, threshold: float) -> tuple[float, ...]:
        """Joints 1 to 5; the first five of PyBullet's answer, which goes on with the gripper's."""
        self._put(start)
        position, quaternion = (pose.x_m, pose.y_m, pose.z_m), self._client.getQuaternionFromEuler((math.pi, 0.0, pose.yaw_rad))
        return self._client.calculateInverseKinematics(
            self._body, self._tool, position, quaternion, maxNumIterations=iterations, residualThreshold=threshold
        )[:5]

    def miss_m(self, joints: object, pose: ToolPose) -> float:
        """Distance between the tool with these joints and a pose."""
        self._put(joints)
        state = self._client.getLinkState(self._body, self._tool, computeForwardKinematics=True)
        return math.dist(state[4], pose[:3])

    def _put(self, joints: object) -> None:
        for index, angle_rad in zip(self._driven, joints, strict=True):  # type: ignore[call-overload]
            self._client.resetJointState(self._body, index, angle_rad)


class Ikpy:
    """Our URDF in ikpy: base to tool, five joints active."""

    def __init__(self, start: list[float]) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it has words for fixed links that are active by default
            from ikpy.chain import Chain

            names = ["base_link"]
            for joint in ("joint1", "joint2", "joint3", "joint4", "joint5", "tool_mount"):
                names += [joint, {"tool_mount": "tool"}.get(joint, f"link{joint[-1]}")]
            mask = [False, True, True, True, True, True, False]
            self._chain = Chain.from_urdf_file(str(urdf.DOFBOT), base_elements=names, active_links_mask=mask, symbolic=False)
        self._start = [0.0, *start, 0.0]
        self._to_base = np.linalg.inv(MOUNT.transform_base_to_table())

    def solve(self, pose: ToolPose) -> list[float]:
        """Joints 1 to 5."""
        position = (self._to_base @ (*pose[:3], 1.0))[:3]
        down = self._to_base[:3, :3] @ (0.0, 0.0, -1.0)
        solution = self._chain.inverse_kinematics(position, down, "Z", initial_position=self._start)
        return [float(angle) for angle in solution[1:6]]
