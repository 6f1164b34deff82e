"""A calibration is written whole or not at all, read back as it was, and refused on any robot but its own."""

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest

from edge import calibration
from edge.calibration import BoardCalibration, Calibration, Check, DepthCorrection, HandEye, Lens, Made, Pca9685Calibration
from edge.config import BusConfig, Config, MountConfig
from edge.errors import ConfigError
from edge.messages import Intrinsics

MADE = Made("2026-11-29T06:00:00+00:00", "dofbot servo zero", sigma={"joint2.zero_deg": 0.1})
POSE = tuple(map(tuple, np.diag((1.0, -1.0, -1.0, 1.0)).tolist()))
WHOLE = Calibration(
    schema_version=calibration.SCHEMA_VERSION,
    urdf_sha256="ab",
    base_height_m=0.388,
    inverted=True,
    driver="pca9685",
    pca9685=Pca9685Calibration(24_600_000, BusConfig().servos, MADE),
    dofbot_board=BoardCalibration(BusConfig().board.servos, MADE),
    lens=Lens("123", Intrinsics(424, 240, 214.0, 214.0, 211.5, 119.5), (0.0, 0.0, 0.0, 0.0, 0.0), MADE),
    hand_eye=HandEye("123", POSE, MADE),
    depth=DepthCorrection("123", 1.01, 0.002, MADE),
)


def replaced(**parts: object) -> Calibration:
    return msgspec.structs.replace(WHOLE, **parts)


def refusal(path: Path, call: object) -> str:
    with pytest.raises(ConfigError) as caught:
        call()  # type: ignore[operator]
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


def test_what_is_saved_is_what_is_loaded_and_the_one_before_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "robot" / "calibration.json"
    calibration.save(path, WHOLE)
    assert calibration.load(path) == WHOLE
    assert not calibration.previous_of(path).exists()
    calibration.save(path, replaced(depth=None))
    assert calibration.load(path) == replaced(depth=None)
    assert calibration.load(calibration.previous_of(path)) == WHOLE
    assert sorted(file.name for file in path.parent.iterdir()) == ["calibration.json", "calibration.json.previous"]


def test_it_goes_before_the_configuration() -> None:
    config = calibration.applied(Config(), WHOLE)
    assert config.bus.reference_clock_hz == 24_600_000
    assert calibration.applied(Config(), replaced(pca9685=None)) == Config()


