"""The service under a real systemd: it starts, parks, dies and comes back as its unit file promises."""

import datetime
import json
import re
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from edge.policies import signature
from edge.policy import digest
from tests.firmware_tools.policy_robot import variant
from tests.systemd.conftest import GOOD_POLICY, Measure
from tests.systemd.machine import CONFIG, POLICY, Machine, wait_for
from tests.systemd.rootfs import ENVIRONMENT

pytestmark = pytest.mark.systemd
RELEASED = "a real one gets fd 10 to the PCA9685 at /dev/i2c-1 0x40"  # what the helper writes where the bus is not emulated
CAP_SYS_RESOURCE = 24  # <linux/capability.h>


def process_status(text: str) -> dict[str, str]:
    """/proc/PID/status as a table."""
    return {name: value.strip() for name, _, value in (line.partition(":") for line in text.splitlines())}


MAY_RAISE_LIMITS = bool(int(process_status(Path("/proc/self/status").read_text())["CapEff"], 16) >> CAP_SYS_RESOURCE & 1)


def start_moving(service: Machine) -> None:
    """Started, and the arm on its way."""
    service.systemctl("start")
    service.dofbot("arm")
    threading.Thread(target=service.dofbot, args=("grasp",), kwargs={"check": False}, daemon=True).start()
    service.said("HOMING → APPROACH")


def report(service: Machine) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(service.dofbot("status", "--json").stdout)
    return found


def state(service: Machine) -> str:
    return str(report(service)["state"])


def assert_came_back(service: Machine, old_pid: str, within_s: float) -> None:
    wait_for(lambda: service.show("ActiveState") == "active" and service.show("MainPID") not in ("0", old_pid), within_s, "it is restarted")
    assert service.show("NRestarts") == "1"
    assert state(service) == "DISARMED"


def assert_reads_well(service: Machine) -> None:
    """Single lines, no traceback, and nothing said twice in a row."""
    lines = [line.text for line in service.journal()]
    assert not [line for line in lines if "Traceback" in line or line.startswith((" ", "\t")) or not line.strip()]
    assert not [line for line, following in zip(lines, lines[1:], strict=False) if line == following]


def test_the_installer_has_found_its_version_healthy(installed: dict[str, Any], machine: Machine) -> None:
    assert installed["health"]["healthy"], installed["health"]
    assert machine.run("readlink", ENVIRONMENT).stdout.strip() == f"releases/{installed['version']}"


def test_started_means_that_policy_bus_and_camera_answered(
    service: Machine, simulator: "subprocess.Popen[bytes]", measure: Measure
) -> None:
    simulator.send_signal(signal.SIGSTOP)
    service.systemctl("start", "--no-block")
    time.sleep(2.0)
    assert service.show("ActiveState") == "activating"
    simulator.send_signal(signal.SIGCONT)
    wait_for(lambda: service.show("ActiveState") == "active", 5.0, "it is active once the camera answers")
    assert service.show("StatusText")
    service.systemctl("stop")
    measure("start → READY", service.systemctl("start"), 5.0)


def test_it_is_a_user_without_any_privilege(service: Machine) -> None:
    service.systemctl("start")
    status = process_status(service.run("cat", f"/proc/{service.show('MainPID')}/status").stdout)
    assert status["Uid"].split()[0] == service.run("id", "-u", "dofbot").stdout.strip() != "0"
    assert {int(status[kind], 16) for kind in ("CapEff", "CapPrm", "CapBnd", "CapAmb")} == {0}
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")  # 2: a filter
    groups = {service.run("getent", "group", name).stdout.split(":")[2] for name in ("i2c", "video", "plugdev")}
    assert groups <= set(status["Groups"].split())
    assert (service.show("LimitRTPRIO"), service.show("LimitMEMLOCK"), service.show("OOMScoreAdjust")) == ("50", "infinity", "-900")


@pytest.mark.skipif(not MAY_RAISE_LIMITS, reason="this machine lacks CAP_SYS_RESOURCE, so its systemd cannot raise a limit")
def test_it_is_granted_what_real_time_takes(service: Machine) -> None:
    service.systemctl("start")
    process = f"/proc/{service.show('MainPID')}"
    limits = service.run("cat", f"{process}/limits").stdout
    assert re.search(r"^Max realtime priority +50 ", limits, re.M)
    assert re.search(r"^Max locked memory +unlimited ", limits, re.M)
    assert service.run("cat", f"{process}/oom_score_adj").stdout.strip() == "-900"


def test_a_stop_in_motion_parks_the_arm_first(service: Machine, measure: Measure) -> None:
    start_moving(service)
    measure("stop in motion: parked and exited", service.systemctl("stop"), 5.0)
    assert (service.show("Result"), service.show("ExecMainStatus")) == ("success", "0")
    assert service.said("→ PARK").at_s < service.said("PARK → DISARMED").at_s < service.said(RELEASED).at_s
    assert_reads_well(service)


def test_a_killed_process_leaves_no_servo_powered_and_comes_back(service: Machine, measure: Measure) -> None:
    start_moving(service)
    pid, killed_s = service.show("MainPID"), time.monotonic()
    service.run("sh", "-c", f"kill -KILL {pid}")
    measure("kill -9 → servos released", service.said("release after signal KILL").at_s - killed_s, 1.0)
    assert RELEASED in service.said("release after signal KILL").text
    assert_came_back(service, pid, 10.0)
    measure("kill -9 → READY again", time.monotonic() - killed_s, 5.0)
    assert_reads_well(service)


