"""The light desk moves as it is told, shows the block that it holds, and costs a soak nothing while nobody looks."""

import sys
from typing import Any

import numpy as np
import pytest

from edge import kinematics, observation
from edge.block import block_of
from edge.buses.servos import OFF_US, command_from_pulses, pulses_us
from edge.config import BlockConfig, BusConfig
from edge.errors import BusError, MissingExtraError, ObservationError
from edge.messages import Frame, JointCommand, ToolPose
from edge.task import GraspTask
from trainer import light_world, sensors, spec
from trainer.light_world import DirectLink, LightDesk

CONTRACT = spec.contract()
TASK = GraspTask(CONTRACT, (-0.12, 0.06))
SERVOS = BusConfig().servos
SIZE_M = CONTRACT.episode.block_size_m
MARKED = BlockConfig()


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch) -> LightDesk:
    monkeypatch.setattr(light_world, "SLIPS", 0.0)
    return LightDesk(CONTRACT, 0)


def go(desk: LightDesk, command: JointCommand, for_s: float = 1.0) -> None:
    desk.write_pulses(pulses_us(command, SERVOS))
    for _ in range(round(for_s * 50)):
        desk.step(0.02)


def at(pose: ToolPose, opening_m: float) -> JointCommand:
    return JointCommand(*kinematics.solve(TASK._reachable(pose), TASK.mount), opening_m)


def over_block(desk: LightDesk, off_m: float = 0.0, z_m: float = 0.01) -> ToolPose:
    x_m, y_m = desk._block[:2, 3]
    return ToolPose(x_m + off_m, y_m, z_m, 0.0, CONTRACT.episode.yaw_rad)


def sees_block(desk: LightDesk) -> bool:
    depth_m, lens = desk.depth_frame()
    return observation.holds_block(Frame(depth_m, lens, 0.0, 0), CONTRACT.camera, CONTRACT.episode)


def test_fingers_hold_what_they_close_on_until_they_open(desk: LightDesk) -> None:
    under = over_block(desk)
    lifted = under._replace(z_m=0.08)
    go(desk, at(under, 0.06))
    go(desk, at(under, 0.02))
    assert desk.caught == 1
    assert command_from_pulses(desk.servos_us(), SERVOS).opening_m == pytest.approx(SIZE_M)
    go(desk, at(lifted, 0.02))
    assert sees_block(desk)
    go(desk, at(under._replace(x_m=0.03), 0.02))
    go(desk, at(under._replace(x_m=0.03), 0.06))
    assert desk._block[:3, 3] == pytest.approx((0.03, under.y_m, SIZE_M / 2.0), abs=2e-3)  # a count of a PCA9685 and a lag
    assert desk._held is None


@pytest.mark.parametrize(("off_m", "z_m"), [(0.02, 0.01), (0.0, 0.05)])
def test_fingers_beside_or_over_a_block_miss_it(desk: LightDesk, off_m: float, z_m: float) -> None:
    go(desk, at(over_block(desk, off_m, z_m), 0.06))
    go(desk, at(over_block(desk, off_m, z_m), 0.02))
    go(desk, at(over_block(desk, off_m, 0.08), 0.02))
    assert desk.caught == 0
    assert not sees_block(desk)


def test_a_block_that_slips_is_seen_to_be_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(light_world, "SLIPS", 1.0)
    desk = LightDesk(CONTRACT, 0)
    go(desk, at(over_block(desk), 0.06))
    go(desk, at(over_block(desk), 0.02), 0.2)
    assert desk._held is not None
    go(desk, at(over_block(desk, z_m=0.08), 0.02))
    assert not sees_block(desk)


def test_a_used_block_is_replaced_inside_the_spawn_area(desk: LightDesk) -> None:
    seen = set()
    for _ in range(20):
        go(desk, at(over_block(desk), 0.06))
        go(desk, at(over_block(desk), 0.02), 0.2)
        go(desk, at(over_block(desk, z_m=0.1), 0.02))
        go(desk, at(TASK.start_pose, 0.06))
        place = desk._block[:2, 3]
        assert np.all(place >= CONTRACT.episode.spawn_min_in_table_m)
        assert np.all(place <= CONTRACT.episode.spawn_max_in_table_m)
        seen.add(tuple(place))
    assert len(seen) == 20


def test_a_servo_without_pulses_stays_where_it_was(desk: LightDesk) -> None:
    before = desk.servos_us()
    desk.write_pulses(OFF_US)
    desk.step(1.0)
    assert desk.servos_us() == pytest.approx(before)


