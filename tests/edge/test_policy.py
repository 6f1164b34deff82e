"""A policy file that is damaged, foreign or made for another robot is refused in one sentence; a good one gives finite actions."""

import base64
import copy
import json
import math
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edge import robot
from edge.config import MountConfig
from edge.contract import (
    SCHEMA_VERSION,
    ActionOutput,
    Contract,
    DepthInput,
    Episode,
    Evaluation,
    Golden,
    ProprioInput,
    Rates,
    Robot,
    Training,
    VirtualCamera,
    encode,
)
from edge.contract_check import PROPRIO_FIELDS, Expectation, check_camera
from edge.errors import LatePolicyError, PolicyError
from edge.messages import Intrinsics
from edge.policy import CONTRACT_KEY, DIGEST_KEY, MAX_FILE_BYTES, digest, from_bytes, load, locate_digest, stamp

SIZE = 16
LENS = Intrinsics(SIZE, SIZE, 14.0, 14.0, 7.5, 7.5)
EXPECTED = Expectation(mount=MountConfig(inverted=True, base_height_m=0.388), urdf_sha256="ab" * 32)


def make_contract() -> Contract:
    """A complete contract for a 16×16 camera; the golden vectors are a placeholder that export replaces."""
    return Contract(
        schema_version=SCHEMA_VERSION,
        depth=DepthInput(name="depth", near_m=0.04, far_m=0.36, invalid_value=0.0, max_invalid_fraction=0.6),
        camera=VirtualCamera(
            intrinsics=LENS,
            transform_camera_to_tool=((-1.0, 0.0, 0.0, 0.0), (0.0, -1.0, 0.0, 0.06), (0.0, 0.0, 1.0, -0.1), (0.0, 0.0, 0.0, 1.0)),
        ),
        proprio=ProprioInput(name="proprio", fields=PROPRIO_FIELDS),
        action=ActionOutput(name="action", fields=("delta_x", "delta_y"), scale_m=0.010),
        episode=Episode(
            steps=100,
            descent_per_step_m=0.001,
            start_in_table_m=(0.0, 0.16, 0.11),
            yaw_rad=3.0,
            workspace_min_in_table_m=(-0.075, 0.05),
            workspace_max_in_table_m=(0.075, 0.17),
            spawn_min_in_table_m=(-0.05, 0.075),
            spawn_max_in_table_m=(0.05, 0.125),
            spawn_yaw_rad=0.3,
            block_size_m=0.03,
            open_m=0.06,
            closed_m=0.02,
            lift_m=0.07,
            success_lift_m=0.05,
            success_hold_s=0.5,
        ),
        rates=Rates(tick_hz=50.0, ticks_per_step=2),
        robot=Robot(name="dofbot", joints=robot.JOINT_NAMES, urdf_sha256="ab" * 32, base_height_m=0.388, inverted=True),
        training=Training(commit="0" * 40, algorithm="SAC", seed=1, env_steps=1000, wall_s=60.0, randomisation=0.5, variant="depth"),
        evaluation=(Evaluation(suite="clean", episodes=100, successes=99, interval_95=(0.945, 0.998)),),
        golden=Golden(tolerance=1e-4, depth=b"", proprio=b"", action=b"", count=1),
    )


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy of two convolutions that gives NaN where tool_x_m is below -1, outside all that it met in training."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnx")
    from trainer.export import Examples, export_onnx

    class Actor(torch.nn.Module):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            super().__init__()
            self.see = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 4, 4), torch.nn.ReLU(), torch.nn.Conv2d(4, 8, 2, 2), torch.nn.Flatten())
            self.decide = torch.nn.Linear(8 * 2 * 2 + 6, 2)

        def forward(self, depth: Any, proprio: Any) -> Any:
            decision = self.decide(torch.cat((self.see(depth), proprio * 0.01), dim=1))
            return torch.tanh(decision + 0.0 * torch.sqrt(1.0 + proprio[:, :1]))

    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    depth = rng.uniform(0.0, 1.0, (3, 1, SIZE, SIZE)).astype(np.float32)
    proprio = rng.uniform((-0.07, 0.05, 0.01, 1.0, -0.01, -0.01), (0.07, 0.17, 0.11, 100.0, 0.01, 0.01), (3, 6)).astype(np.float32)
    path = tmp_path_factory.mktemp("policy") / "policy.onnx"
    export_onnx(Actor(), make_contract(), Examples(depth, proprio), path)
    return path


