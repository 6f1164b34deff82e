"""A folder of images and what was found in them: put more images in, run again, and only the new ones are looked at."""

import hashlib
from collections.abc import Callable, Collection
from pathlib import Path

import cv2
import msgspec
import numpy as np
from msgspec import Struct

from calibration import json_file
from calibration.boards import Board, CharucoBoard, MarkerBoard
from calibration.detect import Detection, detect
from calibration.opencv import Image
from edge.errors import CalibrationError, ConfigError

NAME = "session.json"
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")


class Seen(Struct, frozen=True, forbid_unknown_fields=True):
    """One image: its corners, or why it was refused."""

    sha256: str
    width: int
    height: int
    refused: str = ""
    ids: tuple[int, ...] = ()
    corners_px: tuple[tuple[float, float], ...] = ()
    edge_px: float = 0.0

    def detection(self) -> Detection:
        """The corners as arrays."""
        return Detection(np.array(self.ids, np.int64), np.array(self.corners_px).reshape(-1, 2), self.edge_px)


class Session(Struct, frozen=True, forbid_unknown_fields=True):
    """What was found so far, by file name, with the board that was looked for."""

    board: CharucoBoard | MarkerBoard
    images: dict[str, Seen] = {}

    @property
    def used(self) -> dict[str, Seen]:
        """The images that were not refused."""
        return {name: seen for name, seen in self.images.items() if not seen.refused}

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the images; raises `CalibrationError` where they differ, and where no image was used."""
        first: tuple[str, tuple[int, int]] | None = None
        for name, seen in self.used.items():
            size = (seen.width, seen.height)
            if first is not None and size != first[1]:
                found = f"{first[0]} has {first[1][0]} × {first[1][1]} pixels and {name} has {size[0]} × {size[1]}"
                raise CalibrationError(f"images of mixed size: {found}, expected one stream's; sort them into a folder each")
            first = first or (name, size)
        if first is None:
            reasons = "; ".join(f"{name}: {seen.refused}" for name, seen in list(self.images.items())[:1])
            raise CalibrationError(f"none of {len(self.images)} images shows the board ({reasons})")
        return first[1]


def read_image(path: Path) -> Image:
    """(height, width) grey; raises `ConfigError` for a file that is no picture."""
    return _decoded(_read(path), path)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}), expected an image; look at the folder") from None


def _decoded(data: bytes, path: Path) -> Image:
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE) if data else None
    except cv2.error:  # so large that OpenCV does not try
        image = None
    if image is None:
        raise ConfigError(f"{path} is no image that can be read, expected {', '.join(SUFFIXES)}; take it out of the folder")
    return np.asarray(image, np.uint8)


def make_folder(folder: Path) -> None:
    """For images; raises `ConfigError` where there can be none."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"{folder} is no folder, and none can be made ({error.strerror}), expected one for images; name another"
        ) from None


def has_images(folder: Path) -> bool:
    """Whether there is any; False where there is no folder."""
    return any(path.suffix.lower() in SUFFIXES for path in folder.glob("*"))


def image_paths(folder: Path) -> list[Path]:
    """The folder's images by name; raises `ConfigError` where there are none."""
    paths = sorted(path for path in folder.glob("*") if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise ConfigError(f"--images {folder} has no image, expected {', '.join(SUFFIXES)}; put the camera's images there")
    return paths


def look(folder: Path, board: Board, show: Callable[[str, Seen], None] = lambda name, seen: None) -> Session:
    """Look for the board in each image that is new, tell `show` of every one, and keep what was found in the folder.

    Raises `ConfigError` for a file that is no picture, and for a folder that may not be written to.
    """
    before = _before(folder, board)
    images: dict[str, Seen] = {}
    try:
        for path in image_paths(folder):
            data = _read(path)
            digest = hashlib.sha256(data).hexdigest()
            known = before.get(path.name)
            images[path.name] = known if known is not None and known.sha256 == digest else _seen(_decoded(data, path), digest, board)
            show(path.name, images[path.name])
    finally:  # an interrupted run goes on where it was
        session = Session(board, {**before, **images})
        if session.images:
            json_file.save(folder / NAME, session, "what was found so far,")
    return Session(board, images)


def _before(folder: Path, board: Board) -> dict[str, Seen]:
    """What was found with the same board, as far as it is whole; the rulers play no part in finding it."""
    path = folder / NAME
    try:
        session = msgspec.json.decode(path.read_bytes(), type=Session)
    except (OSError, ValueError, RecursionError):
        return {}
    same = msgspec.structs.replace(session.board, ruler_mm=None) == msgspec.structs.replace(board, ruler_mm=None)
    known = board.nominal_points_m().keys()
    return {name: seen for name, seen in session.images.items() if same and _is_whole(seen, known)}


def _is_whole(seen: Seen, known: Collection[int]) -> bool:
    ids = set(seen.ids)
    return len(ids) == len(seen.ids) == len(seen.corners_px) and ids.issubset(known)


def _seen(image: Image, digest: str, board: Board) -> Seen:
    height, width = image.shape
    try:
        found = detect(image, board)
    except CalibrationError as error:
        return Seen(digest, width, height, str(error))
    corners = tuple((float(u), float(v)) for u, v in found.corners_px)
    return Seen(digest, width, height, "", tuple(found.ids.tolist()), corners, float(found.edge_px))
