"""`dofbot calibrate board` and `ruler`: print a board, and keep how long its rulers came out."""

import enum
from pathlib import Path
from typing import Annotated, Any

import typer

from calibration.commands.steps import AsJson, board_of, print_json
from edge.errors import ConfigError


class Kind(enum.StrEnum):
    """What can be printed."""

    charuco = "charuco"
    aruco = "aruco"
    blocks = "blocks"
    grid = "grid"


class Paper(enum.StrEnum):
    """Paper sizes."""

    a4 = "a4"
    a3 = "a3"
    letter = "letter"


def board(
    kind: Annotated[Kind, typer.Argument(help="charuco: for lens and hand-eye. blocks: markers for blocks' tops. grid: the table in mm.")],
    out: Annotated[Path, typer.Option(help="PDF to write; the JSON that later steps take goes beside it.")],
    paper: Annotated[Paper, typer.Option(help="Paper to print on.")] = Paper.a4,
    columns: Annotated[int, typer.Option(min=3, max=30, help="charuco: squares across.")] = 5,
    rows: Annotated[int, typer.Option(min=3, max=31, help="charuco: squares down, an odd number.")] = 7,
    square_mm: Annotated[float, typer.Option(min=5.0, max=200.0, help="charuco: a square's width.")] = 25.0,
    as_json: AsJson = False,
) -> None:
    """Write a board as a PDF at true scale.

    Print it at 100 %, glue it on something flat (glass, aluminium), and measure both rulers: no image shows how large a board is,
    and 1 % of its size is 1 % of every length that is measured with it.
    """
    from calibration import boards
    from calibration.pages import board_pdf
    from edge.files import write_atomically

    description = out.with_suffix(".json")
    if out == description:
        raise ConfigError(f"--out {out} is where the board's description goes, expected a PDF; name it {out.with_suffix('.pdf')}")
    made: dict[Kind, Any] = {
        Kind.charuco: lambda: boards.charuco(columns, rows, square_mm * 1e-3, round(0.72 * square_mm * 1e-3, 6)),
        Kind.aruco: boards.aruco,
        Kind.blocks: boards.blocks,
        Kind.grid: boards.grid,
    }
    drawn = made[kind]()
    page = board_pdf.pdf(drawn, paper.value)
    try:
        write_atomically(out, page)
    except OSError as error:
        raise ConfigError(f"--out {out} cannot be written ({error.strerror}); give a path that you may write to") from None
    boards.save(description, drawn)
    if as_json:
        return print_json({"pdf": str(out), "board": str(description), "what": board_pdf.description(drawn)[0]})
    typer.echo(f"{out}: {board_pdf.description(drawn)[0]}")
    typer.echo(f"{description}: for the next steps; measure the print first: dofbot calibrate ruler")
    return None


def ruler(
    board: Annotated[Path, typer.Argument(help="The JSON that was written beside the board's PDF.")],
    x_mm: Annotated[float, typer.Argument(help="Measured length of the ruler along x, from end mark to end mark.")],
    y_mm: Annotated[float, typer.Argument(help="The same along y.")],
    as_json: AsJson = False,
) -> None:
    """Keep how long a print's rulers came out, for every later step: 100.4 instead of 100 makes all it measures 0.4 % longer."""
    scale = board_of(board, (x_mm, y_mm)).scale
    if as_json:
        return print_json({"board": str(board), "ruler_mm": [x_mm, y_mm]})
    typer.echo(f"{board}: {scale[0] - 1.0:+.2%} along x, {scale[1] - 1.0:+.2%} along y")
    return None
