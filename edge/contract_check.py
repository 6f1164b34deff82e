"""What must hold before a policy may move this arm; each broken rule is one sentence: field, found, expected, remedy."""

import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import msgspec
import numpy as np

from edge import robot
from edge.config import MountConfig
from edge.contract import SCHEMA_VERSION, Contract, VirtualCamera, decode
from edge.errors import PolicyError
from edge.messages import Intrinsics
from edge.observation import GRIP_PX, tool_in_camera_m
from edge.safety import DOFBOT_LIMITS
from edge.task import PHASE_LIMIT_S

# What `edge.observation.proprio_input` gives, in order.
PROPRIO_FIELDS = ("tool_x_m", "tool_y_m", "tool_z_m", "steps_left", "moved_x_m", "moved_y_m")
ACTION_FIELDS = ("delta_x", "delta_y")  # what `edge.task` takes, in order
HEIGHT_TOLERANCE_M = 1e-3  # a ruler's; the gripper's own tolerance in height is several times this
GOLDEN_TOLERANCE_MAX = 1e-3  # 10 µm of motion at 10 mm an action; a wider one would no longer test the graph
CAMERA_DISTANCE_MAX_M = 0.3  # a wrist camera further from the tool than the arm is long is a unit mistake

# No pose of this arm moves the tool faster: top joint speed at full reach from the shoulder.
TOOL_SPEED_MAX_M_S = robot.VELOCITY_MAX_RAD_S * (robot.UPPER_ARM_M + robot.FOREARM_M + robot.WRIST_TO_TOOL_M)

EXPORT_AGAIN = "export it again with this version of dofbot-grasp"
TRAIN_AGAIN = "use a policy trained for this robot"

Tensors = Mapping[str, tuple[str, tuple[object, ...]]]  # name → (onnxruntime's type name, shape)


class Expectation(NamedTuple):
    """What this robot is, for comparison with what the policy was trained on."""

    mount: MountConfig
    urdf_sha256: str | None = None  # None: not compared
    tick_hz: float = 50.0  # analogue servos take a pulse every 20 ms
    robot_name: str = "dofbot"


class _Rule(NamedTuple):
    field: str
    holds: bool
    found: object
    expected: str
    remedy: str = EXPORT_AGAIN


class _Version(msgspec.Struct):
    schema_version: int


def parse(document: str) -> Contract:
    """The contract in a policy file's metadata; raises `PolicyError` naming the field, what was found and expected."""
    try:
        version = msgspec.json.decode(document, type=_Version).schema_version
    except (msgspec.DecodeError, RecursionError) as error:
        raise PolicyError(
            f"contract is not readable ({error}), expected JSON with schema_version {SCHEMA_VERSION}; {EXPORT_AGAIN}"
        ) from None
    # First, because another version's fields would be reported as missing or unknown.
    _enforce(iter([_Rule("schema_version", version == SCHEMA_VERSION, version, f"{SCHEMA_VERSION}")]))
    try:
        contract = decode(document)
    except msgspec.ValidationError as error:
        raise PolicyError(f"contract {_located(str(error), json.loads(document))}; {EXPORT_AGAIN}") from None
    _ = contract.sight  # raises unless there is exactly one
    return contract


def check_contract(contract: Contract, expected: Expectation | None) -> None:
    """Raise `PolicyError` for the first rule the contract breaks, by itself or against this robot."""
    _enforce(_sight_rules(contract))
    _enforce(_task_rules(contract))
    _enforce(_record_rules(contract))
    if expected is not None:
        _enforce(_robot_rules(contract, expected))


def check_graph(contract: Contract, inputs: Tensors, outputs: Tensors) -> None:
    """Raise `PolicyError` unless the graph has exactly the tensors that the contract names."""
    sight, proprio, action = contract.sight, contract.proprio, contract.action
    shape_field = "block" if contract.depth is None else "camera.intrinsics"
    _enforce(_tensor_rules(f"{sight.field}.name", sight.wanted.name, inputs, shape_field, sight.tensor_shape))
    _enforce(_tensor_rules("proprio.name", proprio.name, inputs, "proprio.fields", (1, len(proprio.fields))))
    _enforce(_tensor_rules("action.name", action.name, outputs, "action.fields", (1, len(action.fields))))
    names = (sorted(inputs), sorted(outputs))
    wanted = (sorted((sight.wanted.name, proprio.name)), [action.name])
    _enforce(iter([_Rule("inputs and outputs", names == wanted, names, f"{wanted}")]))


