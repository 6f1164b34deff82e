"""The report holds what was measured, stands by itself in one file, and is written whole or not at all."""

import base64
import io
import os
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import numpy as np
import pytest
import typer
from PIL import Image

pytest.importorskip("pybullet")
torch = pytest.importorskip("torch")

from edge.contract import Evaluation, Training  # noqa: E402
from edge.errors import ConfigError, DofbotError, PolicyError  # noqa: E402
from trainer import cli, plots, report, spec  # noqa: E402
from trainer.evaluate import DRAWS, Measured, Outcome, open_policy, play, summarise  # noqa: E402
from trainer.export import Examples, export_onnx  # noqa: E402
from trainer.film import FilmedGrasp  # noqa: E402
from trainer.report import CAUSES, Report, write  # noqa: E402
from trainer.sac.networks import Actor  # noqa: E402
from trainer.suites import NOISE_SWEEP  # noqa: E402

SEED = 500
COMMAND = "dofbot eval 'a <b>.onnx' --episodes 3"


def export(path, **changes):
    """An untrained actor as a policy file."""
    torch.manual_seed(0)
    rng, px = np.random.default_rng(0), spec.IMAGE_PX
    examples = Examples(rng.random((4, 1, px, px), dtype=np.float32), np.full((4, 6), 0.1, np.float32))
    contract = spec.contract()
    training = Training("abc1234", "sac", 17, 150_016, 297.0, 0.75, "depth")
    episode = msgspec.structs.replace(contract.episode, **changes)
    contract = msgspec.structs.replace(contract, training=training, episode=episode, evaluation=(Evaluation("clean", 50, 49, (0.9, 0.99)),))
    export_onnx(Actor(contract), contract, examples, path)
    return path


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return export(tmp_path_factory.mktemp("policies") / "a <b>.onnx")


def outcome(number, cause="", kind="cube", miss_m=0.002):
    return Outcome(SEED + number, 0.01 * number, 0.08 + 0.01 * number, 0.2 * number, cause == "", miss_m, cause, kind)


MEASURED = [
    Measured("mine", "clean", [outcome(0), outcome(1, "pushed", miss_m=0.0123), outcome(2)], 1.0),
    Measured("expert", "clean", [outcome(0), outcome(1, "slipped"), outcome(2)], 1.0),
    Measured("mine", "heldout", [outcome(0, kind="cylinder"), outcome(1, "late", "two cubes"), outcome(2, "missed")], 1.0),
    *(Measured("mine", name, [outcome(0), outcome(1, "missed"), outcome(2)], 1.0) for name in NOISE_SWEEP),
]


