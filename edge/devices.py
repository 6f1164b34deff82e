"""What a configuration says is plugged in: servo bus, camera and clock, opened together and closed together."""

from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import NamedTuple

from edge.camera import DepthCamera, SimulatorCamera
from edge.clock import Clock, MonotonicClock, VirtualClock
from edge.config import Config
from edge.emulator import EmulatedI2C, Pca9685Emulator
from edge.errors import BusError, ConfigError
from edge.messages import JointCommand
from edge.pca9685 import Pca9685Bus
from edge.servos import ServoBus, SimulatorBus, check_travel
from edge.simulator import SimulatorLink


class Devices(NamedTuple):
    """Open devices; `close` switches the servos off first and never raises."""

    bus: ServoBus
    camera: DepthCamera
    clock: Clock
    close: Callable[[], None]


class EmulatedBus:
    """The PCA9685 driver on an emulated chip, whose outputs go to the simulator as wires go to servos."""

    def __init__(self, config: Config, link: SimulatorLink) -> None:
        self._link = link
        self._channels = [servo.channel for servo in config.bus.servos]
        self._chip = Pca9685Emulator()
        self._driver = Pca9685Bus(config.bus, EmulatedI2C({config.bus.address: self._chip}))

    def open(self) -> None:
        """Wake the chip with all outputs off."""
        self._driver.open()

    def write(self, command: JointCommand) -> None:
        """Through the driver into the registers, and what the chip then puts out to the simulator."""
        self._driver.write(command)
        self._show()

    def release(self) -> None:
        """Switch the chip's outputs off; never raises, since a simulator that is gone drives nothing."""
        self._driver.release()
        with suppress(BusError):
            self._show()

    def close(self) -> None:
        """Release, and leave the link to whoever connected it."""
        self.release()
        self._driver.close()

    def _show(self) -> None:
        self._link.write_pulses([self._chip.pulse_us(channel) for channel in self._channels])


def open_devices(config: Config) -> Devices:
    """Open what the configuration names, the simulator always: no other camera has a driver. No servo is powered yet.

    Raises `ConfigError` for servos that cannot reach the joint limits or cannot follow the clock, `BusError` for a device
    that does not answer, `MissingExtraError` without its driver; what was opened before is closed again.
    """
    check_travel(config.bus.servos)
    is_virtual = config.simulator.clock == "virtual"
    if is_virtual and config.bus.driver == "pca9685" and config.bus.i2c == "board":
        raise ConfigError(
            "simulator.clock = 'virtual' with bus.i2c = 'board', expected 'real': virtual time runs faster than servos can; change either"
        )
    with ExitStack() as opened:
        link = SimulatorLink.connect(config.simulator.port, config.simulator.clock)
        opened.callback(link.close)
        camera = SimulatorCamera(link)
        opened.callback(camera.close)
        bus = _bus(config, link)
        opened.callback(bus.close)  # the last to be opened is the first to be closed
        bus.open()
        return Devices(bus, camera, VirtualClock(link) if is_virtual else MonotonicClock(), opened.pop_all().close)


def _bus(config: Config, link: SimulatorLink) -> ServoBus:
    if config.bus.driver == "simulator":
        return SimulatorBus(config.bus.servos, link.write_pulses)
    if config.bus.i2c == "emulated":
        return EmulatedBus(config, link)
    return Pca9685Bus(config.bus)
