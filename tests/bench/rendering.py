"""Depth images: our ray caster and PyBullet's software renderer, of the same scene, in the policy's 64×64 pixels."""

import math

import numpy as np
import pybullet
from pybullet_utils.bullet_client import BulletClient
from tables import Bench, Figures, durations_s

import urdf
from edge import kinematics, robot
from edge.messages import JointCommand, ToolPose
from trainer import spec
from trainer.blocks import Block
from trainer.world import World

FRAMES = 400
BLOCK = Block(0.02, 0.1, 0.4)
TOOL_M = (0.01, 0.11, 0.04)


def bench() -> Bench:
    """Time per frame, the pose changing from frame to frame."""
    contract = spec.contract()
    world = World(contract)
    poses = [_joints(world, TOOL_M[0] + 1e-5 * frame) for frame in range(FRAMES)]
    world.reset(poses[0], (BLOCK,))
    rows = {
        "trainer.render": _figures(durations_s(world.depth, poses)),
        "PyBullet TinyRenderer": _figures(durations_s(Tiny(world).depth, poses)),
    }
    world.close()
    notes = "Arm, table and one block, gripper open. tests/trainer/test_render.py compares the images."
    return Bench("Depth image, 64×64", rows, {}, notes)


def _figures(times_s: np.ndarray) -> Figures:
    return {"median µs/frame": float(np.median(times_s)) * 1e6, "p99 µs/frame": float(np.percentile(times_s, 99)) * 1e6}


def _joints(world: World, x_m: float) -> JointCommand:
    pose = ToolPose(x_m, *TOOL_M[1:], 0.0, spec.EPISODE.yaw_rad)
    return JointCommand(*kinematics.solve(pose, world.mount), spec.EPISODE.open_m)


class Tiny:
    """The same scene in a PyBullet of its own."""

    def __init__(self, world: World) -> None:
        self._mount = world.mount
        self._client = client = BulletClient(connection_mode=pybullet.DIRECT)
        client.loadURDF(str(urdf.TABLE), useFixedBase=True)
        client.loadURDF(str(urdf.BLOCK), (BLOCK.x_m, BLOCK.y_m, 0.015), client.getQuaternionFromEuler((0.0, 0.0, BLOCK.yaw_rad)))
        self._arm = client.loadURDF(str(urdf.DOFBOT), (0.0, 0.0, world.mount.base_height_m), (0.0, 1.0, 0.0, 0.0), useFixedBase=True)
        infos = [client.getJointInfo(self._arm, index) for index in range(client.getNumJoints(self._arm))]
        joint = {info[1].decode(): info[0] for info in infos}
        self._driven = [joint[name] for name in robot.JOINT_NAMES[:5]]
        camera = spec.contract().camera.intrinsics
        self._size = camera.width, camera.height
        self._projection = client.computeProjectionMatrixFOV(math.degrees(2.0 * math.atan(camera.height / 2.0 / camera.fy)), 1.0, 0.02, 2.0)

    def depth(self, joints: JointCommand) -> np.ndarray:
        """(64, 64) metres."""
        client = self._client
        for index, angle_rad in zip(self._driven, joints.joints_rad, strict=True):
            client.resetJointState(self._arm, index, angle_rad)
        camera = kinematics.transform_tool_to_table(joints, self._mount) @ spec.camera_to_tool()
        eye, ahead, up = camera[:3, 3], camera[:3, 2], -camera[:3, 1]
        view = client.computeViewMatrix(eye.tolist(), (eye + ahead).tolist(), up.tolist())
        image = client.getCameraImage(*self._size, view, self._projection, renderer=pybullet.ER_TINY_RENDERER)[3]
        return 0.04 / (2.0 - 1.98 * np.reshape(image, self._size))
