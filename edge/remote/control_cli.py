"""The verbs that command the running process: arm, grasp, hold, park, reset, status, inject."""

import sys
import time
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from edge.errors import NotListeningError, RefusedError, SafeError
from edge.remote.commands import (
    DISARMED,
    SAFE,
    Accepted,
    Arm,
    Command,
    Done,
    Grasp,
    GraspResult,
    Hold,
    Inject,
    Mode,
    Park,
    Refused,
    Reply,
    Reset,
    Status,
    StatusReport,
    Target,
    Timing,
)
from edge.remote.control_client import REPLY_MAX_S, ControlClient

EXIT_MISSED = 6
EXIT_LOST = 7
STALE_S = 0.5  # a report that is older than 25 ticks tells of a stuck loop

_SIGN_OF_LIFE_S = 0.2  # of the 0.5 s that a deadman allows
_PROGRESS_S = 0.25
_COLOURS = {"HOLD": "yellow", SAFE: "red"}
_EPILOG = "Exit codes: 0 done, 3 the arm is in SAFE, 4 refused, 5 nothing listens."

Socket = Annotated[
    Path | None,
    typer.Option("--socket", envvar="DOFBOT_SOCKET", help="Its socket; else the service's, or that of your own dofbot run."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the reply as JSON.")]


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    for verb in (arm, grasp, hold, park, reset, status, inject):
        grasps = f" Not all picked: {EXIT_MISSED} missed, {EXIT_LOST} lost." if verb is grasp else ""
        app.command(epilog=_EPILOG + grasps)(verb)


def arm(
    deadman: Annotated[bool, typer.Option("--deadman", help="Keep it armed only while this command runs; Ctrl-C holds the arm.")] = False,
    as_json: AsJson = False,
    socket: Socket = None,
) -> None:
    """Let the arm move. It starts disarmed, whatever it did before.

    With --deadman the arm holds within half a second when this command, this terminal or this ssh session ends.
    """
    with ControlClient(socket) as client:
        _finish(client.ask(Arm(deadman=deadman)), client, as_json)
        if deadman:
            _keep_armed(client)


def grasp(
    count: Annotated[int, typer.Option("--count", "-n", min=1, max=1000, help="Grasp so many times.")] = 1,
    as_json: AsJson = False,
    socket: Socket = None,
) -> None:
    """Grasp a block, put it down, and say what came of it: picked, missed, or lost on the way.

    Waits until all grasps are done. Ctrl-C holds the arm. The arm must be armed: dofbot arm.
    """
    with ControlClient(socket) as client:
        ticket = client.send(Grasp(count=count))
        try:
            _finish(_follow(client, ticket), client, as_json, count)
        except KeyboardInterrupt:
            client.ask(Hold())
            typer.echo("\ndofbot: asked the arm to hold where it is; dofbot park takes it home", err=True)
            raise


def hold(as_json: AsJson = False, socket: Socket = None) -> None:
    """Stop the arm where it is, servos on. It goes on with the next grasp or park."""
    _command(Hold(), as_json, socket)


def park(as_json: AsJson = False, socket: Socket = None) -> None:
    """Take the arm home, switch the servos off and disarm."""
    with ControlClient(socket) as client:
        _finish(_follow(client, client.send(Park())), client, as_json)


def reset(as_json: AsJson = False, socket: Socket = None) -> None:
    """Clear a latched fault (SAFE), once you have looked at the arm and removed the cause.

    dofbot status says what it was. The arm is disarmed afterwards.
    """
    _command(Reset(), as_json, socket)


def status(
    timing: Annotated[bool, typer.Option("--timing", help="Print the control loop's histograms instead, as JSON.")] = False,
    as_json: AsJson = False,
    socket: Socket = None,
) -> None:
    """Say what the arm does, why it holds, and how the process is."""
    with ControlClient(socket) as client:
        reply = client.ask(Timing() if timing else Status())
        if as_json or not isinstance(reply, StatusReport):
            return _finish(reply, client, as_json or timing)
    for name, value in rows(reply):
        shown = typer.style(value, fg=_COLOURS.get(reply.state, "green"), bold=True) if name == "state" else value
        typer.echo(f"{name:<10}{shown}")
    return _exit_if_safe(reply)


def inject(
    target: Annotated[Target, typer.Argument(help="What fails.")],
    mode: Annotated[Mode, typer.Argument(help="How it fails; ok ends it.")],
    for_s: Annotated[float, typer.Option("--for", min=0.0, max=3600.0, help="Seconds; 0: until ok.")] = 0.0,
    value: Annotated[float, typer.Option(min=-1e6, max=1e6, help="How much: a delay in seconds, a share of the calls, …")] = 0.0,
    as_json: AsJson = False,
    socket: Socket = None,
) -> None:
    """Make a part of the robot fail on purpose, to see that the arm stays safe. Refused unless the configuration allows it.

    For example: dofbot inject camera stuck --for 2
    """
    _command(Inject(target=target, mode=mode, for_s=for_s, value=value), as_json, socket)


def rows(report: StatusReport) -> list[tuple[str, str]]:
    """What `dofbot status` shows of a report: name and value."""
    after = "; dofbot reset, once you have looked at it" if report.latched else ""
    state = f"{report.state} for {_duration(report.since_s)}" + (f": {report.reason}{after}" if report.reason else after)
    frame = "none yet" if report.frame_age_s is None else f"{report.frame_age_s * 1e3:.0f} ms old"
    counts, policy = report.control, f"{report.policy} {report.policy_sha256[:12]}".strip()
    warning = f"; {report.policy_warning}" if report.policy_warning else ""
    stuck = f"; NO REPORT FOR {_duration(report.age_s)}, the loop is stuck" if report.age_s > STALE_S else ""
    shown = [
        ("state", state),
        ("phase", report.phase),
        ("grasps", f"{report.attempts}: {report.picked} picked, {report.missed} missed, {report.lost} lost"),
        ("loop", f"{report.ticks:,} ticks, {report.skipped:,} skipped, {report.holds:,} held{stuck}"),
        ("camera", f"newest frame {frame}"),
        ("bus", report.bus),
        ("policy", policy + warning),
        ("realtime", "; ".join(report.realtime)),
        ("control", f"{counts.clients} connected; {counts.malformed} malformed lines, {counts.refused} refused, {counts.dropped} dropped"),
        ("release", report.release),
    ]
    return [(name, value) for name, value in shown if value]


def _duration(seconds: float) -> str:
    if seconds < 60.0:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _command(command: Command, as_json: bool, socket: Path | None) -> None:
    with ControlClient(socket) as client:
        _finish(client.ask(command), client, as_json)


def _follow(client: ControlClient, ticket: int) -> Reply:
    """The last reply to a `grasp`, with a line of progress on a terminal until it comes."""
    reply = client.receive(ticket, REPLY_MAX_S)
    if reply is None:
        raise NotListeningError(f"no answer within {REPLY_MAX_S:g} s, expected one in 1 s; look at: journalctl -u dofbot-grasp")
    if not isinstance(reply, Accepted):
        return reply
    began_s, shows = time.monotonic(), _on_terminal()
    while (reply := client.receive(ticket, _PROGRESS_S)) is None:
        report = client.ask(Status())  # also tells when the process has ended
        if shows and isinstance(report, StatusReport):
            typer.echo(f"\r\x1b[K{_progress(report, time.monotonic() - began_s)}", nl=False, err=True)
    if shows:
        typer.echo("\r\x1b[K", nl=False, err=True)
    return reply


def _on_terminal() -> bool:
    return sys.stderr.isatty()


def _progress(report: StatusReport, passed_s: float) -> str:
    why = f" ({report.reason})" if report.reason else ""
    return f"{report.state} {report.phase}{why}: {report.picked} picked of {report.attempts}, {passed_s:.0f} s"


def _finish(reply: Reply, client: ControlClient, as_json: bool, count: int = 1) -> None:
    """Print the reply; raises what the exit code says when it is not what was asked for."""
    if as_json:
        typer.echo(msgspec.json.format(msgspec.json.encode(reply)).decode())
    match reply:
        case Refused():
            raise (SafeError if _is_safe(client) else RefusedError)(reply.reason)
        case GraspResult():
            _finish_grasp(reply, client, as_json, count)
        case StatusReport():
            _exit_if_safe(reply)
        case Done() | Accepted() if not as_json:
            typer.echo(reply.text or "done")


def _finish_grasp(result: GraspResult, client: ControlClient, as_json: bool, count: int) -> None:
    if not as_json:
        ended = f"; ended after {result.picked + result.missed + result.lost} of {count}: {result.reason}" if result.reason else ""
        only = "picked" if result.picked else "lost" if result.lost else "missed"
        typer.echo(f"{result.picked} picked, {result.missed} missed, {result.lost} lost{ended}" if count > 1 or result.reason else only)
    if result.picked >= count:
        return
    if result.reason and _is_safe(client):
        raise SafeError(result.reason)
    raise typer.Exit(EXIT_LOST if result.lost else EXIT_MISSED)


def _is_safe(client: ControlClient) -> bool:
    try:
        report = client.ask(Status())
    except NotListeningError:  # it hung up after it refused
        return False
    return isinstance(report, StatusReport) and report.state == SAFE


def _exit_if_safe(report: StatusReport) -> None:
    if report.state == SAFE:
        raise typer.Exit(SafeError.exit_code)


def _keep_armed(client: ControlClient) -> None:
    """Show the process that we are there, until Ctrl-C, and then have the arm hold at once; ends when the arm is no longer armed."""
    typer.echo("armed while this runs; Ctrl-C holds the arm", err=True)
    try:
        while True:
            time.sleep(_SIGN_OF_LIFE_S)
            report = client.ask(Status())
            if isinstance(report, StatusReport) and report.state in (SAFE, DISARMED):
                typer.echo(f"the arm is in {report.state}" + (f": {report.reason}" if report.reason else ""), err=True)
                return _exit_if_safe(report)
    except KeyboardInterrupt:
        client.ask(Hold())
        raise
