"""`dofbot run` moves nothing unless told to, refuses what is wrong in one sentence, and parks when it is stopped."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from edge import __version__, cli, robot
from edge.buses.servos import OFF_US, pulses_us
from edge.config import BusConfig
from edge.messages import Float32, Intrinsics, JointCommand
from edge.records.record import read
from edge.remote.commands import Accepted, Arm, Done, Grasp, GraspResult, Park, Refused, Status, StatusReport
from edge.remote.control_client import ControlClient
from edge.simulated.simulator import SimulatorLink
from edge.simulated.wire import UNKNOWN_US, PulsesUs
from trainer import spec
from trainer.server import SimulatorServer

ROOT = Path(__file__).parents[2]
CONTRACT = spec.contract()
LENS = CONTRACT.camera.intrinsics
PARK_US = pulses_us(JointCommand._make((*robot.PARK_RAD, CONTRACT.episode.open_m)), BusConfig().servos)
COUNT_US = 4.89  # what a PCA9685 can resolve


@pytest.fixture(scope="module")
def policy(tmp_path_factory) -> Path:
    """A policy for the real task that has learnt nothing: it always moves a little to one side."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnx")
    from trainer.export import Examples, export_onnx

    class Actor(torch.nn.Module):  # type: ignore[name-defined,misc]
        def forward(self, depth: Any, proprio: Any) -> Any:
            return torch.tanh(0.01 * (depth.mean((1, 2, 3))[:, None] + proprio[:, :2]))

    depth = np.full((1, 1, LENS.height, LENS.width), 0.5, np.float32)
    path = tmp_path_factory.mktemp("policy") / "policy.onnx"
    export_onnx(Actor(), CONTRACT, Examples(depth, np.array([[0.0, 0.16, 0.1, 100.0, 0.0, 0.0]], np.float32)), path)
    return path


class FakeWorld:
    """Time, the pulses that came, and a camera that sees a block everywhere."""

    frame_rate_hz = 25.0

    def __init__(self) -> None:
        self.now_s = 0.0
        self.pulses_us: list[PulsesUs] = []
        self.moving = threading.Event()  # a pulse has come
        self.depth_m: Callable[[], Float32] = lambda: np.full((LENS.height, LENS.width), 0.1, np.float32)
        self.lens: Intrinsics = LENS

    def write_pulses(self, pulses_us: PulsesUs) -> None:
        self.pulses_us.append(pulses_us)
        if any(pulses_us):
            self.moving.set()

    def step(self, duration_s: float) -> None:
        self.now_s += duration_s

    def servos_us(self) -> PulsesUs:
        return UNKNOWN_US

    def depth_frame(self) -> tuple[Float32, Intrinsics]:
        return self.depth_m(), self.lens

    @property
    def powered(self) -> list[PulsesUs]:
        """Commands that any servo took."""
        return [pulses for pulses in self.pulses_us if any(pulses)]


class Desk(NamedTuple):
    """A simulator with a fake world, and a configuration that names it and the policy."""

    world: FakeWorld
    server: SimulatorServer
    config: Path
    policy: Path

    @property
    def socket(self) -> Path:
        """Where the process takes commands."""
        return self.config.with_suffix(".sock")

    def seen(self) -> FakeWorld:
        """The world, once it has taken all that was sent: another client is welcome only then."""
        SimulatorLink.connect(self.server.port, "virtual").close()
        return self.world

    def configure(self, **sections: dict[str, Any]) -> None:
        """Write the configuration anew, with these keys on top."""
        keys: dict[str, dict[str, Any]] = {
            "bus": {"driver": "simulator"},
            "simulator": {"port": self.server.port, "clock": "virtual"},
            "run": {"policy": str(self.policy), "grasps": 1},
            "control": {"socket": str(self.socket)},
        }
        for section, changes in sections.items():
            keys[section] = keys.get(section, {}) | changes
        lines = (
            f"[{name}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items()) for name, values in keys.items()
        )
        self.config.write_text("".join(lines))


@pytest.fixture
def desk(policy, tmp_path, monkeypatch) -> Iterator[Desk]:
    monkeypatch.setattr("trainer.server.POLL_S", 0.01)  # so that it stops at once
    world, stop = FakeWorld(), threading.Event()
    server = SimulatorServer(world)
    thread = threading.Thread(target=server.serve, args=(stop,))
    thread.start()
    desk = Desk(world, server, tmp_path / "dofbot.toml", policy)
    desk.configure()
    yield desk
    stop.set()
    thread.join(timeout=10.0)
    assert not thread.is_alive()


