"""One HTML page of a lens calibration: figures against their limits, and pictures of what they were made from. Nothing is fetched."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

import edge
from calibration import coverage
from calibration.boards import Board
from calibration.bundle import View
from calibration.intrinsics import Calibrated
from calibration.opencv import pose_matrix, project
from calibration.pages import html
from calibration.pages.board_pdf import description
from calibration.pages.html import drawing, picture, table
from calibration.session import Session, read_image
from calibration.verdict import Figure
from edge.messages import Float64

VIEWS_SHOWN = 6
ARROW_TIMES = 200.0  # a residual of 0.1 px is drawn 20 px long
PX_PER_CELL = 48


def write(path: Path, found: Calibrated, judged: Sequence[Figure], session: Session, folder: Path, board: Board) -> None:
    """Write the page whole. Raises `OSError`."""
    seen = coverage.counts((view.corners_px for view in found.views), session.size)
    lens = found.fit.lens
    sigma = found.fit.sigma
    numbers = dict(zip(("fx", "fy", "cx", "cy", "k1", "k2", "p1", "p2", "k3"), (*lens.intrinsics[2:], *lens.distortion), strict=True))
    refused = {name: image.refused for name, image in session.images.items() if image.refused}
    refused |= {name: "left out: its corners do not agree with the other views" for name in found.rejected}
    rows = [(one.name, f"{one.found:.3g}", f"{one.good:g}", f"{one.limit:g}", one.state) for one in judged]
    sections = {
        "Figures": table(("figure", "found", "good", "at most", ""), rows, states=True),
        "The lens": table(
            ("number", "value", "σ"),
            [(name, f"{value:.6g}", f"{sigma[name]:.2g}" if name in sigma else "fixed") for name, value in numbers.items()],
        )
        + f"<p>Model {escape(found.model)}: the simplest that predicts unseen views about as well as the best. "
        + escape("; ".join(f"{name} {error:.3f} px" for name, error in found.held_out_px.items()))
        + ".</p>",
        "Where corners were seen": _heat(seen),
        "What is left between lens and corners": _arrows(found),
        "Some of the views": "".join(picture_of(folder / view.name, view.corners_px) for view in _spread(found.views)),
        "Images that were not used": table(("image", "why"), list(refused.items())) if refused else "<p>None.</p>",
        "Board": f"<p>{escape(description(board)[0])}; rulers {board.ruler_mm} mm.</p>",
    }
    images = f"{len(session.images)} images, {session.size[0]} × {session.size[1]} pixels"
    page(path, "The camera's lens", f"{len(found.views)} views of {images}", sections)


def page(path: Path, title: str, about: str, sections: Mapping[str, str]) -> None:
    """Write a page of sections, each a title and its HTML. Raises `OSError`."""
    html.write(path, title, f"{about}; dofbot-grasp {edge.__version__}", sections)


def _spread(views: Sequence[View]) -> list[View]:
    chosen = np.unique(np.linspace(0, len(views) - 1, VIEWS_SHOWN).round().astype(int))
    return [views[i] for i in chosen]


def _heat(seen: NDArray[np.int64]) -> str:
    """Cells of the image, darker where more corners were."""
    rows, columns = seen.shape
    most = max(int(seen.max()), 1)
    cells = []
    for (row, column), count in np.ndenumerate(seen):
        x, y = column * PX_PER_CELL, row * PX_PER_CELL
        fill = f"rgba(9,105,218,{count / most:.2f})" if count else "#ffd8d3"
        cells.append(f'<rect x="{x}" y="{y}" width="{PX_PER_CELL}" height="{PX_PER_CELL}" fill="{fill}" stroke="#d0d7de"/>')
        cells.append(f'<text x="{x + PX_PER_CELL / 2}" y="{y + PX_PER_CELL / 2 + 4}" text-anchor="middle">{count}</text>')
    caption = "Corners in each part of the image. Red: none; there the lens is a guess."
    return drawing(columns * PX_PER_CELL, rows * PX_PER_CELL, "".join(cells), caption)


def _arrows(found: Calibrated) -> str:
    """Each corner's residual; a pattern means that the model is too simple, or the board not flat."""
    intrinsics = found.fit.lens.intrinsics
    lines = []
    for view, pose in zip(found.views, found.fit.poses, strict=True):
        off = view.corners_px - project(view.points_m, pose_matrix(pose), found.fit.lens)
        for (u, v), (du, dv) in zip(view.corners_px, off * ARROW_TIMES, strict=True):
            lines.append(
                f'<path d="M{u:.1f} {v:.1f}l{du:.1f} {dv:.1f}" stroke="#cf222e" fill="none"/><circle cx="{u:.1f}" cy="{v:.1f}" r="1.2"/>'
            )
    caption = (
        f"From each corner to where the lens puts it, {ARROW_TIMES:g} times as long. Random is good; a pattern is what the model misses."
    )
    return drawing(intrinsics.width, intrinsics.height, "".join(lines), caption)


def picture_of(path: Path, corners_px: Float64) -> str:
    """An image with rings around its corners (n, 2)."""
    shown = cv2.cvtColor(read_image(path), cv2.COLOR_GRAY2BGR)
    for u, v in corners_px:
        cv2.circle(shown, (round(float(u)), round(float(v))), 5, (46, 34, 207), 1, cv2.LINE_AA)
    _, data = cv2.imencode(".jpg", shown, [cv2.IMWRITE_JPEG_QUALITY, 75])
    return picture(data.tobytes(), "jpeg", path.name, small=True)
