"""What a policy computes for its golden inputs on this machine, as JSON: `python golden.py POLICY`; inside and outside alike."""

import json
import platform
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from edge.policy import load


def actions(path: Path) -> dict[str, Any]:
    """The policy's actions, and how far they are from those in its file."""
    policy = load(path)
    golden = policy.contract.golden
    sight, proprio, action = (
        np.frombuffer(zlib.decompress(packed), "<f4").reshape(golden.count, *shape)
        for packed, shape in (
            (golden.depth or golden.block, policy.contract.sight.shape),
            (golden.proprio, (-1,)),
            (golden.action, (-1,)),
        )
    )
    computed = [policy.act(*inputs).tolist() for inputs in zip(sight, proprio, strict=True)]
    return {"machine": platform.machine(), "actions": computed, "stated": action.tolist()}


if __name__ == "__main__":
    print(json.dumps(actions(Path(sys.argv[1]))))
