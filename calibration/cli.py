"""`dofbot calibrate …`: print a board, then measure lens, block and depth with it; each result goes into one file, or is refused."""

import typer

from calibration.commands import block, board, check, depth, grid, hand_eye, intrinsics


def register(app: typer.Typer) -> None:
    """Add the verb with its steps."""
    group = typer.Typer(
        help="Measure this robot, step by step: board, intrinsics, handeye, depth, block; check whether it still holds.",
        no_args_is_help=True,
    )
    epilog = (
        "Exit codes: 0 done, 1 camera or bus is away, 2 wrong options or files, 4 a runtime has the robot, or nobody said yes, "
        "9 refused: the reason is said, and nothing was written."
    )
    for step in (board.board, board.ruler, intrinsics.intrinsics, hand_eye.handeye, hand_eye.servos, grid.grid, depth.depth, block.block):
        group.command(epilog=epilog)(step)
    group.command(epilog="Exit codes: 0 where it was, 1 the camera has moved, 2 cannot say: the reason is said.")(check.check)
    app.add_typer(group, name="calibrate")
