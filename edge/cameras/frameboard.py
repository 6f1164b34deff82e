"""The latest depth frame in memory that two processes share: one writes, the other never waits and never reads a torn frame.

Two slots in turn, each with a checksum over all that it holds: that is a proof on every CPU, where a sequence lock
needs memory barriers, which Python does not offer and a Raspberry Pi does not do without.
The memory has no name: it is gone with the last process that uses it, however that ended.
"""

import mmap
import os
import struct
import tempfile
import zlib

import numpy as np

from edge.errors import ObservationError
from edge.messages import Frame, Intrinsics, Marker

PIXELS_MAX = 1280 * 800  # of the largest depth image of a RealSense
FRAME_MAX_BYTES = 4 * PIXELS_MAX
MARKERS_MAX = 32
TEXT_MAX_BYTES = 500
READ_ATTEMPTS = 3  # each new frame can tear a reading; three in a row within a millisecond do not happen

_HEAD = struct.Struct("<QQQ")  # connection, frames published on it, how many of those were news
# connection, frame, number, captured_at_s, bytes of depth and of the grey image (0: none), how many markers (-1: nobody looked),
# width, height, fx, fy, cx, cy, checksum
_SLOT = struct.Struct("<QQqdQQqIIddddI")
_MARKER = np.dtype([("id", "<i8"), ("rays", "<f8", (4, 2))])
_TEXT = struct.Struct(f"<H{TEXT_MAX_BYTES}s")
_WHY_AT, _SERIAL_AT, _SLOTS_AT = 64, 1024, 4096
_SLOT_BYTES = 4096 + FRAME_MAX_BYTES + PIXELS_MAX + MARKERS_MAX * _MARKER.itemsize


