"""Still images of one camera, in grey: what every live step takes its images with.

From a RealSense they are of the imager that its depth is computed from, on the depth's own pixels, so that one lens holds for both.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edge import calibration as files
from edge.cameras.camera import DepthCamera
from edge.errors import CalibrationError, ConfigError, ObservationError, RefusedError
from edge.messages import Frame, Grey

if TYPE_CHECKING:
    from edge.calibration import Calibration
    from edge.config import Config

SETTLES_FIRST, SETTLES = 30, 5  # frames that are passed over: librealsense's rs-save-to-disk drops 30 for the exposure; once it has settled
NEXT_WITHIN_S = 3.0  # a camera that was unplugged is told after a second, by its capture process
POLL_S = 0.005
BLACK_MAX = 16  # grey level of the brightest hundredth of an image: no light, or a cap


class Stills:
    """A started camera whose frames have images."""

    def __init__(self, camera: DepthCamera) -> None:
        self._camera = camera
        self._newest = -1
        self._settles = SETTLES_FIRST
        self.factory = camera.start()
        self.serial: str = getattr(camera, "serial", "")

    def next(self) -> Frame:
        """The newest frame that was not given before; raises `ObservationError` when none comes, or the camera is gone."""
        until_s = time.monotonic() + NEXT_WITHIN_S
        while time.monotonic() < until_s:
            frame = self._camera.latest()
            if frame is not None and frame.sequence != self._newest:
                self._newest = frame.sequence
                if frame.image is None:
                    raise ObservationError("the camera's frames have no image, expected its infrared stream; use a D405 or D435")
                return frame
            time.sleep(POLL_S)
        raise ObservationError(f"no new image for {NEXT_WITHIN_S:g} s, expected about 25 a second; is the camera plugged in?")

    def still(self) -> Grey:
        """One that was exposed after this call, once the camera's exposure has settled; raises `CalibrationError` for a black one."""
        for _ in range(self._settles):
            self.next()
        self._settles = SETTLES
        image = self.next().image
        assert image is not None  # `next` gives no other
        why = why_black(image)
        if why:
            raise CalibrationError(why)
        return image


def why_black(image: Grey) -> str:
    """Why nothing can be seen in an image, in a sentence; empty: it has light."""
    brightest = float(np.percentile(image, 99.0))
    if brightest > BLACK_MAX:
        return ""
    return f"the image is black: its brightest parts have {brightest:.0f} of 255 grey levels; take the cap off, or give more light"


@contextmanager
def opened(
    config: "Config", calibration: tuple["Calibration", Path] | None = None, simulated: DepthCamera | None = None
) -> Iterator[Stills]:
    """The configured camera in a process of its own, with its emitter off, or a simulated one in its place.

    With a calibration and its file, only the camera that it is of.
    Raises `ConfigError` for one that takes no images, or is another one or in another profile than was calibrated, `RefusedError` while
    a runtime has it, `ObservationError` where there is none.
    """
    with _only_errors("edge.cameras.capture"), closing(simulated or _camera(config)) as camera:
        stills = Stills(camera)
        if calibration is not None:
            _check_calibrated(stills, *calibration)
        yield stills


@contextmanager
def _only_errors(name: str) -> Iterator[None]:
    """A logger that warns of what our errors say, once."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _check_calibrated(stills: Stills, found: "Calibration", path: Path) -> None:
    """Raise `ConfigError` for another camera than a calibration is of, or another profile."""
    files.check_camera(found, path, stills.serial)
    if found.lens is not None and found.lens.intrinsics[:2] != stills.factory[:2]:
        width, height = stills.factory[:2]
        wanted = "{} × {}".format(*found.lens.intrinsics[:2])
        raise ConfigError(f"the camera has {width} × {height} pixels, expected {wanted} as the lens in {path}; set camera.width and height")


def _camera(config: "Config") -> DepthCamera:
    from edge.cameras.capture import CaptureProcess
    from edge.cameras.replay import ReplayCamera
    from firmware_tools.bus_in_use import who_drives

    camera = config.camera
    if camera.driver == "replay":
        return ReplayCamera(camera.file, camera.loop, image=True)
    if camera.driver != "realsense":
        remedy = "set it (--config FILE), or try it without a camera: --simulate"
        raise ConfigError(f"camera.driver = '{camera.driver}' takes no picture of a board, expected 'realsense'; {remedy}")
    found = who_drives(config)
    if found:
        raise RefusedError(f"the camera belongs to {found}, expected nobody; sudo systemctl stop dofbot-grasp, or end dofbot run")
    arguments = (camera.serial, camera.width, camera.height, camera.fps, camera.preset, True)
    return CaptureProcess("edge.cameras.realsense:RealSenseCamera", arguments)
