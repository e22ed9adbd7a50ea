"""The CLIP image encoder, which turns the reference image into one embedding (SPEC.md 2.9)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...engines.model import ImageEncoderConfig
from .layers import LayerNorm, attend


class ImageEncoder(nn.Module):
    """Vision transformer whose class token is projected; the embedding is not normalised."""

    def __init__(self, config: ImageEncoderConfig):
        super().__init__()
        self.vision_model = VisionTransformer(config)
        self.visual_projection = nn.Linear(config.width, config.projection_dim, bias=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """(1, 3, side, side), normalised by CLIP's mean and standard deviation -> (1, D)"""
        return self.visual_projection(self.vision_model(pixels))


class VisionTransformer(nn.Module):
    def __init__(self, config: ImageEncoderConfig):
        super().__init__()
        self.embeddings = Embeddings(config)
        self.pre_layrnorm = LayerNorm(config.width, config.norm_eps)  # spelled as in the public weights
        self.encoder = nn.Module()
        self.encoder.layers = nn.ModuleList([EncoderLayer(config) for _ in range(config.layers)])
        self.post_layernorm = LayerNorm(config.width, config.norm_eps)

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.pre_layrnorm(self.embeddings(pixels))
        for layer in self.encoder.layers:
            x = layer(x)
        return self.post_layernorm(x[:, 0])


class Embeddings(nn.Module):
    """A class token and one token per patch, plus learned positions."""

    def __init__(self, config: ImageEncoderConfig):
        super().__init__()
        patches = (config.image_size // config.patch_size) ** 2
        self.class_embedding = nn.Parameter(torch.zeros(config.width))
        self.patch_embedding = nn.Conv2d(3, config.width, config.patch_size, config.patch_size, bias=False)
        self.position_embedding = nn.Embedding(patches + 1, config.width)

    def forward(self, pixels: Tensor) -> Tensor:
        patches = self.patch_embedding(pixels).flatten(2).transpose(1, 2)
        return torch.cat([self.class_embedding[None, None], patches], dim=1) + self.position_embedding.weight


class EncoderLayer(nn.Module):
    def __init__(self, config: ImageEncoderConfig):
        super().__init__()
        self.activation = {"quick_gelu": quick_gelu, "gelu": F.gelu}[config.activation]
        self.layer_norm1 = LayerNorm(config.width, config.norm_eps)
        self.self_attn = SelfAttention(config.width, config.heads)
        self.layer_norm2 = LayerNorm(config.width, config.norm_eps)
        self.mlp = nn.Module()
        self.mlp.fc1 = nn.Linear(config.width, config.mlp_width)
        self.mlp.fc2 = nn.Linear(config.mlp_width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x))
        hidden = self.activation(self.mlp.fc1(self.layer_norm2(x)))
        return x + self.mlp.fc2(hidden)


def quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


class SelfAttention(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (
            proj(x).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        return self.out_proj(attend(query, key, value).transpose(1, 2).flatten(2))
