"""`dofbot calibrate intrinsics`: the lens, from a folder of images, or from images that the configured camera takes by itself."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from calibration.commands.steps import AsJson, board_of, look_at, print_json, settings_of, simulated, write_parts
from edge.errors import CalibrationError, ConfigError

if TYPE_CHECKING:
    from calibration.boards import Board
    from calibration.intrinsics import Calibrated
    from calibration.live.collecting import Look
    from calibration.opencv import Lens
    from calibration.session import Session
    from calibration.verdict import Figure

POLL_S = 0.5
FOCAL_MIN, FOCAL_MAX = 0.2, 5.0  # of the image's width: fields of view of 136° and 11°

Factory = tuple[float, float, float, float]  # fx, fy, cx, cy


class _Paths(NamedTuple):
    images: Path
    board: Path
    calibration: Path


def intrinsics(
    images: Annotated[
        Path | None, typer.Option(help="Folder of one stream's images; what is found in them is kept there, so more may be added.")
    ] = None,
    board: Annotated[
        Path | None, typer.Option("--board", help="The JSON beside the board's PDF; board.json among the images if left out.")
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option("--calibration", help="The robot's calibration file, made where there is none; among the images if left out."),
    ] = None,
    serial: Annotated[
        str, typer.Option(help="The camera's serial number, where it did not take the images itself: dofbot doctor tells it.")
    ] = "",
    ruler_mm: Annotated[
        tuple[float, float] | None,
        typer.Option("--ruler-mm", metavar="X Y", help="The printed rulers as you measured them; kept in the board's JSON."),
    ] = None,
    factory: Annotated[
        Factory | None,
        typer.Option(
            metavar="FX FY CX CY", help="The stream's intrinsics by the factory: what is not seen stays near them. --live asks the camera."
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", help="TOML file that describes the robot: its camera, and for a new calibration its arm.")
    ] = None,
    live: Annotated[
        bool, typer.Option("--live", help="Take the images: whenever the board is sharp and still in a new place, until the lens is good.")
    ] = False,
    preview: Annotated[
        Path | None, typer.Option(help="--live: write what the camera sees to this PNG file, once a second; dark is what still lacks.")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Wait for more images until every figure is good.")] = False,
    report: Annotated[Path | None, typer.Option(help="Write a page with pictures to this HTML file.")] = None,
    simulate: Annotated[
        bool, typer.Option("--simulate", help="Before a simulated camera a simulated hand follows --live's advice: truth known.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="--simulate: which camera.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Measure the lens: 20 to 40 images of the ChArUco board, tilted by 20° to 45°, near enough to fill the image, in all its parts.

    With --live you hold the board before the camera, and are told where it is missing; images take themselves. Ctrl-C ends it, and what
    is there is solved; started again it goes on. Images of other cameras go into the folder by hand: run it again after every few,
    or with --watch it does so by itself whenever images come. It writes once the result is good enough.
    """
    from calibration import verdict

    if watch and (live or simulate):
        raise ConfigError("--watch waits for images that you save, --live takes them, expected one of both; leave one out")
    if serial and (live or simulate):
        raise ConfigError("--serial with --live, expected none: the camera tells its own; leave it out, or set camera.serial to choose one")
    paths = _simulated(images, board, calibration, seed) if simulate else _given(images, board, calibration)
    drawn = board_of(paths.board, ruler_mm)
    drawn.scale  # noqa: B018 - raises at once where the rulers were not measured, not after a minute
    truth = _collected(paths.images, drawn, config, seed if simulate else None, preview, quiet=as_json) if live or simulate else None
    number, start = _camera_of(paths.images, serial, factory)
    found, judged, session = _solved(paths.images, drawn, start, watch=watch, quiet=as_json)
    if report:
        _write_report(report, found, judged, session, paths.images, drawn)
    part = verdict.lens_part(found, judged, number, drawn)
    write_parts(paths.calibration, config, lens=part)
    off = _off(found.fit.lens, truth) if truth else None
    if as_json:
        told = {"lens": part, "model": found.model, "held_out_px": found.held_out_px, "left_out": found.rejected}
        return print_json(told | {"images": len(session.used), "off_truth": off})
    fx, fy, cx, cy = part.intrinsics[2:]
    typer.echo(f"fx {fx:.2f}, fy {fy:.2f}, cx {cx:.2f}, cy {cy:.2f} px from {len(session.used)} images; written to {paths.calibration}")
    if off:
        typer.echo(
            f"off the truth, which only the simulation knows: fx {off['fx_percent']:+.3f} %, {off['apart_px']:.2f} px at most in the image"
        )
    return None


def _given(images: Path | None, board: Path | None, calibration: Path | None) -> _Paths:
    if images is None:
        raise ConfigError("--images is missing, expected a folder for the images; or try it without a camera: --simulate")
    return _Paths(images, board or images / "board.json", calibration or images / "calibration.json")


def _simulated(images: Path | None, board: Path | None, calibration: Path | None, seed: int) -> _Paths:
    """What a simulated camera is shown, and where that goes; the board is made where none is given."""
    from calibration import boards

    folder = images or Path(f"simulated-lens-{seed}")
    paths = _given(folder, board, None)
    if calibration and calibration != paths.calibration:
        raise ConfigError(f"--calibration {calibration} with --simulate, expected none: a simulated camera's lens goes into {folder} only")
    if board is None and not paths.board.exists():
        boards.save(paths.board, boards.measured(boards.charuco(7, 5), (boards.RULER_MM, boards.RULER_MM)))
    return paths