@pytest.mark.parametrize("found", [0.6, float("nan"), float("inf")])
def test_a_result_that_did_not_pass_is_not_written(tmp_path: Path, found: float) -> None:
    path = tmp_path / "calibration.json"
    calibration.save(path, WHOLE)
    poor = replaced(hand_eye=HandEye("123", POSE, Made("", "", checks=(Check("held-out error, mm", found, 0.5),))))
    assert "held-out error" in refusal(path, lambda: calibration.save(path, poor))
    assert calibration.load(path) == WHOLE
    assert not calibration.previous_of(path).exists()


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (replaced(hand_eye=HandEye("123", tuple(map(tuple, np.eye(4)[[1, 0, 2, 3]].tolist())), MADE)), "no rigid pose"),
        *(
            (replaced(lens=msgspec.structs.replace(WHOLE.lens, intrinsics=WHOLE.lens.intrinsics._replace(**{name: value}))), "lens")
            for name, value in (("fx", -214.0), ("fy", 0.0), ("width", 0), ("height", -240))
        ),
        (replaced(depth=DepthCorrection("123", 2.0, 0.0, MADE)), "depth.scale"),
        (replaced(depth=DepthCorrection("123", float("nan"), 0.0, MADE)), "depth.scale"),
        (replaced(pca9685=Pca9685Calibration(25_000_000, BusConfig().servos[:1] * 6, MADE)), "channel"),
        (replaced(dofbot_board=BoardCalibration(BusConfig().board.servos[:1] * 6, MADE)), "ids"),
    ],
)
def test_what_cannot_be_is_not_written(tmp_path: Path, broken: Calibration, says: str) -> None:
    path = tmp_path / "calibration.json"
    assert says in refusal(path, lambda: calibration.save(path, broken))
    assert not path.exists()


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"schema_version": 1}', b"[" * 100_000, msgspec.json.encode(WHOLE)[:-40]),
        msgspec.json.encode(WHOLE).replace(b"pca9685", b"pca\xff685", 1),
    ],
    ids=["empty", "open", "list", "null", "bytes", "no fields", "deep", "truncated", "a byte in a name"],
)
def test_a_damaged_file_is_one_sentence(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "calibration.json"
    path.write_bytes(data)
    refusal(path, lambda: calibration.load(path))


def test_a_damaged_file_says_where_the_one_before_is(tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    calibration.save(path, WHOLE)
    calibration.save(path, WHOLE)
    path.write_bytes(b"{")
    assert "calibration.json.previous" in refusal(path, lambda: calibration.load(path))


def test_another_schema_and_a_missing_file_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    assert "No such file" in refusal(path, lambda: calibration.load(path))
    path.write_text(json.dumps({"schema_version": 2, "new": 1}))
    assert "schema_version 2, expected 1" in refusal(path, lambda: calibration.load(path))


@pytest.mark.parametrize(
    ("mount", "bus", "urdf", "says"),
    [
        (MountConfig(base_height_m=0.4), BusConfig(), "ab", "base_height_m is 0.388, expected 0.4"),
        (MountConfig(inverted=False), BusConfig(), "ab", "inverted"),
        (MountConfig(), BusConfig(driver="dofbot_board"), "ab", "driver is pca9685, expected dofbot_board"),
        (MountConfig(), BusConfig(), "cd", "urdf_sha256"),
    ],
)
def test_a_calibration_of_another_robot_is_refused(tmp_path: Path, mount: MountConfig, bus: BusConfig, urdf: str, says: str) -> None:
    calibration.check_robot(WHOLE, tmp_path, MountConfig(), BusConfig(), "ab")
    assert says in refusal(tmp_path, lambda: calibration.check_robot(WHOLE, tmp_path, mount, bus, urdf))


@pytest.mark.parametrize("part", ["lens", "hand_eye", "depth"])
def test_a_calibration_of_another_camera_is_refused(tmp_path: Path, part: str) -> None:
    calibration.check_camera(WHOLE, tmp_path, "123")
    other = replaced(**{part: msgspec.structs.replace(getattr(WHOLE, part), serial="999")})
    assert f"{part}.serial is '999', expected '123'" in refusal(tmp_path, lambda: calibration.check_camera(other, tmp_path, "123"))


def test_a_simulator_has_nothing_to_calibrate() -> None:
    with pytest.raises(ConfigError, match="nothing to calibrate"):
        calibration.blank(Config(bus=BusConfig(driver="simulator")), "ab")
    assert calibration.blank(Config(), "ab").driver == "pca9685"


ELSEWHERE = {
    "forearm_camera": calibration.ForearmCamera("123", POSE, MADE),
    "fixed_camera": calibration.FixedCamera("123", POSE, MADE),
}


@pytest.mark.parametrize("part", ELSEWHERE)
def test_a_camera_that_is_not_on_the_wrist_is_kept_and_no_policy_runs_with_it(tmp_path: Path, part: str) -> None:
    path, found = tmp_path / "calibration.json", replaced(hand_eye=None, **{part: ELSEWHERE[part]})
    calibration.save(path, found)
    assert calibration.load(path) == found
    message = refusal(path, lambda: calibration.check_placement(found, path))
    assert part in message
    assert "expected it on the wrist" in message
    assert "another camera" in refusal(path, lambda: calibration.check_camera(found, path, "124"))


def test_the_wrists_own_camera_may_run(tmp_path: Path) -> None:
    calibration.check_placement(WHOLE, tmp_path)
    calibration.check_placement(replaced(hand_eye=None), tmp_path)


@pytest.mark.parametrize("part", ELSEWHERE)
def test_one_camera_has_one_place(tmp_path: Path, part: str) -> None:
    path = tmp_path / "calibration.json"
    assert "expected one place" in refusal(path, lambda: calibration.save(path, replaced(**{part: ELSEWHERE[part]})))
    askew = msgspec.structs.replace(ELSEWHERE[part], **{name: (POSE[1], *POSE[1:]) for name in dir(ELSEWHERE[part]) if "transform" in name})
    assert "no rigid pose" in refusal(path, lambda: calibration.save(path, replaced(hand_eye=None, **{part: askew})))
    assert not path.exists()


def test_a_file_of_another_user_is_not_taken_for_a_missing_one(tmp_path, monkeypatch) -> None:
    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(ConfigError, match=r"robot\.json may not be read by this user, expected it to; sudo chmod a\+r"):
        calibration.load(tmp_path / "robot.json")
