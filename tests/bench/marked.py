"""A policy that is told where the block is, in the running process on a simulated desk: how far off that is, and what it picks.

PYTHONPATH=. python tests/bench/marked.py POLICY [--grasps N] [--seed N] [--driver simulator]
"""

import argparse
from pathlib import Path

import numpy as np
from rich.console import Console
from tables import Bench

from edge import kinematics, service
from edge.block import BlockTracker
from edge.config import BusConfig, Config, RunConfig, SimulatorConfig
from edge.messages import Frame, JointCommand
from edge.policy import load
from trainer import demo

HEIGHTS_MM = ((108.5, 200.0), (60.0, 108.5), (30.0, 60.0), (0.0, 30.0))  # the tool's; the first is the first quarter of a second


class _Nobody:
    """No systemd."""

    def __getattr__(self, name: str) -> object:
        return lambda *_: None


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description="Grasp marked blocks on a simulated desk, in virtual time.")
    parser.add_argument("policy", type=Path)
    parser.add_argument("--grasps", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--driver", choices=("pca9685", "simulator"), default="pca9685", help="simulator: set points are not rounded (pca9685)"
    )
    given = parser.parse_args()
    looks: list[tuple[float, float, float]] = []  # tool height, and how far off the place is: on the table, and from the tool
    place_m = BlockTracker.place_m
    with demo.hosted(load(given.policy).contract, given.seed) as (desk, server):

        def watched(tracker: BlockTracker, frame: Frame, sent: JointCommand) -> tuple[float, float, float]:
            found = place_m(tracker, frame, sent)
            off = np.array(found[:2]) - desk.world.block_in_table()[:2, 3]
            tool = np.array([kinematics.tool_in_table_m(at, tracker._wrist.mount) for at in (sent, desk.world.joints())])
            looks.append((tool[0, 2], float(np.hypot(*off)), float(np.hypot(*(off - (tool[0] - tool[1])[:2])))))
            return found

        BlockTracker.place_m = watched  # type: ignore[method-assign]
        config = Config(
            bus=BusConfig(driver=given.driver, i2c="emulated"),
            simulator=SimulatorConfig(port=server.port, clock="virtual"),
            run=RunConfig(policy=str(given.policy)),
        )
        with service.opened(config) as parts:
            summary = service.run_once(parts, config, given.grasps, lambda: False, _Nobody())  # type: ignore[arg-type]
        picked, judged = sum(result.picked for result in desk.results), len(desk.results)
    rows = {}
    for low, high in HEIGHTS_MM:
        rows[f"tool at {low:g} to {high:g} mm"] = _row(np.array([look for look in looks if low < look[0] * 1e3 <= high]))
    notes = (
        f"{picked} of {judged} blocks picked by physics, {summary.picked} of {summary.attempts} by the process's own account; "
        f"{summary.holds} of {summary.ticks} ticks held. Seed {given.seed}, driver {given.driver}, simulated camera and arm."
    )
    Console(width=120).print(Bench("Where the policy is told that the block is", rows, {}, notes).table())


def _row(looks: np.ndarray) -> dict[str, float]:
    off_mm, from_tool_mm = looks[:, 1] * 1e3, looks[:, 2] * 1e3
    return {
        "ticks": len(looks),
        "on the table: median mm": float(np.median(off_mm)),
        "max mm": off_mm.max(),
        "from the tool: median mm": float(np.median(from_tool_mm)),
        "from the tool: max mm": from_tool_mm.max(),
    }


if __name__ == "__main__":
    main()
