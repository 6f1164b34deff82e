"""What is trained is a task that the robot takes, and its numbers are those that their comments claim."""

import hashlib
import math

import msgspec
import numpy as np
import pytest

import urdf
from edge import kinematics
from edge.config import Config
from edge.contract import decode, encode
from edge.contract_check import Expectation, check_camera, check_contract
from edge.errors import PolicyError
from edge.kinematics import Mount
from edge.messages import Intrinsics, JointCommand, ToolPose
from edge.task import GraspTask
from trainer import spec

CONTRACT = spec.contract()
EPISODE = CONTRACT.episode
CAMERA = CONTRACT.camera.intrinsics
MOUNT = Mount(CONTRACT.robot.base_height_m, CONTRACT.robot.inverted)
GRASP_M = EPISODE.start_in_table_m[2] - EPISODE.steps * EPISODE.descent_per_step_m


def camera_over(x_m: float, y_m: float, z_m: float) -> np.ndarray:
    """transform_camera_to_table with the tool there."""
    pose = ToolPose(x_m, y_m, z_m, 0.0, EPISODE.yaw_rad)
    tool = kinematics.transform_tool_to_table(kinematics.solve(pose, MOUNT), MOUNT)
    return tool @ spec.camera_to_tool()


def test_the_robot_accepts_the_contract_with_its_default_configuration() -> None:
    check_contract(CONTRACT, Expectation(Config().mount, urdf_sha256=CONTRACT.robot.urdf_sha256))
    GraspTask(CONTRACT, Config().run.place_in_table_m)
    assert decode(encode(CONTRACT)) == CONTRACT


def test_a_contract_is_a_value_of_its_own() -> None:
    assert spec.contract() == spec.contract()
    assert CONTRACT.training is None
    assert CONTRACT.evaluation == ()
    assert CONTRACT.golden is None


def test_the_urdf_is_the_one_in_the_package() -> None:
    assert CONTRACT.robot.urdf_sha256 == hashlib.sha256(urdf.DOFBOT.read_bytes()).hexdigest()


def test_the_task_is_the_reference_task() -> None:
    """Reference: 100 steps of 1 mm, ±10 mm a move, block of 30 mm within ±50 mm and 75…125 mm, start 100 mm over the grasp."""
    assert (EPISODE.steps, EPISODE.descent_per_step_m, CONTRACT.action.scale_m) == (100, 0.001, 0.010)
    assert (EPISODE.spawn_min_in_table_m, EPISODE.spawn_max_in_table_m) == ((-0.050, 0.075), (0.050, 0.125))
    assert EPISODE.block_size_m == 0.030
    assert pytest.approx(0.010) == GRASP_M
    assert EPISODE.start_in_table_m[1] == pytest.approx(0.164, abs=0.003)


def test_spawns_and_start_are_inside_the_workspace() -> None:
    (x_min, y_min), (x_max, y_max) = EPISODE.workspace_min_in_table_m, EPISODE.workspace_max_in_table_m
    for x_m, y_m in (EPISODE.spawn_min_in_table_m, EPISODE.spawn_max_in_table_m):
        assert x_min + 0.024 < x_m < x_max - 0.024
        assert y_min + 0.024 < y_m < y_max - 0.024
    assert y_min < EPISODE.start_in_table_m[1] < y_max


def test_the_expert_can_be_over_every_block_in_time() -> None:
    """From the start to the furthest block at one action a step, in a tenth of the descent."""
    x_m, y_m, _ = EPISODE.start_in_table_m
    furthest_m = max(abs(EPISODE.spawn_min_in_table_m[0] - x_m), abs(EPISODE.spawn_min_in_table_m[1] - y_m))
    assert furthest_m / CONTRACT.action.scale_m < 0.1 * EPISODE.steps


def test_the_gripper_takes_every_spawned_block() -> None:
    """Turned by the largest yaw the block's width across the fingers is its diagonal, and fits between them."""
    across_m = EPISODE.block_size_m * (math.cos(EPISODE.spawn_yaw_rad) + math.sin(EPISODE.spawn_yaw_rad))
    assert across_m < EPISODE.open_m - 0.015
    assert EPISODE.closed_m < EPISODE.block_size_m
    assert EPISODE.success_lift_m < EPISODE.lift_m


