"""The grid: what was put in comes out, in millimetres, and a reading that cannot be is refused."""

import numpy as np
import pytest

from calibration import grid
from calibration.pages import grid as grid_page
from calibration.simulated import arm as simulated_arm
from edge.errors import CalibrationError

PLACES_M = np.array([[x, y] for x in (-0.05, 0.0, 0.05) for y in (0.08, 0.12)])


def test_a_base_that_stands_askew_is_told_from_servos():
    turn, stretch, shift = np.radians(2.0), 1.01, np.array([0.003, -0.002])
    middle = PLACES_M.mean(axis=0)
    spin = stretch * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    told = grid.summary(grid.Grid(PLACES_M, (PLACES_M - middle) @ spin.T + middle + shift, "touch"))
    assert told.shift_mm == pytest.approx((3.0, -2.0))
    assert told.turn_deg == pytest.approx(2.0)
    assert told.stretch == pytest.approx(1.01)
    assert told.left_mm == pytest.approx(0.0, abs=1e-9)


def test_touches_are_read_in_millimetres():
    told = grid.summary(grid.by_touch(PLACES_M, np.tile((3.0, 4.0), (6, 1))))
    assert (told.places, told.median_mm, told.max_mm) == (6, pytest.approx(5.0), pytest.approx(5.0))
    assert [check.found <= check.limit for check in told.checks()] == [True, True]


@pytest.mark.parametrize(
    ("places", "read", "said"),
    [
        (PLACES_M[:4], np.zeros((4, 2)), "at least 5"),
        (PLACES_M, np.zeros((5, 2)), "5 touches of 6 crossings"),
        (PLACES_M, np.full((6, 2), 40.0), "touch 1 reads"),
        (PLACES_M, np.full((6, 2), np.nan), "read it again"),
    ],
)
def test_readings_that_cannot_be_are_refused(places, read, said):
    with pytest.raises(CalibrationError, match=said):
        grid.by_touch(places, read)


def test_the_camera_measures_what_the_servos_leave(calibrated):
    robot, draws = calibrated.robot, np.random.default_rng(0)
    views = simulated_arm.take_pictures(robot, calibrated.held_out.arm.commanded, draws)
    told = grid.summary(grid.by_camera(calibrated.found.state, views, simulated_arm.POINTS_M))
    exact = robot._replace(errors=robot.errors._replace(gauss_deg=0.0))
    still = simulated_arm.take_pictures(exact, calibrated.held_out.arm.commanded, draws)
    without = grid.summary(grid.by_camera(calibrated.found.state, still, simulated_arm.POINTS_M))
    assert 0.3 < told.median_mm < 4.0
    assert without.median_mm < told.median_mm


def test_the_page_has_the_figures_of_each_grid_and_its_map(tmp_path):
    near, far = (grid.by_touch(PLACES_M, np.tile((x_mm, 0.0), (6, 1))) for x_mm in (1.0, 7.0))
    grid_page.write(tmp_path / "grid.html", {"by touch": near, "at <noon>": far}, "test")
    page = (tmp_path / "grid.html").read_text()
    assert page.count("data:image/png;base64,") == 2
    assert '<td class="left good">good</td>' in page
    assert "at &lt;noon&gt;" in page
    assert '<td class="">7.00</td>' in page
    grid_page.write(tmp_path / "far.html", {"by touch": far}, "test")
    assert '<td class="left refused">refused</td>' in (tmp_path / "far.html").read_text()


def test_the_map_is_drawn(tmp_path):
    grid.plot(grid.by_touch(PLACES_M, np.tile((3.0, 4.0), (6, 1))), tmp_path / "grid.png")
    assert (tmp_path / "grid.png").read_bytes().startswith(b"\x89PNG")
