"""What a set of poses can tell, and in words what it cannot, and what to do about it.

Three things no set of pictures shows, so they are fixed, and `FIXED` says how: the zero of joint 1 (a turn of the board about the base
axis looks the same), the zero of the last joint before the camera (a turn of the camera in its mount looks the same), and the length of
the last link (a camera further along the tool looks the same; the base's height and the board's are such a pair too). The size of the
board is the fourth: a larger one further away looks the same, so a ruler has to say it.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from calibration.arm.model import Arm, ServoArm, State, predict, state_names
from edge.errors import CalibrationError
from edge.messages import Float64

FIXED = {
    "wrist": ("zero joint1", "zero joint5"),
    "forearm": ("zero joint1", "zero joint4", "zero joint5", "scale joint5"),
    "fixed": ("zero joint1", "zero joint5"),
}
UNLOADED = ("compliance joint1", "compliance joint5")  # gravity does not turn the first, and hardly the last
NULL = 1e-6  # of the largest singular value: the facts of exact geometry, with room for rounding
NAMED = 0.3  # of a null vector's largest part
SPREAD_TILT_DEG, SPREAD_TURN_DEG, SPREAD_ROLL_DEG = 20.0, 40.0, 60.0


def estimable(arm: Arm, lens: bool) -> NDArray[np.bool_]:
    """(p,) which columns of the state are estimated at all: all but the gauge, and the lens only where asked."""
    names = state_names(arm)
    fixed = FIXED[arm.camera] + UNLOADED if isinstance(arm, ServoArm) else ()
    result = np.array([name not in fixed for name in names])
    result[-6:] &= lens
    return result


def _sizes(arm: Arm, points_m: Float64) -> Float64:
    """(p,) what counts as one unit of each column: 1°, a tenth of the board (10 mm of 100), 2 %, 0.02 rad/(N·m), 10 px."""
    length = 0.1 * float(np.ptp(points_m, axis=0).max())
    turn = np.radians(1.0)
    six = [turn] * 3 + [length] * 3
    return np.array(six * 2 + [turn] * arm.adjustable + [0.02] * 2 * arm.adjustable + [10.0] * 4 + [0.1] * 2)


class Unknown(NamedTuple):
    """Numbers that can change together while no picture changes."""

    names: tuple[str, ...]
    parts: tuple[float, ...]  # of the null vector, in the units of `_sizes`


def unknowns(arm: Arm, state: State, points_m: Float64, seen: NDArray[np.bool_]) -> list[Unknown]:
    """The null space of the pictures (n, m), by singular values of the scaled Jacobian.

    No priors are counted, so neither is what may stay unknown: the servos' compliance.
    """
    names = np.array(state_names(arm))
    free = estimable(arm, lens=False) & ~np.char.startswith(names, "compliance")
    jacobian = predict(state, arm, points_m).by_state * seen[..., None, None]
    scaled = (jacobian * _sizes(arm, points_m))[..., free].reshape(-1, int(free.sum()))
    triangle = np.linalg.qr(scaled, mode="r")
    _, values, vectors = np.linalg.svd(triangle, full_matrices=True)
    values = np.append(values, np.zeros(len(vectors) - len(values)))
    names = names[free]
    found = []
    for vector in _sparse(vectors[values < NULL * values[0]]):
        large = np.flatnonzero(np.abs(vector) >= NAMED * np.abs(vector).max())
        found.append(Unknown(tuple(map(str, names[large])), tuple(map(float, vector[large]))))
    return found


def _sparse(vectors: Float64) -> Float64:
    """The same space by vectors that each have as few parts as elimination finds, since a sum of causes reads badly."""
    rows = vectors.copy()
    for done in range(len(rows)):
        pivot = np.unravel_index(np.argmax(np.abs(rows[done:])), rows[done:].shape)
        row, column = int(pivot[0]) + done, int(pivot[1])
        rows[[done, row]] = rows[[row, done]]
        rows[done] /= rows[done, column]
        others = np.arange(len(rows)) != done
        rows[others] -= np.outer(rows[others, column], rows[done])
    return rows


def require(arm: Arm, state: State, points_m: Float64, seen: NDArray[np.bool_]) -> None:
    """Raise `CalibrationError`, naming what the poses leave open and what to add, when they do not determine everything."""
    found = unknowns(arm, state, points_m, seen)
    if found:
        what = "; ".join(_told(one) for one in found[:2])
        raise CalibrationError(f"{what}: {advice(arm)}")


def _told(one: Unknown) -> str:
    if len(one.names) == 1:
        return f"{one.names[0]} cannot be told at all"
    return f"{', '.join(one.names[:-1])} and {one.names[-1]} cannot be told apart"


def advice(arm: Arm) -> str:
    """Why a set of poses tells too little, and what to add, by how far the joints moved."""
    if not isinstance(arm, ServoArm):
        return "the poses turn about one axis only, or too little; add some that turn by 30° about other axes"
    degrees = np.degrees(arm.commanded)
    turn, roll = (float(np.ptp(degrees[:, joint])) for joint in (0, 4))
    tilt = degrees[:, 1:4].sum(axis=1)
    reasons = []
    if np.ptp(tilt) < SPREAD_TILT_DEG:
        down = "straight down" if np.abs(tilt - tilt.mean()).max() < 2.0 and abs(abs(tilt.mean()) % 180.0) < 2.0 else "the same way"
        reasons.append(f"every pose points {down}; add two tilted by 20°, one to each side")
    if turn < SPREAD_TURN_DEG:
        reasons.append(f"joint 1 turns by {turn:.0f}° only; add poses that are 40° apart")
    if roll < SPREAD_ROLL_DEG and arm.camera != "forearm":
        reasons.append(f"joint 5 rolls by {roll:.0f}° only; add poses that are 60° apart")
    if not reasons:
        reasons.append(f"{len(degrees)} poses are too few or too alike; add poses that differ in tilt and in roll")
    return "; ".join(reasons)
