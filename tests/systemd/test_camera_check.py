"""The camera is looked at before each start of the service, under a real systemd: what is found says whether the arm may be armed.

The camera is a recording, which the RealSense driver made of a board before the SDK's software device.
"""

import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

import urdf
from calibration import boards
from calibration.check import RETURNS_MIN
from calibration.stills import SETTLES_FIRST
from edge import calibration as files
from edge.cameras import camera_check
from edge.cameras.camera_check import Checked
from edge.config import Config
from tests.calibration.scenes import BOARD
from tests.calibration.scripted_camera import board_in_software
from tests.systemd.conftest import Measure
from tests.systemd.machine import CONFIG, Machine, wait_for

pytestmark = pytest.mark.systemd
STATE = "/var/lib/dofbot-grasp"
REFERENCE, CALIBRATION, BOARD_FILE = f"{STATE}/check.json", f"{STATE}/calibration.json", "/root/fixed.json"
CHECKED = str(camera_check.path_of(Path(CALIBRATION)))
WHERE_IT_WAS, MOVED, ELSEWHERE = "home", "moved", "elsewhere"
SHIFT_PX = {WHERE_IT_WAS: 0.0, MOVED: 3.0, ELSEWHERE: 1000.0}  # 3 px are 2 mm on the board, 0.15 m away; the last sees none of it
FRAMES = 2 * SETTLES_FIRST  # then the recording begins again
REFUSED = 4  # exit code


def sees(service: Machine, what: str) -> None:
    """Let the configured camera see that, and the arm ask for a check."""
    asked = f'[calibration]\nfile = "{CALIBRATION}"\ncheck_max_age_h = 24.0\n'
    camera = f'[camera]\ndriver = "replay"\nfile = "{STATE}/{what}.db3"\nloop = true\n'
    service.write("/etc/dofbot-grasp/config.toml", CONFIG + camera + asked)


def found(service: Machine) -> Checked:
    """The last check's result, as it is kept."""
    return msgspec.json.decode(service.run("cat", CHECKED).stdout, type=Checked)


def children(service: Machine, pid: str) -> list[str]:
    """The processes that this one has started; none of process 0."""
    return service.run("cat", f"/proc/{pid}/task/{pid}/children", check=False).stdout.split()


@pytest.fixture(scope="module")
def taught(
    machine: Machine, installed: dict[str, Any], simulator: "subprocess.Popen[bytes]", tmp_path_factory: pytest.TempPathFactory
) -> None:
    """What a person does once, as root: calibrate the lens, fix a board, and take the reference with the configured camera."""
    sdk = pytest.importorskip("pyrealsense2", reason="the RealSense SDK is not installed here", exc_type=ImportError)
    folder = tmp_path_factory.mktemp("taught")
    machine.add_package(Path(sdk.__file__).parent)
    for name, shift_px in SHIFT_PX.items():
        file = folder / f"{name}.db3"
        with closing(board_in_software(shift_px, FRAMES, str(file))) as camera:
            lens = camera.start()
            wait_for(lambda camera=camera: camera.latest().sequence == FRAMES - 1, 10.0, "all frames are recorded")
        machine.write(f"{STATE}/{name}.db3", file.read_bytes())
    made = files.Lens("123456789012", lens, (0.0,) * 5, files.made("test"))
    files.save(folder / "calibration.json", msgspec.structs.replace(files.blank(Config(), urdf.dofbot_sha256()), lens=made))
    boards.save(folder / "fixed.json", BOARD)
    machine.write(CALIBRATION, (folder / "calibration.json").read_bytes())
    machine.write(BOARD_FILE, (folder / "fixed.json").read_bytes())


@pytest.fixture
def watched(service: Machine, taught: None) -> Iterator[Machine]:
    """The service, with a reference that it checks against at each start."""
    sees(service, WHERE_IT_WAS)
    service.run("rm", "-f", CHECKED)
    learn = ("calibrate", "check", "--live", "--learn", "--board", BOARD_FILE, "--reference", REFERENCE)
    service.dofbot(*learn, "--config", "/etc/dofbot-grasp/config.toml", text="\n" * RETURNS_MIN)
    service.mark()
    yield service
    service.run("rm", "-f", REFERENCE)


def test_a_camera_that_is_where_it_was_lets_the_arm_be_armed(watched: Machine, measure: Measure) -> None:
    measure("start → READY, the camera checked before", watched.systemctl("start"), 10.0)
    assert "where it was: 0.0" in watched.said("where it was").text
    assert watched.show("ActiveState") == "active"
    assert not found(watched).has_moved
    assert watched.run("stat", "--format=%U:%G", CHECKED).stdout.strip() == "dofbot:dofbot"
    watched.dofbot("arm")


def test_a_camera_that_has_moved_does_not_until_it_is_back(watched: Machine) -> None:
    sees(watched, MOVED)
    watched.systemctl("start")
    assert watched.show("ActiveState") == "active"
    off_mm = found(watched).off_mm
    assert 1.5 < off_mm < 2.5  # 3 px at 0.15 m
    refused = watched.dofbot("arm", check=False)
    assert refused.returncode == REFUSED
    assert f"the camera has moved: {off_mm:.1f} mm off on the board" in " ".join(refused.stderr.split())
    sees(watched, WHERE_IT_WAS)
    watched.systemctl("restart")
    watched.dofbot("arm")


def test_a_check_that_cannot_say_leaves_the_last_one_standing(watched: Machine) -> None:
    sees(watched, ELSEWHERE)
    watched.systemctl("start")
    watched.said("dofbot: cannot say: no board in view")
    refused = watched.dofbot("arm", check=False)
    assert refused.returncode == REFUSED
    assert "the camera was never checked" in " ".join(refused.stderr.split())
    sees(watched, WHERE_IT_WAS)
    watched.systemctl("restart")
    before = found(watched)
    sees(watched, ELSEWHERE)
    watched.systemctl("restart")
    assert found(watched) == before
    watched.dofbot("arm")


def test_a_check_that_hangs_is_ended_and_the_service_starts(watched: Machine, measure: Measure) -> None:
    watched.systemctl("start", "--no-block")
    began_s = time.monotonic()
    check = wait_for(lambda: children(watched, watched.show("ControlPID")), 5.0, "the check runs")
    watched.run("sh", "-c", f"kill -STOP {' '.join(check)}")
    wait_for(lambda: watched.show("ActiveState") == "active", 40.0, "the service starts")
    measure("start → READY, the check frozen", time.monotonic() - began_s, 15.0)
    assert watched.show("NRestarts") == "0"
    assert "timeout: sending signal TERM" in watched.said("timeout").text
    assert watched.dofbot("arm", check=False).returncode == REFUSED
