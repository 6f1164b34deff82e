"""The joints file: what was saved comes back; another order, unit, count or name is one sentence."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibration.arm import joints_file
from calibration.arm.joints_file import Posed
from edge.buses.servos import LEAST_DEG, MOST_DEG
from edge.errors import ConfigError

HEADER = "image,joint1_deg,joint2_deg,joint3_deg,joint4_deg,joint5_deg"
ROWS = [f"{n}.png,{10 * n},-20,30,-90,{15 * n}" for n in range(5)]

angles = st.tuples(*(st.floats(low, high) for low, high in zip(LEAST_DEG[:5], MOST_DEG[:5], strict=True)))


def write(folder: Path, *lines: str, name: str = "joints.csv") -> Path:
    path = folder / name
    path.write_text("\n".join(lines))
    return path


def refused(path: Path) -> str:
    with pytest.raises(ConfigError) as error:
        joints_file.load(path)
    assert "\n" not in str(error.value)
    assert "expected" in str(error.value)
    return str(error.value)


@settings(max_examples=25)
@given(rows=st.lists(st.tuples(angles, st.booleans()), min_size=1, max_size=3))
def test_what_was_saved_comes_back(rows, tmp_path_factory):
    path = tmp_path_factory.mktemp("joints") / "joints.csv"
    posed = {f"{n}.png": Posed(np.radians(degrees), out) for n, (degrees, out) in enumerate(rows)}
    joints_file.save(path, posed)
    again = joints_file.load(path)
    assert list(again) == list(posed)
    for name, one in posed.items():
        np.testing.assert_allclose(again[name].joints_rad, one.joints_rad, atol=np.radians(1e-4))
        assert again[name].held_out == one.held_out


def test_columns_are_read_by_name_in_csv_and_json(tmp_path):
    csv = write(tmp_path, "joint5_deg,joint1_deg,joint2_deg,joint3_deg,joint4_deg,image", "5,1,2,3,40,a.png")
    json = write(
        tmp_path,
        '[{"image": "a.png", "joint1_deg": 1, "joint2_deg": 2, "joint3_deg": 3, "joint4_deg": 40, "joint5_deg": 5}]',
        name="j.json",
    )
    for path in (csv, json):
        np.testing.assert_allclose(np.degrees(joints_file.load(path)["a.png"].joints_rad), (1, 2, 3, 40, 5))


def test_radians_another_order_counts_and_missing_columns_are_named(tmp_path):
    radians = [f"{n}.png,{0.1 * n},-0.3,0.5,-1.5,{0.3 * n}" for n in range(5)]
    assert "radians" in refused(write(tmp_path, HEADER, *radians))
    assert "another order" in refused(write(tmp_path, HEADER, "a.png,150,0,0,0,0"))
    assert "counts" in refused(write(tmp_path, HEADER, "a.png,0,2000,2000,2000,2000"))
    assert "joint5_deg is missing" in refused(write(tmp_path, HEADER.replace(",joint5_deg", ""), "a.png,0,0,0,0"))
    assert "in degrees" in refused(write(tmp_path, HEADER.replace("_deg", ""), *ROWS))


def test_a_row_that_is_wrong_is_named(tmp_path):
    assert "row 2" in refused(write(tmp_path, HEADER, ROWS[0], "b.png,1,2,3"))
    assert "row 2" in refused(write(tmp_path, HEADER, ROWS[0], ROWS[0]))
    assert "'x'" in refused(write(tmp_path, HEADER, "b.png,1,2,3,4,x"))
    assert "nan" in refused(write(tmp_path, HEADER, "b.png,1,2,3,4,nan"))
    assert "no list of objects" in refused(write(tmp_path, "{", name="j.json"))


def test_a_missing_file_says_what_to_write(tmp_path):
    with pytest.raises(ConfigError, match="joint1_deg"):
        joints_file.find(tmp_path, None)
    path = write(tmp_path, HEADER, *ROWS)
    assert joints_file.find(tmp_path, None) == path


def test_a_spreadsheets_byte_order_mark_is_passed_over(tmp_path):
    path = tmp_path / "joints.csv"
    path.write_text("\n".join((HEADER, *ROWS)), encoding="utf-8-sig")
    assert list(joints_file.load(path)) == [f"{n}.png" for n in range(5)]


def test_a_quote_that_never_ends_is_said(tmp_path):
    assert "field larger than" in refused(write(tmp_path, HEADER, '"' + 131073 * "x"))
