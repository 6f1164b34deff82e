"""Depth frames of one librealsense sensor, from the SDK's thread to `Frame`: of a camera, a recording, or a test's `software_device`.

The sensor is opened and started by itself, without `rs.pipeline`, which takes no software device and blocks 15 s where no camera is:
so what the tests run is what the robot runs. Frames come by a callback. Handed to a `frame_queue` instead, a recording that is
played as fast as it can be hangs for ever (pyrealsense2 2.59.1: the SDK's thread waits for room in the queue and keeps the GIL).

No post-processing filter is used; docs/realsense.md says why not, one by one.
"""

import atexit
import contextlib
import math
import time
from collections.abc import Iterator
from queue import Empty, Full, Queue
from threading import Event, Lock
from typing import Any, NamedTuple

import numpy as np

from edge.errors import MissingExtraError, ObservationError
from edge.messages import Frame, Intrinsics

# A D405 counts 0.1 mm, a D435 1 mm. Finer than 10 µm, 16 bits end 0.66 m away; coarser than 2 mm, a block has no shape.
UNIT_MIN_M, UNIT_MAX_M = 1e-5, 2e-3
LOOK_S = 0.005  # how often a first frame is looked for, and whether a frame may go on

Mode = tuple[int, int, int]  # width, height, frames a second
DepthProfiles = dict[Mode, Any]  # rs.video_stream_profile


class _Arrival(NamedTuple):
    frame: Any  # rs.frame
    at_s: float  # monotonic
    wall_s: float  # the same moment on the wall clock
    image: Any = None  # rs.frame of the same exposure


