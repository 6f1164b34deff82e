"""Lenses measured by images that take themselves, beside as many as people take by hand; simulated cameras, whose truth is known."""

import tempfile
from pathlib import Path

import numpy as np
from tables import Bench, Figures

from calibration import boards, coverage, verdict
from calibration.bundle import View
from calibration.detect import detect
from calibration.intrinsics import Calibrated, apart_px, calibrate
from calibration.live import collecting
from calibration.live.guides import VIEWS_MAX, LensGuide
from calibration.live.stills import Stills
from calibration.opencv import Lens
from calibration.simulated.camera import MOVES, RESTS, Hand, SimulatedCamera, drawn_optics
from edge.errors import CalibrationError
from edge.messages import Float64

LENSES = 10
BY_HAND = 30
SIZE = (424, 240)
BOARD = boards.measured(boards.charuco(7, 5), (boards.RULER_MM, boards.RULER_MM))
Seen = list[tuple[np.ndarray, Float64]]  # ids and corners of each view


def bench() -> Bench:
    """How many images it took, how far the lens then is from the truth, and how far what the factory says."""
    found: dict[str, list[Figures]] = {"images that take themselves": [], f"{BY_HAND} by hand, anywhere": []}
    for seed in range(1, LENSES + 1):
        for name, take in zip(found, (_by_themselves, _by_hand), strict=True):
            found[name].append(take(seed))
    notes = (
        f"{LENSES} simulated cameras of {SIZE[0]} × {SIZE[1]} pixels before 7 × 5 squares of 25 mm. Off the truth: at most anywhere in the "
        "image, after the turn that explains most of it. By hand: a board at random places and tilts up to 40°, each image used."
    )
    return Bench("Lenses", {name: _summary(figures) for name, figures in found.items()}, {}, notes)


def _by_themselves(seed: int) -> Figures:
    hand = Hand(BOARD, np.random.default_rng((seed, 3, 0)))
    camera = SimulatedCamera(BOARD, drawn_optics(SIZE, seed), seed, hand)
    guide = LensGuide(SIZE)
    with tempfile.TemporaryDirectory() as folder:
        collection = collecting.Collection(Stills(camera), Path(folder), BOARD, guide)

        def seen() -> Seen:
            found = [one.detection() for one in collection.session.used.values()]
            return [(one.ids, one.corners_px) for one in found]

        def is_enough() -> bool:
            if guide.views >= VIEWS_MAX or not guide.is_complete:
                return guide.views >= VIEWS_MAX
            views = seen()
            judged = verdict.figures(_solved(views, camera), coverage.counts((corners for _, corners in views), SIZE))
            return all(one.state == "good" for one in judged)

        collecting.fill(collection, lambda look: hand.follow(guide.wanted), is_enough)
        return _figures(seen(), camera)


def _by_hand(seed: int) -> Figures:
    hand = Hand(BOARD, np.random.default_rng((seed, 4)))

    poses: list[Float64] = []

    def at_rest(lens: Lens) -> Float64:
        """The next place, twice: the second frame is not smeared."""
        if not poses:
            poses.extend([[hand(lens) for _ in range(MOVES + RESTS)][-1]] * 2)
        return poses.pop()

    camera, views = SimulatedCamera(BOARD, drawn_optics(SIZE, seed), seed, at_rest), Seen()
    while len(views) < BY_HAND:
        camera.latest()
        image = camera.latest().image
        assert image is not None
        try:
            found = detect(image, BOARD, explains=False)
        except CalibrationError:
            continue
        views.append((found.ids, found.corners_px))
    return _figures(views, camera)


def _solved(views: Seen, camera: SimulatedCamera) -> Calibrated:
    return calibrate([View(str(i), boards.points_m(BOARD, ids), corners) for i, (ids, corners) in enumerate(views)], SIZE, camera.factory)


def _figures(views: Seen, camera: SimulatedCamera) -> Figures:
    lens = _solved(views, camera).fit.lens
    return {
        "images": len(views),
        "off, px": apart_px(lens, camera.lens),
        "fx off, %": 100.0 * abs(lens.intrinsics.fx / camera.lens.intrinsics.fx - 1.0),
        "as delivered, px": apart_px(Lens(camera.factory), camera.lens),
    }


def _summary(figures: list[Figures]) -> Figures:
    summary: Figures = {}
    for name in figures[0]:
        each = [one[name] for one in figures]
        summary |= {f"{name}\nmedian": float(np.median(each)), f"{name}\nmost": max(each)}
    return summary
