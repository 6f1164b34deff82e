"""Each cell gets the same blocks and the same errors; what is in the table is not tried again; a robot that would stop has failed."""

import csv
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("pybullet")

from edge.errors import ObservationError  # noqa: E402
from trainer import mount_study, spec  # noqa: E402
from trainer.evaluate import Outcome  # noqa: E402
from trainer.mount_study import AT_A_TIME, CELLS, SEED, Cell, Row, attempt, read, remaining, shares, show  # noqa: E402
from trainer.randomise import draw_scene  # noqa: E402


class FakeEnv:
    """What `attempt` sets, and what it asks for."""

    def __init__(self) -> None:
        self.contract = spec.contract()
        self.world = SimpleNamespace(camera=self.contract.camera)
        self.reprojection = None
        self.draw = draw_scene

    def distance_m(self) -> float:
        return 0.02


def played(env: FakeEnv, act: object, seed: int) -> Outcome:
    env.scene = env.draw(np.random.default_rng(seed), env.contract.episode)  # type: ignore[attr-defined, call-arg]
    return Outcome(seed, 0.0, 0.1, 0.0, True, 0.001)


def test_all_cells_come_in_turn_and_none_twice() -> None:
    todo = remaining([], 25)
    assert len(todo) == len(set(todo)) == 25 * len(CELLS)
    first_round = todo[: AT_A_TIME * len(CELLS)]
    assert {cell for cell, _ in first_round} == set(CELLS)
    assert {seed for _, seed in first_round} == set(range(SEED, SEED + AT_A_TIME))
    done = [Row(cell, seed, True, 0.0, 0.05, "") for cell, seed in todo[:77]]
    assert remaining(done, 25) == todo[77:]


def test_what_is_written_is_what_is_read_and_drawn(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(mount_study, "play", played)
    monkeypatch.setattr(mount_study, "DofbotGrasp", lambda contract: SimpleNamespace(**vars(FakeEnv()), close=lambda: None))
    monkeypatch.setattr(mount_study.edge_policy, "load", lambda path: SimpleNamespace(contract=spec.contract(), act=None))
    monkeypatch.setattr(mount_study, "CELLS", CELLS[:2] + CELLS[-2:])
    table, picture = tmp_path / "mount.csv", tmp_path / "mount.png"
    mount_study.main(tmp_path / "policy.onnx", 2, table, picture)
    rows = read(table)
    assert len(rows) == 8
    assert shares(rows) == dict.fromkeys(mount_study.CELLS, (2, 2))
    before = table.read_text()
    mount_study.main(tmp_path / "policy.onnx", 2, table, picture)
    assert table.read_text() == before  # there was nothing left to try
    assert picture.read_bytes().startswith(b"\x89PNG")
    with table.open(newline="") as file:
        assert {len(line) for line in csv.reader(file)} == {10}


def test_a_camera_is_off_by_what_the_cell_says_in_one_direction_a_seed(monkeypatch) -> None:
    monkeypatch.setattr(mount_study, "play", played)
    env, offs = FakeEnv(), []
    for cell in (Cell("d405", 0.0, 5.0, 0.0, True), Cell("d405", 0.0, 10.0, 0.0, False), Cell("d435", 60.0, 0.0, 10.0, True)):
        row = attempt(env, lambda *_: None, cell, SEED + 3)  # type: ignore[arg-type]
        assert row[:4] == (cell, SEED + 3, True, 0.001)
        assert (env.reprojection is not None) == cell.is_reprojected
        moved = np.linalg.inv(spec.camera_to_tool()) @ np.array(env.world.camera.transform_camera_to_tool)
        offs.append(moved[:3, 3] + (0.0, 0.0, 1e-3 * cell.back_mm))
        turned_deg = np.degrees(np.arccos(np.clip((np.trace(moved[:3, :3]) - 1.0) / 2.0, -1.0, 1.0)))
        assert turned_deg == pytest.approx(cell.off_deg, abs=1e-6)
    np.testing.assert_allclose(2.0 * offs[0], offs[1], atol=1e-12)
    assert np.linalg.norm(offs[0]) == pytest.approx(0.005)
    np.testing.assert_allclose(offs[2], 0.0, atol=1e-12)


def test_a_frame_that_the_robot_would_refuse_is_a_failure(monkeypatch) -> None:
    def blind(env: FakeEnv, act: object, seed: int) -> Outcome:
        played(env, act, seed)
        raise ObservationError("61% of the depth pixels are invalid")

    monkeypatch.setattr(mount_study, "play", blind)
    row = attempt(FakeEnv(), lambda *_: None, Cell("d435", 0.0, 0.0, 0.0, False), SEED)  # type: ignore[arg-type]
    assert (row.is_success, row.miss_m, row.cause) == (False, 0.02, "blind")


def test_a_table_that_is_not_whole_can_be_read(capsys) -> None:
    show([Row(CELLS[0], SEED, True, 0.0, 0.05, ""), Row(CELLS[0], SEED + 1, False, 0.0, 0.05, "missed")])
    assert "1/2" in capsys.readouterr().out
