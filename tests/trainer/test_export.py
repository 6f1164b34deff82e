"""An exported file gives torch's actions, carries its contract, and never replaces a file by half or by accident."""

import hashlib
import zlib
from pathlib import Path

import msgspec
import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

from edge import robot  # noqa: E402
from edge.contract import (  # noqa: E402
    SCHEMA_VERSION,
    ActionOutput,
    Contract,
    DepthInput,
    Episode,
    ProprioInput,
    Rates,
    Robot,
    VirtualCamera,
    decode,
)
from edge.contract_check import PROPRIO_FIELDS  # noqa: E402
from edge.errors import PolicyError  # noqa: E402
from edge.messages import Intrinsics  # noqa: E402
from edge.policy import CONTRACT_KEY, DIGEST_KEY, load  # noqa: E402
from trainer.export import Examples, export_onnx  # noqa: E402

SIZE = 16


def make_contract() -> Contract:
    """A contract as it is before export, for a 16×16 camera."""
    return Contract(
        schema_version=SCHEMA_VERSION,
        depth=DepthInput(name="depth", near_m=0.04, far_m=0.36, invalid_value=0.25, max_invalid_fraction=0.6),
        camera=VirtualCamera(
            intrinsics=Intrinsics(SIZE, SIZE, 14.0, 14.0, 7.5, 7.5),
            transform_camera_to_tool=((1.0, 0.0, 0.0, 0.0), (0.0, 1.0, 0.0, 0.0), (0.0, 0.0, 1.0, -0.1), (0.0, 0.0, 0.0, 1.0)),
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
    )


class Actor(torch.nn.Module):
    """Two convolutions; `gain` and `drift` spoil it on demand."""

    def __init__(self, hidden: int = 8, gain: float = 1.0, drift: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.see = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 4, 4), torch.nn.ReLU(), torch.nn.Conv2d(4, 8, 2, 2), torch.nn.Flatten())
        self.decide = torch.nn.Sequential(torch.nn.Linear(8 * 2 * 2 + 6, hidden), torch.nn.Dropout(0.5), torch.nn.Linear(hidden, 2))
        self.gain, self.drift = gain, drift

    def forward(self, depth: torch.Tensor, proprio: torch.Tensor) -> torch.Tensor:
        """Differs by `drift` between torch and the exported graph."""
        decision = self.decide(torch.cat((self.see(depth), proprio * 0.01), dim=1))
        action = self.gain * torch.tanh(decision)
        return action + self.drift if torch.onnx.is_in_onnx_export() else action


def observations(count: int) -> Examples:
    rng = np.random.default_rng(3)
    depth = rng.uniform(0.0, 1.0, (count, 1, SIZE, SIZE)).astype(np.float32)
    low, high = (-0.07, 0.05, 0.01, 1.0, -0.01, -0.01), (0.07, 0.17, 0.11, 100.0, 0.01, 0.01)
    return Examples(depth, rng.uniform(low, high, (count, 6)).astype(np.float32))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "results" / "policy.onnx"


def metadata(path: Path) -> dict[str, str]:
    return {entry.key: entry.value for entry in onnx.load(path).metadata_props}


def test_the_file_gives_torchs_actions_on_observations_it_has_not_seen(path: Path) -> None:
    actor = Actor().eval()
    export_onnx(actor, make_contract(), observations(5), path)
    policy = load(path)
    fresh = observations(55)
    with torch.no_grad():
        wanted = actor(torch.from_numpy(fresh.depth[5:]), torch.from_numpy(fresh.proprio[5:])).numpy()
    found = np.stack([policy.act(d[0], p) for d, p in zip(fresh.depth[5:], fresh.proprio[5:], strict=True)])
    assert np.abs(found - wanted).max() <= 1e-5


def test_the_file_carries_the_contract_it_was_given(path: Path) -> None:
    returned = export_onnx(Actor(), make_contract(), observations(5), path)
    assert decode(metadata(path)[CONTRACT_KEY]) == returned == load(path).contract
    assert msgspec.structs.replace(returned, golden=None) == make_contract()


def test_golden_vectors_cover_constants_noise_and_real_observations(path: Path) -> None:
    examples = observations(40)
    golden = export_onnx(Actor(), make_contract(), examples, path).golden
    assert golden is not None
    depth = np.frombuffer(zlib.decompress(golden.depth), "<f4").reshape(golden.count, SIZE, SIZE)
    proprio = np.frombuffer(zlib.decompress(golden.proprio), "<f4").reshape(golden.count, 6)
    assert golden.count >= 16
    constant = {float(image[0, 0]) for image in depth if np.ptp(image) == 0.0}
    assert constant == {0.0, 1.0, 0.25}
    assert any(np.array_equal(image, examples.depth[0, 0]) for image in depth)
    assert any(np.array_equal(image, examples.depth[-1, 0]) for image in depth)
    assert (proprio >= examples.proprio.min(axis=0)).all()
    assert (proprio <= examples.proprio.max(axis=0)).all()