def test_frames_come_25_a_second_with_the_time_at_which_they_were_due(desk: LightDesk) -> None:
    link = DirectLink(desk)
    first = link.wait_for_frame(1.0)
    assert first is not None
    assert (first.captured_at_s, first.sequence) == (0.0, 0)
    for tick in range(1, 101):
        link.advance_to(tick * 0.02)
        frame = link.latest_frame()
        assert frame is not None
        assert frame.sequence == tick // 2
        assert frame.captured_at_s == pytest.approx(tick // 2 * 0.04)
    link.advance_to(0.0)  # the past
    assert link.now_s == pytest.approx(2.0)


def test_an_image_is_drawn_when_it_is_looked_at_and_something_moved(desk: LightDesk, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, draw = [], desk._draw
    monkeypatch.setattr(desk, "_draw", lambda joints: drawn.append(joints) or draw(joints))
    link = DirectLink(desk)
    for tick in range(1, 101):
        link.advance_to(tick * 0.02)
    assert not drawn
    for tick in range(101, 201):
        link.advance_to(tick * 0.02)
        link.latest_frame()
    assert len(drawn) == 1


@pytest.mark.parametrize("pulse_us", [float("nan"), float("inf"), -1.0])
def test_an_impossible_pulse_is_refused(desk: LightDesk, pulse_us: float) -> None:
    with pytest.raises(BusError, match="expected finite"):
        DirectLink(desk).write_pulses((pulse_us, *[1500.0] * 5))


def blocks_seen(frame: Frame, desk: LightDesk) -> list[Any]:
    from calibration.marker_edges import markers_in
    from calibration.opencv import Lens

    assert frame.image is not None
    markers = markers_in(frame.image, MARKED.dictionary, set(MARKED.markers), Lens(frame.intrinsics))
    return [block_of(one, MARKED.marker_m, SIZE_M, desk.transform_camera_to_table()) for one in markers]


def test_blocks_have_markers_for_a_policy_that_is_told_the_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where they lie they are seen, and in the gripper a marker is not where a block on the table could be."""
    pytest.importorskip("cv2", reason="OpenCV is not installed here")
    monkeypatch.setattr(light_world, "SLIPS", 0.0)
    desk = LightDesk(spec.contract("xyz"), 0)
    link = DirectLink(desk, image=True)
    go(desk, at(TASK.start_pose, 0.06))
    frame = link.wait_for_frame(1.0)
    assert frame is not None
    assert frame.intrinsics == sensors.LENS
    assert frame.image is not None
    assert (frame.image.shape, frame.image.dtype) == (frame.depth_m.shape, np.uint8)
    (found,) = blocks_seen(frame, desk)
    assert found.centre_in_table_m == pytest.approx((*desk._block[:2, 3], SIZE_M / 2.0), abs=1e-3)
    go(desk, at(over_block(desk), 0.06))
    go(desk, at(over_block(desk), 0.02))
    go(desk, at(over_block(desk, z_m=0.08), 0.02))
    assert sees_block(desk)
    link.advance_to(0.04)
    frame = link.latest_frame()
    assert frame is not None
    with pytest.raises(ObservationError, match="its block is not on the table"):
        blocks_seen(frame, desk)


def test_its_depth_falls_short_as_that_of_the_desk_with_physics_and_its_blocks_are_those_of_the_depth_policy() -> None:
    desk, plain = LightDesk(spec.contract("xyz"), 3), LightDesk(CONTRACT, 3)
    for one in (desk, plain):
        go(one, at(TASK.start_pose, 0.06))
        one.depth_frame()
    depth_m, _ = desk.depth_frame()
    assert 0.05 < np.mean(depth_m == 0.0) < 0.3  # the fingers are too near for it
    assert 1e-4 < (depth_m - desk._true_m)[depth_m > 0.0].std() < 3e-3
    assert np.array_equal(plain.depth_frame()[0], plain._true_m)
    assert np.array_equal(desk._block, plain._block)


def test_a_picture_is_taken_only_for_who_asks_and_once_of_what_stands_still() -> None:
    pytest.importorskip("cv2", reason="OpenCV is not installed here")
    desk = LightDesk(spec.contract("xyz"), 0)
    unasked = DirectLink(desk).wait_for_frame(1.0)
    assert unasked is not None
    assert unasked.image is None
    assert desk._grey is None
    link = DirectLink(desk, image=True)
    images = []
    for tick in range(1, 5):
        link.advance_to(tick * 0.04)
        frame = link.latest_frame()
        assert frame is not None
        images.append(frame.image)
    assert all(image is images[0] for image in images)
    go(desk, at(TASK.start_pose, 0.06), 0.1)
    link.advance_to(1.0)
    frame = link.latest_frame()
    assert frame is not None
    assert frame.image is not images[0]


def test_a_picture_without_opencv_names_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [name for name in sys.modules if name.partition(".")[0] in ("cv2", "calibration") or name == "trainer.grey"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "cv2", None)
    link = DirectLink(LightDesk(spec.contract("xyz"), 0), image=True)
    with pytest.raises(MissingExtraError, match=r"cv2 is not installed; run: pip install 'dofbot-grasp\[vision\]'"):
        link.wait_for_frame(1.0)
