"""The block's place by its marker: exact where the camera is known, of the moment of the frame, and kept only as long as said."""

from math import pi

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge import kinematics, robot
from edge.block import HIDDEN_BELOW_M, UNSEEN_MAX_S, BlockTracker, block_of
from edge.cameras.judge import GOOD_FRAMES
from edge.cameras.wrist import WristCamera
from edge.config import BlockConfig
from edge.errors import ObservationError
from edge.kinematics import Mount
from edge.messages import Float64, Frame, Intrinsics, JointCommand, Marker, ToolPose
from edge.task import GraspTask
from tests.edge.marked import marker_on
from trainer import spec

CONTRACT = spec.contract("xyz")
EPISODE = CONTRACT.episode
TASK = GraspTask(CONTRACT, (-0.12, 0.06))
MOUNT: Mount = TASK.mount
CONFIG = BlockConfig()
POSE = np.array(CONTRACT.camera.transform_camera_to_tool)
LENS = Intrinsics(2, 2, 1.0, 1.0, 0.5, 0.5)
BLOCK_M, PERIOD_S = EPISODE.block_size_m, 0.04
ID = CONFIG.markers[0]


def camera_at(command: JointCommand) -> Float64:
    return kinematics.transform_tool_to_table(command, MOUNT) @ POSE


class Bench:
    """A tracker, an arm that is where it was sent, and frames every 40 ms."""

    def __init__(self, x_m: float = 0.0, y_m: float = 0.1615, z_m: float = 0.110) -> None:
        self.wrist = WristCamera(POSE, MOUNT)
        self.tracker = BlockTracker(EPISODE, CONFIG, self.wrist)
        self.now_s = 10.0
        self.go(x_m, y_m, z_m)

    def go(self, x_m: float, y_m: float, z_m: float) -> None:
        self.sent = JointCommand._make((*kinematics.solve(ToolPose(x_m, y_m, z_m, 0.0, EPISODE.yaw_rad), MOUNT), 0.06))
        self.wrist.sent(self.sent, self.now_s)
        self.now_s += 1.0

    def look(self, *markers: Marker) -> tuple[float, float, float]:
        self.now_s += PERIOD_S
        frame = Frame(np.ones((2, 2), np.float32), LENS, self.now_s, int(self.now_s / PERIOD_S), markers=markers)
        return self.tracker.place_m(frame, self.sent)

    def see(self, x_m: float, y_m: float, marker: int = ID, **more: float) -> Marker:
        return marker_on(x_m, y_m, 0.3, camera_at(self.sent), marker, **more)


# --- one marker


@given(st.floats(-0.05, 0.05), st.floats(0.075, 0.125), st.floats(-pi, pi), st.floats(-0.02, 0.02))
def test_the_place_and_the_heading_are_those_of_the_block(x_m: float, y_m: float, yaw_rad: float, off: float) -> None:
    camera = camera_at(TASK.start)
    found = block_of(marker_on(x_m, y_m, yaw_rad, camera, size_m=0.025 * (1.0 + off)), 0.025, BLOCK_M, camera)
    np.testing.assert_allclose(found.centre_in_table_m, (x_m, y_m, BLOCK_M / 2.0), atol=1e-9)
    assert abs((found.yaw_rad - yaw_rad + pi) % (2.0 * pi) - pi) < 1e-7
    assert found.size_off == pytest.approx(off, abs=1e-9)


# --- a moving arm


