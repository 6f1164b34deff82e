"""Joint commands become servo pulses here, and every driver that takes them is a `ServoBus`.

A servo turns in proportion to its pulse: `min_us` is 0 and `max_us` is `travel_deg`. The gripper's servo is a
servo like the others, behind a linkage that a table describes.
"""

import contextlib
from collections.abc import Callable, Sequence
from math import degrees, inf, radians
from typing import Protocol

import numpy as np

from edge.config import ServoConfig
from edge.errors import BusError, ConfigError, WireError
from edge.messages import JointCommand
from edge.robot import JOINT_NAMES, OPENING_MAX_M, POSITION_MAX_RAD, POSITION_MIN_RAD

# Opening between the finger tips against the angle of the gripper's servo: the vendor's table in YahboomTechnology/dofbot-Pi,
# "Precautions for DIY Robotic Arm.pdf". Below 57° the fingers stand still at 60-64 mm; a ruler on another arm
# (yaskodama/dofbot_pi5) agrees to 3 mm.
GRIPPER_DEG = np.array((57.0, 80.0, 95.0, 105.0, 115.0, 125.0, 134.0, 143.0, 152.0, 160.0, 168.0, 176.0, 180.0))
GRIPPER_OPENING_M = np.array((0.060, 0.055, 0.050, 0.045, 0.040, 0.035, 0.030, 0.025, 0.020, 0.015, 0.010, 0.005, 0.0))
GRIPPER_MIDDLE_DEG = 90.0  # the table's scale is 0…180°; `zero_deg` and `direction` count from its middle

# Rounding must not refuse a joint at its limit: more than float32 is off by, far less than a servo can resolve (0.4°).
SLACK_DEG = 1e-3
SLACK_M = 1e-6

OFF_US = (0.0,) * len(JOINT_NAMES)  # no pulse at all: the servo lets go

# How far each of the six must turn; the gripper's servo from the middle of its table.
LEAST_DEG = (*map(degrees, POSITION_MIN_RAD), float(GRIPPER_DEG[0]) - GRIPPER_MIDDLE_DEG)
MOST_DEG = (*map(degrees, POSITION_MAX_RAD), float(GRIPPER_DEG[-1]) - GRIPPER_MIDDLE_DEG)
# What may be missing at either end: joint 5 never turns there while it grasps, and 270° measured as 4 % less are no fault.
SPARED_DEG = (0.0, 0.0, 0.0, 0.0, 6.0, 0.0)


class ServoBus(Protocol):
    """The six servos of an arm, whatever is between them and us."""

    def open(self) -> None:
        """Get ready without moving anything; raises `BusError`. Called again, it starts over."""

    def write(self, command: JointCommand) -> None:
        """Send one set point to all servos; raises `BusError`."""

    def check(self) -> None:
        """See that the device is still there, moving nothing; raises `BusError`."""

    def measured(self) -> JointCommand | None:
        """Where the servos were when last read; None where a bus cannot tell, or has read nothing yet. No transaction, never raises."""

    def release(self) -> None:
        """Switch every output off. Idempotent, never raises; the next `write` switches them on again."""

    def close(self) -> None:
        """Release, and give the device back. Never raises."""


def servo_angles_deg(command: JointCommand, servos: tuple[ServoConfig, ...]) -> tuple[float, ...]:
    """Angle of each servo in its own travel, 0…`travel_deg` (6); raises `BusError` where the travel ends before the command."""
    angles_deg = []
    for name, joint_deg, servo in zip(JOINT_NAMES, joints_deg(command), servos, strict=True):
        angle_deg = servo.travel_deg / 2 + servo.direction * (joint_deg - servo.zero_deg)
        # Written so that NaN fails too. The safety gate has clamped before: what fails here is a fault, not a wish.
        if not -SLACK_DEG <= angle_deg <= servo.travel_deg + SLACK_DEG:
            low_deg, high_deg = travel_deg(servo)
            raise BusError(
                f"servo bus: {name} was sent to {joint_deg:.2f}°, expected {low_deg:.2f}°…{high_deg:.2f}°, the travel of its servo; "
                f"correct the command, or bus.servos[{JOINT_NAMES.index(name)}] in the configuration"
            )
        angles_deg.append(min(max(angle_deg, 0.0), servo.travel_deg))
    return tuple(angles_deg)


