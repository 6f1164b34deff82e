"""What is opened is what the configuration names, nothing is powered before the first write, and all is closed again."""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from types import SimpleNamespace

import numpy as np
import pytest
from msgspec.structs import replace

from edge import calibration, robot
from edge.buses.servos import OFF_US, pulses_us
from edge.calibration import HandEye
from edge.cameras.virtual_camera import Mounting
from edge.clock import MonotonicClock, VirtualClock
from edge.config import BusConfig, Config, FaultsConfig, ServoConfig, SimulatorConfig
from edge.contract import VirtualCamera
from edge.devices import Devices, View, open_devices
from edge.errors import BusError, ConfigError, DofbotError, ObservationError
from edge.messages import Float32, Intrinsics, JointCommand
from edge.simulated.emulator import EmulatedI2C, Pca9685Emulator
from edge.simulated.faults import Fault
from edge.simulated.wire import UNKNOWN_US, PulsesUs
from trainer.server import SimulatorServer

LENS = Intrinsics(8, 6, 60.0, 60.0, 3.5, 2.5)
PARK = JointCommand._make((*robot.PARK_RAD, 0.06))
COUNT_US = 4.89  # what a PCA9685 can resolve


class FakeWorld:
    """Time, and the pulses that came."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.received: list[PulsesUs] = []

    def write_pulses(self, pulses_us: PulsesUs) -> None:
        self.received.append(pulses_us)

    def step(self, duration_s: float) -> None:
        self.now_s += duration_s

    def servos_us(self) -> PulsesUs:
        return UNKNOWN_US

    def depth_frame(self) -> tuple[Float32, Intrinsics]:
        return np.full((LENS.height, LENS.width), 0.2, np.float32), LENS


class Simulator:
    """A server of a fake world in a thread."""

    def __init__(self) -> None:
        self.world = FakeWorld()
        self._server = SimulatorServer(self.world)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._server.serve, args=(self._stop,))
        self._thread.start()

    def config(self, clock: str = "virtual", **bus: object) -> Config:
        return Config(bus=replace(BusConfig(), **bus), simulator=SimulatorConfig(port=self._server.port, clock=clock))  # type: ignore[arg-type]

    def stop(self) -> list[PulsesUs]:
        """End it, once it has taken all; returns the pulses that came."""
        self._stop.set()
        self._thread.join(timeout=10.0)
        assert not self._thread.is_alive()
        return self.world.received


@pytest.fixture
def simulator(monkeypatch) -> Iterator[Simulator]:
    monkeypatch.setattr("trainer.server.POLL_S", 0.01)  # so that it stops at once
    simulator = Simulator()
    yield simulator
    simulator.stop()


DRIVER_NEEDS = {"pca9685": "adafruit_servokit", "dofbot_board": "smbus2", "simulator": "numpy"}


@pytest.fixture(params=DRIVER_NEEDS)
def config(request, simulator) -> Config:
    """A configuration of each bus that ends in the simulator."""
    pytest.importorskip(DRIVER_NEEDS[request.param])
    return simulator.config(driver=request.param, i2c="emulated")


def write_until_there(devices: Devices, command: JointCommand = PARK) -> None:
    """Bus servos take a while, and the simulator hears of them with each write."""
    for _ in range(60):
        devices.bus.write(command)
        devices.clock.sleep_until(devices.clock.now_s() + 0.02)


def settle(devices: Devices) -> None:
    """Until the simulator has seen what was sent: it answers in order."""
    devices.clock.sleep_until(devices.clock.now_s() + 0.001)


def test_opening_powers_nothing_and_the_camera_answers(config, simulator) -> None:
    with closing(open_devices(config)) as devices:
        assert devices.camera.start() == LENS
        frame = devices.camera.latest()
        assert frame is not None
        assert frame.depth_m[0, 0] == pytest.approx(0.2, abs=1e-6)  # the camera adds the noise that a renderer lacks
        settle(devices)
        assert not any(map(any, simulator.world.received))


WIDE = Intrinsics(424, 240, 214.0, 214.0, 211.5, 119.5)


def mounting(serial: str) -> Mounting:
    """A camera 50 mm behind the policy's."""
    made, pose, behind = calibration.made("test"), np.diag((1.0, -1.0, -1.0, 1.0)), np.eye(4)
    behind[2, 3] = -0.05
    at = tuple(map(tuple, (pose @ behind).tolist()))
    found = replace(calibration.blank(Config(), "ab"), hand_eye=HandEye(serial, at, made))  # type: ignore[arg-type]
    policy = VirtualCamera(Intrinsics(64, 64, 57.7, 57.7, 31.5, 31.5), tuple(map(tuple, pose.tolist())))
    return Mounting("robot.json", found, policy)


