"""A command between the server's thread and the control loop: carried out by one of them, answered once or twice. It takes no lock."""

import time
from collections.abc import Callable

from edge.remote.commands import Command, LoopReply
from edge.remote.control_connection import Connection


class Pending:
    """A command that has arrived, for the control loop to carry out and to answer. `peer` says whose it is."""

    def __init__(self, command: Command, connection: Connection, answered: "Callable[[Pending, LoopReply], None]") -> None:
        self.command = command
        self.peer = connection.peer
        self.connection = connection
        self.arrived_s = time.monotonic()
        self.acknowledged = False  # of these three, only the server's thread writes the last two
        self.closed = False
        self._answered = answered
        self._unclaimed = [None]

    def answer(self, reply: LoopReply) -> None:
        """Hand the reply over. After `Accepted` one more follows, whenever that may be."""
        self._answered(self, reply)

    def claim(self) -> bool:
        """Whether the caller is the first: the loop, to carry it out, or the server, to refuse it. `pop` lets only one through."""
        try:
            self._unclaimed.pop()
        except IndexError:
            return False
        return True
