"""Every message survives the wire, and nothing else does."""

import math
import socket
import threading
from collections.abc import Iterator

import msgspec
import numpy as np
import pytest

from edge.errors import WireError
from edge.messages import Intrinsics
from edge.simulated import wire

INTRINSICS = Intrinsics(4, 3, 60.0, 61.0, 1.5, 1.0)
IMAGE_M = np.linspace(0.0, 0.5, 12, dtype=np.float32).reshape(3, 4)
PULSES_US = (500.0, 1500.25, 0.0, 2500.0, 300.0, 2700.0)
FRAME = wire.DepthFrame.of(IMAGE_M, INTRINSICS, sequence=7, age_s=0.012, servos_us=PULSES_US)
FROM_CLIENT = [
    wire.Hello(1, "real"),
    wire.Hello(1, "virtual"),
    wire.Hello(1, "real", "camera"),
    wire.Pulses(PULSES_US),
    wire.Advance(0.0),
    wire.Advance(12.34),
]
FROM_SERVER = [wire.Welcome(1, 0.0), FRAME, wire.Advanced(12.34), wire.Refused("no: größer")]
CASES = [(m, wire.ClientMessage) for m in FROM_CLIENT] + [(m, wire.ServerMessage) for m in FROM_SERVER]


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.settimeout(1.0)
    with ours, theirs:
        yield ours, theirs


def body_of(message: wire.Message, **changed: object) -> bytes:
    """A well-formed msgpack map with fields replaced, or removed where the value is `...`."""
    fields = msgspec.msgpack.decode(wire.encode(message)) | changed
    return msgspec.msgpack.encode({name: value for name, value in fields.items() if value is not ...})


@pytest.mark.parametrize(("message", "union"), CASES)
def test_a_message_comes_out_as_it_went_in(message, union, pair) -> None:
    ours, theirs = pair
    wire.send(theirs, message)
    wire.send(theirs, message)
    assert wire.receive(ours, union) == message
    assert wire.receive(ours, type(message)) == message
    theirs.close()
    assert wire.receive(ours, union) is None


def test_an_image_comes_out_as_it_went_in() -> None:
    frame = wire.decode(wire.encode(FRAME), wire.DepthFrame)
    assert frame.intrinsics == INTRINSICS
    assert frame.depth().dtype == np.float32
    np.testing.assert_array_equal(frame.depth(), IMAGE_M)
    assert frame.servos_us == PULSES_US
    assert wire.DepthFrame.of(IMAGE_M, INTRINSICS, 0, 0.0).servos_us == (0.0,) * 6
    assert not frame.depth().flags.writeable


def test_a_grey_image_goes_with_the_depth_and_must_fit_it() -> None:
    grey = np.arange(INTRINSICS.height * INTRINSICS.width, dtype=np.uint8).reshape(INTRINSICS.height, INTRINSICS.width)
    frame = wire.DepthFrame.of(IMAGE_M, INTRINSICS, 0, 0.0, image=grey)
    found = wire.decode(wire.encode(frame), wire.DepthFrame)
    np.testing.assert_array_equal(found.grey(), grey)
    np.testing.assert_array_equal(found.depth(), IMAGE_M)
    assert FRAME.grey() is None
    with pytest.raises(WireError, match=rf"image has 3 bytes, expected {grey.size} for .*, or none"):
        wire.decode(body_of(frame, image=b"abc"), wire.DepthFrame)


def test_the_length_is_four_bytes_big_endian(pair) -> None:
    ours, theirs = pair
    wire.send(theirs, wire.Advance(1.0))
    raw = ours.recv(1000)
    assert raw[:4] == bytes((0, 0, 0, len(raw) - 4))


