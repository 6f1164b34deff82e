"""Calibration: from a printed board to millimetres, each number with its σ, or refused with the reason."""
