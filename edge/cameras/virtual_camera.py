"""The real depth camera, seen as the policy's: each measured point goes where the policy's camera would have seen it.

A policy is trained with one lens in one place; a real mount and lens differ. With what was measured of both (`edge.calibration`) the
image is projected anew: point cloud forward, z-buffer, and no depth where nothing was measured. No surface is made up: each pixel
of the result is one measured pixel's point, so that holes stay holes and the sensor's noise stays noise.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from edge import calibration
from edge.calibration import Calibration
from edge.cameras.camera import CameraInside, DepthCamera, open_camera, wrapped
from edge.contract import VirtualCamera
from edge.errors import ConfigError, ObservationError
from edge.messages import NO_DISTORTION, Distortion, Float32, Float64, Frame, Intrinsics

NEAREST_M, FARTHEST_M = 0.03, 10.0  # what a pixel may see: no RealSense has depth below 31 mm, facts of its baseline and focal length
TOUCHING = 1.001  # a pixel's footprint is so much wider than its share: rounding leaves no crack between two
SIMILAR = 0.05  # relative: two pixels apart, a surface at 45° differs by 3.5 % in a 64-pixel view of 58°
LENS_TOLERANCE = 0.03  # relative; another profile is off by more, a calibration of the same one by less
COVERED_AT_M = (0.10, 0.20)  # about where the block is, at the end of a descent and at its start
COVERED_MIN = 0.5  # of the policy's pixels there


class Reprojection:
    """From one lens in one place to the policy's; called with a frame, it gives the frame that the policy's camera would have taken.

    A pixel sees a patch, as wide as its share of the image; the patch is drawn over each pixel centre of the policy's camera that it
    covers, and the nearest of those that cover one is kept. So with the policy's own pose the result is the nearest pixel's
    depth, as `edge.observation` takes it. True depth is `scale` · measured + `offset_m`. Rays are computed once, here.
    """

    def __init__(
        self,
        lens: Intrinsics,
        distortion: Distortion,
        transform_camera_to_tool: Float64,
        policy: VirtualCamera,
        scale: float = 1.0,
        offset_m: float = 0.0,
    ) -> None:
        self._lens, self._distortion, self._policy = lens, distortion, policy.intrinsics
        self._scale, self._offset_m = np.float32(scale), np.float32(offset_m)
        self._to_policy = np.linalg.inv(np.array(policy.transform_camera_to_tool)) @ transform_camera_to_tool
        self._from_policy = np.linalg.inv(self._to_policy)
        to_image = _matrix(policy.intrinsics) @ self._to_policy[:3]  # (3, 4): u·z, v·z and z of a point
        rays = to_image[:, :3] @ _rays(lens, distortion)  # (3, h·w): of the point at depth 1, less `shift`
        self._depth_of_ray = rays[2].astype(np.float32)
        self._shift = to_image[:, 3].astype(np.float32)
        half = _half_footprint(rays.reshape(3, lens.height, lens.width)) * TOUCHING
        # Most pixels of a wide sensor never get into view, at any depth.
        self._used = np.flatnonzero(_may_be_seen(rays, to_image[:, 3:], policy.intrinsics))
        self._rays = rays[:, self._used].astype(np.float32)
        self._half = half[:, self._used].astype(np.float32)

    def __call__(self, frame: Frame) -> Frame:
        """The frame in the policy's camera, time and number as they were; raises `ObservationError` for another lens's frame."""
        lens, policy = self._lens, self._policy
        if frame.depth_m.dtype != np.float32 or frame.depth_m.shape != (lens.height, lens.width):
            found = f"{frame.depth_m.dtype} {frame.depth_m.shape}"
            raise ObservationError(f"depth frame is {found}, expected float32 {(lens.height, lens.width)} metres; restart with its profile")
        measured_m = frame.depth_m.reshape(-1)
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):  # what is not finite is not drawn
            seen_m = self._draw(measured_m).reshape(policy.height, policy.width)
            self._close_cracks(seen_m, measured_m)
        seen_m[seen_m == np.inf] = 0.0
        return Frame(seen_m, policy, frame.captured_at_s, frame.sequence, markers=frame.markers)

    def covered(self, depth_m: float) -> float:
        """The share of the policy's pixels, all at one depth, that the real camera has in its image."""
        rows, columns = np.divmod(np.arange(self._policy.height * self._policy.width), self._policy.width)
        is_inside, _ = self._look_back(rows, columns, np.full(rows.size, depth_m))
        return float(is_inside.mean())

    def _true_m(self, measured_m: Float32) -> Float32:
        """NaN where nothing was measured."""
        true_m = measured_m * self._scale + self._offset_m
        true_m[~(measured_m > 0.0)] = np.nan
        return true_m

    def _draw(self, measured_m: Float32) -> Float32:
        """(policy's h·w,) z-buffer of all points, inf where there is none."""
        true_m = self._true_m(measured_m[self._used])
        depth_m = self._rays[2] * true_m + self._shift[2]
        inverse = 1.0 / depth_m
        u, v = (self._rays[i] * true_m + self._shift[i] for i in range(2))
        u *= inverse
        v *= inverse
        true_m *= inverse  # footprints shrink with distance
        half_u, half_v = self._half[0] * true_m, self._half[1] * true_m
        column, row = np.rint(u), np.rint(v)
        hits = (np.abs(u - column) <= half_u) & (np.abs(v - row) <= half_v)
        hits &= depth_m > 0.0
        at = np.flatnonzero(hits)
        buffer = np.full(self._policy.width * self._policy.height, np.inf, np.float32)
        drawn = (column[at], row[at], depth_m[at])
        self._lower(buffer, *drawn)
        wide = np.flatnonzero((half_u[at] > 0.5 * TOUCHING) | (half_v[at] > 0.5 * TOUCHING))
        if wide.size:  # coarser than the policy's camera: such a patch covers its neighbours, too
            few = at[wide]
            for step_u, step_v in ((i, j) for i in (-1, 0, 1) for j in (-1, 0, 1) if i or j):
                next_u, next_v = column[few] + step_u, row[few] + step_v
                over = (np.abs(u[few] - next_u) <= half_u[few]) & (np.abs(v[few] - next_v) <= half_v[few])
                self._lower(buffer, next_u[over], next_v[over], depth_m[few][over])
        return buffer

    def _lower(self, buffer: Float32, column: Float32, row: Float32, depth_m: Float32) -> None:
        inside = (column >= 0.0) & (column < self._policy.width) & (row >= 0.0) & (row < self._policy.height)
        flat = row[inside].astype(np.intp) * self._policy.width + column[inside].astype(np.intp)
        np.minimum.at(buffer, flat, depth_m[inside])

    def _close_cracks(self, seen_m: Float32, measured_m: Float32) -> None:
        """Between two neighbours of similar depth that nobody's patch covers: what was measured there, if it is of their depth.

        A surface that the real camera sees at a flatter angle than the policy's has such cracks. Where the sensor had no depth it stays so.
        """
        padded = np.pad(seen_m, 1, constant_values=np.inf)
        across, down = (padded[1:-1, :-2], padded[1:-1, 2:]), (padded[:-2, 1:-1], padded[2:, 1:-1])
        for one, other in (across, down):
            middle_m = 0.5 * (one + other)
            rows, columns = np.nonzero((seen_m == np.inf) & (np.abs(one - other) <= SIMILAR * middle_m))
            if not rows.size:
                continue
            expected_m = middle_m[rows, columns]
            is_inside, at = self._look_back(rows, columns, expected_m)
            found_m = self._depth_of_ray[at] * self._true_m(measured_m[at]) + self._shift[2]
            is_right = is_inside & (np.abs(found_m - expected_m) <= SIMILAR * expected_m)
            seen_m[rows[is_right], columns[is_right]] = found_m[is_right]

    def _look_back(self, rows: NDArray[np.intp], columns: NDArray[np.intp], depth_m: NDArray[np.floating]) -> "_LookedBack":
        """Which pixel of the real image would see the points of the policy's pixels at these depths, and whether there is one."""
        policy, lens = self._policy, self._lens
        points = np.stack([(columns - policy.cx) / policy.fx * depth_m, (rows - policy.cy) / policy.fy * depth_m, depth_m])
        x, y, z = self._from_policy[:3, :3] @ points + self._from_policy[:3, 3:]
        with np.errstate(invalid="ignore", divide="ignore"):
            x, y = _distorted(x / z, y / z, self._distortion)
        u, v = x * lens.fx + lens.cx, y * lens.fy + lens.cy
        inside = (z > 0.0) & (u > -0.5) & (u < lens.width - 0.5) & (v > -0.5) & (v < lens.height - 0.5)
        column, row = np.rint(np.where(inside, u, 0.0)), np.rint(np.where(inside, v, 0.0))
        return inside, row.astype(np.intp) * lens.width + column.astype(np.intp)


