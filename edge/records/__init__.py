"""What is written down of a run: ticks, times, states and grasps."""
