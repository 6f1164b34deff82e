"""`dofbot calibrate block`: where marked blocks lie in one image."""

from pathlib import Path
from typing import Annotated

import typer

from calibration.commands.steps import AsJson, ConfigFile, File, lens_of, markers_of, print_json, settings_of
from edge.errors import CalibrationError, ConfigError


def block(
    blocks: Annotated[Path, typer.Option(help="The block markers' JSON, rulers measured.")],
    grid: Annotated[Path, typer.Option(help="The table grid's JSON, rulers measured; it tells where the camera is.")],
    calibration: File,
    image: Annotated[Path | None, typer.Argument(help="Image of blocks on the table grid; left out with --live.")] = None,
    live: Annotated[bool, typer.Option("--live", help="Take the image.")] = False,
    config: ConfigFile = None,
    block_mm: Annotated[float, typer.Option(min=10.0, max=100.0, help="A block's height.")] = 30.0,
    as_json: AsJson = False,
) -> None:
    """Tell where marked blocks lie in an image, x, y and yaw in the table frame: put one on a crossing of the grid and compare."""
    import math

    from calibration.block import BlockFinder, camera_over_grid
    from calibration.detect import detect
    from calibration.live.stills import opened
    from calibration.session import read_image
    from edge import calibration as files

    if (image is None) != live:
        raise ConfigError("an image or --live, expected one of both; give the image's file, or let the camera take it")
    before = files.load(calibration)
    lens = lens_of(before, calibration)
    drawn, table = markers_of(blocks), markers_of(grid)
    if image is None:
        with opened(settings_of(config), (before, calibration)) as stills:
            picture = stills.still()
    else:
        picture = read_image(image)
    camera = camera_over_grid(detect(picture, table), table, lens)
    found = BlockFinder(drawn, block_mm * 1e-3, lens).find(picture, camera)
    if as_json:
        return print_json([one._asdict() for one in found])
    for one in found:
        x, y, z = (1e3 * value for value in one.centre_in_table_m)
        typer.echo(f"marker {one.marker}: x {x:.1f}, y {y:.1f}, z {z:.1f} mm, yaw {math.degrees(one.yaw_rad):.1f}°")
    if not found:
        raise CalibrationError(f"no block is in {image or 'the image'}, expected a marker of {blocks}; show its top")
    return None
