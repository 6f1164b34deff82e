"""Where in the image corners have been seen, and what to show next."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from edge.messages import Float64

CELLS = (8, 6)  # across, down
_SHADES = " ░▒▓█"


def counts(corners_px: Iterable[Float64], size: tuple[int, int]) -> NDArray[np.int64]:
    """(6, 8) how many corners fell into each cell of an image of `size` = (width, height)."""
    found = np.zeros(CELLS[::-1], np.int64)
    for pixels in corners_px:
        cells = np.clip((np.asarray(pixels) / np.array(size) * np.array(CELLS)).astype(int), 0, np.array(CELLS) - 1)
        np.add.at(found, (cells[:, 1], cells[:, 0]), 1)
    return found


def share(found: NDArray[np.int64]) -> float:
    """Of the cells, how many saw a corner."""
    return float(np.mean(found > 0))


def picture(found: NDArray[np.int64]) -> str:
    """One line for each row of cells, darker where more corners were seen; a dot where none was."""
    most = max(int(found.max()), 1)
    level = np.ceil(found / most * (len(_SHADES) - 1)).astype(int)
    return "\n".join("".join("· " if not cell else _SHADES[cell] * 2 for cell in row) for row in level)


def emptiest(found: NDArray[np.int64]) -> str:
    """Where to hold the board next: the part of the image with the most cells without a corner; of several, with the fewest corners."""
    rows, columns = np.array_split(np.arange(CELLS[1]), 3), np.array_split(np.arange(CELLS[0]), 3)
    names = [f"{down} {across}".strip() or "middle" for down in ("upper", "", "lower") for across in ("left", "", "right")]
    cells = [found[np.ix_(row, column)] for row in rows for column in columns]
    return min(zip(names, cells, strict=True), key=lambda part: (-np.mean(part[1] == 0), np.mean(part[1])))[0]
