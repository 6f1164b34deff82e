"""What a configuration says is plugged in: servo bus, camera and clock, opened together and closed together."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from typing import NamedTuple

from edge.buses import last_pose, travel
from edge.buses.board_counts import command_from_counts, counts
from edge.buses.bus_writer import BusWriter
from edge.buses.dofbot_board import DofbotBoardBus
from edge.buses.pca9685 import Pca9685Bus
from edge.buses.servos import ServoBus, SimulatorBus, command_from_pulses, pulses_us
from edge.cameras.camera import DepthCamera, SimulatorCamera
from edge.cameras.capture import CaptureProcess
from edge.cameras.judge import JudgedCamera
from edge.cameras.markers import MarkerCamera, Marking, looking
from edge.cameras.replay import ReplayCamera
from edge.cameras.virtual_camera import Mounting, ReprojectedCamera, through
from edge.clock import Clock, MonotonicClock, VirtualClock
from edge.config import BusConfig, Config
from edge.errors import BusError, ConfigError, ObservationError
from edge.messages import Frame, JointCommand
from edge.safety import DOFBOT_LIMITS, Limits
from edge.simulated.dofbot_board_emulator import DofbotBoardEmulator
from edge.simulated.emulated_smbus import EmulatedSMBus
from edge.simulated.emulator import EmulatedI2C, Pca9685Emulator
from edge.simulated.faults import Faults
from edge.simulated.faulty import FaultyCamera, FaultyI2C
from edge.simulated.simulator import SimulatorLink

Chip = Pca9685Emulator | DofbotBoardEmulator

FIRST_FRAME_S = 1.0  # the simulator sends one at once


class Devices(NamedTuple):
    """Open devices; `close` switches the servos off first and never raises. `faults` breaks them on purpose, if that is allowed."""

    bus: BusWriter
    camera: DepthCamera
    clock: Clock
    close: Callable[[], None]
    faults: Faults = Faults()  # none, and none allowed
    limits: Limits = DOFBOT_LIMITS  # what the safety gate lets through to these servos


class EmulatedBus:
    """A driver on an emulated chip, whose servos go to the simulator as wires go to servos.

    `outputs_us` are the pulses that would hold the servos where the chip has them, 0 = off.
    """

    def __init__(self, driver: ServoBus, chip: Chip, outputs_us: Callable[[], Sequence[float]], link: SimulatorLink) -> None:
        self.driver = driver
        self.chip = chip
        self._outputs_us = outputs_us
        self._link = link

    def open(self) -> None:
        """Open the driver on the chip, once the simulator has told where its arm is."""
        with suppress(ObservationError):  # a link that is lost says so to the camera
            self._link.wait_for_frame(FIRST_FRAME_S)
        self.driver.open()

    def write(self, command: JointCommand) -> None:
        """Through the driver into the registers, and what the chip then does to the simulator: after half a write, too."""
        try:
            self.driver.write(command)
        except BusError:
            with suppress(BusError):
                self._show()
            raise
        self._show()

    def check(self) -> None:
        """As the driver does it."""
        self.driver.check()

    def measured(self) -> JointCommand | None:
        """What the driver has read back."""
        return self.driver.measured()

    def release(self) -> None:
        """Switch the chip's outputs off; never raises, since a simulator that is gone drives nothing."""
        self.driver.release()
        with suppress(BusError):
            self._show()

    def close(self) -> None:
        """Release, and leave the link to whoever connected it."""
        self.release()
        self.driver.close()

    def _show(self) -> None:
        self._link.write_pulses(self._outputs_us())


class View(NamedTuple):
    """What becomes of the camera's frames before anybody else looks at them; nothing, unless it is said."""

    mounting: Mounting | None = None  # they are as the policy's camera would have taken them
    marking: Marking | None = None  # they have the markers that were found in their grey image

    @property
    def needs_image(self) -> bool:
        """Whether the camera is to bring the grey image, too."""
        return self.marking is not None

    def opener(self, opener: str, arguments: Sequence[str | float]) -> tuple[str, tuple[str | float, ...]]:
        """Opener and arguments of such a camera in a process of its own."""
        return through(self.mounting, *looking(self.marking, opener, arguments))

    def here(self, camera: DepthCamera) -> DepthCamera:
        """Such a camera in this process."""
        seeing = camera if self.marking is None else MarkerCamera(camera, self.marking)
        return seeing if self.mounting is None else ReprojectedCamera(seeing, self.mounting)


class SimulatorCapture(CaptureProcess):
    """The simulator's camera in a process of its own, beside the arm's link, which is told first why the simulator ends."""

    def __init__(self, link: SimulatorLink, view: View) -> None:
        super().__init__(*view.opener("edge.cameras.camera:SimulatorWatcher", (link.port, view.needs_image)))
        self._link = link

    def latest(self) -> Frame | None:
        """The newest frame, without waiting; raises `ObservationError` while the camera is away, or the simulator is."""
        self._link.latest_frame()
        return super().latest()


def open_devices(config: Config, view: View = View()) -> Devices:  # noqa: B008  (it is frozen)
    """Open what the configuration names, and connect to the simulator only if any of it is simulated. No servo is powered yet.

    Raises `ConfigError` for servos that cannot reach the joint limits or cannot follow the clock, `BusError` for a device
    that does not answer, `MissingExtraError` without its driver; what was opened before is closed again.
    """
    travel.check(config.bus)
    if config.simulator.clock == "virtual" and not _bus_is_simulated(config.bus):
        raise ConfigError(
            "simulator.clock = 'virtual' with bus.i2c = 'board', expected 'real': virtual time runs faster than servos can; change either"
        )
    if config.simulator.clock == "virtual" and config.camera.driver != "simulator":
        found = f"simulator.clock = 'virtual' with camera.driver = '{config.camera.driver}'"
        raise ConfigError(f"{found}, expected 'real': its frames come in real time; change either")
    is_simulated = _bus_is_simulated(config.bus) or config.camera.driver == "simulator"
    simulator = config.simulator
    # On the real clock the camera has a link of its own.
    wants_image = view.needs_image and simulator.clock == "virtual"
    link = SimulatorLink.connect(simulator.port, simulator.clock, image=wants_image) if is_simulated else None
    return open_on(link, config, view=view)


