"""What gravity asks of each servo: a servo under load stops short of where it was sent, in proportion to its compliance.

Masses and where they are come from the URDF. Parts beside the arm's own line (the camera, the gripper's servo) count as if on it: with
joint 5 in the worst place that leaves out 0.025 N·m of up to 0.97 (against PyBullet's inverse dynamics,
tests/calibration/arm/test_gravity.py).
"""

import xml.etree.ElementTree as ET
from functools import cache, lru_cache
from itertools import product

import numpy as np

import urdf
from edge import robot
from edge.kinematics import Mount, branches, within_limits
from edge.messages import Float64, ToolPose

GRAVITY_M_S2 = 9.81
LINKS_M = (robot.UPPER_ARM_M, robot.FOREARM_M, np.inf)  # between joints 2, 3 and 4; the last has all that follows
# Where the tool points straight down as it grasps, and how it is turned there.
X_M, Y_M, Z_M = np.linspace(-0.07, 0.07, 5), np.linspace(0.06, 0.17, 8), np.linspace(0.03, 0.11, 5)
YAW_RAD = np.linspace(-np.pi, np.pi, 8, endpoint=False)


def load_nm(joints_rad: Float64, mount: Mount) -> Float64:
    """(n, 5) torque of gravity in the direction of each joint, less what a zero and a scale make of it with the tool straight down.

    So zeros and scales are those that hold where the arm grasps, and a runtime that knows of no compliance is right there.
    """
    down = straight_down_rad(mount)
    offset, slope = line(down, torque_nm(down, mount))
    return np.asarray(torque_nm(joints_rad, mount) - offset - slope * joints_rad)


def line(joints_rad: Float64, values: Float64) -> tuple[Float64, Float64]:
    """Offset (5,) and slope (5,) of values (n, 5) against each joint's own angle, by least squares; 0 where a joint stands still."""
    about = joints_rad - joints_rad.mean(axis=0)
    squared = (about**2).sum(axis=0)
    slope = np.divide((about * values).sum(axis=0), squared, out=np.zeros(5), where=squared > 1e-9)
    return values.mean(axis=0) - slope * joints_rad.mean(axis=0), slope


def torque_nm(joints_rad: Float64, mount: Mount) -> Float64:
    """(n, 5) torque of gravity about each joint; the base axis is upright, so joint 1 has none."""
    lean = np.sin(np.cumsum(joints_rad[:, 1:4], axis=1))
    each = (-1.0 if mount.inverted else 1.0) * lean * _moments_nm()
    two_to_four = np.cumsum(each[:, ::-1], axis=1)[:, ::-1]  # a joint carries all links that follow
    return np.pad(two_to_four, ((0, 0), (1, 1)))


@cache
def _moments_nm() -> Float64:
    """(3,) what links 2, 3 and 4 with all that hangs on them add to a torque when they lie level."""
    tree = ET.parse(urdf.DOFBOT)
    along_m = {"base_link": 0.0}  # of each link, up the straight arm
    for joint in tree.iter("joint"):
        along_m[_of(joint, "child", "link")] = along_m[_of(joint, "parent", "link")] + _z_m(joint)
    bodies = [
        (float(_of(inertial, "mass", "value")), along_m[link.attrib["name"]] + _z_m(inertial))
        for link in tree.iter("link")
        for inertial in link.iter("inertial")
    ]
    mass_kg, centre_m = np.array(bodies).T
    starts_m = [along_m[f"link{number}"] for number in (2, 3, 4)]
    arms_m = [np.clip(centre_m - start, 0.0, length) for start, length in zip(starts_m, LINKS_M, strict=True)]
    return np.asarray(GRAVITY_M_S2 * np.array(arms_m) @ mass_kg)


def _of(element: ET.Element, child: str, attribute: str) -> str:
    return element.findall(child)[0].attrib[attribute]


def _z_m(element: ET.Element) -> float:
    return float(_of(element, "origin", "xyz").split()[2])


@lru_cache(maxsize=4)
def straight_down_rad(mount: Mount) -> Float64:
    """(n, 5) joints of places all over the table with the tool straight down; where the arm cannot do that, it stands straight up."""
    poses = [ToolPose(x, y, z, 0.0, yaw) for x, y, z, yaw in product(X_M.tolist(), Y_M.tolist(), Z_M.tolist(), YAW_RAD.tolist())]
    found = [one for pose in poses for one in branches(pose, mount) if within_limits(one)]
    return np.array(found or [(0.0,) * 5])