class DepthStream:
    """One open sensor and its newest depth image.

    With `every_frame`, frames wait until `latest` was asked for the one before: for recordings, since a camera does not wait.
    With an `image` profile (see `image_profile`) each frame has its grey image, and a depth frame whose image is lost is lost, too.
    """

    def __init__(self, sensor: Any, profile: Any, every_frame: bool = False, image: Any = None) -> None:
        """Raises `ObservationError` for a profile with lens distortion."""
        self._sensor = sensor
        self._profile = profile
        self._image_profile = image
        self._single: _Arrival | None = None  # without its partner so far
        self._pairing = Lock()  # the SDK has a thread for each stream
        self._period_s = 1.0 / self._profile.fps()
        self._every_frame = every_frame
        self._slot: Queue[_Arrival] = Queue(maxsize=1)
        self._closed = Event()
        self._newest: Frame | None = None
        self.intrinsics = pinhole(self._profile)
        self.arrived_s = -math.inf  # of the newest frame that `latest` has taken

    def start(self) -> None:
        """Let frames come; raises `ObservationError` when the SDK does."""
        atexit.register(self.close)  # an SDK's thread that calls Python while Python ends does not come back
        with sdk_errors("the depth sensor cannot be started", "is another program using the camera?"):
            self._sensor.open(self._profile if self._image_profile is None else [self._profile, self._image_profile])
            self._sensor.start(self._arrived)

    def wait(self, within_s: float) -> Frame | None:
        """The newest frame; waits for the first one, None when it does not come in time. Raises as `latest` does."""
        deadline_s = time.monotonic() + within_s
        while (frame := self.latest()) is None and time.monotonic() < deadline_s:
            time.sleep(LOOK_S)
        return frame

    def latest(self) -> Frame | None:
        """The newest frame, without waiting; raises `ObservationError` for one that is not what the profile says, or has no likely unit."""
        with contextlib.suppress(Empty):
            arrival = self._slot.get_nowait()
            self._newest = self._converted(arrival)
            self.arrived_s = arrival.at_s
        return self._newest

    def close(self) -> None:
        """Stop the sensor and close it. Idempotent, never raises; may hang where the SDK does."""
        if self._closed.is_set():
            return
        self._closed.set()
        atexit.unregister(self.close)
        for end in (self._sensor.stop, self._sensor.close):
            with contextlib.suppress(RuntimeError):  # not started, or gone
                end()
        with contextlib.suppress(Empty):
            self._slot.get_nowait()
        # The SDK keeps `_arrived`, and so us. A recorder ends, and its file is whole, when nobody has its sensor or a frame any more.
        self._sensor = self._profile = self._image_profile = self._single = None

    def _arrived(self, frame: Any) -> None:
        """In the SDK's thread."""
        came = _Arrival(frame, time.monotonic(), time.time())
        arrival = came if self._image_profile is None else self._paired(came)
        while arrival is not None and not self._closed.is_set():
            if not self._every_frame:
                with contextlib.suppress(Empty):
                    self._slot.get_nowait()
            with contextlib.suppress(Full):
                self._slot.put(arrival, timeout=LOOK_S)
                return

    def _paired(self, arrival: _Arrival) -> _Arrival | None:
        """A depth frame with its image, once both are here: times less than half a period apart. Of two others the older one is lost."""
        with self._pairing:
            other, self._single = self._single, arrival
            if other is None or _is_depth(other) == _is_depth(arrival):
                return None
            apart_s = (arrival.frame.get_timestamp() - other.frame.get_timestamp()) / 1e3
            if abs(apart_s) > self._period_s / 2.0:
                self._single = arrival if apart_s > 0.0 else other
                return None
            self._single = None
        depth, image = (arrival, other) if _is_depth(arrival) else (other, arrival)
        return depth._replace(image=image.frame)

    def _converted(self, arrival: _Arrival) -> Frame:
        with sdk_errors("a frame cannot be read", "is the camera plugged in?"):
            depth = arrival.frame.as_depth_frame()
            if not depth:
                raise ObservationError("the sensor brought a frame without depth, expected Z16; choose its depth stream")
            counts, unit_m = np.asanyarray(depth.get_data()), depth.get_units()
            age_s = exposed_before_s(depth, arrival.wall_s, self._period_s)
            number = depth.get_frame_number()
            image = None if arrival.image is None else np.array(arrival.image.get_data())  # a copy: the SDK uses its memory again
        shape = (self.intrinsics.height, self.intrinsics.width)
        if counts.shape != shape or counts.dtype != np.uint16:
            raise ObservationError(
                f"the depth frame is {counts.dtype} {counts.shape}, expected uint16 {shape} as its profile says; replug it"
            )
        if not UNIT_MIN_M <= unit_m <= UNIT_MAX_M:
            found = f"the camera's depth unit is {unit_m:g} m"
            raise ObservationError(f"{found}, expected {UNIT_MIN_M:g}…{UNIT_MAX_M:g} m; reset the camera's Depth Units in RealSense Viewer")
        if image is not None:
            if image.shape != shape or image.dtype != np.uint8:
                raise ObservationError(f"the infrared image is {image.dtype} {image.shape}, expected uint8 {shape} as the depth; replug it")
            image.flags.writeable = False
        depth_m = counts * np.float32(unit_m)  # a copy, too
        depth_m.flags.writeable = False
        return Frame(depth_m, self.intrinsics, arrival.at_s - age_s, number, image)


def _is_depth(arrival: _Arrival) -> bool:
    return bool(arrival.frame.is_depth_frame())


def exposed_before_s(frame: Any, wall_s: float, period_s: float) -> float:
    """How long before its arrival, at `wall_s` on the wall clock, a frame was exposed; never negative.

    - global_time: the camera's own clock, which the SDK fits to the wall clock: the start of the transfer. The middle of the exposure is
      earlier by what the camera's metadata say, where the kernel passes them on (librealsense #12779).
    - system_time: when the host had the frame. Exposure and transfer come before: one period, an assumption.
    - anything else, or a time in the future because the wall clock was set: arrival, and the same assumption.

    After the wall clock was set forward frames look old, and are not used, until the SDK has fitted again: that is the safe side.
    """
    domain, age_s = frame.get_frame_timestamp_domain().name, wall_s - frame.get_timestamp() / 1e3
    if domain == "global_time":
        age_s += _exposed_before_transfer_s(frame, period_s)
    elif domain == "system_time":
        age_s += period_s
    else:
        return period_s
    return float(age_s) if age_s >= 0.0 else period_s


