"""What a run wrote can be read back, however it ended, and its figures are right."""

import logging
import math
import os
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest

from edge.errors import ConfigError, WireError
from edge.messages import JointCommand
from edge.records.record import Recorder, TickRecord, Timing, Timings, process_age_s, read, resident_mb
from edge.task import Phase

HOME = JointCommand(0.0, 0.1, -0.2, 0.3, 1.5, 0.06)


def tick(number: int) -> TickRecord:
    hold = "the newest depth frame is 120 ms old" if number % 7 == 0 else ""
    action = (0.25, -0.5) if number % 4 == 0 else ()
    return TickRecord(100.0 + number / 50, 1e-4, Phase.APPROACH, number // 4, hold, number, 0.012, action, HOME, HOME, ("joint2 velocity",))


def written(path: Path, ticks: int) -> list[TickRecord]:
    recorder = Recorder(str(path))
    records = [tick(number) for number in range(ticks)]
    for record in records:
        recorder.write(record)
    recorder.close()
    return records


def test_what_is_written_can_be_read_back(tmp_path) -> None:
    records = written(tmp_path / "record", 100)
    found = list(read(tmp_path / "record"))
    assert found == records
    assert isinstance(found[0].sent, JointCommand)
    assert found[0].sent.opening_m == 0.06


def test_a_record_keeps_what_is_not_a_number(tmp_path) -> None:
    recorder = Recorder(str(tmp_path / "record"))
    recorder.write(TickRecord(math.inf, 0.0, "PARK", 0, "", -1, -1.0, (math.nan,), HOME, HOME, ()))
    recorder.close()
    (found,) = read(tmp_path / "record")
    assert found.now_s == math.inf
    assert math.isnan(found.action[0])


def test_every_tick_is_in_the_file_before_the_next(tmp_path) -> None:
    """A process that is killed loses none."""
    recorder = Recorder(str(tmp_path / "record"))
    for number in range(5):
        recorder.write(tick(number))
        assert len(list(read(tmp_path / "record"))) == number + 1
    recorder.close()


def test_a_last_record_cut_short_anywhere_is_left_out(tmp_path) -> None:
    records = written(tmp_path / "record", 3)
    data = (tmp_path / "record").read_bytes()
    written(tmp_path / "two", 2)
    two = len((tmp_path / "two").read_bytes())
    for length in range(two, len(data)):
        (tmp_path / "cut").write_bytes(data[:length])
        assert list(read(tmp_path / "cut")) == records[:2]


def test_an_empty_record_has_no_ticks(tmp_path) -> None:
    Recorder(str(tmp_path / "record")).close()
    assert list(read(tmp_path / "record")) == []


@pytest.mark.parametrize(
    ("garbage", "message"),
    [
        (b"\x00\x00\x00\x00", "claims 0 bytes"),
        (b"#!/bin/sh\necho this is a script\n", "claims 589377378 bytes"),
        (b"\xff" * 1000, "claims 4294967295 bytes"),
        (b"\x00\x00\x00\x03\x93\x01\x02", "is no tick"),
        (b"\x00\x00\x00\x02\x90\x90", "is no tick"),
        (b"\x00\x00\x00\x04\xdd\xff\xff\xff", "is no tick"),
        (b"\x00\x00\x00\x03\xa2\xff\xff", "is no tick"),
        (b"\x00\x00\x80\x00" + b"\x91" * 0x8000, "is no tick"),
    ],
)
def test_garbage_is_one_sentence_and_what_came_before_it_is_read(garbage, message, tmp_path) -> None:
    records = written(tmp_path / "record", 2)
    with (tmp_path / "record").open("ab") as file:
        file.write(garbage)
    ticks = read(tmp_path / "record")
    assert list(islice(ticks, 2)) == records
    with pytest.raises(WireError, match=message) as caught:
        next(ticks)
    assert str(tmp_path / "record") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_record_that_is_not_there_is_named(tmp_path) -> None:
    with pytest.raises(ConfigError, match="absent cannot be read"):
        next(read(tmp_path / "absent"))


@pytest.mark.parametrize("path", ["absent/record", "."])
def test_a_file_that_cannot_be_written_is_refused_at_once(path, tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"run\.record = .* cannot be written"):
        Recorder(str(tmp_path / path))


def test_without_a_path_nothing_is_written(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    recorder = Recorder("")
    recorder.write(tick(0))
    recorder.close()
    recorder.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_a_full_disk_ends_the_record_and_not_the_run(caplog) -> None:
    recorder = Recorder("/dev/full")
    for number in range(3):
        recorder.write(tick(number))
    recorder.close()
    (said,) = caplog.records
    assert said.levelno == logging.WARNING
    assert "No space left" in said.getMessage()


def test_a_file_that_takes_half_a_tick_ends_the_record(tmp_path, caplog) -> None:
    """As a disk does that fills up in the middle of a write."""
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    recorder = Recorder(str(tmp_path / "record"))
    recorder.write(tick(0))
    size = (tmp_path / "record").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, limits[1]))
    try:
        recorder.write(tick(1))
        recorder.write(tick(2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    recorder.close()
    assert list(read(tmp_path / "record")) == [tick(0)]
    assert len(caplog.records) == 1


def test_a_long_record_is_read_in_little_memory(tmp_path) -> None:
    """One tick at a time: what is read is not kept."""
    written(tmp_path / "record", 200)
    data = (tmp_path / "record").read_bytes()
    with (tmp_path / "long").open("wb") as file:
        for _ in range(250):
            file.write(data)
    program = (
        "import sys, pathlib; from edge.records.record import read, resident_mb; path = pathlib.Path(sys.argv[1])\n"
        "before = resident_mb(); count = sum(1 for _ in read(path)); print(count, resident_mb() - before)"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "long")]
    done = subprocess.run(command, cwd=Path(__file__).parents[3], capture_output=True, text=True, check=True)
    count, grown_mb = done.stdout.split()
    assert int(count) == 50_000
    assert (tmp_path / "long").stat().st_size > 6e6
    assert float(grown_mb) < 3.0


def test_timings_are_counted_by_stage_and_can_be_told_at_any_time() -> None:
    timings = Timings.empty()
    assert Timing.__struct_fields__ == tuple(f"{stage}_s" for stage in Timings._fields)
    for number, stage in enumerate(timings, start=1):
        for _ in range(number):
            stage.add(number * 1e-3)
    told = timings.so_far()
    timings.lateness.add(5.0)
    figures = [getattr(told, name) for name in Timing.__struct_fields__]
    assert [found.count for found in figures] == [1, 2, 3, 4, 5, 6, 7]
    assert [found.max for found in figures] == pytest.approx([number * 1e-3 for number in range(1, 8)])
    assert timings.so_far().lateness_s.max == 5.0
    assert Timings.empty().so_far().lateness_s.count == 0


def test_memory_and_age_are_the_process_s_own() -> None:
    ballast = "b'x' * 60_000_000; " if sys.platform == "linux" else ""
    program = (
        "import time; from edge.records.record import process_age_s, resident_mb\n"
        f"before_mb, before_s = resident_mb(), process_age_s(); {ballast}time.sleep(0.3)\n"
        "print(before_s, process_age_s() - before_s, resident_mb() - before_mb)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[3], capture_output=True, text=True, check=True)
    before_s, slept_s, grown_mb = map(float, done.stdout.split())
    assert 0.01 <= before_s < 10.0
    assert 0.25 < slept_s < 2.0
    assert 50.0 < grown_mb < 80.0


def test_without_proc_the_figures_are_zero(monkeypatch) -> None:
    def absent(_: Path) -> str:
        raise FileNotFoundError(os.strerror(2))

    monkeypatch.setattr(Path, "read_text", absent)
    assert resident_mb() == 0.0
    assert process_age_s() == 0.0
