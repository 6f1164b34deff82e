"""The simulated desk: arm, block and table in PyBullet, servos that lag, a wrist depth camera.

Everything here is simulated. The arm is driven like the real one, by servo set points at the tick rate.
"""

from dataclasses import dataclass

import numpy as np

import urdf
from edge import kinematics, robot
from edge.contract import Contract
from edge.errors import MissingExtraError
from edge.kinematics import Mount
from edge.messages import Float32, Float64, JointCommand
from trainer.blocks import Block, Blocks
from trainer.quiet import quiet
from trainer.render import BOX, CYLINDER, DepthRenderer, Shape
from trainer.sensors import offset
from trainer.servo_model import ServoModel, ServoQuirks

try:
    with quiet():
        import pybullet as bullet
        from pybullet_utils.bullet_client import BulletClient
except ModuleNotFoundError:
    raise MissingExtraError("pybullet", "sim") from None

PHYSICS_HZ = 250.0  # 5 steps a servo tick; PyBullet's default is 240, which 50 Hz does not divide
SERVO_TORQUE_NM = 1.47  # YB-SD15M: 15 kgf·cm stall
MOTOR_GAIN = 0.5  # of a joint's error to its servo shaft, taken out each physics step: stiff, as a gear is
FINGER_FORCE_N = 9.8  # 6 kgf·cm gripper servo at a 30 mm crank, shared by two fingers
FINGER_SPEED_M_S = 0.05  # each; half of what a servo of 200°/s gives at a 30 mm crank
CLEARANCE_M = 0.001  # open finger tips higher than this over the block's top cannot touch it


@dataclass(frozen=True)
class Quirks:
    """How one arm, its camera and its desk differ from the model; the defaults: not at all."""

    servos: ServoQuirks = ServoQuirks()
    table_m: float = 0.0  # height of the table's top
    camera_shift_m: tuple[float, ...] = (0.0, 0.0, 0.0)  # in the camera's own frame
    camera_turn_rad: tuple[float, ...] = (0.0, 0.0, 0.0)  # rotation vector in the camera's own frame
    focal_scale: float = 1.0
    centre_px: tuple[float, ...] = (0.0, 0.0)


