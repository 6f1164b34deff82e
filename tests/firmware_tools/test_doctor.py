"""Every check tells a healthy machine from a broken one, says what mends it, and keeps quiet where it does not apply."""

import json
import os
import time
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

import urdf
from edge import calibration
from edge.calibration import HandEye
from edge.cli import app
from edge.config import BusConfig, Config, MountConfig, PolicyConfig
from edge.errors import LatePolicyError, PolicyError
from edge.policies import signature
from edge.policies.policy_slots import PolicySlots
from firmware_tools import bundle, check_software, cli
from firmware_tools.check_machine import machine_findings
from firmware_tools.check_software import calibration_finding, disk_finding, glibc_finding, package_findings, policy_finding
from firmware_tools.doctor import examine
from firmware_tools.finding import has_failed
from firmware_tools.wheels import NEEDED, OPTIONAL, Tried

ALL_LOAD = tuple(Tried(module) for module in NEEDED + OPTIONAL)
BOARD = Config(bus=BusConfig(driver="dofbot_board"))


def found(machine, name: str, config: Config | None = None):
    return next(finding for finding in machine_findings(machine, config or Config()) if finding.name.startswith(name))


def test_on_a_healthy_pi_all_is_well(pi) -> None:
    assert {finding.verdict for finding in machine_findings(pi, Config())} == {"ok"}


def test_on_a_bare_machine_nothing_fails_for_not_being_a_pi(pc) -> None:
    findings = machine_findings(pc, Config())
    assert {finding.verdict for finding in findings} == {"not applicable"}
    assert all("not applicable here" in finding.found and not finding.remedy for finding in findings)


@pytest.mark.parametrize(
    ("speed_hz", "config", "verdict"),
    [
        (10_000, Config(), "warning"),
        (100_000, Config(), "ok"),
        (400_000, Config(), "ok"),
        (400_000, BOARD, "warning"),
        (100_000, BOARD, "ok"),
    ],
)
def test_the_speed_of_the_bus_is_read_from_the_device_tree(pi, speed_hz, config, verdict) -> None:
    pi.set_i2c_speed(speed_hz)
    finding = found(pi, "I2C speed", config)
    assert (finding.verdict, f"{speed_hz // 1000} kHz" in finding.found) == (verdict, True)


def test_the_time_out_says_that_it_cannot_be_read_and_who_sets_it(pi) -> None:
    assert "driver sets 10 ms" in found(pi, "I2C time-out", BOARD).found
    assert "kernel's is 1 s" in found(pi, "I2C time-out").found


def test_each_missing_group_is_named(pi) -> None:
    pi.groups = frozenset({"video"})
    findings = [finding for finding in machine_findings(pi, Config()) if finding.name.startswith("group")]
    assert [finding.name for finding in findings] == ["group i2c", "group plugdev"]
    assert "usermod -aG i2c" in findings[0].remedy
    pi.put("/proc/self/status", "CapEff:\t000001ffffffffff\n")
    assert found(pi, "groups").verdict == "ok"


def test_rules_that_are_missing_or_old_are_told_apart(pi) -> None:
    rules = pi.at("/etc/udev/rules.d/99-dofbot.rules")
    rules.write_text("# of last year")
    assert "another version" in found(pi, "udev rules").found
    rules.unlink()
    assert "not installed" in found(pi, "udev rules").found
    assert "udevadm" in found(pi, "udev rules").remedy


def test_a_governor_that_saves_power_is_a_warning(pi) -> None:
    pi.put("/sys/devices/system/cpu/cpu1/cpufreq/scaling_governor", "ondemand\n")
    assert (found(pi, "CPU governor").verdict, found(pi, "CPU governor").found) == ("warning", "ondemand, performance")


@pytest.mark.parametrize(("priority", "verdict"), [("0", "warning"), ("49", "warning"), ("50", "ok"), ("unlimited", "ok")])
def test_the_limit_of_the_priority_is_compared_with_the_configuration(pi, priority, verdict) -> None:
    pi.limit(priority, "unlimited")
    assert found(pi, "real-time priority").verdict == verdict


