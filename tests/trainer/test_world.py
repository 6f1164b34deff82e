"""The simulated desk keeps to physics where the arm can touch, and takes a short cut only where nothing can happen."""

import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edge import kinematics
from edge.messages import JointCommand, ToolPose
from edge.safety import DOFBOT_LIMITS, GateState, gate, resting
from edge.task import GraspTask, Phase
from trainer import spec
from trainer.blocks import Block
from trainer.env import DofbotGrasp
from trainer.world import World, tip_advance_m

ROOT = Path(__file__).parents[2]
CONTRACT = spec.contract()
EPISODE = CONTRACT.episode
TASK = GraspTask(CONTRACT, (-0.12, 0.06))
TICK_S = 1.0 / CONTRACT.rates.tick_hz
GRASP_M = EPISODE.start_in_table_m[2] - EPISODE.steps * EPISODE.descent_per_step_m


@pytest.fixture
def world() -> Iterator[World]:
    world = World(CONTRACT)
    yield world
    world.close()


@pytest.fixture
def thorough() -> Iterator[World]:
    """One that takes every physics step."""
    world = World(CONTRACT, always_step=True)
    yield world
    world.close()


def over(x_m: float, y_m: float, z_m: float, opening_m: float = EPISODE.open_m) -> JointCommand:
    return JointCommand(*kinematics.solve(ToolPose(x_m, y_m, z_m, 0.0, EPISODE.yaw_rad), TASK.mount), opening_m)


def play(world: World, phase: Phase, sent: GateState, opening_m: float | None = None) -> GateState:
    """A phase from the grasp on, the arm driven as the runtime does; `opening_m` overrules the gripper."""
    state = TASK.begin(phase, sent.position)
    while not TASK.finished(state, sent.position):
        state, wanted = TASK.tick(state, sent.position)
        wanted = wanted if opening_m is None else wanted._replace(opening_m=opening_m)
        sent = gate(sent, wanted, DOFBOT_LIMITS, TICK_S, lambda c: kinematics.tool_in_table_m(c, TASK.mount)).state
        world.drive(sent.position)
        world.step(TICK_S)
    return sent


def grasp(world: World, block: Block, opening_m: float | None = None) -> float:
    """Close around a block and lift; how far the block rose."""
    sent = resting(over(block.x_m, block.y_m, GRASP_M))
    world.reset(sent.position, (block,))
    for phase in (Phase.GRASP, Phase.LIFT, Phase.VERIFY):
        sent = play(world, phase, sent, opening_m)
    return float(world.block_in_table()[2, 3]) - block.size_m[2] / 2.0


def assert_unmoved(block: np.ndarray, before: np.ndarray) -> None:
    """To 0.1 mm and 0.1°: what PyBullet's contacts make of lying still."""
    assert np.abs(block[:3, 3] - before[:3, 3]).max() < 1e-4
    assert np.abs(block[:3, :3] - before[:3, :3]).max() < math.radians(0.1)


def settle(world: World, duration_s: float) -> None:
    for _ in range(round(duration_s / TICK_S)):
        world.step(TICK_S)


# --- the short cut


def test_the_short_cut_is_the_physics_while_nothing_can_be_touched(world: World, thorough: World) -> None:
    """During a descent to just above the block: joints to 2.5 mrad, which are 0.6 mm at the tool."""
    rng = np.random.default_rng(0)
    for both in (world, thorough):
        both.reset(TASK.start, (Block(0.02, 0.1),))
    sent, state = resting(TASK.start), TASK.begin(Phase.APPROACH, TASK.start)
    worst_rad, ticks = 0.0, 0
    while kinematics.tool_height_m(sent.position, TASK.mount) > 0.020:
        action = np.clip((0.1 * rng.standard_normal(2) + (0.05, -0.1)), -1.0, 1.0) if TASK.needs_action(state) else None
        state, wanted = TASK.tick(state, sent.position, action)
        sent = gate(sent, wanted, DOFBOT_LIMITS, TICK_S, lambda c: kinematics.tool_in_table_m(c, TASK.mount)).state
        for both in (world, thorough):
            both.drive(sent.position)
            both.step(TICK_S)
        worst_rad = max(worst_rad, float(np.abs(np.subtract(world.joints(), thorough.joints())[:5]).max()))
        ticks += 1
    assert ticks > 300
    assert worst_rad < 0.0025
    assert_unmoved(world.block_in_table(), thorough.block_in_table())


def test_the_short_cut_gives_the_same_grasps() -> None:
    quick, whole = DofbotGrasp(), DofbotGrasp()
    whole.world.close()
    whole.world = World(CONTRACT, always_step=True)
    successes = []
    for seed in range(10):
        ends = []
        for env in (quick, whole):
            env.reset(seed=seed)
            done = False
            while not done:
                # Every third one misses on purpose, so that both outcomes are compared.
                _, _, done, _, info = env.step(env.expert_action() if seed % 3 else np.array([1.0, 1.0], np.float32))
            ends.append(info["is_success"])
        assert ends[0] == ends[1], f"seed {seed}"
        successes.append(ends[0])
    assert 6 <= sum(successes) < 10
    quick.close()
    whole.close()


# --- servos


