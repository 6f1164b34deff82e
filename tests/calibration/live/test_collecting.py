"""Images take themselves: sharp, still and new ones only; what is there counts, and nothing is lost when the camera is."""

from pathlib import Path

import numpy as np
import pytest

from calibration.live import camera_file, collecting, display
from calibration.live.collecting import Collection
from calibration.live.guides import DistanceGuide, LensGuide
from calibration.live.stills import Stills
from calibration.session import read_image
from edge.errors import CalibrationError, ConfigError, ObservationError
from tests.calibration.scenes import BOARD
from tests.calibration.scripted_camera import BLACK, NOTHING, SIZE, ScriptedCamera, picture

HERE, THERE = picture(), picture(0.2, 0.5)


def collection(folder: Path, images, guide=None, **options) -> Collection:
    period_s = options.pop("period_s", 0.1)
    return Collection(Stills(ScriptedCamera(images, period_s=period_s)), folder, BOARD, guide or LensGuide(SIZE), **options)


def looked(one: Collection) -> list[collecting.Look]:
    looks = []
    with pytest.raises(ObservationError):
        looks.extend(one.looks())
    return looks


def test_a_still_board_in_a_new_place_is_kept_once(tmp_path) -> None:
    one = collection(tmp_path, [HERE, HERE, HERE, THERE, THERE])
    looks: list[collecting.Look] = []
    with pytest.raises(ObservationError) as gone:
        looks.extend(one.looks())
    names = [(look.name, look.why_not) for look in looks]
    assert names == [("", "hold it still"), ("001.png", ""), ("", "seen from here already"), ("", "hold it still"), ("002.png", "")]
    assert f"brought no new frame for 1.0 s; 2 images are kept in {tmp_path}: start again to go on" in str(gone.value)
    np.testing.assert_array_equal(read_image(tmp_path / "001.png"), HERE)
    assert list(one.session.used) == ["001.png", "002.png"]


def test_a_board_that_moves_is_not_taken(tmp_path) -> None:
    moving = [picture(shift_m=0.005 * step) for step in range(5)]  # 6 px a frame
    assert [look.why_not for look in looked(collection(tmp_path, moving))] == ["hold it still"] * 5
    assert not list(tmp_path.glob("*.png"))


def test_nor_is_a_motion_judged_over_a_pause_or_over_a_lost_board(tmp_path) -> None:
    assert not any(look.name for look in looked(collection(tmp_path, [HERE, HERE], period_s=2.0)))
    assert not any(look.name for look in looked(collection(tmp_path, [HERE, NOTHING, HERE])))


def test_what_is_wrong_with_an_image_is_said(tmp_path) -> None:
    looks = looked(collection(tmp_path, [BLACK] + [NOTHING] * 30 + [HERE, NOTHING]))
    assert all("the image is black" in look.why_not for look in looks[:20])  # why is asked every two seconds, and stands until then
    assert all("no board in view" in look.why_not for look in looks[20:31])
    assert looks[31].why_not == "hold it still"
    assert looks[32].why_not == "0 corners of the board are seen, expected at least 6"


def test_a_minute_without_the_board_ends_it(tmp_path) -> None:
    with pytest.raises(CalibrationError, match="the board was not seen for 60 s, the last image: the image is black.*0 images are kept"):
        list(collection(tmp_path, [BLACK] * 80, period_s=1.0).looks())


def test_it_goes_on_where_it_was(tmp_path) -> None:
    looked(collection(tmp_path, [HERE, HERE]))
    guide = LensGuide(SIZE)
    again = collection(tmp_path, [HERE, HERE, THERE, THERE], guide)
    assert guide.views == 1
    assert [look.name for look in looked(again) if look.name] == ["002.png"]
    assert guide.views == 2


def test_a_folder_of_another_stream_or_camera_is_refused(tmp_path) -> None:
    first = Stills(ScriptedCamera([HERE, HERE]))
    camera_file.keep(tmp_path, first)
    camera_file.keep(tmp_path, first)
    assert camera_file.of(tmp_path).serial == "7"
    with pytest.raises(ConfigError, match=r"has images of camera 7, 424×240, fx 253.0 px, this one is 8, .*take a new folder"):
        camera_file.keep(tmp_path, Stills(ScriptedCamera([], serial="8")))
    collecting.write_image(tmp_path / "by-hand" / "a.png", HERE)
    with pytest.raises(ConfigError, match="camera.json does not tell the camera"):
        camera_file.keep(tmp_path / "by-hand", first)
    large = tmp_path / "large"
    large.mkdir()
    collecting.write_image(large / "a.png", np.kron(HERE, np.ones((2, 2), np.uint8)))
    with pytest.raises(CalibrationError, match="848 × 480 pixels, the camera 424 × 240"):
        collection(large, [])


