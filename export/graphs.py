"""The graphs of a bundle as torch modules, with the inputs and outputs that engines/contract.py specifies.

Pixels enter and leave as uint8 NHWC; scaling, normalisation, clamping and rounding are part of the graphs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..engines import contract
from .checkpoints.checkpoint import Checkpoint
from .networks.transformer import Reference
from .networks.unet import DenoisingUNet, ReferenceNet

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def graph_modules(checkpoint: Checkpoint) -> dict[str, nn.Module]:
    """All graphs by their names in the contract. They share the checkpoint's weights."""
    unet = checkpoint.denoising_unet
    return {
        contract.IMAGE_ENCODER: ImageEncoderGraph(checkpoint.image_encoder),
        contract.VAE_ENCODER: VAEEncoderGraph(checkpoint.vae),
        contract.REFERENCE_NET: ReferenceNetGraph(checkpoint.reference_net, unet),
        contract.POSE_GUIDER: PoseGuiderGraph(checkpoint.pose_guider),
        contract.TIME_EMBEDDING: TimeEmbeddingGraph(unet),
        contract.DENOISING_UNET: DenoisingUNetGraph(unet),
        contract.DENOISING_UNET_CONDITIONAL: ConditionalUNetGraph(unet),
        **{graph: CachingUNetGraph(unet) for graph in contract.CACHING.values()},
        **{graph: ShallowUNetGraph(unet) for graph in contract.SHALLOW.values()},
        contract.VAE_DECODER: VAEDecoderGraph(checkpoint.vae, rounded=not checkpoint.config.reference_size),
    }


class Graph(nn.Module):
    """Base of the graphs that wrap a single network."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network
        self.dtype = next(network.parameters()).dtype


class ImageEncoderGraph(Graph):
    def __init__(self, network: nn.Module):
        super().__init__(network)
        for name, values in (("mean", CLIP_MEAN), ("std", CLIP_STD)):
            self.register_buffer(name, torch.tensor(values)[None, :, None, None], persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        return self.network(((pixels(image) / 255 - self.mean) / self.std).to(self.dtype))


class VAEEncoderGraph(Graph):
    def forward(self, image: Tensor) -> Tensor:
        return self.network.encode((pixels(image) / 255 * 2 - 1).to(self.dtype))


class ReferenceNetGraph(nn.Module):
    """ReferenceNet, then the denoising UNet's projections of its features."""

    def __init__(self, reference_net: ReferenceNet, denoising_unet: DenoisingUNet):
        super().__init__()
        self.reference_net, self.denoising_unet = reference_net, denoising_unet

    def forward(self, latents: Tensor, image_embeds: Tensor) -> tuple[Tensor, ...]:
        features = self.reference_net(latents, image_embeds)
        reference = self.denoising_unet.project_reference(features, image_embeds)
        return tuple(tensor for block in reference for tensor in block)


class PoseGuiderGraph(Graph):
    def forward(self, frame: Tensor) -> Tensor:
        return self.network((pixels(frame) / 255).to(self.dtype))


class TimeEmbeddingGraph(Graph):
    def forward(self, timestep: Tensor) -> Tensor:
        return self.network.time_row(timestep)


class ConditionalUNetGraph(Graph):
    def forward(
        self, latents: Tensor, num_frames: Tensor, time_row: Tensor, pose_features: Tensor, *reference: Tensor
    ) -> Tensor:
        return self.network(latents, num_frames, time_row, pose_features, by_block(reference))


class DenoisingUNetGraph(Graph):
    def forward(
        self,
        latents: Tensor,
        num_frames: Tensor,
        time_row: Tensor,
        pose_features: Tensor,
        *reference_and_scale: Tensor,
    ) -> Tensor:
        *reference, guidance_scale = reference_and_scale
        blocks = by_block(tuple(reference))
        return self.network(latents, num_frames, time_row, pose_features, blocks, guidance_scale)


class CachingUNetGraph(Graph):
    """Both variants; the one with guidance is given a scale after the reference."""

    def forward(
        self,
        latents: Tensor,
        num_frames: Tensor,
        time_row: Tensor,
        pose_features: Tensor,
        *reference_and_scale: Tensor,
    ) -> tuple[Tensor, Tensor]:
        found: tuple[Tensor, Tensor] = self.network.with_deep_features(
            latents, num_frames, time_row, pose_features, *reference_and_guidance(reference_and_scale)
        )
        return found


class ShallowUNetGraph(Graph):
    """Both variants of the last layer, which reads the deep features of the last two whole runs."""

    def forward(
        self,
        deep_features: Tensor,
        deep_features_before: Tensor,
        extrapolation: Tensor,
        latents: Tensor,
        num_frames: Tensor,
        time_row: Tensor,
        pose_features: Tensor,
        *reference_and_scale: Tensor,
    ) -> Tensor:
        change = deep_features - deep_features_before
        deep = deep_features + extrapolation.to(change.dtype) * change
        prediction: Tensor = self.network.from_deep_features(
            deep, latents, num_frames, time_row, pose_features, *reference_and_guidance(reference_and_scale)
        )
        return prediction


def reference_and_guidance(tensors: tuple[Tensor, ...]) -> tuple[list[Reference], Tensor | None]:
    """The reference, three tensors for each block, and the guidance scale if there is one more."""
    reference, scale = tensors[: len(tensors) // 3 * 3], tensors[len(tensors) // 3 * 3 :]
    return by_block(reference), scale[0] if scale else None


class VAEDecoderGraph(Graph):
    """Frames of 0 to 255: rounded to uint8, or in float32 for frames that are resized before."""

    def __init__(self, network: nn.Module, *, rounded: bool):
        super().__init__(network)
        self.rounded = rounded

    def forward(self, latents: Tensor) -> Tensor:
        decoded = self.network.decode(latents).float()
        frames = (decoded / 2 + 0.5).clamp(0, 1) * 255
        if self.rounded:
            return frames.round().permute(0, 2, 3, 1).to(torch.uint8)
        return frames.permute(0, 2, 3, 1)


def pixels(image: Tensor) -> Tensor:
    """uint8 (n, H, W, 3) -> float32 (n, 3, H, W), still 0 to 255"""
    return image.float().permute(0, 3, 1, 2)  # cast first: TensorRT accepts uint8 only in casts


def by_block(tensors: tuple[Tensor, ...]) -> list[Reference]:
    return [Reference(*tensors[i : i + 3]) for i in range(0, len(tensors), 3)]
