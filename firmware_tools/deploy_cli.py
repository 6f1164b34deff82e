"""The verbs that bring a version to a robot: bundle, deploy, provision, releases, rollback, health."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import typer

from edge.errors import InstallError

CONFIG = Path("/etc/dofbot-grasp/config.toml")
EXIT_UNHEALTHY = 1

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout, progress on stderr.")]
Host = Annotated[str, typer.Argument(metavar="[HOST]", help="The robot as ssh knows it, pi@dofbot.local; without it, this machine.")]


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    for verb in (bundle, deploy, provision, releases, rollback, health):
        app.command()(verb)


def bundle(
    arch: Annotated[Literal["aarch64", "x86_64"], typer.Option(help="The robot's machine, as `uname -m` says.")] = "aarch64",
    policy: Annotated[Path | None, typer.Option(help="The policy to pack; without it, the one of this repository.")] = None,
    python: Annotated[str, typer.Option(help="The robot's Python; the camera's library has wheels for 3.12 alone.")] = "3.12",
    out: Annotated[Path, typer.Option(help="Folder for the bundle.")] = Path("dist"),
    as_json: AsJson = False,
) -> None:
    """Pack everything that a robot needs into one file, for a robot without a network.

    The wheel, every wheel it depends on by requirements/pi.lock, the policy, units, device rules, installer; each with its hash.
    """
    from firmware_tools import bundle as bundling

    path = bundling.build(out, arch, policy or bundling.POLICY, _say, python)
    _finish({"path": str(path), "bytes": path.stat().st_size}, f"{path}: {path.stat().st_size / 1e6:.1f} MB", as_json)


def deploy(
    host: Annotated[str, typer.Argument(help="The robot as ssh knows it: pi@dofbot.local.")],
    path: Annotated[Path, typer.Argument(metavar="BUNDLE", help="What dofbot bundle wrote.")],
    force: Annotated[bool, typer.Option("--force", help="Install an older version, too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Install a bundle on a robot beside its old version, switch over, and go back by itself if it does not prove healthy.

    An arm in motion is parked first. Exit codes: 0 the new version runs; 1 nothing was switched; 8 it did not come up, the old one is back.
    """
    from firmware_tools import deploy as deploying

    done = deploying.deploy(host, path, force, _say)
    is_so = "runs" if done["health"] else "is installed"
    _finish(done, f"{done['version']} {is_so} on {host}, after {done['deployed_s']:.0f} s" + _advice(done), as_json)


def provision(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    root: Annotated[Path, typer.Option(help="Work below this folder.")] = Path("/"),
    as_json: AsJson = False,
) -> None:
    """On the robot: user, groups, I2C, device rules, unit, configuration. What is there already is left alone.

    make deploy does this, too. The service starts disarmed.
    """
    from firmware_tools import install
    from firmware_tools.versions import Versions

    if not (Path(sys.prefix) / "manifest.json").exists():
        raise InstallError(f"{sys.prefix} is no version from a bundle, expected to run on a robot; there: make deploy HOST=pi@…")
    steps = install.prepare(Versions(root), Path(sys.prefix), _say, dry_run)
    _finish(steps, "", as_json)


def releases(host: Host = "", as_json: AsJson = False) -> None:
    """List the installed versions: which one runs, which one rollback goes to, and how each was when last looked at."""
    from firmware_tools.versions import Versions

    found: Any
    if host:
        from firmware_tools import deploy as deploying

        found = deploying.releases(host)
    else:
        found = Versions(Path("/")).describe()
    if as_json:
        return typer.echo(json.dumps(found))
    for one in found:
        seen = one["health"]
        how = f"healthy after {seen['after_s']} s" if seen.get("healthy") else f"not healthy: {seen['reason']}" if seen else "not looked at"
        typer.echo(f"{one['name']:<20} {one['is']:<9} installed {one.get('installed_at', '?')}, {how}")
    if not found:
        typer.echo("no version is installed; make deploy HOST=pi@…", err=True)
    return None


def rollback(host: Host = "", as_json: AsJson = False) -> None:
    """Go back to the version before, and see that it is healthy; if not, stay."""
    if host:
        from firmware_tools import deploy as deploying

        done = deploying.rollback(host, _say)
    else:
        from firmware_tools import install
        from firmware_tools.versions import Versions

        try:
            done = install.rollback(Versions(Path("/")), _say)
        except OSError as error:
            hint = "as root: sudo dofbot rollback" if isinstance(error, PermissionError) else "what ran before goes on"
            raise InstallError(f"{error.filename or 'a file'}: {error.strerror or error}; {hint}") from None
    _finish(done, f"{done['version']} runs{f' on {host}' if host else ''}", as_json)


def health(
    config: Annotated[Path, typer.Option(help="The service's configuration.")] = CONFIG,
    socket: Annotated[Path | None, typer.Option(envvar="DOFBOT_SOCKET", help="Its socket; else where it usually is.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say whether the service does its work: active, answering, in time, camera, servo bus, golden vectors. Exit code 1: it does not.

    Takes two seconds; nothing moves.
    """
    from firmware_tools.health import examine

    found = examine(config, socket)
    if as_json:
        typer.echo(msgspec.json.encode(found).decode())
    else:
        for check in found.checks:
            mark = typer.style("ok  ", fg="green") if check.ok else typer.style("BAD ", fg="red")
            typer.echo(f"{mark}{check.name:<15}{check.found}" + ("" if check.ok else f", expected {check.expected}"))
    if not found.healthy:
        raise typer.Exit(EXIT_UNHEALTHY)


def _say(text: str) -> None:
    typer.echo(text, err=True)


def _advice(done: dict[str, Any]) -> str:
    return "; reboot it once, for the I2C bus: sudo reboot, there" if done.get("needs_reboot") else ""


def _finish(result: object, text: str, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(result))
    elif text:
        typer.echo(text)
