"""The whole arm moved slowly through the safety gate, from pose to pose on ways that stay clear of the table.

For calibrating only: no policy, no camera in the loop. Ctrl-C takes it back to its park pose, a second one lets it go where it is.
"""

import signal
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from math import ceil

import msgspec
import numpy as np

from calibration.live.plan_poses import POINTER_ABOVE_TABLE_M, Scene, approach_from, is_clear_way
from edge.buses.servos import ServoBus
from edge.clock import Clock, MonotonicClock, Pacer
from edge.config import Config
from edge.errors import BusError, CalibrationError, ConfigError
from edge.kinematics import tool_in_table_m, transform_tool_to_table
from edge.messages import Float64, JointCommand
from edge.robot import JOINT_NAMES, OPENING_MAX_M, PARK_RAD
from edge.safety import Point, gate, resting
from edge.simulated.emulated_arm import EmulatedArm
from edge.vigil import STALL_RAD

SPEED_RAD_S = np.radians(30.0)  # slow enough to pull a hand away: as the servo tools have it
TICK_S = 0.02
SETTLE_S = 1.0  # until the camera is at rest; assumed, servo tools wait 0.5 s for less
SQUEEZE_M = 0.001  # the fingers are sent together by as much more than what they hold is thick
GRIP_M_S = 0.02  # a finger that is in between feels it before it hurts
# Ways are looked at in steps, and between two of them the tip may be some hundredths of a millimetre lower.
POINTER_MIN_M = POINTER_ABOVE_TABLE_M - 0.001


class SlowArm:
    """The arm on an open bus; `at` is where it is known to be, `stops_rad` (n, 5) are poses that it may go by.

    `scene` says what has to stay clear of the table, a pointer in the gripper included.
    """

    def __init__(self, bus: ServoBus, scene: Scene, stops_rad: Float64, clock: Clock, at: JointCommand) -> None:
        self._bus, self.scene, self.stops_rad, self._clock = bus, scene, stops_rad, clock
        self._pacer = Pacer(clock, 1.0 / TICK_S)
        self._gate = resting(at)
        limits = msgspec.structs.replace(scene.limits, velocity_max=(1.05 * SPEED_RAD_S,) * 5 + scene.limits.velocity_max[5:])
        low = (*limits.tool_min_in_table_m[:2], POINTER_MIN_M)
        self._limits, self._limits_of_pointer = limits, msgspec.structs.replace(limits, tool_min_in_table_m=low)

    @property
    def joints_rad(self) -> Float64:
        """(5,) last sent."""
        return np.array(self._gate.position[:5])

    def reach(self, joints_rad: Float64, via_rad: Sequence[Float64] = ()) -> None:
        """Go to a pose and wait until all is at rest: on a clear way to the first of `via_rad`, from there straight to the next ones.

        Without them every joint comes from below. Raises `CalibrationError`, `BusError`.
        """
        first, *further = via_rad or (approach_from(joints_rad),)
        for stop in way(self.scene, self.joints_rad, first, self.stops_rad):
            self.go(stop)
        for stop in (*further, joints_rad):
            self.go(stop)
        self._check_there(self.settle())

    def go_home(self) -> None:
        """To the park pose: on a clear way where there is one, since there the arm can be let go."""
        park = np.array(PARK_RAD)
        stops = [park]
        with suppress(CalibrationError):
            stops = way(self.scene, self.joints_rad, park, self.stops_rad)
        for stop in stops:
            self.go(stop)

    def go(self, joints_rad: Float64) -> None:
        """Turn all joints straight to where they are wanted, the gripper as it is; raises `BusError` where the gate says no."""
        start, goal = self.joints_rad, np.asarray(joints_rad, dtype=float)
        count = max(ceil(float(np.abs(goal - start).max()) / (SPEED_RAD_S * TICK_S)), 1)
        for step in range(1, count + 1):
            at = (start + (goal - start) * step / count).tolist()
            self._tick(JointCommand._make((*at, self._gate.position.opening_m)))

    def grip(self, opening_m: float) -> None:
        """Open or close the gripper, slowly; the joints hold, or the first call powers them where they are."""
        start_m = self._gate.position.opening_m
        count = max(ceil(abs(opening_m - start_m) / (GRIP_M_S * TICK_S)), 1)
        for step in range(1, count + 1):
            self._tick(self._gate.position._replace(opening_m=start_m + (opening_m - start_m) * step / count))
        self._tick(self._gate.position)  # at rest, so that it may turn back

    def settle(self) -> JointCommand | None:
        """Hold until all is at rest; where the servos then say that they are, None where they cannot."""
        until_s = self._clock.now_s() + SETTLE_S
        while self._clock.now_s() < until_s:
            self._tick(self._gate.position)
        return self._bus.measured()

    def _check_there(self, measured: JointCommand | None) -> None:
        """Raise `BusError` for a joint that read-back finds elsewhere: it would go on pushing against what is in its way."""
        if measured is None:
            return
        off_rad = np.abs(np.array(measured.joints_rad) - self.joints_rad)
        worst = int(np.argmax(off_rad))
        if off_rad[worst] > STALL_RAD:
            found = f"{JOINT_NAMES[worst]} is {np.degrees(off_rad[worst]):.0f}° from where it was sent"
            raise BusError(f"{found}, expected {np.degrees(STALL_RAD):.0f}° at most; is it blocked?")

    def _tick(self, wanted: JointCommand) -> None:
        self._pacer.wait()  # after a stall no burst: two set points at once would be a leap
        limits = self._limits_of_pointer if self.scene.pointer_m else self._limits
        passed = gate(self._gate, wanted, limits, TICK_S, self._lowest_in_table_m)
        self._bus.write(passed.command)
        self._gate = passed.state
        if passed.reasons:
            raise BusError(
                f"the safety gate stopped the arm ({', '.join(passed.reasons)}), expected a way inside its limits; start from park"
            )

    def _lowest_in_table_m(self, command: JointCommand) -> Point:
        """The tool centre, at the height of the pointer's tip where that is lower."""
        x, y, z = tool_in_table_m(command, self.scene.mount)
        if not self.scene.pointer_m:
            return x, y, z
        return x, y, min(z, z + self.scene.pointer_m * float(transform_tool_to_table(command, self.scene.mount)[2, 2]))


