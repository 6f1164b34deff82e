"""The simulated desk: arm, block and table in PyBullet, servos that lag, a wrist depth camera.

Everything here is simulated. The arm is driven like the real one, by servo set points at the tick rate.
"""

import math
from dataclasses import dataclass

import numpy as np

import urdf
from edge import kinematics, robot
from edge.contract import Contract
from edge.errors import MissingExtraError
from edge.kinematics import Mount
from edge.messages import Float32, Float64, JointCommand
from trainer.render import BOX, CYLINDER, DepthRenderer, Shape

try:
    import pybullet as bullet
    from pybullet_utils.bullet_client import BulletClient
except ModuleNotFoundError:
    raise MissingExtraError("pybullet", "sim") from None

PHYSICS_HZ = 250.0  # 5 steps a servo tick; PyBullet's default is 240, which 50 Hz does not divide
SERVO_SPEED_RAD_S = math.radians(200.0)  # YB-SD15M product sheet: 0.30 s / 60°, without load
SERVO_LAG_S = 0.04  # first-order lag behind the set point; JIM saw 5-15 mrad residual while moving, no sheet gives it
SERVO_TORQUE_NM = 1.47  # YB-SD15M: 15 kgf·cm stall
MOTOR_GAIN = 0.5  # of a joint's error to its servo shaft, taken out each physics step: stiff, as a gear is
FINGER_FORCE_N = 9.8  # 6 kgf·cm gripper servo at a 30 mm crank, shared by two fingers
FINGER_SPEED_M_S = 0.05  # each; half of what a servo of 200°/s gives at a 30 mm crank
CLEARANCE_M = 0.001  # open finger tips higher than this over the block's top cannot touch it


@dataclass(frozen=True)
class Block:
    """A block on the table: a box, or an upright cylinder (size_m = diameter, diameter, height)."""

    x_m: float
    y_m: float
    yaw_rad: float = 0.0
    size_m: tuple[float, float, float] = (0.030, 0.030, 0.030)
    mass_kg: float = 0.030  # 30 mm of beech: 0.7 g/cm³ is 19 g, of plastic 32 g
    friction: float = 0.8
    cylinder: bool = False