NO_QUIRKS = Quirks()


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
        with quiet():
            self._bullet = BulletClient(connection_mode=bullet.DIRECT)
        client = self._bullet
        client.setGravity(0.0, 0.0, -9.81)
        client.setPhysicsEngineParameter(fixedTimeStep=1.0 / PHYSICS_HZ, numSolverIterations=30, deterministicOverlappingPairs=1)
        self._table = client.loadURDF(str(urdf.TABLE), useFixedBase=True)
        self._table_origin_m = client.getBasePositionAndOrientation(self._table)[0]
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
        self._blocks = Blocks(client)
        self._own_parts = self._primitives_on_tool()
        self.camera = contract.camera  # another one is there from the next reset on
        self._servos = ServoModel()
        self._become(Quirks())

    def reset(self, joints: JointCommand, blocks: tuple[Block, ...], quirks: Quirks = NO_QUIRKS) -> None:
        """Put the arm at rest at a set of set points, and blocks on the table; `quirks` last until the next reset."""
        self._become(quirks)
        self._servos.reset(joints, quirks.servos)
        self._put_joints(self._servos.joints())
        self.place_blocks(blocks)

    def place_blocks(self, blocks: tuple[Block, ...]) -> None:
        """Exactly these blocks on the table, at rest, while the gripper is clear of them."""
        self._blocks.place(blocks, self.quirks.table_m)
        self._touchable = self._always_step

    def drive(self, command: JointCommand) -> None:
        """New servo set points: what the servos move towards until the next ones come."""
        self._servos.drive(command)

    def step(self, duration_s: float) -> None:
        """Let time pass, a whole number of physics steps."""
        self.now_s += duration_s
        self._servos.step(duration_s)
        if not self._touchable:
            if not self._can_touch():
                return
            self._put_joints(self._servos.joints())
            self._touchable = True
        self._set_motors()
        for _ in range(round(duration_s * PHYSICS_HZ)):
            self._bullet.stepSimulation()

    def _can_touch(self) -> bool:
        """Whether the fingers begin to close, or their tips come down to the block."""
        joints = self._servos.joints()
        top_m = self.quirks.table_m + self._blocks.tallest_m()
        tip_m = kinematics.tool_height_m(joints, self.mount) - tip_advance_m(robot.OPENING_MAX_M)
        return joints.opening_m < robot.OPENING_MAX_M or tip_m < top_m + CLEARANCE_M

    def _become(self, quirks: Quirks) -> None:
        """This arm, this camera, this desk from now on."""
        self.quirks = quirks
        x_m, y_m, z_m = self._table_origin_m
        self._bullet.resetBasePositionAndOrientation(self._table, (x_m, y_m, z_m + quirks.table_m), (0, 0, 0, 1))
        model = self.camera.intrinsics
        intrinsics = model._replace(
            fx=model.fx * quirks.focal_scale,
            fy=model.fy * quirks.focal_scale,
            cx=model.cx + quirks.centre_px[0],
            cy=model.cy + quirks.centre_px[1],
        )
        pose = np.array(self.camera.transform_camera_to_tool) @ offset(quirks.camera_shift_m, quirks.camera_turn_rad)
        self.renderer = DepthRenderer(intrinsics, pose)
        self._drawn_opening_m = -1.0

    def _put_joints(self, joints: JointCommand) -> None:
        reset = self._bullet.resetJointState
        for index, angle_rad in zip(self._driven, joints.joints_rad, strict=True):
            reset(self._arm, index, angle_rad)
        half_m = joints.opening_m / 2.0
        for index, value_m in zip(self._gripper, (half_m, half_m, tip_advance_m(joints.opening_m)), strict=True):
            reset(self._arm, index, value_m)

    def _set_motors(self) -> None:
        motor = self._bullet.setJointMotorControl2
        joints = self._servos.joints()
        for index, angle_rad in zip(self._driven, joints.joints_rad, strict=True):
            motor(self._arm, index, bullet.POSITION_CONTROL, angle_rad, positionGain=MOTOR_GAIN, force=SERVO_TORQUE_NM)
        half_m = joints.opening_m / 2.0
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

    @property
    def table_m(self) -> float:
        """Height of the table's top."""
        return self.quirks.table_m

    def opening_m(self) -> float:
        """Distance between the finger pads."""
        if not self._touchable:
            return self._servos.joints().opening_m
        left, right = self._bullet.getJointStates(self._arm, self._gripper[:2])
        return float(left[0] + right[0])

    def joints(self) -> JointCommand:
        """Where the arm really is: five joint angles and the opening."""
        if not self._touchable:
            return self._servos.joints()
        states = self._bullet.getJointStates(self._arm, self._driven)
        return JointCommand._make((*(state[0] for state in states), self.opening_m()))

    def block_in_table(self, index: int = 0) -> Float64:
        """(4, 4) transform_block_to_table."""
        return self._blocks.transform_block_to_table(index)

    def touches(self, index: int = 0) -> tuple[bool, bool]:
        """Whether the left and the right finger touch a block."""
        links = self._blocks.touching_links(index, self._arm)
        return self._joint["finger_left"] in links, self._joint["finger_right"] in links

    def depth(self, joints: JointCommand | None = None) -> Float32:
        """(height, width) float32 metres from the wrist camera, without noise.

        Of the scene as it is now, or with the arm at `joints`: an image that was taken a little earlier.
        """
        joints = joints or self.joints()
        if abs(joints.opening_m - self._drawn_opening_m) > 2e-4:  # a fifth of a pixel at the nearest
            self.renderer.see_own_parts(self._own_shapes(joints.opening_m))
            self._drawn_opening_m = joints.opening_m
        tool = kinematics.transform_tool_to_table(joints, self.mount)
        return self.renderer.render(tool, self.drawn(), self.quirks.table_m)

    def transform_camera_to_table(self) -> Float64:
        """(4, 4) pose of the wrist camera, where it really is."""
        tool_to_table = kinematics.transform_tool_to_table(self.joints(), self.mount)
        return np.asarray(tool_to_table @ self.renderer.transform_camera_to_tool, np.float64)

    def drawn(self) -> list[tuple[int, Float64, Float64]]:
        """(kind, half size, transform_block_to_table) of each block."""
        return self._blocks.drawn()

    def picture(self, width: int, height: int, eye_m: tuple[float, float, float], target_m: tuple[float, float, float]) -> np.ndarray:
        """(height, width, 3) uint8 of the whole scene from outside, by PyBullet's software renderer."""
        if not self._touchable:
            self._put_joints(self._servos.joints())
        client = self._bullet
        view = client.computeViewMatrix(eye_m, target_m, (0, 0, 1))
        projection = client.computeProjectionMatrixFOV(45.0, width / height, 0.05, 3.0)
        _, _, rgba, _, _ = client.getCameraImage(
            width,
            height,
            view,
            projection,
            lightDirection=(-0.3, 0.5, 1.5),
            shadow=1,
            renderer=bullet.ER_TINY_RENDERER,
            flags=bullet.ER_NO_SEGMENTATION_MASK,
        )
        return np.reshape(np.asarray(rgba, dtype=np.uint8), (height, width, 4))[..., :3]

    def close(self) -> None:
        """Free the physics server; once more does nothing."""
        if self._bullet.isConnected():
            self._bullet.disconnect()

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
