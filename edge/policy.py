"""The policy file: one ONNX that says what it is for, is checked byte by byte before it is run, and gives actions.

bytes ─► digest ─► onnxruntime ─► contract ─► graph ─► golden vectors ─► latency ─► Policy.act
"""

import hashlib
import stat
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from edge.contract import Contract, Golden
from edge.contract_check import Expectation, check_contract, check_graph, parse
from edge.errors import LatePolicyError, PolicyError
from edge.messages import Float32

CONTRACT_KEY = "dofbot_contract"
DIGEST_KEY = "dofbot_sha256"
DIGEST_DIGITS = 64
MAX_FILE_BYTES = 16_000_000  # export stops at 10 MB
ACTION_SLACK = 1e-5  # rounding of tanh: 0.1 µm of motion at 10 mm an action
LATENCY_RUNS = 30
LATENCY_PROBES = 3  # a start coincides with other start-up load; what counts is what the machine can do

# A metadata entry as protobuf writes it: field 1, length, key; field 2, length; then the digits.
_DIGEST_ENTRY = bytes((0x0A, len(DIGEST_KEY))) + DIGEST_KEY.encode() + bytes((0x12, DIGEST_DIGITS))


def locate_digest(data: bytes) -> int:
    """Offset of the digest's digits in a policy file; raises `PolicyError` unless there is exactly one."""
    count = data.count(_DIGEST_ENTRY)
    if count != 1:
        raise PolicyError(
            f"not a dofbot-grasp policy, or cut short: found {count} {DIGEST_KEY} entries, expected 1; copy it again or run 'dofbot export'"
        )
    return data.index(_DIGEST_ENTRY) + len(_DIGEST_ENTRY)


def digest(data: bytes) -> str:
    """SHA-256 of a policy file, taken with its own digest's digits as zeros; raises `PolicyError` where there are none."""
    at = locate_digest(data)
    return hashlib.sha256(data[:at] + b"0" * DIGEST_DIGITS + data[at + DIGEST_DIGITS :]).hexdigest()


def stamp(data: bytes) -> bytes:
    """The same policy file with its digest filled in."""
    at = locate_digest(data)
    return data[:at] + digest(data).encode() + data[at + DIGEST_DIGITS :]


class Policy:
    """A policy that has replayed its golden vectors, fast enough, on this machine.

    `contract` is what it was made for, `golden_error` the largest deviation from a golden action,
    `latency_p99_s` the 99th percentile of a decision's duration, `sha256` what the file states and keeps.
    """

    def __init__(self, session: Any, contract: Contract, golden: Golden, sha256: str) -> None:  # session: onnxruntime has no types
        self.contract = contract
        self.sha256 = sha256
        self._session = session
        self._sight, self._proprio_shape = contract.sight, (len(contract.proprio.fields),)
        packed = golden.depth if contract.depth is not None else golden.block
        sight = _unpack(self._sight.field, packed or b"", (golden.count, *self._sight.shape))
        proprio = _unpack("proprio", golden.proprio, (golden.count, *self._proprio_shape))
        action = _unpack("action", golden.action, (golden.count, len(contract.action.fields)))
        self.golden_error = self._replay(sight, proprio, action, golden.tolerance)
        self.latency_p99_s = self._measure(sight, proprio)

    def act(self, sight: Float32, proprio: Float32) -> Float32:
        """The action (2,) in [-1, 1] for what the policy sees and proprio (n,), both as `edge.observation` gives them.

        `sight` is the depth (height, width) in [0, 1], or the block's position (3,) in metres inside the contract's box.
        Raises `PolicyError` for an input of another shape, type or range, and for an action that is
        not finite or not in [-1, 1]: the arm must hold then.
        """
        field, wanted, seen_shape, tensor_shape, low, high = self._sight
        for what, value, shape in ((field, sight, seen_shape), ("proprio", proprio, self._proprio_shape)):
            if value.shape != shape or value.dtype != np.float32:
                raise PolicyError(f"policy input {what} is {value.dtype} {value.shape}, expected float32 {shape}; check the observation")
        # Both are false for NaN, which a graph's clips and ReLUs may hide or pass on.
        if not ((sight >= low).all() and (sight <= high).all()):
            found = f"{sight.min()}…{sight.max()}"
            raise PolicyError(f"policy input {field} spans {found}, expected {low.tolist()}…{high.tolist()}; check its unit and mask")
        if not np.isfinite(proprio).all():
            raise PolicyError(f"policy input proprio is {proprio.tolist()}, expected finite numbers; check the set points")
        feeds = {wanted.name: sight.reshape(tensor_shape), self.contract.proprio.name: proprio[None]}
        action: Float32 = self._session.run([self.contract.action.name], feeds)[0][0]
        if not np.abs(action).max() <= 1.0 + ACTION_SLACK:
            fault = "outside [-1, 1]" if np.isfinite(action).all() else "not finite"
            raise PolicyError(
                f"policy action {action.tolist()} is {fault}, expected numbers in [-1, 1]; hold the arm and replace the policy"
            )
        return action

    def _replay(self, sight: Float32, proprio: Float32, action: Float32, tolerance: float) -> float:
        """Largest deviation from the golden actions."""
        worst = 0.0
        for index, wanted in enumerate(action):
            error = float(np.abs(self.act(sight[index], proprio[index]) - wanted).max())
            if not error <= tolerance:
                raise PolicyError(
                    f"golden.action[{index}] is {wanted.tolist()}, but this machine computes a difference of {error:.2g}, expected at most "
                    f"{tolerance:.2g}; upgrade onnxruntime or export again"
                )
            worst = max(worst, error)
        return worst

    def _measure(self, sight: Float32, proprio: Float32) -> float:
        """99th percentile of a decision's duration in seconds; half a policy period is the most it may take."""
        rates = self.contract.rates
        budget_s = 0.5 * rates.ticks_per_step / rates.tick_hz
        p99_s = np.inf
        for _ in range(LATENCY_PROBES):
            durations_s = []
            for run in range(LATENCY_RUNS):
                index = run % len(sight)
                began_s = time.perf_counter()
                self.act(sight[index], proprio[index])
                durations_s.append(time.perf_counter() - began_s)
            p99_s = min(p99_s, float(np.percentile(durations_s, 99)))
            if p99_s <= budget_s:
                return p99_s
        raise LatePolicyError(
            f"latency is {p99_s * 1e3:.3g} ms (99th percentile), expected at most {budget_s * 1e3:.3g} ms, half a policy period by "
            "contract rates; stop other programs or train a smaller network"
        )


