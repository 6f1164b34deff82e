"""A file is whole or not there, and nothing else is written to."""

import os
from pathlib import Path

import pytest

from edge.files import write_atomically


def test_what_lies_where_the_new_content_is_made_is_neither_followed_nor_in_the_way(tmp_path: Path) -> None:
    """Root writes into the service's folder, too: whoever owns that must not choose what root overwrites."""
    path, elsewhere = tmp_path / "calibration.json", tmp_path / "elsewhere"
    temporary = tmp_path / f".{path.name}.{os.getpid()}"
    elsewhere.write_bytes(b"another's")
    temporary.symlink_to(elsewhere)
    write_atomically(path, b"new")
    assert elsewhere.read_bytes() == b"another's"
    assert (path.read_bytes(), path.is_symlink(), temporary.exists()) == (b"new", False, False)
    temporary.write_bytes(b"left by a process that was killed")
    write_atomically(path, b"newer")
    assert path.read_bytes() == b"newer"


def test_a_folder_given_for_a_file_is_an_error_of_the_system_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which every caller says in a sentence."""
    monkeypatch.chdir(tmp_path)
    for path in (Path(), tmp_path):
        with pytest.raises(OSError, match="busy|directory"):
            write_atomically(path, b"new")
    assert not list(tmp_path.iterdir())
    assert not list(tmp_path.parent.glob(f".*{os.getpid()}"))
