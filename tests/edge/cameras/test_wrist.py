"""Where the camera was: by the set points of that moment, as servos follow them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge import kinematics, robot
from edge.cameras.wrist import WristCamera
from edge.errors import ObservationError
from edge.kinematics import Mount
from edge.messages import JointCommand
from trainer import spec

MOUNT = Mount(0.388, True)
POSE = np.array(spec.contract().camera.transform_camera_to_tool)


def command(joint1_rad: float) -> JointCommand:
    return JointCommand(joint1_rad, 0.1, 0.2, 0.3, 0.4, 0.06)


def test_the_joints_of_a_moment_are_the_set_points_that_the_servos_had_then() -> None:
    wrist = WristCamera(POSE, MOUNT)
    with pytest.raises(ObservationError, match="no set points were sent yet"):
        wrist.joints(1.0)
    for tick in range(100):
        wrist.sent(command(0.01 * tick), 1.0 + 0.02 * tick)
    for time_s, joint1_rad in ((2.98, 0.99), (2.96, 0.98), (2.97, 0.985), (9.0, 0.99), (2.5, 0.75), (2.4, 0.7)):
        assert wrist.joints(time_s + robot.SERVO_LAG_S)[0] == pytest.approx(joint1_rad)
        assert wrist.joints(time_s + robot.SERVO_LAG_S)[1:] == pytest.approx((0.1, 0.2, 0.3, 0.4))


def test_a_frame_that_is_older_than_all_that_is_remembered_has_no_place() -> None:
    """With the oldest set points, where the arm was later, a block would be told elsewhere, by as much as the arm has moved."""
    wrist = WristCamera(POSE, MOUNT)
    wrist.sent(command(0.0), 1.0)
    assert wrist.joints(0.0)[0] == 0.0  # before the first it was at rest there
    for tick in range(1, 100):
        wrist.sent(command(0.01 * tick), 1.0 + 0.02 * tick)
    with pytest.raises(ObservationError, match=r"taken 0\.10 s before .* camera\.max_age_s"):
        wrist.joints(2.26 + robot.SERVO_LAG_S)


@given(st.floats(0.0, 0.5))
def test_the_joints_never_leave_the_way_between_two_set_points(time_s: float) -> None:
    wrist = WristCamera(POSE, MOUNT)
    for tick, angle_rad in enumerate((0.0, 0.2, 0.1, -0.3, -0.3)):
        wrist.sent(command(angle_rad), 0.1 * tick)
    expected = np.interp(time_s - robot.SERVO_LAG_S, [0.0, 0.1, 0.2, 0.3, 0.4], [0.0, 0.2, 0.1, -0.3, -0.3])
    assert wrist.joints(time_s)[0] == pytest.approx(expected)


def test_the_camera_is_where_its_place_on_the_tool_has_it() -> None:
    wrist = WristCamera(POSE, MOUNT)
    wrist.sent(command(0.3), 1.0)
    expected = kinematics.transform_tool_to_table(command(0.3), MOUNT) @ POSE
    np.testing.assert_allclose(wrist.transform_camera_to_table(2.0), expected, atol=1e-12)
