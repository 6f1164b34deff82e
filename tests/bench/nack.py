"""A servo bus on which one transaction in twenty is not acknowledged: whether anything comes of it but retries."""

import math
import time
from pathlib import Path

from tables import Bench, Figures

from edge.buses import bus_writer
from trainer import soak
from trainer.soak_person import NACKS

TICKS, PEER_TICKS = 100_000, 10_000
TICK_HZ = 50.0


def bench(policy: Path) -> Bench:
    """The runtime on a virtual clock, grasping all the time; beside it the same without the writer's retries."""
    rows = {"dofbot-grasp": _soak(policy, TICKS)}
    retries, bus_writer.RETRIES_MAX = bus_writer.RETRIES_MAX, 0
    try:
        rows["without its retries"] = _soak(policy, PEER_TICKS)
    finally:
        bus_writer.RETRIES_MAX = retries
    notes = (
        f"{NACKS:.0%} of all I2C transactions are not acknowledged; a set point takes seven. An abort is SAFE or the end of the process; "
        "a HOLD for the bus is three ticks in a row without acknowledgement. The desk is trainer/light_world.py, the chip emulated."
    )
    return Bench("Servo bus with NACKs", rows, {"aborts": "0", "unsafe commands": "0"}, notes)


def _soak(policy: Path, ticks: int) -> Figures:
    began_s = time.monotonic()
    found = soak.run(soak.Settings(policy, ticks / TICK_HZ / 3600.0, is_real=False, seed=0, fault_every_s=math.inf))
    return {
        "ticks": found.ticks,
        "aborts": sum(found.safes.values()) + (found.ended_by != "done"),
        "HOLDs for the bus": found.holds.get("bus", 0),
        "sent": found.sent,
        "not acknowledged": found.unacknowledged,
        "retries": found.retries,
        "unsafe commands": found.unsafe,
        "grasps": found.attempts,
        "picked": found.picked,
        "seconds": time.monotonic() - began_s,
    }
