"""`dofbot`: straight to the release of the servos where that is asked for, which must not wait for a command line to load."""

import os
import sys


def main() -> None:
    """Entry point of `dofbot`; `release --help` and every other verb are the command line's."""
    if sys.argv[1:2] == ["release"] and "--help" not in sys.argv:
        from firmware_tools import release

        del sys.argv[1]
        sys.exit(release.main())
    if sys.argv[1:2] == ["doctor"]:
        from firmware_tools.wheels import refuse_deadly

        refuse_deadly()  # a package that kills its process would take the doctor with it
    if sys.argv[1:2] == ["calibrate"]:
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy comes: its threads would spin over many small matrices
    from edge.cli import main as command_line

    command_line()


if __name__ == "__main__":
    main()
