"""What the images so far still lack.

For a lens: parts of the image without a corner, and tilts to four sides. For a comparison of depth: five distances, the farthest 1.6 times
the nearest.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from calibration import coverage
from calibration.detect import Detection
from calibration.live.place import Place
from calibration.verdict import TILTED_GOOD
from edge.messages import Float64

EDGES = ("left", "right", "upper", "lower")  # of the board, that is nearer
FACING = ""
PER_EDGE = TILTED_GOOD // len(EDGES)  # views with this edge nearer
SEEN_MIN = 0.8  # of the image's cells: what `verdict` calls good
FILLS_MIN = 0.45  # of the image's width: the nearer, the more a view tells. From 50 to 95 % on leave half the error of 35 to 75 %
VIEWS_MIN = 20  # before a lens is tried: off by 0.19 px in the image then, by 0.12 px with 30 taken by hand (make bench ARGS=lenses)
VIEWS_MAX = 30  # whatever the figures say by then
VIEWS_MORE = 10  # that a folder gets when it is gone on with

DISTANCES = 5
SPREAD = 1.6  # farthest over nearest: `depth.SPREAD_MIN` with some to spare
NEW_BY = 0.1  # relative: a distance that differs by so much from every other is a new one
FLAT_MAX = np.sin(np.radians(30.0))  # beyond, the board's own depth is more than what distances differ by


class Wanted(NamedTuple):
    """What to show next: in which part of the image, and with which edge of the board nearer, if any."""

    part: str
    edge: str

    def words(self) -> str:
        """For a person."""
        part = self.part if " " in self.part or self.part == "middle" else f"{self.part} middle"
        tilt = f"its {self.edge} edge nearer by 20° to 45°" if self.edge else "facing the camera"
        return f"hold it in the {part}, near, {tilt}"


class LensGuide:
    """The views so far, of images of `size` = (width, height)."""

    def __init__(self, size: tuple[int, int]) -> None:
        self._size = size
        self._corners_px: list[Float64] = []
        self._places: list[Place] = []

    def why_not(self, place: Place) -> str:
        """Why a view is not wanted, in a few words; empty: it is."""
        if place.fills < FILLS_MIN:
            return f"come nearer: the board fills {place.fills:.0%} of the image, expected {FILLS_MIN:.0%} at least"
        return "seen from here already" if any(place.is_like(one) for one in self._places) else ""

    def add(self, place: Place, seen: Detection) -> None:
        """A view that is kept."""
        self._places.append(place)
        self._corners_px.append(seen.corners_px)

    @property
    def views(self) -> int:
        """How many there are."""
        return len(self._places)

    def status(self) -> str:
        """For a person: where corners were seen, and in how many views."""
        cells = self.cells
        return f"{coverage.picture(cells)}\n{self.views} images, corners in {coverage.share(cells):.0%} of the image"

    def advice(self) -> str:
        """For a person."""
        return self.wanted.words()

    @property
    def cells(self) -> NDArray[np.int64]:
        """(6, 8) corners in each cell of the image."""
        return coverage.counts(self._corners_px, self._size)

    @property
    def wanted(self) -> Wanted:
        """The emptiest part of the image, and the edge that was nearer least often."""
        return Wanted(coverage.emptiest(self.cells), min((*EDGES, FACING), key=self._count))

    @property
    def is_complete(self) -> bool:
        """Whether a lens is worth a try."""
        has_tilts = all(self._count(edge) >= PER_EDGE for edge in EDGES)
        return self.views >= VIEWS_MIN and coverage.share(self.cells) >= SEEN_MIN and has_tilts

    def _count(self, edge: str) -> int:
        """How many views have this edge nearer, or none."""
        return sum(one.edge == edge for one in self._places)


class DistanceGuide:
    """The views so far; each is another distance."""

    def __init__(self) -> None:
        self._distances_m: list[float] = []

    def why_not(self, place: Place) -> str:
        """Why a view is not wanted, in a few words; empty: it is."""
        if np.hypot(*place.tilt) > FLAT_MAX:
            return "tilted too far"
        return "" if all(abs(np.log(place.distance_m / one)) > NEW_BY for one in self._distances_m) else "seen from about here already"

    def add(self, place: Place, seen: Detection) -> None:
        """A view that is kept."""
        self._distances_m.append(place.distance_m)

    def status(self) -> str:
        """For a person."""
        found = ", ".join(f"{1e3 * one:.0f}" for one in sorted(self._distances_m)) or "none"
        return f"distances so far, in mm: {found}; {DISTANCES} are wanted, the farthest {SPREAD:g} times the nearest"

    def advice(self) -> str:
        """For a person."""
        if not self._distances_m:
            return "hold the board facing the camera, about 100 mm away"
        nearest_m, farthest_m = min(self._distances_m), max(self._distances_m)
        if farthest_m < SPREAD * nearest_m:
            return f"move it away, to {1e3 * SPREAD * nearest_m:.0f} mm and more"
        return "another distance between those, or farther"

    @property
    def is_complete(self) -> bool:
        """Whether scale and offset can be told apart."""
        distances = self._distances_m
        return len(distances) >= DISTANCES and max(distances) >= SPREAD * min(distances)
