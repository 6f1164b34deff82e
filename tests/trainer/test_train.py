"""A training run leaves what it promises, resumes exactly where it was, and ends in one sentence whatever happens."""

import csv
import math
import os
import resource
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import msgspec
import pytest
import typer

torch = pytest.importorskip("torch")
pytest.importorskip("pybullet")

from edge import contract as edge_contract  # noqa: E402
from edge.errors import ConfigError, DofbotError  # noqa: E402
from edge.policy import load as load_policy  # noqa: E402
from trainer import checkpoint, cli, runlog, spec  # noqa: E402
from trainer import train as front  # noqa: E402
from trainer.evaluate import Outcome, evaluate, open_actor  # noqa: E402
from trainer.publish import open_trained, publish  # noqa: E402
from trainer.runlog import Row, RunLog  # noqa: E402
from trainer.sac.sac import Learner, NotFiniteError, Settings  # noqa: E402

ROOT = Path(__file__).parents[2]
TINY = Settings(env_steps=1280, batch=16, warmup_steps=64, demo_episodes=1, capacity=4000)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a run that did its steps; to be looked at only."""
    out = tmp_path_factory.mktemp("run")
    ending, last = front.train_sac(out, TINY, 0.0)
    assert (ending, last.env_steps) == ("steps done", 1280)
    return out


@pytest.fixture
def run_folder(finished, tmp_path):
    """A copy of it, to be spoilt."""
    (tmp_path / checkpoint.NAME).write_bytes((finished / checkpoint.NAME).read_bytes())
    (tmp_path / runlog.CURVE).write_bytes((finished / runlog.CURVE).read_bytes())
    return tmp_path


def dofbot(*arguments):
    """Run a verb in this process."""
    app = typer.Typer()
    cli.register(app)
    return app([str(argument) for argument in arguments], standalone_mode=False)


def equal(a, b):
    """Whether two states are the same to the last bit."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    return a == b or (a != a and b != b)


def test_a_run_leaves_curve_checkpoint_actor_and_scalars(finished):
    rows = runlog.read(finished)
    assert [row.env_steps for row in rows] == [640, 1280]
    assert math.isfinite(rows[-1].critic_loss)
    assert rows[-1].wall_s > rows[0].wall_s > 0.0
    stored = checkpoint.load(finished / "actors" / "1280.pt")
    assert stored.learner is None
    assert equal(stored.actor, checkpoint.load(finished / checkpoint.NAME).actor)
    outcomes = evaluate(partial(open_actor, finished / "actors" / "1280.pt"), 3, workers=1)
    assert [outcome.is_success for outcome in outcomes] == [False] * 3  # it has learnt for 38 chunks
    assert list((finished / "tensorboard").glob("events.*"))


def test_resuming_starts_from_exactly_what_was_saved(run_folder, monkeypatch):
    saved = checkpoint.load(run_folder / checkpoint.NAME)
    seen = {}

    def watched(learner, collector, report):
        seen["state"] = learner.state_dict()
        seen["equal"] = equal(seen["state"], saved.learner)  # before the first update changes it
        original(learner, collector, report)

    original = front.train
    monkeypatch.setattr(front, "train", watched)
    torch.manual_seed(12345)
    ending, last = front.resume_sac(run_folder, 1920, 0.0)
    assert seen["equal"]
    assert set(seen["state"]["replay"]) > {"depth", "action", "written", "cut"}
    assert (ending, last.env_steps) == ("steps done", 1920)
    after = checkpoint.load(run_folder / checkpoint.NAME)
    assert after.learner["replay"]["written"] == saved.learner["replay"]["written"] + 80
    assert after.learner["replay"]["cut"][saved.learner["replay"]["written"] - 1]  # what follows a resumption is no successor
    assert after.learner["updates"] > saved.learner["updates"]
    assert after.wall_s > saved.wall_s
    assert after.header.settings.env_steps == 1920
    assert [row.env_steps for row in runlog.read(run_folder)] == [640, 1280, 1920]


def test_rows_that_a_resumed_run_repeats_are_dropped(tmp_path):
    with RunLog(tmp_path, 100, 0, 0.0) as log:
        for steps in (10, 20, 30):
            log.write(Row(steps, steps / 10, 0.5))
    with RunLog(tmp_path, 100, 20, 2.0) as log:
        log.write(Row(40, 4.0, 0.6, eval_success=1.0))
    assert [row.env_steps for row in runlog.read(tmp_path)] == [10, 20, 40]
    with (tmp_path / runlog.CURVE).open() as file:
        assert next(csv.reader(file)) == list(Row._fields)