class World:
    """One arm, one block, one table. Time moves only in `step`.

    The servo shafts follow their set points with a lag and a top speed. While nothing can be touched the joints are
    where the shafts are, and physics rests; from the first possible contact on, motors of limited force drive
    the joints to the shafts and every physics step is taken. `always_step` takes them all (a test compares both).
    """

    def __init__(self, contract: Contract, always_step: bool = False) -> None:
        self._always_step = always_step
        self.mount = Mount(contract.robot.base_height_m, contract.robot.inverted)
        self.now_s = 0.0
        self._bullet = BulletClient(connection_mode=bullet.DIRECT)
        client = self._bullet
        client.setGravity(0.0, 0.0, -9.81)
        client.setPhysicsEngineParameter(fixedTimeStep=1.0 / PHYSICS_HZ, numSolverIterations=30, deterministicOverlappingPairs=1)
        client.loadURDF(str(urdf.TABLE), useFixedBase=True)
        base = (0.0, 1.0, 0.0, 0.0) if self.mount.inverted else (0.0, 0.0, 0.0, 1.0)  # x, y, z, w: half a turn about y
        self._arm = client.loadURDF(
            str(urdf.DOFBOT), (0.0, 0.0, self.mount.base_height_m), base, useFixedBase=True, flags=bullet.URDF_USE_INERTIA_FROM_FILE
        )
        self._joint = {client.getJointInfo(self._arm, i)[1].decode(): i for i in range(client.getNumJoints(self._arm))}
        self._links = {client.getJointInfo(self._arm, i)[12].decode(): i for i in range(client.getNumJoints(self._arm))}
        self._driven = [self._joint[name] for name in robot.JOINT_NAMES[:5]]
        self._gripper = [self._joint[name] for name in ("finger_left", "finger_right", "gripper_advance")]
        # One servo moves both fingers: gear them, or two motors squeezing a block drift sideways with it.
        gear = client.createConstraint(
            self._arm, self._gripper[0], self._arm, self._gripper[1], bullet.JOINT_GEAR, (1, 0, 0), (0, 0, 0), (0, 0, 0)
        )
        client.changeConstraint(gear, gearRatio=-1, erp=0.5, maxForce=100)
        self._block_shape: Block | None = None
        self._block = -1
        self._own_parts = self._primitives_on_tool()
        self._drawn_opening_m = -1.0
        self.renderer = DepthRenderer(contract.camera.intrinsics, np.array(contract.camera.transform_camera_to_tool))

    def reset(self, joints: JointCommand, block: Block | None) -> None:
        """Put the arm at rest at a joint set, and one block on the table."""
        self._shafts = self._set_points = joints
        self._put_joints(joints)
        self._touchable = self._always_step
        self.place_block(block)

    def place_block(self, block: Block | None) -> None:
        """Put a block on the table at rest; None takes it away."""
        client = self._bullet
        if block is None:
            if self._block >= 0:
                client.resetBasePositionAndOrientation(self._block, (1.0, 1.0, -1.0), (0, 0, 0, 1))
            return
        if self._block < 0 or self._block_shape is None or _shape(self._block_shape) != _shape(block):
            self._build(block)
        position = (block.x_m, block.y_m, block.size_m[2] / 2.0)
        client.resetBasePositionAndOrientation(self._block, position, client.getQuaternionFromEuler((0, 0, block.yaw_rad)))
        client.resetBaseVelocity(self._block, (0, 0, 0), (0, 0, 0))
        self._block_shape = block

    def drive(self, command: JointCommand) -> None:
        """New servo set points: what the servos move towards until the next ones come."""
        self._set_points = command

    def step(self, duration_s: float) -> None:
        """Let one servo tick pass."""
        self.now_s += duration_s
        part, reach_rad = 1.0 - math.exp(-duration_s / SERVO_LAG_S), SERVO_SPEED_RAD_S * duration_s
        moves = [(goal - shaft) * part for goal, shaft in zip(self._set_points[:5], self._shafts[:5], strict=True)]
        angles_rad = [shaft + max(-reach_rad, min(reach_rad, move)) for shaft, move in zip(self._shafts, moves, strict=False)]
        self._shafts = JointCommand._make((*angles_rad, self._set_points.opening_m))
        if not self._touchable:
            if not self._can_touch():
                return
            self._put_joints(self._shafts)
            self._touchable = True
        self._set_motors()
        for _ in range(round(duration_s * PHYSICS_HZ)):
            self._bullet.stepSimulation()

    def _can_touch(self) -> bool:
        """Whether the fingers begin to close, or their tips come down to the block."""
        if self._set_points.opening_m < robot.OPENING_MAX_M:
            return True
        top_m = self._block_shape.size_m[2] if self._block_shape else 0.0
        tip_m = kinematics.tool_height_m(self._shafts, self.mount) - tip_advance_m(robot.OPENING_MAX_M)
        return tip_m < top_m + CLEARANCE_M

    def _put_joints(self, joints: JointCommand) -> None:
        reset = self._bullet.resetJointState
        for index, angle_rad in zip(self._driven, joints.joints_rad, strict=True):
            reset(self._arm, index, angle_rad)
        half_m = joints.opening_m / 2.0
        for index, value_m in zip(self._gripper, (half_m, half_m, tip_advance_m(joints.opening_m)), strict=True):
            reset(self._arm, index, value_m)

    def _set_motors(self) -> None:
        motor = self._bullet.setJointMotorControl2
        for index, angle_rad in zip(self._driven, self._shafts.joints_rad, strict=True):
            motor(self._arm, index, bullet.POSITION_CONTROL, angle_rad, positionGain=MOTOR_GAIN, force=SERVO_TORQUE_NM)
        half_m = self._shafts.opening_m / 2.0
        for index in self._gripper[:2]:
            motor(
                self._arm,
                index,
                bullet.POSITION_CONTROL,
                half_m,
                positionGain=MOTOR_GAIN,
                force=FINGER_FORCE_N,
                maxVelocity=FINGER_SPEED_M_S,
            )
        # The linkage: finger tips move ahead as the opening gets smaller. Nothing but the linkage holds them, so it is strong.
        motor(self._arm, self._gripper[2], bullet.POSITION_CONTROL, tip_advance_m(self.opening_m()), positionGain=MOTOR_GAIN, force=100.0)

    def opening_m(self) -> float:
        """Distance between the finger pads."""
        if not self._touchable:
            return self._shafts.opening_m
        left, right = self._bullet.getJointStates(self._arm, self._gripper[:2])
        return float(left[0] + right[0])

    def joints(self) -> JointCommand:
        """Where the arm really is: five joint angles and the opening."""
        if not self._touchable:
            return self._shafts
        states = self._bullet.getJointStates(self._arm, self._driven)
        return JointCommand._make((*(state[0] for state in states), self.opening_m()))

    def block_in_table(self) -> Float64:
        """(4, 4) transform_block_to_table."""
        position, quaternion = self._bullet.getBasePositionAndOrientation(self._block)
        transform = np.eye(4)
        transform[:3, :3] = np.reshape(self._bullet.getMatrixFromQuaternion(quaternion), (3, 3))
        transform[:3, 3] = position
        return transform

    def touches(self) -> tuple[bool, bool]:
        """Whether the left and the right finger touch the block."""
        links = {contact[3] for contact in self._bullet.getContactPoints(self._arm, self._block)}
        return self._joint["finger_left"] in links, self._joint["finger_right"] in links

    def depth(self) -> Float32:
        """(height, width) float32 metres from the wrist camera, of the scene as it is now; no noise."""
        joints = self.joints()
        if abs(joints.opening_m - self._drawn_opening_m) > 2e-4:  # a fifth of a pixel at the nearest
            self.renderer.see_own_parts(self._own_shapes(joints.opening_m))
            self._drawn_opening_m = joints.opening_m
        tool = kinematics.transform_tool_to_table(joints, self.mount)
        return self.renderer.render(tool, self._objects())

    def picture(self, width: int, height: int, eye_m: tuple[float, float, float], target_m: tuple[float, float, float]) -> np.ndarray:
        """(height, width, 3) uint8 of the whole scene from outside, by PyBullet's software renderer."""
        if not self._touchable:
            self._put_joints(self._shafts)
        client = self._bullet
        view = client.computeViewMatrix(eye_m, target_m, (0, 0, 1))
        projection = client.computeProjectionMatrixFOV(45.0, width / height, 0.05, 3.0)
        _, _, rgba, _, _ = client.getCameraImage(
            width,
            height,
            view,
            projection,
            lightDirection=(0.6, 0.6, 1.5),
            renderer=bullet.ER_TINY_RENDERER,
            flags=bullet.ER_NO_SEGMENTATION_MASK,
        )
        return np.reshape(np.asarray(rgba, dtype=np.uint8), (height, width, 4))[..., :3]

    def close(self) -> None:
        """Free the physics server."""
        self._bullet.disconnect()

    def _objects(self) -> list[tuple[int, Float64, Float64]]:
        block = self._block_shape
        if self._block < 0 or block is None:
            return []
        kind = CYLINDER if block.cylinder else BOX
        return [(kind, np.array(block.size_m) / 2.0, self.block_in_table())]

    def _build(self, block: Block) -> None:
        client = self._bullet
        if self._block >= 0:
            client.removeBody(self._block)
        half_m = [s / 2.0 for s in block.size_m]
        if block.cylinder:
            collision = client.createCollisionShape(bullet.GEOM_CYLINDER, radius=half_m[0], height=block.size_m[2])
            visual = client.createVisualShape(bullet.GEOM_CYLINDER, radius=half_m[0], length=block.size_m[2], rgbaColor=(0.85, 0.3, 0.1, 1))
        else:
            collision = client.createCollisionShape(bullet.GEOM_BOX, halfExtents=half_m)
            visual = client.createVisualShape(bullet.GEOM_BOX, halfExtents=half_m, rgbaColor=(0.85, 0.3, 0.1, 1))
        self._block = client.createMultiBody(block.mass_kg, collision, visual)
        client.changeDynamics(
            self._block,
            -1,
            lateralFriction=block.friction,
            spinningFriction=0.001,
            rollingFriction=0.0001,
            linearDamping=0.0,
            angularDamping=0.0,
        )

    def _primitives_on_tool(self) -> list[tuple[str, Shape]]:
        """Visual boxes and cylinders of the links that move with the camera, as (link, shape in that link's frame)."""
        names = {index: name for name, index in self._links.items()}
        parts = []
        for shape in self._bullet.getVisualShapeData(self._arm):
            link = names.get(shape[1], "base_link")
            if link not in ("link5", "finger_left_pad", "finger_right_pad"):
                continue
            size = np.array(shape[3], dtype=float)
            is_box = shape[2] == bullet.GEOM_BOX
            half = size / 2.0 if is_box else np.array([size[1], size[1], size[0] / 2.0])  # PyBullet: (length, radius)
            transform = np.eye(4)
            transform[:3, :3] = np.reshape(self._bullet.getMatrixFromQuaternion(shape[6]), (3, 3))
            transform[:3, 3] = shape[5]
            parts.append((link, Shape(BOX if is_box else CYLINDER, half, transform)))
        return parts

    def _own_shapes(self, opening_m: float) -> list[Shape]:
        """The primitives in the tool frame for a gripper opening."""
        shapes = []
        for link, part in self._own_parts:
            moved = np.eye(4)
            if link == "link5":
                moved[2, 3] = -(robot.WRIST_TO_TOOL_M - robot.WRIST_TO_JOINT5_M)
            else:
                moved[0, 3] = opening_m / 2.0 if link == "finger_left_pad" else -opening_m / 2.0
                moved[2, 3] = tip_advance_m(opening_m)
            shapes.append(part._replace(transform_shape_to_tool=moved @ part.transform_shape_to_tool))
        return shapes


def tip_advance_m(opening_m: float) -> float:
    """How far the finger tips are ahead of the tool centre at an opening: the gripper's linkage."""
    return float(np.interp(opening_m, robot.TIP_ADVANCE_OPENING_M, robot.TIP_ADVANCE_M))


def _shape(block: Block) -> tuple[object, ...]:
    return block.size_m, block.mass_kg, block.friction, block.cylinder
