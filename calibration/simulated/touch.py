"""A touch test without hardware: an arm in software with the errors of a simulated session's arm, and a person who is simulated, too.

The person answers from the truth, as well as one reads millimetre paper; so only here can the result be compared with it.
"""

from typing import NamedTuple
from zlib import crc32

import numpy as np

from calibration.live.touch import Pointer
from calibration.table_turn import READ_SIGMA_M
from edge.kinematics import Mount, transform_tool_to_table
from edge.messages import Float64
from edge.simulated.emulated_arm import EmulatedArm

LENGTH_SD_M = 0.002  # of how far the pointer sticks out, against what was told
SIDE_SD_M = 0.001  # of how far it is held aside
PAPER_SD_M = 0.002  # of where the grid lies, against under the base axis; a turn of it would be one of joint 1


class _Held(NamedTuple):
    tip_on_tool_m: Float64  # (3,)
    paper_in_table_m: Float64  # (2,) where its origin lies


class SimulatedPerson:
    """Who looks at the pointer of an emulated arm. `noise_deg` is what each servo is off at each stop, one σ.

    `seed` draws how pointer and grid lie, and with `name` what each look finds: another file of touches has new noise.
    """

    def __init__(self, emulated: EmulatedArm, mount: Mount, pointer: Pointer, noise_deg: float, seed: int, name: str = "") -> None:
        self._arm, self._mount, self._noise_deg = emulated, mount, noise_deg
        once = np.random.default_rng((seed, 3))
        tip = (*once.normal(0.0, SIDE_SD_M, 2), pointer.ahead_m + once.normal(0.0, LENGTH_SD_M))
        self._held = _Held(np.array(tip), once.normal(0.0, PAPER_SD_M, 2))
        self._draws = np.random.default_rng((seed, 4, crc32(name.encode())))
        self.lowest_m = np.inf  # that the tip was while it was looked at

    def holds_the_pointer(self) -> None:
        """At once."""

    def steps_back(self) -> None:
        """At once."""

    def height_m(self, expected_m: float) -> float:
        """To half a millimetre."""
        return float(np.round(2e3 * (self._tip_in_table_m()[2] + self._draws.normal(0.0, READ_SIGMA_M))) / 2e3)

    def place_mm(self, crossing_mm: tuple[float, float], number: int, count: int) -> tuple[float, float]:
        """On the print, which is true to scale here."""
        tip = self._tip_in_table_m()
        self.lowest_m = min(self.lowest_m, float(tip[2]))
        x, y = (1e3 * (tip[:2] - self._held.paper_in_table_m + self._draws.normal(0.0, READ_SIGMA_M, 2))).tolist()
        return x, y

    def _tip_in_table_m(self) -> Float64:
        joints = np.radians(np.array(self._arm.joints_deg()[:5]) + self._draws.normal(0.0, self._noise_deg, 5))
        one, two, three, four, five = joints.tolist()
        return np.asarray((transform_tool_to_table((one, two, three, four, five), self._mount) @ (*self._held.tip_on_tool_m, 1.0))[:3])
