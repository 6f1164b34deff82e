"""A camera in a process of its own, which can be killed: camera libraries hang, and then even stopping them does.

librealsense freezes on a Raspberry Pi, and its reset and stop with it (librealsense #9191, #7252); OpenCV's read waits 10 s (#10927).

    capture process: camera ─► FrameBoard (shared memory) ─► CaptureProcess.latest(): control thread, never waits
           ▲ starts, kills, starts again                            a supervising thread: no news for a second, or dead

The process ends with ours, SIGKILL included. It is started by exec, not by `multiprocessing`: nothing of this process
is imported again or shared but the memory, and no helper process stays behind.
"""

import contextlib
import ctypes
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

from edge.cameras.camera import DepthCamera, open_camera
from edge.cameras.frameboard import FrameBoard
from edge.cameras.judge import GOOD_FRAMES, SAME_MAX, Repeats
from edge.errors import DofbotError, ObservationError
from edge.messages import Frame, Intrinsics

FIRST_FRAME_WITHIN_S = 15.0  # importing a driver from an SD card, on a busy machine, and starting the sensor
RESTART_AFTER_S = 1.0  # without news: 25 frames
BACKOFF_MIN_S, BACKOFF_MAX_S = 0.1, 1.0  # back within 3 s of a replug, and not a process every tick until then
CLOSE_WITHIN_S = 0.4  # a killed process is gone in milliseconds, unless the kernel itself hangs in its driver
WATCH_S = 0.02  # one tick: how soon a dead process is noticed
POLL_S = 0.004  # how long a frame may wait for the capture process

_REMEDY = "; is the camera plugged in?"
_PR_SET_PDEATHSIG = 1  # Linux <sys/prctl.h>

_log = logging.getLogger(__name__)


class CaptureProcess:
    """The camera that `opener` opens, in its own process.

    `opener` is "module:name" of something that takes `arguments` (numbers and strings) and returns a `DepthCamera`.
    """

    def __init__(
        self,
        opener: str,
        arguments: Sequence[str | float] = (),
        *,
        first_frame_within_s: float = FIRST_FRAME_WITHIN_S,
        restart_after_s: float = RESTART_AFTER_S,
    ) -> None:
        self._command = (opener, json.dumps(list(arguments)))
        self._first_frame_within_s = first_frame_within_s
        self._restart_after_s = restart_after_s
        self._board = FrameBoard()
        self._away = ""  # why there is no capture process with frames; empty: there is one
        self._news = threading.Event()  # a first frame, or the first failure
        self._stop = threading.Event()
        self._supervisor = threading.Thread(target=self._supervise, name="camera supervisor", daemon=True)
        self.process: subprocess.Popen[bytes] | None = None
        self.restarts = 0

    def start(self) -> Intrinsics:
        """Start the process and wait for a first frame; raises `ObservationError` when none comes in time or the camera fails."""
        if self._supervisor.ident is None:
            self._supervisor.start()
        self._news.wait(self._first_frame_within_s)
        frame = self.latest()
        if frame is None:
            raise ObservationError(f"no depth frame in {self._first_frame_within_s:g} s, expected about 25 a second{_REMEDY}")
        return frame.intrinsics

    def latest(self) -> Frame | None:
        """The newest frame, without waiting; raises `ObservationError` while the camera is away."""
        if self._stop.is_set():
            raise ObservationError("the camera was closed by us")
        if self._away:
            raise ObservationError(self._away)
        return self._board.latest()

    @property
    def serial(self) -> str:
        """The serial number of the camera that runs now; empty where it has none."""
        return self._board.serial

    def close(self) -> None:
        """Kill the process. Idempotent, never raises, takes 0.4 s at most."""
        if self._stop.is_set():
            return
        self._stop.set()
        if self._supervisor.ident is not None:
            self._supervisor.join(CLOSE_WITHIN_S)
        if self._supervisor.is_alive():
            _log.error("the capture process hangs in the kernel and could not be ended; unplug the camera")
            return  # the thread still uses the memory
        self._board.close()

    def _supervise(self) -> None:
        be_ordinary()
        backoff_s, connection = BACKOFF_MIN_S, 0
        while not self._stop.is_set():
            connection += 1
            self._board.begin(connection)
            why = self._run(connection)
            if self._stop.is_set():
                return
            worked = self._board.counts()[0] >= GOOD_FRAMES
            backoff_s = BACKOFF_MIN_S if worked else min(2.0 * backoff_s, BACKOFF_MAX_S)
            _log.warning("%s; it is started again in %.1f s", why, backoff_s)
            self._stop.wait(backoff_s)
            self.restarts += 1

    def _run(self, connection: int) -> str:
        """One life of the capture process; returns why it ended."""
        try:
            process = self.process = _spawn(self._board.fd, connection, *self._command)
        except OSError as error:
            why = self._away = f"the capture process could not be started ({error})"
            self._news.set()
            return why
        try:
            why = self._watch(process)
        finally:
            process.kill()
            while True:  # a second one would find the camera taken
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(CLOSE_WITHIN_S)
                    break
        return why

    def _watch(self, process: "subprocess.Popen[bytes]") -> str:
        """Wait until the process fails; `_away` says so before it is killed."""
        news, since_s, limit_s, why = 0, time.monotonic(), self._first_frame_within_s, ""
        while not why and not self._stop.wait(WATCH_S):
            now_s, found = time.monotonic(), self._board.counts()[1]
            if found != news:
                news, since_s, limit_s = found, now_s, self._restart_after_s
                self._away = ""
                self._news.set()
            if process.poll() is not None:
                why = self._board.why or f"the capture process died ({_cause(process.returncode)}), expected it to run{_REMEDY}"
            elif now_s - since_s > limit_s:
                silent = f"the camera has brought no new frame for {now_s - since_s:.1f} s, expected about 25 a second{_REMEDY}"
                why = self._board.why or silent  # it may have said why, and hang while it ends
        if why:
            self._away = why
            self._news.set()
        return why


