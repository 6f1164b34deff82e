"""What systemd hears from the process that it runs: ready, a line of status, proof of life, stopping.

Datagrams to the socket in NOTIFY_SOCKET, as sd_notify(3) says. No library, because none fits a Pi (asked in November 2026):
sdnotify 0.3.2 is one file from 2017, without a wheel, and its socket blocks the caller when systemd is slow to read;
systemd-python has no wheels at all and needs a compiler and libsystemd's headers; cysystemd 2.0.5 has none for aarch64.
"""

import math
import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress

CLOSING_US = 5_000_000  # ending Python alone takes a Pi more than the 500 ms that the control loop gets


class Notifier:
    """Tells systemd; where nobody listens it is silent. Never blocks, never raises: a tick must not fail over this.

    What does not fit into systemd's queue is dropped; the next tick's proof of life makes up for it.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        path = environment.get("NOTIFY_SOCKET", "")
        self._address = f"\0{path[1:]}" if path.startswith("@") else path  # '@': not a file, but a name in the abstract namespace
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) if path.startswith(("/", "@")) else None
        if self._socket:
            self._socket.setblocking(False)
        period_s = watchdog_period_s(environment)
        self._feed_every_s = math.inf if period_s is None else period_s / 2.0
        self._fed_s = -math.inf

    def ready(self, status: str) -> None:
        """Start-up is over: `systemctl start` returns, and from now on the watchdog wants to be fed."""
        self._send(f"READY=1\nSTATUS={_one_line(status)}")

    def status(self, status: str) -> None:
        """What `systemctl status` shows."""
        self._send(f"STATUS={_one_line(status)}")

    def alive(self) -> None:
        """Feed the watchdog. Only the control thread does, each tick, after a write that the servo bus acknowledged.

        Four times in what the watchdog bears, not 50 times a second: each wakes process 1.
        """
        now_s = time.monotonic()
        if now_s - self._fed_s >= self._feed_every_s < math.inf:
            self._fed_s = now_s
            self._send("WATCHDOG=1")

    def stopping(self, status: str) -> None:
        """The end has begun, and takes a while: the arm parks first."""
        self._send(f"STOPPING=1\nSTATUS={_one_line(status)}")

    def ended(self) -> None:
        """The servos are off and the loop is over: nobody feeds the watchdog from now on, and closing the devices may take its time."""
        self._send(f"WATCHDOG_USEC={CLOSING_US}")

    def close(self) -> None:
        """Hang up; everything said later is lost."""
        if self._socket:
            self._socket.close()

    def _send(self, text: str) -> None:
        if self._socket:
            with suppress(OSError):
                self._socket.sendto(text.encode(errors="replace"), self._address)


def watchdog_period_s(environment: Mapping[str, str] = os.environ) -> float | None:
    """How often to feed the watchdog: half of what it bears, as sd_watchdog_enabled(3) advises. None: there is none for this process."""
    wait_us, process = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", "")
    if not (wait_us.isdecimal() and int(wait_us)) or process not in ("", str(os.getpid())):
        return None
    return int(wait_us) / 2e6


def _one_line(text: str) -> str:
    # A second line would be read as another assignment.
    return " ".join(text.split())
