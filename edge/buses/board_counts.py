"""Joint commands and the counts of the DOFBOT's bus servos: 96…4000 over the servo's travel, about 0.08° each.

Whole degrees, which the vendor's Arm_Lib rounds to, would be twelve times coarser.
"""

from collections.abc import Sequence

from edge.buses.servos import LEAST_DEG, MOST_DEG, SPARED_DEG, command_from_deg, joints_deg
from edge.config import BoardServoConfig
from edge.errors import BusError, ConfigError
from edge.messages import JointCommand
from edge.robot import JOINT_NAMES

SLACK_RAW = 0.5  # what rounding to whole counts takes away; a joint at its limit must not be refused for it


def counts(command: JointCommand, servos: tuple[BoardServoConfig, ...]) -> tuple[int, ...]:
    """Set point of each servo (6), in joint order; raises `BusError` where the travel ends before the command."""
    counts_of_all = []
    for index, (joint_deg, servo) in enumerate(zip(joints_deg(command), servos, strict=True)):
        raw = servo.zero_raw + servo.direction * joint_deg * servo.counts_per_deg
        if not servo.min_raw - SLACK_RAW <= raw <= servo.max_raw + SLACK_RAW:  # written so that NaN fails too
            low_deg, high_deg = travel_deg(servo)
            raise BusError(
                f"servo bus: {JOINT_NAMES[index]} was sent to {joint_deg:.2f}°, expected {low_deg:.2f}°…{high_deg:.2f}°, the travel of "
                f"its servo; correct the command, or bus.board.servos[{index}] in the configuration"
            )
        counts_of_all.append(min(max(round(raw), servo.min_raw), servo.max_raw))
    return tuple(counts_of_all)


def command_from_counts(counts: Sequence[float], servos: tuple[BoardServoConfig, ...]) -> JointCommand:
    """Where six servos are that stand at these counts; joints are not limited, an opening is, to the gripper's table."""
    return command_from_deg([s.direction * (raw - s.zero_raw) / s.counts_per_deg for raw, s in zip(counts, servos, strict=True)])


def check_counts(servos: tuple[BoardServoConfig, ...]) -> None:
    """Raise `ConfigError` when a servo cannot turn as far as its joint may (`edge.robot`), less what is spared (`edge.buses.travel`)."""
    for index, (name, servo, least, most) in enumerate(zip(JOINT_NAMES, servos, LEAST_DEG, MOST_DEG, strict=True)):
        low_deg, high_deg = travel_deg(servo)
        slack_deg = SLACK_RAW / servo.counts_per_deg
        least, most = least + SPARED_DEG[index], most - SPARED_DEG[index]
        if low_deg > least + slack_deg or high_deg < most - slack_deg:
            raise ConfigError(
                f"bus.board.servos[{index}] ({name}) turns {low_deg:.1f}°…{high_deg:.1f}°, expected at least {least:.1f}°…{most:.1f}°; "
                "correct its zero_raw, counts_per_deg, min_raw or max_raw"
            )


def travel_deg(servo: BoardServoConfig) -> tuple[float, float]:
    """Joint angles at the two ends of a servo's counts, the lower first."""
    ends = [servo.direction * (raw - servo.zero_raw) / servo.counts_per_deg for raw in (servo.min_raw, servo.max_raw)]
    return min(ends), max(ends)
