"""Joint 1's zero from touches: what was put in comes out, in both mounts, with an honest σ; what cannot be told is said."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibration import table_turn
from edge.config import MountConfig
from edge.errors import CalibrationError
from edge.kinematics import Mount, solve, transform_tool_to_table
from edge.messages import ToolPose

HANGING, STANDING = MountConfig(inverted=True, base_height_m=0.388), MountConfig(inverted=False, base_height_m=0.10)
PLACES_M = np.array([(-0.1, 0.06), (-0.09, 0.11), (-0.04, 0.13), (0.0, 0.1), (0.04, 0.14), (0.06, 0.08), (0.1, 0.11), (0.09, 0.04)])
SPREAD_M = np.array([(-0.09, 0.06), (-0.06, 0.10), (0.0, 0.105), (0.0, 0.135), (0.08, 0.075), (0.07, 0.11)])


def _touched(places_m, mount, zero_rad, draws=None, servo_deg=0.3):
    """Where the tool of an arm really is whose joint 1 is off, by its forward kinematics."""
    where = Mount(mount.base_height_m, mount.inverted)
    heading = np.radians(135.0 if mount.inverted else -45.0)  # the middle of joint 5's range
    found = []
    for x, y in places_m.tolist():
        joints = np.array(solve(ToolPose(x, y, 0.03, 0.0, heading), where))
        joints[0] += zero_rad
        if draws is not None:
            joints += np.radians(draws.normal(0.0, servo_deg, 5))
        found.append(transform_tool_to_table(tuple(joints), where)[:2, 3])
    return np.array(found)


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from([HANGING, STANDING]),
    st.floats(-3.0, 3.0),
    st.tuples(st.floats(-5.0, 5.0), st.floats(-5.0, 5.0)),
)
def test_a_zero_and_a_shift_come_out_as_they_were_put_in(mount, zero_deg, shift_mm):
    shift = np.array(shift_mm) / 1e3
    found = table_turn.fit(SPREAD_M, _touched(SPREAD_M, mount, np.radians(zero_deg)) + shift, mount)
    assert np.degrees(found.zero_rad) == pytest.approx(zero_deg, abs=0.01)  # the fit is linear: 3° are 0.0014 off
    np.testing.assert_allclose(found.shift_m, shift, atol=2e-4)
    assert found.left_m.max() < 2e-4


def test_a_reach_that_is_too_long_is_no_turn():
    out = SPREAD_M / np.linalg.norm(SPREAD_M, axis=1)[:, None]
    found = table_turn.fit(SPREAD_M, SPREAD_M + 0.004 * out, HANGING)
    assert found.reach_m == pytest.approx(0.004)
    assert abs(found.zero_rad) < 1e-9
    assert not found.is_significant


def test_sigmas_are_honest():
    scores, wrong = [], 0
    for seed in range(150):
        draws = np.random.default_rng(seed)
        zero = np.radians(draws.normal(0.0, 3.0))
        measured = _touched(PLACES_M, HANGING, zero, draws) + draws.normal(0.0, 0.002, 2) + draws.normal(0.0, 0.0005, PLACES_M.shape)
        found = table_turn.fit(PLACES_M, measured, HANGING)
        scores.append((found.zero_rad - zero) / found.zero_sigma_rad)
        still = _touched(PLACES_M, HANGING, 0.0, draws) + draws.normal(0.0, 0.0005, PLACES_M.shape)
        wrong += table_turn.fit(PLACES_M, still, HANGING).is_significant
    assert 0.7 < np.sqrt(np.mean(np.square(scores))) < 1.2
    assert wrong <= 3  # of 150 arms whose zero is right


def test_touches_that_scatter_more_than_servos_should_have_a_larger_sigma():
    sigma = []
    for servo_deg in (0.3, 2.0):
        draws = np.random.default_rng(0)
        sigma.append(table_turn.fit(PLACES_M, _touched(PLACES_M, HANGING, 0.0, draws, servo_deg), HANGING).zero_sigma_rad)
    assert sigma[1] > 2.0 * sigma[0]


@pytest.mark.parametrize(
    "places",
    [np.array([(0.0, 0.06 + 0.01 * i) for i in range(6)]), np.array([(0.1 * np.sin(a), 0.1 * np.cos(a)) for a in (0, 0, 0, 1e-5, 0)])],
)
def test_touches_on_one_line_or_in_one_place_are_refused(places):
    with pytest.raises(CalibrationError, match="spread over the table"):
        table_turn.fit(places, places + 0.001, HANGING)