# --- checkpoints that must be refused ---


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_a_truncated_checkpoint_is_one_sentence(run_folder, share):
    path = run_folder / checkpoint.NAME
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(DofbotError, match="is damaged"):
        front.resume_sac(run_folder, None, 0.0)


def rewrite(path, **changes):
    """The same checkpoint with other fields in its header."""
    content = torch.load(path, weights_only=True)
    header = msgspec.json.decode(content["header"])
    content["header"] = msgspec.json.encode({**header, **changes}).decode()
    torch.save(content, path)


@pytest.mark.parametrize(("field", "value"), [("format", 2), ("package", "0.0.1")])
def test_a_checkpoint_of_another_version_names_the_field(run_folder, field, value):
    rewrite(run_folder / checkpoint.NAME, **{field: value})
    with pytest.raises(DofbotError, match=f"has {field} {value!r}, expected"):
        front.resume_sac(run_folder, None, 0.0)


def test_a_checkpoint_for_another_task_names_the_field(run_folder):
    contract = msgspec.json.decode(edge_contract.encode(spec.contract()))
    contract["episode"]["steps"] = 50
    rewrite(run_folder / checkpoint.NAME, contract=contract)
    with pytest.raises(DofbotError, match=r"contract episode\.steps = 50, but it is 100 now"):
        front.resume_sac(run_folder, None, 0.0)
    with pytest.raises(DofbotError, match=r"episode\.steps = 50"):
        open_trained(run_folder)


def test_resuming_what_cannot_be_resumed(run_folder, finished):
    with pytest.raises(DofbotError, match="has 1280 steps already"):
        front.resume_sac(run_folder, 1280, 0.0)
    with pytest.raises(DofbotError, match="holds the actor alone"):
        front.resume_sac(finished / "actors" / "1280.pt", None, 0.0)
    with pytest.raises(DofbotError, match="not readable"):
        front.resume_sac(run_folder / "none.pt", None, 0.0)


# --- endings ---


def test_not_a_number_keeps_the_last_checkpoint(run_folder, monkeypatch):
    before = (run_folder / checkpoint.NAME).read_bytes()

    def spoilt(self):
        raise NotFiniteError("the critic loss is nan after 1312 steps, expected a number")

    monkeypatch.setattr(Learner, "update", spoilt)
    with pytest.raises(NotFiniteError, match=f"nan after 1312 steps.*--resume {run_folder}") as caught:
        front.resume_sac(run_folder, 1920, 0.0)
    assert caught.value.exit_code == 1
    assert (run_folder / checkpoint.NAME).read_bytes() == before


def test_spoilt_weights_never_replace_a_good_checkpoint(tmp_path):
    learner = Learner(spec.contract(), TINY)
    header = checkpoint.new_header(TINY, spec.contract())
    path = tmp_path / checkpoint.NAME
    checkpoint.save(path, header, learner)
    before = path.read_bytes()
    with torch.no_grad():
        learner.critic.values[1][0].weight[3, 2] = math.inf
    with pytest.raises(NotFiniteError, match="the critic has weights"):
        checkpoint.save(path, header, learner)
    assert path.read_bytes() == before


def test_a_full_disk_keeps_the_last_checkpoint(run_folder):
    """The limit on a file's size stands in for the disk's end: the kernel refuses the same write."""
    before = (run_folder / checkpoint.NAME).read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))
    try:
        with pytest.raises(DofbotError, match="cannot write .*checkpoint.pt .*; the last checkpoint is as it was"):
            front.resume_sac(run_folder, 1920, 0.0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (run_folder / checkpoint.NAME).read_bytes() == before
    assert not list(run_folder.glob(".*"))  # no half-written file is left


def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path):
    """As a terminal sends it: to the whole process group, wherever the processes are."""
    program = "import sys, typer; from trainer.cli import register; app = typer.Typer(); register(app); app()"
    command = [sys.executable, "-c", program, "train", "--no-demos", "--out", str(tmp_path / "run")]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline_s = time.monotonic() + 60.0
    while len(runlog.read(tmp_path / "run")) < 1 and time.monotonic() < deadline_s:
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    output, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert f"go on with: dofbot train --resume {tmp_path / 'run'}" in output
    assert "Traceback" not in errors
    steps = checkpoint.load(tmp_path / "run" / checkpoint.NAME).env_steps
    assert f"interrupted after {steps:,} steps" in output
    assert (tmp_path / "run" / "curve.png").stat().st_size > 1000


# --- the early stop ---


