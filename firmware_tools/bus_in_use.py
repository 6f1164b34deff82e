"""Whether a runtime drives the servos just now: then nobody else may."""

from pathlib import Path

from edge.config import Config
from edge.errors import DofbotError, NotListeningError, RefusedError
from edge.remote.commands import Status, StatusReport
from edge.remote.control_client import ControlClient
from edge.remote.control_socket import AUTO
from firmware_tools.machine import Machine
from firmware_tools.provision import UNIT


def who_drives(config: Config) -> str:
    """What a runtime that takes commands says of itself; empty: there is none."""
    setting = config.control.socket
    places = (None,) if setting in ("", AUTO) else (Path(setting), None)  # None: where it usually is
    return next(filter(None, map(_who_listens, places)), "")


def check_free(config: Config) -> None:
    """Raise `RefusedError` while a runtime holds the bus. An emulated bus is each process's own."""
    if config.bus.i2c == "emulated":
        return
    found = who_drives(config) or _who_starts()
    if found:
        raise RefusedError(f"the servo bus belongs to {found}, expected nobody; sudo systemctl stop dofbot-grasp, or end dofbot run")


def _who_listens(path: Path | None) -> str:
    try:
        with ControlClient(path) as client:
            reply = client.ask(Status())
    except NotListeningError as error:
        # Somebody who does not answer, or answers others only, is somebody.
        return "" if str(error).startswith("nothing listens") else f"a process of which is known: {error}"
    except DofbotError as error:
        return f"a process that answers '{error}'"
    return f"dofbot run, which is {reply.state}" if isinstance(reply, StatusReport) else "dofbot run"


def _who_starts() -> str:
    """The service listens to nobody while it waits for its camera, or ends; and its end switches the servos off, whoever powered them."""
    state = Machine().run(("systemctl", "is-active", UNIT))
    return f"{UNIT}, which is {state}" if state in ("active", "activating", "deactivating", "reloading") else ""