def open_on(
    link: SimulatorLink | None,
    config: Config,
    watch: Callable[[ServoBus], ServoBus] = lambda bus: bus,
    view: View = View(),  # noqa: B008
) -> Devices:
    """The same on a link that is there, and closed with the rest. `watch` may put a bus around the driver, to see what it is sent."""
    is_virtual = link is not None and link.clock == "virtual"
    with ExitStack() as opened:
        if link is not None:
            opened.callback(link.close)
        clock: Clock = VirtualClock(link) if link is not None and is_virtual else MonotonicClock()
        faults = _faults(config, clock)
        camera = JudgedCamera(FaultyCamera(_camera(config, link, view), faults))
        opened.callback(camera.close)
        bus = BusWriter(watch(_bus(config, link, faults, clock)), is_virtual)
        opened.callback(bus.close)  # the last to be opened is the first to be closed
        bus.open()
        return Devices(bus, camera, clock, opened.pop_all().close, faults, travel.limits_of(config.bus))


def _bus_is_simulated(bus: BusConfig) -> bool:
    return bus.driver == "simulator" or bus.i2c == "emulated"


def _camera(config: Config, link: SimulatorLink | None, view: View) -> DepthCamera:
    """Lockstep and recordings take place in our process; everywhere else the camera has its own, which can be killed.

    Frames are projected, and searched for markers, where they are taken.
    """
    if config.camera.driver == "realsense":
        camera = config.camera
        arguments = (camera.serial, camera.width, camera.height, camera.fps, camera.preset, view.needs_image)
        return CaptureProcess(*view.opener("edge.cameras.realsense:RealSenseCamera", arguments))
    if config.camera.driver == "replay":
        return view.here(ReplayCamera(config.camera.file, config.camera.loop, image=view.needs_image))
    assert link is not None
    if config.simulator.clock == "virtual":
        return view.here(SimulatorCamera(link))
    return SimulatorCapture(link, view)


def _faults(config: Config, clock: Clock) -> Faults:
    """What the configuration injects; raises `ConfigError` for what this bus cannot have."""
    missing = {}
    if config.bus.driver == "simulator" or config.bus.i2c == "board":
        found = f"bus.driver = '{config.bus.driver}', bus.i2c = '{config.bus.i2c}'"
        missing["bus"] = f"{found}, expected an emulated I2C bus; set bus.i2c = 'emulated' and its driver, or pull a real wire"
    return Faults(config.faults.allow, config.faults.script, clock.now_s, config.faults.seed, missing)


def _bus(config: Config, link: SimulatorLink | None, faults: Faults, clock: Clock) -> ServoBus:
    if not _bus_is_simulated(config.bus):
        return DofbotBoardBus(config.bus) if config.bus.driver == "dofbot_board" else _pca9685(config.bus)
    assert link is not None
    if config.bus.driver == "simulator":
        return SimulatorBus(config.bus.servos, link.write_pulses)
    emulated = _emulated_board if config.bus.driver == "dofbot_board" else _emulated_pca9685
    return emulated(config.bus, link, faults, clock)


def _pca9685(config: BusConfig) -> ServoBus:
    where = last_pose.path()
    return last_pose.RememberingBus(Pca9685Bus(config), config.servos, where) if where else Pca9685Bus(config)


def _emulated_pca9685(config: BusConfig, link: SimulatorLink, faults: Faults, clock: Clock) -> EmulatedBus:
    chip = Pca9685Emulator()
    channels = [servo.channel for servo in config.servos]
    driver = Pca9685Bus(config, _faulty(config.address, chip, faults, clock))
    return EmulatedBus(driver, chip, lambda: [chip.pulse_us(channel) for channel in channels], link)


def _emulated_board(config: BusConfig, link: SimulatorLink, faults: Faults, clock: Clock) -> EmulatedBus:
    """The simulator's servos are wired as `config.servos`: what the board's servos do goes there as pulses, where they are comes back."""
    by_joint = [servo.id - 1 for servo in config.board.servos]

    def actual_raw() -> list[float] | None:
        if not all(link.servos_us):
            return None
        at_raw = counts(command_from_pulses(link.servos_us, config.servos), config.board.servos)
        return [at_raw[by_joint.index(number)] for number in range(len(by_joint))]

    board = DofbotBoardEmulator(clock.now_s, actual_raw=actual_raw)
    smbus = EmulatedSMBus(_faulty(config.board.address, board, faults, clock))

    def outputs_us() -> list[float]:
        held_raw, holds = board.positions_raw(), board.torques()
        pulses = pulses_us(command_from_counts([held_raw[i] for i in by_joint], config.board.servos), config.servos)
        return [pulse if holds[i] else 0.0 for pulse, i in zip(pulses, by_joint, strict=True)]

    return EmulatedBus(DofbotBoardBus(config, smbus, clock), board, outputs_us, link)


def _faulty(address: int, chip: Chip, faults: Faults, clock: Clock) -> FaultyI2C:
    """The wires to an emulated chip, with the faults of `bus`; a brown-out resets the chip."""
    return FaultyI2C(EmulatedI2C({address: chip}), faults, lambda s: clock.sleep_until(clock.now_s() + s), chip.power_up)