def _collected(images: Path, board: "Board", config: Path | None, seed: int | None, preview: Path | None, *, quiet: bool) -> "Lens | None":
    """Fill the folder; the true lens of a simulated camera."""
    import numpy as np

    from calibration.live import camera_file, collecting, display, stills
    from calibration.live.guides import VIEWS_MAX, VIEWS_MORE, LensGuide
    from calibration.simulated.camera import Hand

    settings = settings_of(config)
    if preview and preview.parent.resolve() == images.resolve():
        raise ConfigError(f"--preview {preview} lies among the images, expected another folder; it would be taken for one of them")

    hand = camera = None
    if seed is not None:
        taken = len(list(images.glob("*.png")))  # a collection that goes on is not shown the same places again
        hand = Hand(board, np.random.default_rng((seed, 3, taken)))
        camera = simulated(board, settings, seed, hand, quiet=quiet)
    with stills.opened(settings, simulated=camera) as source:
        guide = LensGuide(source.factory[:2])
        camera_file.keep(images, source)
        collection = collecting.Collection(source, images, board, guide)
        picture = display.Preview(preview, lambda: guide.cells) if preview else None
        with display.shown(guide, quiet=quiet) as show:

            def shown(look: "Look | None") -> None:
                show(look)
                if picture and look:
                    picture.show(look)
                if hand:
                    hand.follow(guide.wanted)

            most = max(VIEWS_MAX, guide.views + VIEWS_MORE)

            def is_enough() -> bool:
                if not guide.is_complete or guide.views >= most:
                    return guide.views >= most
                judged = _lens_from(collection.session, board, source.factory[2:], quiet=True)[1]
                return all(one.state == "good" for one in judged)

            collecting.fill(collection, shown, is_enough)
    return camera.lens if camera else None


def _camera_of(images: Path, serial: str, factory: Factory | None) -> tuple[str, Factory | None]:
    """Serial number and the factory's intrinsics: as given, or as the camera said when it took the images."""
    from calibration.live import camera_file

    told = camera_file.of(images)
    if told is None and not serial:
        raise ConfigError("--serial is missing, expected the number of the camera that took the images; dofbot doctor tells it")
    if told is not None and serial not in ("", told.serial):
        raise ConfigError(f"--serial is {serial}, and the images are of camera {told.serial}, expected the same; leave it out")
    if told is None:
        return serial, factory
    return told.serial, factory or told.intrinsics[2:]


def _off(found: "Lens", true: "Lens") -> dict[str, float]:
    """How far a lens is from the true one of a simulated camera."""
    from calibration.intrinsics import apart_px

    return {"fx_percent": 100.0 * (found.intrinsics.fx / true.intrinsics.fx - 1.0), "apart_px": apart_px(found, true)}


def _solved(
    images: Path, board: "Board", factory: Factory | None, *, watch: bool, quiet: bool
) -> "tuple[Calibrated, list[Figure], Session]":
    while True:
        try:
            session = look_at(images, board, quiet=quiet)
            found, judged = _lens_from(session, board, factory, quiet=quiet)
        except (CalibrationError, ConfigError) as error:
            if not watch:
                raise
            typer.echo(f"{error}", err=True)
        else:
            if not watch or all(one.state == "good" for one in judged):
                return found, judged, session
        _wait_for_images(images)


def _lens_from(session: "Session", board: "Board", factory: Factory | None, *, quiet: bool) -> "tuple[Calibrated, list[Figure]]":
    """The lens so far and what speaks for it, with the map of where corners were seen, and what to do next."""
    from calibration import coverage, verdict
    from calibration.boards import points_m
    from calibration.bundle import View
    from calibration.intrinsics import calibrate
    from edge.messages import Intrinsics

    size = session.size
    if factory and not _is_plausible(factory, size):
        raise ConfigError(
            f"--factory is {' '.join(f'{one:g}' for one in factory)}, expected FX and FY of {FOCAL_MIN:g} to {FOCAL_MAX:g} times the "
            f"image's width, and CX, CY in its {size[0]} × {size[1]} pixels; leave it out where you do not know it"
        )
    seen = coverage.counts((one.detection().corners_px for one in session.used.values()), size)
    if not quiet:
        typer.echo(f"corners seen in {coverage.share(seen):.0%} of the image:\n{coverage.picture(seen)}")
    views = [View(name, points_m(board, one.detection().ids), one.detection().corners_px) for name, one in session.used.items()]
    found = calibrate(views, size, Intrinsics(*size, *factory) if factory else None)
    judged = verdict.figures(found, seen)
    for one in judged if not quiet else ():
        advice = "" if one.state == "good" else f"  → {one.remedy}"
        typer.echo(f"{one.state:9} {one.found:8.3g}  (good {one.good:g}, at most {one.limit:g})  {one.name}{advice}")
    return found, judged


def _is_plausible(factory: Factory, size: tuple[int, int]) -> bool:
    *focal, cx, cy = factory
    width, height = size
    return all(FOCAL_MIN * width <= one <= FOCAL_MAX * width for one in focal) and 0.0 <= cx <= width and 0.0 <= cy <= height


def _wait_for_images(folder: Path) -> None:
    """Come back when the folder has other images than now."""
    before = set(folder.glob("*.*"))
    while set(folder.glob("*.*")) == before:
        time.sleep(POLL_S)
    time.sleep(POLL_S)  # until the newest is whole


def _write_report(page: Path, found: "Calibrated", judged: "list[Figure]", session: "Session", images: Path, board: "Board") -> None:
    from calibration.pages import lens as lens_page

    try:
        lens_page.write(page, found, judged, session, images, board)
    except OSError as error:
        raise ConfigError(f"--report {page} cannot be written ({error.strerror}); give a path that you may write to") from None
