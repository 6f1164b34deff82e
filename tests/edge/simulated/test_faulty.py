"""Each fault does what the table says, is counted when it does, and leaves nothing behind when it ends."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from edge.errors import ObservationError, PolicyError
from edge.messages import Frame, Intrinsics, Marker
from edge.simulated.emulator import MODE1, EmulatedI2C, Pca9685Emulator
from edge.simulated.faults import Fault, Faults
from edge.simulated.faulty import SPOILT, FaultyCamera, FaultyHost, FaultyI2C, FaultyPolicy
from tests.edge.marked import marker_on
from trainer.render import DepthRenderer
from trainer.sensors import offset

LENS = Intrinsics(16, 12, 60.0, 60.0, 7.5, 5.5)
PERIOD_S = 0.04
ADDRESS = 0x40


class FakeTime:
    """A clock that passes when someone sleeps; notes how long they did."""

    def __init__(self) -> None:
        self.time_s = 10.0
        self.slept_s: list[float] = []

    def now_s(self) -> float:
        return self.time_s

    def sleep(self, duration_s: float) -> None:
        self.slept_s.append(duration_s)
        self.time_s += duration_s


class FakeCamera:
    """A frame every 40 ms."""

    serial = "A1"

    def __init__(self, time: FakeTime) -> None:
        self._time = time
        self._frame: Frame | None = None
        self.closed = False

    def start(self) -> Intrinsics:
        return LENS

    def latest(self) -> Frame | None:
        number = int(self._time.time_s / PERIOD_S + 1e-9)
        if self._frame is None or number != self._frame.sequence:
            depth_m = np.full((LENS.height, LENS.width), 0.2 + number * 1e-4, np.float32)
            self._frame = Frame(depth_m, LENS, number * PERIOD_S, number)
        return self._frame

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def time() -> FakeTime:
    return FakeTime()


@pytest.fixture
def faults(time) -> Faults:
    return Faults(True, now_s=time.now_s, seed=5)


# ------------------------------------------------------------------ camera


def watch(camera: FaultyCamera, time: FakeTime, frames: int = 100) -> list[Frame | None]:
    """What is shown, looked at twice a frame; None is an unplugged camera."""
    seen: list[Frame | None] = []
    for _ in range(2 * frames):
        time.time_s += PERIOD_S / 2
        try:
            seen.append(camera.latest())
        except ObservationError:
            seen.append(None)
    return seen


@pytest.fixture
def camera(time, faults) -> FaultyCamera:
    camera = FaultyCamera(FakeCamera(time), faults)
    assert camera.start() == LENS
    assert camera.serial == "A1"
    return camera


def test_without_a_fault_the_frames_are_the_cameras_own(camera, time) -> None:
    assert all(camera.latest() is camera._camera.latest() for _ in watch(camera, time))
    camera.close()
    assert camera._camera.closed


@pytest.mark.parametrize("mode", ["off", "stuck", "garbage", "wrong", "slow", "delayed", "intermittent", "moved"])
def test_a_camera_fault_is_applied_and_ends(mode, camera, time, faults) -> None:
    faults.inject(Fault("camera", mode, for_s=2.0))
    watch(camera, time, frames=45)
    assert faults.applied[f"camera {mode}"] > 5
    watch(camera, time, frames=10)
    before = faults.applied[f"camera {mode}"]
    assert all(frame is not None and time.time_s - frame.captured_at_s < 10.0 for frame in watch(camera, time))
    assert camera.latest() is camera._camera.latest()
    assert faults.applied[f"camera {mode}"] == before


def test_camera_off_is_an_error_at_the_start_as_well(camera, time, faults) -> None:
    faults.inject(Fault("camera", "off"))
    assert watch(camera, time) == [None] * 200
    with pytest.raises(ObservationError, match="unplugged"):
        camera.start()


def test_a_stuck_camera_repeats_the_last_image_with_new_numbers(camera, time, faults) -> None:
    last = camera.latest()
    faults.inject(Fault("camera", "stuck"))
    seen = watch(camera, time)
    assert len({frame.sequence for frame in seen}) >= 100
    assert all(frame.depth_m is last.depth_m and time.time_s - frame.captured_at_s < 10.0 for frame in seen)


def test_a_stuck_camera_shows_the_markers_where_they_were(camera, faults) -> None:
    there, elsewhere = (Marker(36, np.array([[x, 0.0, 1.0]] * 4)) for x in (0.1, 0.2))
    camera._camera._frame = camera.latest()._replace(markers=(there,))
    assert camera.latest().markers == (there,)
    faults.inject(Fault("camera", "stuck"))
    camera._camera._frame = camera._camera._frame._replace(markers=(elsewhere,))
    assert camera.latest().markers == (there,)


def test_garbage_is_the_stated_share_of_the_pixels(camera, time, faults) -> None:
    faults.inject(Fault("camera", "garbage", 0.2))
    depth_m = np.array([frame.depth_m for frame in watch(camera, time)])
    spoilt = ~((depth_m > 0.1) & (depth_m < 1.0))
    assert 0.18 < spoilt.mean() < 0.22
    assert {str(value) for value in np.unique(depth_m[spoilt])} == {str(value) for value in SPOILT}
    assert depth_m.dtype == np.float32


@pytest.mark.parametrize(("markers", "left"), [((Marker(30, np.zeros((4, 2))),), ()), (None, None)], ids=["looked for", "not looked for"])
def test_in_garbage_there_are_no_markers(markers, left, camera, time, faults) -> None:
    before = camera.latest()
    camera._camera._frame = before._replace(markers=markers)
    assert camera.latest().markers is markers
    faults.inject(Fault("camera", "garbage", 0.2))
    assert camera.latest().markers == left


@pytest.mark.parametrize("turn_rad", [0.08, -0.05])
def test_a_camera_that_was_turned_sees_table_and_markers_where_it_would(turn_rad, camera, time, faults) -> None:
    """Of a table seen at a slant each pixel's depth is known, before and after."""
    pose, moved = np.eye(4), offset((0.0, 0.0, 0.0), (0.0, turn_rad, 0.0))
    pose[:3, :3] = offset((0.0, 0.0, 0.0), (np.pi - 0.4, 0.0, 0.0))[:3, :3]
    pose[2, 3] = 0.3
    wide = Intrinsics(212, 120, 107.0, 107.0, 105.5, 59.5)
    renderers = [DepthRenderer(wide, pose_of_camera) for pose_of_camera in (np.eye(4), moved)]
    before, after = (renderer.render(pose, []) for renderer in renderers)
    markers = (marker_on(0.02, -0.12, 0.3, pose, 36, top_m=0.0), marker_on(0.0, -0.1, 0.3, pose, 30))
    camera._camera._frame = camera.latest()._replace(depth_m=before, intrinsics=wide, markers=markers)
    faults.inject(Fault("camera", "moved", turn_rad))
    frame = camera.latest()
    for one, old in zip(frame.markers, markers, strict=True):
        wanted = marker_on(
            *((0.02, -0.12) if one.id == 36 else (0.0, -0.1)), 0.3, pose @ moved, one.id, top_m=0.0 if one.id == 36 else 0.030
        )
        np.testing.assert_allclose(one.rays, wanted.rays, atol=1e-9)
        assert np.abs(one.rays - old.rays).max() > 0.04
    seen = frame.depth_m > 0.0
    assert 0.85 < seen.mean() < 0.99
    np.testing.assert_allclose(frame.depth_m[seen], after[seen], rtol=0.01)  # the nearest pixel's
    assert frame.depth_m.dtype == np.float32


