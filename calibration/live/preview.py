"""What the camera sees, in a file: for somebody who holds a board and has no screen at the robot."""

from collections.abc import Callable
from pathlib import Path
from time import monotonic

import cv2
import numpy as np
from numpy.typing import NDArray

from calibration.live.collecting import Look
from edge.errors import ConfigError
from edge.files import write_atomically

EVERY_S = 1.0
SCALE = 2


class Preview:
    """A PNG file that is written once a second: dots on the corners that were found, dark where no corner was seen so far."""

    def __init__(self, path: Path, cells: Callable[[], NDArray[np.int64]]) -> None:
        self._path = path
        self._cells = cells
        self._written_s = -EVERY_S

    def show(self, look: Look) -> None:
        """Write it, if it is time; raises `ConfigError`."""
        if monotonic() - self._written_s < EVERY_S:
            return
        self._written_s = monotonic()
        height, width = look.image.shape
        dark = cv2.resize((self._cells() == 0).astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST).astype(bool)
        picture = cv2.resize(np.where(dark, look.image // 2, look.image), None, fx=SCALE, fy=SCALE)
        picture = cv2.cvtColor(picture, cv2.COLOR_GRAY2BGR)
        for u, v in look.seen.corners_px if look.seen is not None else ():
            cv2.circle(picture, (round(SCALE * u), round(SCALE * v)), 4, (0, 200, 0), -1)
        try:
            write_atomically(self._path, cv2.imencode(".png", picture)[1].tobytes())
        except OSError as error:
            raise ConfigError(f"--preview {self._path} cannot be written ({error.strerror}); give a path that you may write to") from None
