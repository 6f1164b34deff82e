"""The demo starts the runtime as a process, judges it by physics, and ends with a sentence whatever becomes of it."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from trainer import demo, film, spec
from trainer.demo import RuntimeFailedError, Settings

# The runtime itself, with a policy that knows the desk's seed in place of a trained one; virtual time only.
SCRIPTED = """
import sys
from pathlib import Path
import msgspec, numpy as np
from edge import config
from edge.devices import open_devices
from edge.records.record import Recorder
from edge.runtime import Runtime
from edge.task import GraspTask
from trainer import spec

class Scripted:
    contract = spec.contract()
    def __init__(self, seed, skip, off_m):
        self.rng, self.off_m = np.random.default_rng(seed), off_m
        for _ in range(skip):
            self.block()
    def block(self):
        episode = self.contract.episode
        low, high = episode.spawn_min_in_table_m, episode.spawn_max_in_table_m
        at = [self.rng.uniform(a, b) for a, b in zip(low, high)]
        self.rng.uniform()  # its yaw
        return np.array(at)
    def act(self, depth, proprio):
        if proprio[3] == self.contract.episode.steps:
            self.at = self.block() + (self.off_m, 0.0)
        return np.clip(0.5 * (self.at - proprio[:2]) / self.contract.action.scale_m, -1, 1).astype(np.float32)

seed, real, off_m = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
given = dict(zip(sys.argv[5::1], sys.argv[6::1]))
settings = config.load(Path(given["--config"]))
skip = 0 if settings.simulator.clock == "real" else real
settings = msgspec.structs.replace(settings, simulator=msgspec.structs.replace(settings.simulator, clock="virtual"))
policy = Scripted(seed, skip, off_m)
devices = open_devices(settings)
devices.camera.start()
task = GraspTask(policy.contract, settings.run.place_in_table_m)
summary = Runtime(policy, task, devices, Recorder(""), 0.1).run(int(given["--grasps"]), lambda: False)
devices.close()
Path(given["--summary"]).write_bytes(msgspec.json.encode(summary))
"""


@pytest.fixture
def settings(tmp_path, monkeypatch) -> Settings:
    """A demo whose policy file need not exist."""
    monkeypatch.setattr(demo, "load", lambda _: SimpleNamespace(contract=spec.contract()))
    return Settings(tmp_path / "policy.onnx", grasps=3, real=1, seed=7, out=tmp_path / "out")


def runs(monkeypatch, program: str, *arguments: object) -> None:
    """Take a Python program for the runtime."""
    monkeypatch.setattr(demo, "RUNTIME", (sys.executable, "-c", program, *map(str, arguments)))


def test_blocks_are_picked_judged_filmed_and_counted(settings, monkeypatch, capfd) -> None:
    monkeypatch.setattr(film, "SHOT_PERIOD_S", 1.0)
    runs(monkeypatch, SCRIPTED, settings.seed, settings.real, 0.0)
    assert demo.run(settings, as_json=False)
    shown = capfd.readouterr().out
    assert "3 of 3" in shown
    assert "below the servo registers is simulated" in " ".join(shown.split())

    figures = json.loads((settings.out / "demo.json").read_text())
    assert figures["picked"] == figures["runtime_agrees"] == figures["grasps"] == 3
    assert figures["interval_95"][0] == pytest.approx(0.4385, abs=1e-3)  # Wilson, 3 of 3
    assert figures["phase_mean_s"]["APPROACH"] == pytest.approx(8.0)
    assert figures["real_time"]["grasps"] == 1
    assert {"overruns", "skipped", "resident_mb", "start_to_first_tick_s"} <= figures["real_time"].keys()
    assert figures["timing"]["lateness_s"]["count"] == figures["real_time"]["ticks"]
    with Image.open(settings.out / "demo.gif") as gif:
        assert gif.n_frames >= 12  # a grasp takes 13 to 15 s
        assert len(gif.convert("RGB").getcolors(1 << 20)) > 20
    with Image.open(settings.out / "map.png") as picture:
        assert picture.width > 500


def test_what_is_missed_is_not_passed_and_json_is_all_that_is_printed(settings, monkeypatch, capfd) -> None:
    settings = settings._replace(grasps=1)
    runs(monkeypatch, SCRIPTED, settings.seed, settings.real, 0.045)
    assert not demo.run(settings, as_json=True)
    figures = json.loads(capfd.readouterr().out)
    assert figures["picked"] == 0
    assert [block["picked"] for block in figures["blocks"]] == [False]
    assert not (settings.out / "demo.gif").exists()  # nothing in virtual time


def test_the_runtimes_last_words_and_exit_code_are_the_demos(settings, monkeypatch) -> None:
    runs(monkeypatch, "import sys; print('WARNING x\\ndofbot: the policy is made for another arm', file=sys.stderr); sys.exit(78)")
    with pytest.raises(RuntimeFailedError) as raised:
        demo.run(settings, as_json=False)
    assert str(raised.value) == "the policy is made for another arm"
    assert raised.value.exit_code == 78


def test_a_runtime_that_is_killed_is_one_sentence(settings, monkeypatch) -> None:
    runs(monkeypatch, "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(RuntimeFailedError, match="ended by signal 9") as raised:
        demo.run(settings, as_json=False)
    assert raised.value.exit_code == 1


STUBBORN = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
open(sys.argv[1], "w").write(str(os.getpid()))
time.sleep(60)
"""


def test_a_runtime_that_hangs_is_stopped(settings, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(demo, "START_LIMIT_S", 1.0)
    monkeypatch.setattr(demo, "GRASP_LIMIT_S", {"real": 0.0})
    monkeypatch.setattr(demo, "PARKING_LIMIT_S", 0.2)
    runs(monkeypatch, STUBBORN, tmp_path / "pid")
    with pytest.raises(RuntimeFailedError, match="had not made 1 grasps after 1 s"):
        demo.run(settings, as_json=False)
    assert_gone(int((tmp_path / "pid").read_text()))


def test_ctrl_c_ends_both(settings, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(demo, "PARKING_LIMIT_S", 0.2)
    runs(monkeypatch, STUBBORN, tmp_path / "pid")

    def press_when_it_runs() -> None:
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press_when_it_runs, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        demo.run(settings, as_json=False)
    assert_gone(int((tmp_path / "pid").read_text()))
    assert not [thread for thread in threading.enumerate() if thread.name == "desk"]


def assert_gone(pid: int) -> None:
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


VERBS = "import typer; from trainer import simcli; app = typer.Typer(); simcli.register(app); app()"


def test_simulate_serves_until_ctrl_c_and_says_that_it_is_simulated() -> None:
    from edge.simulated.simulator import SimulatorLink

    root = Path(demo.__file__).parents[1]
    command = [sys.executable, "-u", "-c", VERBS, "simulate", "--port", "0"]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        line = process.stdout.readline()
        assert "simulated" in line
        link = SimulatorLink.connect(int(line.split("127.0.0.1:")[1].split(",")[0]), "virtual")
        link.advance_to(0.1)
        assert link.latest_frame().intrinsics == spec.contract().camera.intrinsics
        link.close()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=10.0)
    assert process.returncode == 0
    assert "0 of 0 blocks picked" in out
    assert err == ""
