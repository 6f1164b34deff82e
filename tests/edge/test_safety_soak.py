"""Whatever is asked of the gate, for as long as one likes: what comes out is finite and inside every limit.

20,000 commands here; `make gate-soak` sends a million. The judge knows the limits and the arm's link lengths, and nothing of the gate.
"""

import itertools
import math
import os
import random
from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from edge import kinematics, robot
from edge.kinematics import Mount
from edge.messages import JointCommand
from edge.safety import DOFBOT_LIMITS, gate, resting
from edge.task import GraspTask, Phase
from trainer import spec

STEPS = int(os.environ.get("GATE_STEPS", "20000"))  # of all tests in this file together
DT_S = 0.02
LOW, HIGH = DOFBOT_LIMITS.position_min, DOFBOT_LIMITS.position_max
MOST = tuple(zip(DOFBOT_LIMITS.velocity_max, DOFBOT_LIMITS.acceleration_max, strict=True))
BOX = tuple(zip(DOFBOT_LIMITS.tool_min_in_table_m, DOFBOT_LIMITS.tool_max_in_table_m, strict=True))
TASK = GraspTask(spec.contract(), (-0.12, 0.06))
MOUNTS = (TASK.mount, Mount(0.05, inverted=False))
GRASP = (Phase.HOMING, Phase.APPROACH, Phase.GRASP, Phase.LIFT, Phase.VERIFY, Phase.PLACE)
SLACK = 1e-9

NUMBERS = (math.nan, math.inf, -math.inf, 5e-324, -5e-324, 2.2e-308, 3.4e38, 1e308, -1e308, 1.7e308, 0.0, -0.0, 1e-17, 2.0 * math.pi)
LIMIT_VALUES = tuple(tuple(math.nextafter(end, to) for end in ends for to in (-9.0, end, 9.0)) for ends in zip(LOW, HIGH, strict=True))


class Judge:
    """Compares each command with the one before; after a pause, with an arm that stands still."""

    def __init__(self, position: JointCommand, mount: Mount) -> None:
        self.mount = mount
        self.pause(position)

    def pause(self, position: JointCommand) -> None:
        self.position, self.velocity, self.excess = position, (0.0,) * 6, self._excess(position)

    def see(self, command: JointCommand) -> None:
        """Fails unless the command keeps every promise."""
        velocity = tuple((new - old) / DT_S for new, old in zip(command, self.position, strict=True))
        assert all(map(math.isfinite, command))
        for new, old, low, high in zip(command, self.position, LOW, HIGH, strict=True):
            assert min(low, old) <= new <= max(high, old)
        for speed, before, (fastest, hardest) in zip(velocity, self.velocity, MOST, strict=True):
            assert abs(speed) <= fastest + SLACK
            assert abs(speed - before) <= hardest * DT_S + SLACK
        excess = self._excess(command)
        assert all(new <= max(old, 0.0) + SLACK for new, old in zip(excess, self.excess, strict=True)), (self.excess, excess)
        self.position, self.velocity, self.excess = command, velocity, excess

    def _excess(self, command: JointCommand) -> list[float]:
        """How far the tool is outside its box, per coordinate; negative inside."""
        angles = list(itertools.accumulate(command[1:4]))
        lengths = (robot.UPPER_ARM_M, robot.FOREARM_M, robot.WRIST_TO_TOOL_M)
        out_m = sum(length * math.sin(angle) for length, angle in zip(lengths, angles, strict=True))
        up_m = robot.BASE_TO_SHOULDER_M + sum(length * math.cos(angle) for length, angle in zip(lengths, angles, strict=True))
        side = 1.0 if self.mount.inverted else -1.0
        tool = (side * out_m * math.sin(command[0]), out_m * math.cos(command[0]), self.mount.base_height_m - side * up_m)
        return [max(low - at, at - high) for at, (low, high) in zip(tool, BOX, strict=True)]


def policies(rng: random.Random) -> tuple[Callable[[JointCommand], JointCommand], ...]:
    """Ways to ask for too much, each given where the arm is."""

    def anywhere(_: JointCommand) -> JointCommand:
        return JointCommand(*map(rng.uniform, LOW, HIGH))

    def limits(_: JointCommand) -> JointCommand:
        return JointCommand(*map(rng.choice, LIMIT_VALUES))

    def numbers(_: JointCommand) -> JointCommand:
        return JointCommand(*(rng.choice(NUMBERS) for _ in range(6)))

    def one_number(here: JointCommand) -> JointCommand:
        axis, value = rng.randrange(6), rng.choice(NUMBERS)
        return JointCommand(*(value if a == axis else x for a, x in enumerate(here)))

    def flip(here: JointCommand) -> JointCommand:
        return JointCommand(*(-x for x in here))

    def near(here: JointCommand) -> JointCommand:
        return JointCommand(*(x + rng.choice((0.0, 5e-324, 1e-12, 1e-4, 0.024, 0.048, 0.2)) * rng.choice((-1.0, 1.0)) for x in here))

    return anywhere, limits, numbers, one_number, flip, near