def test_with_a_calibrated_camera_frames_are_as_the_policys_would_have_taken_them(simulator) -> None:
    simulator.world.depth_frame = lambda: (np.full((240, 424), 0.2, np.float32), WIDE)
    with closing(open_devices(simulator.config(driver="simulator"), View(mounting("simulated")))) as devices:
        assert devices.camera.start() == mounting("simulated").policy.intrinsics
        frame = devices.camera.latest()
        assert frame is not None
        assert frame.depth_m[32, 32] == pytest.approx(0.15, abs=1e-6)


def test_a_calibration_of_another_camera_is_refused_before_anything_moves(simulator) -> None:
    with closing(open_devices(simulator.config(driver="simulator"), View(mounting("123")))) as devices:
        with pytest.raises(ConfigError, match=r"robot\.json is for another camera: hand_eye\.serial is '123', expected 'simulated'"):
            devices.camera.start()
        settle(devices)
        assert not any(map(any, simulator.world.received))


def test_a_command_arrives_as_pulses_and_release_as_none(config, simulator) -> None:
    with closing(open_devices(config)) as devices:
        write_until_there(devices)
        assert simulator.world.received[-1] == pytest.approx(pulses_us(PARK, config.bus.servos), abs=COUNT_US)
        devices.bus.release()
        settle(devices)
        assert simulator.world.received[-1] == OFF_US


def test_close_switches_off_and_may_be_called_again(config, simulator) -> None:
    devices = open_devices(config)
    write_until_there(devices)
    devices.close()
    devices.close()
    with pytest.raises(BusError):
        devices.bus.write(PARK)
    with closing(open_devices(config)):  # the server is free again: the first link is gone
        pass
    received = simulator.stop()
    last_on = max(index for index, pulses in enumerate(received) if any(pulses))
    assert all(received[last_on])
    assert set(received[last_on + 1 :]) == {OFF_US}


def test_closing_never_raises_once_the_simulator_is_gone(config, simulator, caplog) -> None:
    devices = open_devices(config)
    devices.bus.write(PARK)
    simulator.stop()
    with pytest.raises(BusError):
        settle(devices)
    devices.bus.release()
    devices.close()
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_the_bus_is_switched_off_before_anything_else_is_closed(config, monkeypatch) -> None:
    """A camera or a link that takes its time to close must not keep servos powered."""
    order: list[str] = []

    def noting(name: str, method: Callable[..., None]) -> Callable[..., None]:
        def noted(*arguments: object) -> None:
            order.append(name)
            method(*arguments)

        return noted

    devices = open_devices(config)
    bus_class, camera_class = type(devices.bus), type(devices.camera)
    devices.close()
    monkeypatch.setattr(bus_class, "close", noting("bus", bus_class.close))
    monkeypatch.setattr(camera_class, "close", noting("camera", camera_class.close))
    monkeypatch.setattr("edge.simulated.simulator.SimulatorLink.close", noting("link", lambda link: link._sock.close()))
    open_devices(config).close()
    assert order == ["bus", "camera", "link"]


@pytest.mark.parametrize(("clock", "kind"), [("virtual", VirtualClock), ("real", MonotonicClock)])
def test_the_clock_is_the_configured_one(clock, kind, simulator) -> None:
    with closing(open_devices(simulator.config(clock, driver="simulator"))) as devices:
        assert isinstance(devices.clock, kind)
        assert devices.camera.start() == LENS


def test_no_simulator_is_one_sentence_with_the_remedy(simulator) -> None:
    config = simulator.config(driver="simulator")
    simulator.stop()
    with pytest.raises(BusError, match=rf"no simulator answers on 127\.0\.0\.1:{config.simulator.port} .*dofbot simulate"):
        open_devices(config)


