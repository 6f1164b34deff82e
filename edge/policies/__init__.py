"""A policy's way into the loop: signature, slots, shadow run, trial, and the thread that asks it."""
