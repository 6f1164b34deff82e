"""A simulated camera before a board, for trying the live steps without hardware. Nothing real is measured with it.

Its clock is its own: each frame comes `PERIOD_S` after the one before, however long it took to render. What it sees moves as a hand
holds it (`Hand`), or stays on the table while an arm comes back to one pose, as well as servos do (`Returns`).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from calibration.boards import Board
from calibration.live.guides import Wanted
from calibration.opencv import Lens, project
from calibration.simulated import render
from edge.cameras.camera import SimulatorCamera
from edge.messages import Float32, Float64, Frame, Intrinsics

PERIOD_S = 0.1
GREY_SD, BLUR_PX, EXPOSURE_S = 2.0, 0.5, 0.02  # of a cheap camera in a lit room
FOCAL_SHARE = 253.0 / 424.0  # focal length over width, a D405's (docs/realsense.md)
UNLIKE_SD = 0.01  # of the focal lengths of cameras of one kind: assumed
FOCAL_SD, CENTRE_SD_PX, K1_SD = 0.003, 1.5, 0.005  # by which the lens is not as the factory says: assumed
DEPTH_SCALE, DEPTH_OFFSET_M = 1.01, 0.002  # true depth = scale · measured + offset: what `dofbot calibrate depth` is to find
BASELINE_M, DISPARITY_SD_PX, DISPARITY_MAX_PX = 0.018, 0.08, 126.0  # a D405's (docs/realsense.md)
MOVES, RESTS = 3, 6  # frames that a hand takes to the next place, and stays there
TREMBLE_M = 1e-4  # of a hand that rests
TILTED_RAD, FACING_RAD = np.radians((22.0, 40.0)), np.radians(15.0)
RETURN_SD_RAD, KNOCK_SD_M = np.radians(0.15), 0.004  # of an arm that comes back; of a camera that was knocked

AT = {"left": 0.22, "right": 0.78, "upper": 0.25, "lower": 0.75}  # where a hand holds a board that is wanted there
NEARER_RAD = {"right": 0.0, "lower": np.pi / 2.0, "left": np.pi, "upper": -np.pi / 2.0}  # to which side the board's normal then points


Show = Callable[[Lens], Float64]  # what is before a camera with that lens in its next frame: `transform_board_to_camera`


class Optics(NamedTuple):
    """A lens as its factory tells it, a little off, and as it is, which only a simulation knows."""

    factory: Intrinsics
    lens: Lens


def drawn_optics(size: tuple[int, int], seed: int) -> Optics:
    """One camera of a kind, of (width, height) pixels."""
    draws = np.random.default_rng((seed, 0))
    focal = FOCAL_SHARE * size[0] * (1.0 + draws.normal(0.0, UNLIKE_SD))
    factory = Intrinsics(*size, focal, focal, (size[0] - 1) / 2.0, (size[1] - 1) / 2.0)
    focal *= 1.0 + draws.normal(0.0, FOCAL_SD)
    centre = draws.normal(factory[4:], CENTRE_SD_PX)
    return Optics(factory, Lens(Intrinsics(*size, focal, focal, *centre.tolist()), (float(draws.normal(0.0, K1_SD)), 0.0, 0.0, 0.0, 0.0)))


class SimulatedCamera:
    """A `DepthCamera` whose frames have an image."""

    serial = SimulatorCamera.serial

    def __init__(self, board: Board, optics: Optics, seed: int, show: Show) -> None:
        self.factory, self.lens = optics
        self._board = board
        self._show = show
        self._noise = np.random.default_rng((seed, 1))
        self._frames = 0
        self._middle_px: Float64 | None = None

    def start(self) -> Intrinsics:
        """As the factory says: a little off."""
        return self.factory

    def latest(self) -> Frame:
        """The next frame."""
        pose = self._show(self.lens)
        image = render.blurred(render.view(self._board, pose, self.lens), BLUR_PX)
        image = render.noisy(render.smeared(image, self._smear_px(pose)), GREY_SD, self._noise)
        self._frames += 1
        depth_m = self._measured(render.depth(pose, self.lens))
        return Frame(depth_m, self.factory, PERIOD_S * self._frames, self._frames, image)

    def close(self) -> None:
        """Nothing to give back."""

    def _smear_px(self, pose: Float64) -> int:
        """How far the board's middle moves during the exposure; 1: it stands."""
        before_px, middle_m = self._middle_px, np.array([[*np.array(self._board.size_m) / 2.0, 0.0]])
        self._middle_px = project(middle_m, pose, self.lens)[0]
        if before_px is None:
            return 1
        return max(round(float(np.linalg.norm(self._middle_px - before_px)) * EXPOSURE_S / PERIOD_S), 1)

    def _measured(self, true_m: Float32) -> Float32:
        """As a stereo camera measures it: off by scale and offset, noisy, blind below its shortest distance."""
        focal_baseline = self.factory.fx * BASELINE_M
        measured = (true_m - np.float32(DEPTH_OFFSET_M)) / np.float32(DEPTH_SCALE)
        measured += np.square(measured) / focal_baseline * self._noise.normal(0.0, DISPARITY_SD_PX, measured.shape)
        return np.where(measured > focal_baseline / DISPARITY_MAX_PX, measured, 0.0).astype(np.float32)


