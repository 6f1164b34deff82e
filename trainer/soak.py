"""A long run of the runtime against a simulated desk, with faults all the time and a scripted person who gets it going again.

Runtime, gate, bus writer, PCA9685 driver, orders and fault injection are those of the arm; chip, servos, desk and person are simulated.
On the virtual clock time passes as fast as the machine allows; on the real one the camera has its own process, as on the arm.
"""

import math
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from msgspec import Struct

import urdf
from edge.buses.servos import ServoBus
from edge.clock import Clock
from edge.config import BusConfig, Config, FaultsConfig, MountConfig, RealtimeConfig, SimulatorConfig
from edge.contract_check import Expectation
from edge.devices import Devices, open_on
from edge.errors import BusError
from edge.grasping import Markers
from edge.policy import Policy, load
from edge.preflight import preflight
from edge.realtime import realtime
from edge.records.histogram import Durations
from edge.records.record import Recorder
from edge.remote.orders import Orders
from edge.runtime import Runtime
from edge.service import seeing
from edge.simulated.simulator import SimulatorLink
from edge.states import State
from edge.task import GraspTask
from trainer.command_checker import CheckedBus
from trainer.light_world import DirectLink, LightDesk
from trainer.soak_person import BASELINE, FAULT_EVERY_S, Person

SAMPLES_AN_HOUR = 12
WARM_UP_SHARE, WARM_UP_MOST_H = 0.25, 1.0  # left out of the slope: caches fill, and the allocator finds its size
SHOW_EVERY_TICKS = 500
SERVER_START_S = 60.0
# What the robot asks for, without what only the real clock needs: the collector is off, so that a cycle that is made shows as growth.
VIRTUAL_REALTIME = RealtimeConfig(fifo_priority=0, lock_memory=False)


class Settings(NamedTuple):
    """What is run."""

    policy: Path
    hours: float
    is_real: bool
    seed: int
    fault_every_s: float = FAULT_EVERY_S  # on average; inf: none but the transactions that are not acknowledged


class Memory(Struct, frozen=True):
    """Resident memory of the process in MiB, and its slope in MiB an hour by least squares, with its standard error."""

    hours: tuple[float, ...]
    resident_mb: tuple[float, ...]
    slope_mb_per_h: float
    slope_error_mb_per_h: float
    fitted_from_h: float


class Soak(Struct, frozen=True):
    """The figures of a soak; times are the loop's."""

    clock: str
    seed: int
    asked_hours: float
    hours: float
    wall_s: float
    cpu_s: float
    ended_by: str  # 'done', 'Ctrl-C', or the error that ended it
    policy_sha256: str
    variant: str  # what the policy sees: 'depth' images, or the place of a marked block, 'xyz'
    ticks: int
    attempts: int
    picked: int
    missed: int
    lost: int
    caught: int  # blocks that the desk's gripper really closed on; -1: the desk is another process
    faults: dict[str, int]  # 'target mode' → how often it was really applied
    holds: dict[str, int]  # cause → how often the arm went to HOLD for it
    safes: dict[str, int]
    recoveries: int  # HOLDs that ended by themselves
    asked: dict[str, int]  # commands of the person
    refused: int
    retries: int
    overruns: int
    skipped: int
    held_ticks: int
    clamped_ticks: int
    sent: int
    unacknowledged: int
    unsafe: int
    unsafe_why: dict[str, int]
    unsafe_examples: tuple[str, ...]
    hold_at_h: tuple[float, ...]
    safe_at_h: tuple[float, ...]
    memory: Memory
    lateness: Durations

    @property
    def is_good(self) -> bool:
        """Whether nothing unsafe was sent and nothing broke."""
        return not self.unsafe and self.ended_by in ("done", "Ctrl-C")


