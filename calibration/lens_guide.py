"""What the images of a lens calibration still lack: parts of the image without a corner, and tilts to four sides."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from calibration import coverage
from calibration.detect import Detection
from calibration.place import Place
from calibration.verdict import TILTED_GOOD
from edge.messages import Float64

EDGES = ("left", "right", "upper", "lower")
PER_EDGE = TILTED_GOOD // len(EDGES)  # views with this edge nearer
SEEN_MIN = 0.8  # of the image's cells: what `verdict` calls good
VIEWS_MIN = 12  # before a lens is tried
# However good it is by then: by hand 25 to 40 are taken, and more tell little.
VIEWS_MAX = 40


class Wanted(NamedTuple):
    """What to show next: in which part of the image, and with which edge of the board nearer; empty: any."""

    part: str
    edge: str

    def words(self) -> str:
        """For a person."""
        where = f"board {'in' if self.part == 'middle' else 'to'} the {self.part} of the image" if self.part else ""
        tilt = f"its {self.edge} edge nearer by 20° to 45°" if self.edge else ""
        return ", ".join(filter(None, (where, tilt))) or "the board from another side, or nearer"


class LensGuide:
    """The views so far, of images of `size` = (width, height)."""

    def __init__(self, size: tuple[int, int]) -> None:
        self._size = size
        self._corners_px: list[Float64] = []
        self._places: list[Place] = []

    def is_new(self, place: Place) -> bool:
        """Whether no view so far is like this one."""
        return not any(place.is_like(one) for one in self._places)

    def add(self, place: Place, seen: Detection) -> None:
        """A view that is kept."""
        self._places.append(place)
        self._corners_px.append(seen.corners_px)

    @property
    def views(self) -> int:
        """How many there are."""
        return len(self._places)

    @property
    def cells(self) -> NDArray[np.int64]:
        """(6, 8) corners in each cell of the image."""
        return coverage.counts(self._corners_px, self._size)

    @property
    def wanted(self) -> Wanted:
        """The emptiest part of the image, and the edge that was nearer least often."""
        count = {edge: sum(one.edge == edge for one in self._places) for edge in EDGES}
        least = min(EDGES, key=lambda edge: count[edge])
        return Wanted(coverage.emptiest(self.cells), least if count[least] < PER_EDGE else "")

    @property
    def is_complete(self) -> bool:
        """Whether a lens is worth a try."""
        return self.views >= VIEWS_MIN and coverage.share(self.cells) >= SEEN_MIN and not self.wanted.edge