@pytest.fixture(scope="module")
def data(exported: Path) -> bytes:
    return exported.read_bytes()


def observation() -> tuple[np.ndarray, np.ndarray]:
    return np.full((SIZE, SIZE), 0.5, np.float32), np.array([0.0, 0.1, 0.05, 50.0, 0.0, 0.0], np.float32)


def rewritten(data: bytes, contract: Callable[[Any], Any] = lambda d: None, graph: Callable[[Any], Any] = lambda g: None) -> bytes:
    """The file with its contract (as JSON values) or its graph changed in place, and a valid digest again; infinity is written as 1e999."""
    import onnx

    model = onnx.load_model_from_string(data)
    document = json.loads({entry.key: entry.value for entry in model.metadata_props}[CONTRACT_KEY])
    contract(document)
    graph(model.graph)
    onnx.helper.set_model_props(model, {CONTRACT_KEY: json.dumps(document).replace("Infinity", "1e999"), DIGEST_KEY: "0" * 64})
    return stamp(model.SerializeToString())


Keys = tuple[str | int, ...]


def leaves(document: Any, path: Keys = ()) -> Iterator[Keys]:
    """Paths of all values in a JSON document that are not containers."""
    if isinstance(document, dict | list):
        for key, value in document.items() if isinstance(document, dict) else enumerate(document):
            yield from leaves(value, (*path, key))
    else:
        yield path


def put(document: Any, path: Keys, value: Any) -> None:
    for key in path[:-1]:
        document = document[key]
    document[path[-1]] = value


def dotted(path: Keys) -> str:
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path).lstrip(".")


DOCUMENT = json.loads(encode(make_contract()))
LEAVES = list(leaves(DOCUMENT))


def refusal(data: bytes, expected: Expectation | None = EXPECTED) -> str:
    with pytest.raises(PolicyError) as caught:
        from_bytes(data, expected)
    message = str(caught.value)
    assert "\n" not in message
    return message


# --- a good file


def test_a_good_file_loads_and_acts(exported: Path) -> None:
    policy = load(exported, EXPECTED)
    assert policy.golden_error <= 1e-5
    assert 0.0 < policy.latency_p99_s <= 0.020
    assert policy.contract.robot == make_contract().robot
    action = policy.act(*observation())
    assert action.shape == (2,)
    assert action.dtype == np.float32
    assert np.array_equal(action, policy.act(*observation()))


def test_an_unchanged_contract_survives_rewriting(data: bytes) -> None:
    """So the refusals below come from the change, not from the rewriting."""
    assert from_bytes(rewritten(data), EXPECTED).act(*observation()).shape == (2,)


# --- damage