class Page(HTMLParser):
    """A page's text by tag, its tables' rows, and every attribute that could fetch something."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.rows, self.sources, self.texts, self._open = [], [], [], {}, []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.sources += [value for name, value in attributes if name in ("src", "href", "srcset", "action", "data")]
        if tag == "tr":
            self.rows.append([])
        if tag not in ("meta", "img"):
            self._open.append(tag)
            if tag != "tr":
                self.texts.setdefault(tag, []).append("")
            if tag == "td":
                self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self._open.pop() == tag  # well formed

    def handle_data(self, data):
        if self._open and self._open[-1] != "tr":
            self.texts.setdefault(self._open[-1], [""])[-1] += data
        if "td" in self._open:
            self.rows[-1][-1] += data


@pytest.fixture(scope="module")
def page(policy, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "new" / "report.html"
    write(Report(policy, SEED, MEASURED, COMMAND), path)
    assert [entry.name for entry in path.parent.iterdir()] == ["report.html"]  # nothing else is left
    return Page(path.read_text())


def test_every_row_is_in_the_page_with_its_interval(page):
    for row in MEASURED:
        record = summarise(row.outcomes, row.suite)
        low, high = record.interval_95
        found = [cells for cells in page.rows if cells[:3] == [row.suite, row.who, f"{record.successes} of 3"]]
        assert len(found) == 1
        assert found[0][3:5] == [f"{record.successes / 3:.1%}", f"{low:.1%} to {high:.1%}"]
    assert ["12.3 mm" in cells for cells in page.rows if cells[:2] == ["clean", "mine"]] == [True, False]  # the worst miss


def test_causes_are_counted_and_explained(page):
    counts = {"missed": 1, "pushed": 0, "slipped": 0, "late": 1}
    assert ["heldout", "mine", *(str(counts[cause]) for cause in CAUSES), "2"] in page.rows
    assert set(CAUSES) <= set(page.texts["dt"])
    assert set(CAUSES) == set(plots.CAUSE_COLOURS)  # of `trainer.env`, all
    assert "clean: in 1 of the 1 scenes where the policy failed, the expert did too." in page.texts["p"]


def test_kinds_of_blocks_are_told_apart_where_there_are_several(page):
    kinds = [cells[:3] for cells in page.rows if len(cells) == 4]
    assert kinds == [["heldout", "cube", "0 of 1"], ["heldout", "cylinder", "1 of 1"], ["heldout", "two cubes", "0 of 1"]]


def test_the_policy_the_seeds_and_the_command_are_named(page):
    said = "\n".join(page.texts["dd"])
    for fact in ("abc1234", "seed 17", "150,016", "75%", "clean 49 of 50", "seeds 500 to 502", "in simulation only"):
        assert fact in said
    assert page.texts["pre"] == [COMMAND]
    assert page.texts["h1"] == ["a <b>.onnx: how well it grasps"]  # and no tag <b>
    assert "b" not in page.tags


def test_it_stands_by_itself(page):
    assert page.sources
    assert all(source.startswith(("data:image/png;base64,", "data:image/gif;base64,")) for source in page.sources)
    assert not {"script", "link", "iframe", "object", "embed"} & set(page.tags)
    assert not any("http" in text or "url(" in text or "@import" in text for texts in page.texts.values() for text in texts)


def test_pictures_are_a_curve_and_for_each_suite_a_map_and_a_film(page):
    images = [Image.open(io.BytesIO(base64.b64decode(source.split(",")[1]))) for source in page.sources]
    assert [image.format for image in images] == ["PNG", "PNG", "PNG", "GIF", "GIF"]
    assert all(image.n_frames > 20 for image in images[3:])
    captions = page.texts["figcaption"]
    assert captions[3].startswith("clean, seed 501, cube: pushed")
    assert captions[4].startswith("heldout, seed 501, two cubes: late")


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_disk_that_refuses_leaves_the_old_report(policy, tmp_path, monkeypatch, call):
    def refuse(*_):
        raise OSError(28, "No space left on device")

    path = tmp_path / "report.html"
    path.write_text("old")
    monkeypatch.setattr(report, "_film", lambda *_: "")  # takes seconds
    monkeypatch.setattr(*((os, call) if call == "fsync" else (Path, call)), refuse)
    with pytest.raises(OSError, match="No space"):
        write(Report(policy, SEED, MEASURED[:1], COMMAND), path)
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.html"]


def test_a_policy_without_a_record_is_said_to_have_none(policy):
    contract = msgspec.structs.replace(spec.contract(), training=None)
    assert "not recorded" in report._origin(Report(policy, SEED, MEASURED, COMMAND), contract, "0")["training"]


@pytest.mark.parametrize("suite", ["clean", "heldout"])
def test_filming_changes_nothing(policy, suite):
    env, act = open_policy(policy, suite)
    filmed = FilmedGrasp(env.contract)
    filmed.draw = DRAWS[suite]
    assert play(filmed, act, SEED) == play(env, act, SEED)
    times_s = [shot.time_s for shot in filmed.shots]
    assert times_s == sorted(times_s)
    assert times_s[-1] > env.contract.episode.steps * env.contract.rates.ticks_per_step / env.contract.rates.tick_hz
    assert filmed.phases[0] == "APPROACH"
    assert filmed.phases[-1] != "APPROACH"
    env.close()
    filmed.close()


def test_cells_count_every_block_where_it_lay():
    episode, rng = spec.EPISODE, np.random.default_rng(1)
    scenes = [DRAWS["clean"](rng, episode).blocks[0] for _ in range(300)]
    outcomes = [Outcome(n, b.x_m, b.y_m, b.yaw_rad, b.x_m > 0.01, 0.0, "" if b.x_m > 0.01 else "missed") for n, b in enumerate(scenes)]
    found = plots.cells(outcomes, episode)
    assert found.episodes.shape == found.successes.shape == plots.MAP_CELLS
    assert found.episodes.sum() == 300
    assert found.successes[..., :3].sum() == 0  # up to x = 10 mm
    assert (found.successes[..., 3:] == found.episodes[..., 3:]).all()
    low, high = found.edges[0][1:3]
    assert found.episodes[1].sum() == sum(low <= abs(o.block_yaw_rad) < high for o in outcomes)
    corner = [Outcome(0, *episode.spawn_max_in_table_m, -episode.spawn_yaw_rad, True, 0.0)]
    assert plots.cells(corner, episode).successes[-1, -1, -1] == 1  # the bounds belong to it


# --- the verb ---


def dofbot(*arguments):
    app = typer.Typer()
    cli.register(app)
    app.command("other")(lambda: None)  # a single command would lose its name
    return app([str(argument) for argument in arguments], standalone_mode=False)


def test_eval_measures_controls_beside_the_policy(policy, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(report, "_film", lambda *_: "")
    dofbot("eval", policy, "--episodes", 2, "--seed", 9, "--controls", "--report", "--json", "--out", tmp_path)
    rows = msgspec.json.decode(capsys.readouterr().out)["suites"]
    assert [row["who"] for row in rows] == ["a <b>", "blind", "middle", "expert"]
    assert [row["episodes"] for row in rows] == [2] * 4
    assert rows[-1]["successes"] == 2
    page = Page((tmp_path / "report.html").read_text())
    assert [cells[1] for cells in page.rows if len(cells) == 8] == ["a <b>", "blind", "middle", "expert"]
    assert page.texts["pre"] == [f"dofbot eval '{policy}' --episodes 2 --seed 9 --suite clean --controls --report"]
    assert {path.name for path in tmp_path.iterdir() if path.suffix == ".csv"} == {
        "clean.csv",
        *(f"clean-{who}.csv" for who in ("blind", "middle", "expert")),
    }


def test_a_report_that_cannot_be_written_is_one_sentence(policy, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "_film", lambda *_: "")
    (tmp_path / "report.html").mkdir()
    with pytest.raises(DofbotError, match=r"cannot write .*report\.html"):
        dofbot("eval", policy, "--episodes", 1, "--report", "--out", tmp_path)


def test_what_cannot_be_compared_is_refused_before_anything_is_measured(policy, tmp_path):
    for path in (policy, tmp_path / "expert.onnx"):
        with pytest.raises(ConfigError, match="names of their own"):
            dofbot("eval", policy, "--against", path, "--out", tmp_path / "out")
    with pytest.raises(ConfigError, match="another episode"):
        dofbot("eval", policy, "--against", export(tmp_path / "long.onnx", steps=99), "--out", tmp_path / "out")
    with pytest.raises(PolicyError, match="not readable"):
        dofbot("eval", policy, "--against", tmp_path / "none.onnx", "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()
