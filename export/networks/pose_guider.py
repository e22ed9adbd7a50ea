"""Guiders, which turn pose frames into features at latent resolution: the Pose Guider (SPEC.md 2.6), and the
guidance encoders of Champ (SPEC-family.md A.2)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import Attention
from .transformer import SpatialTransformer, TransformerBlock

GROUPS, HEADS = 32, 8  # of a guidance encoder's attention; no file states them


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
        return self.conv_out(self.attended(x))

    def attended(self, x: Tensor) -> Tensor:
        """The input of the last convolution."""
        return x


class GuidanceEncoder(PoseGuider):
    """A Pose Guider with self-attention over the positions of a frame, before its last convolution."""

    def __init__(self, channels: Sequence[int], out_channels: int):
        super().__init__(channels, out_channels)
        width = channels[-1]
        transformer = SpatialTransformer(width, GROUPS, TransformerBlock(width, HEADS))
        self.attentions = nn.ModuleDict({str(len(self.blocks) - 1): transformer})

    def attended(self, x: Tensor) -> Tensor:
        (transformer,) = self.attentions.values()
        attended: Tensor = transformer(x, Attention.forward)
        return attended


class GuidanceEncoders(nn.Module):
    """Several guidance encoders, whose features are added."""

    def __init__(self, encoders: Iterable[nn.Module]):
        super().__init__()
        self.encoders = nn.ModuleList(encoders)

    def forward(self, frames: Tensor) -> Tensor:
        """(n, 3, H, pictures * W) RGB in [0, 1], side by side in the order of the encoders -> (n, C0, H/8,
        W/8)"""
        pictures = frames.chunk(len(self.encoders), dim=3)
        features = [encoder(picture) for encoder, picture in zip(self.encoders, pictures, strict=True)]
        return torch.stack(features).sum(dim=0) if len(features) > 1 else features[0]
