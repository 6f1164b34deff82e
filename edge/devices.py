"""What a configuration says is plugged in: servo bus, camera and clock, opened together and closed together."""

from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import NamedTuple

from edge.camera import DepthCamera, SimulatorCamera
from edge.capture import CaptureProcess
from edge.clock import Clock, MonotonicClock, VirtualClock
from edge.config import Config
from edge.emulator import EmulatedI2C, Pca9685Emulator
from edge.errors import BusError, ConfigError
from edge.faults import Faults
from edge.faulty import FaultyCamera, FaultyI2C
from edge.judge import JudgedCamera
from edge.messages import Frame, JointCommand
from edge.pca9685 import Pca9685Bus
from edge.servos import ServoBus, SimulatorBus, check_travel
from edge.simulator import SimulatorLink


class Devices(NamedTuple):
    """Open devices; `close` switches the servos off first and never raises. `faults` breaks them on purpose, if that is allowed."""

    bus: ServoBus
    camera: DepthCamera
    clock: Clock
    close: Callable[[], None]
    faults: Faults = Faults()  # none, and none allowed


class EmulatedBus:
    """The PCA9685 driver on an emulated chip, whose outputs go to the simulator as wires go to servos."""

    def __init__(self, config: Config, link: SimulatorLink, faults: Faults, clock: Clock) -> None:
        self._link = link
        self._channels = [servo.channel for servo in config.bus.servos]
        self._chip = Pca9685Emulator()
        i2c = FaultyI2C(EmulatedI2C({config.bus.address: self._chip}), faults, lambda s: clock.sleep_until(clock.now_s() + s))
        self._driver = Pca9685Bus(config.bus, i2c)

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


class SimulatorCapture(CaptureProcess):
    """The simulator's camera in a process of its own, beside the arm's link, which is told first why the simulator ends."""

    def __init__(self, link: SimulatorLink) -> None:
        super().__init__("edge.camera:SimulatorWatcher", (link.port,))
        self._link = link

    def latest(self) -> Frame | None:
        """The newest frame, without waiting; raises `ObservationError` while the camera is away, or the simulator is."""
        self._link.latest_frame()
        return super().latest()


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
        clock = VirtualClock(link) if is_virtual else MonotonicClock()
        faults = _faults(config, clock)
        camera = JudgedCamera(FaultyCamera(_camera(config, link), faults))
        opened.callback(camera.close)
        bus = _bus(config, link, faults, clock)
        opened.callback(bus.close)  # the last to be opened is the first to be closed
        bus.open()
        return Devices(bus, camera, clock, opened.pop_all().close, faults)


def _camera(config: Config, link: SimulatorLink) -> DepthCamera:
    """Lockstep takes place in our process; everywhere else the camera has its own, which can be killed."""
    if config.simulator.clock == "virtual":
        return SimulatorCamera(link)
    return SimulatorCapture(link)


def _faults(config: Config, clock: Clock) -> Faults:
    """What the configuration injects; raises `ConfigError` for what this bus cannot have."""
    missing = {}
    if config.bus.driver == "simulator" or config.bus.i2c == "board":
        found = f"bus.driver = '{config.bus.driver}', bus.i2c = '{config.bus.i2c}'"
        missing["bus"] = f"{found}, expected an emulated I2C bus; set bus.i2c = 'emulated' and its driver, or pull a real wire"
    return Faults(config.faults.allow, config.faults.script, clock.now_s, config.faults.seed, missing)


def _bus(config: Config, link: SimulatorLink, faults: Faults, clock: Clock) -> ServoBus:
    if config.bus.driver == "simulator":
        return SimulatorBus(config.bus.servos, link.write_pulses)
    if config.bus.i2c == "emulated":
        return EmulatedBus(config, link, faults, clock)
    return Pca9685Bus(config.bus)
