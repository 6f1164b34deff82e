"""Training: the simulated world, the Gymnasium environment, SAC, evaluation and export."""
