"""Still images of the configured camera: the newest, settled, of the calibrated one; what is wrong is one sentence."""

from pathlib import Path

import numpy as np
import pytest

from calibration.live import stills
from edge import calibration as files
from edge.config import CameraConfig, Config
from edge.errors import CalibrationError, ConfigError, ObservationError, RefusedError
from edge.messages import Frame, Intrinsics
from firmware_tools import bus_in_use
from tests.calibration.scripted_camera import BLACK, FACTORY, NOTHING, SIZE, ScriptedCamera

REALSENSE = Config(camera=CameraConfig(driver="realsense"))


def numbered(number: int) -> np.ndarray:
    return np.full(SIZE[::-1], 50 + number, np.uint8)


def test_a_still_is_the_newest_once_the_exposure_has_settled() -> None:
    camera = ScriptedCamera(numbered(n) for n in range(60))
    source = stills.Stills(camera)
    assert source.serial == "7"
    assert source.factory == FACTORY
    first, second = source.still(), source.still()
    assert first[0, 0] == 50 + stills.SETTLES_FIRST
    assert second[0, 0] == first[0, 0] + 1 + stills.SETTLES


def test_each_frame_is_given_once_and_a_camera_that_stops_is_told(monkeypatch) -> None:
    class Stuck(ScriptedCamera):
        def latest(self) -> Frame | None:
            self.brought = 0
            return super().latest()

    monkeypatch.setattr(stills, "NEXT_WITHIN_S", 0.05)
    source = stills.Stills(Stuck([NOTHING]))
    source.next()
    with pytest.raises(ObservationError, match=r"no new image for 0.05 s, expected about 25 a second; is the camera plugged in\?"):
        source.next()


def test_black_images_and_frames_without_one_are_refused() -> None:
    with pytest.raises(CalibrationError, match="the image is black: its brightest parts have 3 of 255 grey levels; take the cap off"):
        stills.Stills(ScriptedCamera([BLACK] * 40)).still()
    with pytest.raises(ObservationError, match="frames have no image"):
        stills.Stills(ScriptedCamera([None])).next()


def test_a_camera_without_a_board_before_it_is_refused() -> None:
    with pytest.raises(ConfigError, match="camera.driver = 'simulator' takes no picture of a board, expected 'realsense'; .*--simulate"):
        stills.opened(Config()).__enter__()


def test_a_recording_is_a_camera_too(tmp_path) -> None:
    pytest.importorskip("pyrealsense2", reason="the RealSense SDK is not installed here", exc_type=ImportError)
    config = Config(camera=CameraConfig(driver="replay", file=str(tmp_path / "none.db3")))
    with pytest.raises(ObservationError, match="none.db3 does not exist"):
        stills.opened(config).__enter__()


def test_while_a_runtime_has_the_camera_nobody_else_opens_it(monkeypatch) -> None:
    monkeypatch.setattr(bus_in_use, "who_drives", lambda config: "dofbot run, which is DISARMED")
    monkeypatch.setattr("edge.cameras.capture.CaptureProcess", lambda *arguments: pytest.fail("it was opened"))
    with pytest.raises(RefusedError, match="the camera belongs to dofbot run, which is DISARMED, .*sudo systemctl stop dofbot-grasp"):
        stills.opened(REALSENSE).__enter__()


def calibrated(serial: str = "7", intrinsics: Intrinsics = FACTORY) -> files.Calibration:
    lens = files.Lens(serial, intrinsics, (0.0,) * 5, files.made("test"))
    return files.Calibration(files.SCHEMA_VERSION, "ab", 0.388, True, "pca9685", lens=lens)


def test_only_the_calibrated_camera_in_the_calibrated_profile_is_used() -> None:
    path = Path("robot.json")
    camera = ScriptedCamera([NOTHING])
    with stills.opened(Config(), (calibrated(), path), camera) as source:
        assert source.serial == "7"
    assert camera.is_closed
    camera = ScriptedCamera([NOTHING])
    with pytest.raises(ConfigError, match="lens.serial is '8', expected '7', which is plugged in"):
        stills.opened(Config(), (calibrated(serial="8"), path), camera).__enter__()
    assert camera.is_closed
    other = FACTORY._replace(width=640, height=480)
    with pytest.raises(ConfigError, match="424 × 240 pixels, expected 640 × 480 as the lens in robot.json; set camera.width and height"):
        stills.opened(Config(), (calibrated(intrinsics=other), path), ScriptedCamera([NOTHING])).__enter__()
