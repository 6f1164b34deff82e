"""A recording (.db3) in place of the camera: what `dofbot record-depth` or RealSense Viewer wrote on the robot, played on a desk."""

import time
from pathlib import Path
from typing import Any

from edge.cameras.depth_stream import LOOK_S, DepthStream, depth_sensor, image_profile, load_sdk, sdk_errors, told
from edge.cameras.realsense import FIRST_FRAME_S
from edge.errors import ObservationError
from edge.messages import Frame, Intrinsics

_REMEDY = "give a .db3 file from dofbot record-depth"


class ReplayCamera:
    """The recorded frames, as if they were exposed when they are played; with the recorded lens and serial number.

    They come at the pace of the recording, and the newest counts. With `every_frame` each call of `latest` brings the next one, as fast as
    it is called. With `loop` the recording begins again, and the frame numbers go on. With `image` frames have the recorded picture.
    """

    def __init__(self, file: str, loop: bool = False, every_frame: bool = False, image: bool = False) -> None:
        self.serial = ""
        self._file = file
        self._loop = loop
        self._every_frame = every_frame
        self._image = image
        self._playback: Any = None
        self._status: Any = None  # rs.playback_status
        self._stream: DepthStream | None = None
        self._sensor: Any = None
        self._profile: Any = None
        self._image_profile: Any = None
        self._seen: Frame | None = None  # as it came; `_shown` has our number and time
        self._shown: Frame | None = None
        self._has_first = False  # which `start` has taken, and nobody has seen
        self._played = 0

    def start(self) -> Intrinsics:
        """Open the file and wait for a first frame; raises `ObservationError` for one that cannot be read or has no depth."""
        rs = load_sdk()
        if not Path(self._file).is_file():
            raise ObservationError(f"recording {self._file} does not exist; {_REMEDY}")
        with sdk_errors(f"recording {self._file} cannot be read", _REMEDY):
            self._playback, self._status = rs.context().load_device(self._file), rs.playback_status
            self._playback.set_real_time(not self._every_frame)
            self.serial = told(rs, self._playback, "serial_number")
            self._sensor, profiles = depth_sensor(rs, self._playback)
            self._profile = next(iter(profiles.values()))
            self._image_profile = image_profile(rs, self._sensor, self._profile) if self._image else None
        intrinsics = self._begin()
        deadline_s = time.monotonic() + FIRST_FRAME_S
        while self._next() is None:
            if time.monotonic() > deadline_s:
                self.close()
                raise ObservationError(f"recording {self._file} has no depth frame, expected one; {_REMEDY}")
            time.sleep(LOOK_S)
        self._has_first = self._every_frame
        return intrinsics

    def latest(self) -> Frame | None:
        """The newest frame, or the next one, without waiting; raises `ObservationError` once the recording has ended."""
        if self._has_first:
            self._has_first = False
            return self._shown
        return self._next()

    def close(self) -> None:
        """Stop. Idempotent, never raises."""
        if self._stream is not None:
            self._stream.close()

    def _next(self) -> Frame | None:
        if self._stream is None:
            return None
        has_stopped = (
            self._playback.current_status() == self._status.stopped
        )  # asked first: then all frames are here (seen in 33 of 33 laps)
        frame = self._stream.latest()
        if frame is not None and frame is not self._seen:
            self._seen = frame
            self._shown = frame._replace(captured_at_s=self._stream.arrived_s, sequence=self._played)
            self._played += 1
        elif frame is not None and has_stopped:
            if not self._loop:
                raise ObservationError(f"recording {self._file} has ended after {self._played} frames; set camera.loop to play it for ever")
            self._begin()
        return self._shown

    def _begin(self) -> Intrinsics:
        """From the first frame: a sensor that is started after the end does so."""
        self.close()
        self._stream = DepthStream(self._sensor, self._profile, self._every_frame, self._image_profile)
        self._stream.start()
        return self._stream.intrinsics
