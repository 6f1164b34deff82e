"""How far the joints of one robot may turn: as far as their limits say, or to where the travel of their servos ends before.

Joint 5 needs all 270° that a usual servo has. One that was measured to turn by 267° is as good: the tool's yaw while it grasps needs
±50° of them. So its range is clipped, and the gate keeps every command inside.
"""

from math import radians

import msgspec

from edge.buses import board_counts, servos
from edge.buses.servos import LEAST_DEG, MOST_DEG
from edge.config import BusConfig
from edge.safety import DOFBOT_LIMITS, Limits


def check(bus: BusConfig) -> None:
    """Raise `ConfigError` for servos, of either driver, that turn too little."""
    servos.check_travel(bus.servos)
    board_counts.check_counts(bus.board.servos)


def range_deg(bus: BusConfig, joint: int) -> tuple[float, float]:
    """Least and most that a joint may have, the gripper's servo from the middle of its table."""
    if bus.driver == "dofbot_board":
        low, high = board_counts.travel_deg(bus.board.servos[joint])
    else:
        low, high = servos.travel_deg(bus.servos[joint])
    return max(LEAST_DEG[joint], low), min(MOST_DEG[joint], high)


def limits_of(bus: BusConfig) -> Limits:
    """The safety gate's limits for the servos of this robot."""
    ranges = [range_deg(bus, joint) for joint in range(5)]
    least, most = DOFBOT_LIMITS.position_min, DOFBOT_LIMITS.position_max
    # `max` and `min`: where a servo has all of its joint's range, the arm's own numbers bit for bit.
    low = (max(radians(low), limit) for (low, _), limit in zip(ranges, least[:5], strict=True))
    high = (min(radians(high), limit) for (_, high), limit in zip(ranges, most[:5], strict=True))
    return msgspec.structs.replace(DOFBOT_LIMITS, position_min=(*low, least[5]), position_max=(*high, most[5]))
