"""The ray caster gives exact depth, and the same images as PyBullet's own software renderer."""

import math
from collections.abc import Iterator

import msgspec
import numpy as np
import pytest

import urdf
from edge import kinematics, robot
from edge.kinematics import Mount
from edge.messages import Intrinsics, JointCommand, ToolPose
from trainer import spec
from trainer.blocks import Block
from trainer.render import BOX, CYLINDER, DepthRenderer, Shape
from trainer.world import World, tip_advance_m

pybullet = pytest.importorskip("pybullet")
bullet_client = pytest.importorskip("pybullet_utils.bullet_client")

CONTRACT = spec.contract()
CAMERA = CONTRACT.camera.intrinsics
MOUNT = Mount(CONTRACT.robot.base_height_m, CONTRACT.robot.inverted)
NEAR_M, FAR_M = 0.02, 2.0  # clipping planes for TinyRenderer
LENS = Intrinsics(65, 49, 60.0, 60.0, 32.0, 24.0)  # its middle pixel looks along the axis


def looking_down(height_m: float, tilt_rad: float = 0.0) -> np.ndarray:
    """transform_camera_to_table: image right is +x, and the camera tilts about it."""
    s, c = math.sin(tilt_rad), math.cos(tilt_rad)
    transform = np.eye(4)
    transform[:3, :3] = np.array([[1.0, 0.0, 0.0], [0.0, -c, s], [0.0, -s, -c]])
    transform[2, 3] = height_m
    return transform


def rays() -> tuple[np.ndarray, np.ndarray]:
    return np.meshgrid((np.arange(LENS.width) - LENS.cx) / LENS.fx, (np.arange(LENS.height) - LENS.cy) / LENS.fy)


def render(camera_to_table: np.ndarray, objects: list[tuple[int, np.ndarray, np.ndarray]], table_m: float = 0.0) -> np.ndarray:
    return DepthRenderer(LENS, np.eye(4)).render(camera_to_table, objects, table_m)


def placed(x_m: float, y_m: float, z_m: float, yaw_rad: float = 0.0) -> np.ndarray:
    transform = np.eye(4)
    transform[:2, :2] = [[math.cos(yaw_rad), -math.sin(yaw_rad)], [math.sin(yaw_rad), math.cos(yaw_rad)]]
    transform[:3, 3] = (x_m, y_m, z_m)
    return transform


# --- exact values


@pytest.mark.parametrize(("height_m", "table_m"), [(0.3, 0.0), (0.05, 0.0), (1e-4, 0.0), (0.3, 0.01), (0.3, -0.01)])
def test_a_table_straight_below_is_as_deep_as_the_camera_is_high(height_m: float, table_m: float) -> None:
    depth_m = render(looking_down(height_m), [], table_m)
    assert depth_m.shape == (LENS.height, LENS.width)
    assert depth_m.dtype == np.float32
    assert (depth_m == np.float32(height_m - table_m)).all()


def test_a_tilted_view_of_the_table_is_the_plane_equation() -> None:
    _, down = rays()
    for tilt_rad in (-0.7, 0.3, 0.5):
        expected = 0.25 / (math.cos(tilt_rad) + down * math.sin(tilt_rad))
        assert render(looking_down(0.25, tilt_rad), []) == pytest.approx(expected, rel=1e-6)


def test_where_a_ray_meets_nothing_there_is_no_depth() -> None:
    _, down = rays()
    level = render(looking_down(0.25, math.pi / 2), [])  # the horizon runs through the middle row
    assert (level[down <= 0.0] == 0.0).all()
    assert (level[down > 0.026] > 0.0).all()
    assert (render(looking_down(0.25, math.pi), []) == 0.0).all()
    assert (render(looking_down(-0.1), []) == 0.0).all()  # the table is behind the camera


def test_a_box_is_seen_where_it_is_and_as_deep_as_it_is() -> None:
    right, down = rays()
    depth_m = render(looking_down(0.2), [(BOX, np.array([0.015, 0.01, 0.02]), placed(0.01, -0.005, 0.02))])
    x_m, y_m = right * 0.16, -down * 0.16  # on the level of its top
    on_top = (abs(x_m - 0.01) < 0.015 - 1e-9) & (abs(y_m + 0.005) < 0.01 - 1e-9)
    assert depth_m[on_top] == pytest.approx(0.16, rel=1e-6)
    beside = (abs(x_m - 0.01) > 0.025) | (abs(y_m + 0.005) > 0.02)
    assert depth_m[beside] == pytest.approx(0.2, rel=1e-6)
    assert on_top.sum() > 50


