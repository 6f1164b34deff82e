"""A board as a PDF of one page at true scale: rectangles, not pixels, with a ruler along x and one along y beside them."""

from datetime import UTC, datetime
from typing import Any

from calibration.boards import BLOCK_IDS, GRID_MAX_MM, GRID_MIN_MM, RULER_MM, Board, CharucoBoard, MarkerBoard
from edge.errors import ConfigError

PAPERS_MM = {"a4": (210.0, 297.0), "a3": (297.0, 420.0), "letter": (215.9, 279.4)}
MARGIN_MM = 5.0  # what printers cannot print on
RULER_GAP_MM = 5.0
BESIDE_MM, BELOW_MM = 13.0, 22.0  # room for a ruler with its label; for a ruler and two lines of text
HAIRLINE_MM, LINE_MM = 0.1, 0.3
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)  # so that the same board gives the same bytes


def pdf(board: Board, paper: str) -> bytes:
    """The page; raises `ConfigError` for a board that does not fit on the paper either way round."""
    width, height = (edge * 1e3 for edge in board.size_m)
    needed = (max(width, RULER_MM) + BESIDE_MM, max(height, RULER_MM) + BELOW_MM)
    page = next((size for size in (PAPERS_MM[paper], PAPERS_MM[paper][::-1]) if _fits(needed, size)), None)
    if page is None:
        need = f"{needed[0] + 2 * MARGIN_MM:.0f} × {needed[1] + 2 * MARGIN_MM:.0f} mm with rulers and margins"
        raise ConfigError(
            f"board: needs {need}, and {paper} has {' × '.join(f'{x:g}' for x in PAPERS_MM[paper])} mm; take fewer or smaller squares"
        )
    drawing = _new_page(page)
    left, top = (page[0] - needed[0]) / 2.0, (page[1] - needed[1]) / 2.0
    for rect in board.rects():
        drawing.set_fill_color(0 if rect.is_black else 255)
        drawing.rect(left + rect.x_m * 1e3, top + rect.y_m * 1e3, rect.width_m * 1e3, rect.height_m * 1e3, style="F")
    drawing.set_draw_color(0)
    drawing.set_fill_color(0)
    _draw_extras(drawing, board, left, top)
    below = top + max(height, RULER_MM)
    _draw_ruler(drawing, left, top + height + RULER_GAP_MM, is_along_x=True)
    _draw_ruler(drawing, left + max(width, RULER_MM) + RULER_GAP_MM, top, is_along_x=False)
    drawing.set_font("Helvetica", size=8)
    for number, line in enumerate(description(board)):
        drawing.text(left, below + RULER_GAP_MM + 10.0 + 4.0 * number, line)
    return bytes(drawing.output())


def description(board: Board) -> tuple[str, str]:
    """What is printed beneath: the parameters, and how to print."""
    if isinstance(board, CharucoBoard):
        squares = f"{board.columns} x {board.rows} squares of {board.square_m * 1e3:g} mm, markers {board.marker_m * 1e3:g} mm"
        what = f"dofbot-grasp ChArUco board: {squares}, {board.dictionary}"
    else:
        ids = [one.id for one in board.markers]
        name = "table grid" if board.table_origin_m else "block markers" if ids[0] == BLOCK_IDS[0] else "ArUco board"
        what = f"dofbot-grasp {name}: markers of {board.markers[0].size_m * 1e3:g} mm, ids {ids[0]} to {ids[-1]}, {board.dictionary}"
    how = f"Print at 100 %, glue flat. Measure both {RULER_MM:g} mm rulers, end mark to end mark, and tell them: dofbot calibrate ruler."
    return what, how


def _fits(needed: tuple[float, float], page: tuple[float, float]) -> bool:
    return all(need + 2.0 * MARGIN_MM <= have for need, have in zip(needed, page, strict=True))


def _new_page(size_mm: tuple[float, float]) -> Any:
    from fpdf import FPDF
    from fpdf.prefs import ViewerPreferences

    drawing = FPDF(unit="mm", format=size_mm)
    drawing.set_creation_date(_EPOCH)
    drawing.viewer_preferences = ViewerPreferences(print_scaling="None")  # print dialogues then offer 100 % first
    drawing.set_auto_page_break(False)
    drawing.add_page()
    return drawing


def _draw_ruler(drawing: Any, x: float, y: float, *, is_along_x: bool) -> None:
    """100 mm from the middle of one end mark to the middle of the other, a tick each 10 mm."""
    drawing.set_font("Helvetica", size=7)
    drawing.set_line_width(HAIRLINE_MM)
    for tick in range(0, int(RULER_MM) + 1, 10):
        long = 4.0 if tick % 100 == 0 else 3.0 if tick % 50 == 0 else 1.8
        if is_along_x:
            drawing.line(x + tick, y, x + tick, y + long)
        else:
            drawing.line(x, y + tick, x + long, y + tick)
    end = (x + RULER_MM, y) if is_along_x else (x, y + RULER_MM)
    drawing.line(x, y, *end)
    label = f"ruler along {'x' if is_along_x else 'y'}, {RULER_MM:g} mm"
    if is_along_x:
        drawing.text(x + 11.0, y + 4.2, label)
    else:
        with drawing.rotation(90, x + 5.5, y + 45.0):
            drawing.text(x + 5.5, y + 45.0, label)


def _draw_extras(drawing: Any, board: Board, left: float, top: float) -> None:
    """Millimetres on a grid, ids and cutting lines around block markers."""
    if not isinstance(board, MarkerBoard):
        return
    if board.table_origin_m is not None:
        _draw_grid(drawing, left + board.table_origin_m[0] * 1e3, top + board.table_origin_m[1] * 1e3)
    elif board.markers[0].id == BLOCK_IDS[0]:
        margin = board.markers[0].x_m * 1e3
        drawing.set_font("Helvetica", size=7)
        drawing.set_line_width(HAIRLINE_MM)
        drawing.set_dash_pattern(dash=1, gap=1)
        for one in board.markers:
            x, y, side = left + one.x_m * 1e3 - margin, top + one.y_m * 1e3 - margin, one.size_m * 1e3 + 2.0 * margin
            drawing.rect(x, y, side, side)
            drawing.text(x, y + side + 3.0, f"id {one.id}")
        drawing.set_dash_pattern()


def _draw_grid(drawing: Any, origin_x: float, origin_y: float) -> None:
    """A line each 10 mm, labelled each 50 mm in the table frame; +y points up the paper, away from the base."""
    (x0, y0), (x1, y1) = GRID_MIN_MM, GRID_MAX_MM
    drawing.set_font("Helvetica", size=7)
    for x in range(x0, x1 + 1, 10):
        drawing.set_line_width(LINE_MM if x % 50 == 0 else HAIRLINE_MM)
        drawing.line(origin_x + x, origin_y - y0, origin_x + x, origin_y - y1)
    for y in range(y0, y1 + 1, 10):
        drawing.set_line_width(LINE_MM if y % 50 == 0 else HAIRLINE_MM)
        drawing.line(origin_x + x0, origin_y - y, origin_x + x1, origin_y - y)
    for x in range(x0, x1, 50):  # at the right border they would lie on a marker
        for y in range(y0, y1 + 1, 50):
            drawing.text(origin_x + x + 0.6, origin_y - y - 0.8, f"{x}, {y}")
    drawing.set_font("Helvetica", size=8)
    drawing.text(origin_x + 2.0, origin_y - 6.0, "0, 0 under the base axis; y away from the base")