def load(path: Path, expected: Expectation | None = None, data: bytes | None = None) -> Policy:
    """Read and check a policy file; raises `PolicyError` naming the file, the field, found, expected and the remedy.

    `expected` says what this robot is; without it only what the file says about itself is checked. `data` is the file's content where it
    was read before.
    """
    try:
        return from_bytes(read(path) if data is None else data, expected)
    except PolicyError as error:
        raise type(error)(f"policy {path}: {error}") from None


def from_bytes(data: bytes, expected: Expectation | None = None) -> Policy:
    """The policy in a file's content, checked as `load` does."""
    at = locate_digest(data)
    stated, computed = data[at : at + DIGEST_DIGITS], digest(data)
    if stated != computed.encode():
        raise PolicyError(f"damaged: {DIGEST_KEY} is {stated[:12]!r}…, expected '{computed[:12]}'…; copy or export the file again")
    session, metadata = _open(data)
    if CONTRACT_KEY not in metadata:
        raise PolicyError(f"not a dofbot-grasp policy: metadata have {sorted(metadata)}, expected {CONTRACT_KEY}; export it again")
    contract = parse(metadata[CONTRACT_KEY])
    check_contract(contract, expected)
    inputs, outputs = ({t.name: (t.type, tuple(t.shape)) for t in ts} for ts in (session.get_inputs(), session.get_outputs()))
    check_graph(contract, inputs, outputs)
    if contract.golden is None:
        raise PolicyError("contract golden is null, expected vectors to replay; export it again")
    return Policy(session, contract, contract.golden, digest(data))


def read(path: Path) -> bytes:
    """A regular file's content, up to the size cap; raises `PolicyError`."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise PolicyError("not a regular file, expected an exported .onnx; correct run.policy in the configuration")
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise PolicyError(
            f"not readable ({error.strerror}), expected an exported .onnx; correct run.policy or run 'dofbot export'"
        ) from None
    if len(data) > MAX_FILE_BYTES:
        raise PolicyError(f"more than {MAX_FILE_BYTES} bytes long, expected at most that; export a smaller network")
    return data


def _open(data: bytes) -> tuple[Any, dict[str, str]]:
    """An onnxruntime session and the file's metadata."""
    options = onnxruntime.SessionOptions()
    # Its threads spin by default: 65 % of two cores at 20 Hz against 1 % so, at the same latency.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4  # what is wrong is in the exception
    try:
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        return session, dict(session.get_modelmeta().custom_metadata_map)
    except Exception as error:  # its classes share no base of their own
        reason = " ".join(str(error).split())
        raise PolicyError(f"onnxruntime {onnxruntime.__version__} refuses the graph ({reason}); upgrade it or export again") from None


def _unpack(field: str, packed: bytes, shape: tuple[int, ...]) -> Float32:
    """A golden array; raises `PolicyError` unless it has exactly the shape, however much it would inflate to."""
    size = 4 * int(np.prod(shape))
    try:
        raw = zlib.decompressobj().decompress(packed, size + 1)
    except zlib.error as error:
        raise PolicyError(f"golden.{field} is not zlib data ({error}), expected float32 {shape}; export it again") from None
    if len(raw) != size:
        raise PolicyError(f"golden.{field} inflates to {len(raw)} bytes, expected {size} for float32 {shape}; export it again")
    return np.frombuffer(raw, "<f4").reshape(shape)
