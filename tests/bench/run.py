"""Measures speed and accuracy beside the peers, in one run on one core; figures and bars, no verdict. About twenty minutes.

PYTHONPATH=. python tests/bench/run.py [NAME …] [--json FILE] [--loop-s SECONDS] [--calibration-trials N]
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

from rich.console import Console

from trainer.quiet import quiet


def _depth_filters() -> object:
    import depth_filters

    return depth_filters.bench()


def main() -> None:
    """Run every bench, show its table as soon as it is there, write the figures if asked."""
    parser = argparse.ArgumentParser(description="Measure speed and accuracy beside the peers.")
    parser.add_argument("only", nargs="*", metavar="NAME", help="measure what has this in its name, 'wire' for one; without, everything")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--loop-s", type=float, default=60.0, help="seconds that each control loop runs; beside hogs a third of it (60)")
    parser.add_argument("--calibration-trials", type=int, default=20, help="simulated arms that are calibrated in each row (20)")
    arguments = parser.parse_args()
    path: Path | None = arguments.json
    with quiet():
        import corners
        import cuts
        import decision
        import environment
        import hand_eye
        import ik
        import lens
        import loop
        import nack
        import placements
        import rendering
        import reprojection
        import start
        import tools
        import wire
        import wrist

    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    console = Console(width=None if sys.stdout.isatty() else 120)
    busy = os.getloadavg()[0]
    console.print(
        f"Python {platform.python_version()} on {platform.machine()}; load average before: {busy:.1f} on {os.cpu_count()} cores\n"
    )
    results, began_s = [], time.monotonic()
    with tempfile.TemporaryDirectory() as folder, console.status("") as status:
        policy: list[Path] = []
        steps: dict[str, Callable[[], object]] = {
            "a policy": lambda: policy.append(decision.policy_file(folder)),
            "inverse kinematics": ik.bench,
            "corners": corners.bench,
            "blocks": corners.bench_block,
            "lenses": lens.bench,
            "blocks on the wrist": wrist.bench,
            "depth images": rendering.bench,
            "depth filters": _depth_filters,
            "the virtual camera": reprojection.bench,
            "environment steps": environment.bench,
            "decisions": lambda: decision.bench(policy[0]),
            "starts": lambda: start.bench(policy[0]),
            "a bus with NACKs": lambda: nack.bench(policy[0]),
            "the wire": wire.bench,
            "tools": tools.bench,
            "cuts while writing": cuts.bench,
            "hand-eye by method": lambda: hand_eye.bench_methods(arguments.calibration_trials, status.update),
            "hand-eye by placement": lambda: placements.bench(arguments.calibration_trials, status.update),
            "arms with errors": lambda: hand_eye.bench_errors(arguments.calibration_trials, status.update),
            "others' arms": lambda: hand_eye.bench_others(status.update),
            "the loop's pace": lambda: loop.bench_pace(arguments.loop_s),
            "the loop beside hogs": lambda: loop.bench_hogs(arguments.loop_s / 3.0),
        }
        wanted = {name: step for name, step in steps.items() if name == "a policy" or _is_wanted(name, arguments.only)}
        for number, (name, measure) in enumerate(wanted.items(), start=1):
            status.update(f"{number} of {len(wanted)}: {name} …")
            # The calibrations take minutes and say how many are left; nothing in them prints from C.
            with nullcontext() if name in ("hand-eye by method", "hand-eye by placement", "arms with errors", "others' arms") else quiet():
                try:
                    result = measure()
                except ImportError as error:  # the RealSense SDK, without libusb
                    result = f"{name}: left out, {error}\n"
            if isinstance(result, str):
                console.print(result)
            elif result is not None:
                console.print(result.table(), "")
                results.append(result._asdict())
    console.print(f"{time.monotonic() - began_s:.0f} s in all")
    if path:
        path.write_text(json.dumps({"load_average": busy, "benches": results}, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _is_wanted(name: str, only: list[str]) -> bool:
    return not only or any(part in name for part in only)


if __name__ == "__main__":
    main()
