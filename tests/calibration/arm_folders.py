"""Folders of a simulated arm's images as the commands take them; corners as projected, in place of pictures."""

import hashlib
from pathlib import Path

import cv2
import msgspec
import numpy as np

from calibration import boards, session
from calibration.arm import joints_file
from calibration.arm.model import ServoArm, Views
from calibration.simulated import arm as simulated_arm
from edge import calibration as files
from edge.messages import Intrinsics

BOARD = boards.measured(boards.charuco(7, 5), (100.0, 100.0))
LENS = Intrinsics(640, 480, 610.0, 610.0, 319.5, 239.5)
PICTURE = cv2.imencode(".png", np.full((480, 640), 120, np.uint8))[1].tobytes()


def put(folder: Path, views: Views, held_out: Views | None = None) -> Path:
    """What a person has when the images are taken: board, lens, images, joints; and what was found in the images before."""
    folder.mkdir(exist_ok=True)
    boards.save(folder / "board.json", BOARD)
    lens = files.Lens("7", LENS, (0.0,) * 5, files.made("test"))
    files.save(folder / "calibration.json", files.Calibration(files.SCHEMA_VERSION, "ab", 0.388, True, "dofbot_board", lens=lens))
    posed, seen = {}, {}
    for which, part in enumerate((views, held_out) if held_out else (views,)):
        assert isinstance(part.arm, ServoArm)
        for joints, corners, name in zip(part.arm.commanded, part.corners_px, part.names, strict=True):
            file = f"{'ab'[which]}-{name.replace(' ', '-')}.png"
            (folder / file).write_bytes(PICTURE)
            posed[file] = joints_file.Posed(joints, which == 1)
            ids = np.flatnonzero(np.isfinite(corners[:, 0]))
            found = tuple((float(u), float(v)) for u, v in corners[ids])
            seen[file] = session.Seen(hashlib.sha256(PICTURE).hexdigest(), 640, 480, "", tuple(ids.tolist()), found, 2.0)
    joints_file.save(folder / "joints.csv", posed)
    (folder / session.NAME).write_bytes(msgspec.json.encode(session.Session(BOARD, seen)))
    return folder


def reordered(views: Views, order: tuple[int, ...]) -> Views:
    """The same images, with the joints in another order."""
    assert isinstance(views.arm, ServoArm)
    return views._replace(arm=ServoArm(views.arm.commanded[:, order], simulated_arm.MOUNT))
