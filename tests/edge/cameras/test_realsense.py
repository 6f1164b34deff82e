"""The real SDK without a camera: librealsense's `software_device` stands in for it; from its sensor on, all is the driver's code."""

import json
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edge.cameras.capture import CaptureProcess
from edge.cameras.depth_stream import DepthStream
from edge.cameras.judge import JudgedCamera
from edge.cameras.markers import Marking, looking
from edge.cameras.realsense import RealSenseCamera, find_device
from edge.cameras.record_depth import record_depth
from edge.clock import MonotonicClock
from edge.config import BusConfig, CameraConfig, Config, SimulatorConfig
from edge.devices import View, open_devices
from edge.errors import ConfigError, MissingExtraError, ObservationError
from edge.messages import Frame, Intrinsics

rs = pytest.importorskip("pyrealsense2", reason="the RealSense SDK is not installed here", exc_type=ImportError)

from edge.cameras import realsense  # noqa: E402
from edge.cameras.replay import ReplayCamera  # noqa: E402
from tests.edge.software_realsense import D405_UNIT_M, D435_UNIT_M, DOMAINS, FX, HEIGHT, WIDTH, SoftwareRealSense, flat  # noqa: E402

LENS = Intrinsics(WIDTH, HEIGHT, FX, FX, WIDTH / 2 - 0.5, HEIGHT / 2 - 1.5)
NOT_LATE_S = 0.5  # what a busy machine may need from `send` to the stamp of its arrival


class Rig:
    """The driver on a software device that sends a first frame as soon as somebody listens."""

    def __init__(self, **device: Any) -> None:
        self.device = SoftwareRealSense(**device)
        self.first: Callable[[], None] = lambda: self.device.send(flat(2000))
        self.opened: list[RealSenseCamera] = []

    def camera(self, **options: Any) -> RealSenseCamera:
        camera = RealSenseCamera(find=lambda _, serial: self.device.device, **options)
        self.opened.append(camera)
        return camera

    def started(self, **options: Any) -> RealSenseCamera:
        camera, start = self.camera(**options), DepthStream.start

        def start_and_send(stream: DepthStream) -> None:
            start(stream)
            self.first()

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(DepthStream, "start", start_and_send)
            camera.start()
        return camera


@pytest.fixture
def rig(monkeypatch) -> Iterator[Rig]:
    monkeypatch.setattr(realsense, "FIRST_FRAME_S", 1.0)
    rig = Rig()
    yield rig
    for camera in rig.opened:
        camera.close()


@pytest.mark.parametrize("unit_m", [D405_UNIT_M, D435_UNIT_M])
def test_depth_is_metres_by_the_devices_own_unit_and_zero_stays_invalid(unit_m, rig) -> None:
    rig.device = SoftwareRealSense(unit_m)
    camera = rig.started()
    counts = np.arange(WIDTH * HEIGHT, dtype=np.uint32).reshape(HEIGHT, WIDTH).astype(np.uint16)  # every count once, 0 included
    rig.device.send(counts)
    frame = camera.latest()
    assert frame.intrinsics == LENS
    assert frame.depth_m.dtype == np.float32
    assert np.array_equal(frame.depth_m == 0.0, counts == 0)
    np.testing.assert_allclose(frame.depth_m, counts * unit_m, rtol=1e-6)  # pixel for pixel: nothing has smoothed, filled or cut it
    assert not frame.depth_m.flags.writeable
    assert camera.serial == "123456789012"


def test_the_newest_frame_wins_and_stays_until_there_is_another(rig) -> None:
    camera = rig.started()
    first = camera.latest()
    assert camera.latest() is first
    for counts in (100, 200, 300):
        rig.device.send(flat(counts))
    assert camera.latest().depth_m[0, 0] == pytest.approx(0.03)
    assert camera.latest().sequence == first.sequence + 3
    kept = camera.latest().depth_m
    for _ in range(40):  # more than the SDK has buffers
        rig.device.send(flat(5000))
        camera.latest()
    assert (kept == kept[0, 0]).all()


def test_a_unit_that_changes_while_it_streams_is_followed(rig) -> None:
    camera = rig.started()
    for unit_m in [D435_UNIT_M] * 40 + [D405_UNIT_M]:
        rig.device.send(flat(1000), unit_m=unit_m)
        assert camera.latest().depth_m[0, 0] == pytest.approx(1000 * unit_m)


