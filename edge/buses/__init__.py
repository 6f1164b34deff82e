"""The servo buses: drivers of the two boards, and the thread that writes, so that no bus blocks the control loop."""
