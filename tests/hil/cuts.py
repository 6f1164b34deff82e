"""`python -m tests.hil.cuts OLD NEW COUNT`: replaces OLD's content by NEW's and back, in processes that are killed while they do.

Prints JSON: how many cuts there were, after how many OLD held neither content (`torn`), after how many a half-written file lay
beside it (`amidst`: the cut came while it was written), and after how many it held the new content.
"""

import contextlib
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from edge.files import write_atomically

LONGEST_S = 0.004  # a replacement takes about 2 ms


def cut(path: Path, contents: tuple[bytes, bytes], after_s: float) -> None:
    """Let a process replace the file again and again, and kill it."""
    child = os.fork()
    if child == 0:
        while True:
            for content in contents:
                write_atomically(path, content)
    time.sleep(after_s)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def main() -> None:
    """Count."""
    path, new = Path(sys.argv[1]), Path(sys.argv[2]).read_bytes()
    contents, chance = (new, path.read_bytes()), random.Random(0)
    counts = {"cuts": int(sys.argv[3]), "torn": 0, "amidst": 0, "new": 0}
    for _ in range(counts["cuts"]):
        cut(path, contents, chance.uniform(0.0, LONGEST_S))
        found = path.read_bytes()
        counts["torn"] += found not in contents
        counts["new"] += found == new
        for left in path.parent.glob(f".{path.name}.*"):
            counts["amidst"] += 1
            with contextlib.suppress(FileNotFoundError):
                left.unlink()
    print(json.dumps(counts))


if __name__ == "__main__":
    main()