@pytest.mark.parametrize("unit_m", [1e-6, 0.01, 1.0, float("nan")])
def test_a_unit_that_cannot_be_is_refused(unit_m, rig) -> None:
    camera = rig.started()
    rig.device.send(flat(1000), unit_m=unit_m)
    with pytest.raises(ObservationError, match=rf"depth unit is {unit_m:g} m, expected 1e-05…0.002 m; reset"):
        camera.latest()


def test_a_wrong_unit_at_the_start_leaves_no_sensor_open(rig) -> None:
    rig.first = lambda: rig.device.send(flat(1000), unit_m=0.1)
    with pytest.raises(ObservationError, match="depth unit is 0.1 m"):
        rig.started()
    assert not rig.device.sensor.get_active_streams()


@pytest.mark.parametrize(
    ("domain", "age_s", "told_s"),
    [
        ("global_time", 0.02, 0.02),
        ("global_time", 2.0, 2.0),  # old, or the wall clock was set: not used
        ("global_time", -3600.0, 1 / 30),  # the wall clock was set back
        ("system_time", 0.02, 0.02 + 1 / 30),
        ("hardware_clock", 12345.0, 1 / 30),
    ],
)
def test_when_a_frame_was_exposed_is_told_on_the_monotonic_clock_and_never_in_the_future(domain, age_s, told_s, rig) -> None:
    camera = rig.started()
    before_s = time.monotonic()
    rig.device.send(flat(1234), age_s, DOMAINS.__members__[domain])
    frame = camera.latest()
    assert frame.captured_at_s <= time.monotonic()
    assert before_s - 1e-3 <= frame.captured_at_s + told_s <= before_s + NOT_LATE_S


@pytest.mark.parametrize(
    ("exposed_us", "transferred_us", "before_s"), [(5_000, 21_000, 0.016), (21_000, 5_000, 0.0), (5_000, 900_000, 0.0)]
)
def test_the_exposure_before_the_transfer_counts_where_the_metadata_are_likely(exposed_us, transferred_us, before_s, rig) -> None:
    camera = rig.started()
    rig.device.sensor.set_metadata(rs.frame_metadata_value.sensor_timestamp, exposed_us)
    rig.device.sensor.set_metadata(rs.frame_metadata_value.frame_timestamp, transferred_us)
    began_s = time.monotonic()
    rig.device.send(flat(1234), 0.02)
    told_s = camera.latest().captured_at_s + 0.02 + before_s
    assert began_s - 1e-3 <= told_s <= began_s + NOT_LATE_S


def test_the_camera_is_set_up_as_far_as_it_has_what_is_set(rig, caplog) -> None:
    options = {rs.option.visual_preset: 7.0, rs.option.emitter_enabled: 1.0}
    for option, most in options.items():
        rig.device.add_option(option, most)
    rig.device.add_option(rs.option.global_time_enabled, 0.0)  # refuses a 1
    rig.started(preset="high_accuracy")
    assert rig.device.sensor.get_option(rs.option.visual_preset) == int(rs.rs400_visual_preset.high_accuracy)
    assert rig.device.sensor.get_option(rs.option.emitter_enabled) == 1.0
    assert "did not take global_time_enabled = 1" in caplog.text


@pytest.fixture
def seeing(rig) -> Rig:
    """With an infrared image beside the depth, and a first pair."""
    rig.device = SoftwareRealSense(infrared=True)
    rig.first = lambda: (rig.device.send(flat(2000)), rig.device.send_image(grey(0)))
    return rig


def grey(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (HEIGHT, WIDTH), np.uint8)


def test_a_frame_brings_the_left_imagers_picture_of_the_same_exposure_where_it_is_asked_for(seeing) -> None:
    seeing.device.add_option(rs.option.emitter_enabled, 1.0)
    camera = seeing.started(image=True)
    assert seeing.device.sensor.get_option(rs.option.emitter_enabled) == 0.0  # its dots spoil markers
    for number in range(1, 60):  # more than the SDK has buffers
        seeing.device.send(flat(1000 + number))
        before = camera.latest()
        assert np.array_equal(before.image, grey(number - 1))  # still the last one: its partner has not come
        seeing.device.send_image(grey(number), later_s=0.002)
        frame = camera.latest()
        assert frame.depth_m[0, 0] == pytest.approx((1000 + number) * D405_UNIT_M)
        assert np.array_equal(frame.image, grey(number))
        assert frame.image.dtype == np.uint8
        assert not frame.image.flags.writeable


