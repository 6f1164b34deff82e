"""A whole arm in software that stands alone: chips on one I2C bus, servos with the flaws of one arm, joints that turn.

What `edge/devices.py` couples to the simulator is coupled here to `servo_physics`: for tools, which move one servo and look.
"""

import math
from collections.abc import Sequence

import numpy as np

from edge.buses.servos import joints_deg
from edge.clock import Clock, SteppedClock
from edge.config import BusConfig
from edge.errors import ConfigError
from edge.messages import JointCommand
from edge.robot import OPENING_MAX_M, PARK_RAD
from edge.simulated.arm_errors import ArmErrors, Driver, draw_errors
from edge.simulated.dofbot_board_emulator import DofbotBoardEmulator
from edge.simulated.emulated_smbus import EmulatedSMBus
from edge.simulated.emulator import EmulatedI2C, I2CDevice, Pca9685Emulator
from edge.simulated.servo_physics import Shaft, leverages

STEP_S = 0.005  # of the physics, at most: 1.2° at full speed
RAMP = 0.25  # share of a bus servo's move in which it speeds up: that it follows a trapezoid is known, its shape is not
NOISE_RAW = 1  # of a read-back, either way (jimdinunzio/dofbot_ros2)
PARK_DEG = joints_deg(JointCommand._make((*PARK_RAD, OPENING_MAX_M)))