def _exposed_before_transfer_s(frame: Any, period_s: float) -> float:
    """From the middle of the exposure to the start of the transfer, by the camera's clock; 0 where it does not say, or it cannot be."""
    kinds = load_sdk().frame_metadata_value
    exposed, transferred = kinds.sensor_timestamp, kinds.frame_timestamp
    if not (frame.supports_frame_metadata(exposed) and frame.supports_frame_metadata(transferred)):
        return 0.0
    before_s = (frame.get_frame_metadata(transferred) - frame.get_frame_metadata(exposed)) / 1e6
    return before_s if 0.0 <= before_s <= period_s else 0.0


def depth_sensor(rs: Any, device: Any) -> tuple[Any, DepthProfiles]:
    """The sensor that has depth, and its profiles; raises `ObservationError` for a device without one.

    By its profiles: a device that is being recorded does not say which of its sensors `first_depth_sensor` means.
    """
    for sensor in device.query_sensors():
        depth = [p for p in sensor.get_stream_profiles() if p.stream_type() == rs.stream.depth and p.format() == rs.format.z16]
        if depth:
            return sensor, {(v.width(), v.height(), v.fps()): v for v in (p.as_video_stream_profile() for p in depth)}
    raise ObservationError("the device has no depth stream, expected Z16; use a D405 or D435")


def image_profile(rs: Any, sensor: Any, depth: Any) -> Any:
    """The picture of the left imager, which is the one that depth is reckoned from: its pixels are the depth's.

    Raises `ObservationError` where the sensor has none of that size and rate.
    """
    for profile in sensor.get_stream_profiles():
        if profile.stream_type() == rs.stream.infrared and profile.stream_index() == 1 and profile.format() == rs.format.y8:
            view = profile.as_video_stream_profile()
            if (view.width(), view.height(), view.fps()) == (depth.width(), depth.height(), depth.fps()):
                return view
    found = f"no infrared image {depth.width()}x{depth.height()} at {depth.fps()} beside the depth"
    raise ObservationError(f"{found}, expected the left imager's in Y8; choose another profile, or record with --image")


def told(rs: Any, device: Any, name: str) -> str:
    """What a device says of itself, a name of `rs.camera_info`; empty where it does not."""
    kind = getattr(rs.camera_info, name)
    return str(device.get_info(kind)) if device.supports(kind) else ""


def pinhole(profile: Any) -> Intrinsics:
    """A depth profile's lens; raises `ObservationError` for one with distortion: D4xx depth is rectified, its coefficients are zeros."""
    lens = profile.get_intrinsics()
    if any(lens.coeffs):
        found = f"the depth stream has lens distortion {tuple(lens.coeffs)}"
        raise ObservationError(f"{found}, expected zeros, since a D4xx rectifies its depth; use a D405 or D435")
    return Intrinsics(lens.width, lens.height, lens.fx, lens.fy, lens.ppx, lens.ppy)  # pixel centres on whole numbers, as ours


def load_sdk() -> Any:
    """The module pyrealsense2; raises `MissingExtraError` without it, `ObservationError` where it cannot be loaded."""
    try:
        import pyrealsense2
    except ModuleNotFoundError:
        raise MissingExtraError("pyrealsense2", "pi") from None
    except ImportError as error:
        remedy = "run: sudo apt install libusb-1.0-0; if it names GLIBC, this system is too old for the wheel"
        raise ObservationError(f"pyrealsense2 cannot be loaded ({error}), expected its libraries here; {remedy}") from None
    return pyrealsense2


@contextlib.contextmanager
def sdk_errors(what: str, remedy: str) -> Iterator[None]:
    """Turn what the SDK raises into one sentence that begins with `what`."""
    try:
        yield
    except RuntimeError as error:
        raise ObservationError(f"{what} ({' '.join(str(error).split())}); {remedy}") from None