def test_nobody_pays_for_a_picture_that_is_not_asked_for(seeing) -> None:
    seeing.first = lambda: seeing.device.send(flat(2000))
    camera = seeing.started()
    assert camera.latest().image is None
    assert {stream.stream_type() for stream in seeing.device.sensor.get_active_streams()} == {rs.stream.depth}


def test_a_lost_depth_frame_or_picture_costs_its_partner_and_nothing_else(seeing) -> None:
    camera, device = seeing.started(image=True), seeing.device
    first = camera.latest()
    device.send(flat(1001))  # whose picture is lost
    device.send(flat(1002))
    device.send_image(grey(2))
    second = camera.latest()
    assert (second.sequence, second.image[0, 0]) == (first.sequence + 2, grey(2)[0, 0])
    device.send_image(grey(3), later_s=1 / 30)  # whose depth is lost
    device.send_image(grey(4), later_s=2 / 30)
    device.send(flat(1005), age_s=0.01 - 2 / 30)
    third = camera.latest()
    assert (third.sequence, third.image[0, 0]) == (second.sequence + 1, grey(4)[0, 0])
    device.send(flat(1006))
    device.send_image(grey(7), later_s=1 / 30)  # not the same exposure
    assert camera.latest() is third


def test_a_camera_without_the_picture_is_named_and_so_is_a_stream_without_it(seeing) -> None:
    with pytest.raises(ObservationError, match="no infrared image 640x480 at 15 beside the depth, expected the left imager's in Y8"):
        seeing.camera(image=True, width=640, height=480, fps=15).start()
    seeing.first = lambda: seeing.device.send(flat(2000))
    with pytest.raises(ObservationError, match="no depth frame with its image in 1 s"):
        seeing.started(image=True)
    assert not seeing.device.sensor.get_active_streams()


def test_a_recording_has_the_pictures_if_they_were_asked_for(seeing, recording, tmp_path) -> None:
    file = str(tmp_path / "seen.db3")
    camera = seeing.started(image=True, record=file)
    for number in range(1, 6):
        seeing.device.send(flat(1000 + number))
        seeing.device.send_image(grey(number))
        time.sleep(0.02)
    camera.close()
    frames: list[Frame] = []
    with closing(ReplayCamera(file, every_frame=True, image=True)) as replay, pytest.raises(ObservationError, match="ended after 6 frames"):
        play(replay, frames)
    assert all(np.array_equal(frame.image, grey(number)) for number, frame in enumerate(frames))
    with pytest.raises(ObservationError, match="no infrared image .* record with --image"):
        ReplayCamera(str(recording), image=True).start()


def test_no_camera_is_told_at_once() -> None:
    assert not len(rs.context().query_devices()), "this test needs a machine without a RealSense"
    began_s = time.monotonic()
    with pytest.raises(ObservationError, match="no RealSense camera on any USB port, expected one; plug it in, see it with: lsusb"):
        RealSenseCamera().start()
    assert time.monotonic() - began_s < 1.0


class PluggedIn:
    """The SDK's module with these devices on its USB."""

    def __init__(self, *serials: str) -> None:
        self._devices = [SoftwareRealSense(serial=serial).device for serial in serials]

    def __getattr__(self, name: str) -> Any:
        return getattr(rs, name)

    def context(self) -> "PluggedIn":
        return self

    def query_devices(self) -> list[Any]:
        return self._devices


@pytest.mark.parametrize(("serials", "wanted", "found"), [(("1",), "", "1"), (("1", "2"), "2", "2"), (("1", "2"), "1", "1")])
def test_the_configured_camera_is_taken_or_the_only_one(serials, wanted, found) -> None:
    assert find_device(PluggedIn(*serials), wanted).get_info(rs.camera_info.serial_number) == found


@pytest.mark.parametrize(
    ("serials", "wanted", "says"),
    [
        (("1",), "2", "the RealSense camera is 1, expected 2; plug that one in, or change camera.serial"),
        (("1", "2"), "3", "the RealSense camera is 1, 2, expected 3"),
        (("1", "2"), "", r"2 RealSense cameras \(1, 2\), expected one; set camera.serial"),
    ],
)
def test_another_camera_is_refused(serials, wanted, says) -> None:
    with pytest.raises(ObservationError, match=says):
        find_device(PluggedIn(*serials), wanted)


