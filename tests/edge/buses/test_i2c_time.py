"""Clocks on the wire, counted by hand."""

import pytest

from edge.buses.i2c_time import Exchange, on_the_wire


@pytest.mark.parametrize(
    ("exchange", "clocks"),
    [
        (Exchange(0), 2 + 9 + 2),  # START, address, STOP: a probe
        (Exchange(0, 1), 2 + 9 + 9 + 2),
        (Exchange(2), 2 + 9 + 2 * 9 + 2),
        (Exchange(1, 2), 2 + 9 + 9 + 2 + 9 + 2 * 9 + 2),  # the second START is a repeated one
    ],
)
@pytest.mark.parametrize("clock_hz", [100_000.0, 400_000.0])
def test_nine_clocks_a_byte_and_two_for_what_frames_them(exchange: Exchange, clocks: int, clock_hz: float) -> None:
    assert on_the_wire([exchange], clock_hz).duration_s == pytest.approx(clocks / clock_hz)


def test_transactions_add_up() -> None:
    found = on_the_wire([Exchange(1, 1), Exchange(5), Exchange(5)], 100_000.0)
    assert (found.transactions, found.bytes) == (3, 4 + 6 + 6)
    parts_s = sum(on_the_wire([e], 100_000.0).duration_s for e in (Exchange(1, 1), Exchange(5), Exchange(5)))
    assert found.duration_s == pytest.approx(parts_s)
    assert on_the_wire([], 100_000.0) == (0, 0, 0.0)
