"""The contract that a policy file carries: what goes in, what comes out, and for which robot and task.

It is one JSON document in the ONNX metadata, and the only source of the task's numbers on the robot.
Types only; the values that we train with are in `trainer/spec.py`. SI units, table frame (see `edge.messages`).
"""

from typing import Annotated, Literal, NamedTuple

import msgspec
import numpy as np
from msgspec import Meta, Struct

from edge.errors import PolicyError
from edge.messages import Float32, Intrinsics

SCHEMA_VERSION = 1

Positive = Annotated[float, Meta(gt=0.0)]
Length = Annotated[float, Meta(ge=0.0, le=2.0)]
Point = tuple[float, float, float]


class _Part(Struct, frozen=True, forbid_unknown_fields=True):
    pass


class DepthInput(_Part, frozen=True):
    """How a depth image becomes the network's input: (1, 1, height, width) float32 in [0, 1]."""

    name: str
    near_m: Positive  # maps to 0
    far_m: Positive  # maps to 1; everything beyond is 1
    invalid_value: float  # what a pixel without depth becomes
    max_invalid_fraction: Annotated[float, Meta(ge=0.0, le=1.0)]  # a frame with more is refused


class BlockInput(_Part, frozen=True):
    """How the block's position becomes the network's input: (1, 3) float32 metres, x, y, z of its centre in the table frame."""

    name: str
    min_in_table_m: Point  # a position outside this box is refused
    max_in_table_m: Point


class VirtualCamera(_Part, frozen=True):
    """The camera the policy was trained with: pinhole intrinsics and its pose on the tool."""

    intrinsics: Intrinsics
    transform_camera_to_tool: tuple[tuple[float, float, float, float], ...]  # (4, 4), optical axes: x right, y down, z forward


class ProprioInput(_Part, frozen=True):
    """The vector input (1, n) float32; physical values, normalised inside the graph."""

    name: str
    fields: tuple[str, ...]


class ActionOutput(_Part, frozen=True):
    """The one output (1, n) float32 in [-1, 1]: a move of the tool in the table frame."""

    name: str
    fields: tuple[str, ...]
    scale_m: Positive  # metres for an action of 1


class Episode(_Part, frozen=True):
    """The task: start above the block, descend in fixed steps while the policy centres, then close and lift."""

    steps: Annotated[int, Meta(gt=0, le=10_000)]
    descent_per_step_m: Positive
    start_in_table_m: Point  # tool centre
    yaw_rad: float  # tool yaw during the whole task
    workspace_min_in_table_m: tuple[float, float]  # the tool's x and y stay inside this box,
    workspace_max_in_table_m: tuple[float, float]  # and inside the arm's reach at its height
    spawn_min_in_table_m: tuple[float, float]
    spawn_max_in_table_m: tuple[float, float]
    spawn_yaw_rad: Annotated[float, Meta(ge=0.0)]  # block yaw is uniform in ± this
    block_size_m: Positive
    open_m: Positive
    closed_m: Length  # set point while holding: narrower than the block, so the servo squeezes
    lift_m: Positive
    success_lift_m: Positive
    success_hold_s: Positive


class Rates(_Part, frozen=True):
    """Servo ticks a second, and ticks per policy decision."""

    tick_hz: Positive
    ticks_per_step: Annotated[int, Meta(gt=0, le=1000)]


class Robot(_Part, frozen=True):
    """The arm the policy was trained on."""

    name: str
    joints: tuple[str, ...]
    urdf_sha256: str
    base_height_m: float
    inverted: bool


class Training(_Part, frozen=True):
    """How the policy came to be."""

    commit: str
    algorithm: str
    seed: int
    env_steps: int
    wall_s: float
    randomisation: float  # strength 0…1
    variant: str  # as `Contract.variant`


class Evaluation(_Part, frozen=True):
    """How well it did: measured before export, on fresh seeds."""

    suite: str
    episodes: int
    successes: int
    interval_95: tuple[float, float]  # Wilson score interval of the success rate


class Golden(_Part, frozen=True, omit_defaults=True):
    """Inputs and the action they must give, to within `tolerance`; arrays are zlib-compressed little-endian float32."""

    tolerance: Positive
    depth: bytes | None  # (n, 1, height, width); None where the policy sees the block's position
    proprio: bytes  # (n, n_fields)
    action: bytes  # (n, n_actions)
    count: Annotated[int, Meta(gt=0, le=256)]
    block: bytes | None = None  # (n, 3)


class Sight(NamedTuple):
    """What a policy sees, its first input, whichever it is."""

    field: str  # of the contract, of golden vectors and of the environment's observations: 'depth' or 'block'
    wanted: DepthInput | BlockInput
    shape: tuple[int, ...]  # (height, width), or (3,)
    tensor_shape: tuple[int, ...]  # the same in the graph: (1, 1, height, width), or (1, 3)
    low: Float32  # bounds that values must keep, each broadcast to `shape`
    high: Float32


class Contract(_Part, frozen=True, omit_defaults=True):
    """Everything that a runtime must know, and check, before it lets a policy move an arm."""

    schema_version: int
    depth: DepthInput | None  # of this and `block` exactly one is there
    camera: VirtualCamera  # grasps are verified through it, whatever the policy sees
    proprio: ProprioInput
    action: ActionOutput
    episode: Episode
    rates: Rates
    robot: Robot
    training: Training | None = None
    evaluation: tuple[Evaluation, ...] = ()
    golden: Golden | None = None
    block: BlockInput | None = None

    @property
    def variant(self) -> Literal["depth", "xyz"]:
        """'depth' for a policy that sees depth images, 'xyz' for one that is told where the block is."""
        return "depth" if self.block is None else "xyz"

    @property
    def task(self) -> tuple[object, ...]:
        """What two policies must have in common to take over from each other."""
        return self.episode, self.camera, self.rates, self.robot, self.action, self.proprio, self.depth, self.block

    @property
    def sight(self) -> Sight:
        """The policy's first input; raises `PolicyError` unless exactly one of `depth` and `block` is there."""
        if self.depth is not None and self.block is None:
            shape = (self.camera.intrinsics.height, self.camera.intrinsics.width)
            return Sight("depth", self.depth, shape, (1, 1, *shape), np.zeros(1, np.float32), np.ones(1, np.float32))
        if self.block is not None and self.depth is None:
            low, high = (np.array(corner, np.float32) for corner in (self.block.min_in_table_m, self.block.max_in_table_m))
            return Sight("block", self.block, (3,), (1, 3), low, high)
        found = "neither" if self.depth is None else "both"
        raise PolicyError(f"contract has {found} of depth and block, expected exactly one; export it again")


def decode(document: str | bytes) -> Contract:
    """Parse a contract; raises `msgspec.ValidationError` naming the field, what was found and what was expected."""
    return msgspec.json.decode(document, type=Contract)


def encode(contract: Contract) -> bytes:
    """The canonical JSON of a contract: fields in declaration order, floats as shortest round-trip decimals."""
    return msgspec.json.encode(contract)