def test_a_profile_that_is_not_there_is_named_with_those_that_are(rig) -> None:
    with pytest.raises(ObservationError) as refusal:
        rig.camera(width=848, height=480).start()
    assert "no depth 848x480 at 30 on USB 3.2" in str(refusal.value)
    assert "expected one of 424x240 at 30, 640x480 at 15; set camera.width" in str(refusal.value)


def test_usb_2_is_named_where_it_costs_the_profile_and_a_warning_elsewhere(rig, caplog) -> None:
    rig.device = SoftwareRealSense(usb="2.1")
    with pytest.raises(ObservationError, match=r"on USB 2.1 \(its usb_type_descriptor\), .*plug it into a USB 3 port with a USB 3 cable"):
        rig.camera(width=848, height=480).start()
    rig.started()
    assert "the camera is on USB 2.1, expected 3" in caplog.text


def test_lens_distortion_is_refused(rig) -> None:
    rig.device = SoftwareRealSense(distortion=0.1)
    with pytest.raises(ObservationError, match="the depth stream has lens distortion .*, expected zeros"):
        rig.camera().start()


def test_a_frame_of_another_size_is_refused(rig) -> None:
    camera = rig.started()
    rig.device.profile = rig.device.sensor.get_stream_profiles()[1].as_video_stream_profile()
    rig.device.send(np.full((480, 640), 1000, np.uint16))
    with pytest.raises(ObservationError, match=r"the depth frame is uint16 \(480, 640\), expected uint16 \(240, 424\)"):
        camera.latest()


def test_a_camera_that_brings_nothing_is_reset_once_and_closed(rig, monkeypatch) -> None:
    monkeypatch.setattr(realsense, "FIRST_FRAME_S", 0.1)
    resets: list[int] = []

    class Silent:
        def __getattr__(self, name: str) -> Any:
            return getattr(rig.device.device, name)

        def hardware_reset(self) -> None:
            resets.append(1)
            raise RuntimeError("hardware_reset is not implemented for this device!")

    silent = Silent()
    camera = RealSenseCamera(find=lambda _, serial: silent)
    with pytest.raises(ObservationError, match="no depth frame in 0.1 s; the camera was reset and takes 20 s to come back"):
        camera.start()
    assert len(resets) == 1
    assert not rig.device.sensor.get_active_streams()


def test_what_the_sdk_raises_is_one_sentence(rig) -> None:
    rig.started()
    with pytest.raises(ObservationError, match=r"the depth sensor cannot be started \(.*\); is another program using the camera"):
        rig.camera().start()


def test_what_the_sdk_raises_on_a_frame_is_one_sentence_too(rig) -> None:
    class Broken:
        def as_depth_frame(self) -> None:
            raise RuntimeError("null pointer passed for argument\n'frame_ref'")

    camera = rig.started()
    camera._stream._arrived(Broken())
    with pytest.raises(
        ObservationError, match=r"a frame cannot be read \(null pointer passed for argument 'frame_ref'\); is the camera plugged"
    ):
        camera.latest()


def test_a_gone_device_and_a_stopped_stream_leave_the_last_frame_to_grow_old(rig) -> None:
    camera = rig.started()
    before = camera.latest()
    rig.device.sensor.stop()
    rig.device.send(flat(999))
    assert camera.latest() is before
    camera.close()
    camera.close()