class Tally:
    """Watches the states of a runtime, tick by tick, and the memory of the process, from time to time."""

    def __init__(self, hours: float, clock: Clock) -> None:
        self.holds: Counter[str] = Counter()
        self.safes: Counter[str] = Counter()
        self.hold_at_h: list[float] = []
        self.safe_at_h: list[float] = []
        self.recoveries = 0
        self.samples: list[tuple[float, float]] = []
        self._clock = clock
        self._began_s = clock.now_s()
        self._state = ""
        self._every_h = min(1.0 / SAMPLES_AN_HOUR, hours / SAMPLES_AN_HOUR)
        self._next_h = 0.0

    @property
    def hours(self) -> float:
        """How long, by the clock of the loop."""
        return (self._clock.now_s() - self._began_s) / 3600.0

    def look(self, runtime: Runtime) -> None:
        """Once a tick."""
        now_h = self.hours
        if now_h >= self._next_h:
            self._next_h = now_h + self._every_h
            self.samples.append((now_h, resident_now_mb()))
        before, self._state = self._state, runtime.state
        if self._state == before:
            return
        if self._state == State.HOLD:
            self.holds[str(runtime.standing.cause)] += 1
            self.hold_at_h.append(now_h)
        elif self._state == State.SAFE:
            self.safes[str(runtime.standing.safe_cause)] += 1
            self.safe_at_h.append(now_h)
        elif before == State.HOLD and runtime.is_armed:
            self.recoveries += 1


class _Rig(NamedTuple):
    """What one soak is made of."""

    policy: Policy
    task: GraspTask
    devices: Devices
    markers: Markers | None
    checked: CheckedBus
    desk: LightDesk | None


def run(settings: Settings, stop: Callable[[], bool] = lambda: False, show: Callable[[float], None] = lambda hours: None) -> Soak:
    """Soak for so many hours, or until `stop`; `show` is called with the hours that have passed. Raises `DofbotError` before it begins."""
    policy = load(settings.policy, Expectation(MountConfig(), urdf.dofbot_sha256()))
    with _rig(policy, settings) as rig:
        wall_s, cpu_s = time.monotonic(), time.process_time()
        person, tally = Person(settings.seed, rig.devices.clock.now_s, settings.fault_every_s), Tally(settings.hours, rig.devices.clock)
        orders = Orders(cast(Any, person), rig.devices.faults, load, "pca9685")

        def obey(runtime: Runtime) -> None:
            tally.look(runtime)
            orders(runtime)
            if runtime.figures.ticks % SHOW_EVERY_TICKS == 0:
                show(tally.hours)

        runtime = Runtime(policy, rig.task, rig.devices, Recorder(""), Config().camera.max_age_s, obey=obey, markers=rig.markers)
        ended_by = "done"
        try:
            with realtime(RealtimeConfig() if settings.is_real else VIRTUAL_REALTIME, runtime.helpers):
                runtime.serve(lambda: stop() or tally.hours >= settings.hours)
            ended_by = "Ctrl-C" if stop() else "done"
        except KeyboardInterrupt:
            ended_by = "Ctrl-C"
        except Exception as error:  # whatever it is, the figures so far tell more than it does
            ended_by = f"{type(error).__name__}: {error}"
        tally.look(runtime)
        spent_s = time.monotonic() - wall_s, time.process_time() - cpu_s
        return _figures(settings, rig, runtime, person, tally, spent_s, ended_by)


@contextmanager
def _rig(policy: Policy, settings: Settings) -> Iterator[_Rig]:
    """Open devices on a simulated desk: in this process, or on the real clock in one of its own."""
    task = GraspTask(policy.contract, Config().run.place_in_table_m)
    view, markers = seeing(Config(), policy.contract, task, None)
    checked: list[CheckedBus] = []

    def watch(bus: ServoBus) -> CheckedBus:
        checked.append(CheckedBus(bus, task.mount, task.park, 1.0 / task.tick_hz))
        return checked[0]

    with ExitStack() as opened:
        desk = None if settings.is_real else LightDesk(policy.contract, settings.seed)
        link = DirectLink(desk, view.needs_image) if desk is not None else opened.enter_context(_served(settings))
        config = Config(
            bus=BusConfig(i2c="emulated"),
            simulator=SimulatorConfig(port=link.port, clock=link.clock),
            faults=FaultsConfig(allow=True, seed=settings.seed),
        )
        devices = open_on(link, config, watch, view)
        opened.callback(devices.close)
        preflight(policy, devices.camera)
        checked[0].clock = devices.clock
        devices.faults.inject(BASELINE)
        yield _Rig(policy, task, devices, markers, checked[0], desk)


