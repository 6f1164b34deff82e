"""The arm is not armed on a check that is missing, old, of the future, damaged, or that found a move."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge import config as configuration
from edge.cameras import camera_check
from edge.cameras.camera_check import Checked, why_not_armed
from edge.config import CalibrationConfig
from edge.errors import ConfigError

NOW = datetime(2026, 11, 29, 8, 0, tzinfo=UTC)


@pytest.fixture
def asked(tmp_path):
    """A configuration that asks for a check of the last day."""
    return CalibrationConfig(str(tmp_path / "robot.json"), check_max_age_h=24.0)


def kept(config, age, has_moved=False):
    camera_check.save(Path(config.file), Checked(NOW - age, has_moved, 0.4, 1.0))


@given(hours=st.floats(0.0, 1000.0))
def test_a_check_counts_until_it_is_too_old(hours, tmp_path_factory):
    asked = CalibrationConfig(str(tmp_path_factory.getbasetemp() / "robot.json"), check_max_age_h=24.0)
    kept(asked, timedelta(hours=hours))
    reason = why_not_armed(asked, NOW)
    assert bool(reason) == (timedelta(hours=hours) > timedelta(hours=24))
    assert "\n" not in reason


def test_a_move_is_never_armed_on(asked):
    kept(asked, timedelta(0), has_moved=True)
    assert "has moved" in why_not_armed(asked, NOW)


def test_a_check_from_the_future_a_damaged_one_and_none_at_all_are_refused(asked, tmp_path):
    assert "never checked" in why_not_armed(asked, NOW)
    kept(asked, timedelta(hours=-1))
    assert "-1.0 h ago" in why_not_armed(asked, NOW)
    path = camera_check.path_of(tmp_path / "robot.json")
    path.write_text('{"at": "2026-11-29T08:00:00", "has_moved": false, "off_mm": 0.1, "limit_mm": 1.0}')  # no zone
    assert "never checked" in why_not_armed(asked, NOW)
    for damaged in (b"\x00", b'{"at": "2026-11-29T08:00:00Z", "has_mo\xffed": false, "off_mm": 0.1, "limit_mm": 1.0}'):
        path.write_bytes(damaged)
        assert "never checked" in why_not_armed(asked, NOW)


def test_a_check_that_may_be_of_any_age_counts(tmp_path):
    asked = CalibrationConfig(str(tmp_path / "robot.json"), check_max_age_h=1e12)
    kept(asked, timedelta(days=365))
    assert why_not_armed(asked, NOW) == ""


def test_by_default_nothing_is_asked(tmp_path):
    assert why_not_armed(CalibrationConfig(str(tmp_path / "robot.json")), NOW) == ""


def test_asking_for_a_check_of_no_file_is_refused(tmp_path):
    path = tmp_path / "robot.toml"
    path.write_text("[calibration]\ncheck_max_age_h = 24.0\n")
    with pytest.raises(ConfigError, match="check_max_age_h = 24"):
        configuration.load(path)