def test_memory_that_may_not_be_locked_is_a_warning(pi) -> None:
    pi.limit("50", "8388608")
    assert (found(pi, "locked memory").verdict, found(pi, "locked memory").found) == ("warning", "at most 8 MiB")


@pytest.mark.parametrize(
    ("answer", "verdict", "says"),
    [
        ("throttled=0x0", "ok", "no undervoltage"),
        ("throttled=0x50000", "warning", "since the start: undervoltage, throttled"),
        ("throttled=0x50005", "failed", "now: undervoltage, throttled"),
        ("throttled=0x80008", "failed", "soft temperature limit"),
        ("", "warning", "neither"),
    ],
)
def test_the_firmware_tells_of_undervoltage(pi, answer, verdict, says) -> None:
    pi.answers["vcgencmd"] = answer
    assert found(pi, "power").verdict == verdict
    assert says in found(pi, "power").found


@pytest.mark.parametrize(("alarm", "verdict"), [("0", "ok"), ("1", "failed")])
def test_without_the_firmware_the_kernel_tells(pi, alarm, verdict) -> None:
    pi.answers["vcgencmd"] = ""
    pi.put("/sys/class/hwmon/hwmon1/name", "rpi_volt\n")
    pi.put("/sys/class/hwmon/hwmon1/in0_lcrit_alarm", alarm)
    assert found(pi, "power").verdict == verdict


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        ("LoadState=loaded\nActiveState=inactive\nSubState=dead\nResult=success", "ok"),
        ("LoadState=loaded\nActiveState=activating\nSubState=start\nResult=success", "warning"),  # no camera, 45 s long
        ("LoadState=loaded\nActiveState=activating\nSubState=auto-restart\nResult=exit-code", "warning"),
        ("LoadState=loaded\nActiveState=failed\nSubState=failed\nResult=watchdog", "failed"),
        ("LoadState=not-found\nActiveState=inactive", "not applicable"),
        ("", "not applicable"),
    ],
)
def test_the_state_of_the_service(pi, answer, verdict) -> None:
    pi.answers["systemctl"] = answer
    assert found(pi, "service").verdict == verdict


@pytest.mark.parametrize(
    ("arch", "glibc", "python", "verdict"),
    [
        ("x86_64", "2.36", (3, 11), "not applicable"),
        ("aarch64", "2.36", (3, 11), "warning"),
        ("aarch64", "2.36", (3, 12), "warning"),
        ("aarch64", "2.38", (3, 12), "ok"),
        ("aarch64", "2.41", (3, 12), "ok"),
        ("aarch64", "2.41", (3, 13), "warning"),
    ],
)
def test_where_the_cameras_wheel_can_load(arch, glibc, python, verdict) -> None:
    assert glibc_finding(arch, glibc, python).verdict == verdict


@pytest.mark.parametrize(
    ("one", "verdict", "says"),
    [
        (Tried("numpy", "kills the process that imports it: SIGILL", kills=True), "failed", "--no-binary numpy numpy"),
        (Tried("cv2", "kills the process that imports it: SIGILL", kills=True), "failed", "opencv-contrib-python-headless"),
        (Tried("pyrealsense2", "No module named 'pyrealsense2'"), "warning", "dofbot-grasp[pi]"),
        (Tried("onnxruntime", "No module named 'onnxruntime'"), "failed", "pip install"),
        (Tried("pyrealsense2", "does not load: version `GLIBCXX_3.4.32' not found"), "warning", "Trixie"),
        (Tried("pyrealsense2", "does not load: libusb-1.0.so.0: cannot open shared object file"), "warning", "apt install libusb-1.0-0"),
        (Tried("adafruit_servokit", "does not load: platform library 'gpiod' was not found"), "warning", "pip install gpiod"),
        (Tried("cv2", "does not load: it is broken"), "warning", "--force-reinstall opencv-contrib-python-headless"),
    ],
)
def test_a_package_that_does_not_load_has_a_row_of_its_own(one, verdict, says) -> None:
    findings = package_findings((Tried("typer"), one))
    assert [finding.name for finding in findings] == ["packages", one.module]
    assert findings[1].verdict == verdict
    assert says in findings[1].remedy


