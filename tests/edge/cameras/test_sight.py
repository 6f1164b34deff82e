"""A frame is acted on while it is fresh, and the grip is judged by what can be known."""

import numpy as np
import pytest

from edge import robot
from edge.cameras.sight import GRIP_SLACK_M, Sight
from edge.clock import MonotonicClock
from edge.errors import ObservationError
from edge.messages import Frame, JointCommand
from edge.records.histogram import Histogram
from trainer import spec

CONTRACT = spec.contract()
LENS, CLOSED_M = CONTRACT.camera.intrinsics, CONTRACT.episode.closed_m
MAX_AGE_S = 0.1
PARK = JointCommand._make((*robot.PARK_RAD, CLOSED_M))


class FakeClock(MonotonicClock):
    def now_s(self) -> float:
        return 1000.0


class FakeCamera:
    def __init__(self, frame: Frame | Exception | None) -> None:
        self.frame = frame

    def latest(self) -> Frame | None:
        if isinstance(self.frame, Exception):
            raise self.frame
        return self.frame


def frame(age_s: float = 0.01, depth_m: float = 0.1) -> Frame:
    return Frame(np.full((LENS.height, LENS.width), depth_m, np.float32), LENS, 1000.0 - age_s, 7)


def sight(frame: Frame | Exception | None) -> tuple[Sight, Histogram]:
    ages = Histogram()
    return Sight(FakeCamera(frame), FakeClock(), MAX_AGE_S, ages), ages  # type: ignore[arg-type]


@pytest.mark.parametrize("age_s", [0.0, MAX_AGE_S - 1e-6, -0.05])
def test_a_fresh_frame_is_given_and_counted_once_it_is_used(age_s) -> None:
    eyes, ages = sight(frame(age_s))
    assert eyes.fresh() is eyes.frame
    assert ages.durations().count == 0
    eyes.used(eyes.frame)
    assert ages.durations().count == 1


@pytest.mark.parametrize("age_s", [MAX_AGE_S + 1e-6, -MAX_AGE_S - 1e-6, 1e9, float("nan")])
def test_a_frame_of_another_time_is_refused(age_s) -> None:
    with pytest.raises(ObservationError, match=r"ms old, expected at most 100 ms \(camera\.max_age_s\)"):
        sight(frame(age_s))[0].fresh()


def test_no_frame_and_no_camera_are_said() -> None:
    with pytest.raises(ObservationError, match="no depth frame has come yet"):
        sight(None)[0].fresh()
    with pytest.raises(ObservationError, match="unplugged"):
        sight(ObservationError("unplugged"))[0].fresh()


def test_the_age_can_be_asked_for_at_any_time_and_grows_while_the_camera_is_away() -> None:
    eyes, _ = sight(None)
    assert eyes.age_s() is None
    eyes._camera.frame = frame(3.0)  # type: ignore[attr-defined]
    assert eyes.age_s() == pytest.approx(3.0)
    eyes._camera.frame = ObservationError("unplugged")  # type: ignore[attr-defined]
    assert eyes.age_s() == pytest.approx(3.0)


@pytest.mark.parametrize(("more_m", "holds"), [(0.0, False), (GRIP_SLACK_M - 1e-6, False), (GRIP_SLACK_M + 1e-6, True), (0.04, True)])
def test_fingers_that_are_read_back_need_no_eyes(more_m, holds) -> None:
    eyes, _ = sight(ObservationError("unplugged"))
    assert eyes.holds_block(PARK._replace(opening_m=CLOSED_M + more_m), CONTRACT) == holds


@pytest.mark.parametrize(("depth_m", "holds"), [(0.1, True), (0.25, False)])
def test_without_read_back_what_is_seen_between_the_fingers_counts_if_it_is_fresh(depth_m, holds) -> None:
    assert sight(frame(depth_m=depth_m))[0].holds_block(None, CONTRACT) == holds
    with pytest.raises(ObservationError):
        sight(frame(1.0, depth_m))[0].holds_block(None, CONTRACT)
