"""What is looked at before anything may move: whether the policy and the camera fit each other."""

import time
from collections.abc import Callable

import msgspec

from edge import observation
from edge.cameras.camera import DepthCamera
from edge.contract_check import check_camera
from edge.errors import ObservationError
from edge.messages import Intrinsics
from edge.policy import Policy

AGAIN_S = 0.2  # the capture process tries once a second


def preflight(policy: Policy, camera: DepthCamera, within_s: float = 0.0, say: Callable[[str], None] = lambda why: None) -> None:
    """Wait for a first frame and see whether the policy can use it; nothing moves.

    A camera that is away is waited for as long as `within_s`, and `say` hears why: after a boot, or a reset, it takes seconds to be there.
    Raises `PolicyError` for a camera that sees less than the policy's, `ObservationError` for a frame that is none or not metres, and for
    one that was not searched for markers where the policy is told the block's position.
    """
    contract = policy.contract
    check_camera(contract, _started(camera, within_s, say))
    frame = camera.latest()
    if contract.block is not None:
        if frame is not None and frame.markers is None:
            raise ObservationError("the camera's frames have no markers, expected them searched for a policy of variant 'xyz'; restart")
        return
    # Parked, the camera may look into an empty room: how many pixels are invalid says nothing before the descent.
    if contract.depth is not None and frame is not None and frame.depth_m.any():
        any_view = msgspec.structs.replace(contract.depth, max_invalid_fraction=1.0)
        observation.depth_input(frame, any_view, contract.camera.intrinsics)


def _started(camera: DepthCamera, within_s: float, say: Callable[[str], None]) -> Intrinsics:
    until_s = time.monotonic() + within_s
    while True:
        try:
            return camera.start()
        except ObservationError as error:
            if time.monotonic() >= until_s:
                raise
            say(f"waiting for the camera: {error}")
            time.sleep(AGAIN_S)
