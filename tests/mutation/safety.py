"""Breaks `edge/safety.py` in every small way, one at a time, and fails when its tests do not notice.

    make mutants ARGS='--jobs 4'

Each mutant changes one operator, number, word, condition or statement, and runs `tests/edge/test_safety.py` in a process of its own,
forked when all else is imported. A mutant that survives is a missing test, unless `EQUIVALENT` says why nothing can tell it from
the original. Our own, because tools that rewrite functions at run time leave the limits, which are module data, untouched.
"""

import argparse
import ast
import contextlib
import copy
import importlib
import os
import signal
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
SOURCE, TESTS = ROOT / "edge/safety.py", ROOT / "tests/edge/test_safety.py"
LIMIT_S = 300  # of processor time: the tests take a thirtieth of it, and an endless loop must end
UNWRITTEN = "ignore::pytest.PytestAssertRewriteWarning"  # hypothesis is imported before pytest looks
FAST = "only gives up the short cut: `_barred` bars nothing that is inside, and decides alone"
LENGTHS = "rows have the same length already: `Limits` refuses others, and `_inside` unpacks three coordinates"
ROUNDING = "differ only where a rounding error is the allowance itself, to the bit"
EQUIVALENT = {  # "function: original → mutant": why nothing can tell them apart
    "gate: return passed → pass": FAST,
    "_inside: return x_min <= x <= x_max and y_min <= y <= y_max and (z_min <= z <= z_max) → pass": FAST,
    "_inside: x_min <= x <= x_max → x_min < x <= x_max": FAST,
    "_inside: x_min <= x <= x_max → x_min <= x < x_max": FAST,
    "_inside: y_min <= y <= y_max → y_min < y <= y_max": FAST,
    "_inside: y_min <= y <= y_max → y_min <= y < y_max": FAST,
    "_inside: z_min <= z <= z_max → z_min < z <= z_max": FAST,
    "_inside: z_min <= z <= z_max → z_min <= z < z_max": FAST,
    "_barred: True → False": LENGTHS,
    "_barred: return '' → pass": "None says 'nothing bars it' just as well",
    "_follow: True → False": LENGTHS,
    "_follow: abs(step - gap) <= SLACK * ramp → abs(step - gap) < SLACK * ramp": ROUNDING,
    "_follow: abs(target - sent) <= (1.0 + SLACK) * ramp → abs(target - sent) < (1.0 + SLACK) * ramp": ROUNDING,
    "_allowed: step > 0.0 → step >= 0.0": "no step is none, upward or downward: there is never less than no room",
}

SWAPS: dict[type, tuple[type, ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.Lt),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Add: (ast.Sub,),
    ast.Sub: (ast.Add,),
    ast.Mult: (ast.Div,),
    ast.Div: (ast.Mult,),
    ast.And: (ast.Or,),
    ast.Or: (ast.And,),
}
NAMES = {"min": "max", "max": "min", "all": "any", "abs": "float", "int": "float"}


class Mutant(NamedTuple):
    """One change: where, what ("function: original → mutant"), and the whole changed module."""

    line: int
    change: str
    tree: ast.Module


