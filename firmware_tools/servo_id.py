"""An id for the one servo that is plugged in: the board gives every servo that hears it the same."""

from msgspec import Struct

from edge.config import Config
from edge.errors import BusError, ConfigError
from firmware_tools.asking import confirm
from firmware_tools.count_line import ID_MAX, CountLine
from firmware_tools.servo_line import opened

ONCE_S = (0.005,)


class Renamed(Struct, frozen=True):
    """What a servo is called now."""

    before: int
    now: int
    done: bool = True

    def __str__(self) -> str:
        if not self.done:
            return f"would give the servo that is plugged in the id {self.now}"
        return f"servo {self.before} is now {self.now}" if self.before != self.now else f"servo {self.now} has this id already"


def rename(new: int, config: Config, yes: bool, dry_run: bool) -> Renamed:
    """Do it, after a look at who answers; raises `BusError` unless exactly one servo does."""
    if config.bus.driver != "dofbot_board":
        raise ConfigError(
            f"bus.driver = '{config.bus.driver}' has servos without ids, expected 'dofbot_board'; the channel is where it is plugged in"
        )
    if dry_run:
        return Renamed(0, new, done=False)
    with opened(config) as line:
        if not isinstance(line, CountLine):  # never: only the PCA9685 has another
            raise BusError("servo bus: this board's servos have no ids")
        before = _the_one(line)
        if before == new:
            return Renamed(before, new)
        # Two servos that share an id answer as one: nobody but the person who plugged them in can tell.
        confirm(f"Servo {before} gets id {new}, for good. Is it the only one whose cable is in?", yes)
        line.rename(new)
        if not line.answers(new) or line.answers(before, ONCE_S):
            raise BusError(
                f"servo {before} did not take id {new}, expected it to answer there; unplug it, plug it in again, then: dofbot servo read"
            )
    return Renamed(before, new)


def _the_one(line: CountLine) -> int:
    """The id of the only servo that answers."""
    answering = [number for number in range(1, ID_MAX + 1) if line.answers(number, ONCE_S)]
    # A silent one may only have missed the question.
    answering = answering or [number for number in range(1, 7) if line.answers(number)]
    if not answering:
        raise BusError("no servo answers, expected exactly one; plug one in, and switch the 12 V supply on")
    if len(answering) > 1:
        raise BusError(
            f"servos {', '.join(map(str, answering))} answer, expected exactly one, or all would get the same id; unplug the others"
        )
    return answering[0]
