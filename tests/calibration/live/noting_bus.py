"""A servo bus that takes everything, reads nothing back, and keeps what it was sent."""

from edge.messages import JointCommand


class NotingBus:
    """Of a `SlowArm`."""

    def __init__(self) -> None:
        self.sent: list[JointCommand] = []

    def write(self, command: JointCommand) -> None:
        self.sent.append(command)

    def measured(self) -> JointCommand | None:
        return None