def check_camera(contract: Contract, intrinsics: Intrinsics) -> None:
    """Raise `PolicyError` unless a camera sees all that the policy's virtual camera sees; both look the same way."""
    if not (all(map(math.isfinite, intrinsics)) and intrinsics.fx > 0.0 and intrinsics.fy > 0.0):
        raise PolicyError(f"camera reports {intrinsics}, expected finite numbers and fx, fy > 0; calibrate its lens")
    seen, wanted = _view_rad(intrinsics, 0.5), _view_rad(contract.camera.intrinsics, 0.0)
    short_rad, side = max((wanted[side] - seen[side], side) for side in wanted)
    if short_rad > 0.0:
        raise PolicyError(
            f"camera view ends {math.degrees(seen[side]):.1f}° {side} of its axis, {math.degrees(short_rad):.1f}° short of the expected "
            f"{math.degrees(wanted[side]):.1f}° (contract camera.intrinsics); choose a wider depth profile or train for this camera"
        )


def _view_rad(camera: Intrinsics, rim_px: float) -> dict[str, float]:
    """Angles from the optical axis to the outermost pixel centres, or `rim_px` beyond them."""
    return {
        "left": math.atan((camera.cx + rim_px) / camera.fx),
        "right": math.atan((camera.width - 1 - camera.cx + rim_px) / camera.fx),
        "above": math.atan((camera.cy + rim_px) / camera.fy),
        "below": math.atan((camera.height - 1 - camera.cy + rim_px) / camera.fy),
    }


def _task_rules(contract: Contract) -> Iterator[_Rule]:
    """Rules between the contract's own numbers, and what this runtime can feed and follow."""
    camera, action, episode = contract.camera.intrinsics, contract.action, contract.episode
    lens = camera.fx > 0.0 and camera.fy > 0.0 and 0.0 <= camera.cx < camera.width and 0.0 <= camera.cy < camera.height
    yield _Rule("camera.intrinsics", lens, camera, "positive focal lengths and a principal point inside the image")
    pose = contract.camera.transform_camera_to_tool
    yield _Rule("camera.transform_camera_to_tool", _is_wrist_pose(pose), pose, f"a 4×4 rigid pose within {CAMERA_DISTANCE_MAX_M} m")
    in_view = "a pose that has the tool centre, where a block is held, in the image"
    yield _Rule("camera.transform_camera_to_tool", _sees_tool(contract.camera), pose, in_view)
    yield _Rule("proprio.fields", contract.proprio.fields == PROPRIO_FIELDS, contract.proprio.fields, f"{PROPRIO_FIELDS}")
    yield _Rule("action.fields", action.fields == ACTION_FIELDS, action.fields, f"{ACTION_FIELDS}")
    reach_m = TOOL_SPEED_MAX_M_S * contract.rates.ticks_per_step / contract.rates.tick_hz
    yield _Rule("action.scale_m", action.scale_m <= reach_m, action.scale_m, f"at most {reach_m:.4f}, what the arm can move in one step")
    end_m = episode.start_in_table_m[2] - episode.steps * episode.descent_per_step_m
    descent = f"{episode.steps} steps × descent_per_step_m {episode.descent_per_step_m}"
    yield _Rule("episode.start_in_table_m", end_m >= 0.0, episode.start_in_table_m, f"a height of at least {descent} above the table")
    ticks, most_ticks = contract.rates.ticks_per_step, PHASE_LIMIT_S * contract.rates.tick_hz / episode.steps
    yield _Rule("rates.ticks_per_step", ticks <= most_ticks, ticks, f"at most {most_ticks:g}, a descent of {PHASE_LIMIT_S:g} s")
    verify_s = episode.success_hold_s
    yield _Rule("episode.success_hold_s", verify_s <= PHASE_LIMIT_S, verify_s, f"at most {PHASE_LIMIT_S:g}, as long as a phase may take")
    yield _Rule("episode.yaw_rad", abs(episode.yaw_rad) <= math.pi, episode.yaw_rad, "an angle within ±π")
    yield _Rule("episode.spawn_yaw_rad", episode.spawn_yaw_rad <= math.pi, episode.spawn_yaw_rad, "an angle up to π")
    low, high = episode.workspace_min_in_table_m, episode.workspace_max_in_table_m
    for field, inner in (
        ("workspace_max_in_table_m", high),
        ("spawn_min_in_table_m", episode.spawn_min_in_table_m),
        ("spawn_max_in_table_m", episode.spawn_max_in_table_m),
        ("start_in_table_m", episode.start_in_table_m),
    ):
        yield _Rule(f"episode.{field}", _inside(inner, low, high), inner, f"inside the workspace {low}…{high}")
    box = episode.spawn_max_in_table_m
    ordered = _inside(box, episode.spawn_min_in_table_m, box)
    yield _Rule("episode.spawn_max_in_table_m", ordered, box, f"not below spawn_min_in_table_m {episode.spawn_min_in_table_m}")
    block_m, most_m = episode.block_size_m, robot.OPENING_MAX_M
    yield _Rule("episode.open_m", block_m < episode.open_m <= most_m, episode.open_m, f"above the block's {block_m}, at most {most_m}")
    yield _Rule("episode.closed_m", episode.closed_m < block_m, episode.closed_m, f"below the block's {block_m}")
    lift_m = episode.lift_m
    yield _Rule("episode.success_lift_m", episode.success_lift_m <= lift_m, episode.success_lift_m, f"at most lift_m = {lift_m}")
    yield _Rule("robot.joints", contract.robot.joints == robot.JOINT_NAMES, contract.robot.joints, f"{robot.JOINT_NAMES}", TRAIN_AGAIN)


