"""The calibration file as the servo tools use it: what this robot has so far, and one part of it renewed."""

from pathlib import Path

import msgspec

import urdf
from edge import calibration
from edge.buses.board_counts import check_counts
from edge.buses.servos import check_travel
from edge.calibration import BoardCalibration, Calibration, Made, Pca9685Calibration
from edge.config import BoardServoConfig, Config, ServoConfig
from edge.errors import ConfigError


def calibrated(config: Config) -> Config:
    """The configuration with what was measured on this robot so far; raises `ConfigError` for another robot's file."""
    return calibration.applied(config, _so_far(config)) if config.calibration.file else config


def path_of(config: Config) -> Path:
    """Where results go; raises `ConfigError` where the configuration does not say, before anything has moved."""
    if not config.calibration.file:
        raise ConfigError(
            "calibration.file is empty, expected the file to write; set it, for example to /var/lib/dofbot-grasp/calibration.json"
        )
    return Path(config.calibration.file)


def save_servo(config: Config, joint: int, servo: ServoConfig | BoardServoConfig, made: Made) -> Path:
    """Renew one servo of this robot, keep all else, and the file as it was beside it; raises `ConfigError`, and nothing is written."""
    path, found = path_of(config), _so_far(config)
    config = calibration.applied(config, found)
    if isinstance(servo, ServoConfig):
        servos = (*config.bus.servos[:joint], servo, *config.bus.servos[joint + 1 :])
        check_travel(servos)
        made = _joined(found.pca9685, made)
        found = msgspec.structs.replace(found, pca9685=Pca9685Calibration(config.bus.reference_clock_hz, servos, made))  # type: ignore[arg-type]
    else:
        of_board = (*config.bus.board.servos[:joint], servo, *config.bus.board.servos[joint + 1 :])
        check_counts(of_board)
        made = _joined(found.dofbot_board, made)
        found = msgspec.structs.replace(found, dofbot_board=BoardCalibration(of_board, made))  # type: ignore[arg-type]
    calibration.save(path, found)
    return path


def save_clock(config: Config, reference_clock_hz: int, made: Made) -> Path:
    """Renew the oscillator of this robot's PCA9685, and keep all else, as `save_servo` does."""
    path, found = path_of(config), _so_far(config)
    servos = calibration.applied(config, found).bus.servos
    part = Pca9685Calibration(reference_clock_hz, servos, _joined(found.pca9685, made))  # type: ignore[arg-type]
    calibration.save(path, msgspec.structs.replace(found, pca9685=part))
    return path


def _so_far(config: Config) -> Calibration:
    """This robot's file; a blank one where there is none yet."""
    path, sha256 = Path(config.calibration.file), urdf.dofbot_sha256()
    if not path.exists():
        return calibration.blank(config, sha256)
    found = calibration.load(path)
    calibration.check_robot(found, path, config.mount, config.bus, sha256)
    return found


def _joined(before: Pca9685Calibration | BoardCalibration | None, made: Made) -> Made:
    """`made`, with the σ of those numbers that it does not renew."""
    sigma = {**(before.made.sigma if before else {}), **made.sigma}
    return msgspec.structs.replace(made, sigma=sigma)
