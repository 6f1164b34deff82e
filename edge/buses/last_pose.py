"""Where servos without read-back were last sent, kept past the end of the process: the first pulse of the next run must not be a leap.

After an orderly end that is the park pose. After a kill it is where the arm was let go; the gears of its servos keep it about there.
Whoever moves the arm of an installed service, a tool of a user as well, keeps it in the service's folder, whose group may write there.
The file lies in memory (tmpfs), so that no SD card can hold up a tick, and a machine that was restarted starts parked.
"""

import contextlib
import logging
import os
import struct
import zlib
from pathlib import Path

from edge.buses.servos import ServoBus, servo_angles_deg
from edge.config import ServoConfig
from edge.errors import BusError
from edge.files import SERVICE_RUNTIME
from edge.messages import JointCommand
from edge.robot import PARK_RAD

NEAR_PARK_RAD = 0.05  # 3°: nothing to tell a person of

_FORMAT = "<4s6dI"  # magic, set points, checksum
_MAGIC = b"DOF1"
_log = logging.getLogger(__name__)


def path() -> Path | None:
    """Where the file is: in the service's folder, without a service in the user's; None: this machine has no such place.

    Raises `BusError` for a user who may not write into the service's.
    """
    service = Path(os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0] or SERVICE_RUNTIME)
    if service.is_absolute() and service.is_dir():
        if not os.access(service, os.W_OK):
            raise BusError(
                f"{service} cannot be written by this user, expected a member of its group: the service has to know where an arm "
                "without read-back was sent; sudo usermod -aG dofbot $USER, log in again"
            )
        return service / "last_pose"
    user = Path(os.environ.get("XDG_RUNTIME_DIR", ""))
    return user / "dofbot-grasp.last_pose" if user.is_absolute() and user.is_dir() else None


class RememberingBus:
    """A bus around another one that has no read-back: until the first `write` the arm is `measured` where the last run sent it."""

    def __init__(self, bus: ServoBus, servos: tuple[ServoConfig, ...], path: Path) -> None:
        self._bus = bus
        self._path = path
        self._file: int | None = None
        self._last: JointCommand | None = None
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            with contextlib.suppress(PermissionError):  # another's, who has done it
                os.fchmod(self._file, 0o660)  # whatever the umask is: the next one may be the service, or a member of its group
            self._last = _decode(os.pread(self._file, struct.calcsize(_FORMAT), 0), servos)
        except OSError as error:
            self._forget(error)
        if self._last is not None and any(abs(at - park) > NEAR_PARK_RAD for at, park in zip(self._last.joints_rad, PARK_RAD, strict=True)):
            _log.warning(
                "the arm is taken to be where the last run let go of it, not parked; if it was moved since, park it by hand and remove %s",
                path,
            )

    def open(self) -> None:
        """As the bus does it."""
        self._bus.open()

    def write(self, command: JointCommand) -> None:
        """Through the bus, and into the file once it is acknowledged. What fails there is logged: the arm goes on."""
        self._bus.write(command)
        self._last = None
        if self._file is not None:
            try:
                os.pwrite(self._file, _encode(command), 0)
            except OSError as error:
                self._forget(error)

    def check(self) -> None:
        """As the bus does it."""
        self._bus.check()

    def measured(self) -> JointCommand | None:
        """Where the last run sent the arm; None from the first `write` on."""
        return self._last

    def release(self) -> None:
        """As the bus does it."""
        self._bus.release()

    def close(self) -> None:
        """Close the bus, and keep the file."""
        self._bus.close()
        self._close_file()

    def _forget(self, error: OSError) -> None:
        _log.warning("%s does not keep where the arm is sent (%s); the next run will take it to be parked", self._path, error.strerror)
        self._close_file()

    def _close_file(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):
                os.close(self._file)
            self._file = None


def _encode(command: JointCommand) -> bytes:
    data = struct.pack(_FORMAT[:-1], _MAGIC, *command)
    return data + struct.pack("<I", zlib.crc32(data))


def _decode(data: bytes, servos: tuple[ServoConfig, ...]) -> JointCommand | None:
    """None for what is not ours, damaged, or out of these servos' travel."""
    if len(data) != struct.calcsize(_FORMAT):
        return None
    magic, *set_points, checksum = struct.unpack(_FORMAT, data)
    command = JointCommand(*set_points)
    try:
        servo_angles_deg(command, servos)
    except BusError:
        return None
    return command if magic == _MAGIC and checksum == zlib.crc32(data[:-4]) else None
