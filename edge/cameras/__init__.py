"""The depth camera: its drivers, the process it runs in, what may be believed of it, and how the policy's camera would see it."""
