"""A process that was killed leaves the next one where it let go, and a memory that fails stops nothing."""

import logging
import os
from pathlib import Path

import pytest
from msgspec.structs import replace

from edge.buses import last_pose
from edge.buses.last_pose import RememberingBus
from edge.buses.pca9685 import Pca9685Bus
from edge.buses.servos import command_from_deg
from edge.config import BusConfig
from edge.errors import BusError
from edge.messages import JointCommand
from edge.robot import OPENING_MAX_M, PARK_RAD
from edge.safety import DOFBOT_LIMITS, gate, resting
from edge.simulated.emulated_arm import PARK_DEG, EmulatedArm

pytest.importorskip("adafruit_servokit")

CONFIG = BusConfig()
AWAY = JointCommand(0.4, -0.3, 0.9, 0.2, -0.5, 0.03)
PARK = JointCommand._make((*PARK_RAD, OPENING_MAX_M))


class FakeBus:
    """Takes every write, or none."""

    def __init__(self, fails: bool = False) -> None:
        self.fails = fails
        self.calls: list[str] = []

    def __getattr__(self, name: str):
        return lambda: self.calls.append(name)

    def write(self, command: JointCommand) -> None:
        if self.fails:
            raise BusError("servo bus: no")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "last_pose"


def run(file: Path, *commands: JointCommand, fails: bool = False) -> None:
    """A process that ends without another word."""
    bus = RememberingBus(FakeBus(fails), CONFIG.servos, file)
    for command in commands:
        try:
            bus.write(command)
        except BusError:
            continue


def found(file: Path, servos=CONFIG.servos) -> JointCommand | None:
    return RememberingBus(FakeBus(), servos, file).measured()


def test_the_next_run_begins_where_the_last_one_was_sent_and_measures_nothing_once_it_moves(file: Path) -> None:
    assert found(file) is None
    run(file, PARK, AWAY)
    bus = RememberingBus(FakeBus(), CONFIG.servos, file)
    assert bus.measured() == AWAY
    bus.open()
    assert bus.measured() == AWAY
    bus.write(PARK)
    assert bus.measured() is None
    assert found(file) == PARK


def test_nothing_is_written_through_a_link(file: Path) -> None:
    """Members of a group may write in the service's folder; root, who calibrates there, must not write where one of them points."""
    other = file.with_name("other")
    other.write_bytes(b"another's")
    other.chmod(0o600)
    file.symlink_to(other)
    run(file, AWAY)
    assert (other.read_bytes(), other.stat().st_mode & 0o777) == (b"another's", 0o600)


def test_only_what_was_acknowledged_is_kept(file: Path) -> None:
    run(file, AWAY)
    run(file, PARK, fails=True)
    assert found(file) == AWAY


@pytest.mark.parametrize(
    "spoil", [lambda d: d[:-1], lambda d: b"", lambda d: b"\0" * len(d), lambda d: d[:9] + bytes((d[9] ^ 1,)) + d[10:]]
)
def test_a_damaged_file_is_no_pose(file: Path, spoil) -> None:
    run(file, AWAY)
    file.write_bytes(spoil(file.read_bytes()))
    assert found(file) is None


def test_a_pose_that_these_servos_cannot_have_is_no_pose(file: Path) -> None:
    run(file, AWAY)
    assert found(file, tuple(replace(servo, travel_deg=30.0) for servo in CONFIG.servos)) is None


