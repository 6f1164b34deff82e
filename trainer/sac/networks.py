"""The actor sees depth or the block's position, and proprioception; critics see the whole state (Pinto et al. 2017, arXiv 1710.06542)."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from edge.contract import Contract

LOG_STD_MIN, LOG_STD_MAX = -5.0, 1.0
HOLE_MAX = 0.5 / 255.0  # a pixel up to this has no depth: replay rounds it to 0
POSE_SCALE_M = 0.05  # the auxiliary head regresses the block's position relative to the tool in units of this


def halve(depth: Tensor) -> Tensor:
    """(n, 1, 64, 64) → (n, 1, 32, 32): area pooling keeps sub-pixel positions at a quarter of the cost.

    The mean is over the pixels that have depth: one hole among four must not look like an edge halfway to the camera.
    """
    share = functional.avg_pool2d((depth > 0.0).to(depth.dtype), 2)
    return functional.avg_pool2d(depth, 2) / share.clamp(min=0.25)


def shrink(sight: Tensor) -> Tensor:
    """What the policy sees as the actor takes it: images halved, positions (n, 3) as they are."""
    return halve(sight) if sight.ndim == 4 else sight


def proprio_range(contract: Contract) -> tuple[Tensor, Tensor]:
    """Centre and half range of `edge.contract_check.PROPRIO_FIELDS`: what takes them to about ±1."""
    half, move_m = contract.episode.steps / 2.0, contract.action.scale_m
    return torch.tensor([0.0, 0.12, 0.06, half, 0.0, 0.0]), torch.tensor([0.05, 0.05, 0.05, half, move_m, move_m])


class Encoder(nn.Module):
    """(n, 1, 32, 32) halved depth in [0, 1], 0 = no depth → (n, 64) features; 0.48 M multiply-adds an image.

    Where there is no depth is a channel of its own. The map is flattened, not pooled away: the answer is a position.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(2, 16, 3, stride=2),
            nn.ReLU(inplace=True),  # a quarter off the encoder's time: its maps are the largest tensors of an update
            nn.Conv2d(16, 32, 3, stride=2),
            nn.ReLU(inplace=True),
            nn.Conv2d(32, 32, 3),
            nn.ReLU(inplace=True),
            nn.Flatten(),
        )
        self.project = nn.Sequential(nn.Linear(32 * 5 * 5, features), nn.LayerNorm(features), nn.Tanh())

    def forward(self, halved: Tensor) -> Tensor:
        """Features of a batch of images."""
        return self.project(self.convolutions(torch.cat([2.0 * halved - 1.0, (halved > HOLE_MAX).to(halved.dtype)], 1)))


class Actor(nn.Module):
    """Squashed Gaussian policy (Haarnoja et al. 2018, arXiv 1812.05905) with an auxiliary head for the block's position.

    Where the contract gives that position, encoder and head are left out.
    """

    proprio_centre: Tensor
    proprio_scale: Tensor

    def __init__(self, contract: Contract, features: int = 64, hidden: int = 128) -> None:
        super().__init__()
        n_actions, n_proprio, n_known = len(contract.action.fields), len(contract.proprio.fields), 3
        self.sees_images = contract.depth is not None
        if self.sees_images:
            self.encoder = Encoder(features)
            self.pose = nn.Linear(features, 2)
            n_known = features + 2
        self.trunk = nn.Sequential(nn.Linear(n_known + n_proprio, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU())
        self.mean = nn.Linear(hidden, n_actions)
        self.log_std = nn.Linear(hidden, n_actions)
        centre, scale = proprio_range(contract)  # inside the graph, so that the robot feeds physical values
        self.register_buffer("proprio_centre", centre)
        self.register_buffer("proprio_scale", scale)

    def distribution(self, sight: Tensor, proprio: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean and log standard deviation before squashing, and the block's x and y relative to the tool (in POSE_SCALE_M).

        `sight` is what `shrink` gives: halved images, or the block's position.
        """
        if self.sees_images:
            features = self.encoder(sight)
            pose = self.pose(features)
            known = [features, pose]
        else:
            known = [(sight - proprio[:, :3]) / POSE_SCALE_M]
            pose = known[0][:, :2]
        hidden = self.trunk(torch.cat([*known, (proprio - self.proprio_centre) / self.proprio_scale], 1))
        span = LOG_STD_MAX - LOG_STD_MIN
        log_std = LOG_STD_MIN + 0.5 * span * (1.0 + torch.tanh(self.log_std(hidden)))
        return self.mean(hidden), log_std, pose

    def sample(self, sight: Tensor, proprio: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A reparametrised action in (-1, 1), its log-probability (n, 1), and the auxiliary pose."""
        mean, log_std, pose = self.distribution(sight, proprio)
        raw = mean + log_std.exp() * torch.randn_like(mean)
        return torch.tanh(raw), self.log_probability(raw, mean, log_std), pose

    @staticmethod
    def log_probability(raw: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
        """(n, 1) of the action tanh(raw)."""
        gaussian = -0.5 * ((raw - mean) / log_std.exp()) ** 2 - log_std - 0.5 * math.log(2.0 * math.pi)
        # log(1 - tanh²(u)) = 2 (log 2 - u - softplus(-2u)): exact where 1 - tanh² underflows (arXiv 1812.05905, appendix C)
        squashing = 2.0 * (math.log(2.0) - raw - functional.softplus(-2.0 * raw))
        return (gaussian - squashing).sum(1, keepdim=True)

    def forward(self, sight: Tensor, proprio: Tensor) -> Tensor:
        """The deterministic action (n, 2) in (-1, 1) for whole images (n, 1, 64, 64) or positions (n, 3): what is exported."""
        return torch.tanh(self.distribution(shrink(sight), proprio)[0])


class Critic(nn.Module):
    """Two action values of the privileged state; LayerNorm keeps them from running away (Ball et al. 2023, arXiv 2302.02948)."""

    def __init__(self, n_state: int, n_actions: int, hidden: int = 256) -> None:
        super().__init__()
        self.values = nn.ModuleList(
            nn.Sequential(
                nn.Linear(n_state + n_actions, hidden),
                nn.LayerNorm(hidden),
                nn.ReLU(),
                nn.Linear(hidden, hidden),
                nn.LayerNorm(hidden),
                nn.ReLU(),
                nn.Linear(hidden, 1),
            )
            for _ in range(2)
        )

    def forward(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Q1 and Q2, each (n, 1)."""
        both = torch.cat([state, action], 1)
        return self.values[0](both), self.values[1](both)


class SightedCritic(nn.Module):
    """The control for the privileged state: the same two values, from what the actor sees and no more."""

    proprio_centre: Tensor
    proprio_scale: Tensor

    def __init__(self, contract: Contract, n_actions: int, features: int = 64) -> None:
        super().__init__()
        self.encoder = Encoder(features)
        self.values = Critic(features + len(contract.proprio.fields), n_actions)
        centre, scale = proprio_range(contract)
        self.register_buffer("proprio_centre", centre)
        self.register_buffer("proprio_scale", scale)

    def forward(self, sight: Tensor, proprio: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Q1 and Q2, each (n, 1), of halved images, proprioception and actions."""
        seen = torch.cat([self.encoder(sight), (proprio - self.proprio_centre) / self.proprio_scale], 1)
        return self.values(seen, action)