def test_a_marker_that_a_turn_takes_out_of_the_picture_is_not_seen(camera, faults) -> None:
    ray = np.array(((-0.10, 0.0), (-0.08, 0.0), (-0.08, 0.02), (-0.10, 0.02)))  # the lens sees 0.125 to the left
    camera._camera._frame = camera.latest()._replace(markers=(Marker(36, ray), Marker(30, -ray)))
    faults.inject(Fault("camera", "moved", 0.05))
    assert [marker.id for marker in camera.latest().markers] == [30]


def test_wrong_is_another_unit_or_another_size(camera, time, faults) -> None:
    faults.inject(Fault("camera", "wrong"))
    assert all(frame.depth_m.min() > 199.0 and frame.depth_m.dtype == np.float32 for frame in watch(camera, time))
    faults.inject(Fault("camera", "wrong", 0.0))
    for frame in watch(camera, time):
        assert frame.depth_m.shape == (6, 8) == (frame.intrinsics.height, frame.intrinsics.width)
        assert frame.intrinsics.fx == LENS.fx / 2


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_slow_loses_the_stated_share_of_the_frames(share, camera, time, faults) -> None:
    watch(camera, time, frames=1)
    faults.inject(Fault("camera", "slow", share))
    numbers = [frame.sequence for frame in watch(camera, time, frames=500)]
    assert numbers == sorted(numbers)
    assert len(set(numbers)) == pytest.approx(500 * (1.0 - share), abs=40 if 0.0 < share < 1.0 else 1)


