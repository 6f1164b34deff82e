"""The verbs `train`, `export` and `eval`. Nothing heavy is imported before one of them runs."""

import contextlib
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
    from trainer.evaluate import Outcome

EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells report it
_FIXED_BY_RESUME = ("algo", "out", "seed", "demos", "auxiliary", "curriculum", "randomisation")
_OURS_ALONE = ("demos", "auxiliary", "curriculum")


class Suite(StrEnum):
    """What can be measured on: `trainer.suites`, and two ways to say several at once."""

    clean = "clean"
    randomised = "randomised"
    heldout = "heldout"
    camera_offset = "camera-offset"
    noise = "noise"
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
    steps: Annotated[int | None, typer.Option(min=1, help="Environment steps in all.", show_default="150000")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    out: Annotated[Path, typer.Option(help="Folder of the run.")] = Path("out/train"),
    resume: Annotated[Path | None, typer.Option(help="Go on with the run in this folder, with its settings.")] = None,
    demos: Annotated[bool, typer.Option(help="Half of each batch from a scripted expert's episodes.")] = True,
    auxiliary: Annotated[bool, typer.Option(help="Also learn to tell where the block is.")] = True,
    curriculum: Annotated[bool, typer.Option(help="Widen the spawn area in steps as success grows.")] = False,
    randomisation: Strength = 1.0,
    until_success: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Stop early once so much of 300 fresh blocks is grasped; 0: never.")
    ] = 0.0,
) -> None:
    """Train a policy. Ctrl-C saves and stops; --resume goes on."""
    is_sb3 = algo == "sb3" if resume is None else resume.suffix == ".zip" or (resume / "checkpoint.zip").exists()
    _refuse(context, _FIXED_BY_RESUME if resume else (), "is fixed by the run that --resume goes on with")
    _refuse(context, _OURS_ALONE if is_sb3 else (), "is for --algo sac alone")
    if resume is None and any(out.glob("checkpoint.*")):
        raise DofbotError(f"{out} has a training run already; go on with --resume {out}, or give another --out")
    with _extra("trainer"):
        from trainer import checkpoint, plots, runlog
        from trainer.sac.sac import Settings

        start, go_on = _algorithm(is_sb3)
    if resume is not None:
        out = resume if resume.is_dir() else resume.parent
        ending, last = go_on(resume, steps, until_success)
    else:
        changed = {"env_steps": steps, "demo_episodes": None if demos else 0, "auxiliary": None if auxiliary else 0.0}
        given: dict[str, Any] = {name: value for name, value in changed.items() if value is not None}
        settings = Settings(seed=seed, curriculum=curriculum, randomisation=randomisation, **given)
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
    seed: Annotated[int | None, typer.Option(min=0, help="Of the first episode; the others count on.", show_default="1000000")] = None,
    suite: Suites = [Suite.clean],  # noqa: B006  (typer reads the default and never changes it)
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON and nothing else.")] = False,
    out: Annotated[Path, typer.Option(help="Folder for each suite's outcomes and map.")] = Path("out/eval"),
) -> None:
    """Measure a policy's success in simulation, on all cores."""
    with _extra("sim"):
        import msgspec

        from edge.policy import load
        from trainer import evaluate as evaluation
        from trainer import plots
    contract = load(policy).contract  # a bad file is refused before any process starts
    first = evaluation.SEED if seed is None else seed
    results = []
    out.mkdir(parents=True, exist_ok=True)
    for name in _named(suite):
        began_s = time.monotonic()
        outcomes = list(_watched(evaluation.evaluate(partial(evaluation.open_policy, policy, name), episodes, first), episodes))
        measured = {
            "misses_mm": evaluation.misses_mm(outcomes),
            "causes": evaluation.causes(outcomes),
            "wall_s": time.monotonic() - began_s,
        }
        results.append({**msgspec.to_builtins(evaluation.summarise(outcomes, name)), **measured})
        stem = name.replace(" ", "-")
        evaluation.write_csv(outcomes, out / f"{stem}.csv")
        plots.success_map(outcomes, contract, f"{policy.name}, {name}", out / f"{stem}.png")
    if json:
        typer.echo(msgspec.json.encode({"policy": str(policy), "seed": first, "suites": results}).decode())
    else:
        _print_table(results)
        typer.echo(f"every episode and a map of each suite are in {out}")


def _named(choices: Iterable[Suite]) -> list[str]:
    """The suites that were chosen, each once."""
    from trainer.suites import NOISE_SWEEP, SUITES

    groups = {Suite.noise: list(NOISE_SWEEP), Suite.all: [*SUITES, *NOISE_SWEEP]}
    return list(dict.fromkeys(name for choice in choices for name in groups.get(choice, [choice.value])))


def _refuse(context: typer.Context, names: tuple[str, ...], why: str) -> None:
    """Raises `ConfigError` for the first of these options that was given on the command line."""
    for name in names:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise ConfigError(f"--{name} {why}; leave it out")


def _algorithm(is_sb3: bool) -> tuple[Any, Any]:
    """The functions that start and resume a training."""
    if is_sb3:
        from trainer import sb3

        return sb3.train_sb3, sb3.resume_sb3
    from trainer import train

    return train.train_sac, train.resume_sac


@contextlib.contextmanager
def _extra(extra: str) -> Iterator[None]:
    """Turns a missing package into the sentence that says how to install it."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingExtraError(str(error.name), extra) from None


def _watched(outcomes: "Iterable[Outcome]", episodes: int) -> "Iterator[Outcome]":
    """The outcomes as they come, with a progress line on stderr."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("evaluating"), BarColumn(bar_width=20), MofNCompleteColumn(), TextColumn("{task.fields[missed]} missed"))
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

    table = Table("suite", "grasped", "95 % interval", "off the centre when closing, mm", "failures", "time")
    for result in results:
        low, high = result["interval_95"]
        table.add_row(
            result["suite"],
            f"{result['successes']} of {result['episodes']} = {result['successes'] / result['episodes']:.1%}",
            f"{low:.1%} to {high:.1%}",
            " · ".join(f"{name} {value:.1f}" for name, value in result["misses_mm"].items()),
            ", ".join(f"{count} {cause}" for cause, count in result["causes"].items()) or "none",
            f"{result['wall_s']:.0f} s",
        )
    Console().print(table)
