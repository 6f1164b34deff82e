"""Still images of one camera, in grey: what every live step takes its images with.

From a RealSense they are of the imager that its depth is computed from, on the depth's own pixels, so that one lens holds for both.
"""

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import numpy as np

from edge.camera import DepthCamera
from edge.errors import CalibrationError, ConfigError, ObservationError, RefusedError
from edge.messages import Frame

if TYPE_CHECKING:
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

    def still(self) -> Frame:
        """One that was exposed after this call, once the camera's exposure has settled; raises `CalibrationError` for a black one."""
        frame = self.next()
        for _ in range(self._settles):
            frame = self.next()
        self._settles = SETTLES
        why = why_black(frame)
        if why:
            raise CalibrationError(why)
        return frame


def why_black(frame: Frame) -> str:
    """Why nothing can be seen in an image, in a sentence; empty: it has light."""
    brightest = float(np.percentile(frame.image, 99.0)) if frame.image is not None else 0.0
    if brightest > BLACK_MAX:
        return ""
    return f"the image is black: its brightest parts have {brightest:.0f} of 255 grey levels; take the cap off, or give more light"


@contextmanager
def opened(config: "Config") -> Iterator[Stills]:
    """The configured camera in a process of its own, with its emitter off.

    Raises `ConfigError` for one that takes no images, `RefusedError` while a runtime has it, `ObservationError` where there is none.
    """
    with closing(_camera(config)) as camera:
        yield Stills(camera)


def _camera(config: "Config") -> DepthCamera:
    from edge.capture import CaptureProcess
    from edge.replay import ReplayCamera
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
    return CaptureProcess("edge.realsense:RealSenseCamera", arguments)