def test_while_the_arm_moves_a_block_at_rest_stays_where_it_is() -> None:
    """Against the joints of now it would be off by what the tool moves in a frame's age and the servos' lag: 6 mm here."""
    bench, tick_s, speed_m_s = Bench(), 0.02, 0.06
    poses: list[tuple[float, JointCommand]] = []
    for tick in range(40):
        pose = ToolPose(0.02 - speed_m_s * tick_s * tick, 0.130, 0.060, 0.0, EPISODE.yaw_rad)
        bench.sent = JointCommand._make((*kinematics.solve(pose, MOUNT), 0.06))
        at_s = 20.0 + tick_s * tick
        bench.wrist.sent(bench.sent, at_s)
        poses.append((at_s + robot.SERVO_LAG_S, bench.sent))  # when the servos are there
        taken = [known for known in poses if known[0] <= at_s - 0.05]  # a frame is 50 to 70 ms old when it is used
        if taken:
            taken_s, then = taken[-1]
            frame = Frame(np.ones((2, 2), np.float32), LENS, taken_s, tick, markers=(marker_on(0.01, 0.11, 0.3, camera_at(then)),))
            np.testing.assert_allclose(bench.tracker.place_m(frame, bench.sent)[:2], (0.01, 0.11), atol=1e-9)


# --- which block, and for how long


def test_before_any_block_was_seen_it_says_what_it_sees_instead() -> None:
    bench = Bench()
    for markers, says in (
        ((), "no marker is in view, expected a block with one of DICT_4X4_50 30, 31, .* at x -75…75, y 50…170 mm; put one there"),
        ((bench.see(-0.12, 0.06),), r"marker 30 is at \(-120, 60\) mm, expected a block"),
        (
            (bench.see(0.01, 0.1, size_m=0.020),),
            "marker 30 is 20.0 mm wide on a block's top, expected 25.0 mm: its block",
        ),
        ((bench.see(0.01, 0.1, top_m=0.060),), "mm wide on a block's top, expected 25.0 mm: its block is not on the table"),
    ):
        with pytest.raises(ObservationError, match=says) as refusal:
            bench.look(*markers)
        assert "\n" not in str(refusal.value)
    assert bench.look(bench.see(0.01, 0.1)) == pytest.approx((0.01, 0.1, 0.015))


def test_a_marker_that_is_no_blocks_is_none_though_it_looks_like_one() -> None:
    """The fixed one, 30 mm wide on the table, looks 25.6 mm wide at the height of a block's top."""
    bench = Bench()
    with pytest.raises(ObservationError, match="no marker is in view"):
        bench.look(bench.see(0.01, 0.1, marker=0))
    assert bench.look(bench.see(0.0, 0.12, marker=0), bench.see(0.01, 0.1)) == pytest.approx((0.01, 0.1, 0.015))


def test_a_frame_that_nobody_searched_is_no_frame_without_a_block() -> None:
    bench = Bench()
    bench.look(bench.see(0.01, 0.1))
    frame = Frame(np.ones((2, 2), np.float32), LENS, bench.now_s + 0.04, 5)
    for _ in range(2):  # asked again, it is refused again
        with pytest.raises(ObservationError, match="was not searched for markers"):
            bench.tracker.place_m(frame, bench.sent)


def test_of_two_blocks_the_one_nearer_to_the_tool_is_taken_and_then_followed_alone() -> None:
    bench = Bench(x_m=-0.03, y_m=0.12, z_m=0.060)
    far, near = bench.see(0.03, 0.1, marker=31), bench.see(-0.02, 0.1, marker=32)
    assert bench.look(far, near)[0] == pytest.approx(-0.02)
    bench.go(0.03, 0.12, 0.060)
    assert bench.look(bench.see(0.03, 0.1, marker=31), bench.see(-0.021, 0.1, marker=32))[0] == pytest.approx(-0.021)
    assert bench.look(bench.see(0.03, 0.1, marker=31))[0] == pytest.approx(-0.021)  # the other one is not its place
    bench.tracker.forget()
    assert bench.look(bench.see(0.03, 0.1, marker=31), bench.see(-0.021, 0.1, marker=32))[0] == pytest.approx(0.03)


def test_of_two_blocks_with_the_same_marker_the_one_that_was_followed_stays() -> None:
    bench = Bench(x_m=-0.03, y_m=0.12, z_m=0.060)
    bench.look(bench.see(-0.02, 0.1))
    bench.go(0.03, 0.12, 0.060)
    assert bench.look(bench.see(0.03, 0.1), bench.see(-0.02, 0.1))[0] == pytest.approx(-0.02)