def test_a_frozen_process_is_ended_by_the_watchdog_and_comes_back(service: Machine, measure: Measure) -> None:
    start_moving(service)
    pid, frozen_s = service.show("MainPID"), time.monotonic()
    service.run("sh", "-c", f"kill -STOP {pid}")
    line = service.said("release after watchdog")
    measure("SIGSTOP → servos released", line.at_s - frozen_s, 1.5)
    assert RELEASED in line.text
    assert_came_back(service, pid, 10.0)
    measure("SIGSTOP → READY again", time.monotonic() - frozen_s, 5.0)
    assert_reads_well(service)


def test_a_corrupt_policy_is_said_once_and_not_tried_again(service: Machine, measure: Measure) -> None:
    damaged = bytearray(GOOD_POLICY.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    service.write(POLICY, bytes(damaged))
    measure("corrupt policy → refused", service.systemctl("start", check=False), 5.0)
    time.sleep(1.5)  # several times RestartSec
    assert (service.show("ActiveState"), service.show("ExecMainStatus"), service.show("NRestarts")) == ("failed", "78", "0")
    shown = service.run("systemctl", "status", "--no-pager", "--full", "dofbot-grasp", check=False).stdout
    reasons = [line for line in shown.splitlines() if "dofbot: " in line]
    assert len(reasons) == 1
    assert POLICY in reasons[0]
    assert_reads_well(service)


def test_a_crash_loop_ends(service: Machine, simulator: "subprocess.Popen[bytes]") -> None:
    service.write("/etc/dofbot-grasp/config.toml", f'[bus]\ni2c = "emulated"\n[simulator]\nport = 1\n[run]\npolicy = "{POLICY}"\n')
    service.systemctl("start", check=False)
    wait_for(lambda: service.show("ActiveState") == "failed", 40.0, "systemd gives up")
    assert service.show("NRestarts") == "5"
    assert len([line for line in service.journal() if RELEASED in line.text]) == 5
    assert not [line for line in service.journal() if "Traceback" in line.text]


def test_a_restart_parks_and_starts_anew(service: Machine, measure: Measure) -> None:
    start_moving(service)
    pid = service.show("MainPID")
    measure("restart in motion", service.systemctl("restart"), 8.0)
    assert service.show("ActiveState") == "active"
    assert service.show("MainPID") != pid
    assert service.show("NRestarts") == "0"
    assert_reads_well(service)


def test_the_release_is_done_within_200_ms(service: Machine, measure: Measure) -> None:
    def took_s(*command: str) -> float:
        began_s = time.monotonic()
        service.run(*command)
        return time.monotonic() - began_s

    arguments = ("--config", "/etc/dofbot-grasp/config.toml")
    helper = (f"{ENVIRONMENT}/bin/python", "-I", "-m", "firmware_tools.release", *arguments)
    measure("release from a cold process, as ExecStopPost runs it", min(took_s(*helper) for _ in range(5)), 0.2)
    measure("dofbot release", min(took_s(f"{ENVIRONMENT}/bin/dofbot", "release", *arguments) for _ in range(5)), 0.2)


def test_it_starts_disarmed_and_grasps_when_told(service: Machine) -> None:
    service.systemctl("start")
    assert state(service) == "DISARMED"
    assert service.dofbot("grasp", check=False).returncode == 4  # refused: not armed
    service.dofbot("arm")
    assert service.dofbot("grasp").stdout.strip() == "picked"
    service.dofbot("park")
    assert state(service) == "DISARMED"
    assert_reads_well(service)


def test_a_policy_that_the_disk_has_damaged_gives_way_to_the_versions_own(service: Machine, tmp_path: Path) -> None:
    key, policy = signature.make_key(tmp_path / "key"), variant(1)
    kept = f'[policy]\nfolder = "/var/lib/dofbot-grasp/policies"\ntrusted_keys = ["{key.public}"]\n'
    service.write("/etc/dofbot-grasp/config.toml", CONFIG + kept)
    service.write("/tmp/new.onnx", policy)
    service.write("/tmp/new.onnx.sig", signature.sign(digest(policy), key.path, datetime.datetime.now(datetime.UTC)))
    service.systemctl("start")
    name = json.loads(service.dofbot("policy", "push", "/tmp/new.onnx", "--json").stdout)["policy"]
    service.systemctl("restart")
    assert (report(service)["policy_sha256"], report(service)["policy_warning"]) == (digest(policy), "")
    service.run("truncate", "--size=100000", f"/var/lib/dofbot-grasp/policies/{name}.onnx")
    service.systemctl("restart")
    assert report(service)["policy_sha256"] == digest(GOOD_POLICY.read_bytes())
    assert name in report(service)["policy_warning"]
    assert name in service.said("does not start").text
    service.dofbot("policy", "push", "/tmp/new.onnx", "--json")
    assert (report(service)["policy_sha256"], report(service)["policy_warning"]) == (digest(policy), "")
    service.dofbot("policy", "activate", "bundled")
