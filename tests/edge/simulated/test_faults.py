"""Every cell of the table is there or says why not; nothing is injected without leave; what is injected has its time and its count."""

import math
from typing import get_args

import pytest

from edge.errors import ConfigError
from edge.simulated.faults import TABLE, Cell, Fault, Faults, Injected, Mode, Target, check

CELLS = [(target, mode) for target in get_args(Target) for mode in get_args(Mode)]
ALLOWED = [(target, mode) for target, mode in CELLS if isinstance(TABLE[target][mode], Cell)]
REFUSED = [cell for cell in CELLS if cell not in ALLOWED]


class FakeClock:
    def __init__(self) -> None:
        self.time_s = 100.0

    def now_s(self) -> float:
        return self.time_s


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def test_the_table_has_four_targets_with_nine_modes() -> None:
    assert len(CELLS) == 36
    assert {(target, mode) for target, modes in TABLE.items() for mode in modes} == set(CELLS)
    assert REFUSED == [("bus", "moved"), ("policy", "moved"), ("host", "wrong"), ("host", "moved")]


@pytest.mark.parametrize(("target", "mode"), ALLOWED)
def test_a_cell_takes_its_range_and_no_more(target, mode) -> None:
    cell = check(Fault(target, mode))
    if not cell.value:
        with pytest.raises(ConfigError, match=f"fault '{target} {mode}' has value 1.0, expected none"):
            check(Fault(target, mode, 1.0))
        return
    assert cell.low <= cell.default <= cell.high
    for value in (cell.low, cell.high, cell.default):
        check(Fault(target, mode, value))
    for value in (math.nextafter(cell.low, -math.inf), math.nextafter(cell.high, math.inf), math.nan):
        with pytest.raises(ConfigError, match=rf"fault '{target} {mode}' has value .*, expected {cell.low}…"):
            check(Fault(target, mode, value))


@pytest.mark.parametrize(("target", "mode"), REFUSED)
def test_what_makes_no_sense_is_refused_with_the_reason(target, mode) -> None:
    with pytest.raises(ConfigError, match=f"fault '{target} {mode}' cannot be injected: .{{20,}}; choose another mode"):
        Faults(allow=True).inject(Fault(target, mode))


@pytest.mark.parametrize(("target", "mode"), CELLS)
def test_nothing_is_injected_unless_it_is_allowed(target, mode) -> None:
    for faults in (Faults(), Faults(allow=False, seed=3)):
        with pytest.raises(ConfigError, match=f"fault '{target} {mode}' was refused, .*faults.allow = false; set it to true"):
            faults.inject(Fault(target, mode))
        assert faults.active(target) is None
        assert faults.applied == {}
    with pytest.raises(ConfigError, match=r"faults\.allow"):
        Faults(script=[Fault(target, mode)])


def test_a_target_that_is_missing_says_so() -> None:
    faults = Faults(allow=True, missing={"bus": "there is no I2C bus, expected one; add it"})
    with pytest.raises(ConfigError, match="fault 'bus off' cannot be injected: there is no I2C bus, expected one; add it"):
        faults.inject(Fault("bus", "off"))
    faults.inject(Fault("camera", "off"))


def test_a_fault_has_its_time(clock) -> None:
    faults = Faults(True, [Fault("bus", "off", start_s=1.0, for_s=2.0)], clock.now_s)
    for passed_s, is_active in ((0.0, False), (0.99, False), (1.0, True), (2.99, True), (3.0, False), (99.0, False)):
        clock.time_s = 100.0 + passed_s
        assert (faults.active("bus") is not None) == is_active
        assert faults.active("camera") is None
    faults.begin()
    clock.time_s += 1.5
    assert faults.active("bus") is not None


def mode_of(faults: Faults, target: Target) -> str:
    active = faults.active(target)
    return active.mode if active else "ok"


def test_the_last_one_wins_and_ok_ends_it(clock) -> None:
    faults = Faults(True, now_s=clock.now_s)
    faults.inject(Fault("camera", "slow", 0.2))
    faults.inject(Fault("camera", "stuck", for_s=1.0))
    faults.inject(Fault("bus", "slow"))
    assert mode_of(faults, "camera") == "stuck"
    clock.time_s += 1.0
    assert mode_of(faults, "camera") == "slow"
    clock.time_s += 1e6  # for ever
    assert mode_of(faults, "camera") == "slow"
    faults.inject(Fault("camera", "ok"))
    assert mode_of(faults, "camera") == "ok"
    assert mode_of(faults, "bus") == "slow"


def test_what_was_applied_is_counted_and_logged_once(clock, caplog) -> None:
    faults = Faults(True, now_s=clock.now_s)
    for _ in range(2):
        faults.inject(Fault("policy", "wrong", 7.0))
        active = faults.active("policy")
        assert isinstance(active, Injected)
        assert active.value == 7.0
        for _ in range(3):
            active.apply()
    faults.inject(Fault("host", "slow"))
    assert faults.applied == {"policy wrong": 6, "host slow": 0}
    assert [record.getMessage() for record in caplog.records] == ["injected fault: policy wrong, value 7"] * 2
    faults.begin()
    assert faults.applied == {}


def test_faults_that_are_over_cost_nothing_but_keep_their_count(clock) -> None:
    """A day of them must not slow a tick down: each asks for its fault about ten times."""
    faults = Faults(True, [Fault("bus", "intermittent")], clock.now_s)
    for _ in range(100):
        faults.inject(Fault("camera", "off", for_s=1.0))
        faults.inject(Fault("policy", "stuck"))
        for target in ("camera", "policy", "bus"):
            active = faults.active(target)
            assert active is not None
            active.apply()
        clock.time_s += 1.0
    assert faults.applied == {"bus intermittent": 100, "camera off": 100, "policy stuck": 100}
    assert mode_of(faults, "bus") == "intermittent"
    assert len(faults._injected) <= 3
    faults.begin()
    assert faults.applied == {"bus intermittent": 0}


def test_randomness_is_the_seeds_and_each_targets_own() -> None:
    def draw(seed: int, target: Target) -> float:
        return Faults(True, seed=seed).generator(target).random()

    drawn = {(seed, target): draw(seed, target) for seed in range(3) for target in get_args(Target)}
    assert len(set(drawn.values())) == 12
    assert all(draw(*key) == value for key, value in drawn.items())