class Hand:
    """Holds the board where it is wanted, as well as hands do, for half a second, then in the next place.

    `fills` is what share of the image's width the board may take, least and most.
    """

    def __init__(self, board: Board, rng: np.random.Generator, fills: tuple[float, float] = (0.5, 0.95)) -> None:
        self._centre_m = np.array((*board.size_m, 0.0)) / 2.0
        self._width_m = max(board.size_m)
        self._rng = rng
        self._fills = fills
        self._wanted: Wanted | None = None
        self._frames = 0
        self._from = self._to = np.eye(4)

    def follow(self, wanted: Wanted) -> None:
        """What the next place should be."""
        self._wanted = wanted

    def __call__(self, lens: Lens) -> Float64:
        """The next frame."""
        step = self._frames % (MOVES + RESTS)
        if step == 0:
            self._from, self._to = self._to if self._frames else self._next(lens), self._next(lens)
        self._frames += 1
        if step < MOVES:
            return _between(self._from, self._to, (step + 0.5) / MOVES)
        pose = self._to.copy()
        pose[:3, 3] += self._rng.normal(0.0, TREMBLE_M, 3)
        return pose

    def _next(self, lens: Lens) -> Float64:
        rng, wanted = self._rng, self._wanted
        words = wanted.part.split() if wanted else []
        across, down = (
            next((AT[word] for word in words if word in names), 0.5 if words else rng.uniform(0.2, 0.8)) + rng.uniform(-0.08, 0.08)
            for names in (("left", "right"), ("upper", "lower"))
        )
        towards = NEARER_RAD[wanted.edge] + rng.uniform(-0.4, 0.4) if wanted and wanted.edge else rng.uniform(-np.pi, np.pi)
        tilt = rng.uniform(*TILTED_RAD) if wanted and wanted.edge else rng.uniform(0.0, FACING_RAD if wanted else TILTED_RAD[1])
        rotation = _turn(tilt * np.array((-np.sin(towards), np.cos(towards), 0.0))) @ _turn(np.array((0.0, 0.0, rng.uniform(-0.4, 0.4))))
        width, height, focal = lens.intrinsics.width, lens.intrinsics.height, lens.intrinsics.fx
        away = focal * self._width_m / (rng.uniform(*self._fills) * width)
        middle = away * np.array(((across * width - lens.intrinsics.cx) / focal, (down * height - lens.intrinsics.cy) / focal, 1.0))
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = rotation, middle - rotation @ self._centre_m
        return pose


class Returns:
    """A board on the table, seen from one pose to which the arm comes back; another `seed` is a camera that was knocked since."""

    def __init__(self, board: Board, seed: int, rng: np.random.Generator) -> None:
        centre_m, away_m = np.array((*board.size_m, 0.0)) / 2.0, 1.3 * max(board.size_m)
        self._mean = np.eye(4)
        self._mean[:3, :3] = _turn(np.array((0.2, 0.1, 0.0)))
        self._mean[:3, 3] = np.array((0.0, 0.0, away_m)) - self._mean[:3, :3] @ centre_m
        self._mean[:2, 3] += np.random.default_rng((seed, 2)).normal(0.0, KNOCK_SD_M, 2)
        self._rng = rng
        self.come_back()

    def come_back(self) -> None:
        """As if the arm had gone away, and come back as well as its servos do."""
        turned = np.eye(4)
        turned[:3, :3] = _turn(self._rng.normal(0.0, RETURN_SD_RAD, 3))
        self._pose = turned @ self._mean

    def __call__(self, _: Lens) -> Float64:
        """The next frame."""
        return self._pose


def _turn(rotation_vector: NDArray[Any]) -> Float64:
    return np.asarray(cv2.Rodrigues(np.asarray(rotation_vector, np.float64))[0], np.float64)


def _between(start: Float64, end: Float64, share: float) -> Float64:
    """A pose on the straight way from one to another."""
    turn, _ = cv2.Rodrigues(end[:3, :3] @ start[:3, :3].T)
    pose = np.eye(4)
    pose[:3, :3] = _turn(share * turn) @ start[:3, :3]
    pose[:3, 3] = (1.0 - share) * start[:3, 3] + share * end[:3, 3]
    return pose
