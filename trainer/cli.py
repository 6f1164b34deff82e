"""The verbs `train`, `export` and `eval`. Nothing heavy is imported before one of them runs."""

import contextlib
import shlex
import time
from collections.abc import Iterable, Iterator
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from edge.errors import ConfigError, DofbotError, MissingExtraError

if TYPE_CHECKING:
    from edge.contract import Evaluation
    from trainer.evaluate import Measured, Outcome

EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells report it
_FIXED_BY_RESUME = ("algo", "variant", "out", "seed", "demos", "auxiliary", "privileged", "reward", "curriculum", "randomisation")
_OURS_ALONE = ("variant", "demos", "auxiliary", "privileged", "curriculum")


class Suite(StrEnum):
    """What can be measured on: `trainer.suites`, and two ways to say several at once."""

    clean = "clean"
    randomised = "randomised"
    heldout = "heldout"
    camera_offset = "camera-offset"
    noise_sweep = "noise-sweep"
    all = "all"


Suites = Annotated[list[Suite], typer.Option(help="Scenes to measure on; may be given several times.")]
Strength = Annotated[float, typer.Option(min=0.0, max=1.0, help="Strength of randomisation: camera, depth noise, servos, block.")]


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    app.command()(train)
    app.command()(export)
    app.command("eval")(evaluate)


def train(
    context: typer.Context,
    algo: Annotated[Literal["sac", "sb3"], typer.Option(help="Our own SAC, or Stable-Baselines3's.")] = "sac",
    variant: Annotated[Literal["depth", "xyz"], typer.Option(help="What the policy sees: depth images, or where the block is.")] = "depth",
    steps: Annotated[int | None, typer.Option(min=1, help="Environment steps in all.", show_default="150000")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    out: Annotated[Path, typer.Option(help="Folder of the run.")] = Path("out/train"),
    resume: Annotated[Path | None, typer.Option(help="Go on with the run in this folder, with its settings.")] = None,
    demos: Annotated[bool, typer.Option(help="Half of each batch from a scripted expert's episodes.")] = True,
    auxiliary: Annotated[bool, typer.Option(help="Also learn to tell where the block is.")] = True,
    privileged: Annotated[bool, typer.Option(help="Critics see the whole state; without: what the actor sees.")] = True,
    reward: Annotated[Literal["dense", "sparse"], typer.Option(help="Sparse: for the grasp alone.")] = "dense",
    curriculum: Annotated[
        Literal["none", "steps", "continuous"], typer.Option(help="Widen the spawn area with success: in levels, or steadily.")
    ] = "none",
    randomisation: Strength = 1.0,
    until_success: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Stop early once so much of 100, then of 900 fresh blocks is grasped; 0: never.")
    ] = 0.0,
) -> None:
    """Train a policy. Ctrl-C saves and stops; --resume goes on."""
    is_sb3 = algo == "sb3" if resume is None else resume.suffix == ".zip" or (resume / "checkpoint.zip").exists()
    _refuse(context, _FIXED_BY_RESUME if resume else (), "is fixed by the run that --resume goes on with")
    _refuse(context, _OURS_ALONE if is_sb3 else (), "is for --algo sac alone")
    _refuse(context, ("auxiliary", "privileged") if variant == "xyz" else (), "is for --variant depth alone")
    if resume is None and any(out.glob("checkpoint.*")):
        raise DofbotError(f"{out} has a training run already; go on with --resume {out}, or give another --out")
    with _extra("trainer"):
        from trainer import checkpoint, plots, runlog
        from trainer.sac.sac import Settings

        start, go_on = _algorithm(is_sb3, variant)
    if resume is not None:
        out = resume if resume.is_dir() else resume.parent
        ending, last = go_on(resume, steps, until_success)
    else:
        changed = {"env_steps": steps, "demo_episodes": None if demos else 0, "auxiliary": None if auxiliary else 0.0}
        given: dict[str, Any] = {name: value for name, value in changed.items() if value is not None}
        given |= {"privileged": privileged, "reward": reward, "curriculum": curriculum, "randomisation": randomisation}
        settings = Settings(seed=seed, **given)
        ending, last = start(out, settings, until_success)
    with checkpoint.writing(out / "curve.png"):
        plots.curve(runlog.read(out), out / "curve.png")
    typer.echo(f"{ending} after {last.env_steps:,} steps and {last.wall_s:.0f} s of training; all in {out}")
    if ending == "interrupted":
        typer.echo(f"go on with: dofbot train --resume {out}")
        raise typer.Exit(EXIT_INTERRUPTED)
    typer.echo(f"next: dofbot export {out} --out policy.onnx")


