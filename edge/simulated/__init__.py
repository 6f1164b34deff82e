"""The hardware in software: chips and servos byte for byte, the link to the simulator, and faults on request."""
