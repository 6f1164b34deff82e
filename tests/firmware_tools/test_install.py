"""The robot's part of an update: beside the old version, one switch, back by itself; killed at any moment, old or new is whole."""

import json
import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest

from firmware_tools import install, systemd
from firmware_tools.versions import Versions
from tests.firmware_tools.robot import KILLED, MOMENTS, Robot, name_of

BACK_WITHIN_S = 30.0


@pytest.fixture
def robot(tmp_path: Path) -> Robot:
    return Robot(tmp_path)


@pytest.fixture
def old(robot: Robot) -> str:
    """A healthy 0.1.0 that runs."""
    path = robot.bundle("0.1.0")
    code, _, errors = robot.install(path)
    assert code == 0, errors
    return name_of(path)


def test_the_first_version_runs_and_the_second_runs_beside_it(robot: Robot, old: str) -> None:
    assert (robot.current, robot.running) == (old, old)
    new = robot.bundle("0.2.0")
    code, out, errors = robot.install(new)
    assert code == 0, errors
    answer = json.loads(out)
    assert (answer["version"], answer["before"]) == (name_of(new), old)
    assert (robot.current, robot.running, robot.versions.linked("previous")) == (name_of(new), name_of(new), old)
    assert robot.versions.pending() is None
    code, out, _ = robot.run(next(robot.home.glob("*/install.py")), "releases")
    assert [(one["name"], one["is"], one["health"]["healthy"]) for one in json.loads(out)] == [
        (old, "previous", True),
        (name_of(new), "current", True),
    ]


def test_whoever_logs_in_keeps_nothing_from_the_user_of_the_service(robot: Robot) -> None:
    """sudo adds the umask of its caller to its own: a hardened one, 077, would leave a version that only root can run."""
    before = os.umask(0o077)
    try:
        code, _, errors = robot.install(robot.bundle("0.1.0"))
    finally:
        os.umask(before)
    assert code == 0, errors
    version = robot.versions.path(robot.current)
    for path in (robot.versions.folder, robot.versions.releases, *version.parents, version, *version.rglob("*")):
        if path.is_relative_to(robot.versions.folder) and not path.is_relative_to(version / "system"):  # that is for systemd, as root
            wanted = 0o005 if path.is_dir() else 0o004
            assert path.stat().st_mode & wanted == wanted, path


def test_health_is_for_everybody_to_read_whoever_went_back(tmp_path: Path) -> None:
    versions = Versions(tmp_path)
    versions.path("0.1.0-a").mkdir(parents=True)
    before = os.umask(0o077)  # sudo dofbot rollback, by somebody who keeps things to himself
    try:
        versions.note_health("0.1.0-a", {"healthy": True})
    finally:
        os.umask(before)
    assert (versions.path("0.1.0-a") / "health.json").stat().st_mode & 0o777 == 0o644


def test_twice_is_once(robot: Robot, old: str) -> None:
    installed = robot.versions.path(old) / "installed.json"
    before = installed.stat().st_mtime_ns
    code, _, errors = robot.install(robot.bundle("0.1.0"))
    assert (code, robot.current, robot.versions.names()) == (0, old, [old]), errors
    assert installed.stat().st_mtime_ns == before
    assert "did" not in errors


def test_a_version_that_does_not_come_up_is_rolled_back_within_30_s(robot: Robot, old: str) -> None:
    path = robot.bundle("0.2.0", "broken")
    began_s = time.monotonic()
    code, _, errors = robot.install(path)
    assert time.monotonic() - began_s < BACK_WITHIN_S
    assert code == 8, errors
    last = errors.strip().splitlines()[-1]
    assert "camera: no frame yet" in last
    assert "its last words: the camera does not answer" in last
    assert f"{old} runs again" in last
    assert (robot.current, robot.running) == (old, old)
    robot.assert_whole({old})


def test_where_the_old_version_does_not_come_up_either_nobody_is_told_that_it_runs(robot: Robot, old: str) -> None:
    """As where a camera was unplugged meanwhile."""
    robot.versions.path(old).joinpath("policy.onnx").write_text("broken")
    code, _, errors = robot.install(robot.bundle("0.2.0", "broken"))
    assert code == 8, errors
    last = errors.strip().splitlines()[-1]
    assert "runs again" not in last
    assert f"{old} is back, and not healthy either: camera: no frame yet" in last
    assert (robot.current, robot.running) == (old, old)


def test_versions_that_did_not_come_up_do_not_fill_the_disk(robot: Robot, old: str) -> None:
    for version in ("0.2.0", "0.3.0", "0.4.0"):
        path = robot.bundle(version, "broken")
        assert robot.install(path)[0] == 8
    assert set(robot.versions.names()) == {old, name_of(path)}
    robot.assert_whole({old})


