"""The models say the same as edge/robot.py, and behave in PyBullet as a gripper must."""

import math
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

import urdf
from edge import kinematics, robot
from edge.kinematics import Mount
from trainer import spec

pybullet = pytest.importorskip("pybullet")
bullet_client = pytest.importorskip("pybullet_utils.bullet_client")

ARM = robot.JOINT_NAMES[:5]
FINGERS = ("finger_left", "finger_right")
MODELS = pytest.mark.parametrize("path", [urdf.DOFBOT, urdf.BLOCK, urdf.TABLE], ids=lambda path: path.stem)
STALL_TORQUE_NM = 15 * 9.81 / 100  # YB-SD15M: 15 kgf·cm
NO_LOAD_RAD_S = math.radians(200)  # YB-SD15M: 0.30 s / 60°


@pytest.fixture(scope="module")
def joints() -> dict[str, ElementTree.Element]:
    return {joint.get("name", ""): joint for joint in ElementTree.parse(urdf.DOFBOT).getroot().iter("joint")}


@pytest.fixture
def client():
    connection = bullet_client.BulletClient(connection_mode=pybullet.DIRECT)
    yield connection
    connection.disconnect()


class Arm:
    """The arm in PyBullet, with joints and links by name."""

    def __init__(self, client, mount: Mount = Mount(0.0, inverted=False)) -> None:  # noqa: B008 - Mount is immutable
        self.client = client
        base = (0, 1, 0, 0) if mount.inverted else (0, 0, 0, 1)
        flags = pybullet.URDF_USE_INERTIA_FROM_FILE
        self.body = client.loadURDF(str(urdf.DOFBOT), (0, 0, mount.base_height_m), base, useFixedBase=True, flags=flags)
        infos = [client.getJointInfo(self.body, index) for index in range(client.getNumJoints(self.body))]
        self.joint = {info[1].decode(): info[0] for info in infos}
        self.link = {info[12].decode(): info[0] for info in infos}

    def set(self, **values: float) -> None:
        for name, value in values.items():
            self.client.resetJointState(self.body, self.joint[name], value)

    def pose(self, link: str) -> np.ndarray:
        """(4, 4) transform_link_to_world."""
        state = self.client.getLinkState(self.body, self.link[link], computeForwardKinematics=True)
        transform = np.eye(4)
        transform[:3, :3] = np.reshape(self.client.getMatrixFromQuaternion(state[5]), (3, 3))
        transform[:3, 3] = state[4]
        return transform


def numbers(element: ElementTree.Element | None, attribute: str) -> np.ndarray:
    assert element is not None
    return np.array([float(value) for value in element.get(attribute, "").split()])


def test_link_offsets_are_those_of_the_kinematics(joints):
    z = {name: numbers(joint.find("origin"), "xyz") for name, joint in joints.items()}
    assert z["joint1"][2] + z["joint2"][2] == pytest.approx(robot.BASE_TO_SHOULDER_M, abs=1e-9)
    assert z["joint3"] == pytest.approx([0, 0, robot.UPPER_ARM_M], abs=1e-9)
    assert z["joint4"] == pytest.approx([0, 0, robot.FOREARM_M], abs=1e-9)
    assert z["joint5"] == pytest.approx([0, 0, robot.WRIST_TO_JOINT5_M], abs=1e-9)
    assert z["joint5"][2] + z["tool_mount"][2] == pytest.approx(robot.WRIST_TO_TOOL_M, abs=1e-9)


def test_joint_limits_are_those_of_the_kinematics(joints):
    limits = {name: joint.find("limit") for name, joint in joints.items()}
    for name, low, high in zip(ARM, robot.POSITION_MIN_RAD, robot.POSITION_MAX_RAD, strict=True):
        assert numbers(limits[name], "lower") == pytest.approx(low, abs=1e-8)
        assert numbers(limits[name], "upper") == pytest.approx(high, abs=1e-8)
        assert numbers(limits[name], "effort") == pytest.approx(STALL_TORQUE_NM, rel=0.01)
        assert numbers(limits[name], "velocity") == pytest.approx(NO_LOAD_RAD_S, rel=0.01)
        assert numbers(limits[name], "velocity") > robot.VELOCITY_MAX_RAD_S
    assert sum(numbers(limits[name], "upper")[0] for name in FINGERS) == pytest.approx(robot.OPENING_MAX_M)
    assert numbers(limits["gripper_advance"], "lower") == pytest.approx(min(robot.TIP_ADVANCE_M))
    assert numbers(limits["gripper_advance"], "upper") == pytest.approx(max(robot.TIP_ADVANCE_M))


@pytest.mark.parametrize("mount", [Mount(0.388, inverted=True), Mount(0.0, inverted=False)], ids=["inverted", "upright"])
def test_tool_frame_is_where_the_kinematics_say(client, mount):
    arm = Arm(client, mount)
    corners = [robot.POSITION_MIN_RAD, robot.POSITION_MAX_RAD, (0.0,) * 5]
    inside = np.random.default_rng(0).uniform(robot.POSITION_MIN_RAD, robot.POSITION_MAX_RAD, (40, 5)).tolist()
    for angles in (*corners, *inside):
        arm.set(**dict(zip(ARM, angles, strict=True)))
        assert arm.pose("tool") == pytest.approx(kinematics.transform_tool_to_table(angles, mount), abs=1e-6)


def test_all_frames_are_parallel_to_the_base_with_joints_at_zero(client):
    arm = Arm(client)
    for link in ("link1", "link2", "link3", "link4", "link5", "tool", "gripper_carriage", "finger_left_pad", "finger_right_pad"):
        assert arm.pose(link)[:3, :3] == pytest.approx(np.eye(3), abs=1e-9)


