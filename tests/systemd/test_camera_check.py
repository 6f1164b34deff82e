"""The camera is looked at before each start of the service, under a real systemd: what is found says whether the arm may be armed."""

import io
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import urdf
from calibration import boards
from calibration.check import RETURNS_MIN
from calibration.opencv import Lens
from calibration.simulated import render
from edge import calibration as files
from edge.cameras import camera_check
from edge.cameras.camera_check import Checked
from edge.config import Config
from edge.messages import Intrinsics
from tests.calibration.scenes import BOARD, facing
from tests.systemd.conftest import Measure
from tests.systemd.machine import CONFIG, Machine, wait_for
from tests.systemd.rootfs import ROOT

pytestmark = pytest.mark.systemd
STATE = "/var/lib/dofbot-grasp"
REFERENCE, CALIBRATION, BOARD_FILE = f"{STATE}/check.json", f"{STATE}/calibration.json", f"{STATE}/fixed.json"
CHECKED = str(camera_check.path_of(Path(CALIBRATION)))
CONFIGURED = f'{CONFIG}[camera]\ndriver = "realsense"\n[calibration]\nfile = "{CALIBRATION}"\ncheck_max_age_h = 24.0\n'
MOVED_PX = 3.0  # 2 mm on the board, which is 0.15 m away
OUT_OF_VIEW_PX = 1000.0
REFUSED = 4  # exit code


def sees(service: Machine, lens: Intrinsics, shift_px: float = 0.0) -> None:
    """Let the camera see the board so far beside where it was."""
    from tests.systemd.plugged_in import PICTURE

    file = io.BytesIO()
    np.save(file, render.view(BOARD, facing(0.15, BOARD.size_m, 0.1), Lens(lens._replace(cx=lens.cx + shift_px))))
    service.write(PICTURE, file.getvalue())


def found(service: Machine) -> Checked:
    """The last check's result, as it is kept."""
    return msgspec.json.decode(service.run("cat", CHECKED).stdout, type=Checked)


def children(service: Machine, pid: str) -> list[str]:
    """The processes that this one has started; none of process 0."""
    return service.run("sh", "-c", f"cat /proc/{pid}/task/*/children", check=False).stdout.split()  # any thread's


def why_refused(service: Machine) -> str:
    """Why `dofbot arm` is refused."""
    result = service.dofbot("arm", check=False)
    assert result.returncode == REFUSED, result.stdout
    return " ".join(result.stderr.split())


@pytest.fixture(scope="module")
def lens(
    machine: Machine, installed: dict[str, Any], simulator: "subprocess.Popen[bytes]", tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Intrinsics]:
    """Of a camera that is plugged in, and is calibrated. Everything but the device itself is what a robot has."""
    sdk = pytest.importorskip("pyrealsense2", reason="the RealSense SDK is not installed here", exc_type=ImportError)
    from tests.edge.software_realsense import FX, HEIGHT, WIDTH
    from tests.systemd.plugged_in import DRIVER

    packages = machine.packages()
    machine.copy(Path(sdk.__file__).parent, f"{packages}/pyrealsense2")
    for module in ("tests/edge/software_realsense.py", "tests/systemd/plugged_in.py"):
        machine.copy(ROOT / module, f"{packages}/{module}")
    driver = machine.run("cat", f"{packages}/edge/cameras/realsense.py").stdout
    machine.write(f"{packages}/edge/cameras/realsense.py", driver + DRIVER)
    lens, folder = Intrinsics(WIDTH, HEIGHT, FX, FX, WIDTH / 2 - 0.5, HEIGHT / 2 - 1.5), tmp_path_factory.mktemp("calibrated")
    made = files.Lens("123456789012", lens, (0.0,) * 5, files.made("test"))
    files.save(folder / "calibration.json", msgspec.structs.replace(files.blank(Config(), urdf.dofbot_sha256()), lens=made))
    boards.save(folder / "fixed.json", BOARD)
    machine.copy(folder / "calibration.json", CALIBRATION)
    machine.copy(folder / "fixed.json", BOARD_FILE)
    yield lens
    machine.write(f"{packages}/edge/cameras/realsense.py", driver)


