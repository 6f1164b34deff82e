"""Markers are found where the image is taken, and only their rays go on; what cannot be searched is refused in one sentence."""

import sys
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

pytest.importorskip("cv2", reason="OpenCV is not installed here")

from calibration.boards import MarkerBoard, Placed  # noqa: E402
from calibration.opencv import Image, Lens  # noqa: E402
from calibration.simulated import render  # noqa: E402
from edge.cameras.capture import CaptureProcess  # noqa: E402
from edge.cameras.markers import MARKER_MIN_PX, MarkerCamera, Marking, looking  # noqa: E402
from edge.errors import ConfigError, MissingExtraError, ObservationError  # noqa: E402
from edge.messages import Frame, Intrinsics  # noqa: E402
from tests.calibration.scenes import facing  # noqa: E402

ROOT = Path(__file__).parents[3]
LENS = Intrinsics(424, 240, 214.0, 214.0, 211.5, 119.5)
BENT = (-0.10, 0.05, 0.001, -0.0005, 0.0)
MARKING = Marking("DICT_4X4_50", (30, 31, 32), 0.11)
FAR_M = 0.2
WIDE_M = (0.070, 0.030)


def paper(*markers: int, dictionary: str = "DICT_4X4_50") -> MarkerBoard:
    """Two markers beside each other."""
    placed = tuple(Placed(marker, 0.0025 + 0.040 * place, 0.0025, 0.025) for place, marker in enumerate(markers))
    return MarkerBoard(size_m=WIDE_M, markers=placed, dictionary=dictionary)


def picture(board: MarkerBoard, distortion: tuple[float, ...] = (0.0,) * 5) -> Image:
    return render.view(board, facing(FAR_M, WIDE_M), Lens(LENS, distortion))  # type: ignore[arg-type]


class FakeCamera:
    serial = "42"

    def __init__(self, image: Image | None) -> None:
        self.frame = Frame(np.full((240, 424), 0.2, np.float32), LENS, 12.5, 1, image)
        self.is_closed = False

    def start(self) -> Intrinsics:
        return LENS

    def latest(self) -> Frame | None:
        return self.frame

    def close(self) -> None:
        self.is_closed = True


def opened(image: Image | None, marking: Marking = MARKING) -> tuple[MarkerCamera, FakeCamera]:
    inner = FakeCamera(image)
    camera = MarkerCamera(inner, marking)
    assert camera.latest() is None
    assert camera.start() == LENS
    return camera, inner


@pytest.mark.parametrize("distortion", [(0.0,) * 5, BENT], ids=["pinhole", "distorted"])
def test_the_rays_go_to_the_corners_and_the_picture_does_not_go_on(distortion: tuple[float, ...]) -> None:
    marking = replace(MARKING, lens=LENS, distortion=distortion)
    camera, inner = opened(render.noisy(picture(paper(32, 30), distortion), 2.0, np.random.default_rng(0)), marking)
    frame = camera.latest()
    assert frame.image is None
    assert [one.id for one in frame.markers] == [30, 32]
    for one in frame.markers:
        left_m = (0.0025 if one.id == 32 else 0.0425) - WIDE_M[0] / 2.0
        corners_m = np.array(((0.0, 0.0), (0.025, 0.0), (0.025, 0.025), (0.0, 0.025))) + (left_m, 0.0025 - WIDE_M[1] / 2.0)
        np.testing.assert_allclose(one.rays, corners_m / FAR_M, atol=0.3 / LENS.fx)  # a third of a pixel
    assert frame._replace(markers=None, image=inner.frame.image) == inner.frame
    assert camera.latest() is frame  # searched once
    assert camera.serial == "42"
    camera.close()
    assert inner.is_closed


@pytest.mark.parametrize(
    "image",
    [np.full((240, 424), 120, np.uint8), picture(paper(33)), picture(paper(30, dictionary="DICT_5X5_50"))],
    ids=["nothing", "another marker", "another dictionary"],
)
def test_what_shows_none_of_the_markers_has_none(image: Image) -> None:
    camera, _ = opened(image)
    assert camera.latest().markers == ()


