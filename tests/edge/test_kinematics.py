"""The closed form is right for every joint set of both mounts, dense at the limits, and says truly what it cannot reach."""

import itertools
import math

import numpy as np
import pytest

from edge import robot
from edge.errors import UnreachableError
from edge.kinematics import Mount, branches, solve, tool_height_m, tool_in_table_m, tool_pose, transform_tool_to_table, within_limits
from edge.messages import JointCommand, ToolPose

HANGING, STANDING = Mount(0.388, inverted=True), Mount(0.05, inverted=False)
MOUNTS = pytest.mark.parametrize("mount", [HANGING, STANDING], ids=["hanging", "standing"])
LOW, HIGH = robot.POSITION_MIN_RAD, robot.POSITION_MAX_RAD
STRETCHED_M = robot.UPPER_ARM_M + robot.FOREARM_M
Joints = tuple[float, float, float, float, float]


def joint_sets(seed: int = 0, count: int = 300) -> list[Joints]:
    """Every corner of the joint limits with zeros between, the stretched arm, and joint sets from all over the inside."""
    corners = itertools.product(*((low, 0.0, high) for low, high in zip(LOW, HIGH, strict=True)))
    inside = np.random.default_rng(seed).uniform(LOW, HIGH, (count, 5))
    stretched = inside.copy()[: count // 5]
    stretched[:, 2] = 0.0
    return [*corners, *map(tuple, inside.tolist()), *map(tuple, stretched.tolist())]


def rotation(axis: np.ndarray, angle_rad: float) -> np.ndarray:
    """Rodrigues' formula."""
    x, y, z = axis / np.linalg.norm(axis)
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    return np.eye(3) + math.sin(angle_rad) * cross + (1.0 - math.cos(angle_rad)) * cross @ cross


def chain(joints: Joints, mount: Mount) -> tuple[np.ndarray, list[tuple[np.ndarray, np.ndarray]]]:
    """The tool's transform as a product of joints and links, and each joint's axis and a point on it; table frame."""
    lengths_m = (robot.BASE_TO_SHOULDER_M, robot.UPPER_ARM_M, robot.FOREARM_M, robot.WRIST_TO_TOOL_M, 0.0)
    local_axes = ((0.0, 0.0, 1.0), (-1.0, 0.0, 0.0), (-1.0, 0.0, 0.0), (-1.0, 0.0, 0.0), (0.0, 0.0, 1.0))
    transform = mount.transform_base_to_table()
    axes = []
    for angle_rad, axis, length_m in zip(joints, np.array(local_axes), lengths_m, strict=True):
        axes.append((transform[:3, :3] @ axis, transform[:3, 3].copy()))
        turn = np.eye(4)
        turn[:3, :3] = rotation(axis, angle_rad)
        turn[:3, 3] = turn[:3, 2] * length_m
        transform = transform @ turn
    return transform, axes


def transform_of(pose: ToolPose) -> np.ndarray:
    """What `ToolPose` says in words: straight down with a heading, then tilted away from the base axis."""
    transform = np.eye(4)
    transform[:3, 3] = pose[:3]
    down = rotation(np.array([0.0, 0.0, 1.0]), pose.yaw_rad) @ np.diag([1.0, -1.0, -1.0])
    outward = np.array([pose.x_m, pose.y_m, 0.0])
    transform[:3, :3] = rotation(np.cross([0.0, 0.0, -1.0], outward), pose.tilt_rad) @ down
    return transform


def is_ambiguous(joints: Joints, mount: Mount) -> bool:
    """On the base axis 'away from the base' has no direction, so a pose says nothing about where the tool tilts to."""
    x_m, y_m = tool_pose(joints, mount)[:2]
    return math.hypot(x_m, y_m) < 1e-6


def solve_or_refuse(pose: ToolPose, mount: Mount) -> Joints | UnreachableError:
    try:
        return solve(pose, mount)
    except UnreachableError as error:
        return error


def wrapped(angle_rad: float) -> float:
    return (angle_rad + math.pi) % (2.0 * math.pi) - math.pi


@MOUNTS
def test_forward_kinematics_are_the_chain_of_links(mount: Mount) -> None:
    for joints in joint_sets():
        expected, _ = chain(joints, mount)
        assert np.allclose(transform_tool_to_table(joints, mount), expected, atol=1e-12)


@MOUNTS
def test_pose_and_transform_say_the_same(mount: Mount) -> None:
    for joints in joint_sets():
        pose = tool_pose(joints, mount)
        assert tool_height_m(joints, mount) == pytest.approx(pose.z_m, abs=1e-12)
        assert tool_in_table_m(joints, mount) == pytest.approx(pose[:3], abs=1e-12)
        if not is_ambiguous(joints, mount):
            assert np.allclose(transform_of(pose), transform_tool_to_table(joints, mount), atol=1e-9)


@MOUNTS
def test_every_branch_brings_the_tool_to_the_same_place(mount: Mount) -> None:
    for joints in joint_sets():
        if is_ambiguous(joints, mount):
            continue
        wanted = transform_tool_to_table(joints, mount)
        solutions = branches(tool_pose(joints, mount), mount)
        assert solutions
        for solution in solutions:
            assert np.allclose(transform_tool_to_table(solution, mount), wanted, atol=1e-9)


@MOUNTS
def test_the_joints_that_made_a_pose_are_among_its_solutions(mount: Mount) -> None:
    for joints in joint_sets():
        if is_ambiguous(joints, mount):
            continue
        solutions = branches(tool_pose(joints, mount), mount)
        # 1e-7: beside the stretched arm an angle is only as good as the square root of rounding.
        assert min(max(abs(wrapped(a - b)) for a, b in zip(s, joints, strict=True)) for s in solutions) < 1e-7


@MOUNTS
def test_solve_undoes_forward_kinematics_inside_and_on_the_limits(mount: Mount) -> None:
    for joints in joint_sets():
        if is_ambiguous(joints, mount):
            continue
        pose = tool_pose(joints, mount)
        assert solve(pose, mount, near=joints) == pytest.approx(joints, abs=1e-7)
        assert solve(pose, mount, near=JointCommand(*joints, 0.03)) == pytest.approx(joints, abs=1e-7)
        anywhere = solve(pose, mount)
        assert all(low <= q <= high for q, low, high in zip(anywhere, LOW, HIGH, strict=True))
        assert np.allclose(tool_pose(anywhere, mount)[:3], pose[:3], atol=1e-7)


@pytest.mark.parametrize("joint", range(5))
def test_limits_end_where_they_say(joint: int) -> None:
    middle = [0.1, 0.2, 0.3, 0.4, 0.5]
    for limit, outwards in ((LOW[joint], -1.0), (HIGH[joint], 1.0)):
        for beyond_rad, allowed in ((-1e-6, True), (0.0, True), (1e-8, True), (1e-6, False), (1e-3, False)):
            middle[joint] = limit + outwards * beyond_rad
            assert within_limits((*middle,)) is allowed  # type: ignore[arg-type]


@MOUNTS
def test_solve_stays_inside_limits_that_a_pose_just_misses(mount: Mount) -> None:
    """Joint 4 a hair beyond its limit: reached the other way round or refused, never sent there."""
    for excess_rad in (1e-6, 1e-3, 0.1):
        for base in np.random.default_rng(1).uniform(LOW, HIGH, (100, 5)).tolist():
            pose = tool_pose((base[0], base[1], base[2], HIGH[3] + excess_rad, base[4]), mount)
            found = solve_or_refuse(pose, mount)
            if isinstance(found, UnreachableError):
                assert 0.0 <= found.short_by_m < 1.5 * excess_rad * (STRETCHED_M + robot.WRIST_TO_TOOL_M)
            else:
                assert all(low <= q <= high for q, low, high in zip(found, LOW, HIGH, strict=True))


@MOUNTS
def test_velocities_agree_with_the_geometric_jacobian(mount: Mount) -> None:
    """Central differences of `tool_pose` and `transform_tool_to_table`, against axis × lever of each joint."""
    step_rad = 1e-6
    for joints in np.random.default_rng(2).uniform(LOW, HIGH, (60, 5)).tolist():
        transform, axes = chain(tuple(joints), mount)
        for joint, (axis, point) in enumerate(axes):
            ends = []
            for sign in (1.0, -1.0):
                moved = list(joints)
                moved[joint] += sign * step_rad
                ends.append((np.array(tool_pose((*moved,), mount)), transform_tool_to_table((*moved,), mount)))  # type: ignore[arg-type]
            pose_rate = (ends[0][0] - ends[1][0]) / (2.0 * step_rad)
            transform_rate = (ends[0][1] - ends[1][1]) / (2.0 * step_rad)
            lever_m = np.cross(axis, transform[:3, 3] - point)
            assert np.allclose(pose_rate[:3], lever_m, atol=1e-7)
            assert np.allclose(transform_rate[:3, 3], lever_m, atol=1e-7)
            assert np.allclose(transform_rate[:3, :3] @ transform[:3, :3].T, np.cross(np.eye(3), axis), atol=1e-7)


@MOUNTS
def test_a_stretched_arm_is_reached_and_a_hair_more_is_not(mount: Mount) -> None:
    stretched = (0.3, 1.0, 0.0, 0.4, 0.2)
    pose = tool_pose(stretched, mount)
    assert len(branches(pose, mount)) in (2, 4)  # elbows in and out are the same, to within rounding
    assert solve(pose, mount, near=stretched) == pytest.approx(stretched, abs=1e-7)
    shoulder_m = np.array([0.0, 0.0, tool_height_m((0.0,) * 5, mount)])
    shoulder_m[2] += (1.0 if mount.inverted else -1.0) * (STRETCHED_M + robot.WRIST_TO_TOOL_M)
    tool_m = np.array(pose[:3])
    wrist_m = tool_m - robot.WRIST_TO_TOOL_M * transform_tool_to_table(stretched, mount)[:3, 2]
    along = (wrist_m - shoulder_m) / np.linalg.norm(wrist_m - shoulder_m)
    for beyond_m in (1e-9, 1e-6, 1e-3, 0.2):
        x_m, y_m, z_m = (tool_m + beyond_m * along).tolist()
        with pytest.raises(UnreachableError, match="beyond the stretched arm") as caught:
            solve(ToolPose(x_m, y_m, z_m, pose.tilt_rad, pose.yaw_rad), mount)
        assert caught.value.short_by_m == pytest.approx(beyond_m, abs=1e-10)


def test_a_tool_on_the_base_axis_points_down_with_the_yaw_asked_for() -> None:
    for yaw_rad in (0.0, 0.5, 1.5, math.pi, 4.7):
        pose = ToolPose(0.0, 0.0, 0.002, 0.0, yaw_rad)
        joints = solve(pose, HANGING)
        assert within_limits(joints)
        wanted = np.eye(4)
        wanted[:3, :3] = rotation(np.array([0.0, 0.0, 1.0]), yaw_rad) @ np.diag([1.0, -1.0, -1.0])
        wanted[2, 3] = 0.002
        assert np.allclose(transform_tool_to_table(joints, HANGING), wanted, atol=1e-9)


def test_half_a_turn_of_the_wrist_survives_rounding() -> None:
    """Joint 5 reaches +180° and not -180°, which are the same angle one rounding error apart."""
    for yaw_rad in (0.0, 1e-16, -1e-16, 4e-16, -4e-16, 2.0 * math.pi):
        joints = solve(ToolPose(0.0, 0.1, 0.03, 0.0, yaw_rad), HANGING)
        assert joints[4] == pytest.approx(math.pi, abs=1e-9)


def nearest_by_search_m(pose: ToolPose, mount: Mount) -> float:
    """Distance to the nearest tool with the same tilt, over a grid of joints 1 to 3; joint 4 follows from the tilt."""
    q2, q3 = np.meshgrid(np.arange(LOW[1], HIGH[1] + 1e-9, math.radians(1.5)), np.arange(LOW[2], HIGH[2] + 1e-9, math.radians(1.0)))
    azimuth = math.atan2(pose.x_m, pose.y_m) if mount.inverted else math.atan2(-pose.x_m, pose.y_m)
    radius_m = math.hypot(pose.x_m, pose.y_m)
    q1 = [*np.radians(np.arange(-90.0, 90.1, 5.0)).tolist(), *(a for k in (-1, 0, 1) if abs(a := azimuth + k * math.pi) <= HIGH[0])]
    best_m2 = math.inf
    for side in (1.0, -1.0):
        phi = side * (pose.tilt_rad if mount.inverted else math.pi - pose.tilt_rad)
        q4 = (phi - q2 - q3 + math.pi) % (2.0 * math.pi) - math.pi
        allowed = (q4 >= LOW[3] - 1e-9) & (q4 <= HIGH[3] + 1e-9)
        a2, a3 = q2[allowed], (q2 + q3)[allowed]
        r = robot.UPPER_ARM_M * np.sin(a2) + robot.FOREARM_M * np.sin(a3) + robot.WRIST_TO_TOOL_M * math.sin(phi)
        h = robot.UPPER_ARM_M * np.cos(a2) + robot.FOREARM_M * np.cos(a3) + robot.WRIST_TO_TOOL_M * math.cos(phi)
        z = mount.base_height_m + (-1.0 if mount.inverted else 1.0) * (robot.BASE_TO_SHOULDER_M + h)
        for angle in q1:
            distance_m2 = radius_m**2 + r * r - 2.0 * radius_m * r * math.cos(azimuth - angle) + (z - pose.z_m) ** 2
            # Behind the base axis 'away from the base' turns round: there this phi is another tilt.
            best_m2 = min(best_m2, float(np.where(side * r >= 0.0, distance_m2, np.inf).min()))
    return math.sqrt(best_m2)


@MOUNTS
def test_what_is_out_of_reach_is_so_by_the_millimetres_that_the_error_says(mount: Mount) -> None:
    rng = np.random.default_rng(3)
    found_out = set()
    while len(found_out) < 14:
        x_m, y_m, z_m = rng.uniform((-0.25, -0.2, 0.0), (0.25, 0.3, 0.4)).tolist()
        pose = ToolPose(x_m, y_m, z_m, float(rng.choice([0.0, 0.0, 0.4, -0.4, 1.0])), math.pi)
        error = solve_or_refuse(pose, mount)
        if isinstance(error, UnreachableError):
            searched_m = nearest_by_search_m(pose, mount)
            assert error.short_by_m <= searched_m + 1e-9  # the grid misses the nearest point, but never beats it
            assert error.short_by_m == pytest.approx(searched_m, abs=2e-3)
            assert f"{error.short_by_m * 1e3:.1f} mm" in str(error)
            found_out.add(pose)


def test_the_error_names_the_joint_that_ends_first() -> None:
    with pytest.raises(
        UnreachableError, match=r"tool at \(0\.0, 100\.0, 110\.0\) mm, tilt 0\.0° is 53\.3 mm out of reach: it needs joint4"
    ):
        solve(ToolPose(0.0, 0.1, 0.11, 0.0, math.pi), HANGING)
    with pytest.raises(UnreachableError, match=r"needs joint5 30\.0° beyond") as caught:
        solve(ToolPose(0.0, 0.1, 0.03, 0.0, math.radians(-60.0)), HANGING)
    assert caught.value.short_by_m == 0.0  # the place is in reach, only the yaw is not


@pytest.mark.parametrize("field", ["x_m", "y_m", "z_m", "tilt_rad", "yaw_rad"])
def test_a_pose_that_is_not_a_number_is_unreachable(field: str) -> None:
    pose = ToolPose(0.0, 0.1, 0.03, 0.0, math.pi)._replace(**{field: math.nan})
    with pytest.raises(UnreachableError):
        solve(pose, HANGING)
