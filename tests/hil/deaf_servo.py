"""`python -m tests.hil.deaf_servo run …`: the runtime, with the cable of servo 3 out of its emulated board."""

from typing import Any

from edge import devices
from edge.cli import main
from edge.simulated.dofbot_board_emulator import DofbotBoardEmulator


class DeafBoard(DofbotBoardEmulator):
    """Servo 3 answers nothing."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.servos[2].answers = False


if __name__ == "__main__":
    devices.DofbotBoardEmulator = DeafBoard  # type: ignore[misc]
    main()
