"""A signature is taken from a trusted key, for this very policy, unaltered; everything else is refused in one sentence."""

import base64
import datetime
import json
import resource
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.errors import ConfigError, PolicyError
from edge.policies import signature

SHA = "ab" * 32
NOW = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> signature.KeyPair:
    return signature.make_key(tmp_path_factory.mktemp("keys") / "sub" / "policy.key")


@pytest.fixture(scope="module")
def document(key: signature.KeyPair) -> bytes:
    return signature.sign(SHA, key.path, NOW)


def test_what_is_signed_is_verified_and_read(key: signature.KeyPair, document: bytes) -> None:
    assert signature.verify(document, SHA, ("A" * 43 + "=", key.public)) == signature.Manifest(SHA, NOW) == signature.read(document)


def test_the_private_key_is_for_its_owner_and_never_overwritten(key: signature.KeyPair) -> None:
    before = key.path.read_bytes()
    assert key.path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(ConfigError, match="is there already"):
        signature.make_key(key.path)
    assert key.path.read_bytes() == before


def test_a_full_disk_leaves_no_half_key_that_bars_the_way_of_the_next(tmp_path: Path) -> None:
    path, before = tmp_path / "policy.key", resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))  # not one file of more than 10 bytes
    try:
        with pytest.raises(ConfigError, match=r"policy.key cannot be written \(File too large\)"):
            signature.make_key(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not path.exists()
    signature.make_key(path)


@pytest.mark.parametrize("content", [b"", b"no key", base64.b64encode(b"x" * 31), None])
def test_a_key_that_is_none_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "policy.key"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"policy\.key cannot be used .*dofbot policy keygen"):
        signature.sign(SHA, path, NOW)


def test_another_key_and_another_policy_are_refused(key: signature.KeyPair, document: bytes, tmp_path: Path) -> None:
    other = signature.make_key(tmp_path / "other")
    with pytest.raises(PolicyError, match=r"signed with the key .*expected one of the 1 in policy\.trusted_keys"):
        signature.verify(document, SHA, (other.public,))
    with pytest.raises(PolicyError, match="the signature is for abababababab, expected this policy, cdcdcdcdcdcd"):
        signature.verify(document, "cd" * 32, (key.public,))


def test_a_signature_that_names_a_trusted_key_but_is_by_another_is_refused(key: signature.KeyPair, tmp_path: Path) -> None:
    forged = json.loads(signature.sign(SHA, signature.make_key(tmp_path / "other").path, NOW))
    with pytest.raises(PolicyError, match="does not verify"):
        signature.verify(json.dumps({**forged, "key": key.public}).encode(), SHA, (key.public,))


@given(data=st.data())
def test_no_single_altered_byte_passes(key: signature.KeyPair, document: bytes, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(document) - 2))  # the last is the line end
    altered = document[:at] + bytes([document[at] ^ data.draw(st.integers(1, 255))]) + document[at + 1 :]
    try:
        found = signature.verify(altered, SHA, (key.public,))
    except PolicyError:
        return
    assert found == signature.Manifest(SHA, NOW)  # base64 has bits without a meaning; what is signed is the same


@given(st.binary(max_size=200))
def test_whatever_is_no_signature_is_refused(key: signature.KeyPair, junk: bytes) -> None:
    with pytest.raises(PolicyError, match="does not verify"):
        signature.verify(junk, SHA, (key.public,))
    assert signature.read(junk) is None


@pytest.mark.parametrize("length", [0, 1, 50, -2])
def test_a_signature_that_is_cut_short_is_refused(key: signature.KeyPair, document: bytes, length: int) -> None:
    with pytest.raises(PolicyError, match="does not verify"):
        signature.verify(document[:length], SHA, (key.public,))