@pytest.fixture
def watched(service: Machine, lens: Intrinsics) -> Iterator[Machine]:
    """The service, whose camera is checked at each start against what a person has let it learn, as root."""
    service.write("/etc/dofbot-grasp/config.toml", CONFIGURED)
    sees(service, lens)
    service.run("rm", "-f", CHECKED)
    learn = ("calibrate", "check", "--live", "--learn", "--board", BOARD_FILE, "--reference", REFERENCE, "--calibration", CALIBRATION)
    service.dofbot(*learn, "--config", "/etc/dofbot-grasp/config.toml", text="\n" * RETURNS_MIN)
    service.mark()
    yield service
    service.run("rm", REFERENCE)


def test_a_camera_that_is_where_it_was_lets_the_arm_be_armed(watched: Machine, measure: Measure) -> None:
    measure("start → READY, the camera checked before", watched.systemctl("start"), 10.0)
    assert watched.said("where it was: 0.0")
    assert not found(watched).has_moved
    assert watched.run("stat", "--format=%U:%G", CHECKED).stdout.strip() == "dofbot:dofbot"
    watched.dofbot("arm")
    watched.run("sh", "-c", f"kill -KILL {watched.show('MainPID')}")
    wait_for(lambda: watched.show("NRestarts") == "1" and watched.show("ActiveState") == "active", 15.0, "it is restarted")
    watched.dofbot("arm")  # the socket that was left behind is nobody who has the camera


def test_a_camera_that_has_moved_does_not_until_it_is_back(watched: Machine, lens: Intrinsics) -> None:
    sees(watched, lens, MOVED_PX)
    watched.systemctl("start")
    off_mm = found(watched).off_mm
    assert 1.5 < off_mm < 2.5
    assert f"the camera has moved: {off_mm:.1f} mm off on the board" in why_refused(watched)
    sees(watched, lens)
    watched.systemctl("restart")
    watched.dofbot("arm")


def test_a_check_that_cannot_say_leaves_the_last_one_standing(watched: Machine, lens: Intrinsics) -> None:
    sees(watched, lens, OUT_OF_VIEW_PX)
    watched.systemctl("start")
    assert watched.said("dofbot: cannot say: no board in view")
    assert "the camera was never checked" in why_refused(watched)
    sees(watched, lens)
    watched.systemctl("restart")
    before = found(watched)
    sees(watched, lens, OUT_OF_VIEW_PX)
    watched.systemctl("restart")
    assert found(watched) == before
    watched.dofbot("arm")


def test_a_camera_that_another_program_has_cannot_be_checked(watched: Machine) -> None:
    from tests.systemd.plugged_in import PICTURE

    held = "systemd-run --quiet --unit=another-program flock {} sleep infinity"
    watched.run(*held.format(PICTURE).split())
    watched.systemctl("start", "--no-block")
    assert "Device or resource busy" in watched.said("dofbot: cannot say: the camera cannot be opened").text
    watched.run("systemctl", "stop", "another-program")
    wait_for(lambda: watched.show("ActiveState") == "active", 20.0, "it is active once the camera is free")


def test_a_camera_that_comes_late_is_waited_for(watched: Machine, lens: Intrinsics) -> None:
    """As after a boot, or a reset: were each attempt a start of the service, its five would be over within seconds."""
    from tests.systemd.plugged_in import PICTURE

    watched.run("rm", PICTURE)
    watched.systemctl("start", "--no-block")
    wait_for(lambda: "waiting for the camera" in watched.show("StatusText"), 20.0, "it says what it waits for")
    time.sleep(6.0)  # five starts took 4 s
    assert watched.show("ActiveState") == "activating"
    sees(watched, lens)
    wait_for(lambda: watched.show("ActiveState") == "active", 20.0, "it is active once the camera is there")
    assert watched.show("NRestarts") == "0"


def test_a_check_that_hangs_is_ended_and_the_service_starts(watched: Machine, measure: Measure) -> None:
    began_s = time.monotonic()
    watched.systemctl("start", "--no-block")
    (check,) = wait_for(lambda: children(watched, watched.show("ControlPID")), 5.0, "the check runs")
    wait_for(lambda: children(watched, check), 5.0, "it has opened the camera in a process of its own")
    watched.run("sh", "-c", f"kill -STOP {check}")
    wait_for(lambda: watched.show("ActiveState") == "active", 40.0, "the service starts")
    measure("start → READY, the check frozen", time.monotonic() - began_s, 15.0)
    assert watched.show("NRestarts") == "0"  # so the camera was free
    assert watched.said("timeout: sending signal TERM")
    assert "the camera was never checked" in why_refused(watched)
