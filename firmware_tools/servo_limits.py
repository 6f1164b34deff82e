"""Where a servo's travel ends, found by a person who feels or sees the stop."""

from statistics import median, stdev

import msgspec
from msgspec import Struct

from edge import calibration
from edge.config import BoardServoConfig, Config, ServoConfig
from edge.errors import BusError
from edge.robot import JOINT_NAMES
from firmware_tools.asking import answer, confirm, number
from firmware_tools.count_line import CountLine
from firmware_tools.pulse_line import PULSE_MAX_US, PULSE_MIN_US, PulseLine
from firmware_tools.robot_file import save_servo
from firmware_tools.servo_line import opened
from firmware_tools.slow import creep

MARGIN_DEG = 1.5  # kept from a stop: a servo that pushes against one burns (YahboomTechnology/dofbot-Pi, precautions)
READINGS = 5
STEP_US, STEP_MAX_US = 20.0, 100.0  # 100 µs are 13.5° of a 270° servo
BY = "dofbot servo limits"


class Found(Struct, frozen=True):
    """What was written, and where."""

    joint: str
    servo: ServoConfig | BoardServoConfig
    file: str

    def __str__(self) -> str:
        low, high = (
            (self.servo.min_us, self.servo.max_us) if isinstance(self.servo, ServoConfig) else (self.servo.min_raw, self.servo.max_raw)
        )
        return f"{self.joint}: {low:g}…{high:g}, written to {self.file}; the one before is beside it"


def find(joint: int, config: Config, yes: bool) -> Found:
    """Find both ends and write them; raises `ConfigError` for a travel that is too short, and nothing is written."""
    servo: ServoConfig | BoardServoConfig
    with opened(config) as line:
        if isinstance(line, CountLine):
            servo, sigma = _by_hand(line, joint, config, yes)
        else:
            servo, sigma = _by_steps(line, joint, config, yes)
    made = calibration.made(BY, {f"{JOINT_NAMES[joint]}.{name}": value for name, value in sigma.items()})
    return Found(JOINT_NAMES[joint], servo, str(save_servo(config, joint, servo, made)))


def _by_hand(line: CountLine, joint: int, config: Config, yes: bool) -> tuple[BoardServoConfig, dict[str, float]]:
    """With all servos off a person turns the joint from stop to stop, and the board reads it."""
    confirm("All servos are switched off, and the arm sinks: hold it. Go on?", yes)
    line.let_go()
    servo = config.bus.board.servos[joint]
    ends = [_at_stop(line, joint, which) for which in ("one", "the other")]
    (low, low_sigma), (high, high_sigma) = sorted(ends)
    margin = MARGIN_DEG * servo.counts_per_deg
    if high - low <= 4 * margin:
        raise BusError(
            f"{JOINT_NAMES[joint]} was read at {low:.0f} and {high:.0f} counts, expected its two stops; turn it from one to the other"
        )
    found = msgspec.structs.replace(servo, min_raw=round(low + margin), max_raw=round(high - margin))
    return found, {"min_raw": low_sigma, "max_raw": high_sigma}


def _at_stop(line: CountLine, joint: int, which: str) -> tuple[float, float]:
    """Counts at a stop, and their σ."""
    answer(f"The servos are limp. Turn {JOINT_NAMES[joint]} by hand to {which} stop, hold it there, and press Enter", "")
    readings = [raw for _ in range(READINGS) if (raw := line.read(joint)) is not None]
    if len(readings) < READINGS:
        raise BusError(f"servo of {JOINT_NAMES[joint]} tells no position, expected one; turn it back a little, and check its cable")
    return median(readings), stdev(readings)


def _by_steps(line: PulseLine, joint: int, config: Config, yes: bool) -> tuple[ServoConfig, dict[str, float]]:
    """The servo goes on from its middle by as much as is asked for; both ends are where the person says so."""
    servo = config.bus.servos[joint]
    middle_us = (servo.min_us + servo.max_us) / 2
    confirm(
        f"{JOINT_NAMES[joint]} leaps to its middle ({middle_us:.0f} µs) at full speed; take the arm off it, or hold it clear. Go on?", yes
    )
    line.go(joint, middle_us)
    low_us = _walk(line, joint, middle_us, -1)
    creep(line, joint, low_us, middle_us)
    high_us = _walk(line, joint, middle_us, 1)
    travel_deg = number("Angle between those two places, measured in degrees")
    # The joint is where it was at the old middle, which need not be the new one.
    shift_deg = servo.direction * ((low_us + high_us) / 2 - middle_us) * travel_deg / max(high_us - low_us, 1.0)
    found = ServoConfig(servo.channel, low_us, high_us, travel_deg, servo.zero_deg + shift_deg, servo.direction)
    return found, {"min_us": STEP_US / 2, "max_us": STEP_US / 2}


def _walk(line: PulseLine, joint: int, start_us: float, side: int) -> float:
    """The last pulse at which the servo still turned."""
    at_us = before_us = start_us
    while True:
        said = answer(
            f"{at_us:.0f} µs. Enter: {STEP_US:.0f} µs on; a number: so many; b: back; s: it hums, or stands still", f"{STEP_US:.0f}"
        )
        goal_us = before_us if said in ("b", "s") else at_us + side * _step(said)
        goal_us = min(max(goal_us, PULSE_MIN_US), PULSE_MAX_US)
        creep(line, joint, at_us, goal_us)
        if said == "s":
            return goal_us
        before_us, at_us = (goal_us if said == "b" else at_us), goal_us


def _step(said: str) -> float:
    """Microseconds; what is no number is none."""
    try:
        return min(max(0.0, float(said)), STEP_MAX_US)  # 0 first: nan is not more
    except ValueError:
        return 0.0
