"""A lease on sending: whoever gives up on a set point takes back the right to send what is left of it.

A driver call can hang in the kernel half-way and come back seconds later. Drivers ask here before every transaction that
carries a set point, so that nothing stale follows. Without a lease everything may be sent.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from edge.errors import BusError

_is_over: ContextVar[Callable[[], bool] | None] = ContextVar("is_over", default=None)


@contextmanager
def lease(is_over: Callable[[], bool]) -> Iterator[None]:
    """Let this thread send until `is_over` says so."""
    token = _is_over.set(is_over)
    try:
        yield
    finally:
        _is_over.reset(token)


def check_lease() -> None:
    """Raise `BusError` when this thread may send no more."""
    is_over = _is_over.get()
    if is_over is not None and is_over():
        raise BusError("servo bus: the set point was given up before all of it was sent, expected it in time; the rest was not sent")
