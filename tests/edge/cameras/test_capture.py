"""The capture process may hang, die, repeat itself or outlive us: the control thread notices by looking, and never waits."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edge.cameras import capture
from edge.cameras.capture import CaptureProcess
from edge.cameras.judge import JudgedCamera
from edge.errors import ObservationError

ROOT = Path(__file__).parents[3]
# What it does is the text of a file, so that a test can change it meanwhile.
CAMERA = """
import sys, time
from pathlib import Path
import numpy as np
from edge.errors import ObservationError
from edge.messages import Frame, Intrinsics

LENS = Intrinsics(64, 64, 60.0, 60.0, 31.5, 31.5)

class Camera:
    def __init__(self, control):
        self.control = Path(control)
        self.serial = ",".join(sorted({"onnxruntime", "typer", "multiprocessing"} & set(sys.modules))) or "light"

    def start(self):
        if self.control.read_text() == "absent":
            raise ObservationError("no camera on any USB port, expected one; plug it in")
        if self.control.read_text() == "broken":
            raise RuntimeError("xioctl(VIDIOC_QBUF) failed")
        return LENS

    def latest(self):
        mode, number = self.control.read_text(), int(time.monotonic() / 0.01)
        if mode == "hang":
            time.sleep(60.0)
        depth = 0.5 if mode == "repeat" else 0.2 + number % 1000 * 1e-4
        return Frame(np.full((64, 64), depth, np.float32), LENS, time.monotonic(), number)

    def close(self):
        pass
