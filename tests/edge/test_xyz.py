"""A policy that is told where the block is: its contract, its input, its file, and the loop that it steers."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edge import kinematics, robot
from edge.block import HIDDEN_BELOW_M, BlockTracker, on_plane
from edge.cameras.fixed_marker import FixedMarker
from edge.cameras.wrist import WristCamera
from edge.config import BlockConfig, FixedMarkerConfig
from edge.contract import BlockInput, Contract, Golden, Training, decode, encode
from edge.contract_check import check_contract, parse
from edge.devices import Devices
from edge.errors import ObservationError, PolicyError
from edge.grasping import Markers
from edge.messages import Frame, Intrinsics, JointCommand, Marker
from edge.observation import block_input
from edge.policy import CONTRACT_KEY, DIGEST_KEY, from_bytes, load, stamp
from edge.preflight import preflight
from edge.runtime import Runtime
from edge.task import GraspTask
from tests.edge.marked import marker_on
from tests.edge.rig import MAX_AGE_S, PLACE_M, FakeCamera, FakeClock, FakePolicy, FakeRecorder, LateWriter, Rig, ended, is_parked, tool_m
from trainer import spec

CONTRACT = spec.contract("xyz")
BLOCK = spec.BLOCK
LOW, HIGH = np.array(BLOCK.min_in_table_m), np.array(BLOCK.max_in_table_m)
TRAINING = Training(commit="0" * 7, algorithm="sac", seed=0, env_steps=1, wall_s=1.0, randomisation=1.0, variant="xyz")
FULL = msgspec.structs.replace(
    CONTRACT, training=TRAINING, golden=Golden(tolerance=1e-4, depth=None, proprio=b"", action=b"\x01", count=1, block=b"\x02")
)
FLOATS = st.floats(width=32, allow_subnormal=False)  # training, in another test of the same process, flushes those to 0
SHIPPED = Path(__file__).parents[2] / "trainer" / "results" / "policy.onnx"


# --- the contract


@pytest.mark.parametrize("contract", [CONTRACT, FULL, spec.contract()], ids=["xyz", "full", "depth"])
def test_a_contract_survives_its_json(contract: Contract) -> None:
    assert decode(encode(contract)) == contract
    assert parse(encode(contract).decode()) == contract


def test_the_inputs_say_which_variant_it_is() -> None:
    assert (CONTRACT.variant, spec.contract().variant) == ("xyz", "depth")
    assert (CONTRACT.sight.field, CONTRACT.sight.shape, CONTRACT.sight.tensor_shape) == ("block", (3,), (1, 3))
    assert (spec.contract().sight.field, spec.contract().sight.tensor_shape) == ("depth", (1, 1, 64, 64))


@pytest.mark.parametrize(("depth", "block", "found"), [(spec.DEPTH, BLOCK, "both"), (None, None, "neither")], ids=["both", "neither"])
def test_both_inputs_or_none_are_refused(depth: Any, block: Any, found: str) -> None:
    document = encode(msgspec.structs.replace(CONTRACT, depth=depth, block=block)).decode()
    with pytest.raises(PolicyError, match=f"has {found} of depth and block, expected exactly one"):
        parse(document)


@pytest.mark.parametrize(("contract", "variant"), [(CONTRACT, "depth"), (spec.contract(), "xyz"), (CONTRACT, "image")])
def test_a_record_that_names_another_variant_is_refused(contract: Contract, variant: str) -> None:
    wrong = msgspec.structs.replace(contract, training=msgspec.structs.replace(TRAINING, variant=variant))
    with pytest.raises(PolicyError, match=rf"training\.variant is '{variant}', expected '{contract.variant}'"):
        check_contract(wrong, None)
    right = msgspec.structs.replace(contract, training=msgspec.structs.replace(TRAINING, variant=contract.variant))
    check_contract(right, None)


@pytest.mark.parametrize("field", ["min_in_table_m", "max_in_table_m"])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_box_that_leaves_out_a_place_of_the_block_is_refused(field: str, axis: int) -> None:
    episode = CONTRACT.episode
    places = {"min_in_table_m": episode.spawn_min_in_table_m, "max_in_table_m": episode.spawn_max_in_table_m}
    edge = (*places[field], episode.block_size_m / 2.0)[axis]
    away = -math.inf if field == "min_in_table_m" else math.inf
    for value, refused in ((edge, False), (math.nextafter(edge, away), False), (math.nextafter(edge, -away), True)):
        corner = list(getattr(BLOCK, field))
        corner[axis] = value
        contract = msgspec.structs.replace(CONTRACT, block=msgspec.structs.replace(BLOCK, **{field: tuple(corner)}))
        if not refused:
            check_contract(contract, None)
            continue
        with pytest.raises(PolicyError, match=rf"block\.{field}"):
            check_contract(contract, None)


def test_the_shipped_depth_policy_still_loads() -> None:
    policy = load(SHIPPED)
    assert policy.contract.variant == "depth"
    assert policy.golden_error <= 1e-4
    assert "block" not in json.loads(encode(policy.contract))  # equal contracts stay equal bytes


# --- the position


@given(st.tuples(*(st.floats(low, high, allow_subnormal=False) for low, high in zip(LOW, HIGH, strict=True))))
def test_a_position_in_the_box_goes_in_as_it_is(place_m: tuple[float, ...]) -> None:
    found = block_input(place_m, BLOCK)
    assert found.dtype == np.float32
    assert np.array_equal(found, np.float32(place_m))


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 120.0, -120.0], ids=["nan", "inf", "-inf", "mm", "-mm"])
def test_a_position_that_cannot_be_is_refused(axis: int, value: float) -> None:
    place_m = np.array([0.0, 0.1, 0.015])
    place_m[axis] = value
    with pytest.raises(ObservationError, match="expected inside"):
        block_input(place_m, BLOCK)


@pytest.mark.parametrize("corner", [LOW, HIGH], ids=["low", "high"])
def test_the_box_ends_where_it_says(corner: np.ndarray) -> None:
    block_input(corner, BLOCK)
    for axis in range(3):
        beyond = corner.copy()
        beyond[axis] += math.copysign(1e-9, corner[axis] - (LOW[axis] + HIGH[axis]) / 2.0)
        with pytest.raises(ObservationError):
            block_input(beyond, BLOCK)


@pytest.mark.parametrize("place_m", [(0.0, 0.1), np.zeros((1, 3)), np.zeros((4, 4))], ids=["2", "row", "pose"])
def test_what_is_not_three_numbers_is_refused(place_m: Any) -> None:
    with pytest.raises(ObservationError, match=r"expected \(3,\)"):
        block_input(place_m, BLOCK)


# --- the policy file


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Goes straight to the block."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnx")
    from trainer.export import Examples, export_onnx

    class Actor(torch.nn.Module):  # type: ignore[name-defined,misc]
        def forward(self, block: Any, proprio: Any) -> Any:
            return torch.tanh(100.0 * (block - proprio[:, :3])[:, :2])

    rng = np.random.default_rng(0)
    block = rng.uniform((-0.05, 0.075, 0.01), (0.05, 0.125, 0.02), (20, 3)).astype(np.float32)
    proprio = rng.uniform((-0.07, 0.05, 0.01, 1.0, -0.01, -0.01), (0.07, 0.17, 0.11, 100.0, 0.01, 0.01), (20, 6)).astype(np.float32)
    path = tmp_path_factory.mktemp("policy") / "xyz.onnx"
    export_onnx(Actor(), CONTRACT, Examples(None, proprio, block), path)
    return path.read_bytes()


@pytest.fixture(scope="module")
def held(data: bytes) -> SimpleNamespace:
    return SimpleNamespace(policy=from_bytes(data))


def rewritten(data: bytes, change: Callable[[Any], Any]) -> bytes:
    """The file with its contract changed in place, and a valid digest again."""
    import onnx

    model = onnx.load_model_from_string(data)
    document = json.loads({entry.key: entry.value for entry in model.metadata_props}[CONTRACT_KEY])
    change(document)
    onnx.helper.set_model_props(model, {CONTRACT_KEY: json.dumps(document), DIGEST_KEY: "0" * 64})
    return stamp(model.SerializeToString())


def test_it_acts_on_the_position(held: SimpleNamespace) -> None:
    policy = held.policy
    assert policy.golden_error <= 1e-5
    assert 0.0 < policy.latency_p99_s <= 0.040
    place, proprio = block_input((0.01, 0.10, 0.015), BLOCK), np.array([0.0, 0.12, 0.1, 50.0, 0.0, 0.0], np.float32)
    assert policy.act(place, proprio) == pytest.approx(np.tanh([1.0, -2.0]), abs=1e-5)


def test_other_positions_are_refused_by_name(held: SimpleNamespace) -> None:
    place, proprio = np.array([0.0, 0.1, 0.015], np.float32), np.array([0.0, 0.12, 0.1, 50.0, 0.0, 0.0], np.float32)
    far = place + np.float32([1.0, 0.0, 0.0])
    for wrong in (place[:2], place[None], place.astype(np.float64), place * 1000.0, far, place * np.float32(np.nan), np.zeros((64, 64))):
        with pytest.raises(PolicyError, match="input block"):
            held.policy.act(wrong, proprio)


@given(
    place=hnp.arrays(np.float32, 3, elements=FLOATS),
    proprio=hnp.arrays(np.float32, 6, elements=FLOATS),
)
def test_whatever_goes_in_only_finite_actions_come_out(place: np.ndarray, proprio: np.ndarray, held: SimpleNamespace) -> None:
    try:
        action = held.policy.act(place, proprio)
    except PolicyError:
        return
    assert (place >= np.float32(LOW)).all()
    assert (place <= np.float32(HIGH)).all()
    assert (np.abs(action) <= 1.0 + 1e-5).all()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda d: d["block"].update(name="position"), r"block\.name"),
        (lambda d: d["block"].pop("name"), r"block\.name is missing"),
        (lambda d: d["block"].update(surprise=1), r"block\.surprise is unknown"),
        (lambda d: d["block"].update(min_in_table_m=[0.0, 0.0]), r"block\.min_in_table_m"),
        (lambda d: d["golden"].pop("block"), r"golden\.block inflates to 0 bytes"),
        (lambda d: d["golden"].update(block=d["golden"]["proprio"]), r"golden\.block inflates"),
        (lambda d: d["golden"].update(depth=d["golden"].pop("block")), r"golden\.block inflates"),
        (lambda d: d.update(block=None), "neither"),
        (lambda d: d.update(depth=json.loads(encode(spec.contract()))["depth"]), "both"),
        (lambda d: d.update(block=None, depth=json.loads(encode(spec.contract()))["depth"]), r"depth\.name"),
    ],
    ids=["name", "no name", "unknown", "two axes", "no golden", "other golden", "golden as depth", "neither", "both", "as depth"],
)
def test_a_file_that_contradicts_itself_is_refused_by_field(change: Callable[[Any], Any], named: str, data: bytes) -> None:
    assert from_bytes(rewritten(data, lambda document: None)).contract.variant == "xyz"  # the rewriting alone is accepted
    with pytest.raises(PolicyError, match=named):
        from_bytes(rewritten(data, change))


# --- the runtime

TASK = GraspTask(CONTRACT, PLACE_M)
POSE = np.array(CONTRACT.camera.transform_camera_to_tool)
BLOCK_AT_M = (0.02, 0.11)
Seen = Callable[["Rig"], tuple[float, float] | None]  # where the marker is in view at this moment; None: nowhere


class Straight(FakePolicy):
    """Goes where it is told that the block is."""

    contract = CONTRACT

    def act(self, block: np.ndarray, proprio: np.ndarray) -> np.ndarray:
        self.rig.told.append(tuple(block.tolist()))
        return np.clip((block[:2] - proprio[:2]) / CONTRACT.action.scale_m, -1.0, 1.0).astype(np.float32)


def frame_of(rig: Rig, seen: Seen) -> Frame:
    """A frame of 10 ms ago, by an arm that follows its set points with the servos' lag."""
    frame = rig.frame()
    times_s = [at_s for at_s, _ in rig.sent] or [0.0]
    sent = np.array([command for _, command in rig.sent] or [TASK.park])
    at_s = frame.captured_at_s - robot.SERVO_LAG_S
    joints = JointCommand._make(np.interp(at_s, times_s, column) for column in sent.T)
    place_m = seen(rig)
    if place_m is None:
        return frame._replace(markers=())
    camera = kinematics.transform_tool_to_table(joints, TASK.mount) @ POSE
    return frame._replace(markers=(marker_on(*place_m, 0.3, camera),))


