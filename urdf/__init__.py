"""Models of the arm and its surroundings, from primitive shapes; README.md there gives every number's source."""

from pathlib import Path

DOFBOT = Path(__file__).parent / "dofbot.urdf"
BLOCK = Path(__file__).parent / "block.urdf"
TABLE = Path(__file__).parent / "table.urdf"
