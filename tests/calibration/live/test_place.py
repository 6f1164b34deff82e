"""Where a board is, in words that a person can follow; and that following them leads to a lens."""

import numpy as np
import pytest

from calibration import boards
from calibration.detect import Detection
from calibration.live.guides import EDGES, FACING, VIEWS_MAX, VIEWS_MIN, LensGuide, Wanted
from calibration.live.place import Place, place_of
from calibration.opencv import Lens, project
from calibration.simulated import render
from calibration.simulated.camera import MOVES, RESTS, Hand, SimulatedCamera, drawn_optics
from tests.calibration.scenes import BOARD
from tests.calibration.scripted_camera import FACTORY, SIZE

LENS = Lens(FACTORY)
POINTS_M = boards.drawn_points_m(BOARD, np.arange(24))


def seen(pose: np.ndarray) -> Detection:
    return Detection(np.arange(24), project(POINTS_M, pose, LENS), 2.0)


def at_rest(hand: Hand, lens: Lens) -> np.ndarray:
    """Where the hand holds the board next."""
    return [hand(lens) for _ in range(MOVES + RESTS)][-1]


def test_the_edge_that_is_called_nearer_is_nearer() -> None:
    tilted = 0
    for pose in render.poses(60, np.random.default_rng(3), (0.15, 0.3), 0.8, BOARD):
        found, place = seen(pose), place_of(seen(pose), BOARD, LENS)
        depth_m = POINTS_M @ pose[2, :3] + pose[2, 3]
        u, v = found.corners_px.T
        # The plane's slope in depth along the image's axes, by least squares.
        slope = np.linalg.lstsq(np.column_stack((u - u.mean(), v - v.mean())), depth_m - depth_m.mean(), rcond=None)[0]
        if place.edge:
            tilted += 1
            axis = 0 if place.edge in ("left", "right") else 1
            assert (slope[axis] < 0.0) == (place.edge in ("right", "lower")), (place, slope)
        assert place.distance_m == pytest.approx(depth_m.mean(), rel=0.01)
        assert place.fills == pytest.approx(253.0 * 0.175 / 424.0 / depth_m.mean(), rel=0.01)
    assert tilted > 20


@pytest.mark.parametrize(
    ("across", "down", "part"), [(0.5, 0.5, "middle"), (0.1, 0.1, "upper left"), (0.9, 0.5, "right"), (1.2, -0.1, "upper right")]
)
def test_parts_of_the_image_have_names(across, down, part) -> None:
    assert Place(across, down, (0.0, 0.0), 0.2, 0.5).words() == f"{part}, facing the camera, 200 mm away"


def test_a_view_is_like_itself_and_unlike_one_that_differs_by_place_tilt_or_distance() -> None:
    one = Place(0.5, 0.5, (0.0, 0.0), 0.2, 0.5)
    assert one.is_like(one)
    others = (one._replace(across=0.7), one._replace(tilt=(0.3, 0.0)), one._replace(distance_m=0.28))
    assert not any(one.is_like(other) or other.is_like(one) for other in others)


def test_a_guide_wants_what_was_seen_least_and_is_content_in_the_end() -> None:
    guide = LensGuide(SIZE)
    draws = np.random.default_rng(0)
    hand = Hand(BOARD, draws)
    hand.follow(guide.wanted)
    assert guide.wanted.edge in EDGES
    camera = SimulatedCamera(BOARD, drawn_optics(SIZE, 5), 5, hand)
    while not guide.is_complete:
        assert guide.views < VIEWS_MAX
        hand.follow(guide.wanted)
        found = seen(at_rest(hand, camera.lens))
        inside = ((found.corners_px > 2.0) & (found.corners_px < np.array(SIZE) - 3.0)).all(axis=1)
        found = Detection(found.ids[inside], found.corners_px[inside], 2.0)
        place = place_of(found, BOARD, LENS) if inside.sum() >= 6 else None
        if place and not guide.why_not(place):
            guide.add(place, found)
            assert guide.why_not(place) == "seen from here already"
    assert guide.views >= VIEWS_MIN
    assert "corners in" in guide.status()
    assert guide.why_not(Place(0.5, 0.5, (0.0, 0.0), 0.4, 0.26)) == "come nearer: the board fills 26% of the image, expected 45% at least"


@pytest.mark.parametrize("edge", [*EDGES, FACING])
@pytest.mark.parametrize("part", ["upper left", "middle", "lower", "right"])
def test_the_simulated_hand_does_as_it_is_told(part, edge) -> None:
    hand = Hand(BOARD, np.random.default_rng(4))
    hand.follow(Wanted(part, edge))
    places = [place_of(seen(at_rest(hand, LENS)), BOARD, LENS) for _ in range(12)]
    assert np.mean([place.edge == edge for place in places]) > 0.9
    assert np.mean([place.words().startswith(f"{part},") for place in places]) > 0.5
