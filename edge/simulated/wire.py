"""The simulator wire: length-prefixed msgpack messages over TCP, each checked where it enters.

A message is its length (4 bytes, big-endian), then a msgpack map of its fields and its `type`. The client says `Hello`
and gets `Welcome`; then pulses and `Advance` go one way, depth frames and `Advanced` the other. `Refused` comes
before the server hangs up. A message checks itself when it is made, by us or by a decoder, and raises `WireError`.
"""

import math
import socket
import time
from functools import cache
from types import UnionType
from typing import Any, Literal, get_args

import msgspec
import numpy as np
from msgspec import Struct

from edge.errors import WireError
from edge.messages import Float32, Grey, Intrinsics
from edge.robot import JOINT_NAMES

PROTOCOL = 3
MESSAGE_MAX_BYTES = 1 << 20  # a 640×400 frame; ours, 64×64, takes 16 KiB
ADVANCE_MAX_S = 10.0  # simulated time in one `Advance`, so that a wrong number cannot keep the simulator busy for ever
TIME_MAX_S = 1e9  # 30 years: a clock beyond it is a mistake
IMAGE_SIDE_MAX = 2048
PULSE_MIN_US, PULSE_MAX_US = 300.0, 2700.0  # wider than any hobby servo: pulses of 500 to 2500 µs are usual
REASON_MAX_CHARACTERS = 500

_HEADER_BYTES = 4

ClockName = Literal["real", "virtual"]
RoleName = Literal["arm", "camera"]
PulsesUs = tuple[float, float, float, float, float, float]
UNKNOWN_US: PulsesUs = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


class _Message(Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag=True):
    pass


class Hello(_Message, frozen=True):
    """Opens a session; simulated time is 0 from here. On the `virtual` clock it passes only in `Advance`.

    A `camera` joins the session that an `arm` has opened on the real clock: frames come, and nothing goes. From the first `image` on
    that either asks for, frames have their grey image.
    """

    protocol: int
    clock: ClockName
    role: RoleName = "arm"
    image: bool = False


class Pulses(_Message, frozen=True):
    """Servo pulses in microseconds, in joint order; 0 = channel off."""

    pulses_us: PulsesUs

    def __post_init__(self) -> None:
        _check_pulses("pulses_us", self.pulses_us, "off")


class Advance(_Message, frozen=True):
    """Lets simulated time run to `until_s`."""

    until_s: float

    def __post_init__(self) -> None:
        _within("until_s", self.until_s, 0.0, TIME_MAX_S)


class Welcome(_Message, frozen=True):
    """Accepts a session."""

    protocol: int
    now_s: float

    def __post_init__(self) -> None:
        _within("now_s", self.now_s, 0.0, TIME_MAX_S)


class DepthFrame(_Message, frozen=True):
    """One depth image; `age_s` is how long before this message (on the virtual clock: before `Advanced`) it was taken."""

    sequence: int
    age_s: float
    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    depth_m: bytes  # (height, width) little-endian float32 metres, 0 = invalid
    servos_us: PulsesUs  # the pulse that would hold each servo where it is, 0 = unknown; as old as the image
    image: bytes = b""  # (height, width) grey, as the same imager sees it; empty: nobody asked for it

    def __post_init__(self) -> None:
        _within("sequence", self.sequence, 0, 2**53)
        _within("age_s", self.age_s, 0.0, 60.0)
        _within("width", self.width, 1, IMAGE_SIDE_MAX)
        _within("height", self.height, 1, IMAGE_SIDE_MAX)
        # Far wider than any lens on an image of this size.
        _within("fx", self.fx, 1.0, 1e5)
        _within("fy", self.fy, 1.0, 1e5)
        _within("cx", self.cx, -1e5, 1e5)
        _within("cy", self.cy, -1e5, 1e5)
        _check_pulses("servos_us", self.servos_us, "unknown")
        expected_bytes = 4 * self.width * self.height
        if len(self.depth_m) != expected_bytes:
            raise WireError(f"depth_m has {len(self.depth_m)} bytes, expected {expected_bytes} for {self.width}×{self.height} float32")
        if len(self.image) not in (0, self.width * self.height):
            pixels = f"{self.width * self.height} for {self.width}×{self.height}"
            raise WireError(f"image has {len(self.image)} bytes, expected {pixels}, or none")
        depth_m = self.depth()
        _within("the least depth_m", float(depth_m.min()), 0.0, math.inf)  # NaN if there is one
        _within("the greatest depth_m", float(depth_m.max()), 0.0, float(np.finfo(np.float32).max))

    @classmethod
    def of(
        cls,
        depth_m: Float32,
        intrinsics: Intrinsics,
        sequence: int,
        age_s: float,
        servos_us: PulsesUs = UNKNOWN_US,
        image: Grey | None = None,
    ) -> "DepthFrame":
        """The message for a (height, width) depth image in metres; raises `WireError` where image and intrinsics differ in size."""
        if depth_m.shape != (intrinsics.height, intrinsics.width):
            raise WireError(f"depth image has shape {depth_m.shape}, expected {(intrinsics.height, intrinsics.width)}")
        return cls(sequence, age_s, *intrinsics, depth_m.astype("<f4").tobytes(), servos_us, b"" if image is None else image.tobytes())

    def depth(self) -> Float32:
        """The depth image, (height, width) float32 metres, read-only."""
        depth_m: Float32 = np.frombuffer(self.depth_m, "<f4").reshape(self.height, self.width).astype(np.float32, copy=False)
        return depth_m

    def grey(self) -> Grey | None:
        """The grey image, (height, width) uint8, read-only; None: there is none."""
        return np.frombuffer(self.image, np.uint8).reshape(self.height, self.width) if self.image else None

    @property
    def intrinsics(self) -> Intrinsics:
        """The camera that took the image."""
        return Intrinsics(self.width, self.height, self.fx, self.fy, self.cx, self.cy)