"""


class Rig:
    """A capture process and the file that controls its camera."""

    def __init__(self, directory: Path) -> None:
        (directory / "fake_camera_of_a_test.py").write_text(CAMERA)
        self._control = directory / "control"
        self.does("work")
        self.process = CaptureProcess("fake_camera_of_a_test:Camera", (str(self._control),), first_frame_within_s=60.0, restart_after_s=0.5)

    def does(self, mode: str) -> None:
        swap = self._control.with_suffix(".new")
        swap.write_text(mode)
        swap.replace(self._control)

    @property
    def pid(self) -> int:
        assert self.process.process is not None
        return self.process.process.pid


@pytest.fixture
def rig(tmp_path, monkeypatch) -> Iterator[Rig]:
    monkeypatch.syspath_prepend(str(tmp_path))
    rig = Rig(tmp_path)
    yield rig
    rig.process.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "camera supervisor"]


def eventually(condition: Callable[[], bool], within_s: float = 60.0) -> None:
    deadline_s = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline_s, f"did not happen in {within_s} s"
        time.sleep(0.005)


def is_there(pid: int) -> bool:
    """Also as a zombie."""
    return Path(f"/proc/{pid}").exists()


def away(camera: CaptureProcess | JudgedCamera) -> str:
    """Why there is no frame; empty: there is one."""
    try:
        return "" if camera.latest() is not None else "none yet"
    except ObservationError as error:
        return str(error)


def test_fresh_frames_come_from_a_light_process_of_its_own(rig) -> None:
    assert rig.process.latest() is None
    assert rig.process.start().width == 64
    assert rig.pid != os.getpid()
    assert rig.process.serial == "light"
    numbers = set()
    began_s = time.monotonic()
    while len(numbers) < 5:
        frame = rig.process.latest()
        numbers.add(frame.sequence)
        time.sleep(0.002)
    assert began_s < frame.captured_at_s < time.monotonic()  # one clock
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # what a terminal and systemd send to all of us
        os.kill(rig.pid, number)
    before = rig.process.latest().sequence
    eventually(lambda: rig.process.latest().sequence > before + 10)
    assert rig.process.restarts == 0


@pytest.mark.parametrize("fault", ["hang", "stopped"])
def test_a_hanging_camera_is_killed_and_started_again_and_nobody_waits(fault, rig, caplog) -> None:
    camera = JudgedCamera(rig.process)
    camera.start()
    camera.latest()
    first = rig.pid
    if fault == "hang":
        rig.does("hang")
    else:
        os.kill(first, signal.SIGSTOP)
    looks, age_s = 0, 0.0
    while not (said := away(camera)):
        looks += 1
        age_s = time.monotonic() - rig.process._board.latest().captured_at_s
        time.sleep(0.005)
    assert looks > 5  # nothing waited for the camera
    assert age_s > 0.1  # which told before anyone was killed
    assert "the camera has brought no new frame for" in said
    rig.does("work")
    eventually(lambda: not is_there(first))
    eventually(lambda: "good frames" in away(camera))
    eventually(lambda: not away(camera))
    assert rig.process.restarts >= 1
    assert "it is started again in" in caplog.text


def test_a_dead_process_is_noticed_within_ticks(rig) -> None:
    rig.process._restart_after_s = 60.0
    rig.process.start()
    os.kill(rig.pid, signal.SIGKILL)
    eventually(lambda: "the capture process died (signal 9)" in away(rig.process))
    eventually(lambda: not away(rig.process))


def test_a_camera_that_repeats_itself_is_started_again(rig) -> None:
    rig.process.start()
    first = rig.pid
    rig.does("repeat")
    eventually(lambda: "no new frame" in away(rig.process))
    rig.does("work")
    eventually(lambda: not away(rig.process))
    assert rig.pid != first


@pytest.mark.parametrize(
    ("mode", "says"),
    [("absent", "no camera on any USB port, expected one; plug it in"), ("broken", r"the camera failed \(RuntimeError: xioctl")],
)
def test_a_camera_that_does_not_start_says_why_and_is_tried_again(mode, says, rig) -> None:
    rig.does(mode)
    with pytest.raises(ObservationError, match=says):
        rig.process.start()
    rig.does("work")
    eventually(lambda: not away(rig.process))


def test_a_camera_without_frames_is_one_sentence(rig) -> None:
    rig.does("hang")
    rig.process._first_frame_within_s = 0.05
    with pytest.raises(ObservationError, match="expected about 25 a second; is the camera plugged in"):
        rig.process.start()


def test_what_cannot_be_started_backs_off(rig, monkeypatch, caplog) -> None:
    monkeypatch.setattr(capture, "BACKOFF_MIN_S", 0.02)
    monkeypatch.setattr(capture, "BACKOFF_MAX_S", 0.1)
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(ObservationError, match="could not be started"):
        rig.process.start()
    eventually(lambda: rig.process.restarts >= 3)
    waits_s = [float(record.args[1]) for record in caplog.records]  # type: ignore[index]
    assert waits_s[:3] == [0.04, 0.08, 0.1]


@pytest.mark.parametrize("fault", ["work", "hang", "stopped", "dead"])
def test_close_takes_no_time_and_leaves_nothing(fault, tmp_path, monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    before = len(os.listdir("/proc/self/fd"))
    rig = Rig(tmp_path)
    rig.process.start()
    rig.does(fault)
    if fault in ("stopped", "dead"):
        os.kill(rig.pid, signal.SIGSTOP if fault == "stopped" else signal.SIGKILL)
    time.sleep(0.03)
    began_s = time.monotonic()
    rig.process.close()
    rig.process.close()
    assert time.monotonic() - began_s < 0.5
    assert not is_there(rig.pid)
    assert len(os.listdir("/proc/self/fd")) == before
    with pytest.raises(ObservationError, match="closed by us"):
        rig.process.latest()


def test_closing_what_was_never_started_is_fine(rig) -> None:
    rig.process.close()


@pytest.mark.parametrize("mode", ["work", "hang"])
def test_it_does_not_outlive_a_parent_that_was_killed(mode, rig) -> None:
    program = (
        "import sys, time\nfrom edge.cameras.capture import CaptureProcess\n"
        "camera = CaptureProcess('fake_camera_of_a_test:Camera', sys.argv[1:], first_frame_within_s=60.0, restart_after_s=60.0)\n"
        "camera.start()\nprint(camera.process.pid, flush=True)\ntime.sleep(60.0)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), *filter(None, sys.path)))}
    command = [sys.executable, "-c", program, str(rig._control)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        rig.does(mode)
        time.sleep(0.02)
        assert is_there(pid)
        parent.kill()
    eventually(lambda: not is_there(pid) or "Z (zombie)" in Path(f"/proc/{pid}/status").read_text())  # PID 1 need not reap here
