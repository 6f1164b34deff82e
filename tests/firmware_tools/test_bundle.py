"""One file, the same each time; what is in the lock is what a robot can run."""

import re
import tarfile
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge.errors import InstallError
from firmware_tools import bundle, manifest
from tests.firmware_tools.robot import DATE_S, Robot

LOCK = bundle.LOCK.read_text()


def test_the_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    first = Robot(tmp_path / "a").bundle("0.1.0")
    content = tmp_path / "again"
    with bundle.unpacked(first) as folder:
        for path in reversed(sorted(folder.rglob("*"))):  # another order, other dates
            if path.is_file():
                copy = content / path.relative_to(folder)
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_bytes(path.read_bytes())
    second = tmp_path / first.name
    bundle.pack(content, second, DATE_S)
    assert second.read_bytes() == first.read_bytes()


def test_a_full_disk_leaves_no_half_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = tmp_path / "content"
    content.mkdir()
    (content / "file").write_bytes(b"data")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tarfile.TarFile.addfile", full)
    with pytest.raises(OSError, match="No space left"):
        bundle.pack(content, tmp_path / "x.tar.zst", DATE_S)
    assert [path.name for path in tmp_path.iterdir()] == ["content"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Robot(tmp_path_factory.mktemp("robot")).bundle("0.1.0")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
@given(st.data())
def test_no_flipped_bit_changes_what_is_unpacked(whole: Path, tmp_path: Path, data: st.DataObject) -> None:
    flipped, path = bytearray(whole.read_bytes()), tmp_path / "bundle.tar.zst"
    flipped[data.draw(st.integers(0, len(flipped) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(flipped)
    with bundle.unpacked(whole) as folder:
        expected = manifest.read(folder)
    try:
        with bundle.unpacked(path) as folder:  # a few bits of the format say nothing about the content
            assert manifest.check(folder) == expected
    except InstallError:
        pass


def test_a_path_that_leads_out_of_the_bundle_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "evil.tar.zst"
    with (
        path.open("wb") as file,
        zstandard.ZstdCompressor().stream_writer(file) as stream,
        tarfile.open(fileobj=stream, mode="w|") as archive,
    ):
        archive.addfile(tarfile.TarInfo("../../escaped"))
    with pytest.raises(InstallError, match="cannot be unpacked"), bundle.unpacked(path):
        pass


def test_what_cannot_be_read_or_written_is_said_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(bundle, "build_wheel", lambda folder, _: Path("dofbot_grasp-1.0-py3-none-any.whl"))
    monkeypatch.setattr(bundle, "_download", lambda *_: None)
    for out, policy in ((tmp_path, tmp_path / "none.onnx"), (tmp_path / "file", bundle.POLICY)):
        with pytest.raises(InstallError, match=r"none.onnx is not there|file: File exists"):
            bundle.build(out, "aarch64", policy, lambda _: None)


def test_who_has_no_room_to_unpack_it_is_not_told_to_pack_it_again(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tarfile.TarFile.extractall", full)
    with pytest.raises(InstallError, match=r"No space left on device\); mend that and run it again"), bundle.unpacked(whole):
        pass


def test_a_name_that_no_file_can_have_is_refused(tmp_path: Path) -> None:
    path, entry = tmp_path / "odd.tar.zst", tarfile.TarInfo("x")
    entry.pax_headers = {"path": "x\0y"}
    with (
        path.open("wb") as file,
        zstandard.ZstdCompressor().stream_writer(file) as stream,
        tarfile.open(fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT) as archive,
    ):
        archive.addfile(entry)
    with pytest.raises(InstallError, match="cannot be unpacked"), bundle.unpacked(path):
        pass


def test_the_lock_has_a_hash_for_each_version_and_nothing_of_the_workstation() -> None:
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)", LOCK, re.M))
    wanted = {"numpy", "onnxruntime", "msgspec", "pyrealsense2", "gpiod", "smbus2", "opencv-contrib-python-headless", "pynacl", "pip"}
    assert wanted <= set(pins)
    assert not {"torch", "pybullet", "gymnasium", "matplotlib", "numba", "scipy"} & set(pins)
    blocks = re.split(r"^(?=\w)", LOCK, flags=re.M)[1:]
    assert all("--hash=sha256:" in block for block in blocks)


def test_the_lock_has_the_versions_that_the_tests_run_with() -> None:
    constraints = dict(re.findall(r"^([\w.-]+)==(\S+)", (bundle.ROOT / "requirements" / "constraints.txt").read_text(), re.M))
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)", LOCK, re.M))
    assert {name: version for name, version in pins.items() if name != "pip"} == {name: constraints[name] for name in pins if name != "pip"}


def test_no_onnxruntime_that_dies_on_a_pi_4() -> None:
    version = re.search(r"^onnxruntime==(\d+)\.(\d+)", LOCK, re.M)
    assert version
    assert (int(version[1]), int(version[2])) >= (1, 22)  # microsoft/onnxruntime #23957
