"""A lease is its thread's own, and ends with its block."""

import threading

import pytest

from edge.buses.lease import check_lease, lease
from edge.errors import BusError


def test_only_a_lease_that_is_over_stops_sending() -> None:
    is_over = False
    check_lease()
    with lease(lambda: is_over):
        check_lease()
        is_over = True
        with pytest.raises(BusError, match="given up .* was not sent"):
            check_lease()
        other = threading.Thread(target=check_lease)  # raising there would fail this test
        other.start()
        other.join()
    check_lease()


def test_a_lease_ends_with_an_error_too() -> None:
    with pytest.raises(ZeroDivisionError), lease(lambda: True):
        raise ZeroDivisionError
    check_lease()
