"""What a robot's own verbs have in common: they are called over ssh, go on when that breaks, and answer with one line or one sentence.

The standard library alone. The other end is `firmware_tools.deploy.on_robot`.
"""

import json
import signal
import sys
from collections.abc import Callable
from contextlib import suppress

from edge.errors import DofbotError, InstallError

Say = Callable[[str], None]


def answer(work: Callable[[Say], object], as_json: bool, prints: bool) -> int:
    """Do the work; returns the exit code. Its result goes to the last line of stdout if it `prints`, an error to the last of stderr."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # goes on when the ssh session breaks
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)
    say = _say_to(sys.stderr if as_json else sys.stdout)
    try:
        result = work(say)
    except OSError as error:
        say(f"dofbot: {error.filename or 'a file'}: {error.strerror or error}; what ran before goes on")
        return InstallError.exit_code
    except DofbotError as error:
        say(f"dofbot: {error}")
        return error.exit_code
    if prints:
        print(json.dumps(result), flush=True)
    return 0


def _say_to(stream: object) -> Say:
    """Progress, a line at a time. Who listened may be gone: an ssh session that broke must not stop an installation."""

    def say(text: str) -> None:
        with suppress(OSError, ValueError):
            print(text, file=stream, flush=True)  # type: ignore[call-overload]

    return say


def _end(number: int, _: object) -> None:
    raise SystemExit(128 + number)
