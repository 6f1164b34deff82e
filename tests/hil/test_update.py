"""U1: whoever replaces a policy or a configuration and is killed at any moment leaves the old one or the new one."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edge import config, policy
from tests.hil.conftest import Measure
from tests.hil.robot import ENVIRONMENT, POLICY, ROOT

CUTS = 500  # of each file


def relabelled(data: bytes) -> bytes:
    """The same policy from another seed, as far as its contract says."""
    return policy.stamp(re.sub(rb'"seed":\d', b'"seed":9', data, count=1))


GOOD = POLICY.read_bytes()
# Name, two contents that are both in order, and what finds out.
FILES: tuple[tuple[str, bytes, bytes, Callable[[Path], object]], ...] = (
    ("policy.onnx", GOOD, relabelled(GOOD), policy.load),
    ("dofbot.toml", b"[camera]\nmax_age_s = 0.1\n", b"[camera]\nmax_age_s = 0.2\n", config.load),
)


def cut(old: Path, new: Path) -> dict[str, int]:
    command = [sys.executable, "-m", "tests.hil.cuts", str(old), str(new), str(CUTS)]
    result = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=True, timeout=300.0)
    counts: dict[str, int] = json.loads(result.stdout)
    return counts


@pytest.mark.hil
def test_a_thousand_cuts_tear_nothing(tmp_path: Path, measure: Measure, idle: None) -> None:
    for name, old, new, load in FILES:
        path, other = tmp_path / name, tmp_path / f"new-{name}"
        for file, content in ((path, old), (other, new)):
            file.write_bytes(content)
            load(file)
        counts = cut(path, other)
        assert counts["torn"] == 0, counts
        assert 0 < counts["new"] < CUTS, counts
        assert counts["amidst"] > CUTS / 10, counts  # a cut between two replacements shows nothing
        load(path)
    measure("U1", "", "0 torn")
