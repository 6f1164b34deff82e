"""What is around a control loop in tests: virtual time, and parts that work unless a hook has other plans."""

from collections.abc import Callable
from itertools import groupby
from typing import Any

import numpy as np
from msgspec.structs import replace

from edge import kinematics
from edge.buses.bus_writer import BusWriter
from edge.clock import VirtualClock
from edge.devices import Devices
from edge.messages import Frame, Intrinsics, JointCommand
from edge.records.record import Summary, TickRecord
from edge.runtime import Runtime
from edge.safety import DOFBOT_LIMITS
from edge.task import GraspTask
from trainer import spec

STEPS = 40
EPISODE = replace(spec.EPISODE, steps=STEPS, start_in_table_m=(0.0, 0.150, 0.050))  # the last 40 steps of the real descent
CONTRACT = replace(spec.contract(), episode=EPISODE)
PLACE_M = (-0.12, 0.06)
TASK = GraspTask(CONTRACT, PLACE_M)
TICK_S = 1.0 / TASK.tick_hz
MAX_AGE_S = 0.1
START_S = 1000.0
LENS = CONTRACT.camera.intrinsics
TABLE_M, BLOCK_M = 0.25, 0.10  # seen all over the image: nothing between the fingers, something
GRASP = ["HOMING", "APPROACH", "GRASP", "LIFT", "VERIFY", "PLACE"]
END = ["IDLE", "PARK"]


def image(depth_m: float = BLOCK_M) -> np.ndarray:
    return np.full((LENS.height, LENS.width), depth_m, np.float32)


class Rig:
    """What is around a runtime: virtual time, and a camera, a policy, a bus and a recorder that work unless their hook has other plans."""

    def __init__(self, **hooks: Callable[["Rig"], Any]) -> None:
        self.now_s = START_S
        self.hooks = hooks
        parts = ("camera", "policy", "bus", "late", "open", "check", "measured", "recorder", "clock", "alive", "obey")
        self.calls = dict.fromkeys(parts, 0)
        self.records: list[TickRecord] = []
        self.sent: list[tuple[float, JointCommand]] = []
        self.steps_left: list[int] = []
        self.is_released = self.is_at_rest = True
        self.rests: set[int] = set()  # which of `sent` follow a write that was not acknowledged, or begin anew
        self.runtime: Runtime

    @property
    def phase(self) -> str:
        """Of the last tick."""
        return self.records[-1].phase if self.records else "IDLE"

    def hook(self, part: str, otherwise: Any = None) -> Any:
        self.calls[part] += 1
        return self.hooks[part](self) if part in self.hooks else otherwise

    def frame(self, depth_m: np.ndarray | None = None, age_s: float = 0.01) -> Frame:
        return Frame(image() if depth_m is None else depth_m, LENS, self.now_s - age_s, self.calls["camera"])


class FakeClock(VirtualClock):
    def __init__(self, rig: Rig) -> None:
        self.rig = rig

    def now_s(self) -> float:
        return self.rig.now_s

    def sleep_until(self, deadline_s: float) -> None:
        assert deadline_s < START_S + 300.0, "the run does not end"
        self.rig.now_s = max(self.rig.now_s, deadline_s)
        self.rig.hook("clock")


class FakeCamera:
    def __init__(self, rig: Rig) -> None:
        self.rig = rig

    def start(self) -> Intrinsics:
        return LENS

    def latest(self) -> Frame | None:
        return self.rig.hook("camera", self.rig.frame())

    def close(self) -> None:
        pass


