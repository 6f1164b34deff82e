"""The markers in a camera's grey images: found where the images are taken, so that the control loop meets rays and no pixels.

OpenCV finds them, 40 MiB of it. On the robot that is in the capture process alone; on a virtual clock, and with a recording, in ours.
"""

from collections.abc import Callable, Sequence
from functools import partial

import msgspec
from msgspec import Struct

from edge.cameras.camera import CameraInside, DepthCamera, open_camera, wrapped
from edge.errors import MissingExtraError, ObservationError
from edge.messages import NO_DISTORTION, Distortion, Frame, Grey, Intrinsics, Marker

# Six modules of a 4×4 marker at 2.5 px. On images of the simulated wrist each of 400 was found at 18 px, seen at a slant of 40°.
MARKER_MIN_PX = 15.0


class Marking(Struct, frozen=True):
    """Which markers to look for, and through which lens."""

    dictionary: str
    markers: tuple[int, ...]
    narrowest: float  # a marker's width over its distance from the camera: where the descent begins, of the one that looks smallest
    lens: Intrinsics | None = None  # as calibrated; None: as the camera reports it
    distortion: Distortion = NO_DISTORTION


class MarkerCamera(CameraInside):
    """Another camera's frames, with their `markers` in place of their `image`."""

    def __init__(self, camera: DepthCamera, marking: Marking) -> None:
        super().__init__(camera)
        self._marking = marking
        self._find: Callable[[Grey], tuple[Marker, ...]] | None = None
        self._newest: Frame | None = None  # as it came; `_shown` is what was made of it
        self._shown: Frame | None = None

    def start(self) -> Intrinsics:
        """Wait for a first frame.

        Raises `ObservationError` for one without an image, and for a lens by which markers are too small to be read; `ConfigError` for
        a marker that there is not, `MissingExtraError` without OpenCV.
        """
        reported, marking = self._camera.start(), self._marking
        lens = marking.lens or reported
        wide_px = lens.fx * marking.narrowest
        if not wide_px >= MARKER_MIN_PX:
            found = f"a marker is {wide_px:.0f} px wide from where the descent begins"
            remedy = "choose a profile with more pixels (camera.width, height), or dofbot simulate --camera d405"
            raise ObservationError(f"{found}, expected at least {MARKER_MIN_PX:g}; {remedy}")
        self._find = _finder(marking, lens)
        self.latest()
        return reported

    def latest(self) -> Frame | None:
        """The newest frame, without waiting, None before the start; raises `ObservationError` when the camera is gone."""
        frame = self._camera.latest()
        if frame is not None and frame is not self._newest and self._find is not None:
            if frame.image is None:
                raise ObservationError("the camera brings no grey image, which markers are looked for in; expected one with each frame")
            self._newest, self._shown = frame, frame._replace(image=None, markers=self._find(frame.image))
        return self._shown


def open_marked(opener: str, arguments: str, marking: str) -> MarkerCamera:
    """What `looking` asks for, in a process of its own: both are JSON. OpenCV gets one core: the others are the control loop's."""
    import cv2

    cv2.setNumThreads(1)
    return MarkerCamera(open_camera(opener, arguments), msgspec.json.decode(marking, type=Marking))


def looking(marking: Marking | None, opener: str, arguments: Sequence[str | float]) -> tuple[str, tuple[str | float, ...]]:
    """Opener and arguments, as `edge.cameras.capture` takes them: of that camera with markers looked for, in its process."""
    return wrapped("edge.cameras.markers:open_marked", marking, opener, arguments)


def _finder(marking: Marking, intrinsics: Intrinsics) -> Callable[[Grey], tuple[Marker, ...]]:
    """What finds the markers in a grey image; raises `ConfigError` for a dictionary or a marker that there is not."""
    try:
        from calibration.marker_edges import markers_in
        from calibration.opencv import Lens, marker_bits
    except ModuleNotFoundError:
        raise MissingExtraError("cv2", "vision") from None
    for marker in marking.markers:
        marker_bits(marking.dictionary, marker)
    return partial(markers_in, dictionary=marking.dictionary, ids=set(marking.markers), lens=Lens(intrinsics, marking.distortion))
