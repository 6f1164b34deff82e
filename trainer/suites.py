"""What a policy is tried on: each suite draws scenes, from those it was trained for to those it never saw."""

import math
from dataclasses import replace

import numpy as np
from msgspec import structs

from edge.contract import Episode
from trainer.blocks import Block
from trainer.randomise import Draw, Scene, draw_scene

HELD_OUT_SIZE_M = (0.020, 0.040)  # training: cubes of 25-35 mm
APART_M = 0.055  # two blocks: the open gripper (60 mm and its pads) has room beside the one it takes
CAMERA_OFF_M = (0.002, 0.004)  # beyond training's ±2 mm,
CAMERA_OFF_RAD = (math.radians(1.0), math.radians(2.0))  # and ±1°
NOISE_PX = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4)  # Intel: > 0.2 means recalibrate


def clean(rng: np.random.Generator, episode: Episode) -> Scene:
    """30 mm cubes, everything as modelled."""
    return draw_scene(rng, episode, 0.0)


def randomised(rng: np.random.Generator, episode: Episode) -> Scene:
    """As in training, at full strength."""
    return draw_scene(rng, episode, 1.0)


def held_out(rng: np.random.Generator, episode: Episode) -> Scene:
    """Cuboids, upright cylinders, smaller and bigger cubes, and two blocks, in equal parts; otherwise as randomised."""
    scene = draw_scene(rng, episode, 1.0)
    block = scene.blocks[0]
    kind = rng.integers(4)
    low, high = HELD_OUT_SIZE_M
    if kind == 0:
        a, b, c = rng.uniform(low, high, 3)
        # The gripper opens 60 mm: a long cuboid goes in along its long side only while it is turned little.
        return scene._replace(blocks=(_like(block, (a, b, max(c, 0.025))),))
    if kind == 1:
        diameter = rng.uniform(low, high)
        return scene._replace(blocks=(_like(block, (diameter, diameter, rng.uniform(0.025, high)), cylinder=True),))
    if kind == 2:
        edge = rng.choice([rng.uniform(low, 0.025), rng.uniform(0.035, high)])
        return scene._replace(blocks=(_like(block, (edge,) * 3),))
    return scene._replace(blocks=(block, _beside(block, rng, episode)))


def camera_offset(rng: np.random.Generator, episode: Episode) -> Scene:
    """As randomised, but the camera sits 2-4 mm and 1-2° from where it should, on every axis."""
    scene = draw_scene(rng, episode, 1.0)
    shift_m, turn_rad = (rng.uniform(low, high, 3) * rng.choice([-1.0, 1.0], 3) for low, high in (CAMERA_OFF_M, CAMERA_OFF_RAD))
    return scene._replace(quirks=replace(scene.quirks, camera_shift_m=tuple(shift_m), camera_turn_rad=tuple(turn_rad)))


def with_noise(noise_px: float) -> Draw:
    """As randomised, with one given disparity noise of the camera, in pixels."""

    def draw(rng: np.random.Generator, episode: Episode) -> Scene:
        scene = draw_scene(rng, episode, 1.0)
        return scene._replace(faults=structs.replace(scene.faults, noise_px=noise_px))

    return draw


SUITES: dict[str, Draw] = {"clean": clean, "randomised": randomised, "heldout": held_out, "camera-offset": camera_offset}
NOISE_SWEEP: dict[str, Draw] = {f"noise {noise_px:g} px": with_noise(noise_px) for noise_px in NOISE_PX}


def kind_of(blocks: tuple[Block, ...]) -> str:
    """'cube', 'cuboid', 'cylinder' or 'two cubes'."""
    if len(blocks) > 1:
        return "two cubes"
    if blocks[0].cylinder:
        return "cylinder"
    return "cube" if len(set(blocks[0].size_m)) == 1 else "cuboid"


def _like(block: Block, size_m: tuple[float, float, float], cylinder: bool = False) -> Block:
    return Block(block.x_m, block.y_m, block.yaw_rad, size_m, block.mass_kg, block.friction, cylinder)


def _beside(block: Block, rng: np.random.Generator, episode: Episode) -> Block:
    """A second block in the spawn area or 10 mm around it, clear of the first and of the gripper around that."""
    (x_min, y_min), (x_max, y_max) = episode.spawn_min_in_table_m, episode.spawn_max_in_table_m
    while True:
        x_m, y_m = rng.uniform(x_min - 0.01, x_max + 0.01), rng.uniform(y_min - 0.01, y_max + 0.01)
        if math.hypot(x_m - block.x_m, y_m - block.y_m) > APART_M:
            return Block(x_m, y_m, rng.uniform(-episode.spawn_yaw_rad, episode.spawn_yaw_rad), block.size_m, block.mass_kg, block.friction)
