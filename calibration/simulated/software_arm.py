"""An arm in software with the errors of a simulated session's arm, and what its camera sees wherever it goes, for live steps."""

from pathlib import Path

import numpy as np

from calibration.arm.model import ServoArm, transform_board_to_camera
from calibration.opencv import Lens
from calibration.simulated import session
from calibration.simulated.arm import MOUNT, Robot
from calibration.simulated.camera import Optics, SimulatedCamera
from edge.clock import SteppedClock
from edge.config import BusConfig
from edge.messages import Float64, Intrinsics
from edge.simulated.arm_errors import ArmErrors
from edge.simulated.emulated_arm import EmulatedArm


def arm(truth: session.Truth, as_taken: BusConfig) -> EmulatedArm:
    """The same arm as in the pictures; `as_taken` are its servos as they were configured then, which is what its errors are of."""
    errors = ArmErrors(zero_deg=(*truth.all_zeros_deg, 0.0), scale=(*(1.0 + np.array(truth.scales)).tolist(), 1.0))
    return EmulatedArm(as_taken, SteppedClock(), errors=errors)


class SoftwareArm:
    """An `EmulatedArm` with its camera, over a board or with one in its gripper; wherever it stops, each servo is off by new noise.

    `folder` is one that `session.begin` made for `one`; `told` is the lens as the camera tells it.
    """

    def __init__(self, folder: Path, one: Robot, as_taken: BusConfig, told: Intrinsics) -> None:
        truth = session.truth_of(folder)
        assert truth is not None  # `begin` has written it
        self.emulated = arm(truth, as_taken)
        self.camera = SimulatedCamera(session.DRAWN, Optics(told, session.lens_of(one.truth)), truth.seed, self._shown)
        self._state = one.truth._replace(zeros_rad=np.zeros(5), scales=np.zeros(5))  # the emulated arm has them
        self._place, self._noise_rad = truth.camera, np.radians(truth.servo_noise_deg)
        self._draws = np.random.default_rng((truth.seed, 5, len(truth.tool_in_table_m)))
        self._sent_deg: tuple[float, ...] = ()
        self._stopped = self._stop()

    def note(self, image: Path) -> None:
        """Keep where the tool really is in an image that was taken just now."""
        chain = self._stopped.chain(self._state.zeros_rad, self._state.scales)
        x, y = chain.transform_flange_to_table[0, :2, 3].tolist()
        session.note(image, (x, y))

    def _shown(self, _: Lens) -> Float64:
        if self.emulated.joints_deg() != self._sent_deg:
            self._stopped = self._stop()
        pose: Float64 = transform_board_to_camera(self._state, self._stopped)[0] @ session.FROM_CORNER
        return pose

    def _stop(self) -> ServoArm:
        self._sent_deg = self.emulated.joints_deg()
        noise_rad = self._draws.normal(0.0, self._noise_rad, 5)
        return ServoArm((np.radians(self._sent_deg[:5]) + noise_rad)[None], MOUNT, self._place)
