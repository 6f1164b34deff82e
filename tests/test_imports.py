"""edge/ runs with the base install alone: importing it touches no simulator, no trainer and no driver."""

import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]

# An attempt counts even inside `try … except ImportError`, hence BaseException.
PROBE = """
import importlib, sys

class BannedImport(BaseException):
    pass

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in banned:
            raise BannedImport(name)

banned = set(sys.argv[1].split(","))
sys.meta_path.insert(0, Blocker())
for module in sys.argv[2:]:
    importlib.import_module(module)
"""


def banned_modules() -> list[str]:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return settings["tool"]["ruff"]["lint"]["flake8-tidy-imports"]["banned-module-level-imports"]


def edge_modules() -> list[str]:
    paths = (path.relative_to(ROOT).with_suffix("") for path in sorted((ROOT / "edge").rglob("*.py")))
    return [".".join(path.parts).removesuffix(".__init__") for path in paths]


def import_with_banned_blocked(modules: list[str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-c", PROBE, ",".join(banned_modules()), *modules]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_every_edge_module_imports_without_simulator_trainer_and_drivers() -> None:
    modules = edge_modules()
    assert {"edge", "edge.robot", "edge.contract"} <= set(modules)
    result = import_with_banned_blocked(modules)
    assert result.returncode == 0, result.stderr


def test_the_service_loads_no_opencv_though_the_robot_has_it() -> None:
    code = """
import sys
from edge import cli, service
from edge.cameras import capture
cli._add_verbs()
sys.exit(str({'cv2', 'nacl', 'scipy'} & {*sys.modules}))
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.stderr.strip() == "set()"


def test_the_blocker_blocks_what_edge_must_not_import() -> None:
    assert {"torch", "pybullet", "gymnasium", "stable_baselines3", "trainer", "numba", "matplotlib"} <= set(banned_modules())
    result = import_with_banned_blocked(["trainer.spec"])
    assert result.returncode != 0
    assert "BannedImport: trainer" in result.stderr
