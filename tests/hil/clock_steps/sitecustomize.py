"""On PYTHONPATH, this makes the wall clock leap ten years to and fro at every reading; the monotonic clock stays as it is."""

import datetime
import itertools
import sys
import time

TEN_YEARS_S = 10 * 365.25 * 86400.0
_time, _time_ns, _datetime = time.time, time.time_ns, datetime.datetime
_readings = itertools.count(1)


def _leap_s() -> float:
    reading = next(_readings)
    if reading == 3:
        print("wall clock stepped 3 times", file=sys.stderr, flush=True)
    return TEN_YEARS_S if reading % 2 else -TEN_YEARS_S


class LeapingDatetime(_datetime):
    """Tells the same wrong time."""

    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> "LeapingDatetime":
        return cls.fromtimestamp(_time() + _leap_s(), tz)


time.time = lambda: _time() + _leap_s()
time.time_ns = lambda: _time_ns() + int(_leap_s() * 1e9)
datetime.datetime = LeapingDatetime  # type: ignore[misc]