def test_where_the_old_version_is_gone_the_link_stays_on_the_new_one(robot: Robot, old: str) -> None:
    """Somebody has made room on the disk: a link to nothing would be a dead robot."""
    new = robot.bundle("0.2.0")
    folder = robot.unpack(new)
    (robot.fake / "kill_at").write_text("health")
    robot.run(folder / "install.py", "install")
    shutil.rmtree(robot.versions.path(old))
    code, _, errors = robot.recover()
    assert code == 0, errors
    assert f"{old} is gone" in errors
    assert robot.current == robot.running == name_of(new)
    assert robot.versions.pending() is None


def test_one_that_runs_and_never_proves_healthy_is_given_up_in_time(robot: Robot, old: str, monkeypatch: pytest.MonkeyPatch) -> None:
    robot.versions.path(old).joinpath("policy.onnx").write_text("mute")
    monkeypatch.setenv("PATH", robot.path)
    began_s = time.monotonic()
    health = systemd.wait_for_health(robot.versions, old, 0.5, began_s)
    assert 0.5 <= time.monotonic() - began_s < 5.0
    assert (health["healthy"], robot.versions.describe()[0]["health"]) == (False, health)


def test_rollback_goes_to_the_version_before_and_back_again(robot: Robot, old: str) -> None:
    new = robot.bundle("0.2.0")
    robot.install(new)
    installer = robot.unpack(new) / "install.py"
    for expected in (old, name_of(new)):
        code, out, errors = robot.run(installer, "rollback")
        assert code == 0, errors
        assert json.loads(out)["version"] == expected == robot.current == robot.running


def test_without_a_version_before_rollback_is_refused(robot: Robot, old: str) -> None:
    code, _, errors = robot.run(next(robot.home.glob("*/install.py")), "rollback")
    assert (code, robot.current) == (1, old)
    assert "there is no version before" in errors


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_at_each_moment_that_matters_the_next_run_finds_old_or_new(robot: Robot, old: str, moment: str) -> None:
    new = robot.bundle("0.2.0")
    folder = robot.unpack(new)
    (robot.fake / "kill_at").write_text(moment)
    code, _, errors = robot.run(folder / "install.py", "install")
    assert code == KILLED, errors
    robot.assert_whole({old, name_of(new)})
    code, _, errors = robot.recover()
    assert code == 0, errors
    assert (robot.current, robot.running) == (old, old)
    assert robot.versions.pending() is None
    assert {path.name for path in robot.versions.releases.iterdir()} == set(robot.versions.names())


def test_ctrl_c_ends_it_without_a_traceback(robot: Robot, old: str) -> None:
    folder = robot.unpack(robot.bundle("0.2.0"))
    (robot.fake / "meanwhile").write_text(f"touch {robot.fake}/is_there; sleep 5")
    process = robot.start(folder / "install.py", "install")
    while not (robot.fake / "is_there").exists():
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert (process.returncode, "Traceback" in errors) == (130, False), errors
    assert robot.current == robot.running == old


def test_killed_at_20_random_moments_it_is_always_the_old_or_the_new_one(robot: Robot, old: str) -> None:
    drawn = random.Random(0)
    folders = {name_of(path): robot.unpack(path) for path in (robot.bundle("0.1.0"), robot.bundle("0.2.0"))}
    began_s = time.monotonic()
    robot.run(folders[next(name for name in folders if name != old)] / "install.py", "install")
    usual_s, killed = time.monotonic() - began_s, 0
    for _ in range(20):
        target = next(name for name in folders if name != robot.current)
        process = robot.start(folders[target] / "install.py", "install", "--force")
        time.sleep(drawn.uniform(0.0, usual_s))
        process.kill()
        process.communicate()
        if process.returncode == KILLED:
            killed += 1
        else:
            usual_s *= 0.8  # it was measured while the machine was busy
        robot.assert_whole(set(folders))
    assert killed >= 5  # else it shows nothing
    code, _, errors = robot.recover()
    assert code == 0, errors
    assert robot.current == robot.running


def test_at_boot_an_unproven_switch_is_undone_without_a_start(robot: Robot, old: str) -> None:
    new = robot.bundle("0.2.0")
    folder = robot.unpack(new)
    (robot.fake / "kill_at").write_text("health")
    robot.run(folder / "install.py", "install")
    assert robot.current == name_of(new)
    code, _, errors = robot.run(folder / "install.py", "recover", "--boot")
    assert (code, robot.current, robot.running) == (0, old, name_of(new)), errors
    assert robot.units == old  # it would start the old program with the new one's options


@pytest.mark.parametrize(
    ("options", "version", "does", "arch", "expected"),
    [
        ((), "0.2.0", "healthy", "riscv64", "the bundle is for riscv64, expected "),
        ((), "0.0.9", "healthy", "", "the bundle has 0.0.9, older than "),
        ((), "0.2.0", "illegal", "", "died of an illegal instruction: a wheel is made for a newer processor"),
    ],
)
def test_what_must_not_run_here_is_refused_and_nothing_changes(
    robot: Robot, old: str, options: tuple[str, ...], version: str, does: str, arch: str, expected: str
) -> None:
    code, out, errors = robot.install(robot.bundle(version, does, **({"arch": arch} if arch else {})), *options)
    assert (code, out) == (1, "")
    assert expected in errors.splitlines()[-1]
    assert "Traceback" not in errors
    assert (robot.current, robot.running, robot.versions.names()) == (old, old, [old])
    assert {path.name for path in robot.versions.releases.iterdir()} == {old}


