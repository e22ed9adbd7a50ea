"""The Pose Guider, which turns pose frames into features at latent resolution (SPEC.md 2.6)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn


class PoseGuider(nn.Module):
    """Convolutions that halve the resolution at each step of `channels`, and a last one to `out_channels`."""

    def __init__(self, channels: Sequence[int], out_channels: int):
        super().__init__()
        self.conv_in = nn.Conv2d(3, channels[0], 3, padding=1)
        self.blocks = nn.ModuleList()
        for narrow, wide in pairwise(channels):
            self.blocks.append(nn.Conv2d(narrow, narrow, 3, padding=1))
            self.blocks.append(nn.Conv2d(narrow, wide, 3, padding=1, stride=2))
        self.conv_out = nn.Conv2d(channels[-1], out_channels, 3, padding=1)

    def forward(self, frames: Tensor) -> Tensor:
        """(n, 3, H, W) RGB in [0, 1] -> (n, C0, H/8, W/8)"""
        x = F.silu(self.conv_in(frames))
        for conv in self.blocks:
            x = F.silu(conv(x))
        return self.conv_out(x)