_LookedBack = tuple[NDArray[np.bool_], NDArray[np.intp]]


def _matrix(lens: Intrinsics) -> Float64:
    return np.array([[lens.fx, 0.0, lens.cx], [0.0, lens.fy, lens.cy], [0.0, 0.0, 1.0]])


def _distorted(x: Float64, y: Float64, distortion: Distortion) -> tuple[Float64, Float64]:
    """Where Brown's lens puts the ray (x, y, 1), both in the plane z = 1; coefficients as in `calibration.Lens`."""
    k1, k2, p1, p2, k3 = distortion
    r2 = x * x + y * y
    radial = 1.0 + r2 * (k1 + r2 * (k2 + r2 * k3))
    return x * radial + 2.0 * p1 * x * y + p2 * (r2 + 2.0 * x * x), y * radial + p1 * (r2 + 2.0 * y * y) + 2.0 * p2 * x * y


def _rays(lens: Intrinsics, distortion: Distortion) -> Float64:
    """(3, h·w) ray of each pixel, z = 1: the fixed point of `_distorted`, which converges for every lens that is no fisheye."""
    rows, columns = np.divmod(np.arange(lens.height * lens.width), lens.width)
    goal_x, goal_y = (columns - lens.cx) / lens.fx, (rows - lens.cy) / lens.fy
    x, y = goal_x, goal_y
    for _ in range(20 if any(distortion) else 0):
        at_x, at_y = _distorted(x, y, distortion)
        x, y = x + goal_x - at_x, y + goal_y - at_y
    return np.stack([x, y, np.ones_like(x)])