@pytest.fixture
def screened(monkeypatch, tmp_path):
    """A run whose screens give the numbers of failures in `results`, among 100 and then 900; and the seeds that they used."""
    results, seeds = [], []

    def evaluate(_, episodes, seed):
        seeds.append(seed)
        first, second = results.pop(0)
        failures = [i < first for i in range(100)] + [i < second for i in range(900)]
        return (Outcome(seed + i, 0.0, 0.1, 0.0, not failed, 0.0) for i, failed in enumerate(failures))

    monkeypatch.setattr(front, "evaluate", evaluate)
    with RunLog(tmp_path, 100_000, 0, 0.0) as log:
        yield front.Run(log, 0, 0.99, lambda: None, lambda: None, lambda: None, lambda: False), results, seeds


def test_stops_only_when_screen_and_confirmation_agree(screened, tmp_path):
    run, results, seeds = screened
    results += [(2, 0), (1, 10), (1, 9)]  # 98/100; 99/100 and 890/900; 99/100 and 891/900
    ended = next(steps for steps in range(0, 100_000, 32) if run.report(Row(steps, steps / 300, 0.98)))
    assert run.ending == "success confirmed"
    assert ended == 2 * front.SCREEN_AGAIN_STEPS
    assert seeds == [front.SCREEN_SEED + k * front.SCREEN_AGAIN_STEPS for k in range(3)]
    found = [row.eval_success for row in runlog.read(tmp_path) if not math.isnan(row.eval_success)]
    assert found == pytest.approx([0.98, 890 / 900, 0.99])


@pytest.mark.parametrize("row", [Row(5000, 1.0, 0.95), Row(5000, 1.0, math.nan), Row(5000, 1.0, 1.0, spawn_fraction=0.75)])
def test_does_not_screen_before_it_is_worth_it(screened, row):
    run, _, seeds = screened
    assert not run.report(row)
    assert seeds == []


# --- the verbs ---


def test_a_second_run_does_not_overwrite_the_first(finished):
    with pytest.raises(DofbotError, match="has a training run already; go on with --resume"):
        dofbot("train", "--out", finished)


@pytest.mark.parametrize("option", ["--seed=1", "--no-demos", "--algo=sac", "--out=elsewhere"])
def test_what_a_run_fixed_is_not_asked_for_again(finished, option):
    with pytest.raises(ConfigError, match="is fixed by the run"):
        dofbot("train", "--resume", finished, option)


def test_export_measures_and_writes_everything_beside_the_policy(run_folder, tmp_path, capfd):
    out = tmp_path / "new" / "policy.onnx"
    dofbot("export", run_folder, "--out", out, "--episodes", 3, "--suite", "clean", "--suite", "randomised")
    text = capfd.readouterr().out
    assert "clean: 0 of 3 grasped" in text
    assert "argv" not in text
    contract = load_policy(out).contract
    assert [(record.suite, record.episodes) for record in contract.evaluation] == [("clean", 3), ("randomised", 3)]
    training = contract.training
    assert (training.algorithm, training.env_steps, training.seed, training.variant) == ("sac", 1280, 0, "depth")
    assert training.commit == checkpoint.load(run_folder / checkpoint.NAME).header.commit
    assert len((out.parent / "policy.csv").read_text().splitlines()) == 4
    assert {path.name for path in out.parent.iterdir()} == {"policy.onnx", "policy.csv", "policy.png", "policy-curve.csv"}
    before = out.read_bytes()
    with pytest.raises(DofbotError, match="exists already"):
        dofbot("export", run_folder, "--out", out)
    assert out.read_bytes() == before

    dofbot("eval", out, "--episodes", 3, "--json", "--out", tmp_path / "eval")
    (result,) = msgspec.json.decode(capfd.readouterr().out)["suites"]  # JSON and nothing else
    assert (result["suite"], result["episodes"], result["successes"]) == ("clean", 3, 0)
    assert result["interval_95"] == list(contract.evaluation[0].interval_95)
    assert result["misses_mm"]["p50"] <= result["misses_mm"]["max"]
    assert sum(result["causes"].values()) == 3
    assert (tmp_path / "eval" / "clean.png").stat().st_size > 1000
    assert (tmp_path / "eval" / "clean.csv").read_text() == (out.parent / "policy.csv").read_text()


def test_an_interrupted_export_leaves_no_policy(run_folder, tmp_path):
    def interrupted(outcomes):
        next(iter(outcomes))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        publish(run_folder, tmp_path / "p.onnx", ["clean"], 8, interrupted)
    assert not (tmp_path / "p.onnx").exists()
