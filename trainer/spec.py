"""The task that we train: every number of the contract, once, with its reason."""

import math
from typing import Literal

import numpy as np

import urdf
from edge import robot
from edge.contract import SCHEMA_VERSION, ActionOutput, BlockInput, Contract, DepthInput, Episode, ProprioInput, Rates, Robot, VirtualCamera
from edge.contract_check import PROPRIO_FIELDS
from edge.messages import Intrinsics

Variant = Literal["depth", "xyz"]

IMAGE_PX = 64
# D405: depth field of view 84° x 58° (librealsense #11427); the largest square has 58° both ways.
FOCAL_PX = IMAGE_PX / 2 / math.tan(math.radians(58.0) / 2)
CENTRE_PX = (IMAGE_PX - 1) / 2

CAMERA_TILT_RAD = 0.5  # the reference's; with the offset below the optical axis passes 8 mm behind the tool centre
CAMERA_IN_TOOL_M = (0.0, 0.060, -0.095)  # on the outer side of the wrist, clear of the forearm; block never nearer than 84 mm


def camera_to_tool() -> np.ndarray:
    """(4, 4) pose of the optical frame (x right, y down, z forward) on the tool: it looks ahead and inwards."""
    s, c = math.sin(CAMERA_TILT_RAD), math.cos(CAMERA_TILT_RAD)
    x, y, z = CAMERA_IN_TOOL_M
    return np.array([[-1.0, 0.0, 0.0, x], [0.0, -c, -s, y], [0.0, -s, c, z], [0.0, 0.0, 0.0, 1.0]])


EPISODE = Episode(
    steps=100,  # the reference's
    descent_per_step_m=0.001,  # the reference's
    # Reference: y = 0.164. At 0.388 m mount height the tool reaches y = 0.1585…0.165 at this height: 3 mm margin.
    start_in_table_m=(0.0, 0.1615, 0.110),
    yaw_rad=math.pi,  # joint 5 straight: fingers close along table x, camera outwards
    workspace_min_in_table_m=(-0.075, 0.050),  # spawn area and start, and 25 mm around them
    workspace_max_in_table_m=(0.075, 0.170),
    spawn_min_in_table_m=(-0.050, 0.075),  # the reference's
    spawn_max_in_table_m=(0.050, 0.125),
    spawn_yaw_rad=math.radians(45.0),
    block_size_m=0.030,
    open_m=robot.OPENING_MAX_M,
    closed_m=0.020,  # 10 mm inside the block: the servo squeezes it and never reaches the end of its travel
    lift_m=0.070,
    success_lift_m=0.050,
    success_hold_s=0.5,
)


DEPTH = DepthInput(name="depth", near_m=0.04, far_m=0.36, invalid_value=0.0, max_invalid_fraction=0.6)
BLOCK = BlockInput(
    name="block",
    min_in_table_m=(-0.175, -0.050, -0.010),  # the workspace and 100 mm around it, where no block gets by being pushed
    max_in_table_m=(0.175, 0.270, 0.150),  # from below the table to above a lifted block
)


def contract(variant: Variant = "depth") -> Contract:
    """The contract before training: no training record, no evaluation, no golden vectors.

    The policy sees depth images, or is told where the block is ('xyz').
    """
    return Contract(
        schema_version=SCHEMA_VERSION,
        depth=DEPTH if variant == "depth" else None,
        block=BLOCK if variant == "xyz" else None,
        camera=VirtualCamera(
            intrinsics=Intrinsics(IMAGE_PX, IMAGE_PX, FOCAL_PX, FOCAL_PX, CENTRE_PX, CENTRE_PX),
            transform_camera_to_tool=tuple(tuple(row) for row in camera_to_tool().tolist()),
        ),
        proprio=ProprioInput(name="proprio", fields=PROPRIO_FIELDS),
        action=ActionOutput(name="action", fields=("delta_x", "delta_y"), scale_m=0.010),
        episode=EPISODE,
        rates=Rates(tick_hz=50.0, ticks_per_step=4),
        robot=Robot(
            name="dofbot",
            joints=robot.JOINT_NAMES,
            urdf_sha256=urdf.dofbot_sha256(),
            base_height_m=0.388,
            inverted=True,
        ),
    )