def _half_footprint(rays: Float64) -> Float64:
    """(2, h·w): half of how far a pixel's patch goes in the policy's columns and rows, times the ray's own depth.

    Of a patch at right angles to the real camera's axis. Turned about the axis it is a diamond; its bounding box is taken.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        far = rays[:2] / rays[2]
    along_rows, along_columns = np.gradient(far, axis=(1, 2))
    half: Float64 = 0.5 * (np.abs(along_rows) + np.abs(along_columns)) * rays[2]
    return half.reshape(2, -1)


def _may_be_seen(rays: Float64, shift: Float64, policy: Intrinsics) -> NDArray[np.bool_]:
    """(h·w,): whether what a pixel sees between nearest and farthest, a straight line, can be in the policy's view."""
    ends = np.stack([rays * depth_m + shift for depth_m in (NEAREST_M, FARTHEST_M)])  # (2, 3, h·w)
    with np.errstate(invalid="ignore", divide="ignore"):
        u, v = ends[:, 0] / ends[:, 2], ends[:, 1] / ends[:, 2]
    beside = (u.max(axis=0) < -1.0) | (u.min(axis=0) > policy.width) | (v.max(axis=0) < -1.0) | (v.min(axis=0) > policy.height)
    in_front = ends[:, 2] > 0.0
    seen: NDArray[np.bool_] = in_front.any(axis=0) & ~(beside & in_front.all(axis=0))
    return seen


