"""`dofbot calibrate check`: whether the camera has moved since, from a folder of images, or from one that the camera takes now."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from calibration.commands.steps import AsJson, board_of, lens_of, look_at, print_json, settings_of, simulated
from edge.errors import CalibrationError, ConfigError, DofbotError

if TYPE_CHECKING:
    from calibration.boards import Board
    from calibration.detect import Detection
    from calibration.live.stills import Stills
    from calibration.opencv import Lens

EXIT_MOVED, EXIT_CANNOT_SAY = 1, 2
LOOKS = 3  # images that may be refused, one after the other, before it cannot be said


def check(
    reference: Annotated[Path, typer.Option(help="What the board looked like when all was well.")],
    board: Annotated[
        Path | None, typer.Option("--board", help="--learn: the JSON beside the board's PDF; afterwards the reference has it.")
    ] = None,
    images: Annotated[Path | None, typer.Option(help="Folder of images; left out with --live.")] = None,
    live: Annotated[bool, typer.Option("--live", help="Take the image, or for --learn one after each return.")] = False,
    learn: Annotated[
        bool, typer.Option("--learn", help="Take the reference: images of five returns of the arm to this pose or more.")
    ] = False,
    calibration: Annotated[
        Path | None,
        typer.Option(
            help="The robot's calibration file: --learn takes its lens, else the camera's own; later the result is kept beside it, "
            "for calibration.check_max_age_h: dofbot arm asks for it."
        ),
    ] = None,
    config: Annotated[Path | None, typer.Option("--config", help="TOML file that describes the robot: its camera.")] = None,
    simulate: Annotated[bool, typer.Option("--simulate", help="Let a simulated camera take the images.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="--simulate: which camera; another than --learn had is one that was knocked.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Say whether the camera has moved since: a board that is fixed to the table, seen from the same pose of the arm.

    With --live in seconds, so it can run at every start, before dofbot run has the camera. Nothing moves: the arm is where it parks.
    What decides is how many mm beside its place on the board a block would be looked for. A board that was moved looks the same.
    """
    from calibration import check as checks
    from edge import calibration as files
    from edge.cameras import camera_check

    lens: Lens | None = None
    try:
        if board is None and learn:
            raise ConfigError("--learn without --board, expected the JSON beside the board's PDF; give it")
        drawn = board_of(board, None) if board else checks.load(reference).board
        if live or simulate:
            if images or (simulate and calibration):
                found = "--images" if images else "--calibration of a real camera with --simulate"
                raise ConfigError(f"{found}, expected none of it while the camera takes the image; leave it out")
            seen, lens = _seen_live(
                drawn, config, calibration, seed if simulate else None, checks.RETURNS_MIN if learn else 1, quiet=as_json
            )
            size = lens.intrinsics[:2]
        else:
            if images is None:
                raise ConfigError("--images or --live, expected one of both; give the folder, or let the camera take the image")
            if calibration:
                files.load(calibration)  # raises for a file that is none, beside which nobody would look for the result
            session = look_at(images, drawn, quiet=True)
            seen, size = [one.detection() for one in session.used.values()], session.size
        if learn:
            taken = checks.learn(seen, drawn, lens or _calibrated(calibration, size))
            checks.save(reference, taken)
            result: dict[str, Any] = {"returns": taken.returns, "spread_mm": taken.spread_mm, "limit_mm": taken.limit_mm}
            line = f"{taken.returns} returns differ by up to {taken.spread_mm:.2f} mm on the board; "
            line += f"more than {taken.limit_mm:.2f} mm is a move"
            moved = False
        else:
            shifts = [checks.compare(checks.load(reference), one, size) for one in seen]
            worst = max(shifts, key=lambda shift: (shift.has_moved, shift.off_mm))
            moved = worst.has_moved
            if calibration:
                camera_check.save(calibration, camera_check.Checked(camera_check.now(), moved, worst.off_mm, worst.limit_mm))
            result = worst._asdict() | {"has_moved": moved}
            line = str(worst)
    except DofbotError as error:
        typer.echo(f"dofbot: cannot say: {error}", err=True)
        raise typer.Exit(EXIT_CANNOT_SAY) from None
    if as_json:
        print_json(result)
    else:
        typer.echo(line)
    raise typer.Exit(EXIT_MOVED if moved else 0)


def _seen_live(
    board: "Board", config: Path | None, calibration: Path | None, seed: int | None, returns: int, *, quiet: bool
) -> "tuple[list[Detection], Lens]":
    """The board in one image, or in one of each return; and the lens, the camera's own where none was calibrated."""
    import numpy as np

    from calibration.live.stills import opened
    from calibration.opencv import Lens
    from calibration.simulated.camera import Returns
    from edge import calibration as files
    from firmware_tools.asking import answer

    settings, arm, camera = settings_of(config), None, None
    if seed is not None:
        arm = Returns(board, seed, np.random.default_rng((seed, 5, returns)))  # the one return of a check is none of those learned
        camera = simulated(board, settings, seed, arm, quiet=quiet)
    calibrated = (files.load(calibration), calibration) if calibration else None
    with opened(settings, calibrated, camera) as stills:
        seen = []
        for number in range(returns):
            if returns > 1 and arm is None:
                moved = "move the arm away and back to" if number else "let the arm be in"
                answer(f"image {number + 1} of {returns}: {moved} the pose in which it will be checked, at rest; then Enter", "")
            elif arm:
                arm.come_back()
            seen.append(_seen_now(stills, board))
        found = calibrated[0].lens if calibrated else None
        return seen, Lens(found.intrinsics, found.distortion) if found else Lens(stills.factory)


def _calibrated(calibration: Path | None, size: tuple[int, int]) -> "Lens":
    """The lens that the images were taken with; raises `ConfigError` where the calibration has none, or one of another stream."""
    from edge import calibration as files

    if calibration is None:
        raise ConfigError("--learn needs the lens, expected --calibration FILE; give the robot's calibration file")
    lens = lens_of(files.load(calibration), calibration)
    if size != lens.intrinsics[:2]:
        raise ConfigError(f"images have {size} pixels, the lens {tuple(lens.intrinsics[:2])}, expected the same stream; take it")
    return lens


def _seen_now(stills: "Stills", board: "Board") -> "Detection":
    """Of a few images the first that shows the board; raises `CalibrationError` with what was wrong with the last."""
    from calibration.detect import detect

    for left in reversed(range(LOOKS)):
        try:
            return detect(stills.still(), board)
        except CalibrationError:
            if not left:
                raise
    raise AssertionError
