"""Fault injection in PX4's vocabulary: what can be broken, how, from when and for how long, and how often it really was.

PX4 (docs/en/debug/failure_injection.md) has a component and a failure type, refuses both unless a parameter allows them,
and tests that refusal; `moved` is ours. ArduPilot's tests assert that a disturbance was applied, hence the counts.
`edge/simulated/faulty.py` applies them.
"""

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Literal, NamedTuple

import numpy as np
from msgspec import Meta, Struct

from edge.errors import ConfigError

Target = Literal["camera", "bus", "policy", "host"]
Mode = Literal["ok", "off", "stuck", "garbage", "wrong", "slow", "delayed", "intermittent", "moved"]

_log = logging.getLogger(__name__)


class Cell(NamedTuple):
    """What a mode does to a target; `value` is `default` unless given, and from `low` to `high`."""

    does: str
    value: str = ""
    default: float = 0.0
    low: float = 0.0
    high: float = 0.0


OK = Cell("ends what was injected before")
NOT_MOUNTED = "only a camera sits on a mount that can be knocked"

# A text instead of a cell says why there is none.
TABLE: Mapping[Target, Mapping[Mode, Cell | str]] = {
    "camera": {
        "ok": OK,
        "off": Cell("unplugged: no frames, an error"),
        "stuck": Cell("repeats the last image, with new numbers and times, as OpenCV does after an unplug"),
        "garbage": Cell("pixels that are NaN, infinite, negative or saturated", "their share", 0.3, 0.0, 1.0),
        "wrong": Cell("depth in another unit; at 0 an image of half the size", "factor on the depth", 1000.0, 0.0, 1e4),
        "slow": Cell("frames are lost", "their share", 0.5, 0.0, 1.0),
        "delayed": Cell("frames come late, with their true time", "seconds", 0.5, 0.0, 5.0),
        "intermittent": Cell("unplugged for the first half of each period", "period in seconds", 1.0, 0.02, 60.0),
        "moved": Cell("turned on its mount about its own y axis: it looks aside", "radians", 0.1, -0.5, 0.5),
    },
    "bus": {
        "ok": OK,
        "off": Cell("nothing acknowledges"),
        "stuck": Cell("SDA or SCL held: each transaction waits, then times out", "seconds", 0.01, 0.0, 2.0),
        "garbage": Cell("one bit of a byte that is read is flipped", "share of the bytes", 0.5, 0.0, 1.0),
        "wrong": Cell("the chips are reset once, as by a brown-out, and acknowledge as before"),
        "slow": Cell("each transaction takes longer", "seconds", 0.002, 0.0, 1.0),
        "delayed": Cell("reads bring what was read so long ago", "seconds", 0.2, 0.0, 5.0),
        "intermittent": Cell("a transaction is not acknowledged", "probability", 0.05, 0.0, 1.0),
        "moved": NOT_MOUNTED,
    },
    "policy": {
        "ok": OK,
        "off": Cell("no decision, an error"),
        "stuck": Cell("the same action for ever"),
        "garbage": Cell("actions that are NaN or infinite"),
        "wrong": Cell("actions out of range", "the action", 3.0, 1.001, 1e30),
        "slow": Cell("each decision takes longer", "seconds", 0.1, 0.0, 5.0),
        "delayed": Cell("the action of the decision before"),
        "intermittent": Cell("no decision, an error", "probability", 0.3, 0.0, 1.0),
        "moved": NOT_MOUNTED,
    },
    "host": {
        "ok": OK,
        "off": Cell("this process is killed: SIGKILL"),
        "stuck": Cell("the control thread blocks once, a deadlock if for long", "seconds", 1.0, 0.0, 600.0),
        "garbage": Cell("memory is taken", "MB", 64.0, 1.0, 256.0),
        "wrong": "the wall clock would be stepped, which takes root and hits every process; the runtime reads only CLOCK_MONOTONIC",
        "slow": Cell("work in each tick", "seconds", 0.005, 0.0, 1.0),
        "delayed": Cell("each tick comes later, as on a busy machine", "seconds", 0.005, 0.0, 1.0),
        "intermittent": Cell("one tick in twenty stalls, at random", "seconds", 0.05, 0.0, 5.0),
        "moved": NOT_MOUNTED,
    },
}


class Fault(Struct, frozen=True, forbid_unknown_fields=True):
    """One fault: what is broken and how, from when and for how long."""

    target: Target
    mode: Mode
    value: float | None = None  # its meaning, range and default: `TABLE`
    start_s: Annotated[float, Meta(ge=0.0)] = 0.0  # after the script's start, or after the injection
    for_s: Annotated[float, Meta(ge=0.0)] = 0.0  # 0: until another fault of this target, or `ok`, replaces it


