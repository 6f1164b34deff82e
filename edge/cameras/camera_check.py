"""Whether the camera was where it was calibrated, when it was last looked at: kept beside the calibration file.

`dofbot calibrate check` writes it; with `calibration.check_max_age_h` the arm is not armed on one that is older, or that found a move.
Times are wall time, since the check may be of another day: a clock that is wrong refuses, and never lets an old check pass as new.
"""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
from msgspec import Struct

from edge.config import CalibrationConfig
from edge.errors import ConfigError
from edge.files import write_atomically

SUFFIX = ".checked"
REMEDY = "run dofbot calibrate check --calibration"


class Checked(Struct, frozen=True, forbid_unknown_fields=True):
    """One look at a fixed board."""

    at: datetime  # UTC
    has_moved: bool
    off_mm: float  # on the board
    limit_mm: float


def path_of(calibration: Path) -> Path:
    """Where the last check of a calibration is."""
    return calibration.with_name(calibration.name + SUFFIX)


def save(calibration: Path, checked: Checked) -> None:
    """Keep it whole; raises `ConfigError`."""
    path = path_of(calibration)
    try:
        write_atomically(path, msgspec.json.encode(checked) + b"\n")
    except OSError as error:
        raise ConfigError(f"the check {path} cannot be written ({error.strerror}); give a path that you may write to") from None


def why_not_armed(config: CalibrationConfig, now: datetime) -> str:
    """Why the arm must not be armed, in a sentence; empty: it may be. Reads one small file, and raises nothing."""
    if config.check_max_age_h == 0.0:
        return ""
    path = path_of(Path(config.file))
    remedy = f"{REMEDY} {config.file}"
    try:
        last = msgspec.json.decode(path.read_bytes(), type=Checked)
        age = now - last.at
    except (OSError, msgspec.DecodeError, TypeError) as error:  # TypeError: a time without its zone
        return f"the camera was never checked ({path}: {error}), expected a check of the last {config.check_max_age_h:g} h; {remedy}"
    if last.has_moved:
        found = f"the camera has moved: {last.off_mm:.1f} mm off on the board, expected at most {last.limit_mm:.1f}"
        return f"{found}; if the arm was not in its park pose, put it there, else fasten the camera and calibrate again; {remedy}"
    if not timedelta(minutes=-1) <= age <= timedelta(hours=config.check_max_age_h):
        hours = age.total_seconds() / 3600.0
        return f"the camera was last checked {hours:.1f} h ago, expected within {config.check_max_age_h:g} h; {remedy}"
    return ""


def now() -> datetime:
    """Wall time."""
    return datetime.now(UTC)
