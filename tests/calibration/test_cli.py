"""From the command line: a board, a lens from a folder of images, a block, and whether the camera has moved; refusals write nothing."""

import io
import json
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from calibration import boards, depth, session
from calibration.commands import intrinsics
from calibration.opencv import Image, Lens, project
from calibration.simulated import render
from edge import calibration as files
from edge.cameras import camera_check
from edge.config import CalibrationConfig
from edge.errors import CalibrationError, ConfigError
from tests.calibration.command_line import refusal, run
from tests.calibration.scenes import BOARD, LENS, facing, views


@pytest.fixture
def printed(tmp_path: Path) -> Path:
    path = tmp_path / "board.json"
    boards.save(path, BOARD)
    return path


def put(folder: Path, images: dict[str, Image]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, image in images.items():
        assert cv2.imwrite(str(folder / name), image)
    return folder


def calibrated(path: Path) -> Path:
    """A calibration file that has the lens of the scenes."""
    lens = files.Lens("7", LENS.intrinsics, LENS.distortion, files.made("test"))
    files.save(path, files.Calibration(files.SCHEMA_VERSION, "ab", 0.388, True, "pca9685", lens=lens))
    return path


def test_a_board_is_written_with_its_description(tmp_path: Path) -> None:
    result = run("board", "charuco", "--out", tmp_path / "board.pdf", "--json")
    assert result.exit_code == 0, result.output
    written = json.loads(result.output)
    assert Path(written["pdf"]).read_bytes().startswith(b"%PDF")
    assert boards.load(Path(written["board"])) == boards.charuco()
    assert "odd number" in refusal(run("board", "charuco", "--rows", 6, "--out", tmp_path / "no.pdf"), ConfigError)
    assert not (tmp_path / "no.pdf").exists()
    assert run("ruler", written["board"], 100.4, 99.8).exit_code == 0
    assert boards.load(Path(written["board"])).ruler_mm == (100.4, 99.8)
    assert "along y is 9.98 mm" in refusal(run("ruler", written["board"], 100.4, 9.98), ConfigError)


def test_the_largest_board_can_be_read_again_and_no_page_is_lost_under_its_description(tmp_path: Path) -> None:
    largest = run("board", "charuco", "--columns", 3, "--rows", 31, "--square-mm", 5, "--out", tmp_path / "large.pdf")
    assert largest.exit_code == 0, largest.output
    assert run("ruler", tmp_path / "large.json", 100, 100).exit_code == 0
    assert "expected a PDF" in refusal(run("board", "charuco", "--out", tmp_path / "board.json"), ConfigError)
    assert not (tmp_path / "board.json").exists()


def test_only_new_images_are_looked_at_and_refusals_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = [image for _, image in views()]
    folder = put(tmp_path / "images", {"a.png": images[1], "b.png": np.full((480, 640), 120, np.uint8)})
    first = session.look(folder, BOARD)
    assert list(first.used) == ["a.png"]
    assert first.images["b.png"].refused.startswith("no board in view")
    looked = []
    monkeypatch.setattr(session, "detect", lambda image, board: looked.append(1) or (_ for _ in ()).throw(CalibrationError("no")))
    put(folder, {"c.png": images[2]})
    again = session.look(folder, boards.measured(BOARD, (101.0, 101.0)))  # other rulers find the same corners
    assert again.images["a.png"] == first.images["a.png"]
    assert len(looked) == 1
    session.look(folder, boards.charuco(columns=7, rows=9))
    assert len(looked) == 4  # another board: everything anew


@pytest.mark.parametrize(
    "damage",
    [
        lambda seen: seen["ids"].__setitem__(3, 73),  # one flipped bit: no corner of this board
        lambda seen: seen["ids"].__setitem__(3, seen["ids"][5]),
        lambda seen: seen["ids"].pop(),
    ],
)
def test_an_image_is_looked_at_again_where_what_was_kept_of_it_is_damaged(tmp_path: Path, damage) -> None:
    folder = put(tmp_path / "images", {"a.png": views()[1][1]})
    first = session.look(folder, BOARD)
    kept = json.loads((folder / session.NAME).read_text())
    damage(kept["images"]["a.png"])
    (folder / session.NAME).write_text(json.dumps(kept))
    assert session.look(folder, BOARD) == first


def test_what_cannot_be_read_or_kept_in_the_folder_is_one_sentence(tmp_path: Path, printed: Path) -> None:
    folder = put(tmp_path / "images", {"a.png": views()[1][1]})
    common = ("intrinsics", "--images", folder, "--board", printed, "--serial", "7", "--calibration", tmp_path / "calibration.json")
    (folder / session.NAME).mkdir()
    assert "session.json cannot be written" in refusal(run(*common), ConfigError)
    (folder / session.NAME).rmdir()
    for make, remove in ((Path.mkdir, Path.rmdir), (lambda path: path.symlink_to("nowhere"), Path.unlink)):
        make(folder / "b.png")
        assert "b.png cannot be read" in refusal(run(*common), ConfigError)
        remove(folder / "b.png")
    size = zlib.crc32(header := b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0))
    (folder / "b.png").write_bytes(b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", size))
    assert "b.png is no image that can be read" in refusal(run(*common), ConfigError)
    (folder / "b.png").unlink()
    put(folder, {"b.png": np.full((1, 3), 120, np.uint8)})
    assert "1 views show the board" in refusal(run(*common), CalibrationError)  # such a one shows none
    (folder / session.NAME).write_bytes(b'{"board":{"a":' + 100_000 * b"[")
    assert "1 views show the board" in refusal(run(*common), CalibrationError)


def test_images_of_mixed_size_and_files_that_are_none_are_refused(tmp_path: Path, printed: Path) -> None:
    image = views()[1][1]
    folder = put(tmp_path / "images", {"a.png": image, "b.png": cv2.resize(image, (960, 720), interpolation=cv2.INTER_CUBIC)})
    common = ("--board", printed, "--serial", "7", "--calibration", tmp_path / "calibration.json")
    assert "a.png has 640 × 480 pixels and b.png has 960 × 720" in refusal(run("intrinsics", "--images", folder, *common), CalibrationError)
    (folder / "c.png").write_bytes(b"no picture")
    assert "c.png is no image" in refusal(run("intrinsics", "--images", folder, *common), ConfigError)
    assert "has no image" in refusal(run("intrinsics", "--images", tmp_path / "none", *common), ConfigError)
    unmeasured = tmp_path / "unmeasured.json"
    boards.save(unmeasured, boards.charuco())
    assert "--ruler-mm" in refusal(run("intrinsics", "--images", folder, "--board", unmeasured, *common[2:]), CalibrationError)
    assert not (tmp_path / "calibration.json").exists()


def corners_only(folder: Path, count: int, seed: int, spoilt_px: float = 0.0) -> None:
    """A session as if images had been looked at: small files with the digest that belongs to them, and a lens's corners."""
    rng = np.random.default_rng(seed)
    seen = {}
    points_m = boards.drawn_points_m(BOARD, np.arange(24))
    put(folder, {f"{i}.png": np.full((2, 2), i, np.uint8) for i in range(count)})
    for i, pose in enumerate(render.poses(count, rng, (0.15, 0.28), 0.8, BOARD)):
        pose[:2, 3] += rng.uniform(-0.05, 0.05, 2)
        pixels = project(points_m, pose, LENS)
        inside = ((pixels > 2.0) & (pixels < (637.0, 477.0))).all(axis=1)
        pixels += rng.normal(0.0, 0.07 + spoilt_px, pixels.shape)
        digest = session.hashlib.sha256((folder / f"{i}.png").read_bytes()).hexdigest()
        corners = tuple(map(tuple, pixels[inside].tolist()))
        seen[f"{i}.png"] = session.Seen(digest, 640, 480, "", tuple(np.flatnonzero(inside).tolist()), corners, 2.0)
    (folder / session.NAME).write_bytes(session.msgspec.json.encode(session.Session(BOARD, seen)))


def test_a_lens_is_written_with_its_report_and_a_poor_one_is_not(tmp_path: Path, printed: Path) -> None:
    corners_only(tmp_path / "images", 16, seed=1)
    path, page = tmp_path / "calibration.json", tmp_path / "report.html"
    common = ("--board", printed, "--serial", "7", "--calibration", path)
    result = run("intrinsics", "--images", tmp_path / "images", *common, "--report", page, "--factory", 605, 605, 320, 240)
    assert result.exit_code == 0, result.output
    lens = files.load(path).lens
    assert lens is not None
    assert lens.serial == "7"
    assert lens.intrinsics.fx == pytest.approx(610.0, abs=5.0 * lens.made.sigma["fx"])
    assert {"fx", "fy", "cx", "cy"} <= set(lens.made.sigma)
    assert "<svg" in page.read_text(encoding="utf-8")
    corners_only(tmp_path / "poor", 12, seed=2, spoilt_px=2.0)
    before = path.read_bytes()
    assert "reprojection error" in refusal(run("intrinsics", "--images", tmp_path / "poor", *common), CalibrationError)
    assert path.read_bytes() == before


def test_watching_goes_on_until_the_lens_is_good(tmp_path: Path, printed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, path = tmp_path / "images", tmp_path / "calibration.json"
    folder.mkdir()
    waits = []

    def more(_: Path) -> None:
        waits.append(len(list(folder.iterdir())))
        corners_only(folder, (5, 20)[len(waits) - 1], seed=1)

    monkeypatch.setattr(intrinsics, "_wait_for_images", more)
    result = run("intrinsics", "--images", folder, "--board", printed, "--serial", "7", "--calibration", path, "--watch")
    assert result.exit_code == 0, result.output
    assert len(waits) == 2  # nothing yet; too few; good
    assert "has no image" in result.output
    assert "5 views show the board, expected at least 8" in result.output
    assert files.load(path).lens is not None


def test_a_block_on_a_crossing_of_the_grid_is_there(tmp_path: Path) -> None:
    grid, blocks = (boards.measured(board, (100.0, 100.0)) for board in (boards.grid(), boards.blocks()))
    for name, board in (("grid", grid), ("blocks", blocks)):
        boards.save(tmp_path / f"{name}.json", board)
    grid_to_camera = facing(0.45, grid.size_m, tilt_rad=0.2)
    table_to_grid = np.diag((1.0, -1.0, -1.0, 1.0))
    table_to_grid[:2, 3] = grid.table_origin_m
    one = boards.MarkerBoard(size_m=(0.030, 0.030), markers=(boards.Placed(32, 0.0025, 0.0025, 0.025),), dictionary="DICT_4X4_50")
    block_to_table = np.diag((1.0, -1.0, -1.0, 1.0))
    block_to_table[:3, 3] = (0.020 - 0.015, 0.090 + 0.015, 0.030)
    image = render.view(grid, grid_to_camera, LENS)
    cube = render.view(one, grid_to_camera @ table_to_grid @ block_to_table, LENS)
    image = np.where(cube != round(render.DESK), cube, image)
    put(tmp_path, {"scene.png": image})
    calibration = calibrated(tmp_path / "calibration.json")
    options = ("--blocks", tmp_path / "blocks.json", "--grid", tmp_path / "grid.json", "--calibration", calibration)
    result = run("block", tmp_path / "scene.png", *options, "--json")
    assert result.exit_code == 0, result.output
    (found,) = json.loads(result.output)
    np.testing.assert_allclose(found["centre_in_table_m"], (0.020, 0.090, 0.015), atol=5e-4)
    assert abs(found["yaw_rad"]) < np.radians(1.0)
    put(tmp_path, {"empty.png": render.view(grid, grid_to_camera, LENS)})
    assert "no block is in" in refusal(run("block", tmp_path / "empty.png", *options), CalibrationError)
    swapped = ("--blocks", tmp_path / "blocks.json", "--grid", tmp_path / "blocks.json", "--calibration", calibration)
    refusal(run("block", tmp_path / "scene.png", *swapped), CalibrationError)


def test_depth_is_corrected_and_kept_beside_the_lens(tmp_path: Path, printed: Path) -> None:
    calibration = calibrated(tmp_path / "calibration.json")
    folder = tmp_path / "pairs"
    for i, distance_m in enumerate((0.22, 0.27, 0.33)):
        pose = facing(distance_m, BOARD.size_m, tilt_rad=0.1)
        put(folder, {f"{i}.png": render.view(BOARD, pose, LENS)})
        np.save(folder / f"{i}.npy", (render.depth(pose, LENS) - np.float32(0.003)) / np.float32(1.01))
    result = run("depth", "--images", folder, "--board", printed, "--calibration", calibration)
    assert result.exit_code == 0, result.output
    found = files.load(calibration)
    assert found.lens is not None
    assert found.depth is not None
    assert found.depth.scale == pytest.approx(1.01, abs=2e-3)
    assert found.depth.offset_m == pytest.approx(0.003, abs=5e-4)
    (folder / "1.npy").unlink()
    assert "1.npy cannot be read" in refusal(
        run("depth", "--images", folder, "--board", printed, "--calibration", calibration), ConfigError
    )
    assert depth.VIEWS_MIN == 3


def test_check_answers_with_its_exit_code(tmp_path: Path, printed: Path) -> None:
    reference = tmp_path / "reference.json"
    options = ("--board", printed, "--reference", reference)
    moved = facing(0.3, BOARD.size_m, 0.1)
    moved[0, 3] += 0.004
    rng = np.random.default_rng(0)
    here = render.view(BOARD, facing(0.3, BOARD.size_m, 0.1), LENS)
    returns = put(tmp_path / "returns", {f"{i}.png": render.noisy(here, 5.0, rng) for i in range(5)})
    now = put(tmp_path / "now", {"0.png": render.noisy(here, 5.0, rng)})
    assert run("check", "--images", now, *options).exit_code == 2  # no reference yet
    assert run("check", "--images", returns, *options, "--learn").exit_code == 2  # through which lens?
    robot = tmp_path / "robot.json"
    lens = files.Lens("7", LENS.intrinsics, LENS.distortion, files.made("test"))
    files.save(robot, files.Calibration(files.SCHEMA_VERSION, "ab", 0.388, True, "pca9685", lens=lens))
    assert run("check", "--images", returns, *options, "--learn", "--calibration", robot).exit_code == 0
    result = run("check", "--images", now, *options, "--json")
    assert result.exit_code == 0
    assert json.loads(result.output)["has_moved"] is False
    knocked = put(tmp_path / "knocked", {"0.png": render.view(BOARD, moved, LENS)})
    asked = CalibrationConfig(str(robot), check_max_age_h=1.0)
    assert run("check", "--images", now, *options, "--calibration", robot).exit_code == 0
    assert camera_check.why_not_armed(asked, camera_check.now()) == ""
    result = run("check", "--images", knocked, *options, "--calibration", robot)
    assert result.exit_code == 1
    assert "MOVED: 4.0" in result.output
    assert "or the board was moved" in result.output
    assert "has moved" in camera_check.why_not_armed(asked, camera_check.now())
    unseen = put(tmp_path / "unseen", {"0.png": np.full((480, 640), 120, np.uint8)})
    assert run("check", "--images", unseen, *options).exit_code == 2


def test_a_lens_is_needed_first(tmp_path: Path, printed: Path) -> None:
    path = tmp_path / "calibration.json"
    files.save(path, files.Calibration(files.SCHEMA_VERSION, "ab", 0.388, True, "pca9685"))
    message = refusal(run("depth", "--images", tmp_path, "--board", printed, "--calibration", path), ConfigError)
    assert "dofbot calibrate intrinsics first" in message
    assert Lens(LENS.intrinsics).distortion == (0.0,) * 5


def test_a_check_is_kept_beside_a_calibration_only(tmp_path: Path, printed: Path) -> None:
    folder, path = put(tmp_path / "returns", {f"{n}.png": views()[1][1] for n in range(5)}), calibrated(tmp_path / "calibration.json")
    common = ("check", "--images", folder, "--reference", tmp_path / "reference.json", "--calibration")
    assert run(*common, path, "--learn", "--board", printed).exit_code == 0
    for wrong in (tmp_path / "calibratoin.json", printed):
        result = run(*common, wrong)
        assert result.exit_code == 2
        assert f"cannot say: calibration {wrong}" in result.output
    assert run(*common, path).exit_code == 0
    assert [found.name for found in tmp_path.glob("*.checked")] == ["calibration.json.checked"]


def _npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"junk",
        b"PK\x03\x04junk",
        _npy(np.ones((480, 640)))[:500],
        _npy(np.full((480, 640), "far")),
        _npy(np.ones(2)).replace(b"(2,)", b"(9" + 15 * b"0" + b",)"),
    ],
)
def test_a_depth_image_that_is_none_is_named(tmp_path: Path, printed: Path, data: bytes) -> None:
    folder = put(tmp_path / "depth", {"a.png": views()[1][1]})
    (folder / "a.npy").write_bytes(data)
    path = calibrated(tmp_path / "calibration.json")
    message = refusal(run("depth", "--images", folder, "--board", printed, "--calibration", path), ConfigError)
    assert "a.npy cannot be read" in message
    assert "expected the depth image of a.png in metres" in message


@pytest.mark.parametrize(
    "factory", [(0, 0, 0, 0), (-605, 605, 320, 240), ("inf", 605, 320, 240), (605, 605, 1e9, 240), (605, 605, 320, -1)]
)
def test_factory_numbers_that_no_lens_has_are_refused(tmp_path: Path, printed: Path, factory: tuple[object, ...]) -> None:
    """The solver went on for ever with some."""
    corners_only(tmp_path / "images", 8, seed=1)
    common = ("--images", tmp_path / "images", "--board", printed, "--serial", "7", "--calibration", tmp_path / "calibration.json")
    assert "expected FX and FY of" in refusal(run("intrinsics", *common, "--factory", *factory), ConfigError)