def test_every_random_bit_flip_is_refused(data: bytes) -> None:
    for position in np.random.default_rng(1).choice(8 * len(data), 200, replace=False):
        damaged = bytearray(data)
        damaged[position // 8] ^= 1 << (position % 8)
        message = refusal(bytes(damaged))
        assert "not a dofbot-grasp policy" in message or "damaged" in message


def test_every_bit_flip_in_the_digest_entry_is_refused(data: bytes) -> None:
    end = locate_digest(data) + 64
    for position in range(8 * (end - 64 - 20), 8 * end):
        damaged = bytearray(data)
        damaged[position // 8] ^= 1 << (position % 8)
        refusal(bytes(damaged))


def test_truncated_and_lengthened_files_are_refused(data: bytes) -> None:
    at = locate_digest(data)
    for length in {0, 1, at, at + 1, at + 63, *np.linspace(0, len(data) - 1, 60).astype(int)}:
        refusal(data[:length])
    refusal(data + b"\0")
    assert "found 2" in refusal(data + data)


def test_a_digest_in_capitals_is_refused(data: bytes) -> None:
    at = locate_digest(data)
    assert "damaged" in refusal(data[:at] + data[at : at + 64].upper() + data[at + 64 :])


def test_digest_does_not_depend_on_what_it_holds(data: bytes) -> None:
    at = locate_digest(data)
    assert digest(data[:at] + b"f" * 64 + data[at + 64 :]) == digest(data) == data[at : at + 64].decode()


# --- what is not a policy file


def directory(path: Path) -> None:
    path.mkdir()


def oversized(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: None, "No such file"),
        (lambda path: path.write_bytes(b""), "not a dofbot-grasp policy"),
        (lambda path: path.write_text("policy: none\n" * 100), "not a dofbot-grasp policy"),
        (directory, "not a regular file"),
        (os.mkfifo, "not a regular file"),
        (lambda path: path.symlink_to("nowhere"), "No such file"),
        (oversized, f"more than {MAX_FILE_BYTES} bytes"),
    ],
    ids=["missing", "empty", "text", "directory", "fifo", "dangling link", "oversized"],
)
def test_what_is_not_a_policy_file_is_refused_by_name(make: Callable[[Path], Any], reason: str, tmp_path: Path) -> None:
    path = tmp_path / "wrong.onnx"
    make(path)
    with pytest.raises(PolicyError, match=reason) as caught:
        load(path, EXPECTED)
    assert str(path) in str(caught.value)


def foreign_model(metadata: dict[str, str]) -> bytes:
    onnx = pytest.importorskip("onnx")
    value = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy"]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "foreign", value[:1], value[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    onnx.helper.set_model_props(model, metadata)
    content: bytes = model.SerializeToString()
    return content


def test_a_foreign_onnx_is_refused() -> None:
    assert "not a dofbot-grasp policy" in refusal(foreign_model({}))
    assert CONTRACT_KEY in refusal(stamp(foreign_model({DIGEST_KEY: "0" * 64})))


@pytest.mark.parametrize("document", ["", "{", "[]", "null", "{}", '{"a":' * 100_000, '{"schema_version": NaN}', '{"schema_version": "1"}'])
def test_a_contract_that_is_no_contract_is_refused(document: str) -> None:
    assert "schema_version" in refusal(stamp(foreign_model({CONTRACT_KEY: document, DIGEST_KEY: "0" * 64})))


def test_what_onnxruntime_cannot_read_is_refused(data: bytes) -> None:
    entry = data[locate_digest(data) - 20 : locate_digest(data) + 64]
    assert "refuses the graph" in refusal(stamp(b"\xff" + entry))

    def unknown_operator(graph: Any) -> None:
        graph.node[0].op_type = "NoSuchOperator"

    assert "NoSuchOperator" in refusal(rewritten(data, graph=unknown_operator))


# --- the contract


@pytest.mark.parametrize("path", LEAVES, ids=dotted)
def test_a_field_of_the_wrong_type_is_refused_by_name(path: Keys, data: bytes) -> None:
    wrong: dict[str, Any] = {}
    message = refusal(rewritten(data, lambda document: put(document, path, wrong)))
    assert dotted(path) in message
    assert "expected" in message


@pytest.mark.parametrize("path", [p for p in LEAVES if isinstance(p[-1], str)], ids=dotted)
def test_a_missing_field_is_refused_by_name(path: Keys, data: bytes) -> None:
    def remove(document: Any) -> None:
        for key in path[:-1]:
            document = document[key]
        del document[path[-1]]

    message = refusal(rewritten(data, remove))
    assert str(path[-1]) in message
    if path != ("schema_version",):
        assert f"{dotted(path)} is missing" in message