class Said(NamedTuple):
    """How the command line ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def dofbot(monkeypatch, capsys) -> Callable[..., Said]:
    """Call `main` as the shell does; no other part's verbs, unless they are given."""
    commands = list(cli.app.registered_commands)
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]

    def call(*arguments: object, verbs: tuple[Any, ...] = ()) -> Said:
        monkeypatch.setattr(cli, "entry_points", lambda group: verbs if group == "dofbot.verbs" else ())
        monkeypatch.setattr(cli.app, "registered_commands", list(commands))
        monkeypatch.setattr(sys, "argv", ["dofbot", *map(str, arguments)])
        code = 0
        try:
            cli.main()
        except SystemExit as ended:
            code = ended.code or 0  # type: ignore[assignment]
        assert handlers == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
        return Said(code, *capsys.readouterr())

    return call


def refused(said: Said, code: int, *parts: str) -> None:
    """One sentence on standard error that has all the parts."""
    assert said.code == code, said
    assert said.out == ""
    assert said.err.startswith("dofbot: ")
    assert said.err.count("\n") == 1
    for part in parts:
        assert part in said.err


# Running


def test_a_run_grasps_parks_and_lets_go(desk, dofbot, tmp_path) -> None:
    record = tmp_path / "record"
    desk.configure(run={"record": str(record)})
    said = dofbot("run", "--config", desk.config, "--arm", "--grasps", 2, "--summary", tmp_path / "summary.json")
    assert said.code == 0
    assert said.out.startswith("2 of 2 picked; tick lateness p99 ")
    assert said.out.endswith("stopped: done\n")
    assert desk.seen().powered[0] == pytest.approx(PARK_US, abs=30)
    assert desk.seen().powered[-1] == pytest.approx(PARK_US)
    assert desk.seen().pulses_us[-1] == OFF_US
    figures = json.loads((tmp_path / "summary.json").read_text())
    assert (figures["attempts"], figures["picked"], figures["stopped_by"]) == (2, 2, "done")
    ticks = list(read(record))
    assert len(ticks) == figures["ticks"] - 1 == len(desk.seen().powered)  # in the last tick the servos are switched off
    sequences = [tick.frame_sequence for tick in ticks]
    assert sequences[0] == -1
    assert sorted(sequences) == sequences
    assert len(set(sequences)) > 2 * CONTRACT.episode.steps  # a new frame for every decision


def test_the_configuration_says_how_many_grasps(desk, dofbot) -> None:
    desk.configure(run={"grasps": 1})
    assert dofbot("run", "--config", desk.config, "--arm").out.startswith("1 of 1 picked")


def test_a_check_opens_everything_moves_nothing_and_ends(desk, dofbot, tmp_path) -> None:
    record = tmp_path / "record"
    record.write_bytes(b"of the last run")
    desk.configure(run={"record": str(record)})
    said = dofbot("run", "--check", "--config", desk.config)
    assert (said.code, said.err) == (0, "")
    assert said.out.startswith("DISARMED: ")
    assert not desk.seen().powered
    assert record.read_bytes() == b"of the last run"


@pytest.mark.parametrize("bus", [{"driver": "simulator"}, {"driver": "pca9685", "i2c": "emulated"}])
@pytest.mark.parametrize("arm", [["--check"], ["--arm"]])
def test_both_busses_power_nothing_unless_armed(bus, arm, desk, dofbot) -> None:
    if bus["driver"] == "pca9685":
        pytest.importorskip("adafruit_servokit")
    desk.configure(bus=bus)
    assert dofbot("run", "--config", desk.config, *arm).code == 0
    assert bool(desk.seen().powered) == (arm == ["--arm"])
    assert arm == ["--check"] or desk.seen().powered[-1] == pytest.approx(PARK_US, abs=COUNT_US)
    assert desk.seen().pulses_us[-1] == OFF_US


def test_a_covered_camera_ends_in_safe_and_parks(desk, dofbot, tmp_path) -> None:
    desk.world.depth_m = lambda: np.zeros((LENS.height, LENS.width), np.float32)
    said = dofbot("run", "--config", desk.config, "--arm", "--summary", tmp_path / "summary.json")
    assert said.code == cli.EXIT_SAFE == 3
    assert "stopped: SAFE" in said.out
    figures = json.loads((tmp_path / "summary.json").read_text())
    assert "held for 5.0 s: 100% of the depth pixels are invalid" in figures["safe_reason"]
    assert desk.seen().powered[-1] == pytest.approx(PARK_US)
    assert desk.seen().pulses_us[-1] == OFF_US


