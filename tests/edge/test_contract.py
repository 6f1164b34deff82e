"""A contract survives its JSON bit for bit, and its JSON may hold nothing else."""

import json
import math
from typing import Any

import msgspec
import numpy as np
import pytest

from edge import contract as contracts
from edge.contract import Contract, Evaluation, Golden, Training, decode, encode
from trainer import spec

FULL = msgspec.structs.replace(
    spec.contract(),
    training=Training(commit="0" * 40, algorithm="SAC", seed=3, env_steps=10**12, wall_s=0.1 + 0.2, randomisation=0.5, variant="depth"),
    evaluation=(Evaluation(suite="clean", episodes=2000, successes=1997, interval_95=(0.9956014, 0.9994899)),),
    golden=Golden(tolerance=1e-4, depth=bytes(range(256)), proprio=b"", action=b"\xff\x00", count=256),
)
Keys = tuple[str | int, ...]


def objects(document: Any, path: Keys = ()) -> list[Keys]:
    """Where the JSON has objects: a contract's parts."""
    items = document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    below = [found for key, value in items for found in objects(value, (*path, key))]
    return ([path] if isinstance(document, dict) else []) + below


def at(document: Any, path: Keys) -> Any:
    for key in path:
        document = document[key]
    return document


def document() -> Any:
    return json.loads(encode(FULL))


PARTS = pytest.mark.parametrize("path", objects(document()), ids=lambda path: ".".join(map(str, path)) or "contract")


@pytest.mark.parametrize("contract", [FULL, spec.contract()], ids=["full", "untrained"])
def test_a_contract_survives_its_json(contract: Contract) -> None:
    assert decode(encode(contract)) == contract
    assert decode(encode(contract).decode()) == contract
    assert encode(decode(encode(contract))) == encode(contract)


def test_every_float_survives_its_json_bit_for_bit() -> None:
    values = np.random.default_rng(0).integers(1, 2**62, 2000, dtype=np.int64).view(np.float64)
    for value in [*values[values <= 2.0].tolist(), 5e-324, math.nextafter(2.0, 0.0), 0.1 + 0.2, 1e-3, 0.388]:
        changed = msgspec.structs.replace(FULL, episode=msgspec.structs.replace(FULL.episode, closed_m=value))
        assert decode(encode(changed)).episode.closed_m == value


@PARTS
def test_an_unknown_field_is_refused(path: Keys) -> None:
    altered = document()
    at(altered, path)["surprise"] = 1
    with pytest.raises(msgspec.ValidationError, match="unknown field `surprise`"):
        decode(json.dumps(altered))


@PARTS
def test_a_missing_field_is_refused(path: Keys) -> None:
    optional = {"training", "evaluation", "golden"} if not path else set()
    for field in set(at(document(), path)) - optional:
        altered = document()
        del at(altered, path)[field]
        with pytest.raises(msgspec.ValidationError, match=f"missing required field `{field}`"):
            decode(json.dumps(altered))


@pytest.mark.parametrize(
    ("path", "inside", "outside"),
    [
        (("depth", "near_m"), (5e-324,), (0.0, -0.1)),
        (("depth", "max_invalid_fraction"), (0.0, 1.0), (-1e-9, math.nextafter(1.0, 2.0))),
        (("action", "scale_m"), (1e-9,), (0.0, -0.01)),
        (("episode", "steps"), (1, 10_000), (0, 10_001, 1.5)),
        (("episode", "closed_m"), (0.0, 2.0), (-1e-9, math.nextafter(2.0, 3.0))),
        (("episode", "spawn_yaw_rad"), (0.0,), (-1e-9,)),
        (("rates", "ticks_per_step"), (1, 1000), (0, 1001)),
        (("rates", "tick_hz"), (1e-9,), (0.0, -50.0)),
        (("golden", "count"), (1, 256), (0, 257)),
        (("golden", "tolerance"), (1e-12,), (0.0,)),
        (("episode", "start_in_table_m"), ([0.0, 0.1, 0.2],), ([0.0, 0.1], [0.0, 0.1, 0.2, 0.3], "x")),
        (("camera", "intrinsics"), ([64, 64, 1.0, 1.0, 1.0, 1.0],), ([64, 64, 1.0, 1.0, 1.0], [64.5, 64, 1.0, 1.0, 1.0, 1.0])),
        (("robot", "inverted"), (True, False), (1, "true", None)),
    ],
    ids=lambda value: ".".join(value) if isinstance(value, tuple) and value and isinstance(value[0], str) else "",
)
def test_ranges_end_where_they_say(path: Keys, inside: tuple[Any, ...], outside: tuple[Any, ...]) -> None:
    for value in inside:
        altered = document()
        at(altered, path[:-1])[path[-1]] = value
        decode(json.dumps(altered))
    for value in outside:
        altered = document()
        at(altered, path[:-1])[path[-1]] = value
        with pytest.raises(msgspec.ValidationError, match=rf"at `\$\.{path[0]}\.{path[-1]}"):
            decode(json.dumps(altered))


def test_fields_are_written_in_the_order_of_their_declaration() -> None:
    """Equal contracts are equal bytes: the digest of a policy file depends on it."""
    assert list(document()) == [field.name for field in msgspec.structs.fields(Contract) if field.name != "block"]  # xyz has it
    assert list(document()["episode"]) == [field.name for field in msgspec.structs.fields(contracts.Episode)]


def test_a_contract_cannot_be_changed_and_is_a_key() -> None:
    for part in (FULL, FULL.episode, FULL.robot, FULL.depth):
        assert isinstance(hash(part), int)
        with pytest.raises(AttributeError):
            setattr(part, part.__struct_fields__[0], None)