def marked() -> Markers:
    wrist = WristCamera(POSE, TASK.mount)
    return Markers(wrist, BlockTracker(CONTRACT.episode, BlockConfig(), wrist))


def steered(seen: Seen, fixed: FixedMarkerConfig | None = None, **hooks: Callable[[Rig], Any]) -> Rig:
    """One grasp, steered by the block's place."""
    rig = Rig(camera=lambda rig: frame_of(rig, seen), **hooks)
    rig.told = []
    devices = Devices(LateWriter(rig), FakeCamera(rig), FakeClock(rig), lambda: None)
    markers = marked()
    if fixed is not None:
        markers = markers._replace(fixed=FixedMarker(fixed, markers.wrist))
    policy, recorder = Straight(rig), FakeRecorder(rig)
    rig.runtime = Runtime(policy, TASK, devices, recorder, MAX_AGE_S, markers=markers)  # type: ignore[arg-type]
    rig.summary = ended(rig, lambda: rig.runtime.run(1, lambda: False))
    return rig


def closed_at_m(rig: Rig) -> np.ndarray:
    """Where the tool was when the gripper began to close."""
    return tool_m(next(record.sent for record in rig.records if record.phase == "GRASP"))


def holds(rig: Rig) -> list[str]:
    """Each reason once, in their order."""
    return list(dict.fromkeys(record.hold for record in rig.records if record.hold))


