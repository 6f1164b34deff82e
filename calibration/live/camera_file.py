"""Which camera a folder's images are of, and what it says of its lens: kept beside images that were taken live."""

from pathlib import Path

from msgspec import Struct

from calibration import json_file
from calibration.live.stills import Stills
from calibration.session import has_images
from edge.errors import ConfigError
from edge.messages import Intrinsics

NAME = "camera.json"


class CameraTold(Struct, frozen=True, forbid_unknown_fields=True):
    """By the camera's own word."""

    serial: str
    intrinsics: Intrinsics


def keep(folder: Path, stills: Stills) -> None:
    """Write it at the first image; raises `ConfigError` where the folder is of another camera, another profile, or nobody knows which."""
    told, before = CameraTold(stills.serial, stills.factory), of(folder)
    if before is None:
        if has_images(folder):
            raise ConfigError(
                f"{folder} has images of which {NAME} does not tell the camera, expected a folder that --live began; take a new one"
            )
        json_file.save(folder / NAME, told, "camera")
    elif before != told:
        raise ConfigError(f"{folder} has images of camera {_named(before)}, this one is {_named(told)}; take a new folder")


def of(folder: Path) -> CameraTold | None:
    """What was kept; None: nothing."""
    path = folder / NAME
    if not path.exists():
        return None
    told: CameraTold = json_file.load(path, CameraTold, "camera", "take a new folder")
    return told


def _named(told: CameraTold) -> str:
    return f"{told.serial}, {told.intrinsics.width}×{told.intrinsics.height}, fx {told.intrinsics.fx:.1f} px"
