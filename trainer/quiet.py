"""Silence for C code that prints: PyBullet greets on both streams."""

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet() -> Iterator[None]:
    """Swallows what this process writes to its standard streams from C."""
    libc, silence = ctypes.CDLL(None), os.open(os.devnull, os.O_WRONLY)
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [(fd, os.dup(fd)) for fd in (1, 2)]
    for fd, _ in kept:
        os.dup2(silence, fd)
    try:
        yield
    finally:
        libc.fflush(None)  # C's own buffer would be written when the process ends
        for fd, copy in kept:
            os.dup2(copy, fd)
            os.close(copy)
        os.close(silence)
