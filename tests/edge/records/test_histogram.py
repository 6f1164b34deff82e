"""Quantiles are within 2 % of the samples' own, in memory that does not grow, whatever is counted."""

import math
import sys
import time
import tracemalloc

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.records.histogram import BUCKETS, LONGEST_S, SHORTEST_S, Durations, Histogram, bucket_ends_s

WITHIN = 0.02


def counted(samples_s: list[float]) -> Durations:
    histogram = Histogram()
    for sample_s in samples_s:
        histogram.add(sample_s)
    return histogram.durations()


@given(st.lists(st.floats(math.log(SHORTEST_S), math.log(LONGEST_S) - 1e-9).map(math.exp), min_size=1, max_size=300))
def test_quantiles_are_within_2_percent_of_the_samples_own(samples_s) -> None:
    found = counted(samples_s)
    assert found.count == len(samples_s)
    assert found.max == max(samples_s)
    for share, quantile_s in ((0.5, found.p50), (0.99, found.p99), (0.999, found.p99_9)):
        own_s = sorted(samples_s)[math.ceil(round(share * len(samples_s), 6)) - 1]
        assert quantile_s == pytest.approx(own_s, rel=WITHIN)


def test_a_long_run_of_lognormal_durations() -> None:
    samples_s = np.random.default_rng(0).lognormal(math.log(2e-4), 1.0, 200_000)
    found = counted(samples_s.tolist())
    own_s = np.percentile(samples_s, [50, 99, 99.9], method="inverted_cdf")
    assert (found.p50, found.p99, found.p99_9) == pytest.approx(own_s, rel=WITHIN)
    assert found.p50 < found.p99 < found.p99_9 < found.max == samples_s.max()


def test_every_bucket_counts_what_lies_between_its_ends() -> None:
    for bucket in range(BUCKETS):
        low_s, high_s = bucket_ends_s(bucket)
        inside = [low_s * (1 + 1e-9), min(high_s * (1 - 1e-9), LONGEST_S * (1 - 1e-9) if bucket < BUCKETS - 1 else 1e9)]
        assert [list(counted([duration_s]).buckets) for duration_s in inside] == [[bucket]] * 2


def test_nothing_measured_is_zeros() -> None:
    assert counted([]) == Durations(0, 0.0, 0.0, 0.0, 0.0, {})


def test_the_rank_is_exact_at_round_counts() -> None:
    found = counted([1e-3] * 99 + [1.0])
    assert found.p99 == pytest.approx(1e-3, rel=WITHIN)
    assert found.p99_9 == pytest.approx(1.0, rel=WITHIN)
    found = counted([1e-3] * 98 + [1.0] * 2)
    assert found.p99 == pytest.approx(1.0, rel=WITHIN)


@pytest.mark.parametrize(
    ("duration_s", "bucket"),
    [
        (0.0, 0),
        (-1.0, 0),
        (-math.inf, 0),
        (5e-324, 0),
        (math.nextafter(SHORTEST_S, 0), 0),
        (SHORTEST_S, 1),
        (LONGEST_S, BUCKETS - 1),
        (1e9, BUCKETS - 1),
        (math.inf, BUCKETS - 1),
        (math.nan, BUCKETS - 1),
    ],
)
def test_what_is_out_of_range_is_counted_at_the_end(duration_s, bucket) -> None:
    found = counted([duration_s])
    assert found.buckets == {bucket: 1}
    assert 0.0 <= found.p50 <= found.max


def test_the_last_below_the_longest_has_a_bucket() -> None:
    (bucket,) = counted([math.nextafter(LONGEST_S, 0)]).buckets
    assert bucket <= BUCKETS - 1


def test_merging_is_counting_together() -> None:
    samples_s = np.random.default_rng(1).lognormal(-7.0, 2.0, 2000).tolist()
    histogram = Histogram()
    histogram.merge(counted(samples_s[:500]))
    histogram.merge(counted([]))
    for sample_s in samples_s[500:1000]:
        histogram.add(sample_s)
    histogram.merge(counted(samples_s[1000:]))
    assert histogram.durations() == counted(samples_s)


def test_a_file_gives_back_what_was_counted() -> None:
    found = counted([1e-4, 2e-3, 2e-3, 11.0])
    assert msgspec.json.decode(msgspec.json.encode(found), type=Durations) == found


def test_counting_keeps_no_memory_and_is_quick() -> None:
    histogram, samples_s = Histogram(), np.random.default_rng(2).lognormal(-7.0, 2.0, 20_000).tolist()
    histogram.add(1.0)
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for sample_s in samples_s:
        histogram.add(sample_s)
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert after - before < 1000
    assert sys.getsizeof(histogram._counts) < 4000
    began_s = time.perf_counter()
    for sample_s in samples_s:
        histogram.add(sample_s)
    assert (time.perf_counter() - began_s) / len(samples_s) < 50e-6