def test_depth_is_kept_beside_the_image_from_distances_that_differ(tmp_path) -> None:
    guide = DistanceGuide()
    distances = [0.12, 0.12, 0.125, 0.125, 0.14, 0.14, 0.17, 0.17, 0.21, 0.21]
    one = collection(tmp_path, map(picture, distances), guide, keeps_depth=True)
    names = [look.name for look in looked(one) if look.name]
    assert names == ["001.png", "002.png", "003.png", "004.png"]  # 125 mm is like 120
    assert np.load(tmp_path / "004.npy").shape == SIZE[::-1]
    assert not guide.is_complete
    assert "another distance" in guide.advice()
    assert "move it away, to 192 mm" in _advice_after(0.12)
    assert guide.why_not(collecting.place_of(_seen(picture(0.3, 0.8)), BOARD, one._lens)) == "tilted too far"
    assert guide.why_not(collecting.place_of(_seen(picture(0.3, 0.1)), BOARD, one._lens)) == ""


def _seen(image):
    return collecting.detect(image, BOARD)


def _advice_after(distance_m: float) -> str:
    guide = DistanceGuide()
    guide.add(collecting.Place(0.5, 0.5, (0.0, 0.0), distance_m, 0.5), _seen(HERE))
    return guide.advice()


def test_a_board_without_measured_rulers_is_refused_before_the_first_image(tmp_path) -> None:
    from calibration import boards

    with pytest.raises(CalibrationError, match="rulers are not measured"):
        Collection(Stills(ScriptedCamera([])), tmp_path / "new", boards.charuco(), LensGuide(SIZE))
    assert not (tmp_path / "new").exists()


def test_ctrl_c_ends_it_and_so_does_enough(tmp_path, capsys) -> None:
    guide = LensGuide(SIZE)
    one, looks = collection(tmp_path, [HERE, HERE, THERE, THERE], guide), []

    def interrupt(look) -> None:
        looks.append(look)
        if len(looks) == 2:
            raise KeyboardInterrupt

    collecting.fill(one, interrupt, lambda: False)
    assert guide.views == 0
    with display.shown(guide, quiet=False) as show:
        collecting.fill(one, show, lambda: guide.views == 1)
    assert guide.views == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("next: hold it in the")
    assert lines[1].startswith("001.png: middle, facing the camera, 200 mm away; next:")


def test_a_file_that_cannot_be_written_is_one_sentence(tmp_path) -> None:
    folder = tmp_path / "images"
    one = collection(folder, [HERE, HERE])
    folder.rmdir()
    folder.write_bytes(b"")
    with pytest.raises(ConfigError, match=r"001.png cannot be written \(.*\); give a folder"):
        list(one.looks())


def test_the_preview_has_dots_on_corners_and_is_dark_where_nothing_was_seen(tmp_path) -> None:
    cells = np.zeros((6, 8), np.int64)
    cells[:, 4:] = 1
    look = next(collection(tmp_path / "images", [HERE]).looks())
    shown = display.Preview(tmp_path / "latest.png", lambda: cells)
    shown.show(look)
    import cv2

    picture_ = cv2.imread(str(tmp_path / "latest.png"))
    assert picture_.shape == (480, 848, 3)
    is_dot = (picture_[..., 1] == 200) & (picture_[..., 0] == 0)
    assert 24 * 30 < is_dot.sum() < 24 * 100
    assert picture_[5, 5, 0] == HERE[2, 2] // 2
    assert picture_[5, 840, 0] == HERE[2, 420]
    (tmp_path / "latest.png").unlink()
    shown.show(look)
    assert not (tmp_path / "latest.png").exists()  # once a second
    with pytest.raises(ConfigError, match="--preview .* cannot be written"):
        display.Preview(Path("/proc/none/latest.png"), lambda: cells).show(look)