def way(scene: Scene, start_rad: Float64, goal_rad: Float64, stops_rad: Float64) -> list[Float64]:
    """Where to go one after the other, the goal last, so that tool and camera stay clear: directly, or by the fewest of the stops (n, 5).

    Raises `CalibrationError` where there is no such way.
    """
    came_from: dict[int, int] = {}
    nodes = [start_rad, goal_rad, *stops_rad]
    queue = deque([0])
    while queue and 1 not in came_from:
        at = queue.popleft()
        for node in range(1, len(nodes)):
            if node not in came_from and is_clear_way(scene, nodes[at], nodes[node]):
                came_from[node] = at
                queue.append(node)
    if 1 not in came_from:
        raise CalibrationError("no way to a pose stays clear of the table, expected one by the park pose; leave this pose out")
    path = [1]
    while came_from[path[-1]]:
        path.append(came_from[path[-1]])
    return [nodes[node] for node in reversed(path)]


@contextmanager
def opened(config: Config, scene: Scene, stops_rad: Float64, emulated: EmulatedArm | None = None) -> Iterator[SlowArm]:
    """The configured arm, powered with the first motion, parked again and let go however this ends.

    Raises `RefusedError` while a runtime holds the bus, `BusError` for a board that does not answer, and `CalibrationError` where the arm
    stands so that no way is clear; then nothing is powered.
    """
    from firmware_tools.bus_in_use import check_free
    from firmware_tools.servo_line import ends_as_ctrl_c

    if config.bus.driver == "simulator":
        raise ConfigError("bus.driver = 'simulator' has no servos, expected 'pca9685' or 'dofbot_board'; set it, or try --simulate")
    check_free(config)
    clock = emulated.clock if emulated else MonotonicClock()
    bus = _bus(config, emulated, clock)
    with ends_as_ctrl_c(), _let_go(bus):
        bus.open()
        at = bus.measured() or parked()
        _require_way_home(scene, at, stops_rad)
        arm = SlowArm(bus, scene, stops_rad, clock, at)
        try:
            yield arm
        finally:
            arm.go_home()


@contextmanager
def _let_go(bus: ServoBus) -> Iterator[None]:
    """Close it however this ends; one Ctrl-C more must not interrupt that."""
    try:
        yield
    finally:
        before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        try:
            bus.close()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _require_way_home(scene: Scene, at: JointCommand, stops_rad: Float64) -> None:
    try:
        way(scene, np.array(at.joints_rad), np.array(PARK_RAD), stops_rad)
    except CalibrationError:
        raise CalibrationError(
            "from where the arm stands no way to its park pose stays clear of the table, expected one; nothing was moved: "
            "put it into its park pose by hand"
        ) from None


def parked() -> JointCommand:
    """Where an arm without read-back is taken to be."""
    return JointCommand._make((*PARK_RAD, OPENING_MAX_M))


def _bus(config: Config, emulated: EmulatedArm | None, clock: Clock) -> ServoBus:
    from edge.buses import last_pose
    from edge.buses.dofbot_board import DofbotBoardBus
    from edge.buses.pca9685 import Pca9685Bus

    if config.bus.driver == "dofbot_board":
        return DofbotBoardBus(config.bus, emulated.smbus if emulated else None, clock)
    if emulated:
        return Pca9685Bus(config.bus, emulated.i2c)
    where = last_pose.path()
    return last_pose.RememberingBus(Pca9685Bus(config.bus), config.bus.servos, where) if where else Pca9685Bus(config.bus)