def export(
    source: Annotated[Path, typer.Argument(help="A run's folder, or a checkpoint.")] = Path("out/train"),
    out: Annotated[Path, typer.Option(help="The policy file to write.")] = Path("policy.onnx"),
    episodes: Annotated[int, typer.Option(min=1, help="Fresh blocks on which success is measured.")] = 1000,
    suite: Suites = [Suite.clean],  # noqa: B006  (typer reads the default and never changes it)
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
) -> None:
    """Write a trained policy as one .onnx file with its contract, and beside it how well it does."""
    with _extra("trainer"):
        from trainer.publish import publish
    contract = publish(source, out, _named(suite), episodes, lambda outcomes: _watched(outcomes, episodes), force)
    for record in contract.evaluation:
        typer.echo(f"{record.suite}: {_in_words(record)}")
    typer.echo(f"{out} written, with {out.stem}.csv and {out.stem}.png beside it")


def evaluate(
    policy: Annotated[Path, typer.Argument(help="The policy file.")],
    episodes: Annotated[int, typer.Option(min=1, help="For each suite.")] = 1000,
    seed: Annotated[int | None, typer.Option(min=0, help="Of the first episode; the others count on.", show_default="10000000")] = None,
    suite: Suites = [Suite.clean],  # noqa: B006  (typer reads the default and never changes it)
    controls: Annotated[
        bool, typer.Option("--controls", help="Also measure it blind, going to the middle, and a scripted expert.")
    ] = False,
    against: Annotated[list[Path] | None, typer.Option(help="Another policy file, measured on the same scenes; several times.")] = None,
    report: Annotated[bool, typer.Option("--report", help="Write report.html as well: maps, causes, curves, worst episodes.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON and nothing else.")] = False,
    out: Annotated[Path, typer.Option(help="Folder for the outcomes, the maps and the report.")] = Path("out/eval"),
) -> None:
    """Measure a policy's success in simulation, on all cores."""
    with _extra("sim"):
        import msgspec

        from edge.policy import load
        from trainer import evaluate as evaluation
        from trainer import plots
        from trainer.controls import plan
    policies = _by_name([policy, *(against or [])])
    contract = load(policy).contract  # a bad file is refused before any process starts
    for other in against or []:
        if load(other).contract.episode != contract.episode:
            raise ConfigError(f"{other} is for another episode than {policy}, expected the same task for both; evaluate it by itself")
    first = evaluation.SEED if seed is None else seed
    measured = []
    out.mkdir(parents=True, exist_ok=True)
    for who, name, open_ in plan(policies, _named(suite), controls):
        began_s = time.monotonic()
        outcomes = list(_watched(evaluation.evaluate(open_, episodes, first), episodes, f"{who}, {name}"))
        measured.append(evaluation.Measured(who, name, outcomes, time.monotonic() - began_s))
        stem = (name if who == policy.stem else f"{name}-{who}").replace(" ", "-")
        evaluation.write_csv(outcomes, out / f"{stem}.csv")
        plots.success_map(outcomes, contract, f"{who}, {name}", out / f"{stem}.png")
    if report:
        _write_report(policy, first, measured, out / "report.html", _again(policy, episodes, first, suite, controls, against or []))
    results = [_result(row) for row in measured]
    if json:
        typer.echo(msgspec.json.encode({"policy": str(policy), "seed": first, "suites": results}).decode())
    else:
        _print_table(results)
        typer.echo(f"every episode and a map of each suite are in {out}" + (", in one page: report.html" if report else ""))