def test_a_summary_that_cannot_be_written_is_told_after_the_run(desk, dofbot, tmp_path) -> None:
    said = dofbot("run", "--config", desk.config, "--arm", "--summary", tmp_path / "absent" / "summary.json")
    assert said.code == 2
    assert said.out.startswith("1 of 1 picked")
    assert "dofbot: --summary" in said.err
    assert "cannot be written (No such file or directory); give another path" in said.err


# Refusing


def test_an_unknown_key_names_the_nearest(desk, dofbot) -> None:
    desk.configure(run={"grasp": 3})
    refused(dofbot("run", "--config", desk.config, "--arm"), 2, "[run] 'grasp'", "did you mean 'grasps'?")
    assert not desk.seen().pulses_us


def test_a_value_out_of_range_says_what_is_allowed(desk, dofbot) -> None:
    desk.configure(mount={"base_height_m": 38.8})
    refused(dofbot("run", "--config", desk.config, "--arm"), 2, "mount.base_height_m = 38.8", "<= 1.0")
    assert not desk.seen().pulses_us


def test_a_configuration_that_is_not_there_is_named(desk, dofbot, tmp_path) -> None:
    refused(dofbot("run", "--config", tmp_path / "absent.toml", "--arm"), 2, "absent.toml does not exist", "--config")
    tmp_path.joinpath("broken.toml").write_text("[run\n")
    refused(dofbot("run", "--config", tmp_path / "broken.toml", "--arm"), 2, "broken.toml is not readable TOML")


def test_a_place_out_of_reach_names_its_field(desk, dofbot) -> None:
    desk.configure(run={"place_in_table_m": [-0.2, 0.06]})
    refused(dofbot("run", "--config", desk.config, "--arm"), 2, "run.place_in_table_m = (-0.2, 0.06)", "mm out of reach")
    assert not desk.seen().pulses_us


def foreign(_: bytes) -> bytes:
    onnx = pytest.importorskip("onnx")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    tensors = [[helper.make_tensor_value_info(name, kind, [1])] for name in "ab"]
    return helper.make_model(helper.make_graph([helper.make_node("Identity", ["a"], ["b"])], "foreign", *tensors)).SerializeToString()


def flipped(data: bytes) -> bytes:
    return data[:500] + bytes([data[500] ^ 4]) + data[501:]


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (lambda data: data[:-100], ("not a dofbot-grasp policy", "found 0 dofbot_sha256 entries, expected 1")),
        (lambda data: data[:100], ("not a dofbot-grasp policy", "found 0 dofbot_sha256 entries", "dofbot export")),
        (flipped, ("damaged", "expected", "copy or export the file again")),
        (foreign, ("not a dofbot-grasp policy", "found 0 dofbot_sha256 entries, expected 1", "dofbot export")),
        (lambda data: b"", ("not a dofbot-grasp policy",)),
    ],
    ids=["truncated", "stub", "one bit", "foreign", "empty"],
)
def test_a_bad_policy_is_refused(change, parts, desk, dofbot, tmp_path) -> None:
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(change(desk.policy.read_bytes()))
    desk.configure(run={"policy": str(bad)})
    refused(dofbot("run", "--config", desk.config, "--arm"), 78, str(bad), *parts)
    assert not desk.seen().pulses_us


def test_a_policy_that_is_not_there_is_named(desk, dofbot, tmp_path) -> None:
    desk.configure(run={"policy": str(tmp_path / "absent.onnx")})
    refused(dofbot("run", "--config", desk.config, "--arm"), 78, "absent.onnx", "run.policy", "dofbot export")


@pytest.mark.parametrize(
    ("mount", "field", "expected"),
    [
        ({"base_height_m": 0.4}, "robot.base_height_m is 0.388", "expected 0.4 ± 0.001"),
        ({"inverted": False}, "robot.inverted is True", "False"),
    ],
)
def test_a_policy_for_another_mount_is_refused(mount, field, expected, desk, dofbot) -> None:
    desk.configure(mount=mount)
    refused(dofbot("run", "--config", desk.config, "--arm"), 78, field, expected, "correct [mount] in the configuration")
    assert not desk.seen().pulses_us


