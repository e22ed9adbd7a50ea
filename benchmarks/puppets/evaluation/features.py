"""A perceptual distance like LPIPS, between what the levels of the small model's own VAE encoder see.

The encoder was trained on this world, which networks for photographs were not. Its weights are those in
weights/puppets, whichever weights are measured, so that distances are comparable.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ....export import load_checkpoint
from ....export.networks.vae import Encoder
from ..training.model import WEIGHTS
from ..training.stage import to_tensor
from ..world.scene import Picture

EVERY = 4  # of so many frames one is compared: neighbours hardly differ, and the encoder takes long


@cache
def encoder() -> Encoder:
    return load_checkpoint(WEIGHTS).vae.encoder.requires_grad_(False)


def feature_distance(made: Picture, true: Picture) -> float:
    """Mean over every fourth of frames (n, H, W, 3) of the distance of their features: 0 if equal, 2 if they
    have nothing in common.

    As in LPIPS, the channels at each position are scaled to unit length, and squared differences are averaged
    over positions and levels. All levels count the same.
    """
    distances = [
        float(np.mean([(a - b).square().sum(dim=1).mean() for a, b in zip(*map(levels, pair), strict=True)]))
        for pair in zip(made[::EVERY, None], true[::EVERY, None], strict=True)
    ]
    return float(np.mean(distances))


@torch.no_grad()
def levels(frames: Picture) -> list[Tensor]:
    """What each level of the encoder makes of frames (n, H, W, 3), with channels of unit length."""
    network, found = encoder(), []
    x = network.conv_in(to_tensor(frames) * 2 - 1)
    for block in network.down_blocks:
        x = block(x)
        found.append(F.normalize(x, dim=1))
    return found
