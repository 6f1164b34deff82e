"""How long the runtime takes to start and how much memory it has, measured on processes of their own."""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tables import Bench, Figures

# CLOCK_MONOTONIC is the same in all processes, so a child can say when it got somewhere.
IMPORTS = {
    "python": "",
    "python and numpy": "import numpy",
    "edge, as imported by the runtime": "import edge.policy, edge.task, edge.devices, edge.runtime, edge.buses.pca9685",
    "… and ServoKit open on the emulator": (
        "from edge.config import BusConfig\n"
        "import edge.policy, edge.task, edge.devices, edge.runtime\n"
        "from edge.simulated.emulator import EmulatedI2C, Pca9685Emulator\n"
        "from edge.buses.pca9685 import Pca9685Bus\n"
        "Pca9685Bus(BusConfig(), EmulatedI2C({0x40: Pca9685Emulator()})).open()"
    ),
}
REPORT = (
    "\nimport time\n"
    "now_s = time.monotonic()\n"
    "peak = open('/proc/self/status').read().split('VmHWM:')[1].split()[0]\n"
    "print(now_s, int(peak) / 1024)"
)
REPEATS = 3
SERVE = "from trainer.simcli import simulate; simulate(port=0, seed=0, policy=None)"


def bench(policy: Path) -> Bench:
    """Imports, then a whole `dofbot run` of one grasp against a simulated arm."""
    rows = {name: _start(code) for name, code in IMPORTS.items()}
    rows["dofbot run, to its first servo tick"] = _run(policy.resolve())
    notes = (
        f"Best of {REPEATS}. The last row is one run: checks of the policy, bus and camera included; its memory is that of a whole grasp."
    )
    return Bench("Start and memory of the runtime", rows, {}, notes)


def _start(code: str) -> Figures:
    found = []
    for _ in range(REPEATS):
        began_s = time.monotonic()
        output = subprocess.run([sys.executable, "-c", code + REPORT], capture_output=True, text=True, check=True).stdout
        now_s, resident_mib = map(float, output.split()[-2:])
        found.append((1e3 * (now_s - began_s), resident_mib))
    return {"start ms": min(found)[0], "resident MiB": min(resident for _, resident in found)}


def _run(policy: Path) -> Figures:
    with tempfile.TemporaryDirectory() as folder:
        summary, config = Path(folder) / "summary.json", Path(folder) / "dofbot.toml"
        with subprocess.Popen([sys.executable, "-c", SERVE], stdout=subprocess.PIPE, text=True) as server:
            try:
                port = _port(server)
                config.write_text(
                    f"[bus]\ni2c = 'emulated'\n[simulator]\nport = {port}\nclock = 'virtual'\n[run]\npolicy = '{policy}'\n",
                    encoding="utf-8",
                )
                run = [
                    sys.executable,
                    "-m",
                    "edge.cli",
                    "run",
                    "--arm",
                    "--grasps",
                    "1",
                    "--config",
                    str(config),
                    "--summary",
                    str(summary),
                ]
                ended = subprocess.run(run, capture_output=True, text=True, check=False)
            finally:
                server.terminate()
        if ended.returncode:
            raise RuntimeError(f"dofbot run ended with exit code {ended.returncode}: {ended.stderr}")
        figures = json.loads(summary.read_text(encoding="utf-8"))
    return {"start ms": 1e3 * figures["start_to_first_tick_s"], "resident MiB": figures["resident_mb"]}


def _port(server: "subprocess.Popen[str]") -> int:
    """What `dofbot simulate` says first: where it listens."""
    assert server.stdout is not None
    for line in server.stdout:
        if "127.0.0.1:" in line:
            return int(line.split("127.0.0.1:")[1].split(",")[0])
    raise RuntimeError("the simulator ended before it listened")