def test_delayed_frames_are_as_late_as_stated_and_say_so(camera, time, faults) -> None:
    faults.inject(Fault("camera", "delayed", 0.5))
    ages_s = []
    for _ in range(200):
        watch(camera, time, frames=1)
        ages_s.append(time.time_s - camera.latest().captured_at_s)
    assert ages_s == sorted(ages_s) or max(ages_s) < 0.6
    assert all(0.5 - 1e-9 <= age_s < 0.5 + PERIOD_S for age_s in ages_s[20:])


def test_intermittent_is_off_for_half_of_each_period(camera, time, faults) -> None:
    faults.inject(Fault("camera", "intermittent", 0.8))
    seen = [frame is not None for frame in watch(camera, time, frames=200)]
    assert sum(seen) == pytest.approx(200, abs=25)
    assert sum(a != b for a, b in zip(seen, seen[1:], strict=False)) == pytest.approx(20, abs=2)


# ------------------------------------------------------------------ I2C bus


@pytest.fixture
def chip() -> Pca9685Emulator:
    return Pca9685Emulator()


@pytest.fixture
def i2c(chip, faults, time) -> FaultyI2C:
    i2c = FaultyI2C(EmulatedI2C({ADDRESS: chip}), faults, time.sleep)
    i2c.writeto(ADDRESS, bytes((MODE1, 0x20)))  # awake
    return i2c


def read(i2c: FaultyI2C, count: int = 1) -> bytes:
    buffer = bytearray(count)
    i2c.writeto_then_readfrom(ADDRESS, bytes((MODE1,)), buffer)
    return bytes(buffer)


def plain_read(i2c: FaultyI2C) -> bytes:
    i2c.writeto(ADDRESS, bytes((MODE1,)))
    buffer = bytearray(3)
    i2c.readfrom_into(ADDRESS, buffer, start=1, end=2)
    assert buffer[0] == buffer[2] == 0
    return bytes(buffer[1:2])


def test_without_a_fault_the_bus_is_the_one_behind(i2c) -> None:
    assert read(i2c) == plain_read(i2c) == b"\x20"
    assert i2c.try_lock()
    assert not i2c.try_lock()
    i2c.unlock()
    assert len(i2c.trace) == 4


@pytest.mark.parametrize(("mode", "number", "slept_s"), [("off", errno.EREMOTEIO, []), ("stuck", errno.ETIMEDOUT, [0.01] * 3)])
def test_no_transaction_takes_place(mode, number, slept_s, i2c, faults, time) -> None:
    before = len(i2c.trace)
    faults.inject(Fault("bus", mode, for_s=1.0))
    buffer = bytearray(1)
    for transaction in (
        lambda: i2c.writeto(ADDRESS, b"\x00\x00"),
        lambda: i2c.readfrom_into(ADDRESS, buffer),
        lambda: read(i2c),
    ):
        with pytest.raises(OSError, match=os.strerror(number)) as caught:
            transaction()
        assert caught.value.errno == number
    assert len(i2c.trace) == before
    assert time.slept_s == slept_s
    assert faults.applied == {f"bus {mode}": 3}
    time.time_s += 1.0
    assert read(i2c) == b"\x20"