def test_a_release_is_not_older_than_its_candidate(robot: Robot) -> None:
    for version in ("0.2.0rc1", "0.2.0", "0.10.0.dev3+g12ab"):
        path = robot.bundle(version)
        code, _, errors = robot.install(path)
        assert (code, robot.current) == (0, name_of(path)), errors


def test_an_older_version_is_installed_by_force(robot: Robot, old: str) -> None:
    older = robot.bundle("0.0.9")
    assert robot.install(older, "--force")[0] == 0
    assert robot.current == name_of(older)


@pytest.mark.parametrize(
    ("name", "change", "expected"),
    [
        ("policy.onnx", lambda data: data + b"X", "policy.onnx has SHA-256"),
        ("wheels/dofbot_grasp-0.2.0-py3-none-any.whl", lambda data: data[: len(data) // 2], "altered or cut short; copy it again"),
        ("manifest.json", lambda data: data[:100], "manifest.json is damaged"),
        ("manifest.json", lambda data: data.replace(b'"schema_version": 1', b'"schema_version": 2'), "has schema_version 2, expected 1"),
        ("config.toml", None, "config.toml cannot be read (No such file or directory)"),
        ("extra", lambda data: b"", "extra is not in the manifest"),
    ],
)
def test_a_bundle_that_is_not_as_packed_is_refused_before_any_of_it_runs(robot: Robot, old: str, name: str, change, expected: str) -> None:
    folder = robot.unpack(robot.bundle("0.2.0"))
    path = folder / name
    if change is None:
        path.unlink()
    else:
        path.write_bytes(change(path.read_bytes() if path.exists() else b""))
    code, out, errors = robot.run(folder / "install.py", "install")
    assert (code, out) == (1, "")
    assert expected in errors
    assert len(errors.splitlines()) == 1
    assert robot.current == robot.running == old


def test_a_bundle_into_which_another_one_is_copied_meanwhile_becomes_no_version(robot: Robot, old: str) -> None:
    """Two workstations deploy at a time, into one folder of one user: half of each would run under the name of the first."""
    first, second = robot.unpack(robot.bundle("0.2.0")), robot.unpack(robot.bundle("0.3.0"))
    (robot.fake / "meanwhile").write_text(f"rm -r {first} && cp -r {second} {first}")
    code, out, errors = robot.run(first / "install.py", "install")
    assert (code, out) == (1, "")
    assert "changed while it was being installed, expected one deployment at a time" in errors.splitlines()[-1]
    assert {path.name for path in robot.versions.releases.iterdir()} == {old}
    assert robot.current == robot.running == old


def test_a_full_disk_is_said_and_the_old_version_runs_on(robot: Robot, old: str) -> None:
    code, _, errors = robot.install(robot.bundle("0.2.0", installed_bytes=1 << 60))
    assert code == 1
    assert " MB free, expected 1099511627840 MB; free some space" in errors.splitlines()[-1]
    (robot.fake / "full").touch()
    code, _, errors = robot.install(robot.bundle("0.2.0"))
    assert code == 1
    assert "[Errno 28] No space left on device; free some space; the version that runs goes on" in errors.splitlines()[-1]
    assert {path.name for path in robot.versions.releases.iterdir()} == {old}
    assert robot.current == robot.running == old


@pytest.mark.parametrize("fails_at", range(1, 4))
def test_a_disk_that_is_full_in_the_middle_of_a_switch_leaves_the_old_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails_at: int
) -> None:
    versions = Versions(tmp_path)
    for name in ("0.1.0-a", "0.2.0-b"):
        versions.path(name).mkdir(parents=True)
        versions.complete(name, {})
    versions.point("current", "0.1.0-a")
    calls: list[str] = []

    def count(what: str) -> None:
        calls.append(what)
        if len(calls) == fails_at:
            raise OSError(28, "No space left on device")

    begin, point = versions.begin, versions.point
    monkeypatch.setattr(versions, "begin", lambda to: (count("begin"), begin(to))[1])
    monkeypatch.setattr(versions, "point", lambda link, name: (count("point"), point(link, name))[1])
    monkeypatch.setattr(install, "restart", lambda *_: 0.0)
    monkeypatch.setattr(install, "wait_for_health", lambda *_: {"healthy": True, "reason": ""})
    with pytest.raises(OSError, match="No space"):
        install.switch(versions, "0.2.0-b", lambda _: None)
    assert versions.linked("current") in ("0.1.0-a", "0.2.0-b")
    install.recover(versions, lambda _: None)
    assert versions.linked("current") == "0.1.0-a"
    assert versions.pending() is None


def test_only_one_installer_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("firmware_tools.versions.LOCK_WAIT_S", 0.0)
    with Versions(tmp_path).locked(), pytest.raises(Exception, match="another installation has been running"), Versions(tmp_path).locked():
        pass
