"""What is between a servo's goal and its joint: speed, dead band, load, end stops and play; pure, in degrees of the joint.

goal → dead band → top speed under load → end stop → shaft (which a bus servo reads back) → play → joint

For emulated arms that stand alone, without a simulator: `trainer/servo_model.py` is the simulator's.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from edge.robot import FOREARM_M, UPPER_ARM_M, WRIST_TO_TOOL_M

STALL_DEG = 3.0  # this far from its goal and not moving, a servo pushes with all it has; assumed
LINKS_M = (UPPER_ARM_M, FOREARM_M, WRIST_TO_TOOL_M)


@dataclass(frozen=True)
class ServoTraits:
    """How one servo behaves; the defaults are those of one without flaws. `arm_errors` draws others, with their sources."""

    speed_deg_s: float = 200.0  # without load: YB-SD15M product sheet, 0.30 s / 60°
    dead_band_deg: float = 0.0  # nearer than this to its goal the motor is off
    play_deg: float = 0.0  # either way, between shaft and joint
    load: float = 0.0  # the arm held out level at full reach, as a share of the stall torque: as much of its speed is lost
    sag_deg: float = 0.0  # how far that pulls the shaft from its goal
    stall_s: float = math.inf  # of pushing until it protects itself; a hobby servo never does
    stops_deg: tuple[float, float] = (-180.0, 180.0)  # of the bracket, or of the servo


class Shaft:
    """One servo's output shaft, and the joint behind it. `block_deg` is something in its way: how far down it gets, how far up."""

    def __init__(self, traits: ServoTraits, deg: float) -> None:
        self.traits = traits
        self.deg = self.joint_deg = deg
        self.block_deg = traits.stops_deg
        self.pushing_s = 0.0  # in vain, without a break

    @property
    def is_overloaded(self) -> bool:
        """Whether it has pushed for longer than it bears."""
        return self.pushing_s >= self.traits.stall_s

    def step(self, goal_deg: float | None, leverage: float, duration_s: float) -> None:
        """Let time pass. `goal_deg` None: it lies limp. `leverage` is one of `leverages`."""
        before_deg, gap_deg = self.deg, 0.0
        if goal_deg is not None:
            gap_deg = goal_deg + leverage * self.traits.sag_deg - self.deg
            way_deg = max(abs(gap_deg) - self.traits.dead_band_deg, 0.0)
            most_deg = self.traits.speed_deg_s * (1.0 - abs(leverage) * self.traits.load) * duration_s
            self.turn_to(self.deg + math.copysign(min(way_deg, most_deg), gap_deg))
        is_pushing = abs(gap_deg) > STALL_DEG and self.deg == before_deg
        self.pushing_s = self.pushing_s + duration_s if is_pushing else 0.0

    def turn_to(self, deg: float) -> None:
        """Put the shaft somewhere, as far as nothing is in its way; the joint follows once the play is taken up."""
        (stop_low, stop_high), (block_low, block_high) = self.traits.stops_deg, self.block_deg
        self.deg = min(max(deg, stop_low, block_low), stop_high, block_high)
        self.joint_deg = min(max(self.joint_deg, self.deg - self.traits.play_deg), self.deg + self.traits.play_deg)


def leverages(joints_deg: Sequence[float], inverted: bool) -> tuple[float, ...]:
    """How much gravity has to pull at each of six joints, as a share of the arm held out level at full reach; + turns the joint up.

    Only joints 2 to 4 carry: 1 and 5 turn about lines that are upright or pass through their load, the gripper carries nothing.
    """
    tilt_rad, level_m = 0.0, []
    for deg, length_m in zip(joints_deg[1:4], LINKS_M, strict=True):
        tilt_rad += math.radians(deg)
        level_m.append(length_m * math.sin(tilt_rad))
    sign = -1.0 if inverted else 1.0  # a standing arm falls outwards, a hanging one swings back
    return (0.0, *(sign * sum(level_m[joint:]) / sum(LINKS_M) for joint in range(3)), 0.0, 0.0)
