"""Closed-form kinematics of the five-joint arm, for both mounts. Plain floats: a solve takes microseconds.

The arm is a planar three-link chain (joints 2-4) that joint 1 turns about the base axis and whose tool
joint 5 rolls. All joints zero: straight along base +z. Positive joints 2-4 bend the arm away from the base,
towards base +y while joint 1 is zero. In the plane of the arm, with a2 = q2, a3 = q2 + q3, phi = q2 + q3 + q4,

    radius = L1 sin a2 + L2 sin a3 + L3 sin phi        height = Z0 + L1 cos a2 + L2 cos a3 + L3 cos phi

(Craig, Introduction to Robotics, ch. 4: two-link elbow solution on the wrist point.)
"""

from math import acos, atan2, cos, hypot, pi, sin, sqrt
from typing import NamedTuple

import numpy as np

from edge import robot
from edge.errors import UnreachableError
from edge.messages import Float64, JointCommand, ToolPose

Joints = tuple[float, float, float, float, float]

_L1, _L2, _L3, _Z0 = robot.UPPER_ARM_M, robot.FOREARM_M, robot.WRIST_TO_TOOL_M, robot.BASE_TO_SHOULDER_M
_MIN, _MAX = robot.POSITION_MIN_RAD, robot.POSITION_MAX_RAD
_LIMIT_SLACK_RAD = 1e-9  # rounding of a solution that lies on a limit


class Mount(NamedTuple):
    """How the base plate stands in the table frame: its height, and whether the arm hangs from it."""

    base_height_m: float
    inverted: bool

    def transform_base_to_table(self) -> Float64:
        """(4, 4): inverted is half a turn about table +y, so that base +y still points away from the base."""
        flip = -1.0 if self.inverted else 1.0
        transform = np.diag([flip, 1.0, flip, 1.0])
        transform[2, 3] = self.base_height_m
        return transform


def _wrap(angle_rad: float) -> float:
    """The same angle in (-pi, pi]."""
    return -((pi - angle_rad) % (2.0 * pi) - pi)


def tool_pose(joints: Joints | JointCommand, mount: Mount) -> ToolPose:
    """Forward kinematics: where the tool centre is, table frame."""
    q1, q2, q3, q4, q5 = joints[:5]
    a3 = q2 + q3
    phi = a3 + q4
    radius = _L1 * sin(q2) + _L2 * sin(a3) + _L3 * sin(phi)
    height = _Z0 + _L1 * cos(q2) + _L2 * cos(a3) + _L3 * cos(phi)
    outward = 1.0 if radius >= 0.0 else -1.0
    if mount.inverted:
        return ToolPose(radius * sin(q1), radius * cos(q1), mount.base_height_m - height, outward * _wrap(phi), _wrap(pi - q1 - q5))
    return ToolPose(-radius * sin(q1), radius * cos(q1), mount.base_height_m + height, outward * _wrap(pi - phi), _wrap(q1 - q5))


def tool_height_m(joints: Joints | JointCommand, mount: Mount) -> float:
    """Height of the tool centre over the table: the part of `tool_pose` that the safety gate asks for."""
    _, q2, q3, q4, *_ = joints
    height = _Z0 + _L1 * cos(q2) + _L2 * cos(q2 + q3) + _L3 * cos(q2 + q3 + q4)
    return mount.base_height_m - height if mount.inverted else mount.base_height_m + height


def transform_tool_to_table(joints: Joints | JointCommand, mount: Mount) -> Float64:
    """Forward kinematics as a (4, 4) transform. Tool frame: z points ahead, fingers close along x."""
    q1, q2, q3, q4, q5 = joints[:5]
    phi = q2 + q3 + q4
    s1, c1, sp, cp, s5, c5 = sin(q1), cos(q1), sin(phi), cos(phi), sin(q5), cos(q5)
    radius = _L1 * sin(q2) + _L2 * sin(q2 + q3) + _L3 * sp
    height = _Z0 + _L1 * cos(q2) + _L2 * cos(q2 + q3) + _L3 * cp
    # Rz(q1) Rx(-phi) Rz(q5)
    transform = np.array(
        [
            [c1 * c5 - s1 * cp * s5, -c1 * s5 - s1 * cp * c5, -s1 * sp, -radius * s1],
            [s1 * c5 + c1 * cp * s5, -s1 * s5 + c1 * cp * c5, c1 * sp, radius * c1],
            [-sp * s5, -sp * c5, cp, height],
            [0.0, 0.0, 0.0, 1.0],
        ]
    )
    if mount.inverted:
        transform[0] *= -1.0
        transform[2] *= -1.0
    transform[2, 3] += mount.base_height_m
    return transform


