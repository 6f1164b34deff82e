"""A policy update: what must not run is refused in one sentence and the old one runs on; killed at any moment, old or new runs whole."""

import datetime
import json
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from msgspec.structs import replace
from typer.testing import CliRunner

from edge import policy
from edge.errors import DofbotError, InstallError, PolicyError, RefusedError
from edge.policies import shadow, signature
from edge.policies.policy_slots import BUNDLED, KEPT
from firmware_tools import policy_cli, policy_install, policy_push
from firmware_tools.provision import CONFIG
from tests.firmware_tools.policy_robot import BUNDLED_DATA, NOW, PolicyRobot, Process, ready_robot, variant

HOST = "pi@dofbot"
LATER = NOW + datetime.timedelta(days=1)
NEW, NEWER = variant(1), variant(2)


def name(data: bytes) -> str:
    return policy.digest(data)[:12]


@pytest.fixture
def robot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PolicyRobot:
    robot = PolicyRobot(tmp_path)
    monkeypatch.setattr(shadow, "RUNS", 20)
    monkeypatch.setattr(policy, "LATENCY_PROBES", 100)  # this machine may be busy
    monkeypatch.setenv("PATH", robot.path)
    return robot


@pytest.fixture
def process(robot: PolicyRobot) -> Iterator[Process]:
    with Process(robot).serving() as process:
        yield process


def here(robot: PolicyRobot, *arguments: object) -> Any:
    """A verb of the robot's part, in this process."""
    return policy_install.perform([*map(str, arguments)], lambda _: None, robot.root)


def assert_runs(robot: PolicyRobot, process: Process, data: bytes, link: str | None = None) -> None:
    assert process.sha256 == policy.digest(data)
    assert robot.slots.active == (name(data) if link is None else link)
    assert robot.slots.path(robot.slots.active).read_bytes() == data


def test_a_pushed_policy_runs_is_on_trial_and_goes_back_again(robot: PolicyRobot, process: Process) -> None:
    done = here(robot, "push", robot.file(NEW))
    assert (done["policy"], done["before"], done["running"]) == (name(NEW), BUNDLED, True)
    assert done["shadow"]["runs"] == shadow.RUNS
    assert 0.0 < done["shadow"]["p99_s"] <= 0.010
    assert_runs(robot, process, NEW)
    trial = robot.slots.running_trial()
    assert trial is not None
    assert (trial.to, trial.before, trial.grasps) == (name(NEW), BUNDLED, 0)
    here(robot, "push", robot.file(NEWER, LATER))
    assert_runs(robot, process, NEWER)
    for expected in (NEW, NEWER):
        assert here(robot, "rollback")["policy"] == name(expected)
        assert_runs(robot, process, expected)
    assert here(robot, "activate", BUNDLED)["policy"] == BUNDLED
    assert_runs(robot, process, BUNDLED_DATA, BUNDLED)
    with pytest.raises(PolicyError, match="'f' fits . of the policies|'' fits 0"):
        here(robot, "activate", "")
    found = {one["name"]: (one["is"], one["runs"], bool(one["signed_at"])) for one in here(robot, "list")}
    assert found == {BUNDLED: ("active", True, False), name(NEW): ("", False, True), name(NEWER): ("previous", False, True)}


def test_who_may_not_look_is_not_told_that_there_is_nothing(robot: PolicyRobot, monkeypatch: pytest.MonkeyPatch) -> None:
    """The service's folder is closed to others: no link that can be read is not no link."""
    here(robot, "push", robot.file(NEW))
    monkeypatch.setattr(os, "access", lambda path, mode: not str(path).startswith(str(robot.root)))  # root may always
    with pytest.raises(InstallError, match="is closed to this user, expected root, or a member of its group; .*sudo dofbot policy"):
        here(robot, "list")


def test_twice_is_once(robot: PolicyRobot, process: Process) -> None:
    for _ in range(2):
        here(robot, "push", robot.file(NEW))
    assert robot.slots.linked("previous") == BUNDLED
    assert robot.slots.names() == [name(NEW)]


def test_without_a_process_it_starts_with_the_new_one(robot: PolicyRobot) -> None:
    assert here(robot, "push", robot.file(NEW))["running"] is False
    assert robot.slots.active == name(NEW)
    assert here(robot, "rollback")["running"] is False
    assert robot.slots.active == BUNDLED
    here(robot, "rollback")
    (robot.root / "policies" / "previous").symlink_to("active")
    robot.slots.point("previous", robot.slots.active)
    with pytest.raises(PolicyError, match="there is no policy before"):
        here(robot, "rollback")


