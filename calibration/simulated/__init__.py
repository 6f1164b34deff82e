"""Camera, arm and person in software, whose truth is known: for trying every step, never for measuring anything real."""
