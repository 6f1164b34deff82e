"""Checkpoints: one file each, whole or not there at all, loadable without running any code from it."""

import contextlib
import io
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import torch
from msgspec import Struct

import edge
from edge import contract as edge_contract
from edge.contract import Contract
from edge.errors import DofbotError
from edge.files import write_atomically
from trainer.sac.sac import Learner, NotFiniteError, Settings

FORMAT = 1
NAME = "checkpoint.pt"  # in a run's folder


class Header(Struct, frozen=True, forbid_unknown_fields=True):
    """What a checkpoint says about itself; what made it must fit what loads it."""

    format: int
    package: str
    commit: str
    settings: Settings
    contract: Contract


class Checkpoint(NamedTuple):
    """`actor` are its weights; `learner` is everything else, and None in a checkpoint that is only to be evaluated."""

    header: Header
    env_steps: int
    wall_s: float
    actor: dict[str, torch.Tensor]
    learner: dict[str, Any] | None


def new_header(settings: Settings, contract: Contract) -> Header:
    """The header of a run that starts now, from this source tree."""
    return Header(FORMAT, edge.__version__, commit(), settings, contract)


def save(path: Path, header: Header, learner: Learner) -> None:
    """Everything that a resumed run needs. Raises `NotFiniteError` rather than replace a good file by a spoilt one."""
    state = learner.state_dict()
    for part in ("actor", "critic"):
        if not all(bool(torch.isfinite(value).all()) for value in state[part].values()):
            raise NotFiniteError(f"the {part} has weights that are no numbers after {learner.env_steps} steps")
    _write(path, header, learner, state)


def save_actor(path: Path, header: Header, learner: Learner) -> None:
    """The actor alone, 0.4 MB: enough to evaluate and to export."""
    _write(path, header, learner, None)


def load(path: Path) -> Checkpoint:
    """Read a checkpoint that this version can go on from; raises `DofbotError` naming the field that does not fit."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DofbotError(f"checkpoint {path} is not readable ({error.strerror}); give a run's folder or its {NAME}") from None
    try:
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        document = msgspec.json.decode(content["header"])
    except Exception:  # torch raises whatever its zip and pickle readers do
        raise DofbotError(f"checkpoint {path} is damaged or was not written by 'dofbot train'; take another one or train anew") from None
    header = check_header(path, document)
    return Checkpoint(header, content["env_steps"], content["wall_s"], content["actor"], content["learner"])


def check_header(path: Path, document: dict[str, Any]) -> Header:
    """A header from JSON; raises `DofbotError` naming the field unless this version of the package wrote it."""
    for field, expected in (("format", FORMAT), ("package", edge.__version__)):
        if document.get(field) != expected:
            found = f"{field} {document.get(field)!r}"
            raise DofbotError(f"checkpoint {path} has {found}, expected {expected!r}; train anew, or use the version that wrote it")
    try:
        return msgspec.convert(document, Header)
    except msgspec.ValidationError as error:
        raise DofbotError(f"checkpoint {path}: its header does not fit ({error}); train anew, or use the version that wrote it") from None


def check_contract(path: Path, found: Contract, expected: Contract) -> None:
    """Raises `DofbotError` naming the first field in which a checkpoint's contract differs from the one trained now."""
    difference = _difference(*(msgspec.json.decode(edge_contract.encode(contract)) for contract in (found, expected)))
    if difference:
        field, was, now = difference
        raise DofbotError(
            f"checkpoint {path} was trained with contract {field} = {was}, but it is {now} now; train anew, or undo the change"
        )


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns an `OSError` into one sentence."""
    try:
        yield
    except OSError as error:
        raise DofbotError(
            f"cannot write {path} ({error.strerror}); the last checkpoint is as it was: make room or correct the folder, then resume"
        ) from None


def commit() -> str:
    """Short hash of the source tree's commit, '-dirty' with uncommitted changes; 'unknown' outside git."""
    git = shutil.which("git")
    if git is None:
        return "unknown"
    here = Path(__file__).parent
    commands = ((git, "rev-parse", "--short", "HEAD"), (git, "status", "--porcelain"))
    results = [subprocess.run(command, cwd=here, capture_output=True, text=True, check=False) for command in commands]
    if any(result.returncode for result in results):
        return "unknown"
    head, changes = (result.stdout.strip() for result in results)
    return f"{head}-dirty" if changes else head


def _write(path: Path, header: Header, learner: Learner, state: dict[str, Any] | None) -> None:
    content = {
        "header": msgspec.json.encode(header).decode(),
        "env_steps": learner.env_steps,
        "wall_s": learner.wall_s,
        "actor": learner.actor.state_dict(),
        "learner": state,
    }
    memory = io.BytesIO()  # torch's own file writer hides why a disk refused
    torch.save(content, memory)
    with writing(path):
        write_atomically(path, memory.getvalue())


def _difference(found: Any, expected: Any, where: str = "") -> tuple[str, Any, Any] | None:
    """Dotted path and both values of the first difference between two JSON documents."""
    if isinstance(found, dict) and isinstance(expected, dict) and found.keys() == expected.keys():
        parts = ((f"{where}.{key}".lstrip("."), found[key], expected[key]) for key in found)
        return next(filter(None, (_difference(a, b, path) for path, a, b in parts)), None)
    return None if found == expected else (where, found, expected)
