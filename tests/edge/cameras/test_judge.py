"""A frame is believed while it is news from the camera that we started with; otherwise its age, or an error, tells."""

import numpy as np
import pytest

from edge.cameras.judge import GOOD_FRAMES, SAME_MAX, JudgedCamera
from edge.errors import ObservationError
from edge.messages import Frame, Intrinsics, Marker

LENS = Intrinsics(4, 3, 60.0, 60.0, 1.5, 1.0)
PERIOD_S = 0.04


class FakeCamera:
    """Shows what it is given; None is no frame yet, an exception an unplugged camera."""

    def __init__(self) -> None:
        self.now: Frame | None | ObservationError = None
        self.serial = "A1"
        self.closed = False

    def start(self) -> Intrinsics:
        return LENS

    def latest(self) -> Frame | None:
        if isinstance(self.now, ObservationError):
            raise self.now
        return self.now

    def close(self) -> None:
        self.closed = True


def frame(number: int, depth: float | None = None, lens: Intrinsics = LENS) -> Frame:
    depth_m = np.full((lens.height, lens.width), 0.2 + number % 2000 * 1e-4 if depth is None else depth, np.float32)
    return Frame(depth_m, lens, number * PERIOD_S, number)


@pytest.fixture
def camera() -> FakeCamera:
    return FakeCamera()


@pytest.fixture
def judged(camera) -> JudgedCamera:
    judged = JudgedCamera(camera)
    assert judged.start() == LENS
    return judged


def show(camera: FakeCamera, judged: JudgedCamera, shown: Frame | None | ObservationError) -> Frame | None:
    camera.now = shown
    return judged.latest()


def test_good_frames_pass_unchanged_and_none_before_the_first(camera, judged) -> None:
    assert judged.latest() is None
    for number in range(20):
        wanted = frame(number)
        assert show(camera, judged, wanted) is wanted
        assert judged.latest() is wanted
    judged.close()
    assert camera.closed


def test_a_number_that_does_not_advance_is_no_news(camera, judged) -> None:
    first = frame(7)
    show(camera, judged, first)
    assert show(camera, judged, frame(7, depth=0.3)._replace(captured_at_s=9.0)) is first


def test_the_fifth_image_of_one_content_takes_all_back_but_the_first(camera, judged) -> None:
    show(camera, judged, frame(0))
    frames = [frame(number, depth=0.3) for number in range(1, 12)]
    for number, same in enumerate(frames):
        shown = show(camera, judged, same)
        assert shown is (same if number < SAME_MAX else frames[0])
    # Stuck for 160 ms: older than the 100 ms that a frame may be, so that HOLD follows in that tick.
    assert frames[SAME_MAX].captured_at_s - frames[0].captured_at_s == pytest.approx(0.16)
    moving = frame(20)
    assert show(camera, judged, moving) is moving


def test_a_covered_camera_is_not_a_stuck_one(camera, judged) -> None:
    for number in range(20):
        dark = frame(number, depth=0.0)
        assert show(camera, judged, dark) is dark  # that it shows nothing is for the observation to say


def test_markers_without_any_depth_make_a_camera_stuck_and_good_as_depth_does(camera, judged) -> None:
    """A policy that is told the block's place looks at them alone, and a D435 near the table has no depth."""

    def marked(number: int, off: float) -> Frame:
        return frame(number, depth=0.0)._replace(markers=(Marker(30, np.full((4, 2), off)),))

    shown = [show(camera, judged, marked(number, 0.1)) for number in range(10)]
    assert [one and one.sequence for one in shown] == [*range(SAME_MAX), *[0] * (10 - SAME_MAX)]
    moving = marked(10, 0.2)
    assert show(camera, judged, moving) is moving
    with pytest.raises(ObservationError, match="gone"):
        show(camera, judged, ObservationError("gone"))
    for number in range(11, 10 + GOOD_FRAMES):
        with pytest.raises(ObservationError, match="good frames"):
            show(camera, judged, marked(number, 0.01 * number))
    assert show(camera, judged, marked(20, 0.3)) is not None


@pytest.mark.parametrize("away", ["error", "number back", "leap"])
def test_after_a_reconnect_five_good_frames_come_first(away, camera, judged) -> None:
    show(camera, judged, frame(1000))
    first = {"error": 1001, "number back": 1, "leap": (1 << 32) + 1001}[away]
    if away == "error":
        with pytest.raises(ObservationError, match="gone"):
            show(camera, judged, ObservationError("gone"))
    for number in range(first, first + GOOD_FRAMES - 1):
        with pytest.raises(ObservationError, match=rf"{number - first + 1} good frames have come since, expected 5"):
            show(camera, judged, frame(number))
        with pytest.raises(ObservationError):  # looking again does not count again
            judged.latest()
    last = frame(first + GOOD_FRAMES - 1)
    assert show(camera, judged, last) is last


@pytest.mark.parametrize("bad", [0.0, np.nan])
def test_the_five_must_come_in_a_row(bad, camera, judged) -> None:
    show(camera, judged, frame(0))
    with pytest.raises(ObservationError):
        show(camera, judged, ObservationError("gone"))
    for number in range(1, 4):
        with pytest.raises(ObservationError):
            show(camera, judged, frame(number))
    with pytest.raises(ObservationError, match="0 good frames"):
        show(camera, judged, frame(4, depth=bad))
    for number in range(5, 9):
        with pytest.raises(ObservationError):
            show(camera, judged, frame(number))
    assert show(camera, judged, frame(9)) is not None


@pytest.mark.parametrize("change", ["lens", "serial"])
def test_another_camera_is_refused_until_the_first_is_back(change, camera, judged) -> None:
    show(camera, judged, frame(0))
    other = LENS._replace(fx=61.0) if change == "lens" else LENS
    camera.serial = "B2" if change == "serial" else "A1"
    for number in range(1, 10):
        with pytest.raises(ObservationError, match=r"the camera is 4×3, fx 6\d\.0 px.*expected 4×3, fx 60\.0 px with serial number A1"):
            show(camera, judged, frame(number, lens=other))
    camera.serial = "A1"
    for number in range(10, 14):
        with pytest.raises(ObservationError, match="good frames"):
            show(camera, judged, frame(number))
    assert show(camera, judged, frame(14)) is not None