def altered(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def for_another_robot(data: bytes) -> bytes:
    return policy.stamp(data.replace(b'"name":"dofbot"', b'"name":"botdof"'))


def refused_file(robot: PolicyRobot, what: str) -> Path:
    match what:
        case "unsigned":
            return robot.file(NEW, None)
        case "another key":
            return robot.file(NEW, key=signature.make_key(robot.home / "other").path)
        case "another policy's signature":
            path, other = robot.file(NEW), robot.file(NEWER)
            other.with_name(other.name + ".sig").replace(path.with_name(path.name + ".sig"))
            return path
        case "signature cut short":
            path = robot.file(NEW)
            os.truncate(path.with_name(path.name + ".sig"), 100)
            return path
        case "damaged":
            return robot.file(altered(NEW))
        case "altered after signing":
            path = robot.file(NEW)
            path.write_bytes(altered(NEW))
            return path
        case "cut short":
            path = robot.file(NEW)
            os.truncate(path, len(NEW) // 2)
            return path
        case "another robot":
            return robot.file(for_another_robot(NEW))
        case "no file":
            return robot.home / "absent.onnx"
        case _:
            return robot.file(NEW, NOW - datetime.timedelta(seconds=1))


REFUSED = {
    "unsigned": r"has no signature, expected one: dofbot policy sign, or policy\.allow_unsigned = true",
    "another key": r"signed with the key .*expected one of the 1 in policy\.trusted_keys",
    "another policy's signature": "the signature is for .*expected this policy",
    "signature cut short": "the signature does not verify",
    "damaged": "damaged: dofbot_sha256 is",
    "altered after signing": "the signature is for .*expected this policy",
    "cut short": "cut short|the signature is for",
    "another robot": "robot.name is 'botdof', expected 'dofbot'; use a policy trained for this robot",
    "no file": "not readable",
    "older": r"was signed at 2025-12-31 23:59:59 UTC, before the active .*expected a newer one; --force",
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_must_not_run_is_refused_and_nothing_changes(robot: PolicyRobot, process: Process, what: str) -> None:
    before = variant(0)
    here(robot, "push", robot.file(before))
    with pytest.raises(PolicyError, match=REFUSED[what]) as error:
        here(robot, "push", refused_file(robot, what))
    assert "\n" not in str(error.value)
    assert_runs(robot, process, before)
    assert robot.slots.names() == [name(before)]
    assert {path.name for path in robot.slots.path("x").parent.glob(".*")} == {".lock"}


def test_an_older_one_by_force_and_an_unsigned_one_where_the_configuration_says_so(robot: PolicyRobot, tmp_path: Path) -> None:
    here(robot, "push", robot.file(NEW, LATER))
    here(robot, "push", robot.file(NEWER, NOW), "--force")
    assert robot.slots.active == name(NEWER)
    free = PolicyRobot(tmp_path / "free", allow_unsigned=True)
    here(free, "push", free.file(NEW, None))
    assert free.slots.active == name(NEW)


def test_a_key_that_was_withdrawn_brings_nothing_back(robot: PolicyRobot, process: Process) -> None:
    here(robot, "push", robot.file(NEW))
    here(robot, "push", robot.file(NEWER, LATER))
    config = robot.root / CONFIG
    key = signature.make_key(robot.home / "other").public
    config.write_text(config.read_text().replace(robot.key.public, key))
    for verb in (("activate", name(NEW), "--force"), ("rollback",)):
        with pytest.raises(PolicyError, match=r"expected one of the 1 in policy\.trusted_keys"):
            here(robot, *verb)
        assert_runs(robot, process, NEWER)


def test_a_slot_that_was_damaged_on_the_robot_is_not_activated(robot: PolicyRobot, process: Process) -> None:
    here(robot, "push", robot.file(NEW))
    here(robot, "push", robot.file(NEWER, LATER))
    robot.slots.path(name(NEW)).write_bytes(altered(NEW))
    for verb in (("activate", name(NEW), "--force"), ("rollback",)):
        with pytest.raises(DofbotError, match="damaged|signature is for"):
            here(robot, *verb)
        assert_runs(robot, process, NEWER)


def test_a_process_that_refuses_keeps_its_policy_and_the_link(robot: PolicyRobot, process: Process) -> None:
    process.refuses = "the arm has been HOLD for 20 s, expected it to end a grasp"
    with pytest.raises(RefusedError, match="has been HOLD for 20 s.*the policy that runs goes on"):
        here(robot, "push", robot.file(NEW))
    assert_runs(robot, process, BUNDLED_DATA, BUNDLED)
    process.refuses = ""
    here(robot, "activate", name(NEW)[:4])
    assert_runs(robot, process, NEW)


def test_a_trial_goes_on_where_the_next_policy_was_refused(robot: PolicyRobot, process: Process) -> None:
    here(robot, "push", robot.file(NEW))
    trial = robot.slots.running_trial()
    assert trial is not None
    robot.slots.note(replace(trial, grasps=5, picked=1))
    process.refuses = "the arm has been HOLD for 20 s, expected it to end a grasp"
    with pytest.raises(RefusedError):
        here(robot, "push", robot.file(NEWER, LATER))
    assert robot.slots.running_trial() == replace(trial, grasps=5, picked=1)


@pytest.mark.parametrize("fails_at", range(1, 12))
def test_a_full_disk_at_any_write_leaves_old_or_new_whole(
    robot: PolicyRobot, process: Process, monkeypatch: pytest.MonkeyPatch, fails_at: int
) -> None:
    calls: list[int] = []
    sync = os.fsync

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == fails_at:
            raise OSError(28, "No space left on device")
        sync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        try:
            here(robot, "push", robot.file(NEW))
        except OSError as error:
            found = error.errno
        else:
            found = 28  # that late, nothing is written any more
    assert found == 28
    assert process.sha256 in (policy.digest(BUNDLED_DATA), policy.digest(NEW))
    assert robot.slots.active in (BUNDLED, name(NEW))
    here(robot, "push", robot.file(NEW))
    assert_runs(robot, process, NEW)


def test_killed_at_20_random_moments_it_is_always_the_old_or_the_new_one(robot: PolicyRobot, process: Process) -> None:
    drawn, files = random.Random(0), [robot.file(NEW), robot.file(NEWER)]
    here(robot, "push", files[0])
    killed, both = 0, {policy.digest(NEW), policy.digest(NEWER)}
    with ready_robot(robot) as start:
        pushed = start("push", files[1])
        usual_s = pushed.lasts_s()
        for index in range(20):
            pushed = start("push", files[index % 2])
            time.sleep(drawn.uniform(0.0, usual_s))
            os.kill(pushed.pid, signal.SIGKILL)
            if pushed.is_killed():
                killed += 1
            else:
                usual_s *= 0.8  # it was measured while the machine was busy
            assert process.sha256 in both
            assert robot.slots.path(robot.slots.active).read_bytes() in (NEW, NEWER)
    assert killed >= 5  # else it shows nothing
    here(robot, "push", files[0], "--force")
    assert_runs(robot, process, NEW)
    assert {path.name for path in robot.slots.path("x").parent.glob(".*")} == {".lock"}


def test_where_a_killed_call_left_process_and_link_apart_the_next_one_brings_them_together(robot: PolicyRobot, process: Process) -> None:
    here(robot, "push", robot.file(NEW))
    robot.slots.point("active", BUNDLED)
    assert [one["name"] for one in here(robot, "list") if one["runs"]] == [name(NEW)]
    here(robot, "activate", BUNDLED)
    assert_runs(robot, process, BUNDLED_DATA, BUNDLED)
    robot.slots.point("active", name(NEW))
    process.refuses = "the arm is about to end"
    with pytest.raises(PolicyError, match="there is no policy before bundled"):  # the link has come back first
        here(robot, "rollback")
    assert_runs(robot, process, BUNDLED_DATA, BUNDLED)


def test_only_the_newest_and_the_linked_ones_are_kept(robot: PolicyRobot) -> None:
    names = []
    for number in range(KEPT + 2):
        names.append(robot.slots.keep(variant(number), b"signed"))
        os.utime(robot.slots.path(names[-1]), (number, number))
    robot.slots.point("active", names[0])
    robot.slots.tidy()
    assert set(robot.slots.names()) == {names[0], *names[2:]}
    assert not robot.slots.signature_path(names[1]).exists()


# From the workstation


def test_push_list_and_rollback_over_ssh(robot: PolicyRobot, process: Process) -> None:
    app = typer.Typer()
    policy_cli.register(app)
    run = CliRunner()
    said: list[str] = []
    assert policy_push.push(HOST, robot.file(NEW), False, said.append)["policy"] == name(NEW)
    assert any("golden vectors to" in line for line in said)
    assert_runs(robot, process, NEW)
    shown = run.invoke(app, ["policy", "list", "--host", HOST])
    assert f"{name(NEW)}  active    signed 2026-01-01T00:00:00+00:00, runs, on trial: 0 of 0 picked" in shown.stdout
    back = run.invoke(app, ["policy", "rollback", "--host", HOST, "--json"])
    assert json.loads(back.stdout)["policy"] == BUNDLED
    assert_runs(robot, process, BUNDLED_DATA, BUNDLED)


def test_what_the_robot_refuses_is_one_sentence_here(robot: PolicyRobot, process: Process) -> None:
    with pytest.raises(InstallError, match=f"^{HOST}: the policy has no signature, expected one"):
        policy_push.push(HOST, robot.file(NEW, None), False, lambda _: None)
    (robot.fake / "no_ssh").touch()
    with pytest.raises(InstallError, match="cannot be reached"):
        policy_push.push(HOST, robot.file(NEW), False, lambda _: None)
    assert_runs(robot, process, BUNDLED_DATA, BUNDLED)


def test_keys_and_signatures_are_made_by_one_command_each(robot: PolicyRobot, tmp_path: Path) -> None:
    app = typer.Typer()
    policy_cli.register(app)
    run = CliRunner()
    key, path = tmp_path / "my.key", robot.file(NEW, None)
    made = run.invoke(app, ["policy", "keygen", "--key", str(key), "--json"])
    signed = run.invoke(app, ["policy", "sign", str(path), "--key", str(key)])
    assert signed.exit_code == 0, signed.output
    document = path.with_name(path.name + ".sig").read_bytes()
    assert signature.verify(document, policy.digest(NEW), (json.loads(made.stdout)["public"],)).policy_sha256 == policy.digest(NEW)
    path.write_bytes(altered(NEW))
    assert isinstance(run.invoke(app, ["policy", "sign", str(path), "--key", str(key)]).exception, PolicyError)