@pytest.mark.parametrize(("free_mb", "verdict"), [(49, "failed"), (51, "warning"), (501, "ok")])
def test_a_card_that_fills_up(pi, monkeypatch, free_mb, verdict) -> None:
    from collections import namedtuple

    usage = namedtuple("usage", "total used free")(10**10, 0, free_mb * 1_000_000)
    monkeypatch.setattr(check_software.shutil, "disk_usage", lambda path: usage)
    assert disk_finding(pi).verdict == verdict


def test_a_policy_is_checked_as_the_runtime_does_it(tmp_path) -> None:
    path = tmp_path / "policy.onnx"
    config = Config(run=msgspec.structs.replace(Config().run, policy=str(path)))
    assert policy_finding(config, ALL_LOAD).verdict == "failed"
    path.write_bytes(b"\x08\x07")
    finding = policy_finding(config, ALL_LOAD)
    assert finding.verdict == "failed"
    assert str(path) in finding.found
    other = msgspec.structs.replace(Config(), mount=MountConfig(base_height_m=0.5))
    assert "base_height_m" in policy_finding(other, ALL_LOAD).found


def test_an_active_policy_that_nobody_vouches_for_fails(tmp_path) -> None:
    data = bundle.POLICY.read_bytes()
    config = Config(policy=PolicyConfig(folder=str(tmp_path), trusted_keys=(signature.make_key(tmp_path / "key").public,)))
    slots = PolicySlots(config)
    slots.point("active", slots.keep(data, None))
    finding = policy_finding(config, ALL_LOAD)
    assert (finding.verdict, "has no signature" in finding.found) == ("failed", True)


def test_where_the_active_policy_may_not_be_looked_at_another_one_is_not_all_well(tmp_path, monkeypatch) -> None:
    config = Config(policy=PolicyConfig(folder=str(tmp_path / "service" / "policies")))
    assert policy_finding(config, ALL_LOAD).verdict in ("ok", "warning")  # no service has made it
    (tmp_path / "service").mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: not str(path).startswith(str(tmp_path)))  # root may always
    finding = policy_finding(config, ALL_LOAD)
    assert (finding.verdict, "is closed to this user" in finding.found, finding.remedy) == ("warning", True, "sudo dofbot doctor")


def test_the_policy_that_is_shipped_fits_the_default_robot() -> None:
    assert policy_finding(Config(), ALL_LOAD).verdict in ("ok", "warning")  # warning: too slow on this machine, just now


def test_a_policy_is_not_touched_where_its_library_does_not_load(monkeypatch) -> None:
    monkeypatch.setattr("edge.policy.load", lambda *_: pytest.fail("loaded"))
    finding = policy_finding(Config(), (Tried("onnxruntime", "kills the process that imports it: SIGILL", kills=True),))
    assert (finding.verdict, "not tried" in finding.found) == ("failed", True)


@pytest.mark.parametrize(
    ("error", "verdict"), [(LatePolicyError("slow; stop programs"), "warning"), (PolicyError("bad; export"), "failed")]
)
def test_a_slow_policy_is_a_warning_and_a_foreign_one_a_failure(monkeypatch, error, verdict) -> None:
    def load(*_: object) -> None:
        raise error

    monkeypatch.setattr("edge.policy.load", load)
    finding = policy_finding(Config(), ALL_LOAD)
    assert (finding.verdict, finding.remedy) == (verdict, str(error).partition("; ")[2])


