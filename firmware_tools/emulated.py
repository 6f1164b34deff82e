"""The arm in software that the tools drive where `bus.i2c = 'emulated'`: it stands alone, parked, and is gone with its process."""

from edge.clock import MonotonicClock
from edge.config import Config
from edge.simulated.emulated_arm import EmulatedArm


def emulated_arm(config: Config) -> EmulatedArm:
    """An arm of which nothing was measured yet: zeros, scales and oscillator are a little off, the same at each start."""
    return EmulatedArm(config.bus, MonotonicClock(), inverted=config.mount.inverted)
