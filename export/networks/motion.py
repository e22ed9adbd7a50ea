"""The motion module: self-attention over the frames of a window, at each position (SPEC.md 2.5)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ...engines.model import MotionConfig
from .layers import Attention, FeedForward, GroupNorm, LayerNorm

EPS = 1e-6  # of group normalisation; layer normalisation has torch's default, 1e-5


class MotionModule(nn.Module):
    """Residual temporal transformer of one layer of the denoising UNet."""

    def __init__(self, channels: int, groups: int, config: MotionConfig):
        super().__init__()
        self.temporal_transformer = TemporalTransformer(channels, groups, config)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(R*F, C, h, w) -> same shape. R sequences of F frames; mask (F,) is added to the keys' scores."""
        return x + self.temporal_transformer(x, mask)


class TemporalTransformer(nn.Module):
    def __init__(self, channels: int, groups: int, config: MotionConfig):
        super().__init__()
        self.norm = GroupNorm(groups, channels, EPS)
        self.proj_in = nn.Linear(channels, channels)
        self.transformer_blocks = nn.ModuleList(
            [TemporalBlock(channels, config) for _ in range(config.blocks)]
        )
        self.proj_out = nn.Linear(channels, channels)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        frames = mask.shape[0]
        tokens = self.proj_in(self.norm(x).flatten(2).transpose(1, 2))  # (R*F, h*w, C)
        # Frames and positions are swapped only here and at the end, and tokens are moved as a whole.
        tokens = tokens.unflatten(0, (-1, frames)).transpose(1, 2)  # (R, h*w, F, C)
        sequences = tokens.shape[0]
        tokens = tokens.flatten(0, 1)
        for block in self.transformer_blocks:
            tokens = block(tokens, mask)
        tokens = tokens.unflatten(0, (sequences, -1)).transpose(1, 2).flatten(0, 1)
        return self.proj_out(tokens).transpose(1, 2).unflatten(2, x.shape[2:])


class TemporalBlock(nn.Module):
    def __init__(self, channels: int, config: MotionConfig):
        super().__init__()
        self.attention_blocks = nn.ModuleList(
            [TemporalAttention(channels, config) for _ in range(config.attentions)]
        )
        self.norms = nn.ModuleList([LayerNorm(channels) for _ in range(config.attentions)])
        self.ff = FeedForward(channels)
        self.ff_norm = LayerNorm(channels)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        for attention, norm in zip(self.attention_blocks, self.norms, strict=True):
            tokens = tokens + attention(norm(tokens), mask)
        return tokens + self.ff(self.ff_norm(tokens))


class TemporalAttention(Attention):
    """Attention over frames. Positions are added before all three projections, including that of values."""

    def __init__(self, channels: int, config: MotionConfig):
        super().__init__(channels, config.heads)
        self.pos_encoder = nn.Module()
        self.pos_encoder.register_buffer("pe", positions(config.max_frames, channels))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return super().forward(x + self.pos_encoder.pe[:, : x.shape[1]], mask)


def positions(max_frames: int, channels: int) -> Tensor:
    """Sinusoidal positional encodings (1, max_frames, channels), sine and cosine interleaved."""
    rates = torch.exp(torch.arange(0, channels, 2) * (-math.log(10000.0) / channels))
    angles = torch.arange(max_frames)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)[None]