@pytest.mark.parametrize("kind", [BOX, CYLINDER])
def test_from_inside_a_thing_one_sees_what_is_behind_it(kind: int) -> None:
    around = (kind, np.full(3, 0.03), placed(0.0, 0.0, 0.2))
    assert (render(looking_down(0.2), [around]) == np.float32(0.2)).all()
    overhead = (kind, np.full(3, 0.03), placed(0.0, 0.0, 0.3))
    assert (render(looking_down(0.2), [overhead]) == np.float32(0.2)).all()


def test_a_cylinder_is_seen_where_it_is_and_as_deep_as_it_is() -> None:
    right, down = rays()
    depth_m = render(looking_down(0.2), [(CYLINDER, np.array([0.02, 0.02, 0.02]), placed(0.01, -0.005, 0.02))])
    from_axis_m = np.hypot(right * 0.16 - 0.01, -down * 0.16 + 0.005)
    assert depth_m[from_axis_m < 0.02 - 1e-9] == pytest.approx(0.16, rel=1e-6)
    assert depth_m[from_axis_m > 0.04] == pytest.approx(0.2, rel=1e-6)


def test_a_lying_cylinder_is_round() -> None:
    lying = np.eye(4)
    lying[:3, :3] = [[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]]  # its axis along table x
    lying[2, 3] = 0.03
    depth_m = render(looking_down(0.2), [(CYLINDER, np.array([0.02, 0.02, 0.05]), lying)])
    _, down = rays()
    for row in range(LENS.height):
        slope = down[row, 0]
        # (0.17 - t)² + (slope·t)² = 0.02²: the ray meets the circle around (0, 0.03)
        a, b, c = 1.0 + slope**2, -2.0 * 0.17, 0.17**2 - 0.02**2
        root = b * b - 4.0 * a * c
        expected = (-b - math.sqrt(root)) / (2.0 * a) if root > 0.0 else 0.2
        assert depth_m[row, 32] == pytest.approx(min(expected, 0.2), rel=1e-5)


def test_the_nearest_of_several_things_is_seen_in_any_order() -> None:
    objects = [
        (BOX, np.full(3, 0.015), placed(0.0, 0.0, 0.015, 0.4)),
        (CYLINDER, np.array([0.01, 0.01, 0.05]), placed(0.0, 0.0, 0.05)),
        (BOX, np.array([0.05, 0.002, 0.03]), placed(0.0, 0.0, 0.03, -0.2)),
    ]
    alone = [render(looking_down(0.2, 0.2), [part]) for part in objects]
    for order in ([0, 1, 2], [2, 0, 1], [1, 2, 0]):
        assert np.array_equal(render(looking_down(0.2, 0.2), [objects[i] for i in order]), np.minimum.reduce(alone))


def test_a_half_turn_of_a_box_looks_the_same() -> None:
    half_m = np.array([0.02, 0.01, 0.015])
    one, other = (render(looking_down(0.2, 0.3), [(BOX, half_m, placed(0.01, 0.0, 0.015, yaw))]) for yaw in (0.7, 0.7 + math.pi))
    assert one == pytest.approx(other, abs=1e-6)


def test_own_parts_stay_in_the_picture_wherever_the_camera_goes() -> None:
    renderer = DepthRenderer(LENS, np.eye(4))
    ahead = placed(0.02, 0.0, 0.1)  # in camera coordinates: to the right, 0.1 m ahead
    renderer.see_own_parts([Shape(BOX, np.array([0.005, 0.05, 0.005]), ahead)])
    first, second = renderer.render(looking_down(0.3), []), renderer.render(looking_down(0.5), [])
    own = first < 0.2
    assert own.sum() > 50
    assert np.array_equal(first[own], second[own])
    assert first[own].min() == pytest.approx(0.095)
    assert (renderer.render(looking_down(0.08), [])[own] == np.float32(0.08)).all()  # the table may be nearer
    renderer.see_own_parts([])
    assert (renderer.render(looking_down(0.3), []) == np.float32(0.3)).all()


# --- against PyBullet


