"""The demo: the process that runs on the arm, started twice, picks blocks up from a simulated desk and is judged.

The first part keeps real time, so that its timing means something; the second runs as fast as it can, and is filmed.
"""

import json
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from edge.contract import Contract
from edge.errors import DofbotError
from edge.policy import load
from edge.task import Phase

PASS_SHARE = 0.9
START_LIMIT_S = 30.0  # start and checks take 1 s here, parking 2 s
GRASP_LIMIT_S = {"real": 45.0, "virtual": 20.0}  # three times what one takes, and twenty times, for a slow machine
PARKING_LIMIT_S = 5.0  # a runtime that is told to stop parks first: 2 s
GRASP_S = {"real": 14.5, "virtual": 1.2}  # measured; only the progress bar's remaining time depends on it
FILMED = (Phase.APPROACH, Phase.GRASP, Phase.LIFT, Phase.VERIFY, Phase.PLACE)  # from a block's arrival on
SIMULATED = (
    "Everything below the servo registers is simulated (PCA9685, servos, arm, camera, block); "
    "above them it is the process that runs on the arm."
)
RUNTIME = (sys.executable, "-m", "edge.cli")

Figures = dict[str, Any]


class RuntimeFailedError(DofbotError):
    """The runtime did not end as it should; `exit_code` is its own, or 1 when it had none."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Settings(NamedTuple):
    """What is shown: `real` of the `grasps` in real time; pictures and figures go into `out`."""

    policy: Path
    grasps: int
    real: int
    seed: int
    out: Path


def run(settings: Settings, as_json: bool) -> bool:
    """Show it all; True when at least 90 % of the blocks were picked, by physics. Raises `RuntimeFailedError`, `PolicyError`."""
    began_s = time.monotonic()
    contract = load(settings.policy).contract
    settings.out.mkdir(parents=True, exist_ok=True)
    from trainer.film import Film, draw_map

    parts = {"real": settings.real, "virtual": settings.grasps - settings.real}
    with hosted(contract, settings.seed) as (desk, server), _progress(settings, parts, desk) as show:
        summaries = {"real": _run_part("real", settings, server.port, contract, show)}
        late_s = server.late_s
        film = Film(before=desk.block)
        desk.watch = film.watch
        if parts["virtual"]:
            summaries["virtual"] = _run_part("virtual", settings, server.port, contract, show)
    if film.shots:
        phase_s = summaries["virtual"]["grasps"][0]["phase_s"]
        film.save(settings.out / "demo.gif", {phase: phase_s[phase] for phase in FILMED if phase in phase_s}, contract.depth)
    draw_map(desk.results, contract.episode, settings.out / "map.png")
    figures = _figures(settings, summaries, desk.results, late_s)
    figures["wall_s"] = time.monotonic() - began_s
    text = json.dumps(figures, indent=2)
    (settings.out / "demo.json").write_text(text + "\n")
    if as_json:
        print(text)
    else:
        _print_table(figures, settings.out)
    return bool(figures["picked"] >= PASS_SHARE * settings.grasps)


@contextmanager
def hosted(contract: Contract, seed: int, wrist: Any = None) -> Iterator[tuple[Any, Any]]:
    """A desk, and its server on a free loopback port, both in a thread of their own: PyBullet is used from no other.

    `wrist` is the `trainer.sensors.Wrist` that the desk has; None: the policy's.
    """
    ready: queue.Queue[Any] = queue.Queue()
    stop = threading.Event()

    def serve() -> None:
        try:
            from trainer.desk import Desk
            from trainer.server import SimulatorServer

            desk = Desk(contract, seed, wrist)
            server = SimulatorServer(desk)
        except Exception as error:
            ready.put(error)
            return
        ready.put((desk, server))
        try:
            server.serve(stop)
        finally:
            desk.close()

    thread = threading.Thread(target=serve, name="desk", daemon=True)
    thread.start()
    hosted = ready.get()
    if isinstance(hosted, Exception):
        raise hosted
    try:
        yield hosted
    finally:
        stop.set()
        thread.join()


@contextmanager
def _progress(settings: Settings, parts: dict[str, int], desk: Any) -> Iterator[Callable[[], None]]:
    """A bar on standard error that advances with the blocks judged; the yielded function looks at them."""
    costs_s = [GRASP_S[clock] for clock, count in parts.items() for _ in range(count)]
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[blocks]}"), TimeRemainingColumn())
    # Twice a second: drawing holds the interpreter's lock, for which the simulation waits.
    with Progress(*columns, console=Console(stderr=True), refresh_per_second=2) as bar:
        task = bar.add_task("picking blocks up", total=sum(costs_s), blocks=f"0/{settings.grasps}")

        def show() -> None:
            judged = len(desk.results)
            bar.update(task, completed=sum(costs_s[:judged]), blocks=f"{judged}/{settings.grasps}")

        yield show


def _run_part(clock: str, settings: Settings, port: int, contract: Contract, show: Callable[[], None]) -> Figures:
    """Start the runtime as on the arm, wait until it ends, and return its summary; raises `RuntimeFailedError`."""
    grasps = settings.real if clock == "real" else settings.grasps - settings.real
    with tempfile.TemporaryDirectory() as folder:
        config, summary, errors = (Path(folder) / name for name in ("demo.toml", "summary.json", "errors.txt"))
        config.write_text(_configuration(clock, settings.policy, port, contract))
        command = (*RUNTIME, "run", "--config", str(config), "--arm", "--grasps", str(grasps), "--summary", str(summary))
        limit_s = START_LIMIT_S + GRASP_LIMIT_S[clock] * grasps
        with errors.open("w") as log:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log)
            try:
                code = _await(process, limit_s, show)
            finally:
                _end(process)
        if code is None:
            raise RuntimeFailedError(
                f"the runtime had not made {grasps} grasps after {limit_s:.0f} s, expected about {GRASP_S[clock] * grasps:.0f} s, and was "
                "stopped; close other programs, or try fewer grasps"
            )
        if code < 0:
            raise RuntimeFailedError(f"the runtime was ended by signal {-code}, expected {grasps} grasps first; see who sent it")
        if code:
            said = errors.read_text().strip().splitlines() or ["the runtime gave no reason"]
            raise RuntimeFailedError(said[-1].removeprefix("dofbot: "), code)
        return json.loads(summary.read_text())


def _await(process: subprocess.Popen, limit_s: float, show: Callable[[], None]) -> int | None:
    """The exit code; None after `limit_s`."""
    deadline_s = time.monotonic() + limit_s
    while time.monotonic() < deadline_s:
        show()
        with suppress(subprocess.TimeoutExpired):
            return process.wait(0.2)
    return None


def _end(process: subprocess.Popen) -> None:
    """Let a runtime that still runs park; one that does not is killed."""
    if process.poll() is None:
        process.terminate()
        try:
            with suppress(subprocess.TimeoutExpired):
                process.wait(PARKING_LIMIT_S)
        finally:
            process.kill()
            process.wait()


def _configuration(clock: str, policy: Path, port: int, contract: Contract) -> str:
    """TOML for `dofbot run`: the real driver on an emulated chip. JSON's strings, numbers and booleans are TOML's too."""
    sections: dict[str, dict[str, object]] = {
        "mount": {"inverted": contract.robot.inverted, "base_height_m": contract.robot.base_height_m},
        "bus": {"driver": "pca9685", "i2c": "emulated"},
        "camera": {"driver": "simulator"},
        "simulator": {"port": port, "clock": clock},
        "run": {"policy": str(policy.resolve())},
    }
    lines: list[str] = []
    for name, keys in sections.items():
        lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in keys.items())]
    return "\n".join(lines)


def _figures(settings: Settings, summaries: dict[str, Figures], results: list[Any], late_s: float) -> Figures:
    """All that was measured; timing is from the real-time part, phases and verdicts are from both."""
    from trainer.evaluate import wilson

    grasps = [grasp for summary in summaries.values() for grasp in summary["grasps"]]
    # The runtime's verdicts come in the order of the blocks; a block that was never judged is not picked.
    blocks = [
        {**result._asdict(), "runtime_says_picked": grasp["result"] == "picked"} for result, grasp in zip(results, grasps, strict=False)
    ]
    picked = sum(block["picked"] for block in blocks)
    phases = {phase: [grasp["phase_s"][phase] for grasp in grasps if phase in grasp["phase_s"]] for phase in (Phase.HOMING, *FILMED)}
    real = {name: value for name, value in summaries["real"].items() if name not in ("grasps", "timing")}
    return {
        "simulated": SIMULATED,
        "policy": str(settings.policy),
        "seed": settings.seed,
        "grasps": settings.grasps,
        "picked": picked,
        "interval_95": wilson(picked, settings.grasps),
        "runtime_agrees": sum(block["picked"] == block["runtime_says_picked"] for block in blocks),
        "phase_mean_s": {phase: sum(values) / len(values) for phase, values in phases.items() if values},
        "real_time": {"grasps": settings.real, "simulation_late_s": late_s, **real},
        "timing": summaries["real"]["timing"],  # where a run's summary has it, for `dofbot timing`
        "blocks": blocks,
    }


def _print_table(figures: Figures, out: Path) -> None:
    """What a person wants to know."""
    real, timing, grasps, picked = figures["real_time"], figures["timing"], figures["grasps"], figures["picked"]
    low, high = figures["interval_95"]
    late_ms, age_ms = ([timing[stage][name] * 1e3 for name in ("p50", "p99", "p99_9", "max")] for stage in ("lateness_s", "frame_age_s"))
    rows = {
        "picked up, by physics": f"{picked} of {grasps} (95 % interval {low:.0%} to {high:.0%})",
        "the runtime says the same": f"{figures['runtime_agrees']} of {grasps}",
        "mean time of a phase": ", ".join(f"{phase} {duration_s:.1f} s" for phase, duration_s in figures["phase_mean_s"].items()),
        "ticks late, in real time": "p50 {:.2f} ms, p99 {:.2f} ms, p99.9 {:.2f} ms, max {:.2f} ms".format(*late_ms),
        "ticks skipped, in real time": f"{real['skipped']} of {real['ticks']}",
        "age of a frame when used": "p50 {:.0f} ms, p99 {:.0f} ms, p99.9 {:.0f} ms, max {:.0f} ms".format(*age_ms),
        "policy inference": f"p99 {timing['inference_s']['p99'] * 1e3:.2f} ms",
        "frame to servo bytes": f"p99 {timing['decision_s']['p99'] * 1e3:.2f} ms",
        "memory of the runtime": f"{real['resident_mb']:.0f} MiB",
        "start to first tick": f"{real['start_to_first_tick_s']:.2f} s",
        "simulation behind real time": f"{real['simulation_late_s'] * 1e3:.0f} ms",
    }
    table = Table(title=f"{picked} of {grasps} blocks picked up", caption=SIMULATED, show_header=False)
    for what, found in rows.items():
        table.add_row(what, found)
    console = Console()
    console.print(table)
    console.print(f"{figures['wall_s']:.0f} s in all; pictures and figures are in {out}")
