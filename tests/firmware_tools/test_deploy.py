"""From the workstation: what cannot work is said before anything changes, and what fails midway leaves the old version running."""

import errno
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from edge.errors import InstallError, RolledBackError
from firmware_tools import deploy, deploy_cli, policy_cli
from tests.firmware_tools.robot import ROOT, Robot, name_of

HOST = "pi@dofbot"


@pytest.fixture
def robot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Robot:
    robot = Robot(tmp_path)
    monkeypatch.setenv("PATH", robot.path)
    return robot


@pytest.fixture
def old(robot: Robot) -> str:
    path = robot.bundle("0.1.0")
    assert robot.install(path)[0] == 0
    return name_of(path)


def send(path: Path, force: bool = False) -> dict[str, object]:
    return deploy.deploy(HOST, path, force, lambda _: None)


def test_a_bundle_goes_to_an_empty_robot_then_a_newer_one_then_back(robot: Robot) -> None:
    first, second = robot.bundle("0.1.0"), robot.bundle("0.2.0")
    assert send(first)["version"] == name_of(first) == robot.running
    answer = send(second)
    assert (answer["version"], answer["before"], answer["host"]) == (name_of(second), name_of(first), HOST)
    assert [one["is"] for one in deploy.releases(HOST)] == ["previous", "current"]
    assert deploy.rollback(HOST, lambda _: None)["version"] == name_of(first) == robot.running
    app = typer.Typer()
    deploy_cli.register(app)
    shown = CliRunner().invoke(app, ["releases", HOST])
    assert f"{name_of(first):<20} current" in shown.stdout
    assert shown.exit_code == 0


def test_one_that_does_not_come_up_is_an_error_of_its_own_and_the_old_one_runs(robot: Robot, old: str) -> None:
    with pytest.raises(RolledBackError, match=f"camera: no frame yet.*{old} runs again") as error:
        send(robot.bundle("0.2.0", "broken"))
    assert error.value.exit_code == 8
    assert robot.running == robot.current == old


def test_a_copy_that_is_cut_goes_on_by_itself(robot: Robot, old: str) -> None:
    (robot.fake / "cut").touch()
    said: list[str] = []
    path = robot.bundle("0.2.0")
    deploy.deploy(HOST, path, False, said.append)
    assert f"copying to {HOST}, attempt 2 of 3" in said
    assert robot.running == name_of(path)


def test_bytes_that_change_on_the_way_are_found_on_arrival(robot: Robot, old: str) -> None:
    (robot.fake / "flip").touch()
    with pytest.raises(InstallError, match=r"policy.onnx has SHA-256 .* expected .*altered or cut short; copy it again"):
        send(robot.bundle("0.2.0"))
    assert robot.running == robot.current == old


def test_ssh_that_breaks_while_the_robot_installs_stops_nothing_there(robot: Robot, old: str) -> None:
    path = robot.bundle("0.2.0")
    robot.unpack(path)
    (robot.fake / "breaks").touch()
    with pytest.raises(InstallError, match="pi@dofbot"):
        send(path)
    assert robot.running == robot.current  # whatever came of it
    with pytest.raises(InstallError, match=f"the connection to {HOST} broke .*ends what it began by itself.*dofbot releases {HOST}"):
        deploy.rollback(HOST, lambda _: None)


@pytest.mark.parametrize("stream", ["", " >&2"])
def test_a_robot_that_greets_in_another_code_page_is_understood(robot: Robot, old: str, stream: str) -> None:
    ssh = robot.fake / "bin" / "ssh"
    ssh.write_text(ssh.read_text().replace("\n", f"\nprintf 'Gr\\374\\337e\\n'{stream}\n", 1))
    assert [one["name"] for one in deploy.releases(HOST)] == [old]
    assert send(robot.bundle("0.1.0"))["version"] == old