def test_a_mirrored_marker_is_none() -> None:
    camera, _ = opened(np.ascontiguousarray(picture(paper(30))[:, ::-1]))
    assert camera.latest().markers == ()


def test_two_with_one_number_are_two() -> None:
    camera, _ = opened(picture(paper(30, 30)))
    assert [one.id for one in camera.latest().markers] == [30, 30]


def test_a_frame_without_a_picture_is_refused_from_the_start_on() -> None:
    with pytest.raises(ObservationError, match="brings no grey image, which markers are looked for in"):
        opened(None)
    camera, inner = opened(picture(paper(30)))
    inner.frame = inner.frame._replace(image=None, sequence=2)
    with pytest.raises(ObservationError, match="brings no grey image"):
        camera.latest()


def test_markers_that_are_too_small_to_be_read_are_refused_before_anything_moves() -> None:
    limit = MARKER_MIN_PX / LENS.fx
    opened(picture(paper(30)), replace(MARKING, narrowest=limit + 1e-9))
    for marking in (replace(MARKING, narrowest=limit - 1e-6), replace(MARKING, lens=LENS._replace(fx=57.0))):
        with pytest.raises(ObservationError, match=r"a marker is \d+ px wide from where the descent begins, expected at least 15; choose"):
            opened(picture(paper(30)), marking)


@pytest.mark.parametrize(
    ("marking", "says"),
    [
        (replace(MARKING, dictionary="DICT_4x4"), "there is no dictionary 'DICT_4x4', expected one of DICT_4X4_50"),
        (replace(MARKING, markers=(30, 50)), "DICT_4X4_50 has no marker 50, expected 0 to 49; take a larger dictionary"),
    ],
)
def test_a_marker_that_there_is_not_is_named(marking: Marking, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        opened(picture(paper(30)), marking)


def test_without_opencv_the_import_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [name for name in sys.modules if name.partition(".")[0] in ("cv2", "calibration")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(MissingExtraError, match=r"cv2 is not installed; run: pip install 'dofbot-grasp\[vision\]'"):
        opened(picture(paper(30)))


def test_in_the_capture_process_it_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    np.save(tmp_path / "picture.npy", picture(paper(31)))
    (tmp_path / "camera_with_a_picture.py").write_text(
        "import time\n"
        "import numpy as np\n"
        "from edge.messages import Frame, Intrinsics\n"
        "LENS = Intrinsics(424, 240, 214.0, 214.0, 211.5, 119.5)\n"
        "class Camera:\n"
        "    serial = '123'\n"
        "    def __init__(self, file):\n"
        "        self.image = np.load(file)\n"
        "    def start(self):\n"
        "        return LENS\n"
        "    def latest(self):\n"
        "        now_s = time.monotonic()\n"
        "        return Frame(np.full((240, 424), 0.2 + now_s % 1e-3, np.float32), LENS, now_s, int(now_s * 50), self.image)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    here, _ = opened(picture(paper(31)))
    for marking, says in ((MARKING, ""), (replace(MARKING, dictionary="DICT_4x4"), "there is no dictionary 'DICT_4x4'")):
        arguments = looking(marking, "camera_with_a_picture:Camera", (str(tmp_path / "picture.npy"),))
        camera = CaptureProcess(*arguments, first_frame_within_s=60.0, restart_after_s=5.0)
        try:
            if says:
                with pytest.raises(ObservationError, match=says):
                    camera.start()
                continue
            camera.start()
            frame = camera.latest()
            assert frame is not None
            assert frame.image is None
            (found,), (expected,) = frame.markers, here.latest().markers
            assert found.id == expected.id == 31
            np.testing.assert_array_equal(found.rays, expected.rays)
            assert camera.serial == "123"
        finally:
            camera.close()
    assert looking(None, "a:b", (1, "c")) == ("a:b", (1, "c"))