class Advanced(_Message, frozen=True):
    """Simulated time has reached `now_s`; every frame due until then was sent before."""

    now_s: float

    def __post_init__(self) -> None:
        _within("now_s", self.now_s, 0.0, TIME_MAX_S)


class Refused(_Message, frozen=True):
    """Why the server is about to hang up, in one sentence."""

    reason: str

    def __post_init__(self) -> None:
        if len(self.reason) > REASON_MAX_CHARACTERS:
            raise WireError(f"reason has {len(self.reason)} characters, expected at most {REASON_MAX_CHARACTERS}")


ClientMessage = Hello | Pulses | Advance
ServerMessage = Welcome | DepthFrame | Advanced | Refused
Message = ClientMessage | ServerMessage


def encode(message: Message) -> bytes:
    """The msgpack body of a message; raises `WireError` when it is too large."""
    body = msgspec.msgpack.encode(message)
    if len(body) > MESSAGE_MAX_BYTES:
        raise WireError(f"{type(message).__name__} has {len(body)} bytes, expected at most {MESSAGE_MAX_BYTES}; send a smaller image")
    return body


def decode(body: bytes | bytearray, expected: type[Message] | UnionType) -> Message:
    """The one message in `body`, of the expected type or union; raises `WireError` for everything else."""
    try:
        message: Message = _decoder(expected).decode(body)
    except (ValueError, RecursionError) as error:  # ValueError: msgspec's own errors, and invalid UTF-8
        # The error may quote the sender: bounded, and without control characters for the log.
        quoted = str(error)[:200].encode("unicode_escape").decode()
        names = " or ".join(kind.__name__ for kind in get_args(expected) or (expected,))
        raise WireError(f"message of {len(body)} bytes does not fit its schema ({quoted}), expected {names}") from None
    return message


def send(sock: socket.socket, message: Message) -> None:
    """Send one message whole within the socket's timeout; after an `OSError` the connection is of no more use."""
    body = encode(message)
    sock.sendall(len(body).to_bytes(_HEADER_BYTES, "big") + body)


def receive(sock: socket.socket, expected: type[Message] | UnionType) -> Message | None:
    """The next message; None when the peer has closed.

    Raises `TimeoutError` when nothing comes within the socket's timeout, and may then be called again. Raises
    `WireError` for a malformed message, and for one that is not whole within twice the timeout: bytes that trickle
    in must not hold the reader. Raises `OSError` when the connection is lost.
    """
    header = sock.recv(_HEADER_BYTES)
    if not header:
        return None
    timeout_s = sock.gettimeout()
    deadline_s = math.inf if timeout_s is None else time.monotonic() + timeout_s
    header += _read(sock, _HEADER_BYTES - len(header), deadline_s)
    length = int.from_bytes(header, "big")
    if not 0 < length <= MESSAGE_MAX_BYTES:
        raise WireError(f"message claims {length} bytes, expected 1…{MESSAGE_MAX_BYTES}")
    return decode(_read(sock, length, deadline_s), expected)


def _read(sock: socket.socket, count: int, deadline_s: float) -> bytes:
    data = bytearray()
    while len(data) < count:
        try:
            chunk = sock.recv(count - len(data)) if time.monotonic() < deadline_s else None
        except TimeoutError:
            chunk = None
        if chunk is None:
            raise WireError(f"message stalled after {len(data)} of {count} bytes, expected it whole")
        if not chunk:
            raise WireError(f"connection closed after {len(data)} of {count} bytes of a message")
        data += chunk
    return bytes(data)


@cache
def _decoder(expected: Any) -> "msgspec.msgpack.Decoder[Any]":
    return msgspec.msgpack.Decoder(expected)


def _check_pulses(name: str, pulses_us: PulsesUs, zero_means: str) -> None:
    if len(pulses_us) != len(JOINT_NAMES):
        raise WireError(f"{name} has {len(pulses_us)} entries, expected {len(JOINT_NAMES)}")
    for index, pulse_us in enumerate(pulses_us):
        if pulse_us != 0.0:
            _within(f"{name}[{index}]", pulse_us, PULSE_MIN_US, PULSE_MAX_US, f", or 0 for {zero_means}")


def _within(name: str, value: float, low: float, high: float, otherwise: str = "") -> None:
    if not low <= value <= high:  # written so that NaN fails
        raise WireError(f"{name} is {value}, expected {low}…{high}{otherwise}")
