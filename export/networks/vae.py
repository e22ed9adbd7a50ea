"""The image autoencoder, which turns images into latents and latents into images (SPEC.md 2.8)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ...engines.model import VAEConfig
from .layers import Attention, Downsample, GroupNorm, ResnetBlock, Upsample

EPS = 1e-6  # of every group normalisation in this file


class VAE(nn.Module):
    def __init__(self, config: VAEConfig):
        super().__init__()
        channels = config.latent_channels
        self.scaling_factor = config.scaling_factor
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quant_conv = nn.Conv2d(2 * channels, 2 * channels, 1)
        self.post_quant_conv = nn.Conv2d(channels, channels, 1)

    def encode(self, pixels: Tensor) -> Tensor:
        """(n, 3, H, W) in [-1, 1] -> scaled posterior mean (n, 4, H/8, W/8), float32"""
        mean, _log_variance = self.quant_conv(self.encoder(pixels)).chunk(2, dim=1)
        return mean.float() * self.scaling_factor

    def decode(self, latents: Tensor) -> Tensor:
        """(n, 4, h, w) float32, scaled -> (n, 3, 8h, 8w), nominally in [-1, 1]"""
        unscaled = (latents / self.scaling_factor).to(self.post_quant_conv.weight.dtype)
        return self.decoder(self.post_quant_conv(unscaled))


class Encoder(nn.Module):
    def __init__(self, config: VAEConfig):
        super().__init__()
        widths, groups = config.widths, config.norm_groups
        self.conv_in = nn.Conv2d(3, widths[0], 3, padding=1)
        self.down_blocks = nn.ModuleList()
        for level, width in enumerate(widths):
            block = Level(widths[max(level - 1, 0)], width, config.layers_per_block, groups)
            if level < len(widths) - 1:
                block.downsamplers = nn.ModuleList([Downsample(width, symmetric=False)])
            self.down_blocks.append(block)
        self.mid_block = Middle(widths[-1], groups)
        self.conv_norm_out = GroupNorm(groups, widths[-1], EPS)
        self.conv_out = nn.Conv2d(widths[-1], 2 * config.latent_channels, 3, padding=1)

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.conv_in(pixels)
        for block in self.down_blocks:
            x = block(x)
        return self.conv_out(F.silu(self.conv_norm_out(self.mid_block(x))))


class Decoder(nn.Module):
    def __init__(self, config: VAEConfig):
        super().__init__()
        widths, groups = config.widths[::-1], config.norm_groups
        self.conv_in = nn.Conv2d(config.latent_channels, widths[0], 3, padding=1)
        self.mid_block = Middle(widths[0], groups)
        self.up_blocks = nn.ModuleList()
        for level, width in enumerate(widths):
            block = Level(widths[max(level - 1, 0)], width, config.layers_per_block + 1, groups)
            if level < len(widths) - 1:
                block.upsamplers = nn.ModuleList([Upsample(width)])
            self.up_blocks.append(block)
        self.conv_norm_out = GroupNorm(groups, widths[-1], EPS)
        self.conv_out = nn.Conv2d(widths[-1], 3, 3, padding=1)

    def forward(self, latents: Tensor) -> Tensor:
        x = self.mid_block(self.conv_in(latents))
        for block in self.up_blocks:
            x = block(x)
        return self.conv_out(F.silu(self.conv_norm_out(x)))


class Level(nn.Module):
    """Resnets at one resolution; if another level follows, a downsampler or upsampler after them."""

    def __init__(self, in_channels: int, out_channels: int, layers: int, groups: int):
        super().__init__()
        self.resnets = nn.ModuleList(
            [resnet(in_channels if i == 0 else out_channels, out_channels, groups) for i in range(layers)]
        )

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.resnets:
            x = layer(x)
        for resample in (*getattr(self, "downsamplers", ()), *getattr(self, "upsamplers", ())):
            x = resample(x)
        return x


class Middle(nn.Module):
    """Resnet, attention with a single head over all positions, resnet."""

    def __init__(self, channels: int, groups: int):
        super().__init__()
        self.resnets = nn.ModuleList([resnet(channels, channels, groups) for _ in range(2)])
        self.attentions = nn.ModuleList([MiddleAttention(channels, groups)])

    def forward(self, x: Tensor) -> Tensor:
        return self.resnets[1](self.attentions[0](self.resnets[0](x)))


class MiddleAttention(Attention):
    def __init__(self, channels: int, groups: int):
        super().__init__(channels, heads=1, bias=True)
        self.group_norm = GroupNorm(groups, channels, EPS)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        tokens = self.group_norm(x).flatten(2).transpose(1, 2)  # (n, h*w, C)
        return x + super().forward(tokens, mask).transpose(1, 2).unflatten(2, x.shape[2:])


def resnet(in_channels: int, out_channels: int, groups: int) -> ResnetBlock:
    return ResnetBlock(in_channels, out_channels, groups, EPS, time_dim=None)