def test_servos_trail_their_set_points_and_arrive(world: World) -> None:
    world.reset(TASK.start, ())
    goal = TASK.start._replace(joint1_rad=0.3)
    world.drive(goal)
    angles_rad = []
    for _ in range(50):
        world.step(TICK_S)
        angles_rad.append(world.joints().joint1_rad)
    assert (np.diff([0.0, *angles_rad]) <= math.radians(200.0) * TICK_S + 1e-12).all()  # the data sheet's top speed
    assert angles_rad[0] < 0.1
    assert angles_rad[-1] == pytest.approx(0.3, abs=1e-4)
    assert (np.diff(angles_rad) >= 0.0).all(), "a servo does not overshoot"


def test_fingers_close_on_nothing_at_their_speed_and_advance(thorough: World) -> None:
    thorough.reset(over(0.0, 0.12, 0.05), ())
    thorough.drive(over(0.0, 0.12, 0.05, 0.020))
    openings_m = []
    for _ in range(40):
        thorough.step(TICK_S)
        openings_m.append(thorough.opening_m())
    assert (np.diff([0.060, *openings_m]) >= -2 * 0.05 * TICK_S - 1e-3).all()
    assert openings_m[-1] == pytest.approx(0.020, abs=1e-3)
    assert openings_m[4] > 0.040


def test_tips_advance_as_the_table_says() -> None:
    assert [tip_advance_m(opening_m) for opening_m in (0.0, 0.030, 0.060)] == pytest.approx([0.0091, 0.0, -0.0213])
    assert tip_advance_m(0.045) == pytest.approx(-0.01065)


# --- blocks


@pytest.mark.parametrize(
    "block",
    [
        Block(0.0, 0.1, 0.3),
        Block(0.05, 0.125, -0.7),
        Block(0.0, 0.1, cylinder=True),
        Block(0.0, 0.1, size_m=(0.02, 0.03, 0.04)),
        Block(0.0, 0.1, mass_kg=0.2, friction=0.2),
    ],
    ids=["cube", "corner", "cylinder", "box", "heavy"],
)
def test_a_block_rests_where_it_was_put(block: Block, thorough: World) -> None:
    thorough.reset(TASK.start, (block,))
    before = thorough.block_in_table()
    assert before[:3, 3] == pytest.approx((block.x_m, block.y_m, block.size_m[2] / 2.0))
    settle(thorough, 2.0)
    assert_unmoved(thorough.block_in_table(), before)
    assert thorough.touches() == (False, False)


@pytest.mark.parametrize("yaw_deg", [-45.0, -20.0, 0.0, 30.0, 45.0])
def test_a_centred_block_is_lifted_and_held_by_both_fingers(yaw_deg: float, world: World) -> None:
    rise_m = grasp(world, Block(0.01, 0.11, math.radians(yaw_deg)))
    assert rise_m == pytest.approx(EPISODE.lift_m, abs=0.005)
    assert world.touches() == (True, True)
    # Narrower than the side of the block, but for the diagonal that it may have been turned to: it was squeezed flat.
    assert 0.028 < world.opening_m() < 0.043


def test_an_open_gripper_lifts_nothing(world: World) -> None:
    assert abs(grasp(world, Block(0.01, 0.11), opening_m=EPISODE.open_m)) < 1e-4
    assert world.touches() == (False, False)


def test_a_block_beside_the_gripper_stays_on_the_table(world: World) -> None:
    block = Block(0.0, 0.135)
    sent = resting(over(0.0, 0.085, GRASP_M))
    world.reset(sent.position, (block,))
    for phase in (Phase.GRASP, Phase.LIFT):
        sent = play(world, phase, sent)
    assert abs(world.block_in_table()[2, 3] - 0.015) < 1e-3


def test_ice_is_not_lifted(world: World) -> None:
    assert grasp(world, Block(0.01, 0.11, friction=0.0)) < 0.02


def test_a_lifted_block_falls_when_the_gripper_opens(world: World) -> None:
    grasp(world, Block(0.01, 0.11))
    opened = world.joints()._replace(opening_m=EPISODE.open_m)
    world.drive(opened)
    settle(world, 1.5)
    assert world.block_in_table()[2, 3] < 0.03
    assert world.touches() == (False, False)


def test_a_new_block_replaces_the_last_one_whatever_became_of_it(world: World) -> None:
    grasp(world, Block(0.01, 0.11))
    for block in (Block(0.0, 0.1), Block(-0.02, 0.08, 0.5, (0.02, 0.02, 0.05), cylinder=True), Block(0.04, 0.12)):
        world.reset(TASK.start, (block,))
        fresh = World(CONTRACT)
        fresh.reset(TASK.start, (block,))
        assert np.array_equal(world.block_in_table(), fresh.block_in_table())
        assert np.array_equal(world.depth(), fresh.depth())
        fresh.close()


# --- repetition


def test_the_same_commands_give_the_same_world_bit_for_bit() -> None:
    ends = []
    for _ in range(2):
        world = World(CONTRACT)
        rise_m = grasp(world, Block(0.012, 0.108, 0.4))
        ends.append((rise_m, world.joints(), world.block_in_table().tobytes(), world.depth().tobytes()))
        world.close()
    assert ends[0] == ends[1]


def test_without_pybullet_the_extra_is_named() -> None:
    code = "import sys; sys.modules['pybullet'] = None; import trainer.world"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "MissingExtraError: pybullet is not installed; run: pip install 'dofbot-grasp[sim]'" in result.stderr