class TinyWorld:
    """The same arm, table and block in a PyBullet of its own, seen by its software renderer."""

    def __init__(self) -> None:
        self.client = bullet_client.BulletClient(connection_mode=pybullet.DIRECT)
        self.client.loadURDF(str(urdf.TABLE), useFixedBase=True)
        self.arm = self.client.loadURDF(str(urdf.DOFBOT), (0.0, 0.0, MOUNT.base_height_m), (0.0, 1.0, 0.0, 0.0), useFixedBase=True)
        self.joint = {self.client.getJointInfo(self.arm, i)[1].decode(): i for i in range(self.client.getNumJoints(self.arm))}

    def depth(self, joints: JointCommand, block: Block) -> np.ndarray:
        half_m = joints.opening_m / 2.0
        fingers = {"finger_left": half_m, "finger_right": half_m, "gripper_advance": tip_advance_m(joints.opening_m)}
        for name, value in {**dict(zip(robot.JOINT_NAMES[:5], joints.joints_rad, strict=True)), **fingers}.items():
            self.client.resetJointState(self.arm, self.joint[name], value)
        if block.cylinder:
            shape = self.client.createVisualShape(pybullet.GEOM_CYLINDER, radius=block.size_m[0] / 2.0, length=block.size_m[2])
        else:
            shape = self.client.createVisualShape(pybullet.GEOM_BOX, halfExtents=[s / 2.0 for s in block.size_m])
        turned = self.client.getQuaternionFromEuler((0.0, 0.0, block.yaw_rad))
        body = self.client.createMultiBody(0.0, -1, shape, (block.x_m, block.y_m, block.size_m[2] / 2.0), turned)
        camera = kinematics.transform_tool_to_table(joints, MOUNT) @ np.array(CONTRACT.camera.transform_camera_to_tool)
        eye, ahead, down = camera[:3, 3], camera[:3, 2], camera[:3, 1]
        view = self.client.computeViewMatrix(eye.tolist(), (eye + ahead).tolist(), (-down).tolist())
        opening_deg = math.degrees(2.0 * math.atan(CAMERA.height / 2.0 / CAMERA.fy))
        projection = self.client.computeProjectionMatrixFOV(opening_deg, 1.0, NEAR_M, FAR_M)
        image = self.client.getCameraImage(CAMERA.width, CAMERA.height, view, projection, renderer=pybullet.ER_TINY_RENDERER)[3]
        self.client.removeBody(body)
        z = np.reshape(image, (CAMERA.height, CAMERA.width)).astype(float)
        return FAR_M * NEAR_M / (FAR_M - (FAR_M - NEAR_M) * z)


@pytest.fixture(scope="module")
def tiny() -> Iterator[TinyWorld]:
    world = TinyWorld()
    yield world
    world.client.disconnect()


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """Ours, with pixel centres where TinyRenderer has them: half a pixel to the left and below ours."""
    shifted = CAMERA._replace(cx=CAMERA.cx + 0.5, cy=CAMERA.cy - 0.5)
    world = World(msgspec.structs.replace(CONTRACT, camera=msgspec.structs.replace(CONTRACT.camera, intrinsics=shifted)))
    yield world
    world.close()


@pytest.mark.parametrize(
    ("tool_m", "opening_m", "block"),
    [
        ((0.0, 0.1615, 0.110), 0.060, Block(0.02, 0.12, 0.3)),
        ((0.03, 0.11, 0.045), 0.060, Block(0.02, 0.10, 0.7)),
        ((-0.02, 0.09, 0.020), 0.060, Block(-0.02, 0.09)),
        ((0.0, 0.10, 0.012), 0.030, Block(0.0, 0.10)),
        ((0.0, 0.125, 0.050), 0.030, Block(0.03, 0.14, 0.2, cylinder=True)),
        ((-0.05, 0.12, 0.030), 0.045, Block(-0.02, 0.12, 0.0, (0.040, 0.040, 0.050), cylinder=True)),
        ((0.07, 0.07, 0.035), 0.0, Block(0.05, 0.09, -0.5, (0.02, 0.05, 0.01))),
    ],
    ids=["start", "turned", "above", "held", "cylinder", "wide cylinder", "flat"],
)
def test_images_are_those_of_pybullet(
    tool_m: tuple[float, float, float], opening_m: float, block: Block, world: World, tiny: TinyWorld
) -> None:
    joints = JointCommand(*kinematics.solve(ToolPose(*tool_m, 0.0, CONTRACT.episode.yaw_rad), MOUNT), opening_m)
    world.reset(joints, (block,))
    ours, theirs = world.depth(), tiny.depth(joints, block)
    error_m = np.abs(ours - theirs)
    assert np.median(error_m) < 1e-5
    # On edges a pixel may fall to either side; what is round PyBullet draws with flat faces.
    assert np.mean(error_m > 0.005) < (0.015 if block.cylinder else 0.005)
    assert block.cylinder or np.mean(error_m > 0.0005) < 0.01
    assert np.ptp(ours) > 0.05, "a picture of nothing proves nothing"
    assert ours[ours > 0.0].min() < 0.08, "the fingers are in view"