def test_a_block_that_is_pushed_is_followed_and_one_that_jumps_counts_once_it_has_stayed() -> None:
    bench = Bench()
    for x_m in np.arange(0.0, 0.03, 0.005):
        assert bench.look(bench.see(x_m, 0.1))[0] == pytest.approx(x_m)
    says = r"the block is at \(.*\) mm now, expected where it was; leave it there, or put it back"
    for frame in range(1, 3 * GOOD_FRAMES):
        away = bench.see(-0.05 if frame % 2 and frame <= GOOD_FRAMES else -0.03, 0.1)  # carried about at first
        if frame < 2 * GOOD_FRAMES:
            with pytest.raises(ObservationError, match=says):
                bench.look(away)
        else:
            assert bench.look(away)[0] == pytest.approx(-0.03)


def test_a_block_that_is_put_back_goes_on_at_once_and_with_fingers_among_the_blocks_none_else_does() -> None:
    bench = Bench(y_m=0.12, z_m=HIDDEN_BELOW_M - 0.001)
    bench.look(bench.see(0.0, 0.1))
    for _ in range(3 * GOOD_FRAMES):
        with pytest.raises(ObservationError, match="expected where it was"):
            bench.look(bench.see(0.03, 0.1))
    assert bench.look(bench.see(0.001, 0.1))[0] == pytest.approx(0.001)


@pytest.mark.parametrize("z_m", [HIDDEN_BELOW_M - 0.001, HIDDEN_BELOW_M + 0.001])
def test_a_hand_over_a_block_that_it_has_moved_does_not_let_the_arm_go_on(z_m: float) -> None:
    bench = Bench(y_m=0.12, z_m=z_m)
    bench.look(bench.see(0.0, 0.1))
    for markers in ((bench.see(0.03, 0.1),), (), (), (bench.see(0.03, 0.1),), ()):
        with pytest.raises(ObservationError, match=r"the block is at \(30, 100\) mm now, expected where it was"):
            bench.look(*markers)
    assert bench.look(bench.see(0.001, 0.1))[0] == pytest.approx(0.001)
    assert bench.look()[0] == pytest.approx(0.001)


@pytest.mark.parametrize("seen_first", [True, False])
def test_what_fingers_hide_is_kept_and_what_is_hidden_higher_up_is_missed(seen_first: bool) -> None:
    bench = Bench(y_m=0.12, z_m=HIDDEN_BELOW_M + 0.001)
    if not seen_first:
        with pytest.raises(ObservationError, match="no marker is in view"):
            bench.look()
        return
    place_m = bench.look(bench.see(0.0, 0.1))
    for _ in range(int(UNSEEN_MAX_S / PERIOD_S)):
        assert bench.look() == place_m
    with pytest.raises(
        ObservationError, match=r"marker 30 has not been seen for 0\.5 s, the tool at 41 mm, expected in view down to 40 mm"
    ):
        bench.look()
    assert bench.look(bench.see(0.002, 0.1))[0] == pytest.approx(0.002)  # it goes on by itself
    bench.go(0.0, 0.12, HIDDEN_BELOW_M - 0.001)
    for _ in range(200):
        assert bench.look()[0] == pytest.approx(0.002)
    bench.tracker.forget()  # the next try
    with pytest.raises(ObservationError, match="no marker is in view"):
        bench.look()


def test_the_frame_of_the_last_try_is_looked_at_again_in_the_next() -> None:
    bench = Bench()
    frame = Frame(np.ones((2, 2), np.float32), LENS, bench.now_s, 1, markers=(bench.see(0.01, 0.1),))
    before = bench.tracker.place_m(frame, bench.sent)
    bench.tracker.forget()
    assert bench.tracker.place_m(frame, bench.sent) == before