def height_m(rig: Rig) -> float:
    return float(tool_m(rig.sent[-1][1])[2]) if rig.sent else 1.0


def test_the_arm_goes_where_the_marker_is() -> None:
    rig = steered(lambda rig: BLOCK_AT_M)
    assert holds(rig) == []
    assert rig.summary.picked == 1
    assert len(rig.told) == CONTRACT.episode.steps
    np.testing.assert_allclose(rig.told, np.tile((*BLOCK_AT_M, 0.015), (len(rig.told), 1)), atol=1e-6)  # while it moves, too
    np.testing.assert_allclose(closed_at_m(rig)[:2], BLOCK_AT_M, atol=1e-3)


def test_without_a_marker_in_view_it_holds_at_the_start_and_goes_on_when_there_is_one() -> None:
    began: list[float] = []

    def late(rig: Rig) -> tuple[float, float] | None:
        if rig.phase == "APPROACH":
            began.append(rig.now_s)
        return BLOCK_AT_M if began and rig.now_s > began[0] + 2.0 else None

    rig = steered(late)
    assert len(holds(rig)) == 1
    assert "no marker is in view, expected a block with one of DICT_4X4_50 30, 31" in holds(rig)[0]
    assert rig.summary.picked == 1
    assert min(place[0] for place in rig.told) == pytest.approx(BLOCK_AT_M[0])


