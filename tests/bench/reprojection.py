"""The virtual camera: a 424×240 image seen as the policy's 64×64, beside the z-buffer that one writes first and the one with OpenCV."""

import numpy as np
from tables import Bench, Figures, durations_s

from edge.cameras.virtual_camera import Reprojection
from edge.contract import VirtualCamera
from edge.messages import NO_DISTORTION, Float32, Frame
from trainer import sensors, spec

FRAMES = 100
SHIFT_M, TURN_RAD = (0.004, -0.003, 0.005), (0.05, -0.04, 0.06)


def bench() -> Bench:
    """Time per frame, and how far off the depth is, of a scene that all of it is known of: a tilted table."""
    policy = spec.contract().camera
    real = sensors.mounted(policy, SHIFT_M, TURN_RAD)
    taken_m, true_m = (_table(camera) for camera in (real, policy))
    rng = np.random.default_rng(0)
    frames = [Frame(taken_m + rng.normal(0.0, 1e-5, taken_m.shape).astype(np.float32), real.intrinsics, 0.0, i) for i in range(FRAMES)]
    project = Reprojection(real.intrinsics, NO_DISTORTION, np.array(real.transform_camera_to_tool), policy)
    rows = {"edge.cameras.virtual_camera": _figures(lambda frame: project(frame).depth_m, frames, true_m)}
    plain = Plain(real, policy)
    rows["np.minimum.at over all points"] = _figures(plain.image, frames, true_m)
    rows["the same, rays by cv2.projectPoints"] = _opencv(plain, frames, true_m)
    notes = "One core. Error: of the nearest surface to a pixel's centre, median over the pixels that have depth; noise of 0.01 mm."
    return Bench("A 424×240 depth image in the policy's camera, 64×64", rows, {"median ms/frame": 5.0}, notes)


def _figures(project, frames: list[Frame], true_m: Float32) -> Figures:
    times_s = durations_s(project, frames)
    found_m = project(frames[0])
    seen = found_m > 0.0
    return {
        "median ms/frame": float(np.median(times_s)) * 1e3,
        "p99 ms/frame": float(np.percentile(times_s, 99)) * 1e3,
        "median error mm": float(np.median(np.abs(found_m - true_m)[seen])) * 1e3,
        "without depth %": 100.0 * float(np.mean(~seen)),
    }


def _table(camera: VirtualCamera) -> Float32:
    """(h, w) metres: the plane 0.13 m below the tool's origin, along its z, as a camera on the tool sees it."""
    lens, pose = camera.intrinsics, np.array(camera.transform_camera_to_tool)
    rows, columns = np.mgrid[0 : lens.height, 0 : lens.width]
    falls = pose[2, 0] * (columns - lens.cx) / lens.fx + pose[2, 1] * (rows - lens.cy) / lens.fy + pose[2, 2]
    return np.where(falls > 0.1, (0.05 - pose[2, 3]) / np.maximum(falls, 0.1), 0.0).astype(np.float32)


class Plain:
    """Every pixel's point into the policy's camera, the nearest of each pixel: what one writes first."""

    def __init__(self, real: VirtualCamera, policy: VirtualCamera) -> None:
        self.lens, self.policy = real.intrinsics, policy.intrinsics
        rows, columns = np.mgrid[0 : self.lens.height, 0 : self.lens.width]
        rays = np.stack([(columns - self.lens.cx) / self.lens.fx, (rows - self.lens.cy) / self.lens.fy, np.ones(rows.shape)])
        self.rays = rays.reshape(3, -1)
        self.to_policy = np.linalg.inv(np.array(policy.transform_camera_to_tool)) @ np.array(real.transform_camera_to_tool)

    def image(self, frame: Frame) -> Float32:
        """(64, 64) metres."""
        points = self.points(frame)
        valid = points[2] > 0.0
        x, y, z = points[:, valid]
        column = np.rint(self.policy.fx * x / z + self.policy.cx).astype(int)
        row = np.rint(self.policy.fy * y / z + self.policy.cy).astype(int)
        return self.drawn(column, row, z)

    def points(self, frame: Frame) -> np.ndarray:
        """(3, h·w) in the policy's camera."""
        depth_m = frame.depth_m.ravel()
        points = self.to_policy[:3, :3] @ (self.rays * depth_m) + self.to_policy[:3, 3:]
        points[2, depth_m <= 0.0] = 0.0
        return points

    def drawn(self, column: np.ndarray, row: np.ndarray, depth_m: np.ndarray) -> Float32:
        """The nearest of each pixel, 0 where there is none."""
        inside = (column >= 0) & (column < self.policy.width) & (row >= 0) & (row < self.policy.height)
        buffer = np.full((self.policy.height, self.policy.width), np.inf)
        np.minimum.at(buffer, (row[inside], column[inside]), depth_m[inside])
        return np.where(np.isfinite(buffer), buffer, 0.0).astype(np.float32)


def _opencv(plain: Plain, frames: list[Frame], true_m: Float32) -> Figures:
    """As people do it with OpenCV; where that is not installed there is no row."""
    try:
        import cv2
    except ModuleNotFoundError:
        return {}
    policy = plain.policy
    matrix = np.array([[policy.fx, 0.0, policy.cx], [0.0, policy.fy, policy.cy], [0.0, 0.0, 1.0]])

    def image(frame: Frame) -> Float32:
        points = plain.points(frame)
        points = points[:, points[2] > 0.0]
        places, _ = cv2.projectPoints(np.ascontiguousarray(points.T), np.zeros(3), np.zeros(3), matrix, None)
        column, row = np.rint(places[:, 0].T).astype(int)
        return plain.drawn(column, row, points[2])

    return _figures(image, frames, true_m)
