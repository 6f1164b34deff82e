"""What may be asked of the running process, and what it answers: JSON objects, one a line, each checked where it enters.

A command is its `type` and its fields: `{"type":"grasp","count":3}`. An `id`, where one is given, comes back with the replies.
Each command gets one reply. `grasp` gets two: `accepted` at once, `grasp_result` when it has ended. `heartbeat` gets none.
By hand: `echo '{"type":"status"}' | socat - UNIX:/run/dofbot-grasp/control.sock`
"""

import re
from typing import Annotated, Any, Literal, TypeVar, get_args

import msgspec
from msgspec import Meta, Struct

from edge.errors import WireError

LINE_MAX_BYTES = 4096  # a command, without its line end; the longest sensible one, a policy's path, takes a quarter
REPLY_MAX_BYTES = 1 << 16  # histograms of a dozen stages take a tenth
DISARMED = "DISARMED"  # the state in which nothing moves
SAFE = "SAFE"  # the state that only a reset ends

Target = Literal["camera", "bus", "policy", "host"]
Mode = Literal[
    "ok", "off", "stuck", "garbage", "wrong", "slow", "delayed", "intermittent", "moved"
]  # PX4's words, docs/en/debug/failure_injection.md; the last one is ours

_QUOTED_MAX_CHARACTERS = 200
_T = TypeVar("_T")


def _snake_case(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


class _Message(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag=_snake_case):
    id: Annotated[int, Meta(ge=0, le=2**53)] = 0  # the client's choice; a reply has that of its command


class Arm(_Message, frozen=True):
    """Lets the arm move. With `deadman`, only for as long as this client sends a line at least every 500 ms."""

    deadman: bool = False


class Grasp(_Message, frozen=True):
    """Grasps so many times."""

    count: Annotated[int, Meta(ge=1, le=1000)] = 1


class Hold(_Message, frozen=True):
    """Stops the arm where it is."""


class Park(_Message, frozen=True):
    """Ends what the arm does, and parks it."""


class Reset(_Message, frozen=True):
    """Clears latched faults, once a person has looked."""


class Status(_Message, frozen=True):
    """Asks how the process is."""


class Timing(_Message, frozen=True):
    """Asks for the histograms of the control loop."""


class Inject(_Message, frozen=True):
    """Makes a part of the robot fail on purpose, where the configuration allows it; mode `ok` ends that."""

    target: Target
    mode: Mode
    for_s: Annotated[float, Meta(ge=0.0, le=3600.0)] = 0.0  # 0: until `ok`
    value: Annotated[float, Meta(ge=-1e6, le=1e6)] = 0.0  # how much; each fault says of what


class SwapPolicy(_Message, frozen=True):
    """Goes on with another policy file, which is checked as at the start."""

    path: Annotated[str, Meta(max_length=1000, pattern=r"^/[^\x00-\x1f\x7f]*\Z")]  # absolute: the process has its own working directory


class Heartbeat(_Message, frozen=True):
    """Says that the client that armed is still there."""


class Done(_Message, frozen=True):
    """The command was carried out, or is being so."""

    text: str = ""


class Refused(_Message, frozen=True):
    """The command was not carried out: found, expected, remedy, in one sentence."""

    reason: str


class Accepted(_Message, frozen=True):
    """The command takes a while: a second reply comes when it has ended."""

    text: str = ""


class GraspResult(_Message, frozen=True):
    """What came of a `grasp`; fewer than asked for when something ended it, and then `reason` says what."""

    picked: int
    missed: int
    lost: int  # held, and then no longer
    reason: str = ""


class ControlCounts(Struct, frozen=True):
    """What the control socket has seen."""

    clients: int = 0  # now
    malformed: int = 0  # lines that were no command
    refused: int = 0  # clients that found no seat, or had to give theirs up
    dropped: int = 0  # clients that were closed: malformed lines, or replies that they did not read


class StatusReport(_Message, frozen=True):
    """How the process is. The control loop fills it in, except for the last two fields."""

    state: str
    phase: str = ""
    reason: str = ""  # of HOLD or SAFE
    latched: bool = False  # a person has to reset it
    since_s: float = 0.0  # in this state
    attempts: int = 0
    picked: int = 0
    missed: int = 0
    lost: int = 0
    ticks: int = 0
    skipped: int = 0  # deadlines missed by a whole period
    holds: int = 0  # ticks without a usable frame or action
    frame_age_s: float | None = None  # none has come yet
    bus: str = ""  # which one, and how it is
    policy: str = ""
    policy_sha256: str = ""
    policy_warning: str = ""  # why it is not the active one, if it is not
    realtime: tuple[str, ...] = ()  # what the kernel granted, and what it did not
    release: str = ""
    faults: dict[str, int] = {}  # injected ones, and how often each was really applied
    age_s: float = 0.0  # of this report: more than a few ticks, and the loop is stuck
    control: ControlCounts = ControlCounts()


class TimingReport(_Message, frozen=True):
    """Histograms of the control loop, by stage."""

    histograms: dict[str, Any]


Command = Arm | Grasp | Hold | Park | Reset | Status | Timing | Inject | SwapPolicy | Heartbeat
LoopReply = Done | Refused | Accepted | GraspResult
Reply = LoopReply | StatusReport | TimingReport

_commands: "msgspec.json.Decoder[Command]" = msgspec.json.Decoder(Command)
_replies: "msgspec.json.Decoder[Reply]" = msgspec.json.Decoder(Reply)


def decode_command(line: bytes | bytearray) -> Command:
    """The command in a line; raises `WireError` for everything else."""
    known = ", ".join(_snake_case(kind.__name__) for kind in get_args(Command))
    return _decode(_commands, line, f"a command ({known})")


def decode_reply(line: bytes | bytearray) -> Reply:
    """The reply in a line; raises `WireError` for everything else."""
    return _decode(_replies, line, "a reply of this release; update, or restart the service")


def encode(message: Command | Reply) -> bytes:
    """A message as a line; raises `WireError` when it is too long or holds what JSON cannot say."""
    try:
        line = msgspec.json.encode(message) + b"\n"
    except (TypeError, ValueError, RecursionError) as error:
        raise WireError(f"{type(message).__name__} cannot be said in JSON ({_printable(str(error))}), expected numbers and text") from None
    if len(line) > REPLY_MAX_BYTES:
        raise WireError(f"{type(message).__name__} has {len(line)} bytes, expected at most {REPLY_MAX_BYTES}")
    return line


def _decode(decoder: "msgspec.json.Decoder[_T]", line: bytes | bytearray, expected: str) -> _T:
    try:
        return decoder.decode(line)
    except (ValueError, RecursionError) as error:  # ValueError: msgspec's own errors, and invalid UTF-8
        raise WireError(f"line of {len(line)} bytes ({_printable(str(error))}), expected {expected}") from None


def _printable(text: str) -> str:
    """Bounded, and without control characters for the log: the text may quote the sender."""
    return text[:_QUOTED_MAX_CHARACTERS].encode("unicode_escape").decode()
