"""A joint turned slowly, in small steps, through the safety gate where the arm's pose is known."""

from collections.abc import Sequence
from math import ceil

from edge.buses.servos import LEAST_DEG, MOST_DEG, command_from_deg, joints_deg
from edge.config import MountConfig
from edge.errors import BusError
from edge.kinematics import Mount, tool_in_table_m
from edge.messages import JointCommand
from edge.robot import JOINT_NAMES
from edge.safety import DOFBOT_LIMITS, gate, resting
from firmware_tools.servo_line import ServoLine

SPEED_DEG_S = 30.0  # slow enough to pull a hand away or press Ctrl-C: a tenth of what the servos can
SETTLE_S = 0.5  # until what was turned is at rest; NAH waits 0.3-0.6 s


def check_range(joint: int, deg: float, range_deg: tuple[float, float] | None = None) -> None:
    """Raise `BusError` for an angle that the joint must not have, on any arm (`edge.robot`) or with the servos of this one (`travel`)."""
    low, high = range_deg or (LEAST_DEG[joint], MOST_DEG[joint])
    if not low <= deg <= high:
        raise BusError(f"{JOINT_NAMES[joint]} was sent to {deg:.1f}°, expected {low:.1f}°…{high:.1f}°, its limits; nothing has moved")


def check_way(pose: JointCommand, joint: int, targets_deg: Sequence[float], step_s: float, mount: MountConfig) -> None:
    """Raise `BusError` where the safety gate would not let a joint go from one target to the next; nothing has moved then."""
    where = Mount(mount.base_height_m, mount.inverted)
    state, at_deg = resting(pose), joints_deg(pose)[joint]
    for target_deg in targets_deg:
        for step_deg in _steps(at_deg, target_deg, step_s):
            wanted = _with_joint(state.position, joint, step_deg)
            passed = gate(state, wanted, DOFBOT_LIMITS, step_s, lambda command: tool_in_table_m(command, where))
            if passed.reasons:
                why = f"at {step_deg:.1f}° the safety gate says {', '.join(passed.reasons)}"
                raise BusError(
                    f"{JOINT_NAMES[joint]} cannot go to {target_deg:.1f}°: {why}; "
                    "turn the other joints first, so that the tool stays over the table and in front of the base"
                )
            state = passed.state
        at_deg, state = target_deg, resting(state.position)


def turn(line: ServoLine, joint: int, from_deg: float, to_deg: float) -> None:
    """Turn one joint at `SPEED_DEG_S`, and wait until it is at rest."""
    check_range(joint, to_deg)
    for at_deg in _steps(from_deg, to_deg, line.step_s):
        _step_to(line, joint, line.position(joint, at_deg))
    line.clock.sleep_until(line.clock.now_s() + SETTLE_S)


def creep(line: ServoLine, joint: int, from_position: float, to_position: float) -> None:
    """Turn one servo at `SPEED_DEG_S` in its own units, whatever its joint's limits are: to find its stops."""
    way_deg = abs(line.deg(joint, to_position) - line.deg(joint, from_position))
    for share in _steps(0.0, way_deg, line.step_s):
        _step_to(line, joint, from_position + (to_position - from_position) * (share / way_deg if way_deg else 1.0))


def _step_to(line: ServoLine, joint: int, position: float) -> None:
    """One step, and its time from when it was sent: what held the tool up must not make the next steps one leap."""
    line.go(joint, position)
    line.clock.sleep_until(line.clock.now_s() + line.step_s)


def _steps(from_deg: float, to_deg: float, step_s: float) -> list[float]:
    """Equal steps, as few as the speed allows, the last one at `to_deg`."""
    count = max(ceil(abs(to_deg - from_deg) / (SPEED_DEG_S * step_s)), 1)
    return [from_deg + (to_deg - from_deg) * step / count for step in range(1, count)] + [to_deg]


def _with_joint(command: JointCommand, joint: int, deg: float) -> JointCommand:
    degrees = list(joints_deg(command))
    degrees[joint] = deg
    return command_from_deg(degrees)