def test_no_simulator_is_one_sentence(desk, dofbot) -> None:
    silent = SimulatorServer(FakeWorld())
    silent._listener.close()
    desk.configure(simulator={"port": silent.port})
    refused(dofbot("run", "--config", desk.config, "--arm"), 1, f"no simulator answers on 127.0.0.1:{silent.port}", "dofbot simulate")


def millimetres() -> Float32:
    return np.full((LENS.height, LENS.width), 100.0, np.float32)


@pytest.mark.parametrize(
    ("depth_m", "lens", "code", "parts"),
    [
        (millimetres, LENS, 1, ("the nearest depth is 100, expected metres", "multiply by the camera's depth scale")),
        (lambda: millimetres() * np.nan, LENS, 1, ("least depth_m is nan", "expected 0.0")),
        (lambda: millimetres()[:-1], LENS, 1, ("shape (63, 64), expected (64, 64)",)),
        (lambda: millimetres() / 1e3, LENS._replace(fx=2 * LENS.fx), 78, ("camera view ends", "camera.intrinsics", "wider depth profile")),
    ],
    ids=["millimetres", "NaN", "cropped", "narrow"],
)
@pytest.mark.parametrize("clock", ["virtual", "real"])
def test_a_camera_of_the_wrong_kind_is_refused(clock, depth_m, lens, code, parts, desk, dofbot) -> None:
    desk.world.depth_m, desk.world.lens = depth_m, lens
    desk.configure(simulator={"clock": clock})
    refused(dofbot("run", "--config", desk.config, "--arm"), code, *parts)
    assert not desk.seen().powered


# Verbs of other parts


def test_version(dofbot) -> None:
    assert dofbot("--version") == Said(0, f"dofbot {__version__}\n", "")


class Verb(NamedTuple):
    """An entry point."""

    name: str
    register: Any

    def load(self) -> Any:
        if isinstance(self.register, Exception):
            raise self.register
        return self.register


def lacking(module: str) -> ModuleNotFoundError:
    return ModuleNotFoundError(f"No module named {module!r}", name=module)


def test_other_parts_add_verbs(dofbot) -> None:
    def register(app: typer.Typer) -> None:
        @app.command()
        def greet(name: str) -> None:
            typer.echo(f"hello {name}")

    assert dofbot("greet", "you", verbs=(Verb("greetings", register),)).out == "hello you\n"


def test_a_part_that_cannot_be_imported_says_so_only_when_asked(desk, dofbot) -> None:
    verbs = (Verb("training", lacking("torch.nn")),)
    said = dofbot("run", "--check", "--config", desk.config, verbs=verbs)
    assert (said.code, said.err) == (0, "")
    said = dofbot("--help", verbs=verbs)
    assert said.code == 0
    assert "Not available: No module named" in said.out
    refused(dofbot("training", verbs=verbs), 2, "torch is not installed", "pip install 'dofbot-grasp[trainer]'")


def test_a_verb_that_lacks_its_extra_says_which(dofbot) -> None:
    def register(app: typer.Typer) -> None:
        @app.command()
        def demo() -> None:
            raise lacking("pybullet")

        @app.command()
        def broken() -> None:
            raise lacking("trainer.nonsense")

    verbs = (Verb("simulation", register),)
    refused(dofbot("demo", verbs=verbs), 2, "pybullet is not installed; run: pip install 'dofbot-grasp[sim]'")
    with pytest.raises(ModuleNotFoundError, match=r"trainer\.nonsense"):  # ours, and so a bug: it keeps its traceback
        dofbot("broken", verbs=verbs)


def brought(extra: str, extras: dict[str, list[str]]) -> list[str]:
    """What an extra brings, by way of other extras, too."""
    others = [name for requirement in extras[extra] for name in re.findall(r"^dofbot-grasp\[(.*)\]$", requirement)]
    return extras[extra] + [one for names in others for name in names.split(",") for one in brought(name, extras)]


def test_every_optional_package_has_its_extra() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    optional = set(project["tool"]["ruff"]["lint"]["flake8-tidy-imports"]["banned-module-level-imports"]) - {"calibration", "trainer"}
    assert optional <= set(cli.EXTRAS)
    extras = project["project"]["optional-dependencies"]
    distributions = {
        "adafruit_servokit": "adafruit-circuitpython-servokit",
        "PIL": "pillow",
        "cv2": "opencv-contrib-python-headless",
        "fpdf": "fpdf2",
        "nacl": "pynacl",
    }
    for module, extra in cli.EXTRAS.items():
        distribution = distributions.get(module, module.replace("_", "-"))
        assert any(requirement.startswith(distribution) for requirement in brought(extra, extras)), module


