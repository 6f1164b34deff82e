"""What is looked at before anything may move: whether the policy and the camera fit each other."""

import msgspec

from edge import observation
from edge.cameras.camera import DepthCamera
from edge.contract_check import check_camera
from edge.errors import ObservationError
from edge.policy import Policy


def preflight(policy: Policy, camera: DepthCamera) -> None:
    """Wait for a first frame and see whether the policy can use it; nothing moves.

    Raises `PolicyError` for a camera that sees less than the policy's, `ObservationError` for a frame that is none or not metres, and for
    one that was not searched for markers where the policy is told the block's position.
    """
    contract = policy.contract
    check_camera(contract, camera.start())
    frame = camera.latest()
    if contract.block is not None:
        if frame is not None and frame.markers is None:
            raise ObservationError("the camera's frames have no markers, expected them searched for a policy of variant 'xyz'; restart")
        return
    # Parked, the camera may look into an empty room: how many pixels are invalid says nothing before the descent.
    if contract.depth is not None and frame is not None and frame.depth_m.any():
        any_view = msgspec.structs.replace(contract.depth, max_invalid_fraction=1.0)
        observation.depth_input(frame, any_view, contract.camera.intrinsics)