def test_the_emulated_board_starts_where_the_simulated_arm_is_and_reads_back_what_holds_it(simulator, monkeypatch) -> None:
    pytest.importorskip("smbus2")
    config = simulator.config(driver="dofbot_board", i2c="emulated")
    actual = PARK
    monkeypatch.setattr(FakeWorld, "servos_us", lambda world: pulses_us(actual, config.bus.servos))
    with closing(open_devices(config)) as devices:
        assert devices.bus.measured() == pytest.approx(PARK, abs=0.002)
        write_until_there(devices)
        for pulses in simulator.world.received:  # no leap from anywhere else
            assert pulses == OFF_US or pulses == pytest.approx(pulses_us(PARK, config.bus.servos), abs=1.0)
        for opening_m in (0.055, 0.05, 0.045, 0.04, 0.035, 0.03):  # a block between the fingers; no servo leaps there
            actual = PARK._replace(opening_m=opening_m)
            write_until_there(devices, PARK._replace(opening_m=opening_m - 0.01))
        assert devices.bus.measured().opening_m == pytest.approx(0.03, abs=1e-3)
        assert devices.bus.measured().joints_rad == pytest.approx(PARK.joints_rad, abs=0.002)


def test_a_simulator_that_knows_no_positions_leaves_them_to_the_servos_own_model(simulator) -> None:
    pytest.importorskip("smbus2")
    with closing(open_devices(simulator.config(driver="dofbot_board", i2c="emulated"))) as devices:
        assert devices.bus.measured().joints_rad == pytest.approx((0.0,) * 5, abs=0.002)
        write_until_there(devices)
        assert devices.bus.measured() == pytest.approx(PARK, abs=0.002)


@pytest.mark.parametrize("driver", ["pca9685", "simulator"])
def test_servos_without_read_back_measure_nothing(driver: str, simulator) -> None:
    pytest.importorskip(DRIVER_NEEDS[driver])
    with closing(open_devices(simulator.config(driver=driver, i2c="emulated"))) as devices:
        write_until_there(devices)
        assert devices.bus.measured() is None


def test_board_servos_that_turn_too_little_are_refused_before_anything_is_opened(simulator) -> None:
    servos = BusConfig().board.servos
    config = simulator.config(board=replace(BusConfig().board, servos=(replace(servos[0], max_raw=3000), *servos[1:])))
    simulator.stop()  # so that opening would fail
    with pytest.raises(ConfigError, match=r"bus\.board\.servos\[0\] \(joint1\)"):
        open_devices(config)


def test_servos_that_turn_too_little_are_refused_before_anything_is_opened(simulator) -> None:
    servos = (ServoConfig(channel=0, travel_deg=120.0), *BusConfig().servos[1:])
    config = simulator.config(servos=servos)
    simulator.stop()  # so that opening would fail
    with pytest.raises(ConfigError, match=r"bus\.servos\[0\] \(joint1\)"):
        open_devices(config)


@pytest.mark.parametrize("driver", ["pca9685", "dofbot_board"])
def test_real_servos_refuse_virtual_time(driver: str, simulator) -> None:
    config = simulator.config(driver=driver, i2c="board")
    simulator.stop()
    with pytest.raises(ConfigError, match=r"simulator\.clock = 'virtual' with bus\.i2c = 'board', expected 'real'"):
        open_devices(config)


@pytest.mark.parametrize("driver", ["pca9685", "dofbot_board"])
def test_a_bus_that_does_not_open_leaves_nothing_open(driver: str, simulator) -> None:
    pytest.importorskip(DRIVER_NEEDS[driver])
    nowhere = replace(BusConfig().board, i2c_bus=99)
    refused = simulator.config("real", driver=driver, i2c="board", address=0x41, board=nowhere)
    with pytest.raises(DofbotError):  # this machine has no I2C bus, or nothing at that address
        open_devices(refused)
    with closing(open_devices(simulator.config(driver="simulator"))) as devices:
        assert devices.camera.start() == LENS


def inject(config: Config, *faults: Fault) -> Config:
    return replace(config, faults=FaultsConfig(allow=True, script=faults))


def test_no_fault_can_be_injected_unless_the_configuration_says_so(config) -> None:
    with closing(open_devices(config)) as devices, pytest.raises(ConfigError, match=r"faults\.allow = false"):
        devices.faults.inject(Fault("camera", "off"))


def test_a_camera_fault_reaches_whoever_looks_and_five_good_frames_end_it(config) -> None:
    with closing(open_devices(inject(config, Fault("camera", "off", start_s=1.0, for_s=1.0)))) as devices:
        devices.camera.start()
        seen = []
        for tick in range(1, 150):
            devices.clock.sleep_until(tick * 0.02)
            try:
                seen.append(tick if devices.camera.latest() else 0)
            except ObservationError:
                seen.append(0)
        assert all(seen[:49])
        assert not any(seen[49:107])  # off until 1.98 s, then frames at 2.00, 2.04 … 2.16 s, which is tick 108
        assert all(seen[107:])
        assert devices.faults.applied == {"camera off": 50}


