"""Who stands beside the arm in a soak: breaks things at random moments, and arms, grasps, parks and resets as a person would.

Stands where the control server stands (`edge.remote.control.ControlServer`): what it asks for goes through `edge.remote.orders`, like a
client's commands.
"""

import math
import random
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from edge.remote.commands import Arm, Command, Grasp, Hold, Inject, LoopReply, Mode, Park, Refused, Reset, StatusReport, Target
from edge.remote.orders import HELD_BY_PERSON
from edge.simulated.faults import Fault
from edge.states import State

NACKS = 0.05  # of all transactions, all the time
FAULT_EVERY_S = 60.0  # on average; they overlap as they come
LASTS_S = (0.05, 20.0)  # logarithmically uniform: some end within a tick or two, some outlast every limit
ACTS_AFTER_S = (1.0, 5.0)
PARKS, HOLDS = 0.05, 0.02  # share of the occasions


class Draw(NamedTuple):
    """A fault that may be drawn, and the range of its value; (0, 0): it has none, or its default."""

    target: Target
    mode: Mode
    low: float = 0.0
    high: float = 0.0


# Not drawn: camera moved (only a marker on the table, which the soak's configuration has none of, tells it), host off (kills the process,
# which tests/hil does), host garbage (memory is what is measured), host slow (work takes no virtual time; host delayed does the same to a
# tick), bus intermittent (always on).
FAULTS = (
    Draw("camera", "off"),
    Draw("camera", "stuck"),
    Draw("camera", "garbage", 0.05, 1.0),
    Draw("camera", "wrong", 0.5, 1000.0),
    Draw("camera", "slow", 0.2, 0.95),
    Draw("camera", "delayed", 0.05, 1.0),
    Draw("camera", "intermittent", 0.1, 3.0),
    Draw("bus", "off"),
    Draw("bus", "stuck", 0.001, 0.02),
    Draw("bus", "garbage", 0.05, 1.0),
    Draw("bus", "wrong"),
    Draw("bus", "slow", 0.0002, 0.005),
    Draw("bus", "delayed", 0.05, 0.5),
    Draw("policy", "off"),
    Draw("policy", "stuck"),
    Draw("policy", "garbage"),
    Draw("policy", "wrong", 1.01, 100.0),
    Draw("policy", "slow", 0.002, 0.3),
    Draw("policy", "delayed"),
    Draw("policy", "intermittent", 0.1, 0.9),
    Draw("host", "stuck", 0.02, 2.0),
    Draw("host", "delayed", 0.001, 0.03),
    Draw("host", "intermittent", 0.01, 0.3),
)
BASELINE = Fault("bus", "intermittent", NACKS)


class Asked:
    """One command; the loop's replies go to who asked."""

    def __init__(self, command: Command, answered: Callable[[LoopReply], None]) -> None:
        self.command = command
        self.answer = answered


class Person:
    """Acts by the newest report, every few seconds of the loop's clock, and injects a fault every `fault_every_s` on average (inf: none).

    The same seed does the same.
    """

    def __init__(self, seed: int, now_s: Callable[[], float], fault_every_s: float) -> None:
        self.asked: Counter[str] = Counter()
        self.refused = 0
        self._random = random.Random(seed)
        self._now_s = now_s
        self._report: StatusReport | None = None
        self._must_park = False  # a reset was refused: SAFE came while the arm held for us, or it still parks
        self._acts_at_s = now_s()
        self._fault_every_s = fault_every_s
        self._breaks_at_s = now_s() + self._until_next_s()

    def take(self) -> list[Asked]:
        """The commands of this tick."""
        now_s, wanted = self._now_s(), list[Command]()
        if now_s >= self._breaks_at_s:
            self._breaks_at_s = now_s + self._until_next_s()
            wanted.append(self._fault())
        if now_s >= self._acts_at_s and self._report is not None:
            self._acts_at_s = now_s + self._random.uniform(*ACTS_AFTER_S)
            command = self._act(self._report)
            wanted += [command] if command is not None else []
        self.asked.update(type(command).__name__.lower() for command in wanted)
        return [Asked(command, partial(self._hear, command)) for command in wanted]

    def publish(self, report: StatusReport) -> None:
        """How the arm is."""
        self._report = report

    def deadman_lost(self) -> str:
        """A person who never goes away."""
        return ""

    def _act(self, report: StatusReport) -> Command | None:
        if report.latched:
            return Park() if self._must_park else Reset()
        if report.state == State.DISARMED:
            return Arm()
        if report.state == State.IDLE or report.reason == HELD_BY_PERSON:
            return Park() if self._random.random() < PARKS else Grasp(count=self._random.randint(1, 5))
        return Hold() if self._random.random() < HOLDS else None

    def _until_next_s(self) -> float:
        return self._random.expovariate(1.0 / self._fault_every_s) if self._fault_every_s < math.inf else math.inf

    def _fault(self) -> Command:
        drawn = self._random.choice(FAULTS)
        low_s, high_s = LASTS_S
        lasts_s = low_s * (high_s / low_s) ** self._random.random()
        value = self._random.uniform(drawn.low, drawn.high)
        return Inject(target=drawn.target, mode=drawn.mode, for_s=lasts_s, value=value)

    def _hear(self, command: Command, reply: LoopReply) -> None:
        self.refused += isinstance(reply, Refused)
        self._must_park = isinstance(command, Reset) and isinstance(reply, Refused)
