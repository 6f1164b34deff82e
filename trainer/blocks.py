"""Blocks on the simulated table."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from edge.messages import Float64
from trainer.render import BOX, CYLINDER

_AWAY_M = (1.0, 1.0, -1.0)


@dataclass(frozen=True)
class Block:
    """A block on the table: a box, or an upright cylinder (size_m = diameter, diameter, height)."""

    x_m: float
    y_m: float
    yaw_rad: float = 0.0
    size_m: tuple[float, float, float] = (0.030, 0.030, 0.030)
    mass_kg: float = 0.030  # 30 mm of beech: 0.7 g/cm³ is 19 g, of plastic 32 g
    friction: float = 0.8
    cylinder: bool = False

    def _body(self) -> tuple[object, ...]:
        """What a body in the physics can be used again for."""
        return self.size_m, self.mass_kg, self.friction, self.cylinder


class Blocks:
    """The bodies of the blocks in one physics client, made anew only when a block is of another kind."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._bodies: list[tuple[int, Block]] = []

    def place(self, blocks: tuple[Block, ...], table_m: float) -> None:
        """Exactly these blocks, at rest on the table's top."""
        while len(self._bodies) > len(blocks):
            self._client.removeBody(self._bodies.pop()[0])
        for index, block in enumerate(blocks):
            body = self._body(index, block)
            position = (block.x_m, block.y_m, table_m + block.size_m[2] / 2.0)
            self._client.resetBasePositionAndOrientation(body, position, self._client.getQuaternionFromEuler((0, 0, block.yaw_rad)))
            self._client.resetBaseVelocity(body, (0, 0, 0), (0, 0, 0))
            self._bodies[index : index + 1] = [(body, block)]

    def __len__(self) -> int:
        return len(self._bodies)

    def transform_block_to_table(self, index: int) -> Float64:
        """(4, 4) pose of a block's centre."""
        position, quaternion = self._client.getBasePositionAndOrientation(self._bodies[index][0])
        transform = np.eye(4)
        transform[:3, :3] = np.reshape(self._client.getMatrixFromQuaternion(quaternion), (3, 3))
        transform[:3, 3] = position
        return transform

    def touching_links(self, index: int, arm: int) -> set[int]:
        """Links of the arm that touch a block."""
        return {contact[3] for contact in self._client.getContactPoints(arm, self._bodies[index][0])}

    def tallest_m(self) -> float:
        """Height of the tallest block."""
        return max((block.size_m[2] for _, block in self._bodies), default=0.0)

    def drawn(self) -> list[tuple[int, Float64, Float64]]:
        """(kind, half size, transform_block_to_table) of each block, for the renderer."""
        return [
            (CYLINDER if block.cylinder else BOX, np.array(block.size_m) / 2.0, self.transform_block_to_table(index))
            for index, (_, block) in enumerate(self._bodies)
        ]

    def _body(self, index: int, block: Block) -> int:
        """A body for this block: the one that the index has, if it will do."""
        if index < len(self._bodies):
            body, last = self._bodies[index]
            if last._body() == block._body():
                return body
            self._client.removeBody(body)
        client, half_m = self._client, [s / 2.0 for s in block.size_m]
        if block.cylinder:
            collision = client.createCollisionShape(client.GEOM_CYLINDER, radius=half_m[0], height=block.size_m[2])
            visual = client.createVisualShape(client.GEOM_CYLINDER, radius=half_m[0], length=block.size_m[2], rgbaColor=(0.85, 0.3, 0.1, 1))
        else:
            collision = client.createCollisionShape(client.GEOM_BOX, halfExtents=half_m)
            visual = client.createVisualShape(client.GEOM_BOX, halfExtents=half_m, rgbaColor=(0.85, 0.3, 0.1, 1))
        body = client.createMultiBody(block.mass_kg, collision, visual)
        client.changeDynamics(
            body,
            -1,
            lateralFriction=block.friction,
            spinningFriction=0.001,
            rollingFriction=0.0001,
            linearDamping=0.0,
            angularDamping=0.0,
        )
        return int(body)