def _sight_rules(contract: Contract) -> Iterator[_Rule]:
    """Rules for what the policy sees."""
    depth, block, episode = contract.depth, contract.block, contract.episode
    if depth is not None:
        yield _Rule("depth.far_m", depth.far_m > depth.near_m, depth.far_m, f"more than near_m = {depth.near_m}")
        yield _Rule("depth.invalid_value", 0.0 <= depth.invalid_value <= 1.0, depth.invalid_value, "a network input in [0, 1]")
    if block is not None:
        height_m = episode.block_size_m / 2.0  # of its centre, on the table
        low, high = (*episode.spawn_min_in_table_m, height_m), (*episode.spawn_max_in_table_m, height_m)
        for field, corner, holds in (
            ("min_in_table_m", block.min_in_table_m, all(a <= b for a, b in zip(block.min_in_table_m, low, strict=True))),
            ("max_in_table_m", block.max_in_table_m, all(a >= b for a, b in zip(block.max_in_table_m, high, strict=True))),
        ):
            yield _Rule(f"block.{field}", holds, corner, f"a box around all places of the block, {low}…{high}")


def _record_rules(contract: Contract) -> Iterator[_Rule]:
    """Rules for what the file says about its own making."""
    training, golden = contract.training, contract.golden
    if training is not None:
        variant = contract.variant
        yield _Rule("training.variant", training.variant == variant, training.variant, f"{variant!r}, as the contract's inputs have it")
        yield _Rule("training.randomisation", 0.0 <= training.randomisation <= 1.0, training.randomisation, "a strength in [0, 1]")
    for index, evaluation in enumerate(contract.evaluation):
        field, episodes, successes = f"evaluation[{index}]", evaluation.episodes, evaluation.successes
        yield _Rule(f"{field}.successes", 0 <= successes <= episodes, successes, f"between 0 and episodes = {episodes}")
        low, high = evaluation.interval_95
        holds = 0.0 <= low <= successes / max(episodes, 1) <= high <= 1.0
        yield _Rule(f"{field}.interval_95", holds, evaluation.interval_95, f"an interval in [0, 1] around {successes} of {episodes}")
    if golden is not None:
        tolerance = golden.tolerance
        yield _Rule("golden.tolerance", tolerance <= GOLDEN_TOLERANCE_MAX, tolerance, f"at most {GOLDEN_TOLERANCE_MAX}")