def test_the_installed_verbs_load_without_anything_heavy() -> None:
    verbs = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["dofbot.verbs"]
    program = "import sys, typer; from importlib.metadata import EntryPoint; app = typer.Typer()\n"
    program += f"for name, value in {verbs!r}.items(): EntryPoint(name, value, 'dofbot.verbs').load()(app)\n"
    program += "print([name for name in ('torch', 'pybullet', 'numba', 'onnx', 'numpy') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    assert all(EntryPoint(name, value, "dofbot.verbs").attr == "register" for name, value in verbs.items())


# Being interrupted


@pytest.mark.parametrize("where", ["edge.service.open_devices", "edge.service.load", "edge.service.preflight"])
def test_ctrl_c_before_the_first_tick_ends_at_once(where, desk, dofbot, monkeypatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(where, interrupted)
    said = dofbot("run", "--config", desk.config, "--arm")
    assert said.code == 130
    assert "Traceback" not in said.err
    assert not desk.seen().powered


def test_ctrl_c_while_verbs_load_ends_at_once(dofbot) -> None:
    def register(_: typer.Typer) -> None:
        raise KeyboardInterrupt

    assert dofbot("run", verbs=(Verb("any", register),)) == Said(130, "", "")


@pytest.fixture
def process(desk) -> Iterator[subprocess.Popen[str]]:
    """`dofbot run` for ever, in real time, once the arm moves."""
    desk.configure(simulator={"clock": "real"}, run={"grasps": 0})
    command = [
        sys.executable,
        "-m",
        "edge.cli",
        "run",
        "--config",
        str(desk.config),
        "--arm",
        "--summary",
        str(desk.config.with_suffix(".json")),
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert desk.world.moving.wait(20.0)
        time.sleep(0.5)  # HOMING takes 1 s
        yield process
        process.kill()


def test_a_terminal_that_takes_no_line_holds_up_neither_the_arm_nor_its_stop(desk) -> None:
    """Paused by Ctrl-S, or a pipe that nobody reads: what is logged waits, and the loop does not."""
    desk.configure(simulator={"clock": "real"}, run={"grasps": 0})
    unread, full = os.pipe()
    os.set_blocking(full, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(full, bytes(4096))
    os.set_blocking(full, True)
    command = [sys.executable, "-m", "edge.cli", "run", "--verbose", "--config", str(desk.config), "--arm"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=full) as process:
        try:
            os.close(full)
            assert desk.world.moving.wait(10.0)
            process.send_signal(signal.SIGTERM)
            ends_s = time.monotonic() + 5.0
            while any(desk.world.pulses_us[-1]):
                assert time.monotonic() < ends_s
                time.sleep(0.02)
            with os.fdopen(unread, "rb") as reader:
                said = reader.read().lstrip(bytes(1)).decode()
            assert process.wait(5.0) == 0
        finally:
            process.kill()
    assert "INFO DISARMED → HOMING\n" in said
    assert said.endswith("INFO PARK → DISARMED\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_parks_the_arm_first(number, desk, process) -> None:
    process.send_signal(number)
    began_s = time.monotonic()
    out, err = process.communicate(timeout=20.0)
    assert time.monotonic() - began_s < 5.0
    assert (process.returncode, err) == (0, "")
    assert out.endswith("stopped: signal\n")
    assert desk.seen().powered[-1] == pytest.approx(PARK_US)
    assert desk.seen().pulses_us[-1] == OFF_US
    figures = json.loads(desk.config.with_suffix(".json").read_text())
    assert 0.1 < figures["start_to_first_tick_s"] < 10.0
    assert figures["resident_mb"] < 120.0


def test_a_bus_that_is_lost_holds_and_ends_in_safe_and_says_both(desk, process) -> None:
    def gone(_: float) -> None:
        raise OSError("unplugged")

    desk.world.step = gone  # type: ignore[method-assign]
    out, err = process.communicate(timeout=20.0)
    assert process.returncode == 3
    assert out.endswith("stopped: SAFE\n")
    hold, *_, safe = [line for line in err.splitlines() if "→" in line]
    assert re.match(r"WARNING (HOMING|APPROACH) → HOLD: the connection to the simulator on port ", hold)
    assert safe.startswith("ERROR HOLD → SAFE: held for 5.0 s: the connection to the simulator on port ")


def test_a_second_ctrl_c_lets_go_at_once(desk, process) -> None:
    process.send_signal(signal.SIGINT)
    time.sleep(0.15)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20.0)
    assert process.returncode == 130
    assert (out, err) == ("", "")
    assert max(abs(sent - park) for sent, park in zip(desk.seen().powered[-1], PARK_US, strict=True)) > 20.0
    assert desk.seen().pulses_us[-1] == OFF_US


def test_ctrl_c_parks_and_sigterm_after_it_changes_nothing(desk, process) -> None:
    """As when a parent process that got the same Ctrl-C ends its child."""
    process.send_signal(signal.SIGINT)
    time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=20.0)
    assert (process.returncode, err) == (0, "")
    assert out.endswith("stopped: signal\n")
    assert desk.seen().powered[-1] == pytest.approx(PARK_US)


# As a service


@pytest.fixture
def service(desk) -> Iterator[subprocess.Popen[str]]:
    """`dofbot run` in real time, once it listens."""
    desk.configure(simulator={"clock": "real"})
    command = [sys.executable, "-m", "edge.cli", "run", "--verbose", "--config", str(desk.config)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        ends_s = time.monotonic() + 20.0
        while not desk.socket.exists() and process.poll() is None:
            assert time.monotonic() < ends_s
            time.sleep(0.02)
        yield process
        process.kill()


def test_without_arm_it_is_disarmed_until_it_is_commanded_and_parks_when_it_is_told(desk, service) -> None:
    with ControlClient(desk.socket) as client:
        assert isinstance(client.ask(Grasp()), Refused)
        assert not any(map(any, desk.world.pulses_us))
        assert client.ask(Arm()) == Done(text="armed; dofbot grasp", id=2)
        ticket = client.send(Grasp())
        assert isinstance(client.receive(ticket, 5.0), Accepted)
        assert desk.world.moving.wait(5.0)
        time.sleep(0.3)
        report = client.ask(Status())
        assert isinstance(report, StatusReport)
        assert report.state in ("HOMING", "APPROACH", "HOLD")  # a busy machine holds
        parking = client.send(Park())
        assert isinstance(client.receive(ticket, 5.0), GraspResult)
        assert isinstance(client.receive(parking, 5.0), Accepted)
        assert client.receive(parking, 10.0) == Done(text="parked, servos off", id=parking)
        report = client.ask(Status())
        assert isinstance(report, StatusReport)
        assert report.state == "DISARMED"
    service.send_signal(signal.SIGTERM)
    out, err = service.communicate(timeout=10.0)
    assert service.returncode == 0
    assert out.endswith("stopped: signal\n")
    assert "PARK → DISARMED" in err
    assert desk.seen().powered[-1] == pytest.approx(PARK_US)
    assert desk.seen().pulses_us[-1] == OFF_US
    assert not desk.socket.exists()


def test_a_service_that_is_stopped_in_motion_parks_in_time_and_answers_whoever_waits(desk, service) -> None:
    with ControlClient(desk.socket) as client:
        client.ask(Arm())
        ticket = client.send(Grasp())
        assert desk.world.moving.wait(5.0)
        time.sleep(0.5)
        service.send_signal(signal.SIGTERM)
        began_s = time.monotonic()
        assert isinstance(client.receive(ticket, 5.0), Accepted)
        result = client.receive(ticket, 5.0)
        assert isinstance(result, GraspResult)
        assert result.picked == 0
    service.communicate(timeout=10.0)
    assert time.monotonic() - began_s < 5.0
    assert service.returncode == 0
    assert desk.seen().powered[-1] == pytest.approx(PARK_US)
    assert desk.seen().pulses_us[-1] == OFF_US


def test_without_a_socket_nobody_could_arm_it(desk, dofbot) -> None:
    desk.configure(control={"socket": ""})
    refused(dofbot("run", "--config", desk.config), 2, "control.socket = ''", "--arm")


@pytest.mark.parametrize("words", [("--for", "nan"), ("--for=NaN",), ("--value", "-nan")])
def test_what_is_not_a_number_is_refused_for_every_verb(words: tuple[str, ...]) -> None:
    """It passes each `min` and `max`: it is neither below the one nor above the other."""
    result = CliRunner().invoke(cli.app, ["inject", "camera", "off", *words])
    assert result.exit_code == 2
    assert "is not a number" in result.output