def branches(pose: ToolPose, mount: Mount) -> list[Joints]:
    """Every joint solution of a tool pose, joint limits ignored: up to two azimuths times two elbows.

    Raises `UnreachableError` when the wrist point is further away than the stretched arm.
    """
    x, y, z, tilt, yaw = pose
    azimuth = atan2(x, y) if mount.inverted else atan2(-x, y)
    height = mount.base_height_m - z if mount.inverted else z - mount.base_height_m
    radius = hypot(x, y)
    phi = tilt if mount.inverted else pi - tilt
    solutions: list[Joints] = []
    for q1, signed_radius, signed_phi in ((azimuth, radius, phi), (_wrap(azimuth + pi), -radius, -phi)):
        q5 = _wrap(pi - yaw - q1) if mount.inverted else _wrap(q1 - yaw)
        wrist_r = signed_radius - _L3 * sin(signed_phi)
        wrist_z = height - _Z0 - _L3 * cos(signed_phi)
        cos_q3 = (wrist_r * wrist_r + wrist_z * wrist_z - _L1 * _L1 - _L2 * _L2) / (2.0 * _L1 * _L2)
        if cos_q3 > 1.0:
            short_by_m = sqrt(wrist_r * wrist_r + wrist_z * wrist_z) - _L1 - _L2
            if short_by_m > 1e-12:
                continue  # this azimuth does not reach; the other one may, with a tilted tool
            cos_q3 = 1.0
        bend = acos(max(-1.0, cos_q3))
        towards = atan2(wrist_r, wrist_z)
        for q3 in (bend, -bend) if bend > 0.0 else (0.0,):
            q2 = _wrap(towards - atan2(_L2 * sin(q3), _L1 + _L2 * cos(q3)))
            solutions.append((q1, q2, q3, _wrap(signed_phi - q2 - q3), q5))
    if not solutions:
        short_by_m = hypot(radius - _L3 * sin(phi), height - _Z0 - _L3 * cos(phi)) - _L1 - _L2
        raise UnreachableError(f"{_describe(pose)} is {short_by_m * 1e3:.1f} mm beyond the stretched arm; move it closer", short_by_m)
    return solutions


def within_limits(joints: Joints) -> bool:
    """Whether all five joints are inside their limits."""
    return all(low - _LIMIT_SLACK_RAD <= q <= high + _LIMIT_SLACK_RAD for q, low, high in zip(joints, _MIN, _MAX, strict=True))


def solve(pose: ToolPose, mount: Mount, near: Joints | JointCommand | None = None) -> Joints:
    """Inverse kinematics: the solution inside the joint limits, the nearest to `near` when several are.

    Without `near` the solution with the smallest largest joint angle is taken. Raises
    `UnreachableError`, saying by how many millimetres the pose is missed.
    """
    solutions = branches(pose, mount)
    inside = [s for s in solutions if within_limits(s)]
    if not inside:
        raise _limited(pose, solutions, mount)
    if len(inside) == 1:
        return inside[0]
    if near is None:
        return min(inside, key=lambda s: max(abs(q) for q in s))
    return min(inside, key=lambda s: max(abs(q - n) for q, n in zip(s, near, strict=False)))


def _limited(pose: ToolPose, solutions: list[Joints], mount: Mount) -> UnreachableError:
    """The error for a pose that only the joint limits forbid: how near the limited arm comes, and which joint stops it."""
    best_m, worst_joint = float("inf"), ""
    for solution in solutions:
        limited = [min(max(q, low), high) for q, low, high in zip(solution, _MIN, _MAX, strict=True)]
        reached = tool_pose((limited[0], limited[1], limited[2], limited[3], limited[4]), mount)
        missed_m = hypot(reached.x_m - pose.x_m, reached.y_m - pose.y_m, reached.z_m - pose.z_m)
        if missed_m < best_m:
            excess = [abs(q - lim) for q, lim in zip(solution, limited, strict=True)]
            best_m, worst_joint = missed_m, robot.JOINT_NAMES[excess.index(max(excess))]
    return UnreachableError(
        f"{_describe(pose)} needs {worst_joint} beyond its limit; the arm stops {best_m * 1e3:.1f} mm short of it", best_m
    )


def _describe(pose: ToolPose) -> str:
    x, y, z = (round(v * 1e3, 1) for v in pose[:3])
    return f"tool at ({x}, {y}, {z}) mm, tilt {np.degrees(pose.tilt_rad):.1f}°"