def test_garbage_flips_one_bit_of_some_bytes_that_are_read_and_none_that_are_written(i2c, faults) -> None:
    faults.inject(Fault("bus", "garbage", 0.25))
    flipped = [found for _ in range(2000) if (found := read(i2c)) != b"\x20"]
    assert len(flipped) == faults.applied["bus garbage"] == pytest.approx(500, abs=60)
    assert {(found[0] ^ 0x20).bit_count() for found in flipped} == {1}
    assert len(set(flipped)) == 8
    faults.inject(Fault("bus", "ok"))
    assert read(i2c) == b"\x20"


def test_wrong_resets_the_chip_once_and_it_acknowledges_as_before(i2c, faults) -> None:
    faults.inject(Fault("bus", "wrong"))
    assert read(i2c) == b"\x11"  # asleep, as after power-up
    i2c.writeto(ADDRESS, bytes((MODE1, 0x20)))
    assert read(i2c) == b"\x20"
    assert faults.applied == {"bus wrong": 1}


def test_wrong_can_reset_another_chip(chip, faults) -> None:
    resets: list[int] = []
    i2c = FaultyI2C(EmulatedI2C({ADDRESS: chip}), faults, reset=lambda: resets.append(1))
    faults.inject(Fault("bus", "wrong"))
    read(i2c)
    read(i2c)
    assert resets == [1]


def test_slow_takes_its_time_and_works(i2c, faults, time) -> None:
    faults.inject(Fault("bus", "slow", 0.004))
    assert read(i2c) == b"\x20"
    assert plain_read(i2c) == b"\x20"
    assert time.slept_s == [0.004] * 3
    assert faults.applied == {"bus slow": 3}


def test_delayed_reads_bring_what_was_there_then(i2c, chip, faults, time) -> None:
    faults.inject(Fault("bus", "delayed", 0.19))
    for tick in range(100):
        chip.write(bytes((MODE1 + 2, 2 * tick)))  # SUBADR1: the tick, for others to read
        buffer = bytearray(1)
        i2c.writeto_then_readfrom(ADDRESS, bytes((MODE1 + 2,)), buffer)
        assert buffer[0] == 2 * max(0, tick - 10)
        assert read(i2c) == b"\x20"  # another register is another history
        time.time_s += 0.02
    assert faults.applied["bus delayed"] == 200


def test_intermittent_nacks_with_its_probability_and_its_seed(i2c, faults, time) -> None:
    def nacks(bus: FaultyI2C) -> list[bool]:
        found = []
        for _ in range(1000):
            try:
                read(bus)
                found.append(False)
            except OSError as error:
                found.append(error.errno == errno.EREMOTEIO)
        return found

    faults.inject(Fault("bus", "intermittent", 0.1))
    first = nacks(i2c)
    assert sum(first) == faults.applied["bus intermittent"] == pytest.approx(100, abs=30)
    again = FaultyI2C(EmulatedI2C({ADDRESS: Pca9685Emulator()}), faults, time.sleep)
    assert nacks(again) == first


# ------------------------------------------------------------------ policy


class CountingPolicy:
    """Its n-th action is n hundredths."""

    contract = SimpleNamespace()

    def __init__(self) -> None:
        self.decisions = 0

    def act(self, sight: object, proprio: object) -> np.ndarray:
        self.decisions += 1
        return np.full(2, self.decisions / 100, np.float32)


@pytest.fixture
def policy(faults, time) -> FaultyPolicy:
    policy = FaultyPolicy(CountingPolicy(), faults, time.sleep)
    assert act(policy) == 1
    return policy


def act(policy: FaultyPolicy) -> float:
    """The first number of the next action, in hundredths."""
    action = policy.act(np.zeros(1, np.float32), np.zeros(1, np.float32))
    assert action.shape == (2,)
    assert action.dtype == np.float32
    return float(action[0]) * 100 if not np.isfinite(action[0]) else round(float(action[0]) * 100)


