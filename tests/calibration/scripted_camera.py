"""Cameras for the live steps: one that plays frames from a list, and a RealSense in software that looks at a board."""

import threading
import time
from collections.abc import Iterable

import numpy as np

from calibration.opencv import Image, Lens
from calibration.simulated import render
from edge.errors import ObservationError
from edge.messages import Frame, Intrinsics
from tests.calibration.scenes import BOARD, facing

SIZE = (424, 240)
FACTORY = Intrinsics(*SIZE, 253.0, 253.0, 211.5, 119.5)
NOTHING = np.full(SIZE[::-1], 120, np.uint8)
BLACK = np.full(SIZE[::-1], 3, np.uint8)


def picture(distance_m: float = 0.2, tilt_rad: float = 0.0, shift_m: float = 0.0) -> Image:
    pose = facing(distance_m, BOARD.size_m, tilt_rad)
    pose[0, 3] += shift_m
    return render.view(BOARD, pose, Lens(FACTORY))


class ScriptedCamera:
    """Brings one image after the other, a tenth of a second apart; then it is unplugged."""

    def __init__(self, images: Iterable[Image | None], serial: str = "7", period_s: float = 0.1) -> None:
        self.serial = serial
        self.images = list(images)
        self.brought = 0
        self.is_closed = False
        self._period_s = period_s

    def start(self) -> Intrinsics:
        return FACTORY

    def latest(self) -> Frame | None:
        if self.brought == len(self.images):
            raise ObservationError("the camera has brought no new frame for 1.0 s")
        image = self.images[self.brought]
        self.brought += 1
        return Frame(np.full(SIZE[::-1], 0.2, np.float32), FACTORY, self._period_s * self.brought, self.brought, image)

    def close(self) -> None:
        self.is_closed = True


def board_in_software(shift_px: float, frames: int = 1_000_000) -> "object":
    """What `CaptureProcess` opens in a test: the RealSense driver on librealsense's software device, before a board that stays.

    It is unplugged after so many frames.
    """
    from edge.cameras.realsense import RealSenseCamera
    from tests.edge.software_realsense import FX, HEIGHT, WIDTH, SoftwareRealSense

    device = SoftwareRealSense(infrared=True)
    lens = Lens(Intrinsics(WIDTH, HEIGHT, FX, FX, WIDTH / 2 - 0.5 + shift_px, HEIGHT / 2 - 1.5))
    pose = facing(0.15, BOARD.size_m, 0.1)
    counts, image = render.depth(pose, lens) / device.unit_m, render.view(BOARD, pose, lens)

    def feed() -> None:
        draws = np.random.default_rng(0)
        while device.sent < frames:
            if device.sensor.get_active_streams():
                device.send(counts + draws.normal(0.0, 2.0, counts.shape))
                device.send_image(render.noisy(image, 2.0, draws))
            time.sleep(1 / 30)

    threading.Thread(target=feed, daemon=True).start()
    return RealSenseCamera(image=True, find=lambda rs, serial: device.device)
