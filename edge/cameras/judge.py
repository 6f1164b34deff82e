"""Whether a camera can be believed: its frames are new, differ from each other, and come from the lens that we started with.

OpenCV repeats the last frame for ever after an unplug (opencv #5221), or reports success (#14044): freshness is judged by us.
"""

import zlib

import numpy as np

from edge.cameras.camera import DepthCamera
from edge.errors import ObservationError
from edge.messages import Frame, Intrinsics

SAME_MAX = 4  # frames with one content that are still believed; the fifth is not: no sensor is that quiet
GOOD_FRAMES = 5  # in a row, before a camera that was away is believed again: 0.2 s at 25 a second
LEAP = 1 << 31  # a frame number that goes back, or on by so much, is another connection's


class Repeats:
    """Counts how often an image came in a row; 10 µs for 64×64."""

    def __init__(self) -> None:
        self._content = -1
        self._count = 0

    def count(self, frame: Frame) -> int:
        """How many images up to this one, itself included, had its depth and markers; more than `SAME_MAX`: the camera is stuck.

        An image without any of both repeats nothing: a covered camera is not stuck, and whoever uses the image sees why not.
        """
        content = zlib.crc32(np.ascontiguousarray(frame.depth_m).data)
        for marker in frame.markers or ():
            content = zlib.crc32(np.ascontiguousarray(marker.rays).data, content)
        self._count = self._count + 1 if content == self._content and (frame.markers or frame.depth_m.any()) else 1
        self._content = content
        return self._count


class JudgedCamera:
    """Another camera's frames, as long as they can be believed.

    A frame that is no news leaves the last one in place with its time, so that its age tells: one whose number did not
    advance, and one with the pixels of the four before it, which takes all of them back but the first. After a loss, or a
    frame number that the last connection would not have had, five good frames of the same camera must come before one is
    handed out.
    """

    def __init__(self, camera: DepthCamera) -> None:
        self._camera = camera
        self._wanted: tuple[Intrinsics, str] | None = None
        self._newest: Frame | None = None
        self._shown: Frame | None = None
        self._first: Frame | None = None  # of those with the newest content
        self._repeats = Repeats()
        self._missing = 0  # good frames that must still come

    def start(self) -> Intrinsics:
        """Wait for a first frame; from now on its lens, and the serial number where there is one, are what is expected."""
        intrinsics = self._camera.start()
        self._wanted = (intrinsics, self._serial())
        return intrinsics

    def latest(self) -> Frame | None:
        """The newest frame to be believed, without waiting; raises `ObservationError` while there is none."""
        try:
            frame = self._camera.latest()
        except ObservationError:
            self._missing = GOOD_FRAMES
            raise
        if frame is not None and frame is not self._newest:
            self._take(frame)
        if self._missing:
            raise ObservationError(
                f"the camera was away, and {GOOD_FRAMES - self._missing} good frames have come since, expected {GOOD_FRAMES}; wait"
            )
        return self._shown

    def close(self) -> None:
        """Close the camera."""
        self._camera.close()

    def _take(self, frame: Frame) -> None:
        self._refuse_another_camera(frame)
        before, self._newest = self._newest, frame
        if before is not None and frame.sequence == before.sequence:
            return
        if before is not None and not 0 < frame.sequence - before.sequence < LEAP:
            self._missing = GOOD_FRAMES
        same = self._repeats.count(frame)
        self._first = frame if same == 1 else self._first
        stuck = same > SAME_MAX
        self._shown = self._first if stuck else frame
        if self._missing:  # good ones in a row
            shows_nothing = not (frame.markers or (frame.depth_m > 0.0).any())
            self._missing = GOOD_FRAMES if stuck or shows_nothing else self._missing - 1

    def _refuse_another_camera(self, frame: Frame) -> None:
        found = (frame.intrinsics, self._serial())
        self._wanted = self._wanted or found
        if found == self._wanted:
            return
        self._missing = GOOD_FRAMES
        raise ObservationError(
            f"the camera is {_described(*found)}, expected {_described(*self._wanted)} as at the start; plug the first one in, or restart"
        )

    def _serial(self) -> str:
        return getattr(self._camera, "serial", "")


def _described(intrinsics: Intrinsics, serial: str) -> str:
    named = f" with serial number {serial}" if serial else ""
    return f"{intrinsics.width}×{intrinsics.height}, fx {intrinsics.fx:.1f} px{named}"
