"""From a printed board to millimetres: lens, hand-eye, servo zeros, each with its own uncertainty."""
