"""The table of causes is obeyed: the severest wins, each has its own time, and what is latched stays."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.states import GIVE_UP_S, REACTIONS, Cause, Standing, blocking, judge

TICK_S = 0.02
CAUSES = list(Cause)
histories = st.lists(st.sets(st.sampled_from(CAUSES), max_size=3), max_size=40)


def after(history: list[set[Cause]], tick_s: float = TICK_S) -> Standing:
    standing = Standing()
    for number, causes in enumerate(history):
        standing = judge(standing, {cause: f"{cause} at {number}" for cause in causes}, tick_s)
    return standing


def test_every_cause_has_a_reaction_with_its_reason() -> None:
    assert set(REACTIONS) == set(Cause)
    assert all(reaction.why for reaction in REACTIONS.values())


@pytest.mark.parametrize("cause", CAUSES)
def test_a_cause_is_safe_after_its_own_time_and_not_a_tick_before(cause) -> None:
    within_s = REACTIONS[cause].safe_after_s
    if within_s > GIVE_UP_S:
        assert after([{cause}] * 3000).safe_cause is None
        return
    ticks = next(number for number in range(1, 400) if after([{cause}] * number).safe_cause)
    assert ticks * TICK_S == pytest.approx(within_s + TICK_S)  # the first tick that is longer
    assert after([{cause}] * 400).safe_cause is cause


def test_the_third_action_that_is_none_is_safe() -> None:
    assert after([{Cause.POLICY}] * 2).safe_cause is None
    assert after([{Cause.POLICY}] * 3).safe_cause is Cause.POLICY


@pytest.mark.parametrize("cause", [cause for cause in CAUSES if REACTIONS[cause].safe_after_s > TICK_S])
def test_a_cause_that_is_gone_ends_the_hold_unless_it_is_latched(cause) -> None:
    standing = after([{cause}, set()])
    assert bool(standing.reasons) != REACTIONS[cause].resumes
    assert standing.is_latched != REACTIONS[cause].resumes
    assert standing.safe_cause is None


@given(histories)
def test_safe_stays_with_its_first_reason(history) -> None:
    before = Standing()
    for number in range(len(history) + 1):
        standing = after(history[:number])
        if before.safe_cause is not None:
            assert (standing.safe_cause, standing.safe_reason) == (before.safe_cause, before.safe_reason)
        before = standing


@given(histories)
def test_the_reasons_are_those_of_now_and_all_that_ever_latched_with_its_first(history) -> None:
    standing = after(history)
    latched = {cause for causes in history for cause in causes if not REACTIONS[cause].resumes}
    assert set(standing.reasons) == latched | (history[-1] if history else set())
    assert set(standing.held_s) == set(standing.reasons)
    for cause in latched:
        first = next(number for number, causes in enumerate(history) if cause in causes)
        assert standing.reasons[cause] == f"{cause} at {first}"
    assert standing.latched.reasons.keys() == latched
    assert standing.is_latched == (bool(latched) or standing.safe_cause is not None)


@given(histories)
def test_a_cause_has_held_for_as_long_as_it_was_there_without_a_break(history) -> None:
    standing = after(history)
    for cause, held_s in standing.held_s.items():
        run = 0
        for causes in history:
            run = run + 1 if cause in causes or (run and not REACTIONS[cause].resumes) else 0
        assert held_s == pytest.approx(run * TICK_S)


@given(histories, st.permutations(CAUSES))
def test_the_order_in_which_problems_are_found_does_not_matter(history, order) -> None:
    one, other = Standing(), Standing()
    for causes in history:
        one = judge(one, {cause: str(cause) for cause in CAUSES if cause in causes}, TICK_S)
        other = judge(other, {cause: str(cause) for cause in order if cause in causes}, TICK_S)
    assert (one.reasons, one.held_s) == (other.reasons, other.held_s)
    assert (one.safe_cause is None) == (other.safe_cause is None)


@pytest.mark.parametrize("other", [Cause.CAMERA, Cause.HOST, Cause.LINK])
def test_of_two_that_end_in_safe_at_once_the_one_that_cannot_park_wins(other) -> None:
    assert after([{other, Cause.BUS}] * 300).safe_cause is Cause.BUS


def test_of_several_the_latched_one_is_told_then_the_oldest() -> None:
    assert after([{Cause.CAMERA}, {Cause.CAMERA, Cause.HOST}]).cause is Cause.CAMERA
    assert after([{Cause.CAMERA}, {Cause.CAMERA, Cause.CLAMPED}]).cause is Cause.CLAMPED
    assert Standing().cause is None


def test_on_its_way_to_park_only_what_servos_need_counts() -> None:
    reasons = dict.fromkeys(Cause, "why")
    assert set(blocking(reasons, parking=False)) == set(Cause)
    assert set(blocking(reasons, parking=True)) == {Cause.BUS, Cause.SERVO}


def test_what_a_person_asks_for_counts_at_once_and_touches_nothing_else() -> None:
    dark = after([{Cause.CAMERA}])
    held = dark.holding(Cause.PERSON, "wait")
    assert (held.reasons[Cause.PERSON], held.held_s[Cause.PERSON]) == ("wait", 0.0)
    assert held.without(Cause.PERSON) == dark
    assert dark.without(Cause.PERSON) == dark