def test_the_camera_pose_is_rigid_and_looks_past_the_tool() -> None:
    transform = spec.camera_to_tool()
    assert transform[:3, :3] @ transform[:3, :3].T == pytest.approx(np.eye(3), abs=1e-12)
    assert np.linalg.det(transform[:3, :3]) == pytest.approx(1.0)
    origin, axis = transform[:3, 3], transform[:3, 2]
    behind_m = origin + axis * (-origin[2] / axis[2])  # where the optical axis meets the plane of the tool centre
    assert behind_m[:2] == pytest.approx((0.0, 0.008), abs=5e-4)


def test_a_d405_sees_all_that_the_policy_sees() -> None:
    check_camera(CONTRACT, Intrinsics(848, 480, 425.0, 425.0, 423.5, 239.5))
    assert math.degrees(2.0 * math.atan(CAMERA.height / 2.0 / CAMERA.fy)) == pytest.approx(58.0)
    assert (CAMERA.cx, CAMERA.cy) == (31.5, 31.5)


def test_every_spawned_block_is_in_the_picture_at_the_start_and_when_grasped() -> None:
    """Its whole top at the start; its centre once the tool is over it, and then no corner of it nearer than 84 mm."""
    start = camera_over(*EPISODE.start_in_table_m)
    half_m = EPISODE.block_size_m / 2.0
    (x_min, y_min), (x_max, y_max) = EPISODE.spawn_min_in_table_m, EPISODE.spawn_max_in_table_m
    for x_m in (x_min, 0.0, x_max):
        for y_m in (y_min, y_max):
            for dx, dy in ((-half_m, -half_m), (-half_m, half_m), (half_m, -half_m), (half_m, half_m)):
                assert is_in_picture(start, (x_m + dx, y_m + dy, EPISODE.block_size_m))
            grasping = camera_over(x_m, y_m, GRASP_M)
            assert is_in_picture(grasping, (x_m, y_m, EPISODE.block_size_m))
            corner_m = (x_m, y_m + math.sqrt(2.0) * half_m, EPISODE.block_size_m)  # of a block turned by 45°, towards the camera
            assert (np.linalg.inv(grasping) @ (*corner_m, 1.0))[2] > 0.084 > CONTRACT.depth.near_m


def is_in_picture(camera_to_table: np.ndarray, point_m: tuple[float, float, float]) -> bool:
    x, y, z, _ = np.linalg.inv(camera_to_table) @ (*point_m, 1.0)
    u, v = CAMERA.fx * x / z + CAMERA.cx, CAMERA.fy * y / z + CAMERA.cy
    return bool(z > 0.0 and -0.5 <= u <= CAMERA.width - 0.5 and -0.5 <= v <= CAMERA.height - 0.5)


def test_depth_range_covers_what_is_seen() -> None:
    """The table's furthest point in the picture at the start is in range, so no slope of it is cut off."""
    start = camera_over(*EPISODE.start_in_table_m)
    ahead = np.array([(0.0, (CAMERA.height - 1) / 2.0 / CAMERA.fy * side, 1.0) for side in (-1.0, 0.0, 1.0)]) @ start[:3, :3].T
    depths_m = start[2, 3] / -ahead[:, 2]
    assert CONTRACT.depth.near_m < depths_m.min()
    assert np.sort(depths_m)[1] < CONTRACT.depth.far_m


def test_a_descent_takes_two_seconds_a_decision_every_80_ms() -> None:
    assert CONTRACT.rates.ticks_per_step / CONTRACT.rates.tick_hz == pytest.approx(0.08)


def test_another_mount_is_refused() -> None:
    with pytest.raises(PolicyError, match=r"robot\.base_height_m"):
        check_contract(CONTRACT, Expectation(msgspec.structs.replace(Config().mount, base_height_m=0.38)))


def test_the_park_pose_is_clear_of_the_table() -> None:
    task = GraspTask(CONTRACT, Config().run.place_in_table_m)
    assert kinematics.tool_height_m(task.park, MOUNT) > 0.05
    assert isinstance(task.park, JointCommand)
