"""What a person sees while images take themselves.

On a terminal what the camera sees just now, else a line for each image that is kept; and what the camera sees in a file, for somebody who
holds a board and has no screen at the robot.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic

import cv2
import numpy as np
from numpy.typing import NDArray

from calibration.live.collecting import Guide, Look
from edge.errors import ConfigError
from edge.files import write_atomically

PREVIEW_EVERY_S = 1.0
PREVIEW_SCALE = 2

Show = Callable[[Look | None], None]  # None: nothing was looked at yet


@contextmanager
def shown(guide: Guide, *, quiet: bool) -> Iterator[Show]:
    """A display on stderr."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console(stderr=True, quiet=quiet)
    with Live(console=console, auto_refresh=False, transient=True) as live:

        def show(look: Look | None) -> None:
            if console.is_terminal:
                lines = (guide.status(), _seen(look), f"next: {guide.advice()}", "Ctrl-C ends it, and what is there counts")
                live.update(Text("\n".join(lines)), refresh=True)
            if look is None or look.name:
                kept = f"{look.name}: {look.place.words()}; " if look and look.place else ""
                console.print(f"{kept}next: {guide.advice()}", highlight=False, markup=False, soft_wrap=True)

        yield show


def _seen(look: Look | None) -> str:
    if look is None:
        return "waiting for the camera"
    where = f"the board is seen {look.place.words()}" if look.place else ""
    return ": ".join(filter(None, (where, look.why_not or "kept")))


class Preview:
    """A PNG file that is written once a second: dots on the corners that were found, dark where no corner was seen so far."""

    def __init__(self, path: Path, cells: Callable[[], NDArray[np.int64]]) -> None:
        self._path = path
        self._cells = cells
        self._written_s = -PREVIEW_EVERY_S

    def show(self, look: Look) -> None:
        """Write it, if it is time; raises `ConfigError`."""
        if monotonic() - self._written_s < PREVIEW_EVERY_S:
            return
        self._written_s = monotonic()
        height, width = look.image.shape
        dark = cv2.resize((self._cells() == 0).astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST).astype(bool)
        picture = cv2.resize(np.where(dark, look.image // 2, look.image), None, fx=PREVIEW_SCALE, fy=PREVIEW_SCALE)
        picture = cv2.cvtColor(picture, cv2.COLOR_GRAY2BGR)
        for u, v in look.seen.corners_px if look.seen is not None else ():
            cv2.circle(picture, (round(PREVIEW_SCALE * u), round(PREVIEW_SCALE * v)), 4, (0, 200, 0), -1)
        try:
            write_atomically(self._path, cv2.imencode(".png", picture)[1].tobytes())
        except OSError as error:
            raise ConfigError(f"--preview {self._path} cannot be written ({error.strerror}); give a path that you may write to") from None
