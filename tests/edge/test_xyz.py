"""A policy that is told where the block is: its contract, its input, its file, and that the runtime does not take it yet."""

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

from edge.contract import BlockInput, Contract, Golden, Training, decode, encode
from edge.contract_check import check_contract, parse
from edge.errors import ObservationError, PolicyError
from edge.grasping import Grasping
from edge.messages import Intrinsics
from edge.observation import block_input
from edge.policy import CONTRACT_KEY, DIGEST_KEY, from_bytes, load, stamp
from edge.preflight import preflight
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


class Untouchable:
    """A device that must not be used."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} was used")


def test_the_runtime_refuses_it_in_one_sentence_before_anything_moves(held: SimpleNamespace) -> None:
    device: Any = Untouchable()
    with pytest.raises(PolicyError, match="cannot detect a marker on the block yet; use a policy of variant 'depth'") as caught:
        preflight(held.policy, device)
    assert "\n" not in str(caught.value)
    with pytest.raises(PolicyError, match="marker"):
        Grasping(held.policy, device, device, device, device, device)


def test_a_depth_policy_passes_the_same_gate() -> None:
    class Camera:
        def start(self) -> Intrinsics:
            return spec.contract().camera.intrinsics

        def latest(self) -> None:
            return None

    preflight(load(SHIPPED), Camera())  # type: ignore[arg-type]


def test_a_box_is_data_of_the_contract() -> None:
    narrow = BlockInput("block", (-0.06, 0.07, 0.0), (0.06, 0.13, 0.1))
    with pytest.raises(ObservationError):
        block_input((0.1, 0.1, 0.015), narrow)
    block_input((0.1, 0.1, 0.015), BLOCK)
