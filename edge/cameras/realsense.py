"""The driver of a RealSense D405 or D435(i): finds it, sets it up, and hands out its depth frames.

The default profile is 424x240 at 30: a stereo camera is blind below fx · baseline / 126 (librealsense #2367), and the grasp brings
the block to 84 mm. That is 31 mm for a D405 (its sheet says 40) and 85 mm for a D435, whose next profile begins at 96 mm.

The SDK hangs, so this runs in the capture process, which is killed and started again after a second without frames. Nothing
here tries again by itself. Only a camera that opens and then brings nothing is reset, once a start: it leaves the USB for up to 20 s
(librealsense's own tests wait that long). Until then it is not found, or the SDK crashes on finding it (#11304), which ends one process.
"""

import contextlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edge.cameras.depth_stream import DepthProfiles, DepthStream, Mode, depth_sensor, image_profile, load_sdk, sdk_errors, told
from edge.config import CameraConfig, PresetName
from edge.errors import ObservationError
from edge.messages import Frame, Intrinsics

FIRST_FRAME_S = 5.0  # they come 1-3 s after the start (librealsense #3460)
LOOK = "see it with: lsusb -d 8086:"
_DEFAULT = CameraConfig()

_log = logging.getLogger(__name__)


class RealSenseCamera:
    """A camera on USB. `find` returns the device to use, `record` is a .db3 file that gets all that the depth sensor brings.

    With `image` frames have the left imager's picture, and the emitter is off: its dots spoil markers.
    """

    def __init__(
        self,
        serial: str = "",
        width: int = _DEFAULT.width,
        height: int = _DEFAULT.height,
        fps: int = _DEFAULT.fps,
        preset: PresetName = _DEFAULT.preset,
        image: bool = False,
        record: str = "",
        find: Callable[[Any, str], Any] | None = None,
    ) -> None:
        self.serial = serial
        self._mode = (width, height, fps)
        self._preset = preset
        self._image = image
        self._record = record
        self._find = find or find_device
        self._stream: DepthStream | None = None

    def start(self) -> Intrinsics:
        """Find the camera and wait for a first frame; raises `ObservationError` when there is none, or none comes in 5 s."""
        rs = load_sdk()
        if self._record and Path(self._record).exists():
            raise ObservationError(f"recording {self._record} exists already, expected a new file; give another name")
        with sdk_errors("the camera cannot be opened", "replug it; is another program using it?"):
            found = self._find(rs, self.serial)
            self.serial = told(rs, found, "serial_number")
            device = rs.recorder(self._record, found) if self._record else found
            sensor, profiles = depth_sensor(rs, device)
            self._set_up(rs, sensor)
            profile = choose_profile(profiles, self._mode, told(rs, found, "usb_type_descriptor"))
            image = image_profile(rs, sensor, profile) if self._image else None
            self._stream = stream = DepthStream(sensor, profile, image=image)
        try:
            stream.start()
            if stream.wait(FIRST_FRAME_S) is None:
                with contextlib.suppress(RuntimeError):
                    found.hardware_reset()
                what = "depth frame with its image" if self._image else "depth frame"
                raise ObservationError(
                    f"no {what} in {FIRST_FRAME_S:g} s; the camera was reset and takes 20 s to come back; wait, or replug it"
                )
        except ObservationError:
            self.close()
            raise
        return stream.intrinsics

    def latest(self) -> Frame | None:
        """The newest frame, without waiting; raises `ObservationError` for one that cannot be true."""
        return self._stream.latest() if self._stream is not None else None

    def close(self) -> None:
        """Stop. Idempotent, never raises; may hang where the SDK does."""
        if self._stream is not None:
            self._stream.close()
        self._stream = None  # a recording is whole when nobody has its device any more

    def _set_up(self, rs: Any, sensor: Any) -> None:
        """The preset first: it sets others. A camera goes without what it does not have: a D405 has no emitter."""
        settings = {
            "visual_preset": int(getattr(rs.rs400_visual_preset, self._preset)),
            "emitter_enabled": 0 if self._image else 1,
            "global_time_enabled": 1,
        }
        for name, value in settings.items():
            option = getattr(rs.option, name)
            try:
                if sensor.supports(option):
                    sensor.set_option(option, value)
            except RuntimeError as error:
                _log.warning("the camera did not take %s = %s (%s); it goes on without", name, value, error)


def find_device(rs: Any, serial: str) -> Any:
    """The device with that serial number, or the only one; raises `ObservationError`. At once: opening a pipeline would wait for 15 s."""
    devices = {told(rs, device, "serial_number"): device for device in rs.context().query_devices()}
    if not devices:
        raise ObservationError(f"no RealSense camera on any USB port, expected one; plug it in, {LOOK}")
    serials = ", ".join(devices)
    if not serial and len(devices) > 1:
        raise ObservationError(f"{len(devices)} RealSense cameras ({serials}), expected one; set camera.serial")
    if serial and serial not in devices:
        raise ObservationError(f"the RealSense camera is {serials}, expected {serial}; plug that one in, or change camera.serial")
    return devices[serial] if serial else next(iter(devices.values()))


def choose_profile(profiles: DepthProfiles, mode: Mode, usb: str) -> Any:
    """The profile of (width, height, fps); raises `ObservationError` with those that there are. `usb` as the device tells it: 3.2."""
    on_usb_2 = usb.startswith("2")
    if mode not in profiles:
        has = ", ".join(map(_named, sorted(profiles))) or "none"
        remedy = "plug it into a USB 3 port with a USB 3 cable" if on_usb_2 else "set camera.width, height and fps to one of them"
        where = f" on USB {usb} (its usb_type_descriptor)" if usb else ""
        raise ObservationError(f"the camera has no depth {_named(mode)}{where}, expected one of {has}; {remedy}")
    if on_usb_2:
        _log.warning("the camera is on USB %s, expected 3: it has this profile there, but use a USB 3 port and cable", usb)
    return profiles[mode]


def _named(mode: Mode) -> str:
    return f"{mode[0]}x{mode[1]} at {mode[2]}"
