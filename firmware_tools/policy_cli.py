"""The verbs of `dofbot policy`: push, list, activate, rollback, keygen, sign."""

import datetime
import json
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

KEY = Path("~/.config/dofbot-grasp/policy.key")

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout, progress on stderr.")]
Host = Annotated[str, typer.Option("--host", help="The robot as ssh knows it, pi@dofbot.local; without it, this machine.")]
Force = Annotated[bool, typer.Option("--force", help="Take one that was signed before the active one, too.")]
Key = Annotated[Path, typer.Option("--key", help="File of the private key.")]


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    verbs = typer.Typer(help="Give a robot another policy while it runs, without a new version.", no_args_is_help=True)
    verbs.command("list")(show)
    for verb in (push, activate, rollback, keygen, sign):
        verbs.command()(verb)
    app.add_typer(verbs, name="policy")


def push(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="What dofbot export wrote; its signature lies beside it: FILE.sig.")],
    host: Host = "",
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Bring a policy to the robot, try it there beside the one that runs, and go over to it between two grasps.

    Its next grasps are a trial: where too few succeed, the policy before comes back by itself. What is refused changes nothing.
    """
    if host:
        from firmware_tools import policy_push

        done = policy_push.push(host, path, force, _say)
    else:
        done = _on("", ["push", str(path), *["--force"] * force])
    _finish(done, as_json)


def show(host: Host = "", as_json: AsJson = False) -> None:
    """List the policies that are kept: which one is active, which one rollback goes to, how its trial stands."""
    found = _on(host, ["list"])
    if as_json:
        return typer.echo(json.dumps(found))
    for one in found:
        signed = f"signed {one['signed_at']}" if one["signed_at"] else "not signed"
        runs = ", runs" if one["runs"] else ""
        typer.echo(
            f"{one['name']:<13} {one['is']:<9} {'of the version' if one['name'] == 'bundled' else signed}{runs}{_trial(one['trial'])}"
        )
    return None


def activate(
    name: Annotated[str, typer.Argument(help="Its name in dofbot policy list, or the beginning of it; bundled: the version's own.")],
    host: Host = "",
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Go over to a policy that is kept on the robot, on trial as after a push."""
    _finish(_on(host, ["activate", name, *["--force"] * force]), as_json)


def rollback(host: Host = "", as_json: AsJson = False) -> None:
    """Go back to the policy before."""
    _finish(_on(host, ["rollback"]), as_json)


def keygen(key: Key = KEY, as_json: AsJson = False) -> None:
    """Make a key to sign policies with, and say what a robot needs to know of it."""
    from edge.policies import signature

    made = signature.make_key(key.expanduser())
    line = f'trusted_keys = ["{made.public}"]'
    if as_json:
        return typer.echo(json.dumps({"path": str(made.path), "public": made.public}))
    return typer.echo(f"{made.path}: keep it to yourself. In the robot's /etc/dofbot-grasp/config.toml, under [policy]:\n{line}")


def sign(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="What dofbot export wrote.")], key: Key = KEY, as_json: AsJson = False
) -> None:
    """Sign a policy: FILE.sig, which push takes along."""
    from edge.errors import ConfigError, LatePolicyError
    from edge.files import write_atomically
    from edge.policies import signature
    from edge.policy import digest, load, read

    with suppress(LatePolicyError):  # how fast it is, is for the robot to tell
        load(path)  # nobody should vouch for what does not even load
    target = path.with_name(path.name + signature.SUFFIX)
    sha256 = digest(read(path))
    try:
        write_atomically(target, signature.sign(sha256, key.expanduser(), datetime.datetime.now(datetime.UTC)))
    except OSError as error:
        raise ConfigError(f"{target} cannot be written ({error.strerror}); copy the policy to a folder of yours") from None
    typer.echo(json.dumps({"path": str(target), "policy_sha256": sha256}) if as_json else f"{target}: policy {sha256[:12]}")


def _on(host: str, verb: list[str]) -> Any:
    """One of the robot's verbs, there or here."""
    if host:
        from firmware_tools import policy_push

        return policy_push.ask(host, verb, _say)
    from edge.errors import InstallError
    from firmware_tools import policy_install

    try:
        return policy_install.perform(verb, _say)
    except OSError as error:
        hint = f"as root: sudo dofbot policy {verb[0]}" if isinstance(error, PermissionError) else "what ran before goes on"
        raise InstallError(f"{error.filename or 'a file'}: {error.strerror or error}; {hint}") from None


def _trial(trial: dict[str, Any] | None) -> str:
    if trial is None:
        return ""
    so_far = f"{trial['picked']} of {trial['grasps']} picked"
    return {"": f", on trial: {so_far}", "proven": f", proven: {so_far}", "failed": f", given up: {so_far}"}[trial["verdict"]]


def _say(text: str) -> None:
    typer.echo(text, err=True)


def _finish(done: dict[str, Any], as_json: bool) -> None:
    if as_json:
        return typer.echo(json.dumps(done))
    how = "decides" if done["running"] else "decides from the next start on"
    before = f", {done['before']} before" if done["before"] != done["policy"] else ", as before"
    return typer.echo(f"policy {done['policy']} {how}{before}")
