"""The depth cameras that one can buy for the wrist, and a mount that is not where the policy's camera was."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import numpy as np
from msgspec import structs

from edge import calibration
from edge.calibration import Calibration, HandEye, Lens
from edge.cameras.camera import SimulatorCamera
from edge.config import Config, MountConfig
from edge.contract import Contract, VirtualCamera
from edge.messages import NO_DISTORTION, Float64, Intrinsics
from trainer.depth_camera import SENSOR_FOCAL_PX, DepthFaults

# 424×240 sees nearest: with the whole sensor's field of view on few pixels, a search range of 126 px reaches farther (realsense-ros #2367).
LENS = Intrinsics(424, 240, SENSOR_FOCAL_PX, SENSOR_FOCAL_PX, 211.5, 119.5)


class Sensor(NamedTuple):
    """A stereo depth camera in its 424×240 profile."""

    baseline_m: float
    blind_m: tuple[float, float]  # nearer than this there is no depth: by the better and by the worse account

    def faults(self, rng: np.random.Generator, usual: DepthFaults) -> DepthFaults:
        """`usual` as this camera has them."""
        return structs.replace(usual, baseline_m=self.baseline_m, near_blind_m=rng.uniform(*self.blind_m))


SENSORS = {
    # 40 mm by its data sheet, break-up below 70 mm by testers (librealsense #10444)
    "d405": Sensor(0.018, (0.040, 0.070)),
    # 85 mm by MinZ = focal length · baseline / 126 px; support quotes 105-110 mm as the least of any profile (librealsense #999)
    "d435": Sensor(0.050, (0.085, 0.110)),
}


class Wrist(NamedTuple):
    """A camera on a simulated wrist: its lens and its place, and how its images fall short."""

    camera: VirtualCamera
    faults: DepthFaults


def wrist(sensor: str, policy: VirtualCamera, shift_m: Sequence[float], turn_rad: Sequence[float]) -> Wrist:
    """One of `SENSORS`, so far from where the policy's camera is, by the worse account of how near it sees."""
    baseline_m, blind_m = SENSORS[sensor]
    # 0.08 px is what one had best reckon with (librealsense #3904); DEXTRAH drops 0.3 % of the pixels.
    faults = DepthFaults(0.08, 1.0 / 32.0, dropout=0.003, near_blind_m=blind_m[1], shadows=True, baseline_m=baseline_m)
    return Wrist(mounted(policy, shift_m, turn_rad), faults)


def wrist_for(policy: Contract) -> Wrist | None:
    """The camera that a simulated wrist has for a policy unless told otherwise: the policy's own (None), or one that can read markers."""
    return wrist("d405", policy.camera, (0.0, 0.0, 0.0), (0.0, 0.0, 0.0)) if policy.variant == "xyz" else None


def calibration_of(policy: Contract, camera: VirtualCamera, by: str) -> Calibration:
    """What a perfect calibration would find of a simulated camera, for an arm with the emulated PCA9685."""
    mount = MountConfig(policy.robot.inverted, policy.robot.base_height_m)
    found = calibration.blank(Config(mount=mount), policy.robot.urdf_sha256)
    serial, made = SimulatorCamera.serial, calibration.made(by)
    return structs.replace(
        found,
        lens=Lens(serial, camera.intrinsics, NO_DISTORTION, made),
        hand_eye=HandEye(serial, cast(Any, camera.transform_camera_to_tool), made),
    )


def offset(shift_m: Sequence[float], turn_rad: Sequence[float]) -> Float64:
    """(4, 4) transform_moved_to_camera: a shift, and a turn by a rotation vector, both in the camera's own frame."""
    moved = np.eye(4)
    moved[:3, 3] = shift_m
    angle_rad = math.hypot(*turn_rad)
    if angle_rad > 0.0:
        x, y, z = np.divide(turn_rad, angle_rad)
        cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
        moved[:3, :3] += math.sin(angle_rad) * cross + (1.0 - math.cos(angle_rad)) * cross @ cross  # Rodrigues
    return moved


def mounted(
    policy: VirtualCamera, shift_m: Sequence[float] = (0.0, 0.0, 0.0), turn_rad: Sequence[float] = (0.0, 0.0, 0.0)
) -> VirtualCamera:
    """One of `SENSORS`, so far from where the policy's camera is."""
    pose = np.array(policy.transform_camera_to_tool) @ offset(shift_m, turn_rad)
    return VirtualCamera(LENS, tuple(tuple(row) for row in pose.tolist()))
