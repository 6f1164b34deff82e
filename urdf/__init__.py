"""Models of the arm and its surroundings, from primitive shapes; README.md there gives every number's source."""

import hashlib
from pathlib import Path

DOFBOT = Path(__file__).parent / "dofbot.urdf"
BLOCK = Path(__file__).parent / "block.urdf"
TABLE = Path(__file__).parent / "table.urdf"


def dofbot_sha256() -> str:
    """Digest of the arm's model: a policy says which one it was trained with."""
    return hashlib.sha256(DOFBOT.read_bytes()).hexdigest()