@pytest.mark.parametrize("path", [p for p in LEAVES if isinstance(p[-1], str)], ids=dotted)
def test_an_unknown_field_is_refused_by_name(path: Keys, data: bytes) -> None:
    extra = (*path[:-1], "surprise")
    if len(path) == 1:
        extra = ("surprise",)
    assert f"{dotted(extra)} is unknown" in refusal(rewritten(data, lambda document: put(document, extra, 1)))


@pytest.mark.parametrize("path", LEAVES, ids=dotted)
def test_numbers_that_are_not_finite_are_refused(path: Keys, data: bytes) -> None:
    for value in (math.inf, -math.inf):
        assert dotted(path) in refusal(rewritten(data, lambda document, value=value: put(document, path, value)))
    assert "malformed" in refusal(rewritten(data, lambda document: put(document, path, math.nan)))


def packed(*shape: int, value: float = 0.25) -> str:
    return base64.b64encode(zlib.compress(np.full(shape, value, "<f4").tobytes())).decode()


# A value of the right type for each field, wrong in itself, against other fields, or for this robot;
# and what the message names where that is not the field itself.
WRONG: dict[str, tuple[Any, str]] = {
    "schema_version": (2, ""),
    "depth.name": ("image", ""),
    "depth.near_m": (0.5, "depth.far_m"),
    "depth.far_m": (0.03, ""),
    "depth.invalid_value": (-1.0, ""),
    "depth.max_invalid_fraction": (1.5, ""),
    "camera.intrinsics[0]": (SIZE + 1, "camera.intrinsics"),
    "camera.intrinsics[1]": (SIZE + 1, "camera.intrinsics"),
    "camera.intrinsics[2]": (0.0, "camera.intrinsics"),
    "camera.intrinsics[3]": (-14.0, "camera.intrinsics"),
    "camera.intrinsics[4]": (16.0, "camera.intrinsics"),
    "camera.intrinsics[5]": (-1.0, "camera.intrinsics"),
    "camera.transform_camera_to_tool[1][3]": (60.0, "camera.transform_camera_to_tool"),  # millimetres
    "proprio.name": ("state", ""),
    "action.name": ("move", ""),
    "action.scale_m": (10.0, ""),  # millimetres
    "episode.steps": (1000, "episode.start_in_table_m"),
    "episode.descent_per_step_m": (0.01, "episode.start_in_table_m"),
    "episode.start_in_table_m[0]": (0.2, "episode.start_in_table_m"),
    "episode.start_in_table_m[1]": (0.2, "episode.start_in_table_m"),
    "episode.start_in_table_m[2]": (0.05, "episode.start_in_table_m"),
    "episode.yaw_rad": (180.0, ""),  # degrees
    "episode.workspace_min_in_table_m[0]": (0.1, "workspace"),
    "episode.workspace_min_in_table_m[1]": (0.2, "workspace"),
    "episode.workspace_max_in_table_m[0]": (-0.1, "episode.workspace_max_in_table_m"),
    "episode.workspace_max_in_table_m[1]": (0.0, "episode.workspace_max_in_table_m"),
    "episode.spawn_min_in_table_m[0]": (0.06, "episode.spawn_max_in_table_m"),
    "episode.spawn_min_in_table_m[1]": (0.0, "episode.spawn_min_in_table_m"),
    "episode.spawn_max_in_table_m[0]": (-0.06, "episode.spawn_max_in_table_m"),
    "episode.spawn_max_in_table_m[1]": (0.2, "episode.spawn_max_in_table_m"),
    "episode.spawn_yaw_rad": (20.0, ""),  # degrees
    "episode.block_size_m": (0.015, "episode.closed_m"),
    "episode.open_m": (0.07, ""),
    "episode.closed_m": (0.03, ""),
    "episode.lift_m": (0.04, "episode.success_lift_m"),
    "episode.success_lift_m": (0.08, ""),
    "episode.success_hold_s": (0.0, ""),
    "rates.tick_hz": (100.0, ""),
    "rates.ticks_per_step": (0, ""),
    "robot.name": ("so101", ""),
    "robot.urdf_sha256": ("cd" * 32, ""),
    "robot.base_height_m": (0.3895, ""),
    "robot.inverted": (False, ""),
    "training.randomisation": (1.5, ""),
    "training.variant": ("xyz", ""),
    "evaluation[0].episodes": (98, "evaluation[0].successes"),
    "evaluation[0].successes": (90, "evaluation[0].interval_95"),
    "evaluation[0].interval_95[0]": (0.995, "evaluation[0].interval_95"),
    "evaluation[0].interval_95[1]": (0.9, "evaluation[0].interval_95"),
    "golden.tolerance": (1.0, ""),
    "golden.depth": (packed(3, SIZE, SIZE), ""),
    "golden.proprio": ("AAAA", ""),
    "golden.action": (packed(19, 2), ""),
    "golden.count": (18, "golden.depth"),
}
# Every value of their type is as good as any other: nothing on the robot knows better than the file.
FREE = {"training.commit", "training.algorithm", "training.seed", "training.env_steps", "training.wall_s", "evaluation[0].suite"}


