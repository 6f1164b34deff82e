"""One servo turned from target to target: asked for, slowly, and let go."""

from collections.abc import Callable, Sequence

from msgspec import Struct

from edge.buses import travel
from edge.config import Config
from edge.errors import BusError
from edge.robot import JOINT_NAMES
from edge.simulated.emulated_arm import PARK_DEG
from firmware_tools import slow
from firmware_tools.asking import answer, confirm
from firmware_tools.count_line import CountLine
from firmware_tools.servo_line import ServoLine, opened

FOLLOWS_DEG = 5.0  # from set point to read-back at rest: more than sag and play, less than what the loop takes for a stall


class Moved(Struct, frozen=True):
    """Where a joint was sent, and where it was then; None: this bus cannot tell."""

    joint: str
    sent_deg: float
    measured_deg: float | None

    def __str__(self) -> str:
        told = "no read-back on this bus" if self.measured_deg is None else f"{self.measured_deg:.1f}° measured"
        return f"{self.joint}: {self.sent_deg:g}° sent, {told}"


def check_targets(joint: int, targets_deg: Sequence[float]) -> None:
    """Raise `BusError` for an angle that the joint must not have."""
    for deg in targets_deg:
        slow.check_range(joint, deg)


def described(joint: int, targets_deg: Sequence[float]) -> str:
    """What `move` does, in words."""
    return f"{JOINT_NAMES[joint]} to {' → '.join(f'{deg:g}°' for deg in targets_deg)} at {slow.SPEED_DEG_S:g}°/s"


def move(joint: int, targets_deg: Sequence[float], config: Config, yes: bool, show: Callable[[Moved], None]) -> list[Moved]:
    """Ask, turn to each target, hold until Enter (with `yes`: not at all), let go; raises `BusError` or `RefusedError` before it moves."""
    moved: list[Moved] = []
    travel.check(config.bus)
    for deg in targets_deg:
        slow.check_range(joint, deg, travel.range_deg(config.bus, joint))  # the tools write past the drivers, which look
    with opened(config) as line:
        at_deg, caution = _start(line, joint)
        pose = line.pose()
        if pose is not None:  # else the speed and the joint's own limits are what is left
            slow.check_way(pose, joint, targets_deg, line.step_s, config.mount)
        asked_deg = _places(line)
        confirm(f"{described(joint, targets_deg)}, from {at_deg:.1f}°{caution}. Hands away?", yes)
        _check_still_there(line, asked_deg)
        for deg in targets_deg:
            slow.turn(line, joint, at_deg, deg)
            at_deg, found = deg, line.read(joint)
            moved.append(Moved(JOINT_NAMES[joint], deg, None if found is None else round(line.deg(joint, found), 2)))
            show(moved[-1])
        if not yes:
            answer("holding; Enter lets go, and what hangs on it sinks", "")
    return moved


def check_followed(moved: Sequence[Moved]) -> None:
    """Raise `BusError` for a joint that did not get where it was sent."""
    strayed = [one for one in moved if one.measured_deg is not None and abs(one.measured_deg - one.sent_deg) > FOLLOWS_DEG]
    if strayed:
        found = ", ".join(f"{one.measured_deg:.1f}° for {one.sent_deg:g}°" for one in strayed)
        raise BusError(
            f"{strayed[0].joint} did not follow ({found}), expected within {FOLLOWS_DEG:g}°; look for what blocks it, then its calibration"
        )


def _places(line: ServoLine) -> list[float | None]:
    """Where each joint is, in degrees; None: it does not tell."""
    found = [line.read(joint) for joint in range(len(JOINT_NAMES))]
    return [None if position is None else line.deg(joint, position) for joint, position in enumerate(found)]


def _check_still_there(line: ServoLine, asked_deg: list[float | None]) -> None:
    """Raise `BusError` for a limp arm that was turned while the question stood: the way was checked from where it was."""
    for name, was_deg, is_deg in zip(JOINT_NAMES, asked_deg, _places(line), strict=True):
        if was_deg is not None and not (is_deg is not None and abs(is_deg - was_deg) <= FOLLOWS_DEG):
            found = "is silent" if is_deg is None else f"is at {is_deg:.1f}°"
            raise BusError(f"{name} was at {was_deg:.1f}° when it was asked about, and {found}, expected it still there; run it again")


def _start(line: ServoLine, joint: int) -> tuple[float, str]:
    """Where the joint is, and what to be careful of."""
    found = line.read(joint)
    if found is not None:
        return line.deg(joint, found), ""
    if isinstance(line, CountLine):
        raise BusError(f"servo of {JOINT_NAMES[joint]} is silent, expected its position; check its cable and its id: dofbot servo read")
    return PARK_DEG[joint], f". Where it is nobody knows: unless it is parked, it first leaps to {PARK_DEG[joint]:.0f}° at full speed"
