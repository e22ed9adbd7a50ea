"""ReferenceNet and the denoising UNet (SPEC.md 2.3, 2.7 and 3), written for export.

Both have the same structure, which `UNet.walk` traverses. They differ in what a layer does besides its
resnet: ReferenceNet records the input of every spatial attention; the denoising UNet reads these features
(projected to keys and values beforehand) and runs motion modules.

The denoising UNet has F frames in the batch axis. With guidance there are two halves of F rows, unconditional
first. The halves are equal until the first spatial attention, so only one is computed before it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...engines.model import ModelConfig, MotionConfig, UNetConfig
from .layers import Attention, Downsample, GroupNorm, ResnetBlock, Upsample
from .motion import MotionModule
from .transformer import Reference, SpatialTransformer, TransformerBlock, read_reference, with_rows_of

HIDDEN = -1e4  # added to the scores of padding frames: gives weight 0 after softmax and fits into float16


class Layer(NamedTuple):
    """The modules between two skip connections; absent ones are None."""

    resnet: ResnetBlock
    attention: SpatialTransformer | None
    motion: MotionModule | None


Run = Callable[[Tensor, Layer], Tensor]


class UNet(nn.Module):
    """The UNet of SD 1.5, with motion modules if `motion` is given."""

    def __init__(self, config: UNetConfig, motion: MotionConfig | None):
        super().__init__()
        widths, last = config.widths, len(config.widths) - 1
        self.conv_in = nn.Conv2d(config.latent_channels, widths[0], 3, padding=1)
        self.time_embedding = TimeEmbedding(widths[0])
        self.down_blocks = nn.ModuleList()
        for level, width in enumerate(widths):
            channels = [widths[max(level - 1, 0)], *[width] * (config.layers_per_block - 1)]
            block = Block(config, motion, level, channels)
            if level < last:
                block.downsamplers = nn.ModuleList([Downsample(width, symmetric=True)])
            self.down_blocks.append(block)
        self.mid_block = Block(config, motion, last, [widths[-1]] * 2, middle=True)
        self.up_blocks = nn.ModuleList()
        for level in range(last, -1, -1):
            below, width, skip = widths[min(level + 1, last)], widths[level], widths[max(level - 1, 0)]
            layers = config.layers_per_block
            channels = [below + width, *[2 * width] * (layers - 1), width + skip]
            block = Block(config, motion, level, channels)
            if level > 0:
                block.upsamplers = nn.ModuleList([Upsample(width)])
            self.up_blocks.append(block)

    def walk(self, x: Tensor, run: Run) -> Tensor:
        """Run the down blocks, the middle block and the up blocks; `run` runs one layer."""
        return self.last_layer(self.before_last_layer(x, run), x, run)

    def before_last_layer(self, x: Tensor, run: Run) -> Tensor:
        """Run all layers but the last. Returns the deep features, which the last one reads besides `x`."""
        skips = [x]
        for block in self.down_blocks:
            for layer in block.layers():
                x = run(x, layer)
                skips.append(x)
            for downsample in getattr(block, "downsamplers", ()):
                x = downsample(x)
                skips.append(x)
        for layer in self.mid_block.layers():
            x = run(x, layer)
        for block in self.up_blocks:
            layers = list(block.layers())
            for layer in layers[:-1] if block is self.up_blocks[-1] else layers:
                x = run(torch.cat([x, with_rows_of(x, skips.pop())], dim=1), layer)
            for upsample in getattr(block, "upsamplers", ()):
                x = upsample(x, tuple(skips[-1].shape[2:]))
        return x

    def last_layer(self, deep: Tensor, x: Tensor, run: Run) -> Tensor:
        """Run the last layer on deep features and on what `walk` begins with."""
        *_, layer = self.up_blocks[-1].layers()
        return run(torch.cat([deep, with_rows_of(deep, x)], dim=1), layer)

    def layers(self) -> Iterator[Layer]:
        """All layers in the order in which they run."""
        for block in (*self.down_blocks, self.mid_block, *self.up_blocks):
            yield from block.layers()


class ReferenceNet(UNet):
    """Describes the appearance of the reference image by the inputs of all its spatial attentions.

    The public weights lack the output head. What follows the input of the last attention has no effect on the
    outputs, so the exporter removes it.
    """

    def __init__(self, config: ModelConfig):
        super().__init__(config.unet, motion=None)

    def forward(self, latents: Tensor, image_embeds: Tensor) -> list[Tensor]:
        """latents (1, 4, h, w), image_embeds (1, D) -> one (1, tokens, C) per spatial attention."""
        dtype = self.conv_in.weight.dtype
        time = self.time_embedding(torch.zeros(1, device=latents.device))  # always timestep 0 (SPEC.md 3.1)
        features = []

        def record(attention: Attention, normed: Tensor) -> Tensor:
            features.append(normed)
            return attention(normed)

        def run(x: Tensor, layer: Layer) -> Tensor:
            x = layer.resnet(x, time_shift(layer.resnet, time).to(dtype))
            if layer.attention is not None:
                cross = layer.attention.block.attn2.to_one_token(image_embeds)
                x = layer.attention(x, record, cross)
            return x

        self.walk(self.conv_in(latents.to(dtype)), run)
        return features


class DenoisingUNet(UNet):
    """Predicts the noise or velocity of F consecutive frames from their noisy latents."""

    def __init__(self, config: ModelConfig):
        super().__init__(config.unet, config.motion)
        widths = config.unet.widths
        self.resnet_widths = config.resnet_widths()
        self.conv_norm_out = GroupNorm(config.unet.norm_groups, widths[0], config.unet.norm_eps)
        self.conv_out = nn.Conv2d(widths[0], config.unet.latent_channels, 3, padding=1)

    def forward(
        self,
        latents: Tensor,
        num_frames: Tensor,
        time_row: Tensor,
        pose_features: Tensor,
        reference: list[Reference],
        guidance_scale: Tensor | None = None,
    ) -> Tensor:
        """One prediction per frame, float32.

        latents (F, 4, h, w) float32; num_frames (1,) int32: frames after that many are padding, which no
        other frame attends to; time_row (1, sum of resnet widths) from the method `time_row`; pose_features
        (F, C0, h, w); guidance_scale (1,) float32, or None for the conditional prediction alone.
        """
        shifts = time_row.split(self.resnet_widths, dim=1)
        run = self.runner(num_frames, latents.shape[0], shifts, reference, guidance_scale is not None)
        return self.prediction(self.walk(self.begin(latents, pose_features), run), guidance_scale)

    def with_deep_features(
        self,
        latents: Tensor,
        num_frames: Tensor,
        time_row: Tensor,
        pose_features: Tensor,
        reference: list[Reference],
        guidance_scale: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """As `forward`, and the deep features (F or 2F, C0, h, w)."""
        shifts = time_row.split(self.resnet_widths, dim=1)
        run = self.runner(num_frames, latents.shape[0], shifts, reference, guidance_scale is not None)
        begin = self.begin(latents, pose_features)
        deep = self.before_last_layer(begin, run)
        return self.prediction(self.last_layer(deep, begin, run), guidance_scale), deep

    def from_deep_features(
        self,
        deep: Tensor,
        latents: Tensor,
        num_frames: Tensor,
        time_row: Tensor,
        pose_features: Tensor,
        reference: list[Reference],
        guidance_scale: Tensor | None = None,
    ) -> Tensor:
        """As `forward`, with only the last layer. `reference` is that layer's, if it has an attention."""
        shifts = time_row.split(self.resnet_widths, dim=1)[-1:]
        run = self.runner(num_frames, latents.shape[0], shifts, reference, guidance_scale is not None)
        x = self.last_layer(deep, self.begin(latents, pose_features), run)
        return self.prediction(x, guidance_scale)

    def begin(self, latents: Tensor, pose_features: Tensor) -> Tensor:
        return self.conv_in(latents.to(pose_features.dtype)) + pose_features

    def runner(
        self,
        num_frames: Tensor,
        frames: int,
        shifts: Sequence[Tensor],
        reference: Sequence[Reference],
        guided: bool,
    ) -> Run:
        """Return what runs layers, given the time shifts and references of those that it will run."""
        device = num_frames.device
        padding = torch.arange(frames, dtype=torch.int32, device=device) >= num_frames
        mask = torch.zeros(frames, device=device).masked_fill(padding, HIDDEN).to(shifts[0].dtype)
        remaining, references = iter(shifts), iter(reference)

        def run(x: Tensor, layer: Layer) -> Tensor:
            x = layer.resnet(x, next(remaining))
            if layer.attention is not None:
                x = layer.attention(x, *read_reference(layer.attention, next(references), frames, guided))
            if layer.motion is not None:
                x = layer.motion(x, mask)
            return x

        return run

    def prediction(self, x: Tensor, guidance_scale: Tensor | None) -> Tensor:
        prediction = self.conv_out(F.silu(self.conv_norm_out(x))).float()
        if guidance_scale is None:
            return prediction
        unconditional, conditional = prediction.chunk(2)
        return unconditional + guidance_scale * (conditional - unconditional)

    def project_reference(self, features: list[Tensor], image_embeds: Tensor) -> list[Reference]:
        """Keys and values from ReferenceNet's features, and cross-attention vectors from the embedding."""
        blocks = [layer.attention.block for layer in self.layers() if layer.attention is not None]
        return [
            Reference(
                block.attn1.key(feature),
                block.attn1.value(feature),
                block.attn2.to_one_token(image_embeds),
            )
            for block, feature in zip(blocks, features, strict=True)
        ]

    def time_row(self, timestep: Tensor) -> Tensor:
        """timestep (1,) float32 -> (1, sum of resnet widths): time shifts of all resnets, first to last."""
        time = self.time_embedding(timestep)
        shifts = torch.cat([time_shift(layer.resnet, time) for layer in self.layers()], dim=1)
        return shifts.to(self.conv_in.weight.dtype)


