"""Everything that can be wrong, said in one sentence: what was found, what was expected, what to do.

DofbotError
├── ConfigError        a configuration file, or a field of it          exit code 2
├── PolicyError        the policy file or its contract                 exit code 78 (EX_CONFIG: systemd must not retry)
│   └── LatePolicyError  too slow on this machine, just now           the loop holds, exit code 1 (systemd tries again)
├── ObservationError   a frame that must not reach the policy          the loop holds
├── UnreachableError   a tool pose outside the arm's reach             the task keeps its last target
├── BusError           the servo bus did not take a command            the loop holds
├── WireError          a malformed or oversized message                the connection is closed
├── SafeError          the arm is in SAFE and does not do as told      exit code 3
├── RefusedError       the running process refused a command           exit code 4
├── NotListeningError  no running process to command                   exit code 5
├── CalibrationError  what was measured cannot be used, and is not     exit code 6
└── MissingExtraError  an optional package is not installed            exit code 2
"""


class DofbotError(Exception):
    """Base of all errors a user can meet; its text is one sentence fit for the terminal."""

    exit_code = 1


class ConfigError(DofbotError):
    """A configuration file is missing, unreadable, or has a field that cannot be."""

    exit_code = 2


class PolicyError(DofbotError):
    """A policy file is damaged, not ours, or made for another robot, camera or task."""

    exit_code = 78


class LatePolicyError(PolicyError):
    """A policy takes longer than the control loop can wait: on a busy machine it may be faster the next time."""

    exit_code = 1


class ObservationError(DofbotError):
    """A depth frame has the wrong shape, dtype or unit, or shows nothing valid."""


class UnreachableError(DofbotError):
    """No joint angles reach a tool pose; `short_by_m` says how far away the arm's reach ends."""

    def __init__(self, message: str, short_by_m: float) -> None:
        super().__init__(message)
        self.short_by_m = short_by_m


class BusError(DofbotError):
    """The servo bus did not acknowledge, or its device is not what was expected."""


class WireError(DofbotError):
    """A message on a socket is truncated, oversized, or does not fit its schema."""


class SafeError(DofbotError):
    """The arm is in SAFE: it does nothing until a person has looked at it and reset it."""

    exit_code = 3


class RefusedError(DofbotError):
    """The running process refused a command; the text is its reason."""

    exit_code = 4


class NotListeningError(DofbotError):
    """No process takes commands where one was looked for, or it has ended meanwhile."""

    exit_code = 5


class CalibrationError(DofbotError):
    """What was seen or measured does not determine what was asked for; nothing was written."""

    exit_code = 6


class MissingExtraError(DofbotError):
    """An optional dependency is absent; the text names the extra that brings it."""

    exit_code = 2

    def __init__(self, module: str, extra: str) -> None:
        super().__init__(f"{module} is not installed; run: pip install 'dofbot-grasp[{extra}]'")
