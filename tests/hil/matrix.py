"""The fault matrix: what goes wrong, how and when, what must follow and how soon. `docs/faults.md` is made from it.

A bound is from the fault to what follows. Facts are the proposals that we began with, from a survey of PX4, ArduPilot, Klipper,
ros2_control, moteus and LinuxCNC; T is a tick, 20 ms.
"""

import math
import os
import signal
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from tests.hil import deliver
from tests.hil.deliver import SPOILT, Deliver, Prepare
from tests.hil.robot import ROOT

EITHER = ("pca9685", "dofbot_board")
BOARD = ("dofbot_board",)
NEITHER = ()


class Follows(StrEnum):
    """What the arm does about a fault, and what it takes to go on."""

    GOES_ON = "goes on"
    ENDS = "the approach ends after its 100 decisions"
    RESUMES = "HOLD; goes on by itself"
    LATCHES = "HOLD until reset"
    PARKS = "SAFE: parks, servos off, until reset"
    LETS_GO = "SAFE: servos off as soon as they can be, until reset"
    STOPS = "parks, servos off, exit code 0"
    DIES = "release helper; starts DISARMED"
    REFUSED = "does not start; nothing moved"
    WHOLE = "old or new, never torn"


class Row(NamedTuple):
    """A fault on each of `drivers`, from the middle of `phase` on. `back_s` is for going on after its end."""

    id: str
    fault: str
    deliver: Deliver | None  # None: has a test of its own, or none
    phase: str
    follows: Follows
    bound_s: float
    back_s: float = 0.0
    facts: str = ""
    why: str = ""  # ours is another
    drivers: tuple[str, ...] = EITHER
    is_smoke: bool = False  # in `make test`, too
    exit_code: int = 0
    prepare: Prepare = lambda folder: {}
    module: str = "edge.cli"
    environment: Mapping[str, str] = {}
    desk: str = ""  # what is different there from the start on


def configured(section: str, **values: object) -> Prepare:
    """Something else in one section of the configuration."""
    return lambda folder: {section: values}


FIVE_SECONDS = "parks after 5 s of HOLD, as PX4 does (COM_FAIL_ACT_T)"
BY_ITSELF = "not latched: what is plugged in again is the arm that was there before, and starts from rest"
AT_ONCE = "at the first such frame; frames are looked at when a decision is due, every 80 ms"
KNOCKED = (
    "counted from where the next descent begins: five frames once the arm has come to rest; only where a marker is glued to the table "
    "([fixed_marker]), and at 10 mm and not 3 px, which are 3 mm: an arm in order is off by up to 11 mm itself (tests/bench/knocked.py)"
)
SYSTEMD = f"@dofbot-hil-{os.getpid()}"
inject = deliver.injected

