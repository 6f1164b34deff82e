"""Values that pass between the stages of the pipeline. Frozen; SI units; frames in the names."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Grey = NDArray[np.uint8]
Distortion = tuple[float, float, float, float, float]  # Brown's, as OpenCV orders it: k1 k2 p1 p2 k3
NO_DISTORTION: Distortion = (0.0, 0.0, 0.0, 0.0, 0.0)


class Intrinsics(NamedTuple):
    """Pinhole camera without distortion: pixel (u, v) = (fx·x/z + cx, fy·y/z + cy).

    Pixel centres lie on whole numbers, as in OpenCV: the principal point of a centred
    64-pixel image is 31.5.
    """

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float


class Marker(NamedTuple):
    """A marker in view: `rays` (4, 2) are x/z and y/z of its corners in the camera's optical frame, clockwise from its own upper left."""

    id: int
    rays: Float64


class Frame(NamedTuple):
    """One depth image: `depth_m` is (height, width) float32 metres along the optical axis, 0 = invalid.

    `image` is what the same imager saw in the same exposure, (height, width) grey, pixel for pixel; None unless it was asked for.
    `markers` are those that were found in such an image; None where nobody looked.
    """

    depth_m: Float32
    intrinsics: Intrinsics
    captured_at_s: float
    sequence: int
    image: Grey | None = None
    markers: tuple[Marker, ...] | None = None


class ToolPose(NamedTuple):
    """Where the tool is, with the five degrees of freedom that this arm has. Table frame.

    `tilt_rad` is the angle from straight down, positive when the tool points away from the
    base axis. `yaw_rad` is the heading of the tool's x axis (along which the fingers close)
    about table +z, taken before tilting.
    """

    x_m: float
    y_m: float
    z_m: float
    tilt_rad: float = 0.0
    yaw_rad: float = 0.0


class JointCommand(NamedTuple):
    """Set points for the whole arm: joint1..joint5 in radians, and the gripper opening in metres."""

    joint1_rad: float
    joint2_rad: float
    joint3_rad: float
    joint4_rad: float
    joint5_rad: float
    opening_m: float

    @property
    def joints_rad(self) -> tuple[float, float, float, float, float]:
        """The five arm joints, without the gripper."""
        return self[:5]
