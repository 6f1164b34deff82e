"""What touches on the table tell that no picture does: the zero of joint 1.

How far the pointer stood beside each place is taken apart, by least squares, into a turn about the base axis (joint 1's zero), a shift of
the whole grid (it was not laid under the base axis exactly, or the pointer is held askew), and a reach that is too long or too short
(zeros of joints 2 to 4). Along the arm the servos of joints 2 to 4 move the tip several times as far as joint 1's moves it sideways, so
each touch counts by that. A grid that lies turned looks the same as joint 1's zero: it has to be laid straight.
"""

from typing import NamedTuple

import numpy as np

from edge import robot
from edge.config import MountConfig
from edge.errors import CalibrationError
from edge.messages import Float64

SERVO_SIGMA_RAD = np.radians(0.3)  # repeatability of a hobby servo; only its ratio to what follows counts where the touches scatter more
READ_SIGMA_M = 0.0005  # on millimetre paper, the tip some mm above it
SIGNIFICANT = 3.0  # σ
SIGMA_MAX_RAD = np.radians(1.5)  # as for the zeros that pictures show
UNKNOWNS = 4


class TableTurn(NamedTuple):
    """The parts, each with its σ. Angles are of joint 1, in its own direction: what it turns to when it is sent to 0."""

    zero_rad: float
    zero_sigma_rad: float
    shift_m: tuple[float, float]  # of the grid, or the pointer, against where the base axis is
    shift_sigma_m: tuple[float, float]
    reach_m: float  # + the tool is further out than it was sent
    reach_sigma_m: float
    left_m: Float64  # (n,) what none of these explains: the servos' return, and reading

    @property
    def is_significant(self) -> bool:
        """Whether joint 1's zero is told from none."""
        return abs(self.zero_rad) > SIGNIFICANT * self.zero_sigma_rad


def fit(commanded_in_table_m: Float64, measured_in_table_m: Float64, mount: MountConfig) -> TableTurn:
    """The parts of what lies between two sets of places (n, 2), five or more of them; raises `CalibrationError` for places on one line."""
    sent, errors = np.asarray(commanded_in_table_m, dtype=float), measured_in_table_m - commanded_in_table_m
    radius = np.linalg.norm(sent, axis=1)
    out = sent / np.maximum(radius, 1e-9)[:, None]
    clockwise = np.stack((out[:, 1], -out[:, 0]), axis=-1)  # seen from above
    side = clockwise if mount.inverted else -clockwise  # where joint 1 moves the tip
    columns = np.stack((side * radius[:, None], np.tile((1.0, 0.0), (len(sent), 1)), np.tile((0.0, 1.0), (len(sent), 1)), out), axis=-1)
    along, across = (np.hypot(SERVO_SIGMA_RAD * lever, READ_SIGMA_M) for lever in (_lever_m(mount), radius))
    axes = np.stack((out / along, side / across[:, None]), axis=1)  # (n, 2, 2): whitens one touch
    design, seen = (axes @ columns).reshape(-1, UNKNOWNS), (axes @ errors[..., None]).ravel()
    size = np.linalg.norm(design, axis=0)
    scaled = design / np.where(size > 0.0, size, 1.0)
    if np.linalg.matrix_rank(scaled, tol=1e-3) < UNKNOWNS:
        raise CalibrationError("the touches lie on one line or at one distance, expected them spread over the table; touch other crossings")
    found = np.linalg.lstsq(scaled, seen, rcond=None)[0] / size
    variance = max(float(((seen - design @ found) ** 2).sum()) / (len(seen) - UNKNOWNS), 1.0)
    sigma = np.sqrt(variance * np.diag(np.linalg.inv(scaled.T @ scaled))) / size
    left = np.linalg.norm(errors - columns @ found, axis=1)
    zero, x, y, reach = found.tolist()
    zero_sigma, x_sigma, y_sigma, reach_sigma = sigma.tolist()
    return TableTurn(zero, zero_sigma, (x, y), (x_sigma, y_sigma), reach, reach_sigma, left)


def _lever_m(mount: MountConfig) -> float:
    """By how much the tip moves along the arm for each radian of noise in joints 2 to 4, the tool straight down on the table."""
    shoulder = abs(mount.base_height_m + (-1.0 if mount.inverted else 1.0) * robot.BASE_TO_SHOULDER_M)
    wrist = robot.WRIST_TO_TOOL_M
    return float(np.sqrt(shoulder**2 + ((shoulder + wrist) / 2.0) ** 2 + wrist**2))