def calibrated(path: Path, config: Config, serial: str = "123") -> Config:
    pose = ((1.0, 0.0, 0.0, 0.0), (0.0, 1.0, 0.0, 0.0), (0.0, 0.0, 1.0, 0.0), (0.0, 0.0, 0.0, 1.0))
    blank = calibration.blank(config, urdf.dofbot_sha256())
    calibration.save(path, msgspec.structs.replace(blank, hand_eye=HandEye(serial, pose, calibration.made("test"))))
    return msgspec.structs.replace(config, calibration=msgspec.structs.replace(config.calibration, file=str(path)))


def test_a_calibration_is_of_this_robot_and_this_camera_or_fails(tmp_path) -> None:
    config = calibrated(tmp_path / "calibration.json", Config())
    assert calibration_finding(config, []).verdict == "ok"
    assert calibration_finding(config, ["123"]).verdict == "ok"
    assert "another camera" in calibration_finding(config, ["999"]).found
    other = msgspec.structs.replace(config, mount=MountConfig(inverted=False))
    finding = calibration_finding(other, [])
    assert (finding.verdict, "another robot" in finding.found, finding.remedy) == ("failed", True, "calibrate this one")
    (tmp_path / "calibration.json").write_text("{")
    assert calibration_finding(config, []).verdict == "failed"
    (tmp_path / "calibration.json").unlink()
    assert "empty calibration.file" in calibration_finding(config, []).remedy


def test_a_camera_beside_the_arm_runs_no_policy_and_fails(tmp_path) -> None:
    config = calibrated(tmp_path / "calibration.json", Config())
    found = calibration.load(tmp_path / "calibration.json")
    assert found.hand_eye is not None
    camera = calibration.FixedCamera("123", found.hand_eye.transform_camera_to_tool, calibration.made("test"))
    calibration.save(tmp_path / "calibration.json", msgspec.structs.replace(found, hand_eye=None, fixed_camera=camera))
    finding = calibration_finding(config, ["123"])
    assert finding.verdict == "failed"
    assert "on a stand" in finding.found
    assert finding.remedy == "mount it behind joint 5 and run dofbot calibrate handeye"


def test_without_a_calibration_numbers_are_nominal_which_is_a_warning() -> None:
    assert calibration_finding(Config(), []).verdict == "warning"
    assert calibration_finding(Config(bus=BusConfig(driver="simulator")), []).verdict == "not applicable"


def test_a_configuration_that_is_wrong_does_not_end_the_examination(pc, tmp_path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("[bus]\ndriver = 7\n")
    findings = examine(pc, path, ALL_LOAD)
    assert has_failed(findings)
    assert "bus.driver" in next(finding for finding in findings if finding.name == "configuration").found
    assert any(finding.name == "policy" for finding in findings)


def test_serials_are_asked_in_a_child_that_may_die(monkeypatch) -> None:
    monkeypatch.setattr(check_software, "_SERIALS", "print('[\"123\"]')")
    assert check_software.camera_serials() == ["123"]
    monkeypatch.setattr(check_software, "_SERIALS", "import os; os.kill(os.getpid(), 4)")
    assert check_software.camera_serials() == []
    monkeypatch.setattr(check_software, "_SERIALS", "import time; time.sleep(9)")
    began_s = time.monotonic()
    assert check_software.camera_serials(within_s=0.2) == []
    assert time.monotonic() - began_s < 2.0


def test_the_verb_says_all_of_it_as_json(tmp_path, monkeypatch) -> None:
    path = tmp_path / "config.toml"
    path.write_text('[bus]\ni2c = "emulated"\n')
    monkeypatch.setattr("firmware_tools.doctor.tried", lambda: ALL_LOAD)
    cli.register(app)
    result = CliRunner().invoke(app, ["doctor", "--config", str(path), "--json"])
    answer = json.loads(result.stdout)
    assert answer["ok"] is (result.exit_code == 0)
    assert {"Python", "packages", "servo board", "policy", "calibration", "disk", "service"} <= {one["name"] for one in answer["findings"]}
    shown = CliRunner().invoke(app, ["doctor", "--config", str(path)]).stdout
    assert "What to do:" in shown
    assert "dofbot calibrate" in shown
