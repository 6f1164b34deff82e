"""What is opened is checked first, and whoever is outside (systemd, a client) hears how it begins and ends."""

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace

import urdf
from edge import calibration, service
from edge.buses.bus_writer import BusWriter
from edge.calibration import DepthCorrection
from edge.cameras.virtual_camera import Mounting
from edge.clock import MonotonicClock
from edge.config import BlockConfig, CalibrationConfig, Config, ControlConfig, RealtimeConfig, SimulatorConfig
from edge.devices import Devices, View
from edge.errors import BusError, ConfigError, NotListeningError
from edge.remote.commands import Grasp, Status, StatusReport
from edge.remote.control_client import ControlClient
from edge.service import Parts, run_once, serve
from tests.edge.rig import TASK, FakeBus, FakeCamera, FakeClock, FakePolicy, FakeRecorder, Rig, raising
from trainer import spec


class FakeSystemd:
    """Keeps what it hears, in order, once each."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def __getattr__(self, name: str) -> Any:
        def say(*_: str) -> None:
            if name not in self.said:
                self.said.append(name)

        return say


def settings(path: Path | str = "") -> Config:
    return replace(
        Config(),
        simulator=SimulatorConfig(clock="virtual"),
        control=ControlConfig(socket=str(path)),
        realtime=RealtimeConfig(fifo_priority=0, lock_memory=False, freeze_gc=False),
    )


def parts(rig: Rig, clock: Any = None) -> Parts:
    bus = BusWriter(FakeBus(rig), clock_is_virtual=True)
    devices = Devices(bus, FakeCamera(rig), clock or FakeClock(rig), lambda: None)
    return Parts(FakePolicy(rig), TASK, devices, FakeRecorder(rig))  # type: ignore[arg-type]


def test_a_run_tells_systemd_that_it_is_ready_alive_and_over() -> None:
    rig, systemd = Rig(), FakeSystemd()
    summary = run_once(parts(rig), settings(), 1, lambda: False, systemd)  # type: ignore[arg-type]
    assert (summary.stopped_by, summary.picked) == ("done", 1)
    assert systemd.said == ["ready", "alive", "ended"]
    assert rig.is_released


def test_a_stop_is_told_when_it_begins() -> None:
    rig, systemd = Rig(), FakeSystemd()
    run_once(parts(rig), settings(), 0, lambda: len(rig.sent) > 100, systemd)  # type: ignore[arg-type]
    assert systemd.said == ["ready", "alive", "stopping", "ended"]


def test_a_run_that_breaks_off_tells_no_end() -> None:
    systemd = FakeSystemd()
    with pytest.raises(OSError, match="gone"):
        run_once(parts(Rig(open=raising(OSError("gone")))), settings(), 1, lambda: False, systemd)  # type: ignore[arg-type]
    assert systemd.said == ["ready"]


def test_the_service_listens_from_ready_to_end(tmp_path) -> None:
    rig, systemd, stop = Rig(), FakeSystemd(), threading.Event()
    where = tmp_path / "control.sock"
    heard: list[Any] = []

    def talk() -> None:
        with ControlClient(where) as client:
            while not isinstance(report := client.ask(Status()), StatusReport):
                pass
            heard.extend([report, client.ask(Grasp())])
        stop.set()

    client = threading.Thread(target=talk)

    def stopping() -> bool:
        if client.ident is None:  # the loop runs
            client.start()
        return stop.is_set()

    serve(parts(rig, MonotonicClock()), settings(where), stopping, systemd)  # type: ignore[arg-type]
    client.join(5.0)
    assert heard[0].state == "DISARMED"
    assert "expected it armed" in heard[1].reason
    assert systemd.said == ["ready", "alive", "stopping", "ended"]
    with pytest.raises(NotListeningError):
        ControlClient(where)


def test_nobody_could_arm_a_service_without_a_socket() -> None:
    with pytest.raises(ConfigError, match=r"control\.socket = '' .* run with --arm"):
        serve(parts(Rig()), settings(), lambda: True, FakeSystemd())  # type: ignore[arg-type]


def test_a_place_that_is_out_of_reach_is_found_before_a_device_is_opened(monkeypatch) -> None:
    monkeypatch.setattr(service, "load", lambda *_: FakePolicy(Rig()))
    monkeypatch.setattr(service, "open_devices", lambda *_: pytest.fail("a device was opened"))
    far = replace(Config(), run=replace(Config().run, place_in_table_m=(0.5, 0.5)))
    with pytest.raises(ConfigError, match=r"run\.place_in_table_m = \(0\.5, 0\.5\)"), service.opened(far):
        pass


def test_a_marker_that_is_larger_than_its_block_is_in_another_unit(monkeypatch) -> None:
    monkeypatch.setattr(service, "load", lambda *_: SimpleNamespace(contract=spec.contract("xyz")))
    monkeypatch.setattr(service, "open_devices", lambda *_: pytest.fail("a device was opened"))
    large = replace(Config(), block=BlockConfig(marker_m=0.031))
    with pytest.raises(ConfigError, match=r"block\.marker_m = 0\.031, expected at most the policy's block, 0\.03"), service.opened(large):
        pass


def test_a_calibrated_camera_goes_to_the_devices_with_the_policys(tmp_path, monkeypatch) -> None:
    path, policy = tmp_path / "robot.json", FakePolicy(Rig())
    found = calibration.blank(Config(), urdf.dofbot_sha256())
    calibration.save(path, replace(found, depth=DepthCorrection("123", 1.01, 0.0, calibration.made("test"))))
    monkeypatch.setattr(service, "load", lambda *_: policy)
    given: list[Any] = []

    def opening(*parts: Any) -> Devices:
        given.extend(parts)
        raise BusError("enough")

    monkeypatch.setattr(service, "open_devices", opening)
    for file, expected in ((str(path), Mounting(str(path), calibration.load(path), policy.contract.camera)), ("", None)):
        given.clear()
        with pytest.raises(BusError, match="enough"), service.opened(replace(Config(), calibration=CalibrationConfig(file))):
            pass
        assert given[1] == View(expected)
