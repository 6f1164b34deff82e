"""Servos on a PCA9685, one at a time: a `ServoLine` whose positions are pulses in microseconds."""

from typing import Any

from edge.buses import last_pose
from edge.buses.pca9685 import Pca9685Bus
from edge.clock import Clock
from edge.config import BusConfig
from edge.messages import JointCommand

PULSE_MIN_US, PULSE_MAX_US = 400.0, 2600.0  # as bus.servos may have them


class PulseLine:
    """Servos on a PCA9685: nobody knows where they are, so the first pulse may make one leap. The others stay limp."""

    unit = "µs"
    step_s = 0.02  # one period

    def __init__(self, config: BusConfig, i2c: Any, clock: Clock) -> None:
        self._servos = config.servos
        self._driver = Pca9685Bus(config, i2c)
        self._is_open = False
        self.clock = clock

    def position(self, joint: int, deg: float) -> float:
        """A pulse in microseconds."""
        servo = self._servos[joint]
        middle_us = (servo.min_us + servo.max_us) / 2
        return middle_us + servo.direction * (deg - servo.zero_deg) * (servo.max_us - servo.min_us) / servo.travel_deg

    def deg(self, joint: int, position: float) -> float:
        """The joint's angle, if the servo follows."""
        servo = self._servos[joint]
        turned_us = position - (servo.min_us + servo.max_us) / 2
        return servo.zero_deg + servo.direction * turned_us * servo.travel_deg / (servo.max_us - servo.min_us)

    def read(self, joint: int) -> float | None:
        """Not known."""
        return None

    def pose(self) -> JointCommand | None:
        """Not known."""
        return None

    def go(self, joint: int, position: float) -> None:
        """Send a pulse; all outputs are off before the first one."""
        self.pulse(self._servos[joint].channel, position)

    def pulse(self, channel: int, pulse_us: float) -> None:
        """The same for any output."""
        if not self._is_open:
            _forget_last_pose()
            self._is_open = True  # before it is: an interrupt in between must release it
            self._driver.open()
        self._driver.write_pulse(channel, pulse_us)

    def release(self) -> None:
        """All outputs off."""
        if self._is_open:
            self._driver.close()


def _forget_last_pose() -> None:
    """A runtime must not believe that the arm is where it left it: without read-back it then takes it to be parked."""
    path = last_pose.path()
    if path is not None:
        path.unlink(missing_ok=True)
