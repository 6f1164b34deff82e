"""A frame becomes the network's input in one way only: invalid pixels are one value, and what cannot be depth in metres is refused."""

import math

import msgspec
import numpy as np
import pytest

from edge import kinematics
from edge.contract import DepthInput
from edge.errors import ObservationError
from edge.kinematics import Mount
from edge.messages import Frame, Intrinsics, ToolPose
from edge.observation import depth_input, holds_block, proprio_input
from trainer import spec

CONTRACT = spec.contract()
CAMERA = CONTRACT.camera.intrinsics
WANTED = DepthInput(name="depth", near_m=0.04, far_m=0.36, invalid_value=0.0, max_invalid_fraction=0.6)
SHAPE = (CAMERA.height, CAMERA.width)
# A D405 at 424×240: 90° across and 59° down. One with 10 % more focal length sees less than the policy's camera.
D405 = Intrinsics(424, 240, 212.5, 212.5, 211.5, 119.5)


def frame(depth_m: np.ndarray | float, intrinsics: Intrinsics = CAMERA) -> Frame:
    shape = (intrinsics.height, intrinsics.width)
    return Frame(np.broadcast_to(np.float32(depth_m), shape).copy(), intrinsics, 0.0, 0)


def convert(depth_m: np.ndarray | float, wanted: DepthInput = WANTED) -> np.ndarray:
    return depth_input(frame(depth_m), wanted, CAMERA)


def test_depth_maps_near_to_zero_and_far_to_one_and_ends_there() -> None:
    for depth_m, value in (
        (0.04, 0.0),
        (0.36, 1.0),
        (0.2, 0.5),
        (0.039, 0.0),
        (0.0401, 0.0001 / 0.32),
        (0.3601, 1.0),
        (3.0, 1.0),
        (1e-6, 0.0),
    ):
        image = convert(depth_m)
        assert image.dtype == np.float32
        assert image.shape == SHAPE
        assert image == pytest.approx(value, abs=2e-7)
        assert image.min() >= 0.0
        assert image.max() <= 1.0


@pytest.mark.parametrize("value", [0.0, -0.0, -0.2, -math.inf, math.inf, math.nan, -1e30])
@pytest.mark.parametrize("invalid_value", [0.0, 1.0, 0.25])
def test_a_pixel_without_depth_becomes_the_invalid_value_and_no_other_changes(value: float, invalid_value: float) -> None:
    depth_m = np.full(SHAPE, 0.1, np.float32)
    depth_m[5, 7] = value
    image = convert(depth_m, msgspec.structs.replace(WANTED, invalid_value=invalid_value))
    assert image[5, 7] == np.float32(invalid_value)
    image[5, 7] = image[0, 0]
    assert image == pytest.approx((0.1 - 0.04) / 0.32, abs=1e-6)


def test_a_denormal_depth_is_a_depth() -> None:
    depth_m = np.full(SHAPE, 0.1, np.float32)
    depth_m[5, 7] = np.finfo(np.float32).smallest_subnormal
    assert convert(depth_m, msgspec.structs.replace(WANTED, invalid_value=0.5))[5, 7] == 0.0


def test_the_frame_is_left_as_it_was() -> None:
    depth_m = np.linspace(-0.1, 0.4, SHAPE[0] * SHAPE[1], dtype=np.float32).reshape(SHAPE)
    before = depth_m.copy()
    image = depth_input(Frame(depth_m, CAMERA, 0.0, 0), WANTED, CAMERA)
    assert np.array_equal(depth_m, before)
    assert not np.shares_memory(image, depth_m)


@pytest.mark.parametrize(("invalid", "accepted"), [(0, True), (2047, True), (2048, True), (2049, False), (4095, False), (4096, False)])
def test_a_frame_with_too_little_depth_is_refused(invalid: int, accepted: bool) -> None:
    depth_m = np.full(SHAPE, 0.1, np.float32)  # 4096 pixels
    depth_m.reshape(-1)[:invalid] = 0.0
    half = msgspec.structs.replace(WANTED, max_invalid_fraction=0.5)
    if accepted:
        convert(depth_m, half)
        return
    with pytest.raises(ObservationError, match=r"\d+% of the depth pixels are invalid, expected at most 50%"):
        convert(depth_m, half)


def test_a_frame_that_shows_nothing_is_refused_even_if_the_contract_allows_it() -> None:
    with pytest.raises(ObservationError):
        convert(0.0, msgspec.structs.replace(WANTED, max_invalid_fraction=1.0))


