"""A run's timing can be shown as text, JSON and picture; a file that has none is one sentence."""

import json
import re
from pathlib import Path

import msgspec
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from edge import cli
from edge.errors import ConfigError
from edge.records.histogram import BUCKETS, Histogram
from edge.records.record import Timing, Timings
from edge.records.timing import STAGES, bars, load


@pytest.fixture
def summary(tmp_path) -> Path:
    rng = np.random.default_rng(0)
    timings = Timings.empty()
    for scale_s, histogram in zip((1e-4, 2e-2, 2e-4, 7e-4, 5e-5, 2e-3), timings, strict=False):  # no decision
        for duration_s in rng.lognormal(np.log(scale_s), 0.3, 500):
            histogram.add(float(duration_s))
    timings.lateness.add(1.5)
    path = tmp_path / "summary.json"
    path.write_bytes(msgspec.json.encode({"ticks": 500, "timing": timings.so_far()}))
    return path


def dofbot(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments], catch_exceptions=True)


def test_every_stage_is_a_row_with_its_quantiles_and_its_histogram(summary) -> None:
    said = dofbot("timing", summary)
    assert said.exit_code == 0
    assert tuple(STAGES) == Timing.__struct_fields__
    for field, stage in STAGES.items():
        found = getattr(load(summary), field)
        (row,) = (line for line in said.stdout.splitlines() if f" {stage} " in line)
        cells = [cell.strip() for cell in row.split("│")]
        assert cells[2] == str(found.count)
        assert float(cells[3]) == pytest.approx(found.p50 * 1e3, rel=0.01)
        assert float(cells[6].replace(",", "")) == pytest.approx(found.max * 1e3, rel=0.01)
        assert bool(re.search("[▁▂▃▄▅▆▇█]", cells[7])) == bool(found.count)


def test_json_is_all_that_was_counted_and_nothing_else(summary) -> None:
    said = dofbot("timing", summary, "--json")
    assert msgspec.json.decode(said.stdout, type=Timing) == load(summary)
    assert json.loads(said.stdout)["lateness_s"]["max"] == 1.5


def test_the_picture_shows_every_stage(summary, tmp_path) -> None:
    assert dofbot("timing", summary, "--png", tmp_path / "timing.png").exit_code == 0
    with Image.open(tmp_path / "timing.png") as picture:
        assert picture.width > 800
        assert picture.height > 800
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    rows = np.flatnonzero((abs(pixels - (31, 119, 180)).sum(axis=2) < 10).any(axis=1))
    between = np.count_nonzero(np.diff(rows) > 20)  # pixels; grid lines are one wide
    assert between + 1 == len(STAGES) - 1  # one is empty


def test_a_run_that_measured_nothing_can_be_shown(tmp_path) -> None:
    (tmp_path / "summary.json").write_bytes(msgspec.json.encode({"timing": Timings.empty().so_far()}))
    said = dofbot("timing", tmp_path / "summary.json")
    assert said.exit_code == 0
    assert "tick late" in said.stdout


@pytest.mark.parametrize("duration_s", [0.0, 1e-6, 0.999e-3, 1e-3, 0.5, 9.99, 10.0, 1e6])
def test_a_single_sample_among_a_million_shows_where_it_is(duration_s) -> None:
    histogram = Histogram()
    histogram.add(duration_s)
    alone = bars(histogram.durations())
    assert alone.strip() == "█"
    assert len(alone) == 28
    histogram.add(3e-5)
    found = histogram.durations()
    (many,) = (bucket for bucket in found.buckets if bucket not in histogram_of(duration_s).buckets)
    crowded = msgspec.structs.replace(found, buckets=found.buckets | {many: 1_000_000})
    assert bars(crowded)[alone.index("█")] != " "


def histogram_of(duration_s: float):
    histogram = Histogram()
    histogram.add(duration_s)
    return histogram.durations()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"", "no summary"),
        (b"[]", "Expected `object`"),
        (b"{}", "missing required field `timing`"),
        (b'{"timing": 3}', r"\$\.timing"),
        (b"\xff\xfe{", "no summary"),
        (b"[" * 100_000, "no summary"),
    ],
)
def test_a_file_without_timing_is_one_sentence(text, why, tmp_path) -> None:
    (tmp_path / "summary.json").write_bytes(text)
    with pytest.raises(ConfigError, match=why) as caught:
        load(tmp_path / "summary.json")
    assert "dofbot run --summary" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("field", "value"), [("count", -1), ("max", -0.1), ("buckets", {"-1": 1}), ("buckets", {str(BUCKETS): 1})])
def test_figures_that_cannot_be_are_refused(field, value, summary) -> None:
    document = json.loads(summary.read_text())
    document["timing"]["bus_s"][field] = value
    summary.write_text(json.dumps(document))
    with pytest.raises(ConfigError, match=r"Expected .*bus_s"):
        load(summary)


def test_a_missing_file_and_a_picture_without_a_place_are_named(summary, tmp_path) -> None:
    assert "absent cannot be read" in str(dofbot("timing", tmp_path / "absent").exception)
    for path, why in (
        (tmp_path / "absent" / "timing.png", "cannot be written"),
        (tmp_path / "timing.jpg", "ends in '.jpg', expected .png"),
    ):
        assert f"--png {path} {why}" in str(dofbot("timing", summary, "--png", path).exception)
