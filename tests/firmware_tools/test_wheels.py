"""A package that kills whoever imports it is found, named, and kills nobody else."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from firmware_tools.wheels import Tried, tried

ROOT = Path(__file__).parents[2]


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    for name, code in {
        "well": "",
        "illegal": "import os, signal; os.kill(os.getpid(), signal.SIGILL)",
        "segfaults": "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
        "exits": "import os; os._exit(3)",
        "raises": "raise ImportError('libusb-1.0.so.0: cannot open shared object file\\nsecond line')",
        "lacks": "import is_not_there",
        "hangs": "import time; time.sleep(60)",
        "talks": "print('hello'); print('[not json', flush=True)",
    }.items():
        (tmp_path / f"{name}.py").write_text(code)
    return tmp_path


def test_each_is_told_apart_and_those_after_a_death_are_still_tried(packages) -> None:
    names = ("well", "illegal", "raises", "segfaults", "exits", "lacks", "absent", "talks")
    found = {one.module: one for one in tried(names, path=packages)}
    assert tuple(found) == names
    assert found["well"] == found["talks"]._replace(module="well") == Tried("well")
    assert {name for name, one in found.items() if one.kills} == {"illegal", "segfaults", "exits"}
    assert "SIGILL, illegal instruction" in found["illegal"].problem
    assert "SIGSEGV" in found["segfaults"].problem
    assert found["raises"].problem == "does not load: libusb-1.0.so.0: cannot open shared object file"
    assert found["lacks"].problem == "does not load: No module named 'is_not_there'"
    assert [name for name, one in found.items() if one.is_missing] == ["absent"]


def test_one_that_hangs_is_given_up(packages) -> None:
    began_s = time.monotonic()
    hangs, well = tried(("hangs", "well"), within_s=2.0, path=packages)
    assert time.monotonic() - began_s < 20.0
    assert (hangs.problem, hangs.kills) == ("is not imported within 2 s", False)
    assert not well.problem


def test_the_doctor_survives_a_numpy_that_kills(tmp_path: Path) -> None:
    (tmp_path / "numpy.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGILL)")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(tmp_path), str(ROOT)))}
    result = subprocess.run(
        [sys.executable, "-m", "edge", "doctor"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("dofbot: numpy: kills the process that imports it: SIGILL")
    assert len(result.stderr.splitlines()) == 1
