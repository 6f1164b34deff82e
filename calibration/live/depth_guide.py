"""The distances that a comparison of depth needs: five, the farthest 1.6 times the nearest."""

import numpy as np

from calibration.detect import Detection
from calibration.live.place import Place

DISTANCES = 5
SPREAD = 1.6  # farthest over nearest: `depth.SPREAD_MIN` with some to spare
NEW = 0.1  # relative: a distance that differs by so much from every other is a new one
FLAT_MAX = np.sin(np.radians(30.0))  # beyond, the board's own depth is more than what distances differ by


class DistanceGuide:
    """The views so far; each is another distance."""

    def __init__(self) -> None:
        self._distances_m: list[float] = []

    def why_not(self, place: Place) -> str:
        """Why a view is not wanted, in a few words; empty: it is."""
        if np.hypot(*place.tilt) > FLAT_MAX:
            return "tilted too far"
        return "" if all(abs(np.log(place.distance_m / one)) > NEW for one in self._distances_m) else "seen from about here already"

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