def test_a_person_is_told_only_when_the_arm_is_not_parked(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    run(file, PARK)
    assert found(file) == PARK
    assert not caplog.records
    run(file, AWAY)
    caplog.clear()
    found(file)
    assert "not parked; if it was moved since, park it by hand and remove" in caplog.text


def test_a_memory_that_fails_is_said_once_and_the_arm_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        bus = RememberingBus(FakeBus(), CONFIG.servos, tmp_path / "missing" / "last_pose")
        bus.write(AWAY)
        bus.write(AWAY)
    assert len(caplog.records) == 1
    full = Path("/dev/full")
    if full.exists():
        caplog.clear()
        bus = RememberingBus(FakeBus(), CONFIG.servos, full)
        bus.write(AWAY)
        bus.write(AWAY)
        assert len(caplog.records) == 1
    assert bus.measured() is None


def test_no_link_is_followed(file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever may write into the service's folder must not choose what root, moving the arm, overwrites."""
    other = tmp_path / "other"
    other.write_bytes(b"another's")
    other.chmod(0o600)
    file.symlink_to(other)
    run(file, AWAY)
    assert (other.read_bytes(), other.stat().st_mode & 0o777) == (b"another's", 0o600)
    assert "does not keep where the arm is sent" in caplog.text


def test_all_else_is_the_bus_behind_it(file: Path) -> None:
    inner = FakeBus()
    bus = RememberingBus(inner, CONFIG.servos, file)
    for call in (bus.open, bus.check, bus.release, bus.close, bus.close):
        call()
    assert inner.calls == ["open", "check", "release", "close", "close"]
    bus.write(AWAY)  # a closed memory is none
    assert found(file) is None


def test_the_file_is_in_memory_or_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(last_pose, "SERVICE_RUNTIME", tmp_path / "not installed")
    monkeypatch.setenv("RUNTIME_DIRECTORY", f"{tmp_path}:/run/other")
    assert last_pose.path() == tmp_path / "last_pose"
    monkeypatch.delenv("RUNTIME_DIRECTORY")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert last_pose.path() == tmp_path / "dofbot-grasp.last_pose"
    for folder in ("", "relative", str(tmp_path / "missing")):
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        assert last_pose.path() is None


def test_a_tool_keeps_it_where_the_service_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A calibration that was killed leaves the arm up there, and the service must not take it to be parked."""
    service, user = tmp_path / "service", tmp_path / "user"
    service.mkdir()
    user.mkdir()
    monkeypatch.delenv("RUNTIME_DIRECTORY", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(user))
    monkeypatch.setattr(last_pose, "SERVICE_RUNTIME", service)
    before = os.umask(0o077)
    try:
        run(last_pose.path(), AWAY)
    finally:
        os.umask(before)
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(service))  # as systemd sets it
    assert found(last_pose.path()) == AWAY
    assert last_pose.path().stat().st_mode & 0o777 == 0o660
    monkeypatch.setattr(os, "access", lambda folder, mode: False)
    with pytest.raises(BusError, match="service cannot be written by this user, expected a member of its group"):
        last_pose.path()


@pytest.mark.parametrize("remembers", [True, False])
def test_an_arm_that_was_let_go_on_its_way_does_not_leap_when_the_next_process_moves_it(file: Path, remembers: bool) -> None:
    """The whole way: killed on the way, servos released, a new process, its first set points through the gate."""
    arm = EmulatedArm(CONFIG, seed=3, start_deg=PARK_DEG)
    away = command_from_deg((40.0, -10.0, 60.0, 30.0, 45.0, 0.0))
    arm.config = replace(CONFIG, reference_clock_hz=round(arm.errors.oscillator_hz))
    for first in (True, False):
        bus = RememberingBus(Pca9685Bus(arm.config, arm.i2c), CONFIG.servos, file)
        bus.open()
        state = resting(PARK if first or not remembers else bus.measured())
        before_deg, fastest_deg_s = arm.joints_deg(), 0.0
        for _ in range(100 if first else 5):
            state = gate(state, away, DOFBOT_LIMITS, 0.02, lambda command: (0.0, 0.15, 0.1)).state
            bus.write(state.position)
            arm.clock.sleep_until(arm.clock.now_s() + 0.016)
            now_deg = arm.joints_deg()
            fastest_deg_s = max(fastest_deg_s, *(abs(a - b) / 0.02 for a, b in zip(now_deg, before_deg, strict=True)))
            before_deg = now_deg
        bus.release()
    assert (fastest_deg_s < 20.0) is remembers


def test_a_killed_process_has_written_all(file: Path) -> None:
    pid = os.fork()
    if not pid:
        run(file, PARK, AWAY)
        os.kill(os.getpid(), 9)
    os.waitpid(pid, 0)
    assert found(file) == AWAY