class FrameBoard:
    """The shared memory, in the process that made it (`FrameBoard()`) and in the one that was given its `fd`."""

    def __init__(self, fd: int | None = None) -> None:
        if fd is None:
            fd = _unnamed_file()
            os.ftruncate(fd, _SLOTS_AT + 2 * _SLOT_BYTES)
        self.fd = fd
        self._memory = mmap.mmap(fd, _SLOTS_AT + 2 * _SLOT_BYTES)
        self._read: tuple[int, int] = (0, 0)
        self._frame: Frame | None = None

    def begin(self, connection: int) -> None:
        """Forget what the last writer wrote; the next one is to say `connection`."""
        _TEXT.pack_into(self._memory, _WHY_AT, 0, b"")
        _TEXT.pack_into(self._memory, _SERIAL_AT, 0, b"")
        _HEAD.pack_into(self._memory, 0, connection, 0, 0)

    def counts(self) -> tuple[int, int]:
        """How many frames were published since `begin`, and how many of them were news."""
        _, published, news = _HEAD.unpack_from(self._memory, 0)
        return published, news

    def publish(self, frame: Frame, connection: int, is_news: bool) -> None:
        """Write a frame; raises `ObservationError` for one that is not what its lens says, or is too large."""
        shape = (frame.intrinsics.height, frame.intrinsics.width)
        if frame.depth_m.dtype != np.float32 or frame.depth_m.shape != shape or frame.depth_m.nbytes > FRAME_MAX_BYTES:
            found = f"the depth frame is {frame.depth_m.dtype} {frame.depth_m.shape}"
            raise ObservationError(f"{found}, expected float32 {shape} of at most {FRAME_MAX_BYTES} bytes; choose another profile")
        image = b""
        if frame.image is not None:
            if frame.image.dtype != np.uint8 or frame.image.shape != shape:
                raise ObservationError(f"the grey image is {frame.image.dtype} {frame.image.shape}, expected uint8 {shape}; restart")
            image = frame.image.tobytes()
        depth = frame.depth_m.tobytes()
        markers = (frame.markers or ())[:MARKERS_MAX]
        data = depth + image + np.array(list(markers), _MARKER).tobytes()
        looked_for = -1 if frame.markers is None else len(markers)
        _, published, news = _HEAD.unpack_from(self._memory, 0)
        published += 1
        fields = (connection, published, frame.sequence, frame.captured_at_s, len(depth), len(image), looked_for, *frame.intrinsics)
        checksum = zlib.crc32(data, zlib.crc32(_SLOT.pack(*fields, 0)))
        at = _SLOTS_AT + published % 2 * _SLOT_BYTES
        _SLOT.pack_into(self._memory, at, *fields, checksum)
        self._memory[at + _SLOT.size : at + _SLOT.size + len(data)] = data
        _HEAD.pack_into(self._memory, 0, connection, published, news + is_news)

    def latest(self) -> Frame | None:
        """The newest whole frame since the board was made, without waiting; its number tells connections apart, see `numbered`."""
        for _ in range(READ_ATTEMPTS):
            connection, published, _ = _HEAD.unpack_from(self._memory, 0)
            if not published or (connection, published) == self._read:
                break
            frame = self._slot(connection, published)
            if frame is not None:
                self._read, self._frame = (connection, published), frame
                break
        return self._frame

    def _slot(self, connection: int, published: int) -> Frame | None:
        """A slot's frame, None when it is torn or is not the one meant."""
        at = _SLOTS_AT + published % 2 * _SLOT_BYTES
        *fields, checksum = _SLOT.unpack_from(self._memory, at)
        number, captured_at_s, depth_bytes, image_bytes, looked_for, *intrinsics = fields[2:]
        lens = Intrinsics(*intrinsics)
        pixels = lens.width * lens.height
        if fields[:2] != [connection, published] or pixels > PIXELS_MAX or depth_bytes != 4 * pixels:
            return None
        if image_bytes not in (0, pixels) or not -1 <= looked_for <= MARKERS_MAX:
            return None
        markers_at = depth_bytes + image_bytes
        data = self._memory[at + _SLOT.size : at + _SLOT.size + markers_at + max(looked_for, 0) * _MARKER.itemsize]
        if zlib.crc32(data, zlib.crc32(_SLOT.pack(*fields, 0))) != checksum:
            return None
        depth_m = np.frombuffer(data, np.float32, pixels).reshape(lens.height, lens.width)
        image = np.frombuffer(data, np.uint8, pixels, depth_bytes).reshape(lens.height, lens.width) if image_bytes else None
        markers = None if looked_for < 0 else tuple(Marker(int(i), rays) for i, rays in np.frombuffer(data, _MARKER, offset=markers_at))
        return Frame(depth_m, lens, captured_at_s, numbered(connection, number), image, markers)

    @property
    def why(self) -> str:
        """What the writer said before it ended; empty: nothing."""
        return _text(self._memory, _WHY_AT)

    @why.setter
    def why(self, text: str) -> None:
        _put_text(self._memory, _WHY_AT, text)

    @property
    def serial(self) -> str:
        """The camera's serial number; empty where it has none."""
        return _text(self._memory, _SERIAL_AT)

    @serial.setter
    def serial(self, text: str) -> None:
        _put_text(self._memory, _SERIAL_AT, text)

    def close(self) -> None:
        """Give the memory back. Idempotent; frames that were read stay valid."""
        if not self._memory.closed:
            self._memory.close()
            os.close(self.fd)


def numbered(connection: int, number: int) -> int:
    """A frame number that no other connection has: `edge.cameras.judge` takes such a leap for a reconnect."""
    return (connection << 32) + number % (1 << 31)


def _text(memory: mmap.mmap, at: int) -> str:
    length, data = _TEXT.unpack_from(memory, at)
    return str(data[: min(length, TEXT_MAX_BYTES)].decode("utf-8", "replace"))


def _put_text(memory: mmap.mmap, at: int, text: str) -> None:
    data = text.encode("utf-8", "replace")[:TEXT_MAX_BYTES]
    _TEXT.pack_into(memory, at, len(data), data)


def _unnamed_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("dofbot depth frames", os.MFD_CLOEXEC)
    with tempfile.TemporaryFile() as file:  # macOS has no memfd
        return os.dup(file.fileno())