@contextmanager
def _served(settings: Settings) -> Iterator[SimulatorLink]:
    """A link on the real clock to a desk in another process, which ends with the block, and with this process."""
    command = [sys.executable, "-m", "trainer.light_world", str(settings.policy), str(settings.seed)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True) as desk:
        assert desk.stdout is not None
        try:
            port = desk.stdout.readline()  # an end of file when it fails, and it says why itself
            if not port.strip().isdigit():
                raise BusError("the simulated desk ended before it listened, expected a port; see what it said above")
            yield SimulatorLink.connect(int(port), "real")
        finally:
            desk.terminate()


def _figures(
    settings: Settings, rig: _Rig, runtime: Runtime, person: Person, tally: Tally, spent_s: tuple[float, float], ended_by: str
) -> Soak:
    wall_s, cpu_s = spent_s
    checked, counts, seen = rig.checked, runtime.counts, runtime.figures
    return Soak(
        clock="real" if settings.is_real else "virtual",
        seed=settings.seed,
        asked_hours=settings.hours,
        hours=tally.hours,
        wall_s=wall_s,
        cpu_s=cpu_s,
        ended_by=ended_by,
        policy_sha256=rig.policy.sha256,
        variant=rig.policy.contract.variant,
        ticks=seen.ticks,
        attempts=counts.attempts,
        picked=counts.picked,
        missed=counts.missed,
        lost=counts.lost,
        caught=-1 if rig.desk is None else rig.desk.caught,
        faults=rig.devices.faults.applied,
        holds=dict(tally.holds),
        safes=dict(tally.safes),
        recoveries=tally.recoveries,
        asked=dict(person.asked),
        refused=person.refused,
        retries=rig.devices.bus.retries,
        overruns=seen.overruns,
        skipped=seen.skipped,
        held_ticks=seen.holds,
        clamped_ticks=seen.clamped,
        sent=checked.sent,
        unacknowledged=checked.unacknowledged,
        unsafe=checked.unsafe,
        unsafe_why=dict(checked.why),
        unsafe_examples=tuple(checked.examples),
        hold_at_h=tuple(tally.hold_at_h),
        safe_at_h=tuple(tally.safe_at_h),
        memory=fit(tally.samples),
        lateness=seen.timings.lateness.durations(),
    )


def fit(samples: list[tuple[float, float]]) -> Memory:
    """The slope of resident memory over the hours, (hours, MiB) each, once the process has warmed up."""
    hours, resident_mb = (np.array(column) for column in zip(*samples, strict=True))
    from_h = min(WARM_UP_MOST_H, WARM_UP_SHARE * hours[-1])
    kept = hours >= from_h
    slope = error = 0.0
    if kept.sum() > 2:
        x, y = hours[kept] - hours[kept].mean(), resident_mb[kept] - resident_mb[kept].mean()
        slope = float(x @ y / (x @ x))
        error = math.sqrt(float(np.sum((y - slope * x) ** 2)) / (len(x) - 2) / float(x @ x))
    return Memory(tuple(hours.tolist()), tuple(resident_mb.tolist()), slope, error, float(from_h))


def resident_now_mb() -> float:
    """Resident memory of this process now, in MiB; 0 where /proc has none."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0.0
    return pages * resource.getpagesize() / 2**20


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C or SIGTERM into a question; the second Ctrl-C interrupts."""
    received: list[int] = []

    def receive(number: int, _: object) -> None:
        received.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.signal(number, receive) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