def pulses_us(command: JointCommand, servos: tuple[ServoConfig, ...]) -> tuple[float, ...]:
    """Pulse of each servo in microseconds (6), in joint order; raises `BusError` as `servo_angles_deg` does."""
    angles_deg = servo_angles_deg(command, servos)
    return tuple(s.min_us + angle_deg / s.travel_deg * (s.max_us - s.min_us) for angle_deg, s in zip(angles_deg, servos, strict=True))


def command_from_pulses(pulses_us: tuple[float, ...], servos: tuple[ServoConfig, ...]) -> JointCommand:
    """What the servos are told by six pulses in microseconds; the inverse of `pulses_us`.

    Joints are not limited; an opening is, to the table. Raises `BusError` for a pulse that is off (0) or not finite:
    such a servo is told nothing.
    """
    angles_deg = []
    for name, pulse_us, servo in zip(JOINT_NAMES, pulses_us, servos, strict=True):
        if not 0.0 < pulse_us < inf:
            raise BusError(f"servo bus: the pulse of {name} is {pulse_us} µs, expected a positive number; write a command first")
        angle_deg = (pulse_us - servo.min_us) / (servo.max_us - servo.min_us) * servo.travel_deg
        angles_deg.append(servo.zero_deg + servo.direction * (angle_deg - servo.travel_deg / 2))
    return command_from_deg(angles_deg)


def joints_deg(command: JointCommand) -> tuple[float, ...]:
    """The six joints in degrees (6), the gripper's from the middle of its table; raises `BusError` for an impossible opening."""
    if not -SLACK_M <= command.opening_m <= OPENING_MAX_M + SLACK_M:
        raise BusError(
            f"servo bus: gripper was sent to {command.opening_m * 1000:.2f} mm, expected 0…{OPENING_MAX_M * 1000:.0f} mm; "
            "correct the command"
        )
    gripper_deg = float(np.interp(command.opening_m, GRIPPER_OPENING_M[::-1], GRIPPER_DEG[::-1]))
    return (*map(degrees, command.joints_rad), gripper_deg - GRIPPER_MIDDLE_DEG)


def command_from_deg(joints_deg: Sequence[float]) -> JointCommand:
    """The inverse of `joints_deg`: joints are not limited, an opening is, to the table."""
    opening_m = float(np.interp(joints_deg[5] + GRIPPER_MIDDLE_DEG, GRIPPER_DEG, GRIPPER_OPENING_M))
    return JointCommand._make((*map(radians, joints_deg[:5]), opening_m))


def check_travel(servos: tuple[ServoConfig, ...]) -> None:
    """Raise `ConfigError` when a servo cannot turn as far as its joint may (`edge.robot`), less what is spared (`edge.buses.travel`)."""
    for index, (name, servo, least, most) in enumerate(zip(JOINT_NAMES, servos, LEAST_DEG, MOST_DEG, strict=True)):
        low_deg, high_deg = travel_deg(servo)
        least, most = least + SPARED_DEG[index], most - SPARED_DEG[index]
        if low_deg > least + SLACK_DEG or high_deg < most - SLACK_DEG:
            raise ConfigError(
                f"bus.servos[{index}] ({name}) turns {low_deg:.1f}°…{high_deg:.1f}°, expected at least {least:.1f}°…{most:.1f}°; "
                "correct its travel_deg or zero_deg, or fit a servo that turns further"
            )


class SimulatorBus:
    """Hands pulses straight to a simulator; `sink` takes six pulses in microseconds, 0 = off."""

    def __init__(self, servos: tuple[ServoConfig, ...], sink: Callable[[tuple[float, ...]], None]) -> None:
        self._servos = servos
        self._sink = sink

    def open(self) -> None:
        """Nothing to do: the link was opened by whoever made it."""

    def write(self, command: JointCommand) -> None:
        """Send one set point; raises `BusError`."""
        pulses = pulses_us(command, self._servos)
        try:
            self._sink(pulses)
        except (OSError, WireError) as error:
            raise BusError(f"servo bus: the simulator took no pulses ({error}), expected an open link; restart the simulator") from error

    def check(self) -> None:
        """A link that is lost says so when it is written to."""

    def measured(self) -> None:
        """Nobody reads these servos back."""

    def release(self) -> None:
        """Switch everything off; never raises, since a simulator that is gone drives nothing."""
        with contextlib.suppress(Exception):
            self._sink(OFF_US)

    def close(self) -> None:
        """Release; the link itself belongs to whoever made it."""
        self.release()


def travel_deg(servo: ServoConfig) -> tuple[float, float]:
    """Joint angles at the two ends of a servo's travel, the lower first."""
    return servo.zero_deg - servo.travel_deg / 2, servo.zero_deg + servo.travel_deg / 2