def hostile(rng: random.Random) -> Iterator[Callable[[JointCommand], JointCommand]]:
    """One policy after another, each asked anew or held for some ticks."""
    every = policies(rng)
    while True:
        ask = rng.choice(every)
        for _ in range(rng.choice((1, 1, 2, 3, 8, 40))):
            yield ask
        held = ask(JointCommand(*map(rng.uniform, LOW, HIGH)))
        for _ in range(rng.choice((0, 1, 2, 5, 60))):
            yield lambda _, held=held: held  # type: ignore[misc]


def found(rng: random.Random, last: JointCommand) -> JointCommand:
    """Where servos are read back after a reconnect: near where they were sent, or where a hand has put them."""
    widest = rng.choice((0.01, 0.3, 2.0))
    return JointCommand(*(min(max(x + rng.uniform(-widest, widest), -6.28), 6.28) for x in rng.choice((TASK.park, last))))


@pytest.mark.parametrize("mount", MOUNTS)
def test_no_sequence_of_commands_pauses_and_reconnects_breaks_a_promise(mount: Mount) -> None:
    """Three quarters of the steps."""
    rng, seen = random.Random(int(mount.inverted)), Counter[str]()
    state = resting(TASK.park)
    judge = Judge(state.position, mount)
    for ask in itertools.islice(hostile(rng), STEPS * 3 // 8):
        chance = rng.random()
        if chance < 0.03:
            state = resting(state.position if chance < 0.02 else found(rng, state.position))
            judge.pause(state.position)
            seen["paused" if chance < 0.02 else "found outside" if max(judge.excess) > 0.0 else "found inside"] += 1
        passed = gate(state, ask(state.position), DOFBOT_LIMITS, DT_S, lambda command: kinematics.tool_in_table_m(command, mount))
        judge.see(passed.command)
        state = passed.state
        seen.update(passed.reasons)
    met = ("paused", "found inside", "found outside", "not finite", "tool x", "tool y", "tool z")
    assert min(seen[reason] for reason in (*met, "joint2 position", "joint2 velocity", "joint2 acceleration")) > 10, seen


def float32(rng: np.random.Generator) -> np.ndarray:
    """An action of any bits at all, with what no action may be, or an ordinary one."""
    kind = rng.random()
    if kind < 0.3:
        return rng.integers(0, 2**32, 2, dtype=np.uint32).view(np.float32)
    action = rng.uniform(-1.5, 1.5, 2).astype(np.float32)
    if kind < 0.4:
        action[rng.integers(2)] = (np.nan, np.inf, -np.inf)[rng.integers(3)]
    return action


def test_no_action_of_a_policy_breaks_a_promise() -> None:
    """A quarter of the steps, from action to command as the runtime does it: phase by phase, and parked or sent home at any moment."""
    rng, seen = np.random.default_rng(0), Counter[str]()
    sent, state = resting(TASK.park), TASK.begin(Phase.PARK, TASK.park)
    phases: Iterator[Phase] = itertools.cycle(GRASP)
    judge = Judge(sent.position, TASK.mount)
    for _ in range(STEPS // 4):
        if rng.random() < 0.002:
            phases = itertools.chain((Phase.PARK,), itertools.cycle(GRASP))
            state = TASK.begin(next(phases), sent.position)
        elif TASK.finished(state, sent.position):
            state = TASK.begin(next(phases), sent.position)
        try:
            state, wanted = TASK.tick(state, sent.position, float32(rng))
        except ValueError:  # the runtime holds the arm where it is, and asks again
            wanted = sent.position
            seen["refused"] += 1
        passed = gate(sent, wanted, DOFBOT_LIMITS, DT_S, lambda command: kinematics.tool_in_table_m(command, TASK.mount))
        judge.see(passed.command)
        sent = passed.state
        seen[state.phase] += 1
    assert min(seen[name] for name in ("refused", Phase.PARK, *GRASP)) > 10, seen