def test_a_stuck_camera_grows_old_and_a_resting_simulation_does_not(config) -> None:
    with closing(open_devices(inject(config, Fault("camera", "stuck", start_s=2.0)))) as devices:
        devices.camera.start()
        ages_s = []
        for tick in range(1, 150):
            devices.clock.sleep_until(tick * 0.02)
            ages_s.append(devices.clock.now_s() - devices.camera.latest().captured_at_s)
        assert max(ages_s[:99]) < 0.05  # though the simulated image never changes
        assert ages_s[99 + 10] > 0.15  # 200 ms later it is older than a frame may be
        assert ages_s == ages_s[:110] + sorted(ages_s[110:])


@pytest.mark.parametrize("mode", ["off", "stuck", "intermittent"])
def test_bus_faults_act_below_the_driver_and_take_the_clocks_time(mode, simulator) -> None:
    pytest.importorskip("adafruit_servokit")
    fault = Fault("bus", mode, value=1.0 if mode == "intermittent" else None)
    with closing(open_devices(inject(simulator.config(driver="pca9685", i2c="emulated")))) as devices:
        devices.bus.write(PARK)
        before_s = devices.clock.now_s()
        devices.faults.inject(fault)
        with pytest.raises(BusError, match="did not answer"):
            devices.bus.write(PARK)
        assert devices.clock.now_s() - before_s == pytest.approx(0.01 if mode == "stuck" else 0.0)
        assert devices.faults.applied == {f"bus {mode}": 1 if mode == "stuck" else 3}  # nobody acknowledged: tried twice more
        devices.faults.inject(Fault("bus", "ok"))
        devices.bus.write(PARK)


def test_a_reset_chip_is_found_by_the_driver(simulator) -> None:
    pytest.importorskip("adafruit_servokit")
    with closing(open_devices(inject(simulator.config(driver="pca9685", i2c="emulated")))) as devices:
        devices.bus.write(PARK)
        devices.faults.inject(Fault("bus", "wrong"))
        with pytest.raises(BusError, match="it was reset or is another chip"):
            devices.bus.write(PARK)
        devices.bus.open()
        devices.bus.write(PARK)
        assert devices.faults.applied == {"bus wrong": 1}


def test_a_bus_without_i2c_has_no_bus_faults(simulator) -> None:
    config = inject(simulator.config(driver="simulator"), Fault("bus", "off"))
    with pytest.raises(ConfigError, match=r"bus\.driver = 'simulator', .* expected an emulated I2C bus; set bus\.i2c"):
        open_devices(config)
    with closing(open_devices(simulator.config(driver="simulator"))):  # nothing was left open
        pass


def test_on_the_real_clock_the_camera_is_another_process_and_comes_back_when_killed(simulator) -> None:
    with closing(open_devices(simulator.config("real", driver="simulator"))) as devices:
        assert devices.camera.start() == LENS
        children = subprocess.run(["ps", "--ppid", str(os.getpid()), "-o", "pid=,args="], capture_output=True, text=True, check=True)
        (pid,) = (int(line.split()[0]) for line in children.stdout.splitlines() if "edge.cameras.capture" in line)
        before = devices.camera.latest().sequence
        os.kill(pid, signal.SIGKILL)
        ends_s, errors, frame = time.monotonic() + 60.0, set(), None
        while frame is None or frame.sequence - before < 1 << 31:
            assert time.monotonic() < ends_s
            try:
                frame = devices.camera.latest()
            except ObservationError as error:
                errors.add(str(error)[:28])
            time.sleep(0.005)
        assert errors >= {"the capture process died (si", "the camera was away, and 4 g"}
        assert devices.clock.now_s() - frame.captured_at_s < 60.0


def test_a_real_pca9685_is_taken_up_where_the_last_process_sent_it(simulator, tmp_path, monkeypatch) -> None:
    pytest.importorskip("adafruit_servokit")
    monkeypatch.delenv("RUNTIME_DIRECTORY", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    i2c = EmulatedI2C({0x40: Pca9685Emulator()})
    monkeypatch.setitem(sys.modules, "board", SimpleNamespace(I2C=lambda: i2c))
    away, config = PARK._replace(joint1_rad=0.5), simulator.config("real", driver="pca9685", i2c="board")
    with closing(open_devices(config)) as devices:
        assert devices.bus.measured() is None
        devices.bus.write(away, within_s=1.0)
    with closing(open_devices(config)) as devices:
        assert devices.bus.measured() == away
        devices.bus.write(PARK, within_s=1.0)
        assert devices.bus.measured() is None
