"""One HTML page that says what was measured, on which policy, and how: pictures inside, no scripts, nothing fetched."""

import hashlib
import io
import math
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

import edge
from calibration.pages import html
from calibration.pages.html import facts, picture, table
from edge.contract import Contract
from edge.policy import load
from trainer import plots
from trainer.controls import CONTROLS
from trainer.env import LATE_M, LATE_STEPS, PUSHED_M
from trainer.evaluate import DRAWS, Measured, causes, misses_mm, play, summarise, worst
from trainer.film import FilmedGrasp
from trainer.suites import NOISE_PX, NOISE_SWEEP, SUITES

CAUSES = {
    "missed": "the block was not between the fingers when they closed",
    "pushed": f"the block had moved by more than {PUSHED_M * 1e3:.0f} mm before the fingers closed",
    "slipped": "the block was between the fingers, and was not held",
    "late": f"as missed, but the tool came at least {LATE_M * 1e3:.0f} mm nearer during the last {LATE_STEPS} steps",
}


class Report(NamedTuple):
    """What a page is about: one policy's measurements, and whoever was measured beside it."""

    policy: Path
    seed: int  # of the first episode
    measured: list[Measured]
    command: str


def write(report: Report, path: Path) -> None:
    """Draw the maps, film the worst episodes, write the page. Raises `OSError`, `PolicyError`."""
    contract, data = load(report.policy).contract, report.policy.read_bytes()
    own = [row for row in report.measured if row.who == report.measured[0].who]
    scenes = [row for row in own if row.suite not in NOISE_SWEEP]
    sections = {
        "The policy": facts(_origin(report, contract, hashlib.sha256(data).hexdigest())),
        "What was measured": facts(_method(report, contract)),
        "Success": _success(report.measured),
        "Why grasps failed": _failures(report.measured) + _unavoidable(own, report.measured),
        "Success by kind of block": _kinds(scenes),
        "Success against depth noise": _noise(report.measured),
        "Where the policy succeeds": "".join(_map(row, contract) for row in scenes),
        "The worst episodes": "".join(_film(row, report.policy, contract) for row in scenes),
        "How to repeat it": f"<pre>{escape(report.command)}</pre>",
    }
    html.write(path, f"{report.policy.name}: how well it grasps", "", sections)


def _origin(report: Report, contract: Contract, sha256: str) -> dict[str, str]:
    """Where the policy came from, as its own contract says."""
    training = contract.training
    if training is None:
        return {"file": report.policy.name, "SHA-256": sha256, "training": "not recorded in the file"}
    recorded = (f"{r.suite} {r.successes} of {r.episodes} ({_interval(r.interval_95)})" for r in contract.evaluation)
    return {
        "file": report.policy.name,
        "SHA-256": sha256,
        "trained by": f"{training.algorithm}, commit {training.commit}, seed {training.seed}",
        "for": f"{training.env_steps:,} environment steps, {training.wall_s:.0f} s",
        "randomisation in training": f"{training.randomisation:.0%} of the full ranges",
        "measured when exported": "; ".join(recorded) or "not recorded in the file",
    }


def _method(report: Report, contract: Contract) -> dict[str, str]:
    """What an episode is, and what the rows' names mean."""
    episode, episodes = contract.episode, len(report.measured[0].outcomes)
    (x_min, y_min), (x_max, y_max) = episode.spawn_min_in_table_m, episode.spawn_max_in_table_m
    area = f"x {x_min * 1e3:.0f} to {x_max * 1e3:.0f} mm, y {y_min * 1e3:.0f} to {y_max * 1e3:.0f} mm"
    suites = {row.suite: None for row in report.measured if row.suite in SUITES}
    controls = {row.who: None for row in report.measured if row.who in CONTROLS}
    return {
        "where": f"in simulation only (dofbot-grasp {edge.__version__}); no real arm took part",
        "episodes": f"{episodes} in each row, seeds {report.seed} to {report.seed + episodes - 1}; all rows of a suite get the same scenes",
        "blocks": f"{area}, turned up to ±{math.degrees(episode.spawn_yaw_rad):.0f}°",
        "success": f"the block is {episode.success_lift_m * 1e3:.0f} mm up and touched by both fingers for {episode.success_hold_s:g} s",
        "intervals": "95 %, Wilson's score",
        **{f"suite {name}": _claim(SUITES[name]) for name in suites},
        **{f"control {name}": _claim(CONTROLS[name]) for name in controls},
    }


