"""How long a training takes is counted to the first of three good checkpoints, and never to a lucky one."""

import pytest

pytest.importorskip("torch")
pytest.importorskip("pybullet")

from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from trainer.runlog import Row  # noqa: E402
from trainer.study import GOAL, IN_A_ROW, best, levels, time_to_goal  # noqa: E402


def rows(*successes: int) -> list[tuple[object, ...]]:
    """One run's checkpoints, 10 s apart, of 1000 episodes each."""
    return [("sac", 0, 2_000 * (i + 1), 10.0 * (i + 1), successes[i], 1000) for i in range(len(successes))]


def test_the_first_of_three_in_a_row_counts() -> None:
    assert time_to_goal(rows(500, 990, 995, 1000)) == 20.0
    assert time_to_goal(rows(990, 989, 990, 990, 990)) == 30.0


def test_a_spike_does_not_count() -> None:
    assert time_to_goal(rows(1000, 1000, 989, 1000, 1000)) is None
    assert time_to_goal(rows()) is None


@given(st.lists(st.integers(970, 1000), max_size=12))
def test_whatever_comes_the_time_is_of_a_checkpoint_that_holds(successes: list[int]) -> None:
    table = rows(*successes)
    reached = time_to_goal(table)
    good = [success >= 1000 * GOAL for success in successes]
    starts = [i for i in range(len(good) - IN_A_ROW + 1) if all(good[i : i + IN_A_ROW])]
    assert reached == (table[starts[0]][3] if starts else None)


def test_a_curriculum_is_told_level_by_level() -> None:
    curve = [Row(100 * i, float(i), 0.9, fraction) for i, fraction in enumerate((0.0, 0.0, 0.25, 0.5, 0.5, 0.75, 1.0))]
    assert levels(curve) == [(0.25, 200, 2.0), (0.5, 300, 3.0), (0.75, 500, 5.0), (1.0, 600, 6.0)]
    assert levels(curve[:4]) == [(0.25, 200, 2.0), (0.5, 300, 3.0)]  # the rest was never reached
    assert levels([Row(0, 0.0)]) == []  # no curriculum: the whole area from the start


def test_the_best_is_told_where_the_goal_was_not_reached() -> None:
    assert best(rows(500, 970, 900)) == 0.97
