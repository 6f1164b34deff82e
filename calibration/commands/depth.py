"""`dofbot calibrate depth`: what the camera measures against a board's plane, from pairs of images that it may take by itself."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from calibration.commands.steps import (
    AsJson,
    ConfigFile,
    File,
    board_of,
    depth_image,
    lens_of,
    look_at,
    pose_of,
    print_json,
    settings_of,
    simulated,
    write_parts,
)

if TYPE_CHECKING:
    from calibration.boards import Board
    from edge.calibration import Calibration
    from edge.config import Config

BoardFile = Annotated[Path, typer.Option("--board", help="The JSON that was written beside the board's PDF.")]
Ruler = Annotated[
    tuple[float, float] | None,
    typer.Option("--ruler-mm", metavar="X Y", help="The printed rulers as you measured them; kept in the board's JSON."),
]
Simulate = Annotated[bool, typer.Option("--simulate", help="Let a simulated camera take the pairs: the one of intrinsics --simulate.")]
Seed = Annotated[int, typer.Option(min=0, help="--simulate: which camera.")]


def depth(
    images: Annotated[Path, typer.Option(help="Folder of pairs: NAME.png, and NAME.npy with depth (height, width) in metres, 0 = none.")],
    board: BoardFile,
    calibration: File,
    ruler_mm: Ruler = None,
    config: ConfigFile = None,
    live: Annotated[
        bool, typer.Option("--live", help="Take the pairs: whenever the board is still at a new distance, until it is enough.")
    ] = False,
    simulate: Simulate = False,
    seed: Seed = 1,
    as_json: AsJson = False,
) -> None:
    """Compare measured depth with the board's plane: scale, offset, tilt, noise and holes at three distances or more.

    Both images of a pair come from the sensor whose lens was calibrated: the infrared left one, with the emitter off for the picture.
    With --live you hold the board before the camera, first near, then further and further away; Ctrl-C ends it, started again it goes on.
    """
    from calibration import depth as depths
    from edge import calibration as files

    drawn = board_of(board, ruler_mm)
    before = files.load(calibration)
    lens = lens_of(before, calibration)
    if live or simulate:
        _take_pairs(images, drawn, settings_of(config), (before, calibration), seed if simulate else None, quiet=as_json)
    session = look_at(images, drawn, quiet=as_json)
    looks = [depths.look(depth_image(images / name), pose_of(name, one, drawn, lens), drawn, lens) for name, one in session.used.items()]
    found = depths.fit(looks)
    serial = before.lens.serial if before.lens else ""
    for one in [] if as_json else sorted((*found.looks, *found.blind)):
        off_mm = (one.measured_m - one.distance_m) * 1e3
        typer.echo(
            f"{one.distance_m * 1e3:5.0f} mm: {off_mm:+6.2f} mm, σ {one.noise_m * 1e3:.2f} mm, {one.tilt_deg:.2f}°, {one.filled:.0%} filled"
        )
    write_parts(calibration, None, depth=depths.correction(found, serial))
    if as_json:
        return print_json(found._asdict() | {"looks": [x._asdict() for x in found.looks], "blind": [x._asdict() for x in found.blind]})
    typer.echo(f"true = {found.scale:.4f} · measured {found.offset_m * 1e3:+.2f} mm; written to {calibration}")
    return None


def _take_pairs(
    images: Path, board: "Board", settings: "Config", calibration: "tuple[Calibration, Path]", seed: int | None, *, quiet: bool
) -> None:
    """Fill the folder."""
    import numpy as np

    from calibration.live import camera_file, collecting, display, stills
    from calibration.live.guides import FACING, DistanceGuide, Wanted
    from calibration.simulated.camera import Hand

    camera = None
    if seed is not None:
        hand = Hand(board, np.random.default_rng((seed, 4, len(list(images.glob("*.png"))))), fills=(0.3, 1.0))
        hand.follow(Wanted("middle", FACING))
        camera = simulated(board, settings, seed, hand, quiet=quiet)
    with stills.opened(settings, calibration, camera) as source:
        guide = DistanceGuide()
        camera_file.keep(images, source)
        collection = collecting.Collection(source, images, board, guide, keeps_depth=True)
        with display.shown(guide, quiet=quiet) as show:
            collecting.fill(collection, show, lambda: guide.is_complete)
