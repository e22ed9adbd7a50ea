"""The public formulation in eager PyTorch, including its redundant work: the baseline of the rewrites.

Written from SPEC.md 2 to 4. It uses the weights of a loaded checkpoint but none of export/'s computation: the
reference's features are concatenated before the projections for both rows and every frame, the unconditional
rows are then computed again without them, cross-attention is computed in full, every step embeds its
timestep, guidance comes last, and the decoder takes one frame at a time.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...export.checkpoints.checkpoint import Checkpoint
from ...export.graphs import CLIP_MEAN, CLIP_STD
from ...export.networks.layers import Attention
from ...export.networks.motion import MotionModule
from ...export.networks.transformer import SpatialTransformer
from ...export.networks.unet import UNet
from ...runtime.clip.sampler import ddim
from ...runtime.clip.windows import Window

Bank = dict[str, Tensor]  # (rows, tokens, C) for each path of a spatial transformer


class PlainPipeline:
    """Batch rows are (b f), frames varying fastest; b = 2 for guidance, unconditional first."""

    def __init__(self, checkpoint: Checkpoint):
        self.networks = checkpoint

    @torch.no_grad()
    def __call__(
        self,
        image: Tensor,
        clip_image: Tensor,
        pose: Tensor,
        noise: Tensor,
        *,
        steps: int,
        guidance_scale: float,
        windows: list[Window],
    ) -> Tensor:
        """Frames (F,3,H,W) float32 in [0,1], for a guidance_scale above 1.

        image uint8 (1,H,W,3), clip_image uint8 (1,224,224,3), pose uint8 (F,H,W,3), noise (F,4,h,w) float32.
        """
        networks = self.networks
        device = noise.device
        mean, std = (torch.tensor(v, device=device)[:, None, None] for v in (CLIP_MEAN, CLIP_STD))
        embeds = networks.image_encoder((scaled(clip_image) - mean) / std)
        context = torch.stack([torch.zeros_like(embeds), embeds])  # (2, 1, D)
        reference = networks.vae.encode(scaled(image) * 2 - 1)
        bank = self.write_bank(reference, context)
        pose_features = networks.pose_guider(scaled(pose))
        latents = noise
        for step in ddim(networks.config.noise, steps):
            total = torch.zeros(2, *latents.shape, device=device)
            counts = torch.zeros(len(latents), 1, 1, 1, device=device)
            for window in windows:
                rows = self.denoise(
                    latents[window].repeat(2, 1, 1, 1),
                    torch.tensor([float(step.timestep)], device=device),
                    context,
                    pose_features[window].repeat(2, 1, 1, 1),
                    bank,
                )
                total[:, window] += rows.unflatten(0, (2, -1))
                counts[window] += 1
            unconditional, conditional = total / counts
            guided = unconditional + guidance_scale * (conditional - unconditional)
            latents = step.latents * latents + step.prediction * guided
        frames = [networks.vae.decode(frame[None]) for frame in latents]
        return (torch.cat(frames) / 2 + 0.5).clamp(0, 1)

    def write_bank(self, latents: Tensor, context: Tensor) -> Bank:
        """The reference pass, for both rows (SPEC.md 3.1)."""
        bank: Bank = {}
        unet = self.networks.reference_net
        timestep = torch.zeros(1, device=latents.device)
        run_unet(unet, latents.repeat(2, 1, 1, 1), timestep, context, None, bank, read=False)
        return bank

    def denoise(
        self, latents: Tensor, timestep: Tensor, context: Tensor, pose_features: Tensor, bank: Bank
    ) -> Tensor:
        """latents and pose_features (2F, ...), context (2, 1, D) -> (2F, 4, h, w)"""
        unet = self.networks.denoising_unet
        x = run_unet(unet, latents, timestep, context, pose_features, bank, read=True)
        return unet.conv_out(F.silu(unet.conv_norm_out(x)))


def run_unet(
    unet: UNet,
    latents: Tensor,
    timestep: Tensor,
    context: Tensor,
    pose_features: Tensor | None,
    bank: Bank,
    read: bool,
) -> Tensor:
    """SPEC.md 2.3, block by block."""
    rows = latents.shape[0]
    per_row = context.repeat_interleave(rows // context.shape[0], dim=0)
    time = embed(unet, timestep)

    def layer(x: Tensor, block: nn.Module, name: str, i: int) -> Tensor:
        x = resnet(block.resnets[i], x, time)
        if hasattr(block, "attentions") and i < len(block.attentions):
            x = transformer(block.attentions[i], x, per_row, bank, f"{name}.attentions.{i}", read)
        if hasattr(block, "motion_modules") and i < len(block.motion_modules):
            x = motion(block.motion_modules[i], x, context.shape[0])
        return x

    x = unet.conv_in(latents)
    if pose_features is not None:
        x = x + pose_features
    skips = [x]
    for level, block in enumerate(unet.down_blocks):
        for i in range(len(block.resnets)):
            x = layer(x, block, f"down_blocks.{level}", i)
            skips.append(x)
        if hasattr(block, "downsamplers"):
            x = block.downsamplers[0].conv(x)
            skips.append(x)
    x = layer(x, unet.mid_block, "mid_block", 0)
    x = resnet(unet.mid_block.resnets[1], x, time)
    for level, block in enumerate(unet.up_blocks):
        for i in range(len(block.resnets)):
            x = layer(torch.cat([x, skips.pop()], dim=1), block, f"up_blocks.{level}", i)
        if hasattr(block, "upsamplers"):
            x = F.interpolate(x, size=skips[-1].shape[2:], mode="nearest")
            x = block.upsamplers[0].conv(x)
    return x


def embed(unet: UNet, timestep: Tensor) -> Tensor:
    half = unet.conv_in.out_channels // 2
    angles = timestep[:, None] * torch.exp(
        -math.log(10000) * torch.arange(half, device=timestep.device) / half
    )
    x = torch.cat([angles.cos(), angles.sin()], dim=1)
    return unet.time_embedding.linear_2(F.silu(unet.time_embedding.linear_1(x)))


def resnet(block: nn.Module, x: Tensor, time: Tensor) -> Tensor:
    h = block.conv1(F.silu(block.norm1(x)))
    h = h + block.time_emb_proj(F.silu(time))[:, :, None, None]
    h = block.conv2(F.silu(block.norm2(h)))
    return (block.conv_shortcut(x) if hasattr(block, "conv_shortcut") else x) + h


def transformer(
    module: SpatialTransformer, x: Tensor, context: Tensor, bank: Bank, name: str, read: bool
) -> Tensor:
    """One spatial transformer that writes to or reads from the bank (SPEC.md 3.2, 3.3)."""
    block, size = module.transformer_blocks[0], x.shape[2:]
    tokens = module.proj_in(module.norm(x)).flatten(2).transpose(1, 2)
    normed = block.norm1(tokens)
    if not read:
        bank[name] = normed
        attended = attention(block.attn1, normed, normed)
    else:
        rows = normed.shape[0] // 2
        reference = bank[name].repeat_interleave(rows, dim=0)
        attended = attention(block.attn1, normed, torch.cat([normed, reference], dim=1))
        attended[:rows] = attention(block.attn1, normed[:rows], normed[:rows])
    tokens = tokens + attended
    tokens = tokens + attention(block.attn2, block.norm2(tokens), context)
    tokens = tokens + block.ff(block.norm3(tokens))
    return x + module.proj_out(tokens.transpose(1, 2).unflatten(2, size))


def motion(module: MotionModule, x: Tensor, runs: int) -> Tensor:
    """One motion module, over `runs` sequences of frames (SPEC.md 2.5)."""
    temporal, size = module.temporal_transformer, x.shape[2:]
    frames = x.shape[0] // runs
    tokens = temporal.proj_in(temporal.norm(x).flatten(2).transpose(1, 2))  # (b f, d, C)
    for block in temporal.transformer_blocks:
        for attend, norm in zip(block.attention_blocks, block.norms, strict=True):
            over_frames = norm(tokens).unflatten(0, (runs, frames)).transpose(1, 2)
            over_frames = over_frames.flatten(0, 1)  # (b d, f, C)
            over_frames = over_frames + attend.pos_encoder.pe[:, :frames]
            over_frames = attention(attend, over_frames, over_frames)
            tokens = tokens + over_frames.unflatten(0, (runs, -1)).transpose(1, 2).flatten(0, 1)
        tokens = tokens + block.ff(block.ff_norm(tokens))
    return x + temporal.proj_out(tokens).transpose(1, 2).unflatten(2, size)


def attention(module: Attention, x: Tensor, context: Tensor) -> Tensor:
    query, key, value = (
        tensor.unflatten(2, (module.heads, -1)).transpose(1, 2)
        for tensor in (module.to_q(x), module.to_k(context), module.to_v(context))
    )
    attended = F.scaled_dot_product_attention(query, key, value)
    return module.to_out[0](attended.transpose(1, 2).flatten(2))


def scaled(pixels: Tensor) -> Tensor:
    """uint8 (n, H, W, 3) -> float32 (n, 3, H, W) in [0, 1]"""
    return pixels.permute(0, 3, 1, 2).float() / 255
