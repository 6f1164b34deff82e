"""The one place that calls OpenCV's geometry and markers: what it gives has one shape and one dtype, whatever its version.

OpenCV 4 and 5 differ in the shapes of corners and ids, in the numbers of their constants, and in what an empty detection looks like;
`projectPoints` has another shape still, and `projected - corners` then broadcasts without a word. Here points are (n, 2) or (n, 3)
float64, ids (n,) int64, and poses 4×4 `transform_<from>_to_<to>`, of optical axes: x right, y down, z forward; metres.
Pixel centres lie on whole numbers. Tested with 4.14 and 5.0; 4.10 and 4.12 put ChArUco corners half a pixel off.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.errors import CalibrationError, ConfigError
from edge.messages import Float64, Intrinsics

Image = NDArray[np.uint8]  # (height, width), grey
Ids = NDArray[np.int64]
NO_DISTORTION = (0.0, 0.0, 0.0, 0.0, 0.0)

# By name and not by number: the numbers change from release to release.
DICTIONARIES = tuple(
    f"DICT_{name}"
    for name in (*(f"{n}X{n}_{size}" for n in (4, 5, 6, 7) for size in (50, 100, 250, 1000)), "APRILTAG_36h11", "ARUCO_ORIGINAL")
)
# Iterative undistortion stops here, in pixels or rounds: the default (0.01 px, 5 rounds) is coarser than a corner.
_CRITERIA = (cv2.TERM_CRITERIA_COUNT + cv2.TERM_CRITERIA_EPS, 50, 1e-9)

_SADDLE_CRITERIA = (cv2.TERM_CRITERIA_COUNT + cv2.TERM_CRITERIA_EPS, 60, 1e-4)


class Lens(NamedTuple):
    """A pinhole and Brown's distortion as OpenCV orders it: k1 k2 p1 p2 k3."""

    intrinsics: Intrinsics
    distortion: tuple[float, float, float, float, float] = NO_DISTORTION

    def matrix(self) -> Float64:
        """(3, 3) camera matrix, pixels."""
        _, _, fx, fy, cx, cy = self.intrinsics
        return np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])

    def coefficients(self) -> Float64:
        """(5,) distortion."""
        return np.array(self.distortion)


class Markers(NamedTuple):
    """Markers in an image: `ids` (n,), `corners_px` (n, 4, 2), clockwise from the marker's own upper left."""

    ids: Ids
    corners_px: Float64


class SquarePose(NamedTuple):
    """One of the two poses that four corners of a square allow, and its reprojection error (root mean square, pixels)."""

    transform_marker_to_camera: Float64
    error_px: float


def marker_bits(dictionary: str, marker: int) -> NDArray[np.bool_]:
    """(n, n) modules of a marker with its black border, from the upper left; True is white.

    Raises `ConfigError` for a dictionary or a marker that there is not.
    """
    found = _dictionary(dictionary)
    size = found.bytesList.shape[0]
    if not 0 <= marker < size:
        raise ConfigError(f"{dictionary} has no marker {marker}, expected 0 to {size - 1}; take a larger dictionary")
    picture = cv2.aruco.generateImageMarker(found, marker, found.markerSize + 2, borderBits=1)
    return np.asarray(picture) > 127


def find_markers(image: Image, dictionary: str, *, is_near: bool = False) -> Markers:
    """All markers of a dictionary in a grey image; corners within 2 px or so, see `marker_edges` for better.

    `is_near` promises that they are at least 24 px wide: then one threshold does instead of three, and noise makes no candidates.
    """
    corners, ids, _ = _marker_detector(dictionary, is_near).detectMarkers(image)
    if ids is None or len(ids) == 0:
        return Markers(np.empty(0, np.int64), np.empty((0, 4, 2)))
    return Markers(_ids(ids), np.array(corners, np.float64).reshape(-1, 4, 2))


def find_charuco(
    image: Image, shape: tuple[int, int], marker_share: float, dictionary: str, *, is_legacy: bool = False
) -> tuple[Ids, Float64, Ids]:
    """Inner corners of a ChArUco board with `shape` = (columns, rows) squares: ids (n,), corners_px (n, 2), and ids of its markers.

    `marker_share` is a marker's width over a square's. Corners are numbered row by row from the upper left.
    """
    corners, ids, _, markers = _charuco_detector(shape, marker_share, dictionary, is_legacy).detectBoard(image)
    seen = np.empty(0, np.int64) if markers is None else _ids(markers)
    if ids is None or len(ids) == 0:
        return np.empty(0, np.int64), np.empty((0, 2)), seen
    return _ids(ids), _points(corners), seen


