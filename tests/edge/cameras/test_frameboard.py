"""What is read from the shared memory is what was written, whole, whoever writes meanwhile; the memory leaves nothing behind."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edge.cameras.frameboard import _SLOT, _SLOTS_AT, FRAME_MAX_BYTES, MARKERS_MAX, TEXT_MAX_BYTES, FrameBoard, numbered
from edge.cameras.judge import LEAP
from edge.errors import ObservationError
from edge.messages import Frame, Intrinsics, Marker

LENS = Intrinsics(8, 6, 60.0, 61.0, 3.5, 2.5)
HAMMER = """
import sys, time
import numpy as np
from edge.cameras.frameboard import FrameBoard
from edge.messages import Frame, Intrinsics
board, lens = FrameBoard(int(sys.argv[1])), Intrinsics(320, 240, 60.0, 60.0, 1.0, 1.0)
ends_s, number = time.monotonic() + 0.4, 0
while time.monotonic() < ends_s:
    number += 1
    board.publish(Frame(np.full((240, 320), number, np.float32), lens, 0.5 * number, number), 1, True)
"""


@pytest.fixture
def boards() -> Iterator[tuple[FrameBoard, FrameBoard]]:
    """Of the writer and of the reader."""
    reader = FrameBoard()
    writer = FrameBoard(os.dup(reader.fd))
    reader.begin(1)
    yield writer, reader
    writer.close()
    reader.close()
    reader.close()


def image(number: int) -> Frame:
    rng = np.random.default_rng(number)
    return Frame(rng.random((LENS.height, LENS.width), np.float32), LENS, number * 0.04, number)


def test_a_frame_comes_out_as_it_went_in(boards) -> None:
    writer, reader = boards
    assert reader.latest() is None
    for number in range(10):
        writer.publish(sent := image(number), 1, is_news=number % 2 == 0)
        found = reader.latest()
        assert found is not None
        np.testing.assert_array_equal(found.depth_m, sent.depth_m)
        assert found.depth_m.dtype == np.float32
        assert found[1:] == (LENS, sent.captured_at_s, numbered(1, number), None, None)
        assert reader.latest() is found
    assert reader.counts() == (10, 5)


def test_a_grey_image_goes_with_its_frame_and_with_no_other(boards) -> None:
    writer, reader = boards
    grey = np.random.default_rng(3).integers(0, 256, (LENS.height, LENS.width), np.uint8)
    writer.publish(image(1)._replace(image=grey), 1, True)
    np.testing.assert_array_equal(reader.latest().image, grey)
    np.testing.assert_array_equal(reader.latest().depth_m, image(1).depth_m)
    writer.publish(image(2), 1, True)
    assert reader.latest().image is None
    for bad in (grey[:, :4], grey.astype(np.uint16)):
        with pytest.raises(ObservationError, match=r"the grey image is .*, expected uint8 \(6, 8\)"):
            writer.publish(image(3)._replace(image=bad), 1, True)


@pytest.mark.parametrize("count", [0, 1, 2, MARKERS_MAX])
def test_markers_go_with_their_frame_and_none_is_not_the_same_as_not_looked_for(count, boards) -> None:
    writer, reader = boards
    rng = np.random.default_rng(count)
    sent = tuple(Marker(int(i), rng.normal(size=(4, 2))) for i in rng.integers(0, 1000, count))
    writer.publish(image(1)._replace(markers=sent), 1, True)
    found = reader.latest().markers
    assert [one.id for one in found] == [one.id for one in sent]
    assert all(np.array_equal(one.rays, other.rays) for one, other in zip(found, sent, strict=True))
    np.testing.assert_array_equal(reader.latest().depth_m, image(1).depth_m)
    writer.publish(image(2), 1, True)
    assert reader.latest().markers is None


def test_a_new_connection_leaves_the_last_frame_and_its_numbers_leap(boards) -> None:
    writer, reader = boards
    writer.publish(image(5), 1, True)
    before = reader.latest()
    reader.begin(2)
    assert reader.counts() == (0, 0)
    assert reader.latest() is before
    writer.publish(image(6), 1, True)  # one that was not dead after all
    assert reader.latest().depth_m is not None
    reader.begin(2)
    writer.publish(image(5), 2, True)
    assert reader.latest().sequence - before.sequence > LEAP


@pytest.mark.parametrize("at", [0, 8, 24, _SLOT.size - 1, _SLOT.size, _SLOT.size + 4 * 48 - 1])
def test_one_wrong_byte_anywhere_and_the_frame_is_not_read(at, boards) -> None:
    writer, reader = boards
    writer.publish(image(1), 1, True)
    before = reader.latest()
    writer.publish(image(2), 1, True)
    writer._memory[_SLOTS_AT + at] ^= 0x10  # the second frame is in slot 0
    assert reader.latest() is before
    writer._memory[_SLOTS_AT + at] ^= 0x10
    assert reader.latest() is not before


def test_no_torn_frame_is_read_while_another_process_writes_as_fast_as_it_can(boards) -> None:
    _, reader = boards
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    writer = subprocess.Popen([sys.executable, "-c", HAMMER, str(reader.fd)], pass_fds=(reader.fd,), env=environment)
    seen = set()
    while writer.poll() is None:
        if (frame := reader.latest()) is not None:
            assert frame.depth_m.min() == frame.depth_m.max() == 2.0 * frame.captured_at_s
            seen.add(frame.sequence)
    assert writer.returncode == 0
    assert seen


def test_what_does_not_fit_is_refused(boards) -> None:
    writer, _ = boards
    good = image(1)
    big = Intrinsics(1281, 800, 60.0, 60.0, 1.0, 1.0)
    assert FRAME_MAX_BYTES < 4 * 1281 * 800
    for bad in (
        good._replace(depth_m=good.depth_m[:, :4]),
        good._replace(depth_m=(good.depth_m * 1000).astype(np.uint16)),
        good._replace(depth_m=np.zeros((800, 1281), np.float32), intrinsics=big),
    ):
        with pytest.raises(ObservationError, match="expected float32"):
            writer.publish(bad, 1, True)
    assert writer.counts() == (0, 0)


def test_texts_are_cut_where_they_end(boards) -> None:
    writer, reader = boards
    assert reader.why == reader.serial == ""
    writer.why, writer.serial = "größer " * 1000, "F1234"
    assert reader.why == ("größer " * 1000).encode()[:TEXT_MAX_BYTES].decode("utf-8", "replace")
    assert reader.serial == "F1234"
    reader.begin(2)
    assert reader.why == reader.serial == ""


def test_nothing_is_left_behind() -> None:
    before, names = len(os.listdir("/proc/self/fd")), set(os.listdir("/dev/shm"))
    board = FrameBoard()
    board.publish(image(1), 0, True)
    frame = board.latest()
    assert set(os.listdir("/dev/shm")) == names
    board.close()
    assert len(os.listdir("/proc/self/fd")) == before
    assert frame.depth_m.shape == (6, 8)  # its own copy


def test_reading_is_quick(boards) -> None:
    writer, reader = boards
    writer.publish(image(1), 1, True)
    reader.latest()
    began_s = time.perf_counter()
    for _ in range(100):
        reader.latest()
    assert time.perf_counter() - began_s < 0.05  # 500 µs each, on a busy machine
