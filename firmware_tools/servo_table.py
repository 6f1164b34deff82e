"""What each servo tells, as a table."""

from collections.abc import Sequence

from msgspec import Struct

from edge.buses.dofbot_board import PING_OK
from edge.buses.servos import LEAST_DEG, MOST_DEG
from edge.config import Config
from edge.robot import JOINT_NAMES
from firmware_tools.count_line import CountLine
from firmware_tools.servo_line import ServoLine

FAULTS = {0: "a wrong voltage", 2: "overheating", 5: "overload"}  # bits of a servo's status (vendor: desheng_servo_protocol_v4.01.pdf)


class Row(Struct, frozen=True):
    """One servo; `position` is counts, `deg` the joint's angle; None: this bus cannot tell."""

    joint: str
    id: int  # of a bus servo; the channel of a PWM servo
    position: float | None
    deg: float | None
    range_deg: tuple[float, float]  # that the joint may have
    says: str
    problem: str = ""  # what is wrong with it, and what to do


def rows(line: ServoLine, config: Config) -> list[Row]:
    """All six, in joint order."""
    return [_row(line, joint, config) for joint in range(len(JOINT_NAMES))]


def show(rows: Sequence[Row]) -> None:
    """Print them."""
    from rich.console import Console
    from rich.table import Table

    table = Table("joint", "id or channel", "counts", "angle", "limits", "says", box=None)
    for row in rows:
        at = ("–", "–") if row.position is None or row.deg is None else (f"{row.position:.0f}", f"{row.deg:.1f}°")
        table.add_row(row.joint, str(row.id), *at, f"{row.range_deg[0]:.0f}°…{row.range_deg[1]:.0f}°", row.says)
    Console(highlight=False).print(table)


def _row(line: ServoLine, joint: int, config: Config) -> Row:
    name, limits = JOINT_NAMES[joint], (round(LEAST_DEG[joint], 1), round(MOST_DEG[joint], 1))
    if not isinstance(line, CountLine):
        return Row(name, config.bus.servos[joint].channel, None, None, limits, "PWM: tells nothing")
    number = config.bus.board.servos[joint].id
    status = line.answers(number)
    if status == 0:
        return Row(name, number, None, None, limits, "silent", "is silent: it is missing, its cable is out, or it has another id")
    faults = [what for bit, what in FAULTS.items() if status != PING_OK and status >> bit & 1]
    raw = line.read(joint)
    if raw is None:
        problem = "answers, but tells no position twice alike: two servos may share its id; plug them in one at a time: dofbot servo id"
        return Row(name, number, None, None, limits, "no position", problem)
    says = f"reports {' and '.join(faults)}" if faults else "well" if status == PING_OK else f"status {status:#04x}"
    problem = f"{says}: switch its supply off, and find out what blocks or heats it" if status != PING_OK else ""
    return Row(name, number, raw, round(line.deg(joint, raw), 2), limits, says, problem)
