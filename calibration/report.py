"""One HTML page of a lens calibration: figures against their limits, and pictures of what they were made from. Nothing is fetched."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template

import cv2
import numpy as np
from numpy.typing import NDArray

import edge
from calibration import coverage
from calibration.board_pdf import description
from calibration.boards import Board
from calibration.bundle import View
from calibration.intrinsics import Calibrated
from calibration.opencv import pose_matrix, project
from calibration.session import Session, read_image
from calibration.verdict import Figure
from edge.files import write_atomically
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
    body = "\n".join(f"<h2>{escape(name)}</h2>\n{content}" for name, content in sections.items())
    about = f"{about}; dofbot-grasp {edge.__version__}"
    write_atomically(path, _PAGE.substitute(title=escape(title), about=escape(about), body=body).encode())


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
    return figure(columns * PX_PER_CELL, rows * PX_PER_CELL, "".join(cells), caption)


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
    return figure(intrinsics.width, intrinsics.height, "".join(lines), caption)


def figure(width: int, height: int, drawing: str, caption: str) -> str:
    """SVG with a frame and a caption."""
    frame = f'<rect width="{width}" height="{height}" fill="none" stroke="#d0d7de"/>'
    picture = f'<svg viewBox="0 0 {width} {height}" width="{width}" role="img" aria-label="{escape(caption)}">{frame}{drawing}</svg>'
    return f"<figure>{picture}<figcaption>{escape(caption)}</figcaption></figure>\n"


def picture_of(path: Path, corners_px: Float64) -> str:
    """An image with rings around its corners (n, 2)."""
    picture = cv2.cvtColor(read_image(path), cv2.COLOR_GRAY2BGR)
    for u, v in corners_px:
        cv2.circle(picture, (round(float(u)), round(float(v))), 5, (46, 34, 207), 1, cv2.LINE_AA)
    _, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 75])
    source = f"data:image/jpeg;base64,{base64.b64encode(data.tobytes()).decode()}"
    return f'<figure class="view"><img src="{source}" alt="{escape(path.name)}"><figcaption>{escape(path.name)}</figcaption></figure>\n'


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, states: bool = False) -> str:
    """Rows of text; with `states` the last column is coloured by its word."""
    lines = ["".join(f"<th>{escape(cell)}</th>" for cell in head)]
    for row in rows:
        marks = [f' class="{row[-1]}"' if states and i == len(row) - 1 else "" for i in range(len(row))]
        lines.append("".join(f"<td{mark}>{escape(cell)}</td>" for mark, cell in zip(marks, row, strict=True)))
    return "<table>" + "\n".join(f"<tr>{line}</tr>" for line in lines) + "</table>\n"


_PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>$title</title>
<style>
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; font: 15px/1.5 system-ui, sans-serif; color: #1f2328; background: #fff }
h1 { font-size: 1.6rem } h2 { font-size: 1.15rem; margin-top: 2.2rem; border-bottom: 1px solid #d0d7de }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .2rem .7rem; text-align: right; border-bottom: 1px solid #e5e7eb }
th { color: #57606a; font-weight: 600 } th:first-child, td:first-child, th:last-child, td:last-child { text-align: left }
.good { color: #1a7f37 } .bearable { color: #9a6700 } .refused { color: #cf222e; font-weight: 600 }
figure { margin: 1rem 0 } figure.view { display: inline-block; width: 31%; margin: .5% } img, svg { max-width: 100%; height: auto }
svg { font: 12px system-ui, sans-serif } figcaption { color: #57606a; font-size: .9rem }
</style>
</head>
<body>
<h1>$title</h1>
<p>$about</p>
$body
</body>
</html>
""")
