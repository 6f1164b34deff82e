"""The books: a miss is tried once more, and what is booked adds up."""

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.records.record import KEPT_GRASPS
from edge.records.tally import TRIES, Counts, Tally

outcomes = st.lists(st.sampled_from(["picked", "missed", "lost"]), max_size=30)


@given(outcomes, st.integers(1, 10))
def test_the_counts_add_up_whatever_comes(results, count) -> None:
    tally, tries = Tally(50.0), 0
    tally.want(count)
    for result in results:
        if not tally.wanted:
            break
        tries += 1
        tally.tick("HOMING")
        assert tally.conclude(result) == (tally.wanted > 0)
    assert sum(tally.counts[1:]) == tally.counts.attempts == len(tally.grasps) == count - tally.wanted
    assert sum(grasp.phase_s["HOMING"] for grasp in tally.grasps) <= tries / 50.0 + 1e-9
    assert all(grasp.tries <= TRIES and (grasp.result != "missed" or grasp.tries == TRIES) for grasp in tally.grasps)


@pytest.mark.parametrize(
    ("results", "counts", "tries"),
    [
        (["picked"], Counts(1, 1, 0, 0), 1),
        (["missed", "picked"], Counts(1, 1, 0, 0), 2),
        (["missed", "missed"], Counts(1, 0, 1, 0), 2),
        (["missed", "lost"], Counts(1, 0, 0, 1), 2),
        (["lost"], Counts(1, 0, 0, 1), 1),
    ],
)
def test_only_a_miss_is_tried_again_and_only_once(results, counts, tries) -> None:
    tally = Tally(50.0)
    tally.want(1)
    goes_on = [tally.conclude(result) for result in results]
    assert goes_on == [True] * (len(results) - 1) + [False]
    assert (tally.counts, tally.grasps[0].tries, tally.wanted) == (counts, tries, 0)


def test_time_counts_while_a_grasp_is_wanted_and_what_is_abandoned_counts_for_nothing() -> None:
    tally = Tally(50.0)
    tally.tick("IDLE")
    tally.want(2)
    tally.tick("HOMING")
    tally.abandon()
    tally.tick("PARK")
    tally.want(1)
    tally.tick("HOMING")
    tally.conclude("picked")
    assert tally.counts == Counts(1, 1, 0, 0)
    assert tally.grasps[0].phase_s == {"HOMING": 0.02}


def test_the_books_of_days_take_no_more_memory_than_those_of_an_hour() -> None:
    tally = Tally(50.0)

    def book(count: int) -> None:
        for _ in range(count):
            tally.want(2)
            for _ in range(tally.counts.attempts % 7 + 1):
                tally.tick("APPROACH")
            tally.conclude("picked" if tally.counts.attempts % 2 else "lost")

    book(100)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        book(KEPT_GRASPS)
        assert tracemalloc.get_traced_memory()[0] - before < 2000
    finally:
        tracemalloc.stop()
    assert len(tally.grasps) == KEPT_GRASPS
    for number, grasp in zip(range(100, 100 + KEPT_GRASPS), tally.grasps, strict=True):
        assert grasp.result == ("picked" if number % 2 else "lost")
        assert grasp.phase_s == {"APPROACH": (number % 7 + 1) / 50.0}