def test_without_the_sdk_the_extra_is_named(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "pyrealsense2", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'dofbot-grasp\[pi\]'"):
        RealSenseCamera().start()


def test_without_its_libraries_the_package_is_named(monkeypatch) -> None:
    class Finder:
        @staticmethod
        def find_spec(name: str, *_: object) -> None:
            if name == "pyrealsense2":
                raise ImportError("libusb-1.0.so.0: cannot open shared object file")

    monkeypatch.delitem(sys.modules, "pyrealsense2")
    monkeypatch.setattr(sys, "meta_path", [Finder, *sys.meta_path])
    with pytest.raises(ObservationError, match=r"libusb-1.0.so.0: .*run: sudo apt install libusb-1.0-0"):
        RealSenseCamera().start()


@pytest.fixture(scope="module")
def recording(tmp_path_factory) -> Path:
    """Ten frames that the driver recorded, 0.2 s long."""
    file = tmp_path_factory.mktemp("recording") / "ten.db3"
    rig = Rig(serial="405")
    rig.first = lambda: rig.device.send(flat(1000))
    camera = rig.started(record=str(file))
    for number in range(1, 10):
        rig.device.send(flat(1000 + number))
        time.sleep(0.02)
    camera.close()
    return file


def play(camera: ReplayCamera, frames: list[Frame], most: int = 1000) -> None:
    """Append each new frame, until there are `most`; raises what the camera does."""
    deadline_s = time.monotonic() + 10.0
    camera.start()
    while len(frames) < most:
        assert time.monotonic() < deadline_s
        frame = camera.latest()
        assert frame is not None
        if not frames or frame is not frames[-1]:
            frames.append(frame)
        time.sleep(0.001)


def test_what_the_driver_recorded_replays_frame_by_frame_and_ends_with_a_sentence(recording) -> None:
    frames: list[Frame] = []
    with closing(ReplayCamera(str(recording), every_frame=True)) as camera:
        with pytest.raises(ObservationError, match=r"ten.db3 has ended after 10 frames; set camera.loop"):
            play(camera, frames)
        with pytest.raises(ObservationError, match="has ended"):  # and stays so
            camera.latest()
    assert camera.serial == "405"
    assert [frame.sequence for frame in frames] == list(range(10))
    assert {frame.intrinsics for frame in frames} == {LENS}
    np.testing.assert_allclose([frame.depth_m[7, 7] for frame in frames], np.arange(1000, 1010) * D405_UNIT_M, rtol=1e-6)


def test_in_real_time_frames_come_when_they_came_and_the_newest_counts(recording) -> None:
    frames: list[Frame] = []
    with closing(ReplayCamera(str(recording))) as camera, pytest.raises(ObservationError, match="has ended after"):
        play(camera, frames)
    times_s = [frame.captured_at_s for frame in frames]
    depths_m = [float(frame.depth_m[7, 7]) for frame in frames]
    assert depths_m == sorted(set(depths_m))
    assert depths_m[-1] == pytest.approx(0.1009)
    assert times_s[-1] - times_s[0] > (len(frames) > 1) * 0.015  # recorded 20 ms apart
    assert 0.0 < time.monotonic() - times_s[-1] < 10.0


def test_every_frame_waits_for_whoever_is_slow(recording) -> None:
    with closing(ReplayCamera(str(recording), every_frame=True)) as camera:
        camera.start()
        time.sleep(0.3)  # longer than the recording
        seen = set()
        while len(seen) < 10:
            seen.add(camera.latest().sequence)
            time.sleep(0.002)


def test_a_looped_recording_goes_on_and_looks_like_one_camera(recording) -> None:
    frames: list[Frame] = []
    with closing(JudgedCamera(ReplayCamera(str(recording), loop=True))) as camera:
        play(camera, frames, most=25)
    assert [frame.sequence for frame in frames] == sorted({frame.sequence for frame in frames})
    assert frames[-1].sequence < 31


def test_closing_in_the_middle_takes_no_time(recording) -> None:
    camera = ReplayCamera(str(recording), every_frame=True)
    camera.start()
    began_s = time.monotonic()
    camera.close()
    camera.close()
    assert time.monotonic() - began_s < 0.5


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "does not exist; give a .db3"),
        (b"", "cannot be read"),
        (b"no database" * 100, "file is not a database"),
        (b"HALF", "malformed"),
    ],
)
def test_what_is_no_recording_is_one_sentence(content, says, recording, tmp_path) -> None:
    file = tmp_path / "x.db3"
    if content is not None:
        file.write_bytes(recording.read_bytes()[:9000] if content == b"HALF" else content)
    with pytest.raises(ObservationError, match=says) as refusal:
        ReplayCamera(str(file)).start()
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("attempt", range(6))  # what is still being written fails every second time or so
def test_a_recording_is_whole_as_soon_as_its_camera_is_closed(attempt, rig, tmp_path) -> None:
    file = tmp_path / "whole.db3"
    camera = rig.started(record=str(file))
    for counts in range(5):
        rig.device.send(flat(1000 + counts))  # the last ones are not even looked at
    camera.close()
    frames: list[Frame] = []
    with closing(ReplayCamera(str(file), every_frame=True)) as replay, pytest.raises(ObservationError, match="has ended after 6 frames"):
        play(replay, frames)


