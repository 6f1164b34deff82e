"""How long the tools take from a cold process, on the emulated bus: what a person waits for, and the service's last act."""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tables import Bench, Figures

BARS_S = {"release": 0.2, "scan": 1.0, "doctor": 5.0}
REPEATS = 5
ROOT = Path(__file__).parents[2]


def bench() -> Bench:
    """Each verb as a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "emulated.toml"
        config.write_text('[bus]\ni2c = "emulated"\n', encoding="utf-8")
        rows = {f"dofbot {verb}": _figures(verb, config) for verb in BARS_S}
    notes = f"{REPEATS} processes each, on an emulated I2C bus; a real one adds its 112 addresses, about 30 ms at 100 kHz (computed)."
    return Bench("Tools from a cold process", rows, {}, notes)


def _figures(verb: str, config: Path) -> Figures:
    took_s = []
    for _ in range(REPEATS):
        began_s = time.monotonic()
        command = [sys.executable, "-m", "edge", verb, "--config", str(config)]
        code = subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode
        took_s.append(time.monotonic() - began_s)
        if code not in (0, 1):  # 1: this machine has something to be mended
            raise RuntimeError(f"dofbot {verb} ended with exit code {code}")
    return {"best s": min(took_s), "worst s": max(took_s), "bar s": BARS_S[verb]}