def test_a_marker_that_never_comes_parks_the_arm_which_has_not_moved_from_the_start() -> None:
    rig = steered(lambda rig: None)
    assert rig.summary.stopped_by == "SAFE"
    assert "no marker is in view" in rig.summary.safe_reason
    assert rig.told == []
    assert is_parked(rig)
    assert min(tool_m(record.sent)[2] for record in rig.records if record.phase == "APPROACH") > CONTRACT.episode.start_in_table_m[2] - 1e-6


@pytest.mark.parametrize(("hidden_below_m", "holds_up"), [(HIDDEN_BELOW_M + 0.02, True), (HIDDEN_BELOW_M + 0.001, False)])
def test_a_marker_that_is_lost_too_early_stops_the_descent_until_it_is_seen_again(hidden_below_m: float, holds_up: bool) -> None:
    lost: list[float] = []

    def seen(rig: Rig) -> tuple[float, float] | None:
        if rig.phase == "APPROACH" and height_m(rig) < hidden_below_m:
            lost.append(rig.now_s)
        return None if lost and (not holds_up or rig.now_s < lost[0] + 3.0) else BLOCK_AT_M

    rig = steered(seen)
    assert len({reason.partition(" for ")[0] for reason in holds(rig)}) == holds_up
    assert all("marker 30 has not been seen for" in reason for reason in holds(rig))
    assert rig.summary.picked == 1
    np.testing.assert_allclose(closed_at_m(rig)[:2], BLOCK_AT_M, atol=1e-3)


