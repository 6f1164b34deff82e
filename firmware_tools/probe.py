"""Loads a policy and replays its golden vectors, and ends: in a process of its own, which dies of what this processor cannot execute."""

import sys
from pathlib import Path

from edge.errors import DofbotError, LatePolicyError
from edge.policy import load


def main() -> int:
    """Exit code 0 when the policy computes here what it was made to compute; how fast is judged when it runs."""
    try:
        load(Path(sys.argv[1]))
    except LatePolicyError:
        pass
    except DofbotError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
