"""Closed-form kinematics of the five-joint arm, for both mounts. Plain floats: a solve takes microseconds.

The arm is a planar three-link chain (joints 2-4) that joint 1 turns about the base axis and whose tool
joint 5 rolls. All joints zero: straight along base +z. Positive joints 2-4 bend the arm away from the base,
towards base +y while joint 1 is zero. In the plane of the arm, with a2 = q2, a3 = q2 + q3, phi = q2 + q3 + q4,

    radius = L1 sin a2 + L2 sin a3 + L3 sin phi        height = Z0 + L1 cos a2 + L2 cos a3 + L3 cos phi

(Craig, Introduction to Robotics, ch. 4: two-link elbow solution on the wrist point.)
"""

from math import acos, atan2, cos, degrees, hypot, inf, pi, sin, sqrt
from operator import le
from typing import NamedTuple

import numpy as np

from edge import robot
from edge.errors import UnreachableError
from edge.messages import Float64, JointCommand, ToolPose

Joints = tuple[float, float, float, float, float]

_L1, _L2, _L3, _Z0 = robot.UPPER_ARM_M, robot.FOREARM_M, robot.WRIST_TO_TOOL_M, robot.BASE_TO_SHOULDER_M
_MIN, _MAX = robot.POSITION_MIN_RAD, robot.POSITION_MAX_RAD
_ZERO: Joints = (0.0, 0.0, 0.0, 0.0, 0.0)
_MIDDLE5 = (_MIN[4] + _MAX[4]) / 2.0
_SLACK_RAD = 1e-7  # rounding of a solution that lies on a limit: 1e-16, but its square root beside the stretched arm
_LOWEST, _HIGHEST = tuple(q - _SLACK_RAD for q in _MIN), tuple(q + _SLACK_RAD for q in _MAX)


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
    """Height of the tool centre over the table."""
    return tool_in_table_m(joints, mount)[2]


def tool_in_table_m(joints: Joints | JointCommand, mount: Mount) -> tuple[float, float, float]:
    """Where the tool centre is, whichever way it points: the part of `tool_pose` that the safety gate asks for."""
    q1, q2, q3, q4, *_ = joints
    a3 = q2 + q3
    phi = a3 + q4
    radius = _L1 * sin(q2) + _L2 * sin(a3) + _L3 * sin(phi)
    height = _Z0 + _L1 * cos(q2) + _L2 * cos(a3) + _L3 * cos(phi)
    if mount.inverted:
        return radius * sin(q1), radius * cos(q1), mount.base_height_m - height
    return -radius * sin(q1), radius * cos(q1), mount.base_height_m + height


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
    """Every joint solution of a tool pose, joint limits ignored: two azimuths times two elbows; none beyond the stretched arm."""
    solutions: list[Joints] = []
    for q1, wrist_r, wrist_z, phi in _wrists(pose, mount):
        # Half a turn of the wrist is on a limit of joint 5: count it from the middle of the range, or rounding flips its sign.
        q5 = _wrap((pi - pose.yaw_rad - q1 if mount.inverted else q1 - pose.yaw_rad) - _MIDDLE5) + _MIDDLE5
        solutions += [(q1, q2, q3, q4, q5) for q2, q3, q4 in _elbows(wrist_r, wrist_z, phi)]
    return solutions


def _wrists(pose: ToolPose, mount: Mount) -> list[tuple[float, float, float, float]]:
    """Joint 1, then the wrist point (radius, height over the shoulder) and phi: facing the pose, and bent backwards over the base."""
    x, y, z, tilt, _ = pose
    azimuth = atan2(x, y) if mount.inverted else atan2(-x, y)
    height = mount.base_height_m - z if mount.inverted else z - mount.base_height_m
    phi = tilt if mount.inverted else pi - tilt
    wrist_r, wrist_z = hypot(x, y) - _L3 * sin(phi), height - _Z0 - _L3 * cos(phi)
    return [(azimuth, wrist_r, wrist_z, phi), (_wrap(azimuth + pi), -wrist_r, wrist_z, -phi)]


def _elbows(wrist_r: float, wrist_z: float, phi: float) -> list[tuple[float, float, float]]:
    """Joints 2 to 4 for a wrist point, limits ignored: elbow out, elbow in; one solution where the arm is stretched."""
    squared = wrist_r * wrist_r + wrist_z * wrist_z
    cos_q3 = (squared - _L1 * _L1 - _L2 * _L2) / (2.0 * _L1 * _L2)
    if cos_q3 > 1.0 and sqrt(squared) - _L1 - _L2 > 1e-12:
        return []
    bend = acos(min(1.0, max(-1.0, cos_q3)))
    towards = atan2(wrist_r, wrist_z)
    solutions = []
    for q3 in (bend, -bend) if bend > 0.0 else (0.0,):
        q2 = _wrap(towards - atan2(_L2 * sin(q3), _L1 + _L2 * cos(q3)))
        solutions.append((q2, q3, _wrap(phi - q2 - q3)))
    return solutions


