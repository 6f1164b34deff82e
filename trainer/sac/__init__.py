"""Soft Actor-Critic on depth images with a critic that may look at the state: `sac.py` reads top to bottom."""