def test_no_recording_is_written_over_and_none_without_the_ending_that_the_sdk_wants(recording, rig, tmp_path) -> None:
    before = recording.read_bytes()
    with pytest.raises(ObservationError, match="exists already, expected a new file"):
        rig.camera(record=str(recording)).start()
    assert recording.read_bytes() == before
    with pytest.raises(ObservationError, match="must have .db3 extension"):
        rig.camera(record=str(tmp_path / "x.bag")).start()


def test_the_filters_that_are_left_out_would_invent_depth(rig) -> None:
    """Why there are none: these are the SDK's own, on what the driver hands out as it came."""
    rig.started().close()
    frames: list[Any] = []
    rig.device.sensor.open(rig.device.profile)
    rig.device.sensor.start(frames.append)
    hidden = flat(2000)
    hidden[100:110, 100:110] = 0  # from one of the two imagers
    for counts in (flat(1900), flat(1900), flat(1900), hidden):
        rig.device.send(counts)
    filled = np.asanyarray(rs.hole_filling_filter().process(frames[-1]).get_data())
    temporal = rs.temporal_filter()
    remembered = [np.asanyarray(temporal.process(frame).get_data()).copy() for frame in frames][-1]
    rig.device.sensor.stop()
    rig.device.sensor.close()
    assert (filled[100:110, 100:110] > 0).all()
    assert (remembered[100:110, 100:110] > 0).any()  # what was there before the camera moved