class Mounting(Struct, frozen=True):
    """What was measured of the camera, and as which camera its frames shall look."""

    path: str  # of the calibration, for whoever reads an error
    found: Calibration
    policy: VirtualCamera

    def reprojection(self, lens: Intrinsics, serial: str) -> Reprojection:
        """For the camera that is plugged in; raises `ConfigError` for another one, another profile, and one that looks elsewhere.

        What was not measured is as the camera reports it (lens), as in training (place), or true (depth).
        """
        found, path = self.found, Path(self.path)
        calibration.check_camera(found, path, serial)
        distortion, pose, depth = NO_DISTORTION, self.policy.transform_camera_to_tool, (1.0, 0.0)
        if found.lens is not None:
            _check_lens(found.lens.intrinsics, lens, path)
            lens, distortion = found.lens.intrinsics, found.lens.distortion
        if found.hand_eye is not None:
            pose = found.hand_eye.transform_camera_to_tool
        if found.depth is not None:
            depth = (found.depth.scale, found.depth.offset_m)
        made = Reprojection(lens, distortion, np.array(pose), self.policy, *depth)
        covered, at_m = min((made.covered(at_m), at_m) for at_m in COVERED_AT_M)
        if covered < COVERED_MIN:
            raise ConfigError(
                f"calibration {path}: the camera sees {covered:.0%} of the policy's view at {at_m * 1e3:.0f} mm, expected at least "
                f"{COVERED_MIN:.0%}; mount it nearer to where the policy's camera was, or calibrate again"
            )
        return made


def mounting_of(found: Calibration, path: Path, policy: VirtualCamera) -> Mounting | None:
    """What a calibration says of the camera; None when nothing was measured of it: it is taken for the policy's own then.

    Raises `ConfigError` for a camera that was measured anywhere but on the wrist.
    """
    calibration.check_placement(found, path)
    is_measured = any((found.lens, found.hand_eye, found.depth))
    return Mounting(str(path), found, policy) if is_measured else None


class ReprojectedCamera(CameraInside):
    """Another camera's frames, as the policy's camera would have taken them."""

    def __init__(self, camera: DepthCamera, mounting: Mounting) -> None:
        super().__init__(camera)
        self._mounting = mounting
        self._reported: Intrinsics | None = None
        self._newest: Frame | None = None  # as it came; `_shown` is what was made of it
        self._shown: Frame | None = None

    def start(self) -> Intrinsics:
        """Wait for a first frame, see whether the camera is the one that was measured; raises `ConfigError`, `ObservationError`."""
        self._reported = self._camera.start()
        self._reproject = self._mounting.reprojection(self._reported, self.serial)
        return self._mounting.policy.intrinsics

    def latest(self) -> Frame | None:
        """The newest frame, without waiting, None before the start; raises `ObservationError` when the camera is gone, or another."""
        frame = self._camera.latest()
        if frame is self._newest or frame is None or self._reported is None:
            return self._shown
        if frame.intrinsics != self._reported:
            raise ObservationError(f"{_described(frame.intrinsics)} now, expected {_described(self._reported)} as at the start; restart")
        self._newest, self._shown = frame, self._reproject(frame)
        return self._shown


def open_reprojected(opener: str, arguments: str, mounting: str) -> ReprojectedCamera:
    """What `through` asks for: both are JSON."""
    return ReprojectedCamera(open_camera(opener, arguments), msgspec.json.decode(mounting, type=Mounting))


def through(mounting: Mounting | None, opener: str, arguments: Sequence[str | float]) -> tuple[str, tuple[str | float, ...]]:
    """Opener and arguments, as `edge.cameras.capture` takes them: of that camera through a mounting, computed in its process."""
    return wrapped("edge.cameras.virtual_camera:open_reprojected", mounting, opener, arguments)


def _check_lens(measured: Intrinsics, reported: Intrinsics, path: Path) -> None:
    """Raise `ConfigError` for a lens that was measured in another profile."""
    is_close = all(
        math.isclose(a, b, abs_tol=LENS_TOLERANCE * scale)
        for a, b, scale in zip(measured[2:], reported[2:], (measured.fx, measured.fy, measured.width, measured.height), strict=True)
    )
    if measured[:2] != reported[:2] or not is_close:
        raise ConfigError(
            f"calibration {path}: lens is {_described(measured)}, and {_described(reported)} by the camera's own word, expected the same "
            "profile; set it as calibrated, or calibrate the lens again"
        )


def _described(lens: Intrinsics) -> str:
    return f"{lens.width}×{lens.height}, fx {lens.fx:.1f} px, centre ({lens.cx:.1f}, {lens.cy:.1f})"
