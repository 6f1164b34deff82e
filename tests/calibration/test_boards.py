"""What comes out of the printer is what the detector expects, to a twentieth of a millimetre."""

import json
from contextlib import closing
from pathlib import Path

import msgspec
import numpy as np
import pypdfium2
import pytest

from calibration import boards
from calibration.marker_edges import refine_markers
from calibration.opencv import DICTIONARIES, find_charuco, find_markers, marker_bits, refine_saddles
from calibration.pages import board_pdf
from edge.errors import CalibrationError, ConfigError

DPI = 600
PX_PER_M = DPI / 0.0254


def rasterised(board: boards.Board, paper: str = "a4") -> np.ndarray:
    """The page as an independent renderer sees it at 600 dpi."""
    with pypdfium2.PdfDocument(board_pdf.pdf(board, paper)) as document, closing(document[0]) as page:
        return page.render(scale=DPI / 72, grayscale=True).to_numpy().copy()


def worst_mm(pixels: np.ndarray, drawn_m: np.ndarray) -> float:
    """Largest distance after the shift that fits best: lengths and directions as they are, no scale taken out."""
    found_m = (pixels + 0.5) / PX_PER_M
    off = (found_m - found_m.mean(axis=0)) - (drawn_m - drawn_m.mean(axis=0))
    return float(np.linalg.norm(off, axis=1).max() * 1e3)


@pytest.mark.parametrize("board", [boards.charuco(), boards.charuco(7, 5, 0.030, 0.021, "DICT_5X5_100")], ids=["portrait", "landscape"])
def test_a_printed_chessboard_is_as_large_as_drawn(board: boards.CharucoBoard) -> None:
    page = rasterised(board)
    ids, corners_px, markers = find_charuco(page, (board.columns, board.rows), board.marker_m / board.square_m, board.dictionary)
    assert ids.tolist() == list(board.nominal_points_m())
    assert sorted(markers) == [one.id for one in board.markers]
    corners_px = refine_saddles(page, corners_px, np.full(len(ids), 8))
    assert worst_mm(corners_px, boards.drawn_points_m(board, ids)[:, :2]) < 0.05


@pytest.mark.parametrize("board", [boards.aruco(), boards.blocks(), boards.grid()], ids=["aruco", "blocks", "grid"])
def test_printed_markers_are_where_they_were_drawn(board: boards.MarkerBoard) -> None:
    page = rasterised(board)
    markers = find_markers(page, board.dictionary)
    assert sorted(markers.ids) == [one.id for one in board.markers]
    ids = (4 * markers.ids[:, None] + np.arange(4)).ravel()
    assert worst_mm(refine_markers(page, markers.corners_px).reshape(-1, 2), boards.drawn_points_m(board, ids)[:, :2]) < 0.05


def test_the_rulers_are_100_mm_long() -> None:
    page = rasterised(boards.blocks()) < 128  # its markers are shorter than the rulers
    for axis in (0, 1):
        runs = [np.flatnonzero(np.diff(np.concatenate(([0], line, [0])))) for line in (page if axis else page.T)[::2].astype(np.int8)]
        longest_px = max(float(np.max(run[1::2] - run[::2], initial=0)) for run in runs)
        assert longest_px / PX_PER_M * 1e3 == pytest.approx(100.0, abs=0.15)  # plus the width of an end mark


def test_the_same_board_gives_the_same_file_and_is_read_back(tmp_path: Path) -> None:
    for board in (boards.charuco(), boards.grid(), boards.measured(boards.blocks(), (100.4, 99.8))):
        assert board_pdf.pdf(board, "a4") == board_pdf.pdf(board, "a4")
        boards.save(tmp_path / "board.json", board)
        assert boards.load(tmp_path / "board.json") == board


def test_points_need_measured_rulers_and_take_their_scale() -> None:
    board = boards.charuco()
    ids = np.array([0, 5])
    with pytest.raises(CalibrationError, match="--ruler-mm"):
        boards.points_m(board, ids)
    points = boards.points_m(boards.measured(board, (101.0, 99.0)), ids)
    np.testing.assert_allclose(points, [[0.02525, 0.02475, 0.0], [0.0505, 0.0495, 0.0]])


@pytest.mark.parametrize("ruler_mm", [(10.04, 10.0), (100.0, 1004.0), (float("nan"), 100.0)])
def test_a_ruler_read_wrongly_is_refused(ruler_mm: tuple[float, float]) -> None:
    with pytest.raises(ConfigError, match="from end mark to end mark"):
        boards.measured(boards.charuco(), ruler_mm)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: boards.charuco(rows=6), "odd number"),
        (lambda: boards.charuco(marker_m=0.024), "0.5 to 0.9"),
        (lambda: boards.charuco(dictionary="DICT_9X9_50"), "expected one of"),
        (lambda: boards.charuco(columns=20, rows=21), "no marker"),
        (lambda: boards.blocks(marker_m=0.020), "25 mm"),
        (lambda: board_pdf.pdf(boards.charuco(square_m=0.05, marker_m=0.036), "a4"), "fewer or smaller squares"),
    ],
)
def test_a_board_that_would_not_work_is_refused(make: object, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        make()  # type: ignore[operator]


WHOLE = msgspec.json.encode(boards.charuco())


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[]", b'{"type": "charuco"}', WHOLE.replace(b'"rows":7', b'"rows":6'), WHOLE.replace(b"DICT", b"D\xffCT")]
)
def test_a_damaged_file_is_one_sentence(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "board.json"
    path.write_bytes(data)
    with pytest.raises(ConfigError, match="damaged or not ours"):
        boards.load(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        boards.load(tmp_path / "none.json")


def test_every_dictionary_has_its_markers() -> None:
    for name in DICTIONARIES:
        bits = marker_bits(name, 0)
        assert not bits[[0, -1]].any()
        assert not bits[:, [0, -1]].any()
        assert bits.any()


@pytest.mark.parametrize("ruler_mm", [(0.0, 0.0), (10.04, 9.99), (-100.0, 100.0), (1e9, 1e9), (100.0, 190.4)])
def test_rulers_that_no_print_can_have_are_refused_when_the_file_is_read(tmp_path, ruler_mm):
    """Typed into the file in centimetres they made every length a tenth."""
    path = tmp_path / "board.json"
    boards.save(path, msgspec.structs.replace(boards.charuco(), ruler_mm=(100.0, 100.0)))
    text = path.read_text()
    assert boards.load(path).ruler_mm == (100.0, 100.0)
    path.write_text(json.dumps(json.loads(text) | {"ruler_mm": ruler_mm}))
    with pytest.raises(ConfigError, match="expected 100 ± 10"):
        boards.load(path)