def _robot_rules(contract: Contract, expected: Expectation) -> Iterator[_Rule]:
    """Rules against this robot's configuration."""
    trained, mount = contract.robot, expected.mount
    yield _Rule("robot.name", trained.name == expected.robot_name, trained.name, f"{expected.robot_name!r}", TRAIN_AGAIN)
    correct = "correct [mount] in the configuration if the arm really is so, else train for this mount"
    yield _Rule("robot.inverted", trained.inverted == mount.inverted, trained.inverted, f"{mount.inverted} (mount.inverted)", correct)
    near = abs(trained.base_height_m - mount.base_height_m) <= HEIGHT_TOLERANCE_M + 1e-9  # 1 mm itself is allowed, despite rounding
    height = f"{mount.base_height_m} ± {HEIGHT_TOLERANCE_M} (mount.base_height_m)"
    yield _Rule("robot.base_height_m", near, trained.base_height_m, height, correct)
    yield _Rule("rates.tick_hz", contract.rates.tick_hz == expected.tick_hz, contract.rates.tick_hz, f"{expected.tick_hz}", TRAIN_AGAIN)
    low, high = DOFBOT_LIMITS.tool_min_in_table_m[:2], DOFBOT_LIMITS.tool_max_in_table_m[:2]
    for field in ("workspace_min_in_table_m", "workspace_max_in_table_m"):
        corner = getattr(contract.episode, field)
        yield _Rule(f"episode.{field}", _inside(corner, low, high), corner, f"inside the safety gate's box {low}…{high}", TRAIN_AGAIN)
    if expected.urdf_sha256 is not None:
        same = trained.urdf_sha256 == expected.urdf_sha256
        yield _Rule(
            "robot.urdf_sha256", same, trained.urdf_sha256, expected.urdf_sha256, "install the version that trained it, or train again"
        )


def _tensor_rules(field: str, name: str, tensors: Tensors, shape_field: str, shape: tuple[int, ...]) -> Iterator[_Rule]:
    """A tensor of the graph has the name, type and shape that two fields of the contract give it."""
    yield _Rule(field, name in tensors, name, f"one of the graph's {sorted(tensors)}")
    yield _Rule(shape_field, tensors[name] == ("tensor(float)", shape), f"float32 {shape}", f"the graph's {name} {tensors[name]}")


def _enforce(rules: Iterator[_Rule]) -> None:
    for rule in rules:
        if not rule.holds:
            raise PolicyError(f"contract {rule.field} is {_short(rule.found)}, expected {rule.expected}; {rule.remedy}")


def _inside(point: tuple[float, ...], low: tuple[float, float], high: tuple[float, float]) -> bool:
    """Whether the x and y of a point lie in a box."""
    return all(a <= p <= b for a, p, b in zip(low, point[:2], high, strict=True))


def _sees_tool(camera: VirtualCamera) -> bool:
    """Whether the image has what `edge.observation.holds_block` looks at."""
    (x, y, z), lens = tool_in_camera_m(camera), camera.intrinsics
    if z <= 0.0:
        return False
    column, row = lens.fx * x / z + lens.cx, lens.fy * y / z + lens.cy
    return -GRIP_PX <= column <= lens.width - 1 + GRIP_PX and -GRIP_PX <= row <= lens.height - 1 + GRIP_PX


def _is_wrist_pose(rows: tuple[tuple[float, ...], ...]) -> bool:
    """Whether rows are a rigid transform near the tool."""
    pose = np.array(rows)
    if pose.shape != (4, 4):
        return False
    rotation = pose[:3, :3]
    rigid = np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-6) and np.linalg.det(rotation) > 0.0
    near = float(np.linalg.norm(pose[:3, 3])) <= CAMERA_DISTANCE_MAX_M
    return rigid and near and pose[3].tolist() == [0.0, 0.0, 0.0, 1.0]


def _located(message: str, document: Any) -> str:
    """msgspec's message turned round: field, found, expected."""
    text, _, path = message.partition(" - at `$")
    where = path.strip("`").lstrip(".")
    absent = re.search(r"(missing|unknown) .*`(.*)`", text)
    if absent:
        return f"{f'{where}.{absent[2]}'.lstrip('.')} is {absent[1]}, expected the fields of schema_version {SCHEMA_VERSION}"
    for key in re.findall(r"\w+", where):
        document = document[int(key)] if isinstance(document, list) else document[key]
    return f"{where} is {_short(document)}, {text[0].lower()}{text[1:]}"


def _short(value: object) -> str:
    """A value as text for one line; a golden array may have megabytes."""
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:117]}…"
