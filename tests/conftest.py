"""What all tests rely on: the same examples on every run, and a Ctrl-C that arrives."""

import os
import signal

from hypothesis import settings

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy comes: small matrices, over which its threads would spin

# So that a failure is there again on the next run.
settings.register_profile("deterministic", derandomize=True, deadline=None)
settings.load_profile("deterministic")

# What a script starts in the background has SIGINT ignored, and so have its children: tests that press Ctrl-C would wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
