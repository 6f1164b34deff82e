"""A marker that is glued to the table tells whether the camera still sits where it was calibrated, as each descent begins."""

import re
from math import ceil

import numpy as np
import pytest

from edge.cameras.fixed_marker import SETTLED_S, FixedMarker
from edge.cameras.wrist import WristCamera
from edge.config import FixedMarkerConfig
from edge.errors import ObservationError
from edge.messages import Float64, Frame, Intrinsics, Marker
from edge.task import GraspTask
from tests.edge.marked import marker_on
from trainer import spec
from trainer.sensors import offset

CONTRACT = spec.contract("xyz")
TASK = GraspTask(CONTRACT, (-0.12, 0.06))
POSE = np.array(CONTRACT.camera.transform_camera_to_tool)
CONFIG = FixedMarkerConfig(id=36, at_in_table_m=(0.08, 0.14))
LENS = Intrinsics(2, 2, 1.0, 1.0, 0.5, 0.5)
WRIST = WristCamera(POSE, TASK.mount)
WRIST.sent(TASK.start, 1.0)
RIGHT = WRIST.transform_camera_to_table(9.0)


def seen(camera_to_table: Float64, place_m: tuple[float, float] = (0.08, 0.14), marker: int = 36) -> Marker:
    return marker_on(*place_m, 0.4, camera_to_table, marker, top_m=0.0)


def frames(*markers: Marker, count: int, since_s: float = 9.0) -> list[Frame]:
    """As many, 25 a second, that all show the same."""
    return [Frame(np.ones((2, 2), np.float32), LENS, since_s + 0.04 * index, index, markers=markers) for index in range(count)]


def begun() -> FixedMarker:
    """One that has looked on until the arm is at rest: what is shown until then does not count."""
    fixed = FixedMarker(CONFIG, WRIST)
    for frame in frames(seen(RIGHT, (0.0, 0.1)), count=5, since_s=9.0 - SETTLED_S):
        fixed.check(frame)
    return fixed


def refuses(fixed: FixedMarker, shown: list[Frame]) -> list[str]:
    """What is said at each frame, which is looked at twice."""
    said = []
    for frame in shown:
        reasons = set()
        for _ in range(2):
            try:
                fixed.check(frame)
                reasons.add("")
            except ObservationError as error:
                reasons.add(str(error))
        assert len(reasons) == 1
        said += reasons
    return said


@pytest.mark.parametrize("shift_m", [0.0, 0.0075])
def test_a_camera_in_its_place_is_asked_once_a_try(shift_m: float) -> None:
    fixed = begun()
    assert refuses(fixed, frames(seen(RIGHT, (0.08 + shift_m, 0.14)), seen(RIGHT, (0.0, 0.1), 30), count=5)) == [""] * 5
    assert refuses(fixed, frames(count=50, since_s=9.2)) == [""] * 50  # a hand, or the block, is before it
    fixed.forget()
    said, first = refuses(fixed, frames(seen(RIGHT, (0.08, 0.14), 35), count=15, since_s=12.0)), ceil(SETTLED_S / 0.04) + 4
    assert said[:first] == [""] * first
    assert set(said[first:]) == {
        "the fixed marker 36 is not in view, expected at (80, 140) mm; uncover it, or look at the camera: has it moved?"
    }


def test_frames_now_and_then_are_off_and_do_not_count() -> None:
    far, near = seen(RIGHT, (0.06, 0.14)), seen(RIGHT)
    shown = [frames(far if index in (0, 3) else near, count=1, since_s=9.0 + 0.04 * index)[0] for index in range(5)]
    assert refuses(begun(), shown) == [""] * 5


@pytest.mark.parametrize(
    ("shift_m", "turn_rad"),
    [((0.012, 0.0, 0.0), (0.0, 0.0, 0.0)), ((0.0, 0.0, 0.0), (0.0, 0.07, 0.0)), ((0.0, 0.0, 0.0), (0.07, 0.0, 0.0))],
    ids=["12 mm aside", "4° aside", "4° ahead"],
)
def test_a_camera_that_was_knocked_is_found_within_half_a_second_of_the_descents_begin(
    shift_m: tuple[float, ...], turn_rad: tuple[float, ...]
) -> None:
    fixed, moved = begun(), RIGHT @ offset(shift_m, turn_rad)
    said = refuses(fixed, frames(seen(moved), count=10))
    assert said[:4] == [""] * 4
    assert SETTLED_S + 0.04 * 5 <= 0.5
    for reason in said[4:]:  # it stays so
        assert re.search(r"seen \d\d mm from its place, expected at most \d+; has the camera moved\? fasten it", reason)
    back = refuses(fixed, frames(seen(RIGHT), count=5, since_s=9.4))  # pushed back
    assert back[-1] == ""


def test_a_frame_that_nobody_searched_shows_no_marker() -> None:
    fixed = begun()
    shown = [frame._replace(markers=None) for frame in frames(count=5)]
    assert "is not in view" in refuses(fixed, shown)[-1]