@pytest.mark.parametrize(
    ("break_it", "expected"),
    [
        (lambda robot: (robot.fake / "no_ssh").touch(), "cannot be reached or written to .*No route to host.*try: ssh pi@dofbot"),
        (lambda robot: (robot.fake / "no_rsync").touch(), "pi@dofbot has no rsync; there: sudo apt install rsync"),
        (
            lambda robot: (robot.fake / "bin" / "python3").write_text("#!/bin/sh\necho 3.9\n"),
            r"has Python 3\.9, expected python3 of 3\.11 or newer",
        ),
    ],
)
def test_a_robot_that_cannot_take_it_is_said_before_anything_changes(robot: Robot, old: str, break_it, expected: str) -> None:
    path = robot.bundle("0.2.0")
    break_it(robot)
    with pytest.raises(InstallError, match=expected):
        send(path)
    assert robot.running == robot.current == old


def test_a_bundle_for_another_machine_is_not_even_copied(robot: Robot, old: str) -> None:
    with pytest.raises(InstallError, match="the bundle is for riscv64, but pi@dofbot is .*; make bundle ARCH="):
        send(robot.bundle("0.2.0", arch="riscv64"))
    assert list((robot.home / deploy.INCOMING).iterdir()) == []


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"not a bundle", None])
def test_a_damaged_bundle_is_refused_here(robot: Robot, damage) -> None:
    path = robot.bundle("0.1.0")
    if damage:
        path.write_bytes(damage(path.read_bytes()))
    else:
        path.unlink()
    with pytest.raises(InstallError, match=r"cannot be unpacked|is not there, expected a bundle|holds 0 folders"):
        send(path)


@pytest.mark.parametrize("host", ["-oProxyCommand=id", "", "pi@robot; reboot", "pi@robot:/tmp"])
def test_a_host_that_ssh_would_take_for_something_else_is_refused(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("started"))
    with pytest.raises(InstallError, match="is no host"):
        deploy.deploy(host, Path("bundle"), False, lambda _: None)


@pytest.mark.parametrize("host", ["pi@robot; touch was-run", "pi@robot'; touch was-run; '", "pi@$(touch was-run)", "my robot"])
def test_make_gives_the_host_to_dofbot_as_it_is(host: str, tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    (venv / "bin").mkdir(parents=True)
    dofbot = venv / "bin" / "dofbot"
    dofbot.write_text(f"#!/bin/sh\n[ $1 != --version ] || echo dofbot 0.1.0\n[ $1 != deploy ] || printf '%s' \"$2\" > {tmp_path}/host\n")
    dofbot.chmod(0o755)
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in ("pyproject.toml", "requirements/constraints.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    for name in (".made", ".dev"):
        (venv / name).touch()
    command = ["make", "deploy", f"VENV={venv}", f"HOST={host.replace('$', '$$')}"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert not (tmp_path / "was-run").exists()
    assert ((tmp_path / "host").read_text(), result.returncode) == (host, 0), result.stderr


@pytest.mark.parametrize("number", [errno.EACCES, errno.ENOSPC])
def test_only_who_is_not_root_is_told_to_be_root(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise OSError(number, os.strerror(number), "/opt/dofbot-grasp/switch.json")

    monkeypatch.setattr("firmware_tools.install.rollback", fails)
    monkeypatch.setattr("firmware_tools.policy_install.perform", fails)
    app = typer.Typer()
    deploy_cli.register(app)
    policy_cli.register(app)
    for verb in (["rollback"], ["policy", "rollback"]):
        said = str(CliRunner().invoke(app, verb).exception)
        assert os.strerror(number) in said
        assert ("sudo dofbot" in said) == (number == errno.EACCES)


def test_json_is_all_that_stdout_has(robot: Robot) -> None:
    app = typer.Typer()
    deploy_cli.register(app)
    path = robot.bundle("0.1.0")
    result = CliRunner().invoke(app, ["deploy", HOST, str(path), "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["version"] == name_of(path)