def sample(image: Image, points_px: Float64) -> Float64:
    """Grey levels at points (…, 2), between pixels as well."""
    u, v = (points_px[..., axis].reshape(1, -1).astype(np.float32) for axis in (0, 1))
    levels = cv2.remap(image, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return levels.astype(np.float64).reshape(points_px.shape[:-1])


def profiles(image: Image, ends_px: Float64, positions: Float64, steps_px: Float64) -> Float64:
    """(n, m, k) grey levels across n segments (n, 2 ends, 2): at m places of each (0 one end, 1 the other), at k steps to its right."""
    along = ends_px[:, 1] - ends_px[:, 0]
    normal = np.column_stack((-along[:, 1], along[:, 0])) / np.linalg.norm(along, axis=1, keepdims=True)
    foot = ends_px[:, 0, None] + positions[:, None] * along[:, None]  # (n, m, 2)
    return sample(image, foot[:, :, None] + steps_px[:, None] * normal[:, None, None])


def refine_saddles(image: Image, corners_px: Float64, half_px: NDArray[np.int64]) -> Float64:
    """Chessboard corners (n, 2) moved to where the grey levels have their saddle, each within a window of ± `half_px` (n,)."""
    refined = corners_px.copy()
    for half in np.unique(half_px):
        chosen = half_px == half
        start = np.ascontiguousarray(corners_px[chosen], np.float32).reshape(-1, 1, 2)
        window = (int(half), int(half))
        refined[chosen] = _points(cv2.cornerSubPix(image, start, window, (-1, -1), _SADDLE_CRITERIA))
    return refined


def project(points_m: Float64, transform_points_to_camera: Float64, lens: Lens) -> Float64:
    """(n, 2) pixels of points (n, 3) in metres."""
    pose = np.asarray(transform_points_to_camera)
    rotation, _ = cv2.Rodrigues(pose[:3, :3])
    pixels, _ = cv2.projectPoints(np.ascontiguousarray(points_m, np.float64), rotation, pose[:3, 3], lens.matrix(), lens.coefficients())
    return _points(pixels)


def project_with_derivatives(points_m: Float64, pose: Float64, camera: Float64) -> tuple[Float64, Float64, Float64]:
    """Pixels (n, 2) and their derivatives by the pose (2n, 6) and by the camera (2n, 9).

    `pose` (6,) is a rotation vector and a translation, `camera` (9,) is fx fy cx cy k1 k2 p1 p2 k3.
    """
    fx, fy, cx, cy = camera[:4]
    matrix = np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])
    pixels, derivatives = cv2.projectPoints(np.ascontiguousarray(points_m, np.float64), pose[:3], pose[3:], matrix, camera[4:])
    # Columns: rotation 3, translation 3, fx fy, cx cy, distortion.
    columns = np.asarray(derivatives, np.float64)
    return _points(pixels), columns[:, :6], columns[:, 6:15]


def undistort(pixels: Float64, lens: Lens) -> Float64:
    """(n, 2) rays x/z, y/z of pixels (n, 2)."""
    where = np.ascontiguousarray(pixels, np.float64).reshape(-1, 1, 2)
    if _VERSION >= 5:
        rays = cv2.undistortPoints(where, lens.matrix(), lens.coefficients(), criteria=_CRITERIA)
    else:
        older: Any = cv2  # the stubs are those of 5
        rays = older.undistortPointsIter(where, lens.matrix(), lens.coefficients(), None, None, _CRITERIA)
    return _points(rays)


def board_pose(points_m: Float64, corners_px: Float64, lens: Lens) -> Float64 | None:
    """`transform_board_to_camera` from at least four points (n, 3) of a plane and their pixels (n, 2); None where there is none.

    Both poses that a plane allows are refined, and the one with the smaller reprojection error is taken.
    """
    points = np.ascontiguousarray(points_m, np.float64)
    pixels = np.ascontiguousarray(corners_px, np.float64)
    try:
        count, rotations, translations, _ = cv2.solvePnPGeneric(points, pixels, lens.matrix(), lens.coefficients(), flags=cv2.SOLVEPNP_IPPE)
    except cv2.error:  # points on one line
        return None
    best: tuple[float, Float64] | None = None
    for i in range(count):
        rotation, translation = cv2.solvePnPRefineLM(points, pixels, lens.matrix(), lens.coefficients(), rotations[i], translations[i])
        pose = pose_matrix(np.concatenate((rotation.ravel(), translation.ravel())))
        error = float(np.square(project(points, pose, lens) - pixels).sum())
        if np.isfinite(error) and (best is None or error < best[0]):
            best = (error, pose)
    return None if best is None else best[1]