def test_each_field_has_a_wrong_value_or_is_free() -> None:
    ordered = ("proprio.fields", "action.fields", "robot.joints", "camera.transform_camera_to_tool")
    fields = {dotted(path) for path in LEAVES}
    assert set(WRONG) <= fields
    assert {f for f in fields - set(WRONG) - FREE if not f.startswith(ordered)} == set()


@pytest.mark.parametrize("path", [p for p in LEAVES if dotted(p) in WRONG], ids=dotted)
def test_a_wrong_value_is_refused_by_name(path: Keys, data: bytes) -> None:
    value, named = WRONG[dotted(path)]
    message = refusal(rewritten(data, lambda document: put(document, path, value)))
    assert (named or dotted(path)) in message
    assert "expected" in message


@pytest.mark.parametrize("field", ["proprio.fields", "action.fields", "robot.joints"])
def test_another_order_or_number_of_names_is_refused(field: str, data: bytes) -> None:
    part, name = field.split(".")
    for change in (lambda names: names[::-1], lambda names: names[:-1], lambda names: [*names, "more"], lambda names: []):
        altered = rewritten(data, lambda document, change=change: put(document, (part, name), change(document[part][name])))
        assert f"{field} is" in refusal(altered)


@pytest.mark.parametrize(
    "change", [lambda t: t[:3], lambda t: [*t[:3], t[0]], lambda t: [[2 * x for x in t[0]], *t[1:]], lambda t: [t[1], t[0], *t[2:]]]
)
def test_a_camera_pose_that_is_not_rigid_is_refused(change: Callable[[Any], Any], data: bytes) -> None:
    path = ("camera", "transform_camera_to_tool")
    altered = rewritten(data, lambda document: put(document, path, change(document["camera"]["transform_camera_to_tool"])))
    assert "camera.transform_camera_to_tool" in refusal(altered)


@pytest.mark.parametrize("at_m", [(0.06, 0.0), (0.06, 0.1), (0.2, -0.1), (-0.2, -0.001)])
def test_a_camera_that_does_not_see_what_the_fingers_hold_is_refused(at_m: tuple[float, float], data: bytes) -> None:
    """Beside the tool, before it, or looking past it: whether a block is held would be read off another place, or divided by zero."""

    def change(document: Any) -> None:
        for row, value in zip((1, 2), at_m, strict=True):
            put(document, ("camera", "transform_camera_to_tool", row, 3), value)

    assert "camera.transform_camera_to_tool" in refusal(rewritten(data, change))


@pytest.mark.parametrize(
    ("path", "good", "bad"), [(("rates", "ticks_per_step"), 5, 6), (("episode", "success_hold_s"), 10.0, 10.1)], ids=["descent", "verify"]
)
def test_a_phase_that_would_never_end_in_time_is_refused(path: Keys, good: float, bad: float, data: bytes) -> None:
    """On the arm each of its grasps would end in SAFE."""
    assert from_bytes(rewritten(data, lambda document: put(document, path, good)))
    assert f"contract {dotted(path)} is {bad}, expected at most" in refusal(rewritten(data, lambda document: put(document, path, bad)))


