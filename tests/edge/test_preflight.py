"""What the policy and the camera cannot make of each other is found before anything moves."""

import numpy as np
import pytest

from edge.errors import ObservationError, PolicyError
from edge.messages import Frame, Intrinsics
from edge.preflight import preflight
from trainer import spec

LENS = spec.contract().camera.intrinsics
WIDE = Intrinsics(848, 480, 420.0, 420.0, 423.5, 239.5)


class FakePolicy:
    contract = spec.contract()


class FakeCamera:
    def __init__(self, depth_m: np.ndarray, intrinsics: Intrinsics = LENS) -> None:
        self.frame = Frame(depth_m, intrinsics, 0.0, 0)

    def start(self) -> Intrinsics:
        return self.frame.intrinsics

    def latest(self) -> Frame | None:
        return self.frame

    def close(self) -> None:
        pass


def image(depth_m: float = 0.1) -> np.ndarray:
    return np.full((LENS.height, LENS.width), depth_m, np.float32)


@pytest.mark.parametrize(
    "camera",
    [FakeCamera(image()), FakeCamera(np.full((480, 848), 0.2, np.float32), WIDE), FakeCamera(image(0.0)), FakeCamera(image(1.5))],
    ids=["the policy's own", "a wider camera", "nothing in view", "a room"],
)
def test_it_passes_a_camera_that_the_policy_can_use(camera) -> None:
    preflight(FakePolicy(), camera)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("camera", "error", "message"),
    [
        (FakeCamera(image(), LENS._replace(fx=2 * LENS.fx)), PolicyError, "camera view ends"),
        (FakeCamera(image(), LENS._replace(fx=float("nan"))), PolicyError, "expected finite numbers"),
        (FakeCamera(image()[:, :-1]), ObservationError, r"\(64, 63\), expected float32 \(64, 64\)"),
        (FakeCamera(image(300.0)), ObservationError, "expected metres"),
        (FakeCamera(image().astype(np.float64)), ObservationError, "float64"),
        (FakeCamera(image(float("nan"))), ObservationError, "expected metres"),
    ],
)
def test_it_refuses_what_the_policy_cannot_use(camera, error, message) -> None:
    with pytest.raises(error, match=message):
        preflight(FakePolicy(), camera)  # type: ignore[arg-type]


class Late(FakeCamera):
    """Away for its first starts."""

    def __init__(self, starts: int) -> None:
        super().__init__(image())
        self.starts = starts

    def start(self) -> Intrinsics:
        self.starts -= 1
        if self.starts >= 0:
            raise ObservationError("no RealSense camera on any USB port")
        return super().start()


def test_a_camera_that_comes_late_is_waited_for_as_long_as_was_said(monkeypatch) -> None:
    monkeypatch.setattr("edge.preflight.AGAIN_S", 0.01)
    heard: list[str] = []
    preflight(FakePolicy(), Late(3), 10.0, heard.append)  # type: ignore[arg-type]
    assert heard == ["waiting for the camera: no RealSense camera on any USB port"] * 3
    camera = Late(1000)
    with pytest.raises(ObservationError, match="no RealSense camera"):
        preflight(FakePolicy(), camera, 0.1)  # type: ignore[arg-type]
    assert 900 < camera.starts < 999
    camera = Late(1)
    with pytest.raises(ObservationError, match="no RealSense camera"):  # as soon as it is known, where a person waits
        preflight(FakePolicy(), camera)  # type: ignore[arg-type]
    assert camera.starts == 0