class EmulatedArm:
    """Six servos behind the chip that `config.driver` names, at rest where `start_deg` says, limp.

    `i2c` is Blinka's `busio.I2C`, `smbus` is `smbus2.SMBus`: the same bus. Every transaction takes its time on the wire of `clock`;
    without one, time passes in transactions and where somebody calls `arm.clock.sleep_until`. Degrees are of the joints, as in
    `edge.buses.servos.joints_deg`; joints are counted from 0, the gripper is 5. `seed` is the arm: `errors` has what is wrong with it.
    `chips` are on the bus, by driver name; one that `config.driver` does not name has no servos.
    """

    def __init__(
        self,
        config: BusConfig,
        clock: Clock | None = None,
        seed: int = 0,
        errors: ArmErrors | None = None,
        start_deg: Sequence[float] = PARK_DEG,
        inverted: bool = True,
        clock_hz: float = 100_000.0,
        chips: Sequence[Driver] = (),
    ) -> None:
        if config.driver == "simulator":
            raise ConfigError("bus.driver = 'simulator' has no chip to emulate, expected 'pca9685' or 'dofbot_board'; set it")
        self.config = config
        self.clock = clock or SteppedClock()
        self.errors = errors or draw_errors(config.driver, seed)
        self._inverted = inverted
        self._rng = np.random.default_rng((seed, 1))
        self._shafts = [Shaft(traits, deg) for traits, deg in zip(self.errors.traits, start_deg, strict=True)]
        self._plugged = [True] * 6
        self._by_joint = [servo.id - 1 for servo in config.board.servos]  # index of a joint's servo on the board
        self._at_s = self.clock.now_s()
        self.pca9685 = Pca9685Emulator(self.errors.oscillator_hz, self.clock.now_s)
        self.board = DofbotBoardEmulator(self.clock.now_s, self._told_raw(), self._actual_raw, ramp=RAMP)
        for servo in self.board.servos:
            servo.answers = config.driver == "dofbot_board"
        found: dict[Driver, tuple[int, I2CDevice]] = {
            "pca9685": (config.address, self.pca9685),
            "dofbot_board": (config.board.address, self.board),
        }
        self.i2c = EmulatedI2C(dict(found[chip] for chip in chips or (config.driver,)), on_wire=self._pass_time, clock_hz=clock_hz)
        self.smbus = EmulatedSMBus(self.i2c)

    def joints_deg(self) -> tuple[float, ...]:
        """Where the joints really are (6)."""
        self._advance()
        return tuple(shaft.joint_deg for shaft in self._shafts)

    def powered(self) -> tuple[bool, ...]:
        """Which servos hold, or push (6)."""
        self._advance()
        return tuple(goal is not None for goal in self._goals_deg(self._at_s))

    def pushing_s(self) -> tuple[float, ...]:
        """For how long each servo has pushed against something in vain, without a break (6)."""
        self._advance()
        return tuple(shaft.pushing_s for shaft in self._shafts)

    def turn_by_hand(self, joint: int, deg: float) -> None:
        """Put a limp joint somewhere, as far as its stops let it; one that is powered stays."""
        if not self.powered()[joint]:
            self._shafts[joint].turn_to(deg)

    def block(self, joint: int, low_deg: float = -math.inf, high_deg: float = math.inf) -> None:
        """Put something in a joint's way; without numbers, take it away."""
        self._advance()
        self._shafts[joint].block_deg = (low_deg, high_deg)

    def plug(self, joint: int, is_in: bool) -> None:
        """Pull a servo's cable, or put it in."""
        self._advance()
        self._plugged[joint] = is_in
        self.board.servos[self._by_joint[joint]].answers = is_in and self.config.driver == "dofbot_board"

    def brown_out(self) -> None:
        """Take the chips' supply away and bring it back: all that they were told is forgotten."""
        self._advance()
        self.pca9685.power_up()
        self.board.power_up()

    def _pass_time(self, duration_s: float) -> None:
        self.clock.sleep_until(self.clock.now_s() + duration_s)
        self._advance()

    def _advance(self) -> None:
        """Let the physics catch up with the clock; the registers have been the same since."""
        duration_s = self.clock.now_s() - self._at_s
        steps = math.ceil(duration_s / STEP_S)
        for _ in range(steps):
            self._at_s += duration_s / steps
            self._step(duration_s / steps)
        self._at_s = self.clock.now_s()

    def _step(self, duration_s: float) -> None:
        pulls = leverages([shaft.deg for shaft in self._shafts], self._inverted)
        for joint, (shaft, goal_deg, pull) in enumerate(zip(self._shafts, self._goals_deg(self._at_s), pulls, strict=True)):
            shaft.step(goal_deg, pull, duration_s)
            if shaft.is_overloaded:
                self.board.servos[self._by_joint[joint]].protect(self._at_s)

    def _goals_deg(self, at_s: float) -> list[float | None]:
        """Where the joints would be if the servos were where they want to be; None: limp."""
        read = self._board_goal_deg if self.config.driver == "dofbot_board" else self._pulse_goal_deg
        return [read(joint, at_s) if is_in else None for joint, is_in in enumerate(self._plugged)]

    def _board_goal_deg(self, joint: int, at_s: float) -> float | None:
        servo, wiring = self.board.servos[self._by_joint[joint]], self.config.board.servos[joint]
        if not servo.holds(at_s):
            return None
        told_deg = wiring.direction * (servo.raw(at_s) - wiring.zero_raw) / wiring.counts_per_deg
        return self.errors.zero_deg[joint] + self.errors.scale[joint] * told_deg

    def _pulse_goal_deg(self, joint: int, _: float) -> float | None:
        wiring = self.config.servos[joint]
        pulse_us = self.pca9685.pulse_us(wiring.channel)
        if not pulse_us:
            return None
        turned_deg = ((pulse_us - wiring.min_us) / (wiring.max_us - wiring.min_us) - 0.5) * wiring.travel_deg
        return wiring.zero_deg + self.errors.zero_deg[joint] + self.errors.scale[joint] * wiring.direction * turned_deg

    def _actual_raw(self) -> list[float]:
        """Counts at which the shafts stand, as their potentiometers tell, in the order of the board's servos (6)."""
        self._advance()
        return self._told_raw()

    def _told_raw(self) -> list[float]:
        """The same at the time of the last step."""
        raws = [0.0] * 6
        for joint, (shaft, wiring) in enumerate(zip(self._shafts, self.config.board.servos, strict=True)):
            told_deg = (shaft.deg - self.errors.zero_deg[joint]) / self.errors.scale[joint]
            raws[self._by_joint[joint]] = wiring.zero_raw + wiring.direction * wiring.counts_per_deg * told_deg
        return [raw + self._rng.integers(-NOISE_RAW, NOISE_RAW + 1) for raw in raws]
