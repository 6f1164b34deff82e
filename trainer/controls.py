"""What a policy is measured against, on the same scenes: no eyes, no scene at all, and perfect knowledge."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from trainer.env import DofbotGrasp
from trainer.evaluate import Act, Open, open_policy
from trainer.suites import NOISE_SWEEP


def blind(env: DofbotGrasp, act: Act) -> Act:
    """The same policy, what it sees replaced by a constant: what it does from the tool's own position."""
    sight = env.contract.sight
    nothing = np.array(np.broadcast_to((sight.low + sight.high) / 2.0, sight.shape), np.float32)  # grey, or the middle of the box
    return lambda _sight, proprio: act(nothing, proprio)


def middle(env: DofbotGrasp, act: Act) -> Act:
    """Goes to the middle of the spawn area and closes there: the share that luck grasps."""
    low, high = env.contract.episode.spawn_min_in_table_m, env.contract.episode.spawn_max_in_table_m
    goal_in_table_m, scale_m = np.add(low, high) / 2.0, env.contract.action.scale_m
    at = [env.contract.proprio.fields.index(name) for name in ("tool_x_m", "tool_y_m")]
    return lambda _sight, proprio: np.clip((goal_in_table_m - proprio[at]) / scale_m, -1.0, 1.0).astype(np.float32)


def expert(env: DofbotGrasp, act: Act) -> Act:
    """A script that is told where the block is: the most that steering can reach in this world."""
    return lambda _sight, _proprio: env.expert_action()


CONTROLS: dict[str, Callable[[DofbotGrasp, Act], Act]] = {"blind": blind, "middle": middle, "expert": expert}


def open_control(path: Path, suite: str, control: str) -> tuple[DofbotGrasp, Act]:
    """A control in the world that a policy file was made for, with a suite's scenes."""
    env, act = open_policy(path, suite)
    return env, CONTROLS[control](env, act)


def plan(policies: dict[str, Path], suites: list[str], controls: bool) -> Iterator[tuple[str, str, Open]]:
    """(who, suite, how to open it) of each measurement, suite by suite; controls are those of the first policy.

    Nothing but a policy is measured on the noise sweep: controls do not see the image.
    """
    first = next(iter(policies.values()))
    for suite in suites:
        for who, path in policies.items():
            yield who, suite, partial(open_policy, path, suite)
        if controls and suite not in NOISE_SWEEP:
            for control in CONTROLS:
                yield control, suite, partial(open_control, first, suite, control)
