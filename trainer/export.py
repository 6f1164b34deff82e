"""Writes the policy file: a torch actor, its contract and golden vectors become one stamped ONNX file.

The result is opened by `edge.policy` before anything is written, so a file that a robot would refuse never comes to be.
"""

import copy
import io
import warnings
import zlib
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import onnx
import torch
from torch import nn

from edge.contract import Contract, Golden, encode
from edge.errors import PolicyError
from edge.files import write_atomically
from edge.messages import Float32
from edge.policy import CONTRACT_KEY, DIGEST_DIGITS, DIGEST_KEY, from_bytes, stamp

OPSET = 17  # IR version 8: onnxruntime 1.13 of 2022 and later load it
MAX_BYTES = 10_000_000  # 10 MB; a 64×64 actor has about 1 MB
PARITY = 1e-5  # torch against onnxruntime on one machine, as rsl_rl and exploy compare
TOLERANCE = 1e-4  # on the robot: another CPU sums in another order; 1 µm of motion at 10 mm an action
NOISE_VECTORS = 13
EXAMPLE_VECTORS = 16


class Examples(NamedTuple):
    """Observations as the environment gave them: `depth` (n, 1, height, width) in [0, 1] or `block` (n, 3), `proprio` (n, k); n > 0."""

    depth: Float32 | None
    proprio: Float32
    block: Float32 | None = None


def export_onnx(actor: nn.Module, contract: Contract, examples: Examples, path: Path, overwrite: bool = False) -> Contract:
    """Write `path` and return the contract in it, which has the golden vectors.

    `actor` maps depth (n, 1, height, width) or block (n, 3), and proprio (n, k), all float32, to actions (n, 2) in [-1, 1],
    with normalisation and squashing inside; it is not changed. Raises `PolicyError` when the file exists and
    `overwrite` is false, when it would be too large, and whenever `edge.policy` would refuse it.
    """
    if path.exists() and not overwrite:
        raise PolicyError(f"{path} exists already; move it away or give --force to replace it")
    actor = copy.deepcopy(actor).cpu().eval()
    contract = msgspec.structs.replace(contract, golden=_golden(actor, contract, examples))
    data = _with_metadata(_graph(actor, contract), contract)
    if len(data) > MAX_BYTES:
        raise PolicyError(f"{path} would have {len(data)} bytes, expected at most {MAX_BYTES}; train a smaller network")
    error = from_bytes(data).golden_error
    if error > PARITY:
        raise PolicyError(f"onnxruntime differs from torch by {error:.2g}, expected at most {PARITY:.2g}; check the actor's operations")
    try:
        write_atomically(path, data)
    except OSError as error:
        raise PolicyError(f"cannot write {path} ({error.strerror}); check its folder, permissions and free space") from None
    return contract


def _golden(actor: nn.Module, contract: Contract, examples: Examples) -> Golden:
    """Constants, noise and real observations, with the actions that torch gives them."""
    sight, width = contract.sight, len(contract.proprio.fields)
    seen, count = (examples.block if contract.depth is None else examples.depth), len(examples.proprio)
    found = (() if seen is None else seen.shape, examples.proprio.shape)
    wanted = ((max(count, 1), *sight.tensor_shape[1:]), (max(count, 1), width))
    if seen is None or found != wanted:
        raise PolicyError(f"examples have shapes {found}, expected {wanted} by contract camera.intrinsics and proprio.fields")
    rng = np.random.default_rng(0)
    inside = (sight.low + sight.high) / 2.0 if contract.depth is None else contract.depth.invalid_value
    constants = np.stack([np.broadcast_to(value, sight.tensor_shape[1:]) for value in (sight.low, sight.high, inside)])
    levels = rng.integers(0, 256, (NOISE_VECTORS, *sight.tensor_shape[1:])) / 255.0  # 256 levels: compresses to a third
    noise = sight.low + (sight.high - sight.low) * levels
    chosen = np.linspace(0, count - 1, min(count, EXAMPLE_VECTORS)).astype(int)
    synthetic = len(constants) + len(noise)
    low, high = examples.proprio.min(axis=0), examples.proprio.max(axis=0)
    sights = np.concatenate([constants, noise, seen[chosen]]).astype(np.float32)
    proprio = np.concatenate([rng.uniform(low, high, (synthetic, width)), examples.proprio[chosen]]).astype(np.float32)
    with torch.no_grad():
        action = actor(torch.from_numpy(sights), torch.from_numpy(proprio)).numpy()
    packed = {"depth": None, sight.field: _pack(sights)}
    return Golden(tolerance=TOLERANCE, proprio=_pack(proprio), action=_pack(action), count=len(sights), **packed)


def _graph(actor: nn.Module, contract: Contract) -> bytes:
    """The actor as ONNX for one observation at a time, everything in one file."""
    inputs = torch.zeros(contract.sight.tensor_shape), torch.zeros(1, len(contract.proprio.fields))
    file = io.BytesIO()
    with warnings.catch_warnings():
        # The newer exporter needs onnxscript, and puts weights into a second file unless told otherwise.
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            actor,
            inputs,
            file,  # type: ignore[arg-type]  # this exporter takes buffers as well as paths
            input_names=[contract.sight.wanted.name, contract.proprio.name],
            output_names=[contract.action.name],
            opset_version=OPSET,
            dynamo=False,
        )
    return file.getvalue()


def _with_metadata(graph: bytes, contract: Contract) -> bytes:
    """The graph with the contract and the digest inside."""
    model = onnx.load_model_from_string(graph)
    onnx.helper.set_model_props(model, {CONTRACT_KEY: encode(contract).decode(), DIGEST_KEY: "0" * DIGEST_DIGITS})
    return stamp(model.SerializeToString(deterministic=True))


def _pack(array: Float32) -> bytes:
    return zlib.compress(array.astype("<f4").tobytes(), 9)
