"""Cuts in the middle of writing a file: whether a policy or a configuration is whole afterwards.

Every row is a process of its own, which forks writers and kills them at random moments: python tests/bench/cuts.py WRITER BYTES CUTS
"""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tables import Bench

from edge.files import write_atomically

CUTS = 1000
SIZES = {"policy": 525_000, "configuration": 2_000}  # bytes
WRITES_WATCHED = 10  # to find out how long one takes


def bench() -> Bench:
    """Torn files, of the project's own writer and of a plain overwrite."""
    rows = {}
    for name, size in SIZES.items():
        for writer, what in {"atomic": "write_atomically", "plain": "Path.write_bytes"}.items():
            command = [sys.executable, __file__, writer, str(size), str(CUTS)]
            found = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
            rows[f"{what}, {name} of {size / 1e3:.0f} kB"] = found
    notes = (
        "The writer is killed (SIGKILL) at a random moment of the first two writes; torn: the file is neither the old content nor the new. "
        "Left over: temporary files that a killed writer could not remove. What a power cut does to a disk this does not show."
    )
    return Bench("Cuts while a file is written", rows, {"torn": "0"}, notes)


def _contents(size: int) -> tuple[bytes, bytes]:
    return b"a" * size, b"b" * size


def _write_for_ever(write: Callable[[Path, bytes], object], path: Path, size: int) -> None:
    contents = _contents(size)
    os.write(1, b".")  # it begins
    while True:
        for content in contents:
            write(path, content)


def _cut(write: Callable[[Path, bytes], object], path: Path, size: int, after_s: float) -> None:
    """Fork a writer and kill it so long after it began."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.dup2(write_end, 1)
            _write_for_ever(write, path, size)
        finally:
            os._exit(1)
    os.close(write_end)
    os.read(read_end, 1)
    time.sleep(after_s)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(read_end)


def main() -> None:
    """Cut one writer so many times and print what was left."""
    writer, size, cuts = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    write: Callable[[Path, bytes], object] = write_atomically if writer == "atomic" else Path.write_bytes
    rng, contents, torn, left_over = random.Random(0), _contents(size), 0, 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        began_s = time.monotonic()
        for index in range(WRITES_WATCHED):
            write(path, contents[index % 2])
        write_s = (time.monotonic() - began_s) / WRITES_WATCHED
        for _ in range(cuts):
            path.write_bytes(contents[0])
            _cut(write, path, size, rng.uniform(0.0, 2.0 * write_s))
            torn += path.read_bytes() not in contents
            for other in Path(folder).iterdir():
                if other != path:
                    other.unlink()
                    left_over += 1
    print(json.dumps({"cuts": cuts, "torn": torn, "left over": left_over, "write ms": write_s * 1e3}))


if __name__ == "__main__":
    main()