def within_limits(joints: Joints) -> bool:
    """Whether all five joints are inside their limits."""
    return all(map(le, _LOWEST, joints)) and all(map(le, joints, _HIGHEST))


def solve(pose: ToolPose, mount: Mount, near: Joints | JointCommand | None = None) -> Joints:
    """Inverse kinematics: the solution inside the joint limits, the nearest to `near` when several are.

    Without `near` the solution with the smallest largest joint angle is taken. Raises
    `UnreachableError`, saying by how many millimetres the pose is missed.
    """
    solutions = branches(pose, mount)
    inside = [s for s in solutions if within_limits(s)]
    if not inside:
        raise _unreachable(pose, solutions, mount)
    best = inside[0]
    if len(inside) > 1:
        wanted = near or _ZERO
        best = min(inside, key=lambda s: max(abs(q - n) for q, n in zip(s, wanted, strict=False)))
    q1, q2, q3, q4, q5 = map(min, map(max, best, _MIN), _MAX)
    return q1, q2, q3, q4, q5


def _unreachable(pose: ToolPose, solutions: list[Joints], mount: Mount) -> UnreachableError:
    """The error for a pose without a solution inside the limits: how near the arm comes, and what stops it."""
    short_by_m = _shortfall_m(pose, mount)
    found = f"{_describe(pose)} is {short_by_m * 1e3:.1f} mm out of reach"
    if not solutions:
        return UnreachableError(f"{found}, beyond the stretched arm; move it closer", short_by_m)
    excess_rad = min(([max(low - q, q - high) for q, low, high in zip(s, _MIN, _MAX, strict=True)] for s in solutions), key=max)
    joint = excess_rad.index(max(excess_rad))
    return UnreachableError(
        f"{found}: it needs {robot.JOINT_NAMES[joint]} {degrees(excess_rad[joint]):.1f}° beyond its limit; move or turn it", short_by_m
    )


def _shortfall_m(pose: ToolPose, mount: Mount) -> float:
    """Distance from a pose to the nearest that joints 1 to 4 reach with the same tilt; 0 when only the yaw is out of reach."""
    shortfalls_m = []
    for q1, wrist_r, wrist_z, phi in _wrists(pose, mount):
        off = q1 - min(max(q1, _MIN[0]), _MAX[0])
        radius = wrist_r + _L3 * sin(phi)
        planar_m = _planar_shortfall_m(radius * cos(off) - _L3 * sin(phi), wrist_z, phi)
        shortfalls_m.append(hypot(planar_m, radius * sin(off)))
    return min(shortfalls_m)


def _planar_shortfall_m(wrist_r: float, wrist_z: float, phi: float) -> float:
    """Distance from a wrist point to the area in reach of joints 2 to 4. It ends in arcs: one joint at a limit, or stretched."""
    if any(within_limits((0.0, q2, q3, q4, 0.0)) for q2, q3, q4 in _elbows(wrist_r, wrist_z, phi)):
        return 0.0
    (_, low2, low3, low4, _), (_, high2, high3, high4, _) = _MIN, _MAX
    nearest_m = inf
    for turn in (-2.0 * pi, 0.0, 2.0 * pi):
        low, high = _wrap(phi) + turn - high4, _wrap(phi) + turn - low4  # of a3
        arcs = [(a2, _L1, _L2, max(low, a2 + low3), min(high, a2 + high3)) for a2 in (low2, high2)]
        arcs += [(a3, _L2, _L1, max(low2, a3 - high3), min(high2, a3 - low3)) for a3 in (low, high)]
        for q3 in (low3, 0.0, high3):
            ahead, length = atan2(_L2 * sin(q3), _L1 + _L2 * cos(q3)), hypot(_L1 + _L2 * cos(q3), _L2 * sin(q3))
            arcs.append((0.0, 0.0, length, ahead + max(low2, low - q3), ahead + min(high2, high - q3)))
        for angle, distance, radius, start, end in arcs:
            if start <= end:
                nearest_m = min(nearest_m, _to_arc_m(wrist_r - distance * sin(angle), wrist_z - distance * cos(angle), radius, start, end))
    return nearest_m


def _to_arc_m(r: float, z: float, radius: float, start: float, end: float) -> float:
    """Distance from a point to an arc about the origin; angles count from +z towards +r."""
    if (atan2(r, z) - start) % (2.0 * pi) <= end - start:
        return abs(hypot(r, z) - radius)
    return min(hypot(r - radius * sin(angle), z - radius * cos(angle)) for angle in (start, end))


def _describe(pose: ToolPose) -> str:
    x, y, z = (round(v * 1e3, 1) for v in pose[:3])
    return f"tool at ({x}, {y}, {z}) mm, tilt {degrees(pose.tilt_rad):.1f}°"
