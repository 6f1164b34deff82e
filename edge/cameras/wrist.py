"""Where the wrist's camera was when a frame was taken."""

from collections import deque

import numpy as np

from edge import kinematics, robot
from edge.errors import ObservationError
from edge.kinematics import Mount
from edge.messages import Float64, JointCommand


class WristCamera:
    """The camera on the arm's tool, and the set points of the last half second.

    Not the joints as read: the policy steers by set points, so what servos are off by at rest is in a block's place and in the tool's,
    and cancels where the two meet. And a read-back of one joint a tick tells of six different moments.
    """

    def __init__(self, transform_camera_to_tool: Float64, mount: Mount) -> None:
        self.mount = mount
        self._camera_to_tool = transform_camera_to_tool
        self._sent: deque[tuple[float, tuple[float, ...]]] = deque(maxlen=32)  # at 50 Hz 0.6 s: camera.max_age_s is 0.1

    def sent(self, command: JointCommand, at_s: float) -> None:
        """Set points that the servos have taken, in the order of their times."""
        self._sent.append((at_s, command.joints_rad))

    def transform_camera_to_table(self, captured_at_s: float) -> Float64:
        """(4, 4) pose at a time; raises `ObservationError` as `joints` does."""
        joints = JointCommand._make((*self.joints(captured_at_s), 0.0))
        return np.asarray(kinematics.transform_tool_to_table(joints, self.mount) @ self._camera_to_tool, np.float64)

    def joints(self, time_s: float) -> tuple[float, ...]:
        """The five joints at a time; servos follow set points by `SERVO_LAG_S`.

        Raises `ObservationError` before any was sent, and for a time before all that are remembered.
        """
        if not self._sent:
            raise ObservationError("no set points were sent yet, expected those of the moment when the frame was taken; wait")
        time_s -= robot.SERVO_LAG_S
        later_s, later = self._sent[-1]
        for sent_s, joints in reversed(self._sent):
            if sent_s <= time_s:
                if later_s <= sent_s:
                    return joints
                part = (time_s - sent_s) / (later_s - sent_s)
                return tuple(a + min(part, 1.0) * (b - a) for a, b in zip(joints, later, strict=True))
            later_s, later = sent_s, joints
        if len(self._sent) == self._sent.maxlen:  # else nothing was sent before
            found = f"the frame was taken {later_s - time_s:.2f} s before the oldest of the last {len(self._sent)} set points"
            raise ObservationError(f"{found}, expected after it; lower camera.max_age_s")
        return later
