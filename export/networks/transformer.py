"""The spatial transformer, and how the denoising UNet's attention reads the reference (SPEC.md 2.4 and 3)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .layers import Attention, FeedForward, GroupNorm, LayerNorm, attend

EPS = 1e-6  # of group normalisation; layer normalisation has torch's default, 1e-5


class SpatialTransformer(nn.Module):
    """Residual transformer over the positions of one frame (SPEC.md 2.4)."""

    def __init__(self, channels: int, groups: int, block: TransformerBlock):
        super().__init__()
        self.norm = GroupNorm(groups, channels, EPS)
        self.proj_in = nn.Conv2d(channels, channels, 1)
        self.transformer_blocks = nn.ModuleList([block])
        self.proj_out = nn.Conv2d(channels, channels, 1)

    @property
    def block(self) -> TransformerBlock:
        return self.transformer_blocks[0]

    def forward(
        self, x: Tensor, self_attention: Callable[[Attention, Tensor], Tensor], cross: Tensor | None = None
    ) -> Tensor:
        """(N, C, h, w) -> (N or 2N, C, h, w).

        `self_attention` is called with the block's attention and its normalised input (N, tokens, C) and may
        return twice the rows; `cross` (rows or 1, C) is the result of the cross-attention, if there is one.
        """
        tokens = self.proj_in(self.norm(x)).flatten(2).transpose(1, 2)
        attended = self_attention(self.block.attn1, self.block.norm1(tokens))
        tokens = with_rows_of(attended, tokens) + attended
        if cross is not None:
            tokens = tokens + cross[:, None]
        tokens = tokens + self.block.ff(self.block.norm3(tokens))
        y = self.proj_out(tokens.transpose(1, 2).unflatten(2, x.shape[2:]))
        return with_rows_of(y, x) + y


class TransformerBlock(nn.Module):
    """The parameters of one block, with cross-attention if there is a context. norm2, attn2.to_q and
    attn2.to_k have no effect with one context token; they are here because the public weights have them, and
    the exporter removes them."""

    def __init__(self, channels: int, heads: int, context_dim: int | None = None):
        super().__init__()
        self.attn1 = Attention(channels, heads)
        self.norm1 = LayerNorm(channels)
        if context_dim is not None:
            self.attn2 = Attention(channels, heads, context_dim)
            self.norm2 = LayerNorm(channels)
        self.ff = FeedForward(channels)
        self.norm3 = LayerNorm(channels)


class Reference(NamedTuple):
    """Inputs of one spatial attention block of the denoising UNet, computed from the reference image."""

    key: Tensor  # (1, heads, tokens, width)
    value: Tensor  # (1, heads, tokens, width)
    cross: Tensor  # (1, C): cross-attention to the image embedding


def read_reference(
    transformer: SpatialTransformer, reference: Reference, frames: int, guided: bool
) -> tuple[Callable[[Attention, Tensor], Tensor], Tensor]:
    """`self_attention` and `cross` for `SpatialTransformer.forward`, given the reference of one block."""

    def conditional(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        # The frame's own tokens, then the reference's (SPEC.md 3.3).
        key = torch.cat([key, reference.key.expand(frames, -1, -1, -1)], dim=2)
        value = torch.cat([value, reference.value.expand(frames, -1, -1, -1)], dim=2)
        return attend(query, key, value)

    def self_attention(attention: Attention, normed: Tensor) -> Tensor:
        tensors = attention.query(normed), attention.key(normed), attention.value(normed)
        if not guided:
            return attention.output(conditional(*tensors))
        # Until the first attention both guidance halves are equal, so only one is computed. It is copied, not
        # used twice, because two Attention operators sharing a query crash the builder of TensorRT-RTX 1.7.
        halves = [(x if x.shape[0] > frames else torch.cat([x, x])).chunk(2) for x in tensors]
        without, with_reference = zip(*halves, strict=True)
        return attention.output(torch.cat([attend(*without), conditional(*with_reference)]))

    cross = reference.cross.expand(frames, -1)
    if guided:
        # The unconditional embedding is zero, so only the bias is left (SPEC.md 3.4).
        bias = transformer.block.attn2.to_out[0].bias
        cross = torch.cat([bias[None].expand(frames, -1), cross])
    return self_attention, cross


def with_rows_of(example: Tensor, x: Tensor) -> Tensor:
    """`x`, repeated for both guidance halves if `example` has both and `x` has one."""
    return x if x.shape[0] == example.shape[0] else torch.cat([x, x])
