"""A RealSense of librealsense's own `software_device`: the real SDK, with frames that a test makes."""

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyrealsense2 as rs

from edge.cameras.realsense import RealSenseCamera

WIDTH, HEIGHT, FX = 424, 240, 214.0
D405_UNIT_M, D435_UNIT_M = 1e-4, 1e-3
DOMAINS = rs.timestamp_domain


class SoftwareRealSense:
    """A device with a depth sensor; `send` brings one frame to whoever has started it, `send_image` the left imager's picture."""

    def __init__(
        self, unit_m: float = D405_UNIT_M, serial: str = "123456789012", usb: str = "3.2", distortion: float = 0.0, infrared: bool = False
    ) -> None:
        self.unit_m = unit_m
        self.device = rs.software_device()
        for kind, value in (("name", "Intel RealSense D405"), ("serial_number", serial), ("usb_type_descriptor", usb)):
            if value:
                self.device.register_info(getattr(rs.camera_info, kind), value)
        self.sensor = self.device.add_sensor("Stereo Module")
        self.profile = self._add_profile(WIDTH, HEIGHT, 30, distortion, uid=1)
        self._add_profile(640, 480, 15, distortion, uid=2)
        if infrared:  # the right imager's first
            self._add_profile(WIDTH, HEIGHT, 30, distortion, uid=3, infrared=2)
            self.infrared = self._add_profile(WIDTH, HEIGHT, 30, distortion, uid=4, infrared=1)
        self.sensor.add_read_only_option(rs.option.depth_units, unit_m)
        self.sent = 0
        self._pixels: list[np.ndarray] = []  # the SDK does not copy them

    def _add_profile(self, width: int, height: int, fps: int, distortion: float, uid: int, infrared: int = 0) -> Any:
        lens = rs.intrinsics()
        lens.width, lens.height, lens.fx, lens.fy, lens.ppx, lens.ppy = width, height, FX, FX, width / 2 - 0.5, height / 2 - 1.5
        lens.model, lens.coeffs = rs.distortion.brown_conrady, [distortion, 0.0, 0.0, 0.0, 0.0]
        stream = rs.video_stream()
        stream.type, stream.fmt, stream.index, stream.uid, stream.bpp = rs.stream.depth, rs.format.z16, 0, uid, 2
        if infrared:
            stream.type, stream.fmt, stream.index, stream.bpp = rs.stream.infrared, rs.format.y8, infrared, 1
        stream.width, stream.height, stream.fps, stream.intrinsics = width, height, fps, lens
        return self.sensor.add_video_stream(stream).as_video_stream_profile()

    def add_option(self, option: Any, most: float) -> None:
        allowed = rs.option_range()
        allowed.min, allowed.max, allowed.step, allowed.default = 0.0, most, 1.0, 0.0
        self.sensor.add_option(option, allowed, True)

    def send(self, counts: np.ndarray, age_s: float = 0.01, domain: Any = DOMAINS.global_time, unit_m: float = 0.0) -> None:
        frame = rs.software_video_frame()
        counts = np.ascontiguousarray(counts, np.uint16)
        self._pixels = [*self._pixels[-40:], counts]
        frame.pixels, frame.stride, frame.bpp = counts, 2 * counts.shape[1], 2
        frame.timestamp, frame.domain, frame.frame_number = (time.time() - age_s) * 1e3, domain, self.sent
        frame.profile, frame.depth_units = self.profile, unit_m or self.unit_m
        self.sent += 1
        self._sent_at_ms = frame.timestamp
        self.sensor.on_video_frame(frame)

    def send_image(self, grey: np.ndarray, later_s: float = 0.0) -> None:
        """Of the last depth frame's exposure, or of one that was so much later."""
        frame = rs.software_video_frame()
        grey = np.ascontiguousarray(grey, np.uint8)
        self._pixels = [*self._pixels[-40:], grey]
        frame.pixels, frame.stride, frame.bpp = grey, grey.shape[1], 1
        frame.timestamp, frame.domain, frame.frame_number = self._sent_at_ms + later_s * 1e3, DOMAINS.global_time, self.sent - 1
        frame.profile = self.infrared
        self.sensor.on_video_frame(frame)


def flat(counts: int) -> np.ndarray:
    return np.full((HEIGHT, WIDTH), counts, np.uint16)


def seeing(picture: str) -> RealSenseCamera:
    """What `CaptureProcess` opens in a test: the driver on a software device whose left imager sees a picture, a .npy file."""
    device, grey = SoftwareRealSense(infrared=True), np.load(picture)

    def feed() -> None:
        while True:
            if device.sensor.get_active_streams():
                device.send(flat(1000 + device.sent % 100))
                device.send_image(grey)
            time.sleep(1 / 30)

    threading.Thread(target=feed, daemon=True).start()
    return RealSenseCamera(image=True, find=lambda rs_, serial: device.device)


def captured(fault: str, marker: str) -> RealSenseCamera:
    """What `CaptureProcess` opens in a test: the driver on a software device, which may `hang`, or get `stuck`, or bring another `size`."""
    device = SoftwareRealSense()

    def find(rs_: Any, serial: str) -> Any:
        Path(marker).touch()
        while fault == "hang":
            time.sleep(60.0)
        return device.device

    def feed() -> None:
        """Ten frames that differ, then what the fault makes of them."""
        while True:
            if device.sensor.get_active_streams():
                if fault == "size" and device.sent == 10:
                    device.profile = device.sensor.get_stream_profiles()[1].as_video_stream_profile()
                lens = device.profile.get_intrinsics()
                device.send(np.full((lens.height, lens.width), 1000 + min(device.sent, 10)))
            time.sleep(1 / 30)

    threading.Thread(target=feed, daemon=True).start()
    return RealSenseCamera(find=find)
