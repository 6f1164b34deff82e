"""Whether what must follow a fault did: read from the trace of the servos, and from what the process says of itself."""

import json
import signal
import subprocess
import sys
import time

from edge.remote.commands import Arm, Done, Grasp, Refused, Reset
from firmware_tools.release import OFF
from tests.hil import trace
from tests.hil.deliver import Delivered
from tests.hil.matrix import Follows, Row
from tests.hil.robot import ROOT, Robot, wait_for
from tests.hil.trace import TICK_S, WAYS

SAID_S = 3.0  # a line may be read later than it was written; bounds are not measured on lines
PARKED_S = 6.0
SETTLED_S = 0.5


def follows(robot: Robot, row: Row, fault: Delivered) -> float:
    """Fails unless it did; returns how long it took."""
    took_s = _REACTIONS[row.follows](robot, row, fault)
    assert took_s <= row.bound_s, f"took {took_s * 1e3:.0f} ms, expected at most {row.bound_s * 1e3:.0f} ms\n{robot.journal}"
    return took_s


def _goes_on(robot: Robot, row: Row, fault: Delivered) -> float:
    """Not one HOLD and not one deadline missed; the longest that a set point came late."""
    fault.end()
    until_s = time.monotonic()
    fault.evidence()
    assert not robot.has_said("HOLD"), robot.journal
    gaps_s = trace.gaps_s([sent for sent in robot.trace(fault.at_s) if sent.at_s < until_s])
    # Two fewer: gaps lie between set points, and the window opens and shuts anywhere in a tick.
    wanted = 0.9 * (until_s - fault.at_s) / TICK_S - 2
    assert len(gaps_s) >= wanted, f"{len(gaps_s)} gaps, expected at least {wanted:.1f}\n{robot.journal}"
    return max(gaps_s) - TICK_S


def _resumes(robot: Robot, row: Row, fault: Delivered) -> float:
    held = robot.enters("HOLD", row.bound_s + SAID_S, fault.at_s)
    fault.end()
    ended_s = time.monotonic()
    back = robot.said(f"HOLD → {row.phase}", row.back_s + SAID_S, held.at_s)
    fault.evidence()
    assert back.at_s - ended_s < row.back_s, f"back after {back.at_s - ended_s:.2f} s, expected {row.back_s} s\n{robot.journal}"
    wait_for(lambda: trace.motions(robot.trace(back.at_s), robot.driver), 1.0, "it moves again")
    return _held_after_s(robot, row, fault, back.at_s - 2.0 * TICK_S)


def _latches(robot: Robot, row: Row, fault: Delivered) -> float:
    held = robot.enters("HOLD", row.bound_s + SAID_S, fault.at_s)
    fault.end()
    fault.evidence()
    time.sleep(SETTLED_S)
    until_s = time.monotonic()
    assert robot.status().state == "HOLD"
    assert robot.status().latched
    assert isinstance(robot.ask(Grasp()), Refused)
    assert not robot.has_said("HOLD →", held.at_s)
    _resets(robot)
    return _held_after_s(robot, row, fault, until_s)


def _parks(robot: Robot, row: Row, fault: Delivered) -> float:
    safe = robot.enters("SAFE", row.bound_s + SAID_S, fault.at_s)
    fault.end()
    fault.evidence()
    is_parked_and_latched(robot, fault.at_s)
    return safe.at_s - fault.at_s


def is_parked_and_latched(robot: Robot, since_s: float) -> None:
    """In SAFE, parked and off in time, and only a reset helps."""
    robot.enters("SAFE", SAID_S, since_s)
    wait_for(lambda: robot.trace(since_s)[-1].is_off, PARKED_S, f"the servos are off\n{robot.journal}")
    assert trace.is_parked(robot.trace()[-1]), robot.trace()[-1].shafts
    _is_latched(robot)


