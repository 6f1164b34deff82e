"""How one arm differs from the nominal one: drawn from a seed, within what data sheets allow and what users measured."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from edge.robot import POSITION_MAX_RAD, POSITION_MIN_RAD
from edge.simulated.servo_physics import ServoTraits

Driver = Literal["pca9685", "dofbot_board"]

OSCILLATOR_HZ = (23e6, 27e6)  # of PCA9685s that were measured (Adafruit-PWM-Servo-Driver-Library, PR 72 and issue 11)
ZERO_DEG = 2.0  # either way: one arm had 0, +2, +2, +2, -2 (jimdinunzio/dofbot_ros2)
TRAVEL_DEG = (300.0, 330.0)  # of a bus servo over its 3904 counts, one arm (Practitioner108/dofbot_sci_ws); data sheet: 300 ± 15
NOMINAL_TRAVEL_DEG = 3904.0 / (2200.0 / 180.0)  # by Arm_Lib's scale
PWM_SCALE = 0.04  # either way; data sheets of hobby servos say nothing: assumed
SPEED_DEG_S = (200.0, 250.0)  # YB-SD15M 0.30 s / 60°, DS-SY15A 0.24 s / 60°, both without load
DEAD_BAND_DEG = {"dofbot_board": 0.15, "pca9685": 0.33}  # assumed (PRAC sends no step below 0.29°); 5 µs in all
PLAY_DEG = 0.5  # either way: DS-SY15A says ≤ 1° of backlash
# 0.5 kg of forearm, hand and camera at 0.14 m from the shoulder, an estimate, is 0.45 of the 1.47 N·m at which a YB-SD15M stalls.
LOAD = 0.45
SAG_DEG = 1.2  # 5-10 mm at full reach, 0.345 m (NAH)
STALL_S = (3.0, 5.0)  # until a bus servo protects itself: YB-SD15M 3 s, DS-SY15A 5 s
PAST_LIMIT_DEG = (4.0, 10.0)  # from a joint's limit to the stop of its bracket; assumed
GRIPPER_STOPS_DEG = (-92.0, 92.0)  # from the middle of the vendor's table, 0…180°


@dataclass(frozen=True)
class ArmErrors:
    """What no data sheet tells of one arm; the defaults are the nominal arm without flaws."""

    oscillator_hz: float = 25e6  # of its PCA9685
    zero_deg: tuple[float, ...] = (0.0,) * 6  # where a joint is when its servo says zero
    scale: tuple[float, ...] = (1.0,) * 6  # degrees that a servo turns for each that it was sent
    traits: tuple[ServoTraits, ...] = (ServoTraits(),) * 6


def draw_errors(driver: Driver, seed: int) -> ArmErrors:
    """The same seed is the same arm."""
    rng = np.random.default_rng(seed)
    low, high = (end / NOMINAL_TRAVEL_DEG for end in TRAVEL_DEG) if driver == "dofbot_board" else (1.0 - PWM_SCALE, 1.0 + PWM_SCALE)
    return ArmErrors(
        float(rng.uniform(*OSCILLATOR_HZ)),
        tuple(rng.uniform(-ZERO_DEG, ZERO_DEG, 6).tolist()),
        tuple(rng.uniform(low, high, 6).tolist()),
        tuple(_traits(driver, joint, rng) for joint in range(6)),
    )


def _traits(driver: Driver, joint: int, rng: np.random.Generator) -> ServoTraits:
    stops_deg = GRIPPER_STOPS_DEG
    if joint < 5:
        below_deg, above_deg = rng.uniform(*PAST_LIMIT_DEG, 2).tolist()
        stops_deg = math.degrees(POSITION_MIN_RAD[joint]) - below_deg, math.degrees(POSITION_MAX_RAD[joint]) + above_deg
    return ServoTraits(
        speed_deg_s=float(rng.uniform(*SPEED_DEG_S)),
        dead_band_deg=DEAD_BAND_DEG[driver],
        play_deg=float(rng.uniform(0.2, 1.0)) * PLAY_DEG,
        load=LOAD,
        sag_deg=SAG_DEG,
        stall_s=float(rng.uniform(*STALL_S)) if driver == "dofbot_board" else math.inf,
        stops_deg=stops_deg,
    )
