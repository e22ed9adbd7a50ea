"""Layers shared by the networks, with the parameter names of the public state dicts.

Frames are in the batch axis, so every tensor here has at most four dimensions. Normalisation and decomposed
softmax compute in float32: a float16 graph has explicit casts around them, as strong typing in TensorRT
requires; in a float32 graph the casts vanish. The fused operator Attention has no casts (see `attend`).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class GroupNorm(nn.GroupNorm):
    """Group normalisation of (N, C, h, w), separately for each row of the batch, in float32."""

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight.float(), self.bias.float()
        return F.group_norm(x.float(), self.num_groups, weight, bias, self.eps).to(x.dtype)


class LayerNorm(nn.LayerNorm):
    """Layer normalisation over the last axis, in float32."""

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight.float(), self.bias.float()
        return F.layer_norm(x.float(), self.normalized_shape, weight, bias, self.eps).to(x.dtype)


class ResnetBlock(nn.Module):
    """Two convolutions with an optional time shift between them, and a residual (SPEC.md 2.4 and 2.8)."""

    def __init__(self, in_channels: int, out_channels: int, groups: int, eps: float, time_dim: int | None):
        super().__init__()
        self.norm1 = GroupNorm(groups, in_channels, eps)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        if time_dim is not None:
            self.time_emb_proj = nn.Linear(time_dim, out_channels)
        self.norm2 = GroupNorm(groups, out_channels, eps)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        if in_channels != out_channels:
            self.conv_shortcut = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, time_shift: Tensor | None = None) -> Tensor:
        """(N, C_in, h, w) -> (N, C_out, h, w); `time_shift` (1, C_out) comes from `time_emb_proj`."""
        h = self.conv1(F.silu(self.norm1(x)))
        if time_shift is not None:
            h = h + time_shift[:, :, None, None]
        h = self.conv2(F.silu(self.norm2(h)))
        return h + (self.conv_shortcut(x) if hasattr(self, "conv_shortcut") else x)


class Downsample(nn.Module):
    """Stride-2 convolution, padded by one pixel on every side, or in the VAE on the right and bottom only."""

    def __init__(self, channels: int, *, symmetric: bool):
        super().__init__()
        self.symmetric = symmetric
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1 if symmetric else 0)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x if self.symmetric else F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Nearest-neighbour upsampling, then a convolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Upsample to twice the size, or to `size` (h, w) where downsampling rounded up (SPEC.md 2.3)."""
        doubled = (2 * x.shape[2], 2 * x.shape[3])
        if size is None or size == doubled:
            x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        else:
            x = F.interpolate(x, size=size, mode="nearest")
        return self.conv(x)


class FeedForward(nn.Module):
    """GEGLU: a value times the exact GELU of a gate, both four times as wide as the input."""

    def __init__(self, channels: int):
        super().__init__()
        gated = nn.Module()
        gated.proj = nn.Linear(channels, 8 * channels)
        self.net = nn.ModuleList([gated, nn.Identity(), nn.Linear(4 * channels, channels)])

    def forward(self, x: Tensor) -> Tensor:
        # Two matrix products, because the halves of a single one would have to be copied out of its result.
        gated, width = self.net[0].proj, self.net[2].in_features
        value = F.linear(x, gated.weight[:width], gated.bias[:width])
        gate = F.linear(x, gated.weight[width:], gated.bias[width:])
        return self.net[2](value * F.gelu(gate))


class Attention(nn.Module):
    """Multi-head attention with the projections of the public state dicts."""

    def __init__(self, channels: int, heads: int, context_dim: int | None = None, *, bias: bool = False):
        super().__init__()
        context_dim = channels if context_dim is None else context_dim
        self.heads = heads
        self.to_q = nn.Linear(channels, channels, bias=bias)
        self.to_k = nn.Linear(context_dim, channels, bias=bias)
        self.to_v = nn.Linear(context_dim, channels, bias=bias)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Self-attention over the middle axis of (N, tokens, C)."""
        return self.output(attend(self.query(x), self.key(x), self.value(x), mask))

    def query(self, x: Tensor) -> Tensor:
        return self.split(self.to_q(x))

    def key(self, context: Tensor) -> Tensor:
        return self.split(self.to_k(context))

    def value(self, context: Tensor) -> Tensor:
        return self.split(self.to_v(context))

    def output(self, attended: Tensor) -> Tensor:
        """(N, heads, tokens, width) -> (N, tokens, C), projected."""
        return self.to_out[0](attended.transpose(1, 2).flatten(2))

    def to_one_token(self, context: Tensor) -> Tensor:
        """Cross-attention to a single token (N, D). Its softmax is 1, so the result (N, C) is the same for
        every query and does not depend on to_q and to_k (SPEC.md 3.4)."""
        return self.to_out[0](self.to_v(context))

    def split(self, x: Tensor) -> Tensor:
        """(N, tokens, C) -> (N, heads, tokens, width)"""
        return x.unflatten(2, (self.heads, x.shape[2] // self.heads)).transpose(1, 2)


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(query key^T / sqrt(width) + mask) value, on (N, heads, tokens, width) and mask (keys,).

    In half precision with a head width of 16 to 256 that is a multiple of 8, this is exported as the ONNX
    operator Attention, which TensorRT fuses. TensorRT refuses that operator in all other cases, which are
    therefore decomposed (docs/structure.md).

    The operator's attribute softmax_precision is left out: TensorRT refuses it, and ONNX Runtime returns the
    same bits with float32 there as without it. Its error in float16, 0.04 % to 0.4 % of the result, is that
    of the form below, whose softmax is float32: it comes from rounding scores and weights, not from the
    softmax (tests/test_attention.py measures it).
    """
    width = query.shape[3]
    if query.dtype != torch.float32 and 16 <= width <= 256 and width % 8 == 0:
        rows = None if mask is None else mask.expand(query.shape[2], -1)
        return F.scaled_dot_product_attention(query, key, value, attn_mask=rows)
    scores = (query * width**-0.5) @ key.transpose(2, 3)
    if mask is not None:
        scores = scores + mask
    return scores.float().softmax(dim=3).to(query.dtype) @ value