def _by_name(paths: list[Path]) -> dict[str, Path]:
    """Policy files by what the tables call them; raises `ConfigError` where two have one name, or a control has it."""
    from trainer.controls import CONTROLS

    names = [path.stem for path in paths]
    for name in names:
        if names.count(name) > 1 or name in CONTROLS:
            raise ConfigError(f"two rows of the table would be called {name!r}, expected names of their own; rename a policy file")
    return dict(zip(names, paths, strict=True))


def _write_report(policy: Path, seed: int, measured: "list[Measured]", path: Path, command: str) -> None:
    from trainer.report import Report, write

    try:
        write(Report(policy, seed, measured, command), path)
    except OSError as error:
        raise DofbotError(f"cannot write {path} ({error.strerror}); check its folder, permissions and free space") from None


def _again(policy: Path, episodes: int, seed: int, suites: list[Suite], controls: bool, against: list[Path]) -> str:
    """The command that measures the same once more."""
    words = ["dofbot", "eval", str(policy), "--episodes", str(episodes), "--seed", str(seed)]
    for suite in suites:
        words += ["--suite", suite.value]
    for path in against:
        words += ["--against", str(path)]
    return shlex.join([*words, *(["--controls"] if controls else []), "--report"])


def _result(row: "Measured") -> dict[str, Any]:
    """One measurement as plain values."""
    import msgspec

    from trainer.evaluate import causes, misses_mm, summarise

    record = msgspec.to_builtins(summarise(row.outcomes, row.suite))
    return {"who": row.who, **record, "misses_mm": misses_mm(row.outcomes), "causes": causes(row.outcomes), "wall_s": row.wall_s}


def _named(choices: Iterable[Suite]) -> list[str]:
    """The suites that were chosen, each once."""
    from trainer.suites import NOISE_SWEEP, SUITES

    groups = {Suite.noise_sweep: list(NOISE_SWEEP), Suite.all: [*SUITES, *NOISE_SWEEP]}
    return list(dict.fromkeys(name for choice in choices for name in groups.get(choice, [choice.value])))


def _refuse(context: typer.Context, names: tuple[str, ...], why: str) -> None:
    """Raises `ConfigError` for the first of these options that was given on the command line."""
    for name in names:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise ConfigError(f"--{name} {why}; leave it out")


def _algorithm(is_sb3: bool, variant: Literal["depth", "xyz"]) -> tuple[Any, Any]:
    """The functions that start and resume a training."""
    if is_sb3:
        from trainer import sb3

        return sb3.train_sb3, sb3.resume_sb3
    from trainer import train

    return partial(train.train_sac, variant=variant), train.resume_sac


@contextlib.contextmanager
def _extra(extra: str) -> Iterator[None]:
    """Turns a missing package into the sentence that says how to install it."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingExtraError(str(error.name), extra) from None


def _watched(outcomes: "Iterable[Outcome]", episodes: int, what: str = "evaluating") -> "Iterator[Outcome]":
    """The outcomes as they come, with a progress line on stderr."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(what), BarColumn(bar_width=20), MofNCompleteColumn(), TextColumn("{task.fields[missed]} missed"))
    with Progress(*columns, TimeRemainingColumn(compact=True), console=Console(stderr=True), refresh_per_second=2) as line:
        task, missed = line.add_task("", total=episodes, missed=0), 0
        for outcome in outcomes:
            missed += not outcome.is_success
            line.update(task, advance=1, missed=missed)
            yield outcome


def _in_words(record: "Evaluation") -> str:
    low, high = record.interval_95
    share = record.successes / record.episodes
    return f"{record.successes} of {record.episodes} grasped = {share:.1%} (95 % interval {low:.1%} to {high:.1%})"


def _print_table(results: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("suite", "who", "grasped", "95 % interval", "mm off: p50, p95, max", "failures", "time")
    for result in results:
        low, high = result["interval_95"]
        table.add_row(
            result["suite"],
            result["who"],
            f"{result['successes']} of {result['episodes']} = {result['successes'] / result['episodes']:.1%}",
            f"{low:.1%} to {high:.1%}",
            "  ".join(f"{value:.1f}" for value in result["misses_mm"].values()),
            ", ".join(f"{count} {cause}" for cause, count in result["causes"].items()) or "none",
            f"{result['wall_s']:.0f} s",
        )
    Console().print(table)
