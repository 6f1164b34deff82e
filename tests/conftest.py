"""Property tests draw the same examples on every run, so a failure is there again on the next one."""

from hypothesis import settings

settings.register_profile("deterministic", derandomize=True, deadline=None)
settings.load_profile("deterministic")
