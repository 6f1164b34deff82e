"""The steps of `dofbot calibrate`, one a file: options, what is said, and in which order things are done."""
