"""What is looked at before anything may move: whether the policy and the camera fit each other."""

import msgspec

from edge import observation
from edge.camera import DepthCamera
from edge.contract import Contract, DepthInput
from edge.contract_check import check_camera
from edge.errors import PolicyError
from edge.policy import Policy


def preflight(policy: Policy, camera: DepthCamera) -> None:
    """Wait for a first frame and see whether the policy can use it; nothing moves.

    Raises `PolicyError` for a policy that needs no image and for a camera that sees less than the policy's,
    `ObservationError` for a frame that is none or not metres.
    """
    contract, depth = policy.contract, depth_of(policy.contract)
    check_camera(contract, camera.start())
    frame = camera.latest()
    # Parked, the camera may look into an empty room: how many pixels are invalid says nothing before the descent.
    if frame is not None and frame.depth_m.any():
        any_view = msgspec.structs.replace(depth, max_invalid_fraction=1.0)
        observation.depth_input(frame, any_view, contract.camera.intrinsics)


def depth_of(contract: Contract) -> DepthInput:
    """What the policy needs of a depth image; raises `PolicyError` for one that needs the block's position instead."""
    if contract.depth is None:
        raise PolicyError(
            "contract input is the block's position (variant 'xyz'), expected depth: the runtime cannot detect a marker on the block yet; "
            "use a policy of variant 'depth'"
        )
    return contract.depth