def _lets_go(robot: Robot, row: Row, fault: Delivered) -> float:
    safe = robot.enters("SAFE", row.bound_s + SAID_S, fault.at_s)
    fault.evidence()
    last = robot.trace()[-1].at_s
    robot.inject("bus", "ok")
    time.sleep(SETTLED_S)
    assert all(sent.is_off for sent in robot.trace(last + TICK_S))
    _is_latched(robot)
    return safe.at_s - fault.at_s


def _stops(robot: Robot, row: Row, fault: Delivered) -> float:
    assert robot.ends(row.bound_s + SAID_S) == 0, robot.journal
    ended_s = time.monotonic()
    last = robot.trace()[-1]
    assert last.is_off
    assert trace.is_parked(last), last.shafts
    return ended_s - fault.at_s


def _ends(robot: Robot, row: Row, fault: Delivered) -> float:
    began = robot.said("→ APPROACH", 0.0)
    ended = robot.said("APPROACH →", row.bound_s + SAID_S, fault.at_s)
    fault.evidence()
    assert "→ GRASP" in ended.text, robot.journal
    return ended.at_s - began.at_s


def _dies(robot: Robot, row: Row, fault: Delivered) -> float:
    """The process is gone, the helper switches the servos off as systemd would have it do, and a new process moves nothing."""
    fault.end()
    assert robot.ends(row.bound_s + SAID_S) in (-signal.SIGKILL, -signal.SIGABRT)
    gone_s = time.monotonic()
    answer = json.loads(_release(robot, "--json"))
    took_s = time.monotonic() - fault.at_s
    assert answer["released"]
    assert [tuple(write["bytes"]) for write in answer["writes"]] == [tuple(OFF[robot.driver].data)]
    assert not robot.trace(gone_s + TICK_S)
    robot.start()
    robot.ready()
    assert robot.status().state == "DISARMED"
    time.sleep(SETTLED_S)
    assert all(sent.is_off for sent in robot.trace())
    return took_s


def _release(robot: Robot, *options: str) -> str:
    command = [sys.executable, "-I", str(ROOT / "firmware_tools" / "release.py"), "--config", str(robot.config), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=10.0, check=True).stdout


def _refused(robot: Robot, row: Row, fault: Delivered) -> float:
    assert robot.ends(row.bound_s + SAID_S) == row.exit_code, robot.journal
    ended_s = time.monotonic()
    fault.evidence()
    assert robot.lines[-1].text.startswith("dofbot: "), robot.journal
    assert all(sent.is_off for sent in robot.trace())
    return ended_s - robot.began_s


def _is_latched(robot: Robot) -> None:
    """Only a reset helps."""
    refused = robot.ask(Arm())
    assert isinstance(refused, Refused)
    assert "reset" in refused.reason
    _resets(robot)


def _resets(robot: Robot) -> None:
    """A reset disarms; then it can be armed, and moves."""
    assert isinstance(robot.ask(Reset()), Done)
    wait_for(lambda: robot.trace()[-1].is_off, 1.0, "the servos are off after a reset")
    since_s = time.monotonic()
    robot.begin("HOMING")
    wait_for(lambda: trace.motions(robot.trace(since_s), robot.driver), 2.0, "it moves after a reset")


def _held_after_s(robot: Robot, row: Row, fault: Delivered, until_s: float) -> float:
    """When the runtime says that it held; the trace must have been still from the bound on."""
    still_s = fault.at_s + row.bound_s + WAYS[robot.driver].lag_s
    moved = [at_s for at_s in trace.motions(robot.trace(fault.at_s), robot.driver) if still_s < at_s < until_s]
    assert not moved, f"the servos were moved {moved[0] - fault.at_s:.3f} s after the fault\n{robot.journal}"
    return next(tick.now_s for tick in robot.ticks() if tick.hold and tick.now_s > fault.at_s) - fault.at_s


_REACTIONS = {
    Follows.GOES_ON: _goes_on,
    Follows.RESUMES: _resumes,
    Follows.LATCHES: _latches,
    Follows.PARKS: _parks,
    Follows.LETS_GO: _lets_go,
    Follows.STOPS: _stops,
    Follows.ENDS: _ends,
    Follows.DIES: _dies,
    Follows.REFUSED: _refused,
}
