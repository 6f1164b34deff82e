"""The lean runtime: depth frame → observation → policy → task → kinematics → safety → servo pulses.

Nothing here imports torch, pybullet, gymnasium or `trainer`; training imports this instead.
"""

__version__ = "0.1.0"
