"""What the disk has lost since a policy was activated does not keep the arm from working, and brings none that nobody vouches for."""

import logging
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from edge import policy, service
from edge.devices import Devices
from edge.errors import LatePolicyError, PolicyError
from edge.policies import signature
from edge.policies.policy_slots import BUNDLED
from tests.edge.rig import FakeBus, FakeCamera, FakeClock, Rig
from tests.firmware_tools.policy_robot import BUNDLED_DATA, NOW, PolicyRobot, variant

ACTIVE, PREVIOUS = variant(1), variant(2)


def kept(robot: PolicyRobot, data: bytes) -> str:
    return robot.slots.keep(data, signature.sign(policy.digest(data), robot.key.path, NOW))


@pytest.fixture
def robot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PolicyRobot:
    """Two policies in its slots; devices are the rig's."""
    monkeypatch.setattr(policy, "LATENCY_PROBES", 100)  # this machine may be busy
    rig = Rig()
    monkeypatch.setattr(service, "open_devices", lambda *_: Devices(FakeBus(rig), FakeCamera(rig), FakeClock(rig), lambda: None))
    monkeypatch.setattr(service, "preflight", lambda *_: None)
    robot = PolicyRobot(tmp_path)
    robot.slots.point("previous", kept(robot, PREVIOUS))
    robot.slots.point("active", kept(robot, ACTIVE))
    return robot


def starts_with(robot: PolicyRobot) -> tuple[str, str]:
    """Digest and warning."""
    with service.opened(robot.settings, records=False) as parts:
        return parts.policy.sha256, parts.policy_warning


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100_000])


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def become_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def lose_its_signature(path: Path) -> None:
    path.with_suffix(signature.SUFFIX).unlink()


def lose_half_its_signature(path: Path) -> None:
    document = path.with_suffix(signature.SUFFIX)
    document.write_bytes(document.read_bytes()[:100])


def take_anothers_signature(path: Path) -> None:
    shutil.copyfile(path.with_name(f"{policy.digest(PREVIOUS)[:12]}.sig"), path.with_suffix(signature.SUFFIX))


def become_another_policy(path: Path) -> None:
    path.write_bytes(variant(3))


DAMAGE: dict[Callable[[Path], object], str] = {
    cut_short: "cut short|damaged",
    flip_a_bit: "the signature is for",
    Path.unlink: "not readable",
    lambda path: path.write_bytes(b""): "cut short",
    become_a_folder: "not a regular file",
    lose_its_signature: "has no signature, expected one",
    lose_half_its_signature: "the signature does not verify",
    take_anothers_signature: "the signature is for",
    become_another_policy: "the signature is for",
}


def test_the_active_one_decides_without_a_word(robot: PolicyRobot, caplog: pytest.LogCaptureFixture) -> None:
    assert starts_with(robot) == (policy.digest(ACTIVE), "")
    assert not caplog.records


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_one_gives_way_to_the_one_before_and_says_so(
    robot: PolicyRobot, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], object]
) -> None:
    active = robot.slots.active
    damage(robot.slots.path(active))
    sha256, warning = starts_with(robot)
    assert sha256 == policy.digest(PREVIOUS)
    assert robot.slots.active == active  # who looks later finds what was wrong
    [said] = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    for text in (warning, said):
        assert active in text
        assert re.search(DAMAGE[damage], text)
        assert "\n" not in text


def test_with_both_damaged_the_versions_own_decides_and_with_all_three_none(robot: PolicyRobot, caplog: pytest.LogCaptureFixture) -> None:
    for name in (robot.slots.active, robot.slots.linked("previous")):
        cut_short(robot.slots.path(name))
    assert starts_with(robot)[0] == policy.digest(BUNDLED_DATA)
    assert len(caplog.records) == 2
    cut_short(robot.slots.path(BUNDLED))
    with pytest.raises(PolicyError, match=r"bundled\.onnx.*(cut short|damaged)"):
        starts_with(robot)


def test_where_the_versions_own_is_the_active_one_and_damaged_the_one_before_decides(robot: PolicyRobot) -> None:
    robot.slots.point("active", BUNDLED)
    flip_a_bit(robot.slots.path(BUNDLED))
    sha256, warning = starts_with(robot)
    assert sha256 == policy.digest(PREVIOUS)
    assert warning.startswith("not the active one, bundled: ")


def test_a_withdrawn_key_leaves_the_versions_own(robot: PolicyRobot, tmp_path: Path) -> None:
    other = signature.make_key(tmp_path / "other")
    robot.settings = replace(robot.settings, policy=replace(robot.settings.policy, trusted_keys=(other.public,)))
    sha256, warning = starts_with(robot)
    assert sha256 == policy.digest(BUNDLED_DATA)
    assert "expected one of the 1 in policy.trusted_keys" in warning


def test_unsigned_ones_start_where_the_configuration_allows_them(robot: PolicyRobot, tmp_path: Path) -> None:
    free = PolicyRobot(tmp_path / "free", allow_unsigned=True)
    free.slots.point("active", free.slots.keep(ACTIVE, None))
    assert starts_with(free) == (policy.digest(ACTIVE), "")


def test_one_that_is_only_slow_just_now_is_tried_again_later(robot: PolicyRobot, monkeypatch: pytest.MonkeyPatch) -> None:
    def late(*_: object) -> None:
        raise LatePolicyError("latency is 50 ms")

    monkeypatch.setattr(service, "load", late)
    with pytest.raises(LatePolicyError):
        starts_with(robot)


def test_the_process_goes_over_to_no_policy_that_nobody_vouches_for(robot: PolicyRobot) -> None:
    by_another = signature.sign(policy.digest(variant(4)), signature.make_key(robot.home / "other").path, NOW)
    for path, why in (
        (robot.file(variant(3), None), "has no signature"),
        (robot.slots.path(robot.slots.keep(variant(4), by_another)), "signed with the key"),
    ):
        with pytest.raises(PolicyError, match=f"policy {path}: .*{why}"):
            service._load(robot.settings, path)


def test_what_was_vouched_for_is_what_decides_whatever_becomes_of_the_file_meanwhile(
    robot: PolicyRobot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever may use the control socket names the path, and may change what lies there between two looks at it."""
    path, check, resolve = robot.slots.path(kept(robot, variant(3))), signature.check, Path.resolve

    def then_replaced(*arguments: object) -> None:
        check(*arguments)  # type: ignore[arg-type]
        path.write_bytes(variant(4))

    with monkeypatch.context() as patch:
        patch.setattr(signature, "check", then_replaced)
        assert service._load(robot.settings, path).sha256 == policy.digest(variant(3))
    link = robot.home / "link.onnx"
    link.symlink_to(robot.slots.path(BUNDLED))  # needs no signature

    def then_led_elsewhere(found: Path, strict: bool = False) -> Path:
        led = resolve(found, strict)
        if found == link:
            link.unlink()
            link.symlink_to(path)
        return led

    monkeypatch.setattr(Path, "resolve", then_led_elsewhere)
    assert service._load(robot.settings, link).sha256 == policy.digest(BUNDLED_DATA)