def test_one_example_is_enough_for_16_vectors(path: Path) -> None:
    golden = export_onnx(Actor(), make_contract(), observations(1), path).golden
    assert golden is not None
    assert golden.count >= 16


def test_the_digest_is_the_files_hash_with_its_own_digits_as_zeros(path: Path) -> None:
    export_onnx(Actor(), make_contract(), observations(5), path)
    stated = metadata(path)[DIGEST_KEY]
    data = path.read_bytes()
    assert data.count(stated.encode()) == 1
    assert hashlib.sha256(data.replace(stated.encode(), b"0" * 64)).hexdigest() == stated


def test_older_runtimes_can_load_the_one_file(path: Path) -> None:
    export_onnx(Actor(), make_contract(), observations(5), path)
    model = onnx.load(path, load_external_data=False)
    onnx.checker.check_model(model, full_check=True)
    assert model.ir_version <= 10
    assert [opset.version for opset in model.opset_import if opset.domain == ""] <= [18]
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert not any(tensor.data_location for tensor in model.graph.initializer)


def test_the_same_actor_gives_the_same_bytes(path: Path) -> None:
    export_onnx(Actor(), make_contract(), observations(5), path)
    first = path.read_bytes()
    export_onnx(Actor(), make_contract(), observations(5), path, overwrite=True)
    assert path.read_bytes() == first


def test_the_actor_is_left_as_it_was(path: Path) -> None:
    actor = Actor().train()
    export_onnx(actor, make_contract(), observations(5), path)
    assert actor.training
    assert all(parameter.requires_grad for parameter in actor.parameters())


def test_an_existing_file_is_replaced_only_when_told(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("mine")
    with pytest.raises(PolicyError, match="--force") as caught:
        export_onnx(Actor(), make_contract(), observations(5), path)
    assert str(path) in str(caught.value)
    assert path.read_text() == "mine"
    export_onnx(Actor(), make_contract(), observations(5), path, overwrite=True)
    load(path)


def test_whoever_reads_the_old_file_while_it_is_replaced_reads_it_whole(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("old" * 100_000)
    with path.open() as reader:
        begun = reader.read(3)
        export_onnx(Actor(), make_contract(), observations(5), path, overwrite=True)
        assert begun + reader.read() == "old" * 100_000


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.parent.mkdir()
    path.write_text("old")

    def no_space(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("edge.files.os.fsync", no_space)
    with pytest.raises(PolicyError, match="No space left"):
        export_onnx(Actor(), make_contract(), observations(5), path, overwrite=True)
    assert path.read_text() == "old"
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PolicyError, match="cannot write"):
        export_onnx(Actor(), make_contract(), observations(5), tmp_path / "file" / "policy.onnx")


@pytest.mark.parametrize(
    ("actor", "reason"),
    [
        (Actor(gain=float("nan")), "not finite"),
        (Actor(gain=100.0), r"outside \[-1, 1\]"),
        (Actor(drift=5e-5), "differs from torch by 5e-05"),
        (Actor(drift=0.1, gain=0.5), r"golden\.action"),
        (Actor(hidden=300_000), "expected at most 10000000"),
    ],
    ids=["nan", "unsquashed", "drift", "other graph", "too large"],
)
def test_a_spoilt_actor_is_refused_before_anything_is_written(actor: Actor, reason: str, path: Path) -> None:
    with pytest.raises(PolicyError, match=reason):
        export_onnx(actor, make_contract(), observations(5), path)
    assert not path.parent.exists()


@pytest.mark.parametrize(
    "examples",
    [
        observations(0),
        Examples(observations(2).depth[:, 0], observations(2).proprio),
        Examples(observations(2).depth[..., :-1], observations(2).proprio),
        Examples(observations(2).depth, observations(2).proprio[:, :3]),
        Examples(observations(2).depth, observations(3).proprio),
    ],
    ids=["none", "no channel", "narrow", "short vector", "unequal"],
)
def test_examples_of_another_shape_are_refused(examples: Examples, path: Path) -> None:
    with pytest.raises(PolicyError, match="examples have shapes"):
        export_onnx(Actor(), make_contract(), examples, path)


def test_a_contract_that_no_robot_would_take_is_refused(path: Path) -> None:
    contract = make_contract()
    contract = msgspec.structs.replace(contract, rates=Rates(tick_hz=float("nan"), ticks_per_step=2))
    with pytest.raises(PolicyError, match=r"rates\.tick_hz"):
        export_onnx(Actor(), contract, observations(5), path)