def _success(measured: list[Measured]) -> str:
    head = ("suite", "who", "grasped", "share", "95 % interval", "off the centre", "95th %", "worst")
    rows = []
    for row in measured:
        record = summarise(row.outcomes, row.suite)
        misses = [f"{value:.1f} mm" for value in misses_mm(row.outcomes).values()]
        grasped = f"{record.successes} of {record.episodes}"
        rows.append((row.suite, row.who, grasped, f"{record.successes / record.episodes:.1%}", _interval(record.interval_95), *misses))
    note = "Off the centre: horizontal distance from the tool to the block when the fingers began to close, median first"
    two = "; of two cubes, to the first, although the other one counts as well" if any(row.suite == "heldout" for row in measured) else ""
    return _table(head, rows) + f"<p>{note}{two}.</p>"


def _failures(measured: list[Measured]) -> str:
    rows = []
    for row in measured:
        counts = causes(row.outcomes)
        rows.append((row.suite, row.who, *(str(counts.get(cause, 0)) for cause in CAUSES), str(sum(counts.values()))))
    return _table(("suite", "who", *CAUSES, "in all"), rows) + facts(CAUSES)


def _unavoidable(own: list[Measured], measured: list[Measured]) -> str:
    """How many of the policy's failures no steering would have prevented."""
    lines = ""
    for expert in (row for row in measured if row.who == "expert"):
        outcomes = next(row.outcomes for row in own if row.suite == expert.suite)
        failed = [by_expert for outcome, by_expert in zip(outcomes, expert.outcomes, strict=True) if not outcome.is_success]
        too = sum(not by_expert.is_success for by_expert in failed)
        if failed:
            lines += f"<p>{expert.suite}: in {too} of the {len(failed)} scenes where the policy failed, the expert did too.</p>\n"
    return lines


def _kinds(scenes: list[Measured]) -> str:
    """The suites with more than one kind of block, kind by kind."""
    rows = []
    for suite in scenes:
        kinds = sorted({outcome.kind for outcome in suite.outcomes})
        for kind in kinds if len(kinds) > 1 else ():
            record = summarise([outcome for outcome in suite.outcomes if outcome.kind == kind], suite.suite)
            rows.append((suite.suite, kind, f"{record.successes} of {record.episodes}", _interval(record.interval_95)))
    return _table(("suite", "kind", "grasped", "95 % interval"), rows) if rows else ""


def _noise(measured: list[Measured]) -> str:
    noise_px = dict(zip(NOISE_SWEEP, NOISE_PX, strict=True))
    curves: dict[str, list[plots.Point]] = {}
    for row in measured:
        if row.suite in noise_px:
            record = summarise(row.outcomes, row.suite)
            curves.setdefault(row.who, []).append((noise_px[row.suite], record.successes, record.episodes))
    if not curves:
        return ""
    file = io.BytesIO()
    plots.noise_curve(curves, file)
    return picture(file.getvalue(), "png", "Everything else as in the suite randomised, and the same at each noise.")


def _map(row: Measured, contract: Contract) -> str:
    file = io.BytesIO()
    plots.heat_map(row.outcomes, contract, file)
    return picture(
        file.getvalue(), "png", f"{row.suite}: share and count of blocks grasped, by where they lay and how far they were turned."
    )


def _film(row: Measured, policy: Path, contract: Contract) -> str:
    """The worst episode of a suite, played again."""
    episode, act = worst(row.outcomes), load(policy).act
    env = FilmedGrasp(contract)
    env.draw = DRAWS[row.suite]
    try:
        play(env, act, episode.seed)
        file = io.BytesIO()
        env.save(file)
    finally:
        env.close()
    how = "grasped, and of all the farthest off" if episode.is_success else f"{episode.cause}, and of all failures the farthest off"
    caption = f"{row.suite}, seed {episode.seed}, {episode.kind}: {how}, {episode.miss_m * 1e3:.1f} mm. Black: no depth."
    return picture(file.getvalue(), "gif", caption)


def _interval(interval: tuple[float, float]) -> str:
    return f"{interval[0]:.1%} to {interval[1]:.1%}"


def _claim(documented: object) -> str:
    """The first line of a docstring, as a phrase."""
    return (documented.__doc__ or "").strip().splitlines()[0].rstrip(".")


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """The first two columns say of what."""
    return table(head, rows, left=(0, 1))
