"""Whether this machine has time for tests that measure times."""

import time

import pytest

PROBE_S = 0.2


def cpu_share() -> float:
    """What a busy process gets of a CPU just now."""
    began_s, used_s = time.monotonic(), time.process_time()
    while time.process_time() - used_s < PROBE_S:
        pass
    return PROBE_S / (time.monotonic() - began_s)


def wait_for_cpu(enough: float, patience_s: float) -> None:
    """Wait until a busy process gets so much of a CPU; skips the test when that does not come to pass."""
    deadline_s = time.monotonic() + patience_s
    while (share := cpu_share()) < enough:
        if time.monotonic() > deadline_s:
            pytest.skip(f"other programs leave {share:.0%} of a CPU, expected {enough:.0%}: times would tell of them")
        time.sleep(1.0)
