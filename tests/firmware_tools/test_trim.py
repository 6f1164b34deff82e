"""The oscillator comes out of what a scope shows, whatever it is, and only a plausible one is written."""

import json
from pathlib import Path

import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from edge import calibration
from edge.buses.pca9685 import Pca9685Bus, pre_scale, pulse_counts
from edge.config import BusConfig, load
from edge.errors import ConfigError
from edge.simulated.arm_errors import ArmErrors
from edge.simulated.emulated_arm import EmulatedArm
from edge.simulated.emulator import EmulatedI2C, Pca9685Emulator
from firmware_tools import emulated, servo_cli, trim

CLOCKS = st.integers(23_000_000, 27_000_000)


def powered(true_hz: float, configured_hz: int, pulses_us: tuple[float, ...]) -> tuple[Pca9685Emulator, list[float]]:
    """A chip with this oscillator, set up by this configuration, and how long its pulses really are."""
    chip = Pca9685Emulator(true_hz)
    bus = Pca9685Bus(BusConfig(reference_clock_hz=configured_hz), EmulatedI2C({0x40: chip}))
    bus.open()
    measured = []
    for pulse_us in pulses_us:
        bus.write_pulse(9, pulse_us)
        measured.append(chip.pulse_us(9))
    return chip, measured


@settings(max_examples=25)
@given(CLOCKS, CLOCKS, st.floats(500.0, 2500.0))
def test_a_pulse_tells_the_clock(true_hz, configured_hz, commanded_us) -> None:
    _, (measured_us,) = powered(true_hz, configured_hz, (commanded_us,))
    assert trim.clock_from_pulse(measured_us, commanded_us, configured_hz) == pytest.approx(true_hz, rel=1e-9)


@given(CLOCKS, CLOCKS)
def test_the_rate_tells_the_clock(true_hz, configured_hz) -> None:
    measured_hz = true_hz / (4096 * (pre_scale(configured_hz) + 1))
    assert trim.clock_from_rate(measured_hz, configured_hz) == pytest.approx(true_hz, rel=1e-12)


@settings(max_examples=25)
@given(CLOCKS, st.floats(3.0, 12.0), st.floats(600.0, 1400.0), st.floats(1600.0, 2400.0))
def test_the_angle_between_two_pulses_tells_the_clock(true_hz, us_per_deg, first_us, second_us) -> None:
    _, (low_us, high_us) = powered(true_hz, 25_000_000, (first_us, second_us))
    turned_deg = (high_us - low_us) / us_per_deg
    assert trim.clock_from_angles(turned_deg, (first_us, second_us), us_per_deg, 25e6) == pytest.approx(true_hz, rel=1e-9)


def test_the_count_that_adafruits_example_leaves_out_is_there() -> None:
    # At 25 MHz and 50 Hz PRE_SCALE is 121, and the chip makes 50.03 Hz.
    assert pre_scale(25e6) == 121
    assert trim.clock_from_rate(25e6 / 4096 / 122, 25e6) == pytest.approx(25e6)
    assert pulse_counts(1500.0, 25e6) == 307


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file, path = tmp_path / "calibration.json", tmp_path / "config.toml"
    path.write_text(f'[bus]\ni2c = "emulated"\n[calibration]\nfile = "{file}"\n')
    arm = EmulatedArm(load(path).bus, errors=ArmErrors(oscillator_hz=26.1e6))
    monkeypatch.setattr(emulated, "emulated_arm", lambda _: arm)
    app = typer.Typer()
    servo_cli.register(app)

    def run(*arguments: str, typed: str = ""):
        return CliRunner().invoke(app, ["pca9685", "trim", *arguments, "--config", str(path)], input=typed)

    return run, file, arm


def test_guided_it_puts_out_a_pulse_asks_and_writes(rig, monkeypatch) -> None:
    run, file, arm = rig
    seen: list[float] = []

    def scope(_: str) -> float:
        seen.append(arm.pca9685.pulse_us(15))
        return round(seen[0], 1)

    monkeypatch.setattr(trim, "number", scope)
    result = run("--json", typed="y\n")
    assert result.exit_code == 0, result.exception
    assert seen[0] == pytest.approx(1498.2 * 25 / 26.1, abs=1.0)
    assert not any(arm.pca9685.pulse_us(channel) for channel in range(16))
    found = calibration.load(file).pca9685
    assert found.reference_clock_hz == pytest.approx(26.1e6, rel=1e-4)
    assert json.loads(result.stdout[result.stdout.index("{") :])["now_hz"] == found.reference_clock_hz
    assert found.made.checks[0].limit == 2.0


def test_a_second_trim_starts_from_the_first_and_ends_at_the_same_clock(rig) -> None:
    run, file, _ = rig
    run("--measured-hz", str(26.1e6 / 4096 / 122))
    first = calibration.load(file)
    assert first.pca9685.reference_clock_hz == 26_100_000
    run("--measured-hz", str(26.1e6 / 4096 / (pre_scale(26.1e6) + 1)))
    assert calibration.load(file).pca9685.reference_clock_hz == 26_100_000
    assert calibration.load(calibration.previous_of(file)) == first


@pytest.mark.parametrize(
    "reading",
    [("--measured-hz", "55.0"), ("--measured-hz", "45.9"), ("--measured-us", "0"), ("--measured-us", "-1"), ("--measured-hz", "nan")],
)
def test_a_reading_that_cannot_be_is_not_written(rig, reading) -> None:
    run, file, _ = rig
    result = run(*reading)
    assert isinstance(result.exception, ConfigError)
    assert "expected 23…27 MHz" in str(result.exception)
    assert not file.exists()


def test_a_dry_run_computes_and_writes_nothing(rig, monkeypatch) -> None:
    run, file, _ = rig
    assert "25,48" in run("--measured-hz", "51.0", "--dry-run").stdout
    monkeypatch.setattr(emulated, "emulated_arm", lambda _: pytest.fail("opened"))
    assert "would put out 1500 µs" in run("--dry-run").stdout
    assert not file.exists()


def test_without_a_yes_no_pulse_goes_out(rig) -> None:
    run, file, arm = rig
    arm.i2c.trace.clear()
    assert "nothing was done" in str(run(typed="n\n").exception)
    assert not [one for one in arm.i2c.trace if len(one.written) > 2]
    assert not file.exists()
