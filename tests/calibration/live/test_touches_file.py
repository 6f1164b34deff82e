"""A file of touches: what was saved comes back, as a spreadsheet writes it, too; what cannot be a touch is named with its row."""

from pathlib import Path

import numpy as np
import pytest

from calibration.live import touches_file
from edge.errors import ConfigError

HEADER = "x_mm,y_mm,off_x_mm,off_y_mm"
ROWS = ["-60,90,1.5,-0.5", "0,120,0.5,0"]


def write(folder: Path, *lines: str, encoding: str = "utf-8") -> Path:
    path = folder / "touches.csv"
    path.write_text("\n".join(lines), encoding=encoding)
    return path


def test_what_was_saved_comes_back(tmp_path):
    touches_file.save(tmp_path / "touches.csv", np.array([[-60.0, 90.0, 1.5, -0.5]]))
    np.testing.assert_allclose(touches_file.load(tmp_path / "touches.csv"), [[-60.0, 90.0, 1.5, -0.5]])


def test_a_spreadsheets_byte_order_mark_is_passed_over(tmp_path):
    assert touches_file.load(write(tmp_path, HEADER, *ROWS, encoding="utf-8-sig")).shape == (2, 4)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("-60,90,1,5,-0,5", "row 1 has 6 values"),  # decimal commas: 1.5 and -0.5 were read as 1 and 5
        ("-60,90,1.5", "row 1 has 3 values"),
        ("nan,90,1.5,-0.5", "x_mm is 'nan'"),
        ("-60,inf,1.5,-0.5", "y_mm is 'inf'"),
        ("-60,1e9,1.5,-0.5", "y_mm is '1e9'"),
        ("-60,left,1.5,-0.5", "y_mm is 'left'"),
        ('"' + 131073 * "x", "field larger than"),
    ],
)
def test_what_cannot_be_a_touch_is_named(tmp_path, row, says):
    with pytest.raises(ConfigError, match=says) as error:
        touches_file.load(write(tmp_path, HEADER, row))
    assert "expected" in str(error.value)


@pytest.mark.parametrize("unit", [1e-1, 1e-3])
def test_crossings_in_centimetres_or_metres_are_refused(tmp_path, unit):
    """Where a touch is decides how far a turn moves it: in centimetres joint 1's zero comes out ten times as large."""
    rows = [f"{unit * x},{unit * y},1,-0.5" for x in (-60, 0, 60) for y in (60, 120)]
    with pytest.raises(ConfigError, match="expected millimetres"):
        touches_file.load(write(tmp_path, HEADER, *rows))
