"""The stages on top stand alone: what takes images, simulates, reports and asks is built on them."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
BUILT_ON_THEM = ("commands", "live", "pages", "simulated")


def loaded_by(modules: list[str]) -> set[str]:
    """The packages of `calibration` that importing these modules brings along."""
    code = "import importlib, sys; [importlib.import_module(one) for one in sys.argv[1:]]; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code, *modules], cwd=ROOT, capture_output=True, text=True, check=True)
    return {name.split(".")[1] for name in result.stdout.split() if name.startswith("calibration.")}


def test_no_stage_imports_what_is_built_on_the_stages() -> None:
    stages = sorted(path.stem for path in (ROOT / "calibration").glob("*.py") if path.stem not in ("__init__", "cli"))
    assert {"boards", "detect", "intrinsics", "hand_eye", "gls", "observability", "verdict"} <= set(stages)
    loaded = loaded_by([f"calibration.{stage}" for stage in stages])
    assert set(stages) <= loaded
    assert not loaded & {*BUILT_ON_THEM}


def test_what_is_built_on_them_is_loaded_by_the_commands() -> None:
    assert loaded_by(["calibration.commands.touch"]) >= {"hand_eye", "live", "simulated"}
