"""Who vouches for a policy: a small signed document beside the file, `policy.onnx.sig`; ed25519 by libsodium.

    private key ─ dofbot policy sign ─► policy.onnx.sig ─ dofbot policy push ─► robot ─ [policy] trusted_keys ─► slot

The document names the policy by its digest (`edge.policy.digest`), which covers every byte of the file but the digest's own.
"""

import base64
import binascii
import contextlib
import datetime
import os
from pathlib import Path
from typing import Annotated, NamedTuple

import msgspec
from msgspec import Meta, Struct

from edge.config import PolicyConfig, PublicKey
from edge.errors import ConfigError, PolicyError

SUFFIX = ".sig"
MAX_BYTES = 4096
_PURPOSE = b"dofbot-grasp policy, version 1\n"  # goes before what is signed: a signature for anything else is none for a policy
_SIGN_AGAIN = "sign it again: dofbot policy sign"


class Manifest(Struct, frozen=True, forbid_unknown_fields=True):
    """What is signed."""

    policy_sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
    signed_at: Annotated[datetime.datetime, Meta(tz=True)]  # UTC; of two policies the one that was signed first is the older


class _Signed(Struct, frozen=True, forbid_unknown_fields=True):
    key: PublicKey
    manifest: str  # JSON, as it was signed
    signature: Annotated[str, Meta(max_length=100)]


class KeyPair(NamedTuple):
    """A private key's file, and the public key that belongs to it."""

    path: Path
    public: str


def make_key(path: Path) -> KeyPair:
    """Write a new private key, for its owner alone; raises `ConfigError` where one is already, or none can be written."""
    from nacl.signing import SigningKey

    key = SigningKey.generate()
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(file, "wb") as stream:
            stream.write(base64.b64encode(bytes(key)) + b"\n")
    except FileExistsError:
        raise ConfigError(f"{path} is there already, expected no key: robots trust it; give --key another path, or move it away") from None
    except OSError as error:
        with contextlib.suppress(OSError):
            path.unlink()  # ours, and half of it
        raise ConfigError(f"{path} cannot be written ({error.strerror}); give --key another path") from None
    return KeyPair(path, _text(bytes(key.verify_key)))


def sign(sha256: str, key: Path, now: datetime.datetime) -> bytes:
    """The signature document for the policy with this digest; raises `ConfigError` for a key that is none."""
    from nacl.signing import SigningKey

    try:
        secret = SigningKey(base64.b64decode(key.read_bytes(), validate=False))
    except (OSError, ValueError, TypeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it holds no key"
        raise ConfigError(
            f"{key} cannot be used ({reason}), expected what dofbot policy keygen wrote; make one: dofbot policy keygen"
        ) from None
    manifest = msgspec.json.encode(Manifest(sha256, now))
    signature = secret.sign(_PURPOSE + manifest).signature
    return msgspec.json.encode(_Signed(_text(bytes(secret.verify_key)), manifest.decode(), _text(signature))) + b"\n"


def verify(document: bytes, sha256: str, trusted_keys: tuple[str, ...]) -> Manifest:
    """The manifest, once one of the trusted keys is seen to have signed it for this policy; raises `PolicyError`."""
    from nacl.exceptions import BadSignatureError
    from nacl.signing import VerifyKey

    try:
        signed = msgspec.json.decode(document[: MAX_BYTES + 1], type=_Signed)
        if signed.key not in trusted_keys:
            raise PolicyError(
                f"signed with the key {signed.key}, expected one of the {len(trusted_keys)} in policy.trusted_keys; "
                "add it to the robot's configuration if it is yours, or sign with another"
            )
        VerifyKey(base64.b64decode(signed.key)).verify(
            _PURPOSE + signed.manifest.encode(), base64.b64decode(signed.signature, validate=True)
        )
    except (BadSignatureError, binascii.Error, ValueError, RecursionError, TypeError):
        raise PolicyError(f"the signature does not verify: it was altered, or is none; {_SIGN_AGAIN}") from None
    manifest = read(document)
    if manifest is None or manifest.policy_sha256 != sha256:
        found = manifest.policy_sha256[:12] if manifest else "no manifest"
        raise PolicyError(f"the signature is for {found}, expected this policy, {sha256[:12]}; {_SIGN_AGAIN}")
    return manifest


def check(document: bytes | None, sha256: str, config: PolicyConfig) -> None:
    """Whether the policy with this digest may decide on this robot, as far as signatures go; None: it has none. Raises `PolicyError`."""
    if document is not None and (config.trusted_keys or not config.allow_unsigned):
        verify(document, sha256, config.trusted_keys)
    elif document is None and not config.allow_unsigned:
        raise PolicyError("the policy has no signature, expected one: dofbot policy sign, or policy.allow_unsigned = true on the robot")


def read(document: bytes) -> Manifest | None:
    """What a signature document says, whoever signed it; None: it says nothing."""
    try:
        return msgspec.json.decode(msgspec.json.decode(document, type=_Signed).manifest, type=Manifest)
    except (ValueError, RecursionError):
        return None


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