def test_the_verb_records_what_a_replay_brings_and_says_how_much(rig, monkeypatch, tmp_path, capsys) -> None:
    file = tmp_path / "seen.db3"
    monkeypatch.setattr(realsense, "find_device", lambda _, serial: rig.device.device)
    latest = RealSenseCamera.latest

    def latest_with_another(camera: RealSenseCamera) -> Frame | None:
        rig.device.send(flat(1000 + rig.device.sent))
        return latest(camera)

    start = DepthStream.start
    monkeypatch.setattr(DepthStream, "start", lambda stream: (start(stream), rig.device.send(flat(1000)))[0])
    monkeypatch.setattr(RealSenseCamera, "latest", latest_with_another)
    record_depth(file, seconds=0.1, as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert (told["serial"], told["bytes"]) == ("123456789012", file.stat().st_size)
    frames: list[Frame] = []
    monkeypatch.undo()
    with closing(ReplayCamera(str(file), every_frame=True)) as camera, pytest.raises(ObservationError, match="has ended"):
        play(camera, frames)
    assert len(frames) >= told["frames"] > 1
    before = file.read_bytes()
    with pytest.raises(ConfigError, match=r"seen.db3 exists already, expected a new .db3 file"):
        record_depth(file)
    assert file.read_bytes() == before


def test_a_camera_that_is_not_there_leaves_no_file(tmp_path) -> None:
    with pytest.raises(ObservationError, match="no RealSense camera"):
        record_depth(tmp_path / "new.db3")
    with pytest.raises(ConfigError, match=r"new.bag does not end in .db3"):
        record_depth(tmp_path / "new.bag")
    assert list(tmp_path.iterdir()) == []


class NoBus:
    """Servos that take everything."""

    def __init__(self, config: BusConfig) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


@pytest.fixture
def no_simulator(monkeypatch) -> None:
    monkeypatch.setattr("edge.devices.SimulatorLink.connect", lambda *_: pytest.fail("a simulator was looked for"))
    monkeypatch.setattr("edge.devices.DofbotBoardBus", NoBus)


REAL_BUS = BusConfig(driver="dofbot_board", i2c="board")


def test_a_configured_recording_plays_beside_a_real_bus_without_a_simulator(recording, no_simulator) -> None:
    config = Config(bus=REAL_BUS, camera=CameraConfig(driver="replay", file=str(recording), loop=True))
    with closing(open_devices(config)) as devices:
        assert devices.camera.start() == LENS
        assert 0.0999 < devices.camera.latest().depth_m[0, 0] < 0.102
        assert isinstance(devices.clock, MonotonicClock)


def test_a_configured_realsense_that_is_not_there_says_so_without_a_simulator(no_simulator) -> None:
    config = Config(bus=REAL_BUS, camera=CameraConfig(driver="realsense"))
    says = "no RealSense camera on any USB port"
    with closing(open_devices(config)) as devices, pytest.raises(ObservationError, match=says):
        devices.camera.start()


@pytest.mark.parametrize("driver", ["realsense", "replay"])
def test_a_real_camera_refuses_virtual_time(driver) -> None:
    config = Config(bus=BusConfig(driver="simulator"), camera=CameraConfig(driver=driver), simulator=SimulatorConfig(clock="virtual"))
    with pytest.raises(ConfigError, match=f"simulator.clock = 'virtual' with camera.driver = '{driver}', expected 'real'"):
        open_devices(config)


OPENER = "tests.edge.software_realsense:captured"


def away(camera: CaptureProcess) -> str:
    """Why it has no frames, as soon as it has none."""
    deadline_s = time.monotonic() + 60.0
    while time.monotonic() < deadline_s:
        try:
            camera.latest()
        except ObservationError as error:
            return str(error)
        time.sleep(0.005)
    return "nothing happened"


@pytest.mark.parametrize(
    ("fault", "restart_after_s", "says"),
    [("stuck", 1.0, "brought no new frame for"), ("size", 60.0, "the depth frame is uint16 (480, 640)")],
)
def test_in_the_capture_process_frames_come_through_and_what_ends_them_is_told(fault, restart_after_s, says, tmp_path) -> None:
    arguments = (fault, str(tmp_path / "opened"))
    with closing(CaptureProcess(OPENER, arguments, first_frame_within_s=60.0, restart_after_s=restart_after_s)) as camera:
        assert camera.start() == LENS
        assert camera.serial == "123456789012"
        assert 0.0999 < camera.latest().depth_m[0, 0] < 0.102
        assert says in away(camera)


MARKING = Marking("DICT_4X4_50", (30,), 0.12)


def test_in_the_capture_process_markers_are_found_in_the_left_imagers_picture(tmp_path) -> None:
    pytest.importorskip("cv2", reason="OpenCV is not installed here")
    from calibration.boards import MarkerBoard, Placed
    from calibration.opencv import Lens
    from calibration.simulated import render
    from tests.calibration.scenes import facing

    size_m = (0.030, 0.030)
    board = MarkerBoard(size_m=size_m, markers=(Placed(30, 0.0025, 0.0025, 0.025),), dictionary="DICT_4X4_50")
    np.save(tmp_path / "picture.npy", render.view(board, facing(0.15, size_m), Lens(LENS)))
    arguments = looking(MARKING, "tests.edge.software_realsense:seeing", (str(tmp_path / "picture.npy"),))
    with closing(CaptureProcess(*arguments, first_frame_within_s=60.0)) as camera:
        assert camera.start() == LENS
        frame = camera.latest()
    assert frame.image is None
    assert 0.099 <= frame.depth_m[0, 0] <= 0.11
    (found,) = frame.markers
    assert found.id == 30
    corners = np.array(((-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0))) * 0.0125 / 0.15
    np.testing.assert_allclose(found.rays, corners, atol=0.2 / FX)


@pytest.mark.parametrize("view", [View(), View(marking=MARKING)], ids=["depth", "markers"])
def test_the_picture_is_asked_of_the_camera_only_where_markers_are_looked_for(view, no_simulator, monkeypatch) -> None:
    opened: list[tuple[str, Any]] = []
    camera = SimpleNamespace(close=lambda: None)
    monkeypatch.setattr("edge.devices.CaptureProcess", lambda opener, arguments: opened.append((opener, arguments)) or camera)
    open_devices(Config(bus=REAL_BUS, camera=CameraConfig(driver="realsense", serial="7")), view).close()
    ((opener, arguments),) = opened
    if view.marking is None:
        assert (opener, arguments) == ("edge.cameras.realsense:RealSenseCamera", ("7", 424, 240, 30, "high_density", False))
        return
    assert (opener, arguments[0]) == ("edge.cameras.markers:open_marked", "edge.cameras.realsense:RealSenseCamera")
    assert json.loads(arguments[1]) == ["7", 424, 240, 30, "high_density", True]


def test_a_driver_that_hangs_in_start_is_killed(tmp_path) -> None:
    marker = tmp_path / "opened"
    camera = CaptureProcess(OPENER, ("hang", str(marker)), first_frame_within_s=60.0)
    camera._supervisor.start()
    deadline_s = time.monotonic() + 50.0
    while not marker.exists():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
    process = camera.process
    assert process is not None
    assert process.poll() is None
    began_s = time.monotonic()
    camera.close()
    assert time.monotonic() - began_s < 0.5
    assert process.poll() == -signal.SIGKILL
