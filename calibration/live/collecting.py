"""Images that take themselves: whenever the board is seen sharp and still, and the view is a new one, it goes into the folder.

What is in the folder counts, so that a collection goes on where it was. Time is the frames' own.
"""

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

import cv2
import numpy as np

from calibration.boards import Board
from calibration.detect import Detection, detect
from calibration.live.place import Place, place_of
from calibration.live.stills import Stills, why_black
from calibration.opencv import Image, Lens
from calibration.session import Session, has_images, look, make_folder
from edge.errors import CalibrationError, ConfigError, ObservationError
from edge.files import write_atomically
from edge.messages import Float32, Frame

# Of an image of 640 pixels: 1.2 px in an exposure of 20 ms. A blur of 7 px costs a corner 0.01 px (facts, 4.1), so trembling hands will do.
STILL_PX_S = 60.0
STILL_WITHIN_S = 1.0  # looks that are further apart say nothing of a motion
EXPLAIN_EVERY_S = 2.0  # why no board is seen: 45 ms on a slow x86-64 core, where the look itself takes 1 ms
GIVE_UP_S = 60.0  # without one view of the board


class Guide(Protocol):
    """What is collected, and whether a view adds to it."""

    def why_not(self, place: Place) -> str:
        """Why a view is not wanted, in a few words; empty: it is."""

    def add(self, place: Place, seen: Detection) -> None:
        """A view that is kept."""

    def status(self) -> str:
        """What there is so far: lines for a person."""

    def advice(self) -> str:
        """What to show next, in words."""


class Look(NamedTuple):
    """One look at the camera: what was seen, and the name of the image that was kept, or why none was."""

    image: Image
    seen: Detection | None
    place: Place | None
    name: str
    why_not: str


class Collection:
    """A folder that fills; with `keeps_depth`, NAME.npy in metres beside NAME.png."""

    def __init__(self, stills: Stills, folder: Path, board: Board, guide: Guide, *, keeps_depth: bool = False) -> None:
        """Raises `CalibrationError` for a board whose rulers were not measured, and for a folder of images of another size."""
        board.scale  # noqa: B018 - raises
        self._stills = stills
        self._folder = folder
        self._board = board
        self._guide = guide
        self._lens = Lens(stills.factory)
        self._keeps_depth = keeps_depth
        self._before: tuple[Detection, float] | None = None
        self._explained_s, self._reason = -EXPLAIN_EVERY_S, ""
        make_folder(folder)
        self.session = Session(board)
        if has_images(folder):
            self._resume()

    def looks(self) -> Iterator[Look]:
        """Look for ever; raises `CalibrationError` after a minute without the board, `ObservationError` when the camera is gone."""
        seen_s = -1.0
        while True:
            try:
                frame = self._stills.next()
            except ObservationError as error:
                raise ObservationError(f"{error}; {self._kept}") from None
            found = self._look(frame)
            seen_s = frame.captured_at_s if found.seen is not None or seen_s < 0.0 else seen_s
            if frame.captured_at_s - seen_s > GIVE_UP_S:
                raise CalibrationError(f"the board was not seen for {GIVE_UP_S:g} s, the last image: {found.why_not}; {self._kept}")
            yield found

    @property
    def _kept(self) -> str:
        return f"{len(self.session.used)} images are kept in {self._folder}: start again to go on"

    def _resume(self) -> None:
        self.session = look(self._folder, self._board)
        size = self._lens.intrinsics[:2]
        for name, seen in self.session.used.items():
            if (seen.width, seen.height) != size:
                found = f"{self._folder / name} has {seen.width} × {seen.height} pixels, the camera {size[0]} × {size[1]}"
                raise CalibrationError(f"{found}, expected one stream's images; take a new folder")
            self._add(seen.detection())

    def _look(self, frame: Frame) -> Look:
        image = frame.image
        assert image is not None  # `Stills` gives no other
        explains = frame.captured_at_s - self._explained_s >= EXPLAIN_EVERY_S
        try:
            dark = why_black(image)
            if dark:
                raise CalibrationError(dark)
            seen = detect(image, self._board, explains=explains)
        except CalibrationError as error:
            if explains:
                self._explained_s, self._reason = frame.captured_at_s, str(error)
            self._before = None
            return Look(image, None, None, "", self._reason or str(error))
        self._reason = ""
        place = place_of(seen, self._board, self._lens)
        speed = self._speed_px_s(seen, frame.captured_at_s)
        why_not = self._why_not(place, speed)
        name = "" if why_not else self._keep(image, frame.depth_m)
        return Look(image, seen, place, name, why_not)

    def _why_not(self, place: Place | None, speed_px_s: float) -> str:
        if place is None:
            return "no pose fits the corners"
        most = STILL_PX_S * self._lens.intrinsics.width / 640.0
        return self._guide.why_not(place) or ("" if speed_px_s <= most else "hold it still")

    def _speed_px_s(self, seen: Detection, at_s: float) -> float:
        """How fast the corners move; infinite where that cannot be said yet."""
        before, self._before = self._before, (seen, at_s)
        if before is None or not 0.0 < at_s - before[1] <= STILL_WITHIN_S:
            return np.inf
        common, now, then = np.intersect1d(seen.ids, before[0].ids, return_indices=True)
        if not common.size:
            return np.inf
        off_px = seen.corners_px[now] - before[0].corners_px[then]
        return float(np.sqrt(np.square(off_px).sum(axis=1).mean())) / (at_s - before[1])

    def _keep(self, image: Image, depth_m: Float32) -> str:
        """Write it, and count what then is in the folder."""
        number = next(n for n in range(1, 10_000) if not list(self._folder.glob(f"{n:03d}.*")))
        path = self._folder / f"{number:03d}.png"
        if self._keeps_depth:
            data = io.BytesIO()
            np.save(data, depth_m)
            _write(path.with_suffix(".npy"), data.getvalue())
        write_image(path, image)
        self.session = look(self._folder, self._board)
        self._add(self.session.images[path.name].detection())
        return path.name

    def _add(self, seen: Detection) -> None:
        place = place_of(seen, self._board, self._lens)
        if place is not None:
            self._guide.add(place, seen)


def fill(collection: Collection, show: Callable[[Look | None], None], is_enough: Callable[[], bool]) -> None:
    """Collect until it is enough, which is asked at first and after each image that is kept, or until Ctrl-C.

    Raises what `Collection.looks` does.
    """
    looks = collection.looks()
    try:
        show(None)
        while not is_enough():
            while not (look := next(looks)).name:
                show(look)
            show(look)
    except KeyboardInterrupt:
        return


def write_image(path: Path, image: Image) -> None:
    """As PNG, whole or not there; raises `ConfigError`."""
    _write(path, cv2.imencode(".png", image)[1].tobytes())


def _write(path: Path, data: bytes) -> None:
    try:
        write_atomically(path, data)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written ({error.strerror}); give a folder that you may write to, with room") from None