CAMERA = (
    Row(
        "C1",
        "camera read blocks (SIGSTOP to the capture process)",
        deliver.capture_gets(signal.SIGSTOP),
        "APPROACH",
        Follows.RESUMES,
        0.12,
        4.0,
        "HOLD ≤ 100 ms + T, PARK after 1 s",
        f"the process is replaced after 1 s without a frame; {FIVE_SECONDS}",
    ),
    Row(
        "C2",
        "frozen frames (same pixels, new times)",
        inject("camera", "stuck", for_s=1.0),
        "APPROACH",
        Follows.RESUMES,
        0.22,
        1.0,
        "HOLD ≤ 200 ms",
        "+ T: at 25 frames a second the fifth comes after 200 ms",
    ),
    Row(
        "C3",
        "frames come 0.5 s late",
        inject("camera", "delayed", 0.5, 1.0),
        "APPROACH",
        Follows.RESUMES,
        0.12,
        1.0,
        "DEGRADED within 1 s, then as C1",
        "no DEGRADED: a frame is young enough to act on, or it is not",
    ),
    Row(
        "C4a",
        "90 % of the pixels invalid",
        inject("camera", "garbage", 0.9, 1.0),
        "APPROACH",
        Follows.RESUMES,
        0.14,
        1.0,
        "3 in a row: HOLD ≤ 100 ms + T",
        AT_ONCE,
    ),
    Row("C4b", "lens covered, no depth", deliver.covered_camera(1.0), "APPROACH", Follows.RESUMES, 0.14, 1.0, "as C4a", AT_ONCE),
    Row(
        "C5a",
        "unplugged for 2 s",
        inject("camera", "off", for_s=2.0),
        "APPROACH",
        Follows.RESUMES,
        0.12,
        3.0,
        "HOLD ≤ 100 ms + T, back ≤ 3 s",
        is_smoke=True,
    ),
    Row(
        "C5b",
        "capture process killed (SIGKILL)",
        deliver.capture_gets(signal.SIGKILL),
        "APPROACH",
        Follows.RESUMES,
        0.12,
        3.0,
        "HOLD ≤ 100 ms + T, back ≤ 3 s",
    ),
    Row("C5c", "unplugged for good", inject("camera", "off"), "APPROACH", Follows.PARKS, 5.2, 0.0, "PARK after 1 s", FIVE_SECONDS),
    Row(
        "C6a",
        "images of another size at the start",
        deliver.from_the_start("expected"),
        "",
        Follows.REFUSED,
        5.0,
        facts="start refused",
        exit_code=1,
        prepare=configured("faults", allow=True, script=[{"target": "camera", "mode": "wrong", "value": 0.0}]),
    ),
    Row(
        "C6b",
        "depth in millimetres",
        inject("camera", "wrong", 1000.0, 1.0),
        "APPROACH",
        Follows.RESUMES,
        0.14,
        1.0,
        "0 frames reach the network",
        AT_ONCE,
    ),
    Row(
        "C7",
        "NaN, infinite and negative pixels (30 %)",
        inject("camera", "garbage", 0.3, 2.0),
        "APPROACH",
        Follows.GOES_ON,
        0.01,
        facts="treated as invalid",
    ),
    Row(
        "C8a",
        "camera turned by 5° on its mount, 19 mm on the table, in a descent; pushed back",
        deliver.knocked(math.radians(5.0), "is found"),
        "APPROACH",
        Follows.RESUMES,
        0.55,
        1.0,
        "residual > 3 px in 5 frames: HOLD ≤ 500 ms",
        KNOCKED,
        prepare=deliver.fixed_marker,
        desk="wide true",
    ),
    Row(
        "C8b",
        "the same for good",
        deliver.knocked(math.radians(5.0), "is found"),
        "HOMING",
        Follows.PARKS,
        5.7,
        0.0,
        "as C8a",
        f"as C8a; {FIVE_SECONDS}",
        prepare=deliver.fixed_marker,
        desk="wide true",
    ),
    Row(
        "C8c",
        "camera turned by 1°, 4 mm on the table",
        deliver.knocked(math.radians(1.0), "is not"),
        "HOMING",
        Follows.GOES_ON,
        0.02,
        facts="as C8a",
        why="within the limit: the descent goes on to the grasp",
        prepare=deliver.fixed_marker,
        desk="wide true",
    ),
)
BUS = (
    Row(
        "B1a",
        "nothing acknowledges for 0.3 s",
        inject("bus", "off", for_s=0.3),
        "HOMING",
        Follows.RESUMES,
        0.1,
        0.5,
        "3 bad ticks: HOLD, latched, 60 ms",
        f"{BY_ITSELF}; the first bad tick comes up to T after the fault, and the loop holds in the one after the third",
        is_smoke=True,
    ),
    Row(
        "B1b",
        "5 % of the transactions not acknowledged",
        inject("bus", "intermittent", 0.05, 2.0),
        "APPROACH",
        Follows.GOES_ON,
        0.05,
        facts="≤ 2 retries inside 4 ms",
        why="two set points in a row may still be lost, and the next one goes on from rest",
    ),
    Row(
        "B1c",
        "nothing acknowledges any more",
        inject("bus", "off"),
        "HOMING",
        Follows.LETS_GO,
        5.3,
        0.0,
        "HOLD, latched",
        "after 5 s of HOLD: nothing is left to park with",
    ),
    Row(
        "B2",
        "SDA or SCL held: transactions time out",
        inject("bus", "stuck", 0.01, 1.0),
        "HOMING",
        Follows.RESUMES,
        0.1,
        0.5,
        "≤ 100 ms: recovery, else latched",
        BY_ITSELF,
    ),
    Row(
        "B3",
        "controller reset, as by a brown-out",
        inject("bus", "wrong"),
        "HOMING",
        Follows.RESUMES,
        0.1,
        1.0,
        "found ≤ 100 ms, outputs off, ramp after re-arm",
        BY_ITSELF,
    ),
    Row(
        "B4",
        "servos stall",
        deliver.stalled_servos(2.0),
        "HOMING",
        Follows.LATCHES,
        1.0,
        0.0,
        "> 8° for 300 ms: HOLD ≤ 320 ms",
        "the board reads each joint every sixth tick, so it is compared with all set points of the last 0.3 s; a PCA9685 reads none",
        BOARD,
    ),
    Row(
        "B5",
        "a servo's cable is out at the start",
        deliver.from_the_start("servo 3 (joint3) is silent"),
        "",
        Follows.REFUSED,
        5.0,
        0.0,
        "arming refused",
        "the start is; a PCA9685 hears nothing of its servos",
        BOARD,
        exit_code=1,
        module="tests.hil.deaf_servo",
    ),
    Row(
        "B6a",
        "bits flip in every byte that is read",
        inject("bus", "garbage", 1.0, 1.0),
        "HOMING",
        Follows.RESUMES,
        0.4,
        1.0,
        "5 in a row: HOLD ≤ 100 ms",
        "on the board five implausible read-backs, one a tick, and then three bad ticks",
    ),
    Row("B6b", "read-backs 0.2 s late", inject("bus", "delayed", 0.2, 2.0), "APPROACH", Follows.GOES_ON, 0.01, facts="sample ignored"),
)
POLICY = (
    Row(
        "P1",
        "actions NaN or infinite",
        inject("policy", "garbage", for_s=1.0),
        "APPROACH",
        Follows.PARKS,
        0.2,
        0.0,
        "tick holds; 3 in a row latched",
        "within three ticks of the next decision, up to 80 ms away",
    ),
    Row(
        "P2",
        "actions out of range",
        inject("policy", "wrong", 3.0, 1.0),
        "APPROACH",
        Follows.PARKS,
        0.2,
        0.0,
        "clamped; > 50 % in 1 s: HOLD",
        "as P1: a network that ends in tanh cannot say 3",
    ),
    Row(
        "P3",
        "each decision takes 0.1 s longer",
        inject("policy", "slow", 0.1, 1.0),
        "APPROACH",
        Follows.RESUMES,
        0.18,
        0.5,
        "last action once, then HOLD ≤ 2 policy periods + T",
    ),
    Row(
        "P4a",
        "one bit of the policy file flipped",
        deliver.from_the_start("damaged"),
        "",
        Follows.REFUSED,
        5.0,
        facts="exit code 78, bus not opened, ≤ 5 s",
        exit_code=78,
        prepare=deliver.policy_file(SPOILT["flipped"]),
        is_smoke=True,
    ),
    Row(
        "P4b",
        "policy file cut short",
        deliver.from_the_start("dofbot: policy"),
        "",
        Follows.REFUSED,
        5.0,
        facts="as P4a",
        exit_code=78,
        prepare=deliver.policy_file(SPOILT["short"]),
    ),
    Row(
        "P4c",
        "policy made for another mount",
        deliver.from_the_start("base_height_m"),
        "",
        Follows.REFUSED,
        5.0,
        facts="as P4a",
        exit_code=78,
        prepare=configured("mount", base_height_m=0.400),
    ),
    Row(
        "P4d",
        "damaged policies offered to the running process, then a good one",
        deliver.swapped_policies,
        "IDLE",
        Follows.GOES_ON,
        0.01,
        facts="previous model stays",
    ),
    Row(
        "P5",
        "the same action for ever",
        inject("policy", "stuck"),
        "APPROACH",
        Follows.ENDS,
        8.2,
        0.0,
        "PARK at the episode limit",
        "a grasp that missed is tried once more, then reported; any phase of more than 10 s parks",
    ),
)
HOST = (
    Row(
        "H1",
        "wall clock leaps ± 10 years at every reading",
        deliver.from_the_start("wall clock stepped"),
        "APPROACH",
        Follows.GOES_ON,
        0.01,
        facts="nothing",
        environment={"PYTHONPATH": os.pathsep.join(map(str, (Path(__file__).parent / "clock_steps", ROOT)))},
    ),
    Row(
        "H2a",
        "CPU hogs, 4 for each core",
        deliver.hogs(4 * (os.cpu_count() or 1), 4.0),
        "APPROACH",
        Follows.GOES_ON,
        0.01,
        facts="p99.9 lateness ≤ 2 ms with FIFO",
        why="the longest of all, at the servos",
    ),
    Row(
        "H2b",
        "each tick comes 30 ms late",
        inject("host", "delayed", 0.03, 1.0),
        "APPROACH",
        Follows.RESUMES,
        0.2,
        1.0,
        "3 overruns in a row: HOLD; no catch-up burst",
    ),
    Row(
        "H3",
        "64 MB are taken in a tick",
        inject("host", "garbage", 64.0, 1.0),
        "APPROACH",
        Follows.GOES_ON,
        0.1,
        facts="recorder dies first",
        why="one late tick; what memory does in a day is for the soak test",
    ),
    Row(
        "H4",
        "disk full (/dev/full as run.record)",
        deliver.from_the_start("the record /dev/full ends here (No space left on device)"),
        "APPROACH",
        Follows.GOES_ON,
        0.01,
        facts="log dropped, lateness change ≤ 1 ms",
        prepare=configured("run", record="/dev/full"),
    ),
    Row(
        "H5a",
        "SIGTERM in the approach",
        deliver.process_gets(signal.SIGTERM),
        "APPROACH",
        Follows.STOPS,
        5.0,
        facts="exit 0 ≤ 5 s",
        is_smoke=True,
    ),
    Row("H5b", "SIGTERM on the way home", deliver.process_gets(signal.SIGTERM), "HOMING", Follows.STOPS, 5.0, facts="exit 0 ≤ 5 s"),
    Row(
        "H6",
        "SIGKILL in motion",
        deliver.process_gets(signal.SIGKILL),
        "APPROACH",
        Follows.DIES,
        1.0,
        facts="hold, off at rest ≤ 1 s",
        is_smoke=True,
    ),
    Row(
        "H7",
        "control loop hangs",
        deliver.hung_host(SYSTEMD),
        "APPROACH",
        Follows.DIES,
        1.5,
        facts="SIGABRT ≤ 1.5 s",
        environment={"NOTIFY_SOCKET": SYSTEMD, "WATCHDOG_USEC": "500000"},
    ),
)
UPDATE = (
    Row(
        "U1",
        "1000 SIGKILLs while a policy and a configuration are replaced",
        None,
        "",
        Follows.WHOLE,
        0.0,
        facts="0 torn in 1000 cuts",
        why="SIGKILL shows that the name changes at once; what a power cut does to the disk it does not",
        drivers=NEITHER,
    ),
)
ONE_INTERPRETER = "T, not half of it: the thread that answers the socket and the loop share one interpreter lock"
NETWORK = (
    Row(
        "N1",
        "4 clients ask for the status without end and read nothing",
        deliver.slow_readers(4, 6.0),
        "APPROACH",
        Follows.GOES_ON,
        0.02,
        facts="hung up on after 5 s",
        why=ONE_INTERPRETER,
    ),
    Row(
        "N2",
        "5000 malformed lines, and messages to the simulator",
        deliver.malformed(5000),
        "APPROACH",
        Follows.GOES_ON,
        0.02,
        facts="0 crashes, 0 set points",
        why=ONE_INTERPRETER,
    ),
    Row(
        "N3",
        "whoever armed with a deadman falls silent",
        deliver.silent_deadman,
        "APPROACH",
        Follows.RESUMES,
        0.55,
        0.5,
        "HOLD ≤ 500 ms, PARK later",
        "+ T; goes on when it is armed again",
    ),
    Row(
        "N4",
        "1000 connections",
        deliver.connects(1000),
        "APPROACH",
        Follows.GOES_ON,
        0.02,
        facts="8 at most, lateness unchanged",
        why=ONE_INTERPRETER,
    ),
)
ROWS = CAMERA + BUS + POLICY + HOST + UPDATE + NETWORK