def test_a_block_that_is_put_elsewhere_stops_the_descent_and_is_then_followed() -> None:
    rig = steered(lambda rig: (-0.03, 0.12) if rig.phase == "APPROACH" and len(rig.told) > 20 else BLOCK_AT_M)
    assert any("mm now, expected where it was; leave it there, or put it back" in reason for reason in holds(rig))
    np.testing.assert_allclose(closed_at_m(rig)[:2], (-0.03, 0.12), atol=1e-3)


def test_a_fixed_marker_that_is_elsewhere_keeps_the_arm_from_descending_and_one_in_its_place_does_not() -> None:
    """The marker in view is taken for the fixed one, too: on the table it is where the ray through a block's top ends."""
    wrist = WristCamera(POSE, TASK.mount)
    wrist.sent(TASK.start, 0.0)
    camera = wrist.transform_camera_to_table(1.0)
    (at_m,) = on_plane(marker_on(*BLOCK_AT_M, 0.3, camera).rays.mean(axis=0)[None], camera, 0.0)
    fixed = FixedMarkerConfig(id=30, at_in_table_m=(float(at_m[0]), float(at_m[1])))
    assert steered(lambda rig: BLOCK_AT_M, fixed).summary.picked == 1
    rig = steered(lambda rig: BLOCK_AT_M, msgspec.structs.replace(fixed, at_in_table_m=(fixed.at_in_table_m[0] + 0.03, 0.07)))
    assert rig.summary.stopped_by == "SAFE"
    assert "has the camera moved?" in rig.summary.safe_reason
    low_m = min(float(tool_m(record.sent)[2]) for record in rig.records if record.phase == "APPROACH")
    assert low_m > CONTRACT.episode.start_in_table_m[2] - 0.006
    assert is_parked(rig)


def test_frames_that_nobody_searched_are_no_frames() -> None:
    rig = Rig(camera=lambda rig: rig.frame())
    rig.told = []
    devices = Devices(LateWriter(rig), FakeCamera(rig), FakeClock(rig), lambda: None)
    markers = marked()
    rig.runtime = Runtime(Straight(rig), TASK, devices, FakeRecorder(rig), MAX_AGE_S, markers=markers)  # type: ignore[arg-type]
    summary = ended(rig, lambda: rig.runtime.run(1, lambda: False))
    assert "was not searched for markers" in summary.safe_reason
    assert rig.told == []


class Camera:
    """With a frame that was, or was not, searched for markers."""

    def __init__(self, markers: tuple[Marker, ...] | None) -> None:
        self._frame = Frame(np.zeros((64, 64), np.float32), CONTRACT.camera.intrinsics, 0.0, 0, markers=markers)

    def start(self) -> Intrinsics:
        return CONTRACT.camera.intrinsics

    def latest(self) -> Frame:
        return self._frame


def test_before_anything_moves_frames_must_be_searched_and_need_not_show_a_marker(held: SimpleNamespace) -> None:
    preflight(held.policy, Camera(()))  # type: ignore[arg-type]
    with pytest.raises(ObservationError, match=r"frames have no markers, expected them searched for a policy of variant 'xyz'"):
        preflight(held.policy, Camera(None))  # type: ignore[arg-type]


def test_policies_that_are_told_different_boxes_do_not_take_over_from_each_other() -> None:
    narrow = msgspec.structs.replace(BLOCK, max_in_table_m=(0.06, 0.13, 0.1))
    assert CONTRACT.task != msgspec.structs.replace(CONTRACT, block=narrow).task
    assert CONTRACT.task != spec.contract().task


def test_a_box_is_data_of_the_contract() -> None:
    narrow = BlockInput("block", (-0.06, 0.07, 0.0), (0.06, 0.13, 0.1))
    with pytest.raises(ObservationError):
        block_input((0.1, 0.1, 0.015), narrow)
    block_input((0.1, 0.1, 0.015), BLOCK)