def test_a_policy_without_golden_vectors_is_refused(data: bytes) -> None:
    assert "golden" in refusal(rewritten(data, lambda document: document.pop("golden")))


def test_golden_arrays_inflate_no_further_than_their_shape(data: bytes) -> None:
    """A megabyte of zlib can hold a gigabyte."""
    bomb = packed(4_000_000)
    message = refusal(rewritten(data, lambda document: put(document, ("golden", "depth"), bomb)))
    count = json.loads(encode(from_bytes(data).contract))["golden"]["count"]
    assert f"golden.depth inflates to {4 * count * SIZE * SIZE + 1} bytes" in message


# --- this robot


@pytest.mark.parametrize(
    ("expected", "field"),
    [
        (EXPECTED._replace(mount=MountConfig(inverted=False, base_height_m=0.388)), "robot.inverted"),
        (EXPECTED._replace(mount=MountConfig(inverted=True, base_height_m=0.3865)), "robot.base_height_m"),
        (EXPECTED._replace(urdf_sha256="cd" * 32), "robot.urdf_sha256"),
        (EXPECTED._replace(tick_hz=100.0), "rates.tick_hz"),
        (EXPECTED._replace(robot_name="so101"), "robot.name"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_another_robot_is_refused_by_field(expected: Expectation, field: str, data: bytes) -> None:
    assert field in refusal(data, expected)
    assert from_bytes(data).contract.robot.name == "dofbot"  # the file by itself is in order


@pytest.mark.parametrize(("corner", "axis", "value"), [("min", 0, -0.3), ("min", 1, -0.03), ("max", 0, 0.3), ("max", 1, 0.3)])
def test_a_workspace_that_the_safety_gate_does_not_allow_is_refused(corner: str, axis: int, value: float, data: bytes) -> None:
    field = f"workspace_{corner}_in_table_m"
    wider = rewritten(data, lambda document: put(document, ("episode", field, axis), value))
    message = refusal(wider, EXPECTED)
    assert f"episode.{field}" in message
    assert "inside the safety gate's box" in message


@pytest.mark.parametrize("height_m", [0.387, 0.389])
def test_a_millimetre_of_mount_height_is_accepted(height_m: float, data: bytes) -> None:
    from_bytes(data, EXPECTED._replace(mount=MountConfig(inverted=True, base_height_m=height_m)))


# --- the camera


@pytest.mark.parametrize("lens", [LENS, Intrinsics(848, 480, 425.0, 425.0, 424.0, 240.0)], ids=["same", "wider"])
def test_a_camera_that_sees_enough_is_accepted(lens: Intrinsics) -> None:
    check_camera(make_contract(), lens)


@pytest.mark.parametrize(("side", "axis"), [("left", 4), ("right", 4), ("above", 5), ("below", 5)])
def test_a_camera_that_sees_too_little_is_told_by_how_many_degrees(side: str, axis: int) -> None:
    wanted_rad = math.atan(7.5 / 14.0)
    reach_px = 425.0 * math.tan(wanted_rad - math.radians(3.0))
    centre = reach_px - 0.5 if side in ("left", "above") else (848 if axis == 4 else 480) - 0.5 - reach_px
    lens = Intrinsics(848, 480, 425.0, 425.0, 424.0, 240.0)
    lens = lens._replace(**{"cx" if axis == 4 else "cy": centre})
    with pytest.raises(PolicyError, match=rf"{side} of its axis, 3\.0° short of the expected 28\.2°"):
        check_camera(make_contract(), lens)


@pytest.mark.parametrize("focal", [0.0, -425.0, math.nan, math.inf])
@pytest.mark.parametrize("name", ["fx", "fy"])
def test_a_camera_without_a_focal_length_is_refused(name: str, focal: float) -> None:
    with pytest.raises(PolicyError, match="fx, fy"):
        check_camera(make_contract(), Intrinsics(848, 480, 425.0, 425.0, 424.0, 240.0)._replace(**{name: focal}))


# --- the graph


def altered_bias(by: float) -> Callable[[Any], None]:
    def alter(graph: Any) -> None:
        from onnx import numpy_helper

        bias = next(tensor for tensor in graph.initializer if tensor.name == "decide.bias")
        bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32(by), bias.name))

    return alter


def test_another_graph_fails_its_golden_vectors(data: bytes) -> None:
    assert "golden.action" in refusal(rewritten(data, graph=altered_bias(0.01)))
    assert from_bytes(rewritten(data, graph=altered_bias(1e-6)), EXPECTED).golden_error <= 1e-4


def test_a_graph_that_gives_nan_is_refused(data: bytes) -> None:
    assert "not finite" in refusal(rewritten(data, graph=altered_bias(math.nan)))


def test_golden_actions_that_are_nan_are_refused(data: bytes) -> None:
    count = from_bytes(data).contract.golden.count  # type: ignore[union-attr]
    actions = packed(count, 2, value=math.nan)
    assert "golden.action[0]" in refusal(rewritten(data, lambda document: put(document, ("golden", "action"), actions)))


def test_a_second_output_is_refused(data: bytes) -> None:
    def expose(graph: Any) -> None:
        extra = copy.deepcopy(graph.output[0])
        extra.name = graph.node[-1].input[0]
        graph.output.append(extra)

    assert "inputs and outputs" in refusal(rewritten(data, graph=expose))


def test_a_policy_too_slow_for_its_rate_is_refused(data: bytes) -> None:
    def hurry(document: Any) -> None:
        document["rates"] = {"tick_hz": 1e8, "ticks_per_step": 1}  # a budget of 5 ns
        document["action"]["scale_m"] = 1e-9

    with pytest.raises(LatePolicyError, match=r"latency is .*5e-06 ms") as caught:
        from_bytes(rewritten(data, hurry))
    assert caught.value.exit_code == 1  # a busy machine may do better the next time: systemd is to try again


# --- acting


def test_inputs_of_another_shape_type_or_unit_are_refused(data: bytes) -> None:
    policy = from_bytes(data)
    depth, proprio = observation()
    for wrong in (depth[:-1], depth[None], depth.astype(np.float64), depth * 1000.0, depth - 1.0, depth * np.float32(np.nan)):
        with pytest.raises(PolicyError, match="input depth"):
            policy.act(wrong, proprio)
    for wrong in (proprio[:-1], proprio[None], proprio.astype(np.float64), proprio + np.float32(np.inf)):
        with pytest.raises(PolicyError, match="input proprio"):
            policy.act(depth, wrong)


def test_one_nan_pixel_is_refused(data: bytes) -> None:
    depth, proprio = observation()
    depth[3, 5] = np.nan
    with pytest.raises(PolicyError, match="input depth"):
        from_bytes(data).act(depth, proprio)


def test_an_action_that_is_not_finite_is_an_error(data: bytes) -> None:
    depth, proprio = observation()
    proprio[0] = -2.0
    with pytest.raises(PolicyError, match="not finite"):
        from_bytes(data).act(depth, proprio)


@pytest.fixture(scope="module")
def held(data: bytes) -> SimpleNamespace:
    return SimpleNamespace(policy=from_bytes(data))


@given(
    depth=hnp.arrays(np.float32, (SIZE, SIZE), elements=st.floats(width=32), fill=st.floats(0.0, 1.0, width=32)),
    proprio=hnp.arrays(np.float32, 6, elements=st.floats(width=32)),
)
def test_whatever_goes_in_only_finite_actions_come_out(depth: np.ndarray, proprio: np.ndarray, held: SimpleNamespace) -> None:
    try:
        action = held.policy.act(depth, proprio)
    except PolicyError:
        return
    assert np.isfinite(depth).all()
    assert np.isfinite(proprio).all()
    assert (np.abs(action) <= 1.0 + 1e-5).all()
