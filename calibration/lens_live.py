"""The images of a lens calibration taken by themselves, while a person moves the board and is told what is missing."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

import cv2
import numpy as np

from calibration import camera_file, coverage
from calibration.collecting import Collection, Look
from calibration.lens_guide import VIEWS_MAX, LensGuide, Wanted
from calibration.stills import Stills
from edge.errors import ConfigError
from edge.files import write_atomically

if TYPE_CHECKING:
    from calibration.boards import Board
    from calibration.session import Session

PREVIEW_EVERY_S = 1.0
PREVIEW_SCALE = 2

Show = Callable[[Look | None, LensGuide], None]


def collect(
    stills: Stills, folder: Path, board: "Board", is_good: Callable[["Session"], bool], show: Show, follow: Callable[[Wanted], None]
) -> None:
    """Fill the folder until the lens is good, 25 views are there, or Ctrl-C. `follow` is told what to show the camera next.

    Raises `ConfigError` for a folder of another camera, `ObservationError` when the camera is gone, `CalibrationError` when it is blind.
    """
    guide = LensGuide(stills.factory[:2])
    collection = Collection(stills, folder, board, guide)
    camera_file.keep(folder, stills)
    looks, is_news, look = collection.looks(), True, None
    try:
        while True:
            show(look, guide)
            if is_news and (guide.views >= VIEWS_MAX or (guide.is_complete and is_good(collection.session))):
                return
            follow(guide.wanted)
            look = next(looks)
            is_news = bool(look.name)
    except KeyboardInterrupt:
        return


@contextmanager
def shown(preview: Path | None, *, quiet: bool) -> Iterator[Show]:
    """A display for `collect`: a live one on a terminal, else a line for each image that is kept; and the preview file."""
    from rich.console import Console
    from rich.live import Live

    console = Console(stderr=True, quiet=quiet)
    last_s = -PREVIEW_EVERY_S
    with Live(console=console, auto_refresh=False, transient=True) as live:

        def show(look: Look | None, guide: LensGuide) -> None:
            nonlocal last_s
            if console.is_terminal:
                live.update("\n".join((coverage.picture(guide.cells), *_lines(look, guide))), refresh=True)
            if look is not None and look.name and look.place is not None:
                following = f"next: {guide.wanted.words()}"
                console.print(f"{look.name} kept: {look.place.words()}; {following}", highlight=False, soft_wrap=True)
            if look is not None and preview is not None and monotonic() - last_s >= PREVIEW_EVERY_S:
                last_s = monotonic()
                _write_preview(preview, look, guide)

        yield show


def _lines(look: Look | None, guide: LensGuide) -> tuple[str, ...]:
    seen = "" if look is None or look.place is None else f"the board is seen: {look.place.words()}"
    why_not = "" if look is None else look.why_not
    return (
        f"{guide.views} images, corners in {coverage.share(guide.cells):.0%} of the image (Ctrl-C ends it, and what is there is solved)",
        ": ".join(filter(None, (seen, why_not))),
        f"next: {guide.wanted.words()}",
    )


def _write_preview(path: Path, look: Look, guide: LensGuide) -> None:
    """What the camera sees, with dots on the corners that were found, and dark where no corner was seen yet. Raises `ConfigError`."""
    height, width = look.image.shape
    dark = cv2.resize((guide.cells == 0).astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST).astype(bool)
    picture = np.where(dark, look.image // 2, look.image)
    picture = cv2.cvtColor(cv2.resize(picture, None, fx=PREVIEW_SCALE, fy=PREVIEW_SCALE), cv2.COLOR_GRAY2BGR)
    for u, v in look.seen.corners_px if look.seen is not None else ():
        cv2.circle(picture, (round(PREVIEW_SCALE * u), round(PREVIEW_SCALE * v)), 4, (0, 200, 0), -1)
    try:
        write_atomically(path, cv2.imencode(".png", picture)[1].tobytes())
    except OSError as error:
        raise ConfigError(f"--preview {path} cannot be written ({error.strerror}); give a path that you may write to") from None