def check(fault: Fault) -> Cell:
    """What the fault does; raises `ConfigError` for one that there is not, and for a value outside its range."""
    cell = TABLE[fault.target][fault.mode]
    if isinstance(cell, str):
        raise ConfigError(f"fault '{fault.target} {fault.mode}' cannot be injected: {cell}; choose another mode")
    if fault.value is None:
        return cell
    if not cell.value:
        raise ConfigError(f"fault '{fault.target} {fault.mode}' has value {fault.value}, expected none ({cell.does}); leave it out")
    if not cell.low <= fault.value <= cell.high:  # false for NaN
        raise ConfigError(f"fault '{fault.target} {fault.mode}' has value {fault.value}, expected {cell.low}…{cell.high} ({cell.value})")
    return cell


class Injected:
    """A fault with its times, and how often it was `applied`."""

    def __init__(self, fault: Fault, now_s: float) -> None:
        cell = check(fault)
        self.fault = fault
        self.mode = fault.mode
        self.value = cell.default if fault.value is None else fault.value
        self.begins_s = now_s + fault.start_s
        self.ends_s = self.begins_s + (fault.for_s or math.inf)
        self.applied = 0

    def apply(self) -> None:
        """Count it; the first time is logged."""
        if not self.applied:
            _log.warning("injected fault: %s %s, value %g", self.fault.target, self.mode, self.value)
        self.applied += 1


class Faults:
    """What is injected, and when. One thread may inject while another asks.

    Without `allow` nothing can be. `missing` says, for a target that this robot does not have, why not.
    """

    def __init__(
        self,
        allow: bool = False,
        script: Iterable[Fault] = (),
        now_s: Callable[[], float] = lambda: 0.0,
        seed: int = 0,
        missing: Mapping[str, str] | None = None,
    ) -> None:
        """Raises `ConfigError` for a script that cannot be."""
        self.now_s = now_s
        self._allow = allow
        self._seed = seed
        self._missing = missing or {}
        self._script = tuple(script)
        self._injected: tuple[Injected, ...] = ()
        self._past: Counter[str] = Counter()  # how often those were applied that are over
        self.begin()

    def begin(self) -> None:
        """Start the script, from now; what was injected before is forgotten, counts included."""
        self._injected = ()
        self._past.clear()
        for fault in self._script:
            self.inject(fault)

    def inject(self, fault: Fault) -> None:
        """Add a fault, its start counted from now; raises `ConfigError` where that is not allowed or cannot be."""
        if not self._allow:
            found = f"fault '{fault.target} {fault.mode}'"
            raise ConfigError(f"{found} was refused, expected none while faults.allow = false; set it to true in the configuration")
        if fault.target in self._missing:
            raise ConfigError(f"fault '{fault.target} {fault.mode}' cannot be injected: {self._missing[fault.target]}")
        now_s = self.now_s()
        injected = Injected(fault, now_s)
        kept = [other for other in self._injected if not _is_over(other, injected, now_s)]
        for other in set(self._injected) - set(kept):
            self._past[_name(other)] += other.applied
        self._injected = (*kept, injected)

    def active(self, target: Target) -> Injected | None:
        """The fault that a target has now: of several, the one that was added last."""
        if not self._injected:
            return None
        now_s = self.now_s()
        for injected in reversed(self._injected):
            if injected.fault.target == target and injected.begins_s <= now_s < injected.ends_s:
                return injected if injected.mode != "ok" else None
        return None

    def generator(self, target: Target) -> np.random.Generator:
        """Randomness of a target's faults: the same for the same seed, whatever the other targets do."""
        return np.random.default_rng((self._seed, list(TABLE).index(target)))

    @property
    def applied(self) -> dict[str, int]:
        """How often each fault was really applied, by 'target mode'."""
        counts = self._past.copy()
        for injected in self._injected:
            counts[_name(injected)] += injected.applied
        return dict(counts)


def _name(injected: Injected) -> str:
    return f"{injected.fault.target} {injected.mode}"


def _is_over(old: Injected, new: Injected, now_s: float) -> bool:
    """Whether a fault can never be active again: it has ended, or the new one of its target begins now and does not end."""
    replaced = old.fault.target == new.fault.target and new.begins_s <= now_s and new.ends_s == math.inf
    return replaced or old.ends_s <= now_s