def test_a_policy_fault_is_what_the_table_says_and_ends(policy, faults, time) -> None:
    faults.inject(Fault("policy", "stuck"))
    assert [act(policy) for _ in range(3)] == [1, 1, 1]
    faults.inject(Fault("policy", "ok"))
    assert [act(policy) for _ in range(2)] == [5, 6]
    faults.inject(Fault("policy", "delayed"))
    assert [act(policy) for _ in range(3)] == [6, 7, 8]
    faults.inject(Fault("policy", "wrong", 3.0))
    assert [act(policy) for _ in range(2)] == [300, 300]
    faults.inject(Fault("policy", "garbage"))
    assert not any(np.isfinite(act(policy)) for _ in range(6))
    faults.inject(Fault("policy", "slow", 0.07))
    assert act(policy) == 18
    assert time.slept_s == [0.07]
    faults.inject(Fault("policy", "off"))
    with pytest.raises(PolicyError, match=r"\(injected fault\)"):
        act(policy)
    assert faults.applied == {
        "policy stuck": 3,
        "policy ok": 0,
        "policy delayed": 3,
        "policy wrong": 2,
        "policy garbage": 6,
        "policy slow": 1,
        "policy off": 1,
    }
    faults.inject(Fault("policy", "ok"))
    assert act(policy) == 20


def test_an_intermittent_policy_fails_with_its_probability(policy, faults) -> None:
    faults.inject(Fault("policy", "intermittent", 0.3))
    failures = 0
    for _ in range(1000):
        try:
            act(policy)
        except PolicyError:
            failures += 1
    assert failures == faults.applied["policy intermittent"] == pytest.approx(300, abs=50)


# ------------------------------------------------------------------ host


def tick_for(faults: Faults, time: FakeTime, ticks: int) -> FaultyHost:
    host = FaultyHost(faults, time.sleep)
    for _ in range(ticks):
        host.tick()
    return host


def test_a_tick_without_a_fault_is_nothing(faults, time) -> None:
    tick_for(faults, time, 100)
    assert time.slept_s == []


def test_stuck_blocks_once_and_delayed_each_time(faults, time) -> None:
    faults.inject(Fault("host", "stuck", 2.0))
    tick_for(faults, time, 10)
    assert time.slept_s == [2.0]
    faults.inject(Fault("host", "delayed", 0.003))
    tick_for(faults, time, 10)
    assert time.slept_s[1:] == [0.003] * 10
    assert faults.applied == {"host stuck": 1, "host delayed": 10}


def test_one_tick_in_twenty_stalls(faults, time) -> None:
    faults.inject(Fault("host", "intermittent", 0.05))
    tick_for(faults, time, 2000)
    assert len(time.slept_s) == faults.applied["host intermittent"] == pytest.approx(100, abs=30)
    assert set(time.slept_s) == {0.05}


def test_slow_works_for_its_time(faults, time) -> None:
    faults.inject(Fault("host", "slow", 0.002))
    before_s = os.times().elapsed
    tick_for(faults, time, 20)
    assert os.times().elapsed - before_s >= 0.03
    assert time.slept_s == []
    assert faults.applied == {"host slow": 20}


def test_garbage_takes_memory_once_and_gives_it_back(faults, time) -> None:
    def resident_mb() -> float:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6

    before_mb = resident_mb()
    faults.inject(Fault("host", "garbage", 64.0))
    host = tick_for(faults, time, 10)
    assert resident_mb() - before_mb > 50.0
    assert faults.applied == {"host garbage": 1}
    faults.inject(Fault("host", "ok"))
    host.tick()
    assert resident_mb() - before_mb < 20.0


def test_off_kills_the_process() -> None:
    program = (
        "from edge.simulated.faults import Fault, Faults\nfrom edge.simulated.faulty import FaultyHost\n"
        "faults = Faults(True)\nfaults.inject(Fault('host', 'off'))\nprint('before', flush=True)\n"
        "try:\n    FaultyHost(faults).tick()\nfinally:\n    print('after', flush=True)\n"
    )
    root = Path(__file__).parents[3]
    result = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=False)
    assert result.returncode == -signal.SIGKILL
    assert result.stdout == "before\n"
    assert "injected fault: host off" in result.stderr
