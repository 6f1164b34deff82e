"""A system is changed step by step: only what is missing, never twice, and nothing of anybody else's is lost."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge import config
from edge.errors import InstallError
from firmware_tools import provision
from firmware_tools.provision import with_i2c
from tests.firmware_tools.robot import Robot

FOLDER = Path(provision.__file__).parent
I2C = "dtparam=i2c_arm=on,i2c_arm_baudrate=400000"
PARTS = ["dtparam=i2c_arm=on", "dtparam=i2c_arm=off", "dtparam=i2c_arm_baudrate=100000", "dtparam=i2c_arm_baudrate=400000", I2C, f"#{I2C}"]
LINE = st.sampled_from(["# a comment", "[all]", "[pi4]", "[cm5]", "dtparam=audio=on", "", "arm_boost=1", *PARTS])


def i2c_of(text: str, board: str) -> tuple[str, str]:
    """What a board's firmware makes of a config.txt: later lines win, filters name the boards that they are for."""
    applies, found = True, {"i2c_arm": "off", "i2c_arm_baudrate": "100000"}
    for line in text.splitlines():
        if line.startswith("["):
            applies = line in ("[all]", f"[{board}]")
        elif line.startswith("dtparam=") and applies:
            found.update(item.split("=") for item in line.removeprefix("dtparam=").split(","))
    return found["i2c_arm"], found["i2c_arm_baudrate"]


@given(st.lists(LINE).map("\n".join))
def test_on_every_board_i2c_is_on_at_400_khz_afterwards_and_no_line_is_lost(text: str) -> None:
    changed = with_i2c(text)
    for board in ("pi4", "cm5", "pi5"):
        assert i2c_of(changed, board) == ("on", "400000")
    assert changed.startswith(text.rstrip("\n"))
    assert with_i2c(changed) == changed


def test_it_is_left_alone_where_it_says_so_already() -> None:
    text = "dtparam=i2c_arm=on,i2c_arm_baudrate=400000\n"
    assert with_i2c(text) == text


def test_a_slower_bus_that_a_person_asked_for_after_ours_stays() -> None:
    text = with_i2c("") + "dtparam=i2c_arm_baudrate=100000\n"
    assert with_i2c(text) == text
    assert i2c_of(with_i2c(text + "dtparam=i2c_arm=off\n"), "pi5") == ("on", "400000")


@pytest.fixture
def robot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Robot:
    robot = Robot(tmp_path)
    monkeypatch.setenv("PATH", robot.path)
    return robot


def states(robot: Robot, *options: str) -> dict[str, str]:
    code, out, errors = robot.run(next(robot.home.glob("*/install.py")), "provision", *options)
    assert code == 0, errors
    return {step["change"]: step["state"] for step in json.loads(out)}


def tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_a_dry_run_tells_each_step_and_changes_nothing_then_each_is_done_once(robot: Robot) -> None:
    robot.unpack(robot.bundle("0.1.0"))
    config_txt = robot.root / "boot/firmware/config.txt"
    config_txt.write_bytes(b"# caf\xe9\r\ndtparam=audio=on\r\n")
    before = tree(robot.root)
    assert set(states(robot, "--dry-run").values()) == {"to do", "done"}  # done: Python is there
    assert tree(robot.root) == before
    assert "did" in states(robot).values()
    assert set(states(robot).values()) == {"done"}
    assert config_txt.read_bytes().startswith(b"# caf\xe9\r\ndtparam=audio=on\r\n")
    assert config_txt.with_name("config.txt.before-dofbot-grasp").read_bytes() == b"# caf\xe9\r\ndtparam=audio=on\r\n"
    unit = robot.root / "etc/systemd/system/multi-user.target.wants/dofbot-grasp.service"
    assert unit.resolve().read_bytes() == (FOLDER / "dofbot-grasp.service").read_bytes()
    assert (robot.root / "usr/local/bin/dofbot").resolve() == robot.versions.path(robot.current) / "bin/dofbot"
    assert robot.running == ""  # enabled, not started


def test_a_configuration_that_is_there_is_kept(robot: Robot) -> None:
    robot.unpack(robot.bundle("0.1.0"))
    mine = robot.root / provision.CONFIG
    mine.parent.mkdir()
    mine.write_text("[bus]\naddress = 0x41\n")
    states(robot)
    assert mine.read_text() == "[bus]\naddress = 0x41\n"


def test_the_default_configuration_is_one(tmp_path: Path) -> None:
    found = config.load(FOLDER / "config.toml")
    assert found.run.policy == "/opt/dofbot-grasp/current/policy.onnx"
    assert (found.bus.i2c, found.camera.driver) == ("board", "realsense")  # nothing of a robot's is simulated


def test_a_python_that_the_sandbox_hides_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, seen = tmp_path / "hidden", tmp_path / "seen"
    for folder in (hidden, seen):
        folder.mkdir()
        (folder / "python3.12").write_text("#!/bin/sh\n")
        (folder / "python3.12").chmod(0o755)
    monkeypatch.setattr(provision, "HOMES", (str(hidden),))
    monkeypatch.setenv("PATH", str(hidden))
    assert provision.find_python(tmp_path, "3.12") is None
    with pytest.raises(InstallError, match=r"Python 3\.12 is not here, expected python3\.12 outside home directories, or uv"):
        provision.fetch_python(tmp_path, "3.12", lambda _: None)
    monkeypatch.setenv("PATH", str(seen))
    assert provision.find_python(tmp_path, "3.12") == seen / "python3.12"


def test_uv_is_asked_to_put_python_where_the_service_can_read_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uv = tmp_path / "bin" / "uv"
    uv.parent.mkdir()
    made = "$UV_PYTHON_INSTALL_DIR/cpython-3.12.9-linux/bin"
    uv.write_text(f'#!/bin/sh\n[ "$*" = "python install 3.12" ] && mkdir -p {made} && touch {made}/python3.12\n')
    uv.chmod(0o755)
    monkeypatch.setenv("PATH", f"{uv.parent}:/usr/bin:/bin")
    monkeypatch.setattr(provision, "find_python", lambda root, version, find=provision.find_python: find(root, version))
    found = provision.fetch_python(tmp_path, "3.12", lambda _: None)
    assert found.is_relative_to(tmp_path / "opt/dofbot-grasp/python")


def test_a_step_that_cannot_be_done_says_which_and_why(robot: Robot) -> None:
    folder = robot.unpack(robot.bundle("0.1.0"))
    (robot.root / "etc/udev").write_text("in the way")
    code, _, errors = robot.run(folder / "install.py", "provision")
    assert code == 1
    assert "link: " in errors.splitlines()[-1]
    assert "Traceback" not in errors
    assert not os.path.lexists(robot.versions.folder / "current")


@pytest.mark.parametrize(("number", "undo"), [(997, "userdel dofbot; groupdel plugdev"), (1000, "groupdel plugdev")])
def test_nobody_is_told_to_delete_the_account_of_a_person(tmp_path: Path, number: int, undo: str) -> None:
    """Raspberry Pi OS lets one choose a name, and dofbot is a likely one."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text(f"root:x:0:0:root:/root:/bin/bash\ndofbot:x:{number}:{number}::/home/dofbot:/bin/bash\n")
    (tmp_path / "config.toml").write_text("")
    accounts = next(step for step in provision.plan(tmp_path, tmp_path) if step.name == "user and groups")
    assert accounts.undo == undo
    assert ("whom a person logs in as" in accounts.change) == (number == 1000)
