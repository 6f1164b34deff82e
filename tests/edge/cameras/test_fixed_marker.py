"""A marker that is glued to the table tells whether the camera still sits where it was calibrated, before each descent."""

import numpy as np
import pytest

from edge.cameras.fixed_marker import FixedMarker
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


def frame(*markers: Marker) -> Frame:
    return Frame(np.ones((2, 2), np.float32), LENS, 9.0, 1, markers=markers)


@pytest.mark.parametrize("shift_m", [0.0, 0.009])
def test_a_camera_in_its_place_is_asked_once_a_try(shift_m: float) -> None:
    fixed = FixedMarker(CONFIG, WRIST)
    fixed.check(frame(seen(RIGHT, (0.08 + shift_m, 0.14)), seen(RIGHT, (0.0, 0.1), 30)))
    fixed.check(frame())  # a hand, or the block, is before it
    fixed.forget()
    with pytest.raises(ObservationError, match=r"the fixed marker 36 is not in view, expected at \(80, 140\) mm; uncover it"):
        fixed.check(frame(seen(RIGHT, (0.08, 0.14), 35)))


@pytest.mark.parametrize(
    ("shift_m", "turn_rad"),
    [((0.012, 0.0, 0.0), (0.0, 0.0, 0.0)), ((0.0, 0.0, 0.0), (0.0, 0.07, 0.0)), ((0.0, 0.0, 0.0), (0.07, 0.0, 0.0))],
    ids=["12 mm aside", "4° aside", "4° ahead"],
)
def test_a_camera_that_was_knocked_is_found(shift_m: tuple[float, ...], turn_rad: tuple[float, ...]) -> None:
    fixed, moved = FixedMarker(CONFIG, WRIST), RIGHT @ offset(shift_m, turn_rad)
    for _ in range(10):  # it stays so
        with pytest.raises(ObservationError, match=r"seen \d\d mm from its place, expected at most 10; has the camera moved\? fasten it"):
            fixed.check(frame(seen(moved)))
    fixed.check(frame(seen(RIGHT)))  # pushed back


def test_a_frame_that_nobody_searched_shows_no_marker() -> None:
    with pytest.raises(ObservationError, match="is not in view"):
        FixedMarker(CONFIG, WRIST).check(Frame(np.ones((2, 2), np.float32), LENS, 9.0, 1))