class Block(nn.Module):
    """A down block, an up block or the middle block: the layers of one level."""

    def __init__(
        self,
        config: UNetConfig,
        motion: MotionConfig | None,
        level: int,
        in_channels: list[int],
        middle: bool = False,
    ):
        super().__init__()
        width, groups = config.widths[level], config.norm_groups
        time_dim = 4 * config.widths[0]
        self.resnets = nn.ModuleList(
            [ResnetBlock(channels, width, groups, config.norm_eps, time_dim) for channels in in_channels]
        )
        # The two resnets of the middle block share one attention; elsewhere each resnet has its own.
        count = 1 if middle else len(in_channels)
        if middle or config.attention[level]:
            heads, context_dim = config.heads[level], config.cross_attention_dim
            self.attentions = nn.ModuleList(
                SpatialTransformer(width, groups, TransformerBlock(width, heads, context_dim))
                for _ in range(count)
            )
        if motion is not None and (motion.mid if middle else motion.levels[level]):
            self.motion_modules = nn.ModuleList([MotionModule(width, groups, motion) for _ in range(count)])

    def layers(self) -> Iterator[Layer]:
        attentions = iter(getattr(self, "attentions", ()))
        motions = iter(getattr(self, "motion_modules", ()))
        for resnet in self.resnets:
            yield Layer(resnet, next(attentions, None), next(motions, None))


class TimeEmbedding(nn.Module):
    """Timestep embedding, which every resnet projects. Float32 in networks of any dtype, as it is tiny."""

    def __init__(self, channels: int):
        super().__init__()
        self.channels = channels
        self.linear_1 = nn.Linear(channels, 4 * channels)
        self.linear_2 = nn.Linear(4 * channels, 4 * channels)

    def forward(self, timestep: Tensor) -> Tensor:
        """(1,) float32 -> (1, 4 C0) float32, including the activation that precedes each projection."""
        half = self.channels // 2
        index = torch.arange(half, dtype=torch.float32, device=timestep.device)
        rates = torch.exp(index * (-math.log(10000.0) / half))
        angles = timestep[:, None] * rates
        x = torch.cat([angles.cos(), angles.sin()], dim=1)
        x = linear_float32(self.linear_2, F.silu(linear_float32(self.linear_1, x)))
        return F.silu(x)


def time_shift(resnet: ResnetBlock, time: Tensor) -> Tensor:
    return linear_float32(resnet.time_emb_proj, time)


def linear_float32(layer: nn.Linear, x: Tensor) -> Tensor:
    return F.linear(x, layer.weight.float(), layer.bias.float())