def square_poses(corners_px: Float64, size_m: float, lens: Lens) -> list[SquarePose]:
    """The two poses of a square marker that fit its four corners, the better one first; near a frontal view they are alike.

    The marker's axes: x right, y up, z towards whoever looks at it; its centre is the origin.
    """
    half = size_m / 2.0
    square = np.array([[-half, half, 0.0], [half, half, 0.0], [half, -half, 0.0], [-half, -half, 0.0]])
    pixels = np.ascontiguousarray(corners_px, np.float64)
    count, rotations, translations, errors = cv2.solvePnPGeneric(
        square, pixels, lens.matrix(), lens.coefficients(), flags=cv2.SOLVEPNP_IPPE_SQUARE
    )
    errors_px = np.asarray(errors, np.float64).ravel()
    vectors = [np.concatenate((np.ravel(rotations[i]), np.ravel(translations[i]))).astype(np.float64) for i in range(count)]
    return [SquarePose(pose_matrix(vector), float(error)) for vector, error in zip(vectors, errors_px, strict=True)]


def homography(points: Float64, pixels: Float64, *, is_robust: bool = False) -> Float64:
    """(3, 3) homography of a plane's points (n, 2) to pixels (n, 2): least squares, or the one that fits the better half best.

    Raises `CalibrationError` where there is none.
    """
    for method in (cv2.LMEDS, 0) if is_robust else (0,):  # the better half of few corners may lie on a line
        found, _ = cv2.findHomography(np.ascontiguousarray(points, np.float64), np.ascontiguousarray(pixels, np.float64), method)
        if found is not None and np.isfinite(found).all():
            return np.asarray(found, np.float64)
    raise CalibrationError(f"no flat board fits the {len(points)} corners in view; show more of it")


def pose_matrix(vector: Float64) -> Float64:
    """(4, 4) from a rotation vector and a translation (6,)."""
    pose = np.eye(4)
    pose[:3, :3] = cv2.Rodrigues(np.asarray(vector[:3], np.float64))[0]
    pose[:3, 3] = vector[3:]
    return pose


def pose_vector(pose: Float64) -> Float64:
    """(6,) rotation vector and translation of a (4, 4) pose."""
    return np.concatenate((cv2.Rodrigues(np.asarray(pose, np.float64)[:3, :3])[0].ravel(), pose[:3, 3]))


_VERSION = int(cv2.__version__.partition(".")[0])


def _points(found: Any) -> Float64:
    return np.asarray(found, np.float64).reshape(-1, 2)


def _ids(found: Any) -> Ids:
    return np.asarray(found, np.int64).reshape(-1)


def _dictionary(name: str) -> cv2.aruco.Dictionary:
    if name not in DICTIONARIES:
        raise ConfigError(f"there is no dictionary {name!r}, expected one of {', '.join(DICTIONARIES)}; name one of these")
    return cv2.aruco.getPredefinedDictionary(getattr(cv2.aruco, name))


@lru_cache(maxsize=64)  # making one takes longer than detecting with it
def _marker_detector(dictionary: str, is_near: bool) -> cv2.aruco.ArucoDetector:
    parameters = cv2.aruco.DetectorParameters()
    if is_near:  # 2 ms in noise instead of 16, and none of 30 markers lost
        parameters.adaptiveThreshWinSizeMin = parameters.adaptiveThreshWinSizeMax = 23
        parameters.adaptiveThreshConstant = 15
        parameters.minMarkerPerimeterRate = 0.15  # of the image's longer side
    return cv2.aruco.ArucoDetector(_dictionary(dictionary), parameters)


@lru_cache(maxsize=64)
def _charuco_detector(shape: tuple[int, int], marker_share: float, dictionary: str, is_legacy: bool) -> cv2.aruco.CharucoDetector:
    board = cv2.aruco.CharucoBoard(shape, 1.0, marker_share, _dictionary(dictionary))
    board.setLegacyPattern(is_legacy)
    parameters = cv2.aruco.CharucoParameters()
    # A corner beside one marker may be as good as one between two; whoever asks checks it. On renders blurred by 2 px this finds 78 % of
    # the corners, and 52 % with two.
    parameters.minMarkers = 1
    return cv2.aruco.CharucoDetector(board, parameters)