def variants(node: Any) -> Iterator[Any]:
    """Every small change of a node itself; nothing below it changes."""
    if isinstance(node, ast.Compare):
        for place, op in enumerate(node.ops):
            for other in SWAPS.get(type(op), ()):
                yield ast.Compare(node.left, [*node.ops[:place], other(), *node.ops[place + 1 :]], node.comparators)
    elif isinstance(node, ast.BinOp | ast.AugAssign | ast.BoolOp):
        for other in SWAPS.get(type(node.op), ()):
            changed = copy.copy(node)
            changed.op = other()
            yield changed
    elif isinstance(node, ast.UnaryOp):
        yield node.operand
    elif isinstance(node, ast.Name) and node.id in NAMES:
        yield ast.Name(NAMES[node.id], ast.Load())
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield ast.Constant(not node.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        yield from (ast.Constant(node.value + 1), ast.Constant(node.value * 2)) if node.value else (ast.Constant(node.value + 1),)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield ast.Constant(node.value + "?")
    if isinstance(node, ast.If | ast.IfExp):
        changed = copy.copy(node)
        changed.test = ast.UnaryOp(ast.Not(), node.test)
        yield changed
    if isinstance(node, ast.Assign | ast.AugAssign | ast.Raise | ast.Return) or is_call(node):
        yield ast.Pass()


def is_call(node: Any) -> bool:
    """Whether a statement calls something and drops what it gives."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)


def places(node: ast.AST, name: str = "module") -> Iterator[tuple[str, ast.AST, str, int | None]]:
    """Every (function, parent, field, index) below a node that runs: no docstrings, annotations, imports, or texts of messages."""
    name = getattr(node, "name", name)
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns") or isinstance(value, ast.JoinedStr):
            continue
        for index, child in enumerate(value) if isinstance(value, list) else ((None, value),):
            text = isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant)
            if isinstance(child, ast.AST) and not text and not isinstance(child, ast.Import | ast.ImportFrom | ast.JoinedStr):
                yield name, node, field, index
                yield from places(child, name)


def mutants() -> Iterator[Mutant]:
    """Every mutant of the source."""
    tree = ast.parse(SOURCE.read_text(encoding="utf-8"))
    for name, parent, field, index in places(tree):
        held = getattr(parent, field)
        node = held if index is None else held[index]
        for variant in variants(node):
            change = f"{name}: {shown(node)} → {shown(variant)}"
            put(parent, field, index, variant)
            yield Mutant(getattr(node, "lineno", 0), change, ast.fix_missing_locations(copy.deepcopy(tree)))
            put(parent, field, index, node)


def shown(node: ast.AST) -> str:
    """A node as one line of source, without the body below it."""
    return ast.unparse(node).split("\n")[0]


def put(parent: ast.AST, field: str, index: int | None, node: ast.AST) -> None:
    """Put a node in its place."""
    if index is None:
        setattr(parent, field, node)
    else:
        getattr(parent, field)[index] = node


def start(mutant: Mutant) -> int:
    """Fork a process that becomes the mutant and runs the tests; its exit status is 0 when they all pass."""
    pid = os.fork()
    if pid:
        return pid
    signal.alarm(10 * LIMIT_S)
    import resource

    resource.setrlimit(resource.RLIMIT_CPU, (LIMIT_S, LIMIT_S))
    with contextlib.suppress(BaseException):
        null = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(null, stream)
        module = types.ModuleType("edge.safety")
        module.__file__ = str(SOURCE)
        sys.modules["edge.safety"] = module
        importlib.import_module("edge").safety = module  # type: ignore[attr-defined]
        exec(compile(mutant.tree, str(SOURCE), "exec"), module.__dict__)
        os._exit(int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-W", UNWRITTEN, "--rootdir", str(ROOT), str(TESTS)])))
    os._exit(1)


def main() -> int:
    """Run them all; the exit status is 1 when one survives that is not explained."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--lines", type=int, nargs=2, default=(0, 10_000), metavar=("FIRST", "LAST"))
    options = parser.parse_args()
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    for name in ("hypothesis.strategies", "numpy", "msgspec", "edge.robot", "edge.errors", "edge.reach"):
        importlib.import_module(name)
    if os.waitpid(start(Mutant(0, "the original", ast.parse(SOURCE.read_text(encoding="utf-8")))), 0)[1]:
        sys.exit(f"{TESTS.name} fails on the unchanged gate; mend that first")
    waiting = [mutant for mutant in mutants() if options.lines[0] <= mutant.line <= options.lines[1]]
    total, running, survived = len(waiting), dict[int, Mutant](), list[Mutant]()
    while waiting or running:
        while waiting and len(running) < options.jobs:
            mutant = waiting.pop(0)
            running[start(mutant)] = mutant
        pid, status = os.wait()
        mutant = running.pop(pid)
        if status == 0:
            survived.append(mutant)
            reason = EQUIVALENT.get(mutant.change)
            print(f"line {mutant.line:3}  {mutant.change}\n          {f'equivalent: {reason}' if reason else 'SURVIVED'}", flush=True)
    missing = sum(mutant.change not in EQUIVALENT for mutant in survived)
    print(f"{total} mutants: {total - len(survived)} noticed, {len(survived) - missing} equivalent, {missing} survived")
    return min(missing, 1)


if __name__ == "__main__":
    sys.exit(main())
