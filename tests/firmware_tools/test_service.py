"""The unit as a file: what systemd thinks of it, and what the rest of the tree relies on. tests/systemd runs it."""

import configparser
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edge.errors import ConfigError, MissingExtraError, PolicyError

FOLDER = Path(__file__).parents[2] / "firmware_tools"
UNIT = FOLDER / "dofbot-grasp.service"


class Many(dict):
    """Repeated keys add up, as systemd reads them."""

    def __setitem__(self, key: str, value: object) -> None:
        if isinstance(value, list) and key in self and isinstance(self[key], list):
            self[key].extend(value)
        else:
            super().__setitem__(key, value)


@pytest.fixture(scope="module")
def service() -> configparser.SectionProxy:
    parser = configparser.ConfigParser(dict_type=Many, strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(UNIT.read_text())
    return parser["Service"]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_rates_its_exposure_at_most_2_of_10() -> None:
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=20", "--no-pager", str(UNIT)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout
    found = re.search(r"exposure level for dofbot-grasp.service: ([\d.]+)", result.stdout)
    assert found
    assert float(found[1]) <= 2.0


def test_a_start_that_cannot_succeed_is_not_repeated(service: configparser.SectionProxy) -> None:
    expected = {PolicyError.exit_code, ConfigError.exit_code, MissingExtraError.exit_code}
    assert set(map(int, service["RestartPreventExitStatus"].split())) == expected


def test_the_servos_are_released_from_the_configuration_that_powered_them(service: configparser.SectionProxy) -> None:
    start, post = service["ExecStart"].split(), service["ExecStopPost"].split()
    assert start[start.index("--config") :] == post[post.index("--config") :]
    assert "firmware_tools.release" in post


def test_the_camera_is_checked_before_a_start_where_there_is_a_reference(service: configparser.SectionProxy, tmp_path: Path) -> None:
    line = service["ExecStartPre"]
    assert line.startswith("-")  # systemd: whatever it says, the start goes on
    for installed, here in (("/opt/dofbot-grasp/current/bin/dofbot", f"{sys.executable} -m edge"), ("/etc/dofbot-grasp/", f"{tmp_path}/")):
        assert installed in line
        line = line.replace(installed, here)
    command, environment = shlex.split(line[1:]), os.environ | {"PYTHONPATH": str(FOLDER.parent)}

    def began() -> tuple[int, str]:
        result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        return result.returncode, result.stdout + result.stderr

    assert began() == (0, "")
    (tmp_path / "check.json").write_text("{}")
    returned, said = began()
    assert returned == 2
    assert "cannot say: reference check.json is damaged" in " ".join(said.split())  # its options are those of the verb


def test_its_user_and_groups_are_the_ones_that_sysusers_makes(service: configparser.SectionProxy) -> None:
    made = {line.split()[1] for line in (FOLDER / "dofbot-grasp.sysusers.conf").read_text().splitlines() if line[:2] in ("g ", "u ")}
    needed = {service["User"], service["Group"], *service["SupplementaryGroups"].split()}
    assert needed - made <= {"video"}  # which every Debian has
