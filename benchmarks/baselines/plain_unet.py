"""Graphs with one exact rewrite undone, to measure the gain from that rewrite.

Every variant of the denoising UNet takes the same inputs, including those that a rewrite makes unnecessary,
and gives the same prediction.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...engines.contract import Contract, TensorSpec
from ...export.checkpoints.checkpoint import Checkpoint
from ...export.networks.layers import Attention, attend
from ...export.networks.transformer import Reference, SpatialTransformer, with_rows_of
from ...export.networks.unet import HIDDEN, DenoisingUNet, Layer
from ...export.networks.vae import VAE
from .plain import PlainPipeline
from .public_parts import bank_names

SPLIT_GUIDANCE, KEYS_AND_VALUES, SHARED_BEGINNING, CROSS_ATTENTION, TIME_TABLE, GUIDANCE_INSIDE = REWRITES = (
    "the unconditional half never sees the reference",
    "keys and values cached after projection",
    "both halves computed once up to the first attention",
    "cross-attention to one token as a constant",
    "time embedding as a table",
    "guidance inside the graph",
)


def variant_contract(contract: Contract, context_dim: int, undone: str | None) -> Contract:
    """Inputs and outputs of a variant, derived from the contract of the denoising UNet."""
    by_name = {spec.name: spec for spec in contract.inputs}
    dtype = by_name["pose_features"].dtype
    features = []
    for spec in contract.inputs:
        if spec.name.startswith("key_"):
            _, heads, tokens, width = spec.shape
            features.append(
                TensorSpec(spec.name.replace("key", "feature"), dtype, (1, tokens, heads * width))
            )
    more = (TensorSpec("timestep", "float32", (1,)), TensorSpec("image_embeds", dtype, (1, context_dim)))
    (prediction,) = contract.outputs
    if undone == GUIDANCE_INSIDE:
        prediction = replace(prediction, shape=(2 * prediction.shape[0], *prediction.shape[1:]))
    return Contract((*contract.inputs, *more, *features), (prediction,))


class PlainUNet(nn.Module):
    """The denoising UNet without the rewrite `undone`, one of REWRITES; None has all, as the product."""

    def __init__(self, network: DenoisingUNet, undone: str | None):
        super().__init__()
        self.network, self.undone = network, undone

    def forward(
        self,
        latents: Tensor,
        num_frames: Tensor,
        time_row: Tensor,
        pose_features: Tensor,
        *others: Tensor,
    ) -> Tensor:
        """As DenoisingUNet.forward; `others` are key, value and cross of each block, guidance_scale,
        timestep, image_embeds, and each block's feature (1, tokens, C)."""
        network, frames, dtype = self.network, latents.shape[0], pose_features.dtype
        blocks = (len(others) - 3) // 4
        references = [Reference(*others[3 * i : 3 * i + 3]) for i in range(blocks)]
        guidance_scale, timestep, image_embeds = others[3 * blocks : 3 * blocks + 3]
        references_and_features = zip(references, others[3 * blocks + 3 :], strict=True)
        if self.undone == TIME_TABLE:
            time_row = network.time_row(timestep)
        shifts = iter(time_row.split(network.resnet_widths, dim=1))
        visible = torch.arange(frames, dtype=torch.int32) < num_frames
        mask = torch.where(visible, 0.0, HIDDEN).to(dtype)
        x = network.conv_in(latents.to(dtype)) + pose_features
        if self.undone == SHARED_BEGINNING:
            doubled = torch.cat([latents, latents]).to(dtype)
            x = network.conv_in(doubled) + torch.cat([pose_features, pose_features])

        def run(x: Tensor, layer: Layer) -> Tensor:
            x = layer.resnet(x, next(shifts))
            if layer.attention is not None:
                x = self.attention(layer.attention, x, references_and_features, image_embeds, frames)
            if layer.motion is not None:
                x = layer.motion(x, mask)
            return x

        x = network.walk(x, run)
        prediction = network.conv_out(F.silu(network.conv_norm_out(x))).float()
        if self.undone == GUIDANCE_INSIDE:
            return prediction
        unconditional, conditional = prediction.chunk(2)
        return unconditional + guidance_scale * (conditional - unconditional)

    def attention(
        self,
        module: SpatialTransformer,
        x: Tensor,
        references_and_features: Iterator[tuple[Reference, Tensor]],
        image_embeds: Tensor,
        frames: int,
    ) -> Tensor:
        """As SpatialTransformer.forward reading the reference, without the rewrite `undone`."""
        block = module.block
        reference, feature = next(references_and_features)
        tokens = module.proj_in(module.norm(x)).flatten(2).transpose(1, 2)
        attended = self.self_attention(block.attn1, block.norm1(tokens), reference, feature, frames)
        tokens = with_rows_of(attended, tokens) + attended
        if self.undone == CROSS_ATTENTION:
            context = torch.cat([torch.zeros_like(image_embeds), image_embeds])[:, None]
            context = context.repeat_interleave(frames, dim=0)
            query = block.attn2.query(block.norm2(tokens))
            keys_values = block.attn2.key(context), block.attn2.value(context)
            tokens = tokens + block.attn2.output(attend(query, *keys_values))
        else:
            bias = block.attn2.to_out[0].bias[None]
            cross = torch.cat([bias.expand(frames, -1), reference.cross.expand(frames, -1)])
            tokens = tokens + cross[:, None]
        tokens = tokens + block.ff(block.norm3(tokens))
        y = module.proj_out(tokens.transpose(1, 2).unflatten(2, x.shape[2:]))
        return with_rows_of(y, x) + y

    def self_attention(
        self, attention: Attention, normed: Tensor, reference: Reference, feature: Tensor, frames: int
    ) -> Tensor:
        """(F or 2F, tokens, C) -> (2F, tokens, C), unconditional half first."""
        project = attention.query, attention.key, attention.value
        if self.undone == KEYS_AND_VALUES:
            own, conditional = halves(normed, frames)
            context = torch.cat([conditional, feature.expand(frames, -1, -1)], dim=1)
            without = tuple(projection(own) for projection in project)
            query, key, value = attention.query(conditional), attention.key(context), attention.value(context)
        else:
            pairs = [halves(projection(normed), frames) for projection in project]
            without, (query, key, value) = zip(*pairs, strict=True)
            if self.undone == SPLIT_GUIDANCE:  # attend to the reference for all rows, and use only half
                query, key, value = (torch.cat(pair) for pair in pairs)
            key, value = after(key, reference.key), after(value, reference.value)
        read = attend(query, key, value)[-frames:]
        return attention.output(torch.cat([attend(*without), read]))


