"""The depth camera: where frames come from."""

import importlib
import json
from collections.abc import Sequence
from typing import Protocol

import msgspec
import numpy as np
from msgspec import Struct

from edge.errors import ObservationError
from edge.messages import Frame, Intrinsics
from edge.simulated.simulator import SimulatorLink


class DepthCamera(Protocol):
    """A camera that always has its latest frame at hand; how old it may be is judged by whoever uses it."""

    def start(self) -> Intrinsics:
        """Wait, with a limit, for a first frame; raises `ObservationError` when none comes."""

    def latest(self) -> Frame | None:
        """The newest frame, without waiting; raises `ObservationError` when the camera is gone."""

    def close(self) -> None:
        """Stop. Idempotent, never raises."""


def open_camera(opener: str, arguments: str) -> DepthCamera:
    """What "module:name" makes of arguments, numbers and strings in a JSON list: a camera that is opened in another process."""
    module, _, name = opener.partition(":")
    camera: DepthCamera = getattr(importlib.import_module(module), name)(*json.loads(arguments))
    return camera


def wrapped(wrapper: str, settings: Struct | None, opener: str, arguments: Sequence[str | float]) -> tuple[str, tuple[str | float, ...]]:
    """Opener and arguments, as `edge.cameras.capture` takes them, of that camera inside the one that "module:name" of `wrapper` makes.

    Both go there as JSON: opener, arguments, settings. Without settings it is that camera alone.
    """
    if settings is None:
        return opener, tuple(arguments)
    return wrapper, (opener, json.dumps(list(arguments)), msgspec.json.encode(settings).decode())


class CameraInside:
    """What a camera that makes something of another one's frames leaves to that one."""

    def __init__(self, camera: DepthCamera) -> None:
        self._camera = camera

    @property
    def serial(self) -> str:
        """The camera's serial number; empty where it has none."""
        return str(getattr(self._camera, "serial", ""))

    def close(self) -> None:
        """Close the camera."""
        self._camera.close()


class SimulatorCamera:
    """The simulated wrist camera, over a link that it shares with the servo bus.

    A renderer repeats itself to the bit while nothing moves, and a sensor never does: whoever looks for a stuck camera
    relies on that. So the frame's number goes into the last bits of one valid pixel: 0.1 µm at most.
    """

    serial = "simulated"  # no real camera's: a calibration of one is refused here, and one of this camera there

    def __init__(self, link: SimulatorLink, timeout_s: float = 5.0) -> None:
        self._link = link
        self._timeout_s = timeout_s
        self._seen: Frame | None = None  # as it came; `_shown` is the same with its noise
        self._shown: Frame | None = None

    def start(self) -> Intrinsics:
        """Wait for a first frame; raises `ObservationError` when none comes in time."""
        frame = self._link.wait_for_frame(self._timeout_s)
        if frame is None:
            raise ObservationError(f"no depth frame in {self._timeout_s:g} s, expected about 25 a second; look at the simulator's output")
        return frame.intrinsics

    def latest(self) -> Frame | None:
        """The newest frame, without waiting; raises `ObservationError` when the simulator is gone."""
        frame = self._link.latest_frame()
        if frame is not self._seen and frame is not None:
            self._seen, self._shown = frame, _with_noise(frame)
        return self._shown

    def close(self) -> None:
        """Leave the link open: it belongs to whoever connected it."""


class SimulatorWatcher(SimulatorCamera):
    """The simulated camera over a link of its own, beside that of the arm: real clock only."""

    def __init__(self, port: int, image: bool = False) -> None:
        """Raises `BusError` when no simulator is there, or no arm is connected to it. With `image` frames have their grey image."""
        self._own_link = SimulatorLink.connect(port, "real", role="camera", image=image)
        super().__init__(self._own_link)

    def close(self) -> None:
        """Hang up."""
        self._own_link.close()


def _with_noise(frame: Frame) -> Frame:
    depth_m = frame.depth_m.copy()
    valid = np.flatnonzero(depth_m)
    if valid.size:
        depth_m.reshape(-1).view(np.uint32)[valid[0]] ^= frame.sequence % 8
    depth_m.flags.writeable = False
    return frame._replace(depth_m=depth_m)