@pytest.mark.parametrize("scale", [100.0, 1000.0, 10_000.0])
def test_millimetres_and_counts_are_refused(scale: float) -> None:
    """A D405 counts in 0.1 mm, other cameras in millimetres; the nearest the block comes is 84 mm."""
    depth_m = np.random.default_rng(0).uniform(0.09, 0.3, SHAPE).astype(np.float32)
    depth_m[0, :10] = 0.0
    with pytest.raises(ObservationError, match="expected metres"):
        convert(depth_m * np.float32(scale))


@pytest.mark.parametrize(
    "depth_m",
    [
        np.full(SHAPE, 0.1),
        np.full(SHAPE, 100, np.uint16),
        np.full(SHAPE, 0.1, np.float16),
        np.full((1, *SHAPE), 0.1, np.float32),
        np.full((*SHAPE, 1), 0.1, np.float32),
        np.full((SHAPE[0] - 1, SHAPE[1]), 0.1, np.float32),
        np.full((SHAPE[0] * SHAPE[1],), 0.1, np.float32),
        np.full((0, 0), 0.1, np.float32),
    ],
    ids=lambda depth_m: f"{depth_m.dtype} {depth_m.shape}",
)
def test_another_dtype_or_shape_is_refused(depth_m: np.ndarray) -> None:
    with pytest.raises(ObservationError, match=r"expected float32 \(64, 64\) metres"):
        depth_input(Frame(depth_m, CAMERA, 0.0, 0), WANTED, CAMERA)


def test_a_frame_that_is_not_contiguous_is_read_in_the_right_order() -> None:
    depth_m = np.random.default_rng(0).uniform(0.05, 0.3, (SHAPE[1], SHAPE[0])).astype(np.float32).T
    for intrinsics in (CAMERA, CAMERA._replace(fx=CAMERA.fx * 0.999999)):  # as it is, and resampled to the same pixels
        image = depth_input(Frame(depth_m, intrinsics, 0.0, 0), WANTED, CAMERA)
        assert np.array_equal(image, convert(np.ascontiguousarray(depth_m)))


def test_a_bigger_frame_gives_what_the_virtual_camera_would_have_seen() -> None:
    render = pytest.importorskip("trainer.render")
    mount = Mount(0.388, inverted=True)
    tool = kinematics.transform_tool_to_table(kinematics.solve(ToolPose(0.01, 0.12, 0.05, 0.0, math.pi), mount), mount)
    block = np.eye(4)
    block[:3, :3] = [[0.8, -0.6, 0.0], [0.6, 0.8, 0.0], [0.0, 0.0, 1.0]]
    block[:3, 3] = (0.02, 0.11, 0.015)
    images = []
    for intrinsics in (CAMERA, D405):
        renderer = render.DepthRenderer(intrinsics, np.array(CONTRACT.camera.transform_camera_to_tool))
        depth_m = renderer.render(tool, [(render.BOX, np.full(3, 0.015), block)])
        images.append(depth_input(Frame(depth_m, intrinsics, 0.0, 0), WANTED, CAMERA))
    difference = np.abs(images[0] - images[1])
    assert images[0].min() < 0.75 * images[0].max(), "the block must be in view"
    # A pixel of the frame is at most half a pixel off, which moves the table by 0.8 mm at most, and edges by a pixel.
    assert np.median(difference) < 0.001 / 0.32
    assert np.mean(difference > 0.002 / 0.32) < 0.03


def test_every_pixel_is_the_frame_pixel_nearest_to_its_ray() -> None:
    columns = np.broadcast_to(np.arange(D405.width, dtype=np.float32), (D405.height, D405.width))
    rows = np.broadcast_to(np.arange(D405.height, dtype=np.float32)[:, None], (D405.height, D405.width))
    wide = msgspec.structs.replace(WANTED, near_m=1e-9, far_m=1000.0)
    for pixels, focal, centre, own_focal, own_centre in (
        (columns, D405.fx, D405.cx, CAMERA.fx, CAMERA.cx),
        (rows, D405.fy, D405.cy, CAMERA.fy, CAMERA.cy),
    ):
        found = depth_input(Frame(pixels + 1.0, D405, 0.0, 0), wide, CAMERA) * 1000.0 - 1.0
        line = found[0] if pixels is columns else found[:, 0]
        ray = (line - centre) / focal - (np.arange(64) - own_centre) / own_focal
        assert np.abs(ray).max() <= 0.5001 / focal


