"""Durations counted in buckets of equal ratio: 3.4 kB whatever the number of samples, quantiles to 2 %.

The idea is HdrHistogram's (hdrhistogram.org). Its Python package has no wheel for 64-bit ARM Linux, brings setuptools and pbr along and
takes 2.8 µs a sample where this takes 0.8; reading quantiles from buckets of equal ratio is all that we need of it.
"""

import math
from array import array
from collections.abc import Iterable
from typing import Annotated

from msgspec import Meta, Struct

SHORTEST_S = 1e-6  # shorter ones share a bucket
LONGEST_S = 10.0  # so do this and longer ones
RATIO = 1.04  # of a bucket's ends; its geometric middle is then off by 1.98 % at most
_PER_E_FOLD = 1.0 / math.log(RATIO)
_OFFSET = 1.0 - math.log(SHORTEST_S) * _PER_E_FOLD
BUCKETS = 2 + math.ceil(math.log(LONGEST_S / SHORTEST_S) * _PER_E_FOLD)


Count = Annotated[int, Meta(ge=0)]
Seconds = Annotated[float, Meta(ge=0.0)]


class Durations(Struct, frozen=True):
    """What a histogram held: quantiles in seconds, zeros when nothing was measured, and the counts to merge or draw."""

    count: Count
    p50: Seconds
    p99: Seconds
    p99_9: Seconds
    max: Seconds  # exact
    buckets: dict[Annotated[int, Meta(ge=0, lt=BUCKETS)], Count]  # bucket → samples, if any; see `bucket_ends_s`


class Histogram:
    """Counts durations. `add` takes constant time and keeps no memory, so that the control loop may call it for ever."""

    def __init__(self) -> None:
        self._counts = array("Q", bytes(8 * BUCKETS))
        self._max_s = 0.0

    def add(self, duration_s: float) -> None:
        """Count one; never raises. A negative one (another machine's clock) counts as the shortest, NaN as the longest."""
        if duration_s < SHORTEST_S:
            bucket = 0
        elif duration_s < LONGEST_S:
            bucket = int(math.log(duration_s) * _PER_E_FOLD + _OFFSET)
        else:
            bucket = BUCKETS - 1
        self._counts[bucket] += 1
        if duration_s > self._max_s:
            self._max_s = duration_s

    def merge(self, other: Durations) -> None:
        """Count what another histogram counted, another run's for one."""
        for bucket, samples in other.buckets.items():
            self._counts[bucket] += samples
        self._max_s = max(self._max_s, other.max)

    def durations(self) -> Durations:
        """What was counted so far."""
        buckets = {bucket: samples for bucket, samples in enumerate(self._counts) if samples}
        count = sum(buckets.values())
        p50, p99, p99_9 = (self._quantile_s(buckets.items(), share * count) for share in (0.5, 0.99, 0.999))
        return Durations(count, p50, p99, p99_9, self._max_s, buckets)

    def _quantile_s(self, buckets: Iterable[tuple[int, int]], rank: float) -> float:
        """The shortest duration that at least `rank` samples do not exceed."""
        for bucket, samples in buckets:
            rank -= samples
            if rank <= 1e-6:  # 0.99 of 100 samples is a little more than 99
                low_s, high_s = bucket_ends_s(bucket)
                return min(math.sqrt(low_s * high_s) if low_s else high_s, self._max_s)
        return 0.0


def bucket_ends_s(bucket: int) -> tuple[float, float]:
    """Shortest and longest duration that a bucket counts; the last one's end is infinite."""
    low_s = SHORTEST_S * RATIO ** (bucket - 1) if bucket else 0.0
    return low_s, SHORTEST_S * RATIO**bucket if bucket < BUCKETS - 1 else math.inf