def be_ordinary() -> None:
    """Give up the priority and the cores that the calling thread inherited from the control thread."""
    with contextlib.suppress(AttributeError, OSError):
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    with contextlib.suppress(AttributeError, OSError):
        os.sched_setaffinity(0, range(os.cpu_count() or 1))


def _spawn(fd: int, connection: int, opener: str, arguments: str) -> "subprocess.Popen[bytes]":
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "OPENBLAS_NUM_THREADS": "1",  # numpy would start a thread for each core
    }
    command = (sys.executable, "-m", "edge.cameras.capture", str(fd), str(connection), str(os.getpid()), opener, arguments)
    return subprocess.Popen(command, pass_fds=(fd,), env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


def _cause(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def main(arguments: Sequence[str]) -> int:
    """The capture process: open the camera, and publish its frames until our parent is gone."""
    fd, connection, parent = map(int, arguments[:3])
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # Ctrl-C and systemd reach us as well; when to stop is the parent's decision
    _die_with(parent)
    be_ordinary()
    board = FrameBoard(fd)
    try:
        camera = open_camera(arguments[3], arguments[4])
        camera.start()
        board.serial = getattr(camera, "serial", "")
        _publish(camera, board, connection, parent)
    except DofbotError as error:
        board.why = str(error)
        return 1
    except Exception as error:  # what a camera library raises is not for us to know
        board.why = f"the camera failed ({type(error).__name__}: {error}){_REMEDY}"
        return 1
    return 0


def _publish(camera: DepthCamera, board: FrameBoard, connection: int, parent: int) -> None:
    repeats, newest = Repeats(), -1
    while os.getppid() == parent:
        frame = camera.latest()
        if frame is not None and frame.sequence != newest:
            newest = frame.sequence
            board.publish(frame, connection, is_news=repeats.count(frame) <= SAME_MAX)
        time.sleep(POLL_S)


def _die_with(parent: int) -> None:
    """SIGKILL when the parent dies, even while a camera library hangs; Linux only, elsewhere the loop looks."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before
        os._exit(0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