@pytest.mark.parametrize(
    ("narrow", "refused"),
    [
        (D405, False),
        (D405._replace(fx=235.0, fy=235.0), True),
        (D405._replace(fx=300.0, fy=300.0), True),
        (D405._replace(cy=100.0), True),
        (D405._replace(cy=139.0), True),
        (D405._replace(cx=100.0), True),
        (D405._replace(cx=323.0), True),
        (D405._replace(width=200, cx=99.5), True),
    ],
)
def test_a_frame_that_does_not_show_all_is_refused(narrow: Intrinsics, refused: bool) -> None:
    if not refused:
        depth_input(frame(0.1, narrow), WANTED, CAMERA)
        return
    with pytest.raises(ObservationError, match=f"a {narrow.width}×240 frame .* does not cover the policy's view; use a wider profile"):
        depth_input(frame(0.1, narrow), WANTED, CAMERA)


def test_the_edge_of_a_frame_is_used_to_its_last_pixel() -> None:
    edge = (CAMERA.width - 1) / 2 / CAMERA.fx  # tangent of the outermost ray
    exact = Intrinsics(101, 101, 50.0 / edge, 50.0 / edge, 50.0, 50.0)
    depth_input(frame(0.1, exact), WANTED, CAMERA)
    depth_input(frame(0.1, exact._replace(cx=50.4, cy=49.6)), WANTED, CAMERA)
    for off in (50.6, 49.4):
        with pytest.raises(ObservationError):
            depth_input(frame(0.1, exact._replace(cx=off)), WANTED, CAMERA)


def test_proprio_is_what_was_sent_in_metres_and_how_far_that_went() -> None:
    vector = proprio_input(ToolPose(0.01, 0.12, 0.05, 0.3, 0.4), ToolPose(0.007, 0.125, 0.06), 37)
    assert vector.dtype == np.float32
    assert vector == pytest.approx([0.01, 0.12, 0.05, 37.0, 0.003, -0.005], abs=1e-9)
    assert len(vector) == len(CONTRACT.proprio.fields)


@pytest.mark.parametrize("intrinsics", [CAMERA, D405], ids=["virtual", "D405"])
def test_a_held_block_is_told_from_the_table(intrinsics: Intrinsics) -> None:
    render = pytest.importorskip("trainer.render")
    mount = Mount(0.388, inverted=True)
    tool = kinematics.transform_tool_to_table(kinematics.solve(ToolPose(0.0, 0.15, 0.08, 0.0, math.pi), mount), mount)
    renderer = render.DepthRenderer(intrinsics, np.array(CONTRACT.camera.transform_camera_to_tool))
    block = np.eye(4)
    for height_m, x_m, held in ((0.08, 0.0, True), (0.075, 0.004, True), (0.09, 0.0, True), (0.015, 0.0, False), (0.08, 0.05, False)):
        block[:3, 3] = (x_m, 0.15, height_m)
        depth_m = renderer.render(tool, [(render.BOX, np.full(3, 0.015), block)])
        assert holds_block(Frame(depth_m, intrinsics, 0.0, 0), CONTRACT.camera, CONTRACT.episode) is held
    assert not holds_block(frame(0.0, intrinsics), CONTRACT.camera, CONTRACT.episode)
    assert not holds_block(frame(math.nan, intrinsics), CONTRACT.camera, CONTRACT.episode)


@pytest.mark.parametrize("factor", [20.0, 1000.0, 10_000.0])
@pytest.mark.parametrize("depth_m", [0.1, 0.25], ids=["held", "table"])
def test_whether_a_block_is_held_is_not_told_from_depth_in_another_unit(depth_m: float, factor: float) -> None:
    with pytest.raises(ObservationError, match=r"the nearest depth is .*, expected metres below .*; multiply by the camera's depth scale"):
        holds_block(frame(depth_m * factor), CONTRACT.camera, CONTRACT.episode)


@pytest.mark.parametrize(("depth_m", "held"), [(0.1, True), (0.25, False)])
def test_saturated_pixels_do_not_hide_a_held_block(depth_m: float, held: bool) -> None:
    image = np.full(SHAPE, 65.535, np.float32)  # 16 bits of millimetres
    image[::3, ::3] = depth_m
    assert holds_block(frame(image), CONTRACT.camera, CONTRACT.episode) is held