def corruptions(seed: int, count: int) -> Iterator[bytes]:
    rng = np.random.default_rng(seed)
    bodies = [wire.encode(message) for message, _ in CASES]
    for index in range(count):
        body = bytearray(bodies[int(rng.integers(len(bodies)))])
        if index % 3 == 0:
            yield rng.bytes(int(rng.integers(0, 200)))
        elif index % 3 == 1:
            yield bytes(body[: rng.integers(len(body))])
        else:
            for bit in rng.integers(0, 8 * len(body), int(rng.integers(1, 4))):
                body[bit // 8] ^= 1 << bit % 8
            yield bytes(body)


def test_damaged_bytes_give_a_wire_error_or_a_message_that_keeps_the_rules() -> None:
    refused = 0
    for body in corruptions(seed=1, count=10_000):
        for union in (wire.ClientMessage, wire.ServerMessage):
            try:
                message = wire.decode(body, union)
            except WireError:
                refused += 1
                continue
            # A flipped bit can make another valid message; it must pass the checks of a new one.
            assert wire.decode(wire.encode(message), union) == message
            numbers = [value for value in msgspec.structs.astuple(message) if isinstance(value, int | float)]
            assert all(math.isfinite(number) for number in numbers)
    assert refused > 15_000


def test_every_truncation_of_every_message_is_refused() -> None:
    for message, union in CASES:
        body = wire.encode(message)
        for length in range(len(body)):
            with pytest.raises(WireError):
                wire.decode(body[:length], union)
        with pytest.raises(WireError):
            wire.decode(body + b"\x00", union)


WRONG = [
    (wire.Hello(1, "real"), {"clock": "wall"}),
    (wire.Hello(1, "real"), {"protocol": "1"}),
    (wire.Hello(1, "real"), {"protocol": 1.5}),
    (wire.Hello(1, "real"), {"extra": 1}),
    (wire.Hello(1, "real"), {"clock": ...}),
    (wire.Hello(1, "real"), {"type": "Goodbye"}),
    (wire.Hello(1, "real"), {"type": ...}),
    (wire.Advance(1.0), {"until_s": True}),
    (wire.Advance(1.0), {"until_s": None}),
    (wire.Advance(1.0), {"until_s": -0.001}),
    (wire.Advance(1.0), {"until_s": math.nan}),
    (wire.Advance(1.0), {"until_s": math.inf}),
    (wire.Advance(1.0), {"until_s": 1.1e9}),
    (wire.Pulses(PULSES_US), {"pulses_us": PULSES_US[:5]}),
    (wire.Pulses(PULSES_US), {"pulses_us": (*PULSES_US, 0.0)}),
    (wire.Pulses(PULSES_US), {"pulses_us": "123456"}),
    *(
        (wire.Pulses(PULSES_US), {"pulses_us": (*PULSES_US[:5], bad)})
        for bad in (math.nan, math.inf, -math.inf, -1.0, 1.0, 299.9, 2700.1, "9")
    ),
    (wire.Welcome(1, 0.0), {"now_s": math.nan}),
    (wire.Advanced(1.0), {"now_s": -1.0}),
    (wire.Refused("x"), {"reason": "x" * 501}),
    (wire.Refused("x"), {"reason": b"x"}),
    (FRAME, {"servos_us": ...}),
    (FRAME, {"servos_us": PULSES_US[:5]}),
    *((FRAME, {"servos_us": (bad, *PULSES_US[1:])}) for bad in (math.nan, math.inf, -1.0, 299.9, 2700.1)),
    (FRAME, {"sequence": -1}),
    (FRAME, {"age_s": math.nan}),
    (FRAME, {"age_s": -0.1}),
    (FRAME, {"width": 3}),
    (FRAME, {"width": 0, "height": 0, "depth_m": b""}),
    (FRAME, {"width": -4, "height": -3}),
    (FRAME, {"width": 2049, "height": 1, "depth_m": bytes(4 * 2049)}),
    (FRAME, {"fx": 0.0}),
    (FRAME, {"fy": math.inf}),
    (FRAME, {"cx": math.nan}),
    (FRAME, {"depth_m": FRAME.depth_m[:-1]}),
    (FRAME, {"depth_m": "text"}),
    *((FRAME, {"depth_m": np.full(12, bad, "<f4").tobytes()}) for bad in (math.nan, math.inf, -math.inf, -0.1)),
    (FRAME, {"depth_m": FRAME.depth_m[:-4] + np.float32(math.nan).tobytes()}),
]


@pytest.mark.parametrize(("message", "changed"), WRONG)
def test_a_wrong_field_is_refused_on_entry(message, changed) -> None:
    union = wire.ClientMessage if isinstance(message, wire.ClientMessage) else wire.ServerMessage
    assert wire.decode(body_of(message), union) == message
    with pytest.raises(WireError):
        wire.decode(body_of(message, **changed), union)


def test_an_error_says_what_was_found_and_what_was_expected() -> None:
    with pytest.raises(WireError, match=r"pulses_us\[2\] is 299.0, expected 300.0…2700.0, or 0 for off"):
        wire.Pulses((0.0, 0.0, 299.0, 0.0, 0.0, 0.0))
    with pytest.raises(WireError, match=r"servos_us\[0\] is 299.0, expected 300.0…2700.0, or 0 for unknown"):
        wire.DepthFrame.of(IMAGE_M, INTRINSICS, 0, 0.0, (299.0, *PULSES_US[1:]))
    with pytest.raises(WireError, match="depth_m has 44 bytes, expected 48 for 4×3 float32"):
        wire.decode(body_of(FRAME, depth_m=bytes(44)), wire.DepthFrame)
    with pytest.raises(WireError, match=r"shape \(4, 3\), expected \(3, 4\)"):
        wire.DepthFrame.of(IMAGE_M.T, INTRINSICS, 0, 0.0)


def test_an_error_that_quotes_the_sender_is_short_and_printable() -> None:
    with pytest.raises(WireError) as caught:
        wire.decode(body_of(wire.Advance(1.0), **{"\x1b[2J" * 1000: 1}), wire.ClientMessage)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000


def test_deep_nesting_is_refused() -> None:
    with pytest.raises(WireError):
        wire.decode(b"\x81\xa1q" + b"\x91" * 500_000 + b"\x00", wire.ClientMessage)


@pytest.mark.parametrize("length", [0, wire.MESSAGE_MAX_BYTES + 1, 2**32 - 1])
def test_an_impossible_length_is_refused_before_its_bytes_come(length, pair) -> None:
    ours, theirs = pair
    theirs.sendall(length.to_bytes(4, "big"))
    with pytest.raises(WireError, match=f"claims {length} bytes, expected 1…{wire.MESSAGE_MAX_BYTES}"):
        wire.receive(ours, wire.ClientMessage)


def test_a_message_at_the_size_limit_passes_and_one_above_is_not_sent(pair) -> None:
    ours, theirs = pair

    def frame(height: int) -> wire.DepthFrame:
        return wire.DepthFrame.of(np.zeros((height, 1024), np.float32), Intrinsics(1024, height, 1e3, 1e3, 0.0, 0.0), 0, 0.0)

    sender = threading.Thread(target=wire.send, args=(theirs, frame(255)))
    sender.start()
    assert wire.receive(ours, wire.ServerMessage) == frame(255)
    sender.join()
    with pytest.raises(WireError, match="expected at most 1048576; send a smaller image"):
        wire.send(theirs, frame(256))
    ours.settimeout(0.01)
    with pytest.raises(TimeoutError):
        wire.receive(ours, wire.ServerMessage)


def test_silence_is_a_timeout_and_costs_nothing(pair) -> None:
    ours, theirs = pair
    ours.settimeout(0.01)
    with pytest.raises(TimeoutError):
        wire.receive(ours, wire.ClientMessage)
    wire.send(theirs, wire.Advance(1.0))
    assert wire.receive(ours, wire.ClientMessage) == wire.Advance(1.0)


@pytest.mark.parametrize("sent", [b"\x00", b"\x00\x00\x00\x08", b"\x00\x00\x00\x08abc"])
def test_half_a_message_is_refused_when_it_stalls_and_when_it_ends(sent, pair) -> None:
    ours, theirs = pair
    theirs.sendall(sent)
    ours.settimeout(0.02)
    with pytest.raises(WireError, match="stalled"):
        wire.receive(ours, wire.ClientMessage)
    theirs.sendall(sent)
    theirs.close()
    with pytest.raises(WireError, match="closed after"):
        wire.receive(ours, wire.ClientMessage)


def test_a_trickle_does_not_hold_the_reader(pair) -> None:
    ours, theirs = pair
    ours.settimeout(0.05)
    stop = threading.Event()

    def trickle() -> None:
        theirs.sendall(b"\x00\x00\x10\x00")
        while not stop.wait(0.01):
            theirs.sendall(b"x")

    sender = threading.Thread(target=trickle)
    sender.start()
    with pytest.raises(WireError, match="stalled"):
        wire.receive(ours, wire.ClientMessage)
    stop.set()
    sender.join()