def test_camera_frame_is_that_of_the_contract(client):
    arm = Arm(client)
    arm.set(joint1=0.3, joint2=0.4, joint3=-0.5, joint4=0.6, joint5=0.7, gripper_advance=-0.02)
    assert np.linalg.inv(arm.pose("tool")) @ arm.pose("camera") == pytest.approx(spec.camera_to_tool(), abs=1e-6)


@pytest.mark.parametrize("opening_m", np.linspace(0.0, robot.OPENING_MAX_M, 5))
@pytest.mark.parametrize("advance_m", [-0.0213, 0.0, 0.0091])
def test_pads_are_an_opening_apart_and_end_at_the_advance(client, opening_m, advance_m):
    arm = Arm(client)
    arm.set(finger_left=opening_m / 2, finger_right=opening_m / 2, gripper_advance=advance_m)
    tool_m = arm.pose("tool")[:3, 3]
    inner_m = []
    for finger, side in (("finger_left_pad", 1), ("finger_right_pad", -1)):
        (shape,) = client.getCollisionShapeData(arm.body, arm.link[finger])
        size_m = np.array(shape[3])
        in_link_m, _ = client.multiplyTransforms(*client.getDynamicsInfo(arm.body, arm.link[finger])[3:5], shape[5], shape[6])
        centre_m = arm.pose(finger)[:3, 3] + in_link_m - tool_m
        assert centre_m[2] + size_m[2] / 2 == pytest.approx(advance_m, abs=1e-6)
        assert centre_m[1] == pytest.approx(0.0, abs=1e-6)
        inner_m.append(side * centre_m[0] - size_m[0] / 2)
    assert inner_m == pytest.approx([opening_m / 2] * 2, abs=1e-6)


def test_only_the_pads_collide(client):
    arm = Arm(client)
    links = range(-1, client.getNumJoints(arm.body))
    assert {link for link in links if client.getCollisionShapeData(arm.body, link)} == {arm.joint[name] for name in FINGERS}


def test_every_inertia_is_that_of_a_possible_solid():
    links = [*ElementTree.parse(urdf.DOFBOT).getroot().iter("link"), *ElementTree.parse(urdf.BLOCK).getroot().iter("link")]
    for link in links:
        inertia = link.find("inertial/inertia")
        assert inertia is not None, f"{link.get('name')} has none, PyBullet would give it 1 kg"
        xx, yy, zz, xy, xz, yz = (float(inertia.get(key)) for key in ("ixx", "iyy", "izz", "ixy", "ixz", "iyz"))
        moments = np.linalg.eigvalsh([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
        assert moments[0] > 0.0, link.get("name")
        assert moments[2] <= (moments[0] + moments[1]) * 1.01, f"{link.get('name')}: no solid has these moments"
        assert numbers(link.find("inertial/mass"), "value") > 0.0


def test_block_is_a_cube_of_30_mm_and_30_g(client):
    block = client.loadURDF(str(urdf.BLOCK))
    assert client.getCollisionShapeData(block, -1)[0][3] == pytest.approx([0.030] * 3)
    assert client.getVisualShapeData(block)[0][3] == pytest.approx([0.030] * 3)
    mass_kg, _, inertia = client.getDynamicsInfo(block, -1)[:3]
    assert mass_kg == pytest.approx(0.030)
    assert inertia == pytest.approx([mass_kg * 0.030**2 / 6] * 3)


def test_block_on_the_table_touches_without_sinking_in(client):
    table = client.loadURDF(str(urdf.TABLE))
    client.loadURDF(str(urdf.BLOCK), (0.0, 0.1, 0.015))
    client.performCollisionDetection()
    assert [contact[8] for contact in client.getClosestPoints(0, 1, 0.01)] == pytest.approx([0.0], abs=1e-6)
    assert client.getDynamicsInfo(table, -1)[0] == 0.0, "the table must not fall"


def test_squeezed_block_stays_in_the_hand(client):
    """Without friction anchors on the pads it creeps out at about 1 mm/s."""
    client.setGravity(0, 0, -9.81)
    arm = Arm(client, Mount(0.388, inverted=True))
    arm.set(**dict(zip(ARM, np.radians([0.0, 50.0, 60.0, -110.0, 0.0]), strict=True)), finger_left=0.0155, finger_right=0.0155)
    x, y, z = arm.pose("tool")[:3, 3]
    block = client.loadURDF(str(urdf.BLOCK), (x, y, z + 0.010))
    for name, index in arm.joint.items():
        client.setJointMotorControl2(arm.body, index, pybullet.POSITION_CONTROL, client.getJointState(arm.body, index)[0], force=100)
        if name in FINGERS:
            client.setJointMotorControl2(arm.body, index, pybullet.POSITION_CONTROL, 0.010, force=9.8, maxVelocity=0.05)
    gear = client.createConstraint(
        arm.body, arm.joint["finger_left"], arm.body, arm.joint["finger_right"], pybullet.JOINT_GEAR, (1, 0, 0), (0, 0, 0), (0, 0, 0)
    )
    client.changeConstraint(gear, gearRatio=-1, erp=0.5, maxForce=100)
    places_m = []
    for _ in range(2):
        for _ in range(240):
            client.stepSimulation()
        places_m.append(client.getBasePositionAndOrientation(block)[0])
    assert places_m[0] == pytest.approx([x, y, z + 0.010], abs=2e-3)
    assert places_m[1] == pytest.approx(places_m[0], abs=5e-5)


@MODELS
def test_loads_without_a_word(path):
    code = (
        "import pybullet; pybullet.connect(pybullet.DIRECT); print('LOADING', flush=True);"
        f"pybullet.loadURDF({str(path)!r}, useFixedBase=True)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout.split("LOADING", 1)[1].strip() == ""
    assert "arning" not in result.stderr, result.stderr
