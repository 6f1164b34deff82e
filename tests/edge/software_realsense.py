"""A RealSense of librealsense's own `software_device`: the real SDK, with frames that a test makes."""

import threading
import time
from typing import Any

import numpy as np
import pyrealsense2 as rs

from edge.realsense import RealSenseCamera

WIDTH, HEIGHT, FX = 424, 240, 214.0
D405_UNIT_M, D435_UNIT_M = 1e-4, 1e-3


class SoftwareRealSense:
    """A device with a depth sensor; `send` brings one frame to whoever has started it."""

    def __init__(self, unit_m: float = D405_UNIT_M, serial: str = "123456789012", usb: str = "3.2", distortion: float = 0.0) -> None:
        self.unit_m = unit_m
        self.device = rs.software_device()
        for kind, value in (("name", "Intel RealSense D405"), ("serial_number", serial), ("usb_type_descriptor", usb)):
            if value:
                self.device.register_info(getattr(rs.camera_info, kind), value)
        self.sensor = self.device.add_sensor("Stereo Module")
        self.profile = self._add_profile(WIDTH, HEIGHT, 30, distortion, uid=1)
        self._add_profile(640, 480, 15, distortion, uid=2)
        self.sensor.add_read_only_option(rs.option.depth_units, unit_m)
        self.sent = 0
        self._pixels: list[np.ndarray] = []  # the SDK does not copy them

    def _add_profile(self, width: int, height: int, fps: int, distortion: float, uid: int) -> Any:
        lens = rs.intrinsics()
        lens.width, lens.height, lens.fx, lens.fy, lens.ppx, lens.ppy = width, height, FX, FX, width / 2 - 0.5, height / 2 - 1.5
        lens.model, lens.coeffs = rs.distortion.brown_conrady, [distortion, 0.0, 0.0, 0.0, 0.0]
        stream = rs.video_stream()
        stream.type, stream.fmt, stream.index, stream.uid, stream.bpp = rs.stream.depth, rs.format.z16, 0, uid, 2
        stream.width, stream.height, stream.fps, stream.intrinsics = width, height, fps, lens
        return self.sensor.add_video_stream(stream).as_video_stream_profile()

    def add_option(self, option: Any, most: float) -> None:
        allowed = rs.option_range()
        allowed.min, allowed.max, allowed.step, allowed.default = 0.0, most, 1.0, 0.0
        self.sensor.add_option(option, allowed, True)

    def send(
        self, counts: np.ndarray, age_s: float = 0.01, domain: Any = rs.timestamp_domain.global_time, unit_m: float | None = None
    ) -> None:
        frame = rs.software_video_frame()
        counts = np.ascontiguousarray(counts, np.uint16)
        self._pixels = [*self._pixels[-40:], counts]
        frame.pixels, frame.stride, frame.bpp = counts, 2 * counts.shape[1], 2
        frame.timestamp, frame.domain, frame.frame_number = (time.time() - age_s) * 1e3, domain, self.sent
        frame.profile, frame.depth_units = self.profile, self.unit_m if unit_m is None else unit_m
        self.sent += 1
        self.sensor.on_video_frame(frame)


def flat(counts: int) -> np.ndarray:
    return np.full((HEIGHT, WIDTH), counts, np.uint16)


class HangingCamera(RealSenseCamera):
    """What `CaptureProcess` opens in a test: the driver on a software device, and an SDK that may hang in `start`."""

    def __init__(self, mode: str) -> None:
        self._rig = SoftwareRealSense()
        super().__init__(find=self._hang if mode == "hang" else lambda rs_, serial: self._rig.device)
        threading.Thread(target=self._feed, daemon=True).start()

    def _hang(self, rs_: Any, serial: str) -> Any:
        while True:
            time.sleep(60.0)

    def _feed(self) -> None:
        while True:
            if self._rig.sensor.get_active_streams():
                self._rig.send(flat(1000 + self._rig.sent % 1000))
            time.sleep(1 / 30)