def halves(x: Tensor, frames: int) -> tuple[Tensor, Tensor]:
    """Unconditional and conditional rows; F rows stand for both halves, as long as these are equal."""
    unconditional, conditional = (x if x.shape[0] > frames else torch.cat([x, x])).chunk(2)
    return unconditional, conditional


def after(own: Tensor, reference: Tensor) -> Tensor:
    """The reference's keys or values after each row's own."""
    return torch.cat([own, reference.expand(own.shape[0], -1, -1, -1)], dim=2)


class PlainReference(nn.Module):
    """The reference pass over both rows and the whole UNet, with the outputs of `reference_net`."""

    def __init__(self, checkpoint: Checkpoint):
        super().__init__()
        self.pipeline, self.names = PlainPipeline(checkpoint), bank_names(checkpoint)
        self.networks = nn.ModuleList([checkpoint.reference_net, checkpoint.denoising_unet])

    def forward(self, latents: Tensor, image_embeds: Tensor) -> tuple[Tensor, ...]:
        context = torch.stack([torch.zeros_like(image_embeds), image_embeds])
        bank = self.pipeline.write_bank(latents, context)
        features = [bank[name][1:] for name in self.names]
        reference = self.pipeline.networks.denoising_unet.project_reference(features, image_embeds)
        return tuple(tensor for block in reference for tensor in block)


class PlainDecoder(nn.Module):
    """The decoder up to float32 (n, 3, H, W) in [-1, 1]; the host converts it to pixels."""

    def __init__(self, vae: VAE):
        super().__init__()
        self.network = vae

    def forward(self, latents: Tensor) -> Tensor:
        return self.network.decode(latents).float()
