"""What a configuration says is plugged in: servo bus, camera and clock, opened together and closed together."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import NamedTuple

from edge.camera import DepthCamera, SimulatorCamera
from edge.clock import Clock, MonotonicClock, VirtualClock
from edge.config import Config
from edge.emulator import EmulatedI2C, Pca9685Emulator
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
        self._link.write_pulses([self._chip.pulse_us(channel) for channel in self._channels])

    def release(self) -> None:
        """Switch the chip's outputs off."""
        self._driver.release()

    def close(self) -> None:
        """Release, and leave the link to whoever connected it."""
        self._driver.close()


def open_devices(config: Config) -> Devices:
    """Open what the configuration names; no servo is powered yet.

    Raises `ConfigError` for servos that cannot reach the joint limits, `BusError` or `ObservationError` for a device
    that does not answer; what was opened before is closed again.
    """
    check_travel(config.bus.servos)
    with ExitStack() as opened:
        link = SimulatorLink.connect(config.simulator.port, config.simulator.clock)
        opened.callback(link.close)
        bus = _bus(config, link)
        opened.callback(bus.close)
        bus.open()
        camera = SimulatorCamera(link)
        opened.callback(camera.close)
        clock = VirtualClock(link) if config.simulator.clock == "virtual" else MonotonicClock()
        return Devices(bus, camera, clock, opened.pop_all().close)


def _bus(config: Config, link: SimulatorLink) -> ServoBus:
    if config.bus.driver == "simulator":
        return SimulatorBus(config.bus.servos, link.write_pulses)
    if config.bus.i2c == "emulated":
        return EmulatedBus(config, link)
    return Pca9685Bus(config.bus)
