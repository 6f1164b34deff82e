"""A line is a command within its ranges, or a sentence about what is wrong with it; every message survives the line."""

import json

import msgspec
import numpy as np
import pytest

from edge.errors import WireError
from edge.remote import commands
from edge.remote.commands import decode_command, decode_reply, encode

COMMANDS = [
    commands.Arm(),
    commands.Arm(deadman=True, id=2**53),
    commands.Grasp(),
    commands.Grasp(count=1000),
    commands.Hold(),
    commands.Park(id=1),
    commands.Reset(),
    commands.Status(),
    commands.Timing(),
    commands.Inject(target="camera", mode="stuck", for_s=3600.0, value=-1e6),
    commands.SwapPolicy(path="/var/lib/dofbot/größer 2.onnx"),
    commands.Heartbeat(),
]
REPLIES = [
    commands.Done(text="parked"),
    commands.Refused(reason="no: größer", id=3),
    commands.Accepted(),
    commands.GraspResult(picked=1, missed=2, lost=0, reason="held"),
    commands.StatusReport(state="HOLD", realtime=("FIFO 50",), control=commands.ControlCounts(clients=2)),
    commands.TimingReport(histograms={"lateness": {"p99": 0.1, "counts": [1, 2]}}),
]


@pytest.mark.parametrize(("message", "decode"), [(c, decode_command) for c in COMMANDS] + [(r, decode_reply) for r in REPLIES])
def test_a_message_comes_out_as_it_went_in(message, decode) -> None:
    line = encode(message)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert decode(line) == message
    assert decode(line.replace(b"\n", b"\r\n")) == message


def test_a_command_fits_its_line_and_can_be_typed_by_hand() -> None:
    assert all(len(encode(command)) <= commands.LINE_MAX_BYTES for command in COMMANDS)
    assert decode_command(b'{"type":"grasp","count":3}') == commands.Grasp(count=3)
    assert decode_command(b' {"type": "swap_policy", "path": "/a.onnx"} ') == commands.SwapPolicy(path="/a.onnx")


@pytest.mark.parametrize(
    ("line", "named"),
    [
        (b'{"type":"grasp","count":0}', "count"),
        (b'{"type":"grasp","count":1001}', "count"),
        (b'{"type":"grasp","count":1.5}', "count"),
        (b'{"type":"grasp","count":true}', "count"),
        (b'{"type":"hold","id":-1}', "id"),
        (b'{"type":"hold","id":9007199254740993}', "id"),
        (b'{"type":"arm","deadman":1}', "deadman"),
        (b'{"type":"arm","dead_man":true}', "dead_man"),
        (b'{"type":"inject","target":"moon","mode":"off"}', "target"),
        (b'{"type":"inject","target":"bus","mode":"on"}', "mode"),
        (b'{"type":"inject","target":"bus"}', "mode"),
        (b'{"type":"inject","target":"bus","mode":"off","for_s":-0.001}', "for_s"),
        (b'{"type":"inject","target":"bus","mode":"off","for_s":3600.001}', "for_s"),
        (b'{"type":"inject","target":"bus","mode":"off","for_s":1e999}', "for_s"),
        (b'{"type":"inject","target":"bus","mode":"off","value":1000001}', "value"),
        (b'{"type":"inject","target":"bus","mode":"off","value":NaN}', "malformed"),
        (b'{"type":"swap_policy","path":"a.onnx"}', "path"),
        (b'{"type":"swap_policy","path":"/a\\u0000.onnx"}', "path"),
        (b'{"type":"swap_policy","path":"/a.onnx\\n"}', "path"),
        (b'{"type":"swap_policy","path":"/' + 1000 * b"a" + b'"}', "path"),
        (b'{"type":"done"}', "type"),
        (b'{"type":"arm"} {"type":"arm"}', "trailing"),
        (b"{}", "type"),
        (b"", "0 bytes"),
        (b"null", "object"),
        (b"\xff\xfe", "malformed"),
        (b'{"type":"\xff"}', "utf-8"),
        (4000 * b"[", "expected a command"),
        (b'{"type":"hold","id":' + 4000 * b"[", "id"),
    ],
)
def test_what_is_no_command_is_one_printable_sentence(line, named) -> None:
    with pytest.raises(WireError) as caught:
        decode_command(line)
    assert named in str(caught.value)
    assert "expected a command (arm, grasp, hold, park, reset, status, timing, inject, swap_policy, heartbeat)" in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500


def test_what_the_sender_wrote_is_quoted_without_its_control_characters() -> None:
    with pytest.raises(WireError) as caught:
        decode_command(json.dumps({"type": "hold", "\x1b[2J\n" + 1000 * "a": 1}).encode())
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("value", [np.float32(1.0), {1.0, object()}])
def test_what_json_cannot_say_is_an_error_of_ours(value) -> None:
    with pytest.raises(WireError, match="TimingReport cannot be said in JSON"):
        encode(commands.TimingReport(histograms={"lateness": value}))


def test_a_message_has_a_largest_size() -> None:
    with pytest.raises(WireError, match=f"expected at most {commands.REPLY_MAX_BYTES}"):
        encode(commands.Refused(reason=commands.REPLY_MAX_BYTES * "a"))


def test_messages_are_frozen() -> None:
    with pytest.raises(AttributeError):
        commands.Grasp().count = 2  # type: ignore[misc]
    assert msgspec.structs.replace(commands.Grasp(), id=3).id == 3