class FakeBus:
    """Servos that are where they were sent, read back or not."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig

    def open(self) -> None:
        self.rig.hook("open")
        self.rig.is_released = False

    def write(self, command: JointCommand) -> None:
        assert not self.rig.is_released, "written to after release"
        if self.rig.is_at_rest:
            self.rig.rests.add(len(self.rig.sent))
        self.rig.is_at_rest = True  # unless this one is acknowledged
        began_s = self.rig.now_s
        self.rig.hook("bus")
        self.rig.sent.append((began_s, command))
        self.rig.is_at_rest = False

    def check(self) -> None:
        self.rig.hook("check")

    def measured(self) -> JointCommand | None:
        return self.rig.hook("measured")

    def release(self) -> None:
        self.rig.is_released = self.rig.is_at_rest = True

    def close(self) -> None:
        self.release()


class FakePolicy:
    contract = CONTRACT

    def __init__(self, rig: Rig, sha256: str = "a" * 64) -> None:
        self.rig = rig
        self.sha256 = sha256

    def act(self, depth: np.ndarray, proprio: np.ndarray) -> np.ndarray:
        action = self.rig.hook("policy", np.array([0.3, -0.2], np.float32))
        self.rig.steps_left.append(int(proprio[3]))
        return action


class FakeRecorder:
    def __init__(self, rig: Rig) -> None:
        self.rig = rig

    def write(self, record: TickRecord) -> None:
        self.rig.records.append(record)
        self.rig.hook("recorder")


class LateWriter(BusWriter):
    """The hook `late` may say that a set point, which has arrived, was not acknowledged in time."""

    def __init__(self, rig: Rig) -> None:
        super().__init__(FakeBus(rig), clock_is_virtual=True)
        self._rig = rig

    def write(self, command: JointCommand, within_s: float = 0.0, since_s: float | None = None) -> None:
        assert since_s == self._rig.now_s, "its time counts from when the gate looked how long the arm had been without one"
        super().write(command)
        self._rig.hook("late")


def runtime(rig: Rig, task: GraspTask = TASK, obey: Callable[[Runtime], None] | None = None) -> Runtime:
    devices = Devices(LateWriter(rig), FakeCamera(rig), FakeClock(rig), lambda: None)
    rig.runtime = Runtime(
        FakePolicy(rig),  # type: ignore[arg-type]
        task,
        devices,
        FakeRecorder(rig),  # type: ignore[arg-type]
        MAX_AGE_S,
        alive=lambda: rig.hook("alive"),
        obey=obey or (lambda _: rig.hook("obey")),
    )
    return rig.runtime


def run(rig: Rig, grasps: int = 1, stop: Callable[[Rig], bool] = lambda rig: False, task: GraspTask = TASK) -> Summary:
    """`dofbot run --arm`: nobody commands it."""
    return ended(rig, lambda: runtime(rig, task).run(grasps, lambda: stop(rig)))


def serve(rig: Rig, stop_after_s: float, **at_s: Callable[[Runtime], object]) -> Summary:
    """The service, commanded at times such as `at_1_5`: 1.5 s after the start."""
    todo = sorted((START_S + float(name.removeprefix("at_").replace("_", ".")), order) for name, order in at_s.items())

    def obey(rig: Rig) -> None:
        while todo and todo[0][0] <= rig.now_s:
            todo.pop(0)[1](rig.runtime)

    rig.hooks.setdefault("obey", obey)
    return ended(rig, lambda: runtime(rig).serve(lambda: rig.now_s >= START_S + stop_after_s))


def ended(rig: Rig, loop: Callable[[], Summary]) -> Summary:
    try:
        return loop()
    finally:
        assert rig.is_released
        if "measured" not in rig.hooks:
            check_limits(rig)


def check_limits(rig: Rig) -> None:
    """From rest at the park pose on, and after a set point that was lost and a pause: position, speed and change of speed of each axis."""
    before_s, position, speed = 0.0, np.array(TASK.park), np.zeros(6)
    limits = DOFBOT_LIMITS
    for index, (now_s, command) in enumerate(rig.sent):
        assert now_s > before_s, "two commands in a tick"
        assert np.isfinite(command).all()
        speed = np.zeros(6) if index in rig.rests or now_s - before_s > 1.5 * TICK_S else speed
        new_speed = (np.array(command) - position) / TICK_S
        assert np.all(np.array(limits.position_min) <= command)
        assert np.all(np.array(limits.position_max) >= command)
        assert np.all(np.abs(new_speed) <= np.array(limits.velocity_max) + 1e-9)
        assert np.all(np.abs(new_speed - speed) <= np.array(limits.acceleration_max) * TICK_S + 1e-9)
        before_s, position, speed = now_s, np.array(command), new_speed


def phases(rig: Rig) -> list[str]:
    return [phase for phase, _ in groupby(record.phase for record in rig.records)]


def is_parked(rig: Rig) -> bool:
    """At the park pose with the gripper open, and at rest."""
    (_, last), (_, last_but_one) = rig.sent[-1], rig.sent[-2]
    return last == last_but_one and max(abs(a - b) for a, b in zip(last, TASK.park, strict=True)) < 1e-9


def tool_m(command: JointCommand) -> np.ndarray:
    return np.array(kinematics.tool_pose(command, TASK.mount)[:3])


class Once:
    """A fault from the moment that `begins` is true, for `lasts_s` of virtual time."""

    def __init__(self, begins: Callable[[Rig], bool], lasts_s: float, fault: Callable[[Rig], Any], healthy: Callable[[Rig], Any]) -> None:
        self.begins, self.lasts_s, self.fault, self.healthy = begins, lasts_s, fault, healthy
        self.began_s: float | None = None

    def __call__(self, rig: Rig) -> Any:
        if self.began_s is None and self.begins(rig):
            self.began_s = rig.now_s
        is_on = self.began_s is not None and rig.now_s < self.began_s + self.lasts_s - 1e-9
        return (self.fault if is_on else self.healthy)(rig)


def raising(error: BaseException) -> Callable[[Rig], Any]:
    def hook(_: Rig) -> None:
        raise type(error)(*error.args)  # one that is raised twice grows a cycle

    return hook
