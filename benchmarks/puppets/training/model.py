"""The small model: the shapes of its networks, a differentiable prediction, and its checkpoint.

Training uses the modules of export/. The code here only lets a batch hold many references and timesteps,
where a clip at run time has one of each at a time.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor, nn

from ....atomic import atomic
from ....engines.model import ModelConfig
from ....errors import CheckpointError
from ....export import load_checkpoint
from ....export.checkpoints.families import UNET, V2_NOISE
from ....export.checkpoints.settings import (
    Settings,
    image_encoder_config,
    motion_config,
    noise_config,
    unet_config,
    vae_config,
)
from ....export.graphs import CLIP_MEAN, CLIP_STD
from ....export.networks.image_encoder import ImageEncoder
from ....export.networks.layers import Attention
from ....export.networks.motion import MotionModule
from ....export.networks.pose_guider import PoseGuider
from ....export.networks.transformer import Reference, read_reference
from ....export.networks.unet import DenoisingUNet, Layer, ReferenceNet
from ....export.networks.vae import VAE
from ...random_checkpoint import image_encoder, inference_config, unet, vae

State = dict[str, Tensor]

SHIPPED = Path(__file__).parents[3] / "weights"
WEIGHTS, FEW_STEP_WEIGHTS = SHIPPED / "puppets", SHIPPED / "puppets-few-steps"  # checkpoint directories

SIZE = 128  # pixels along a side
LATENT_CHANNELS = 16  # fewer channels blur: a patch of 8 x 8 pixels may have several edges and colours
HEADS = 4  # so heads are at least 16 wide and a multiple of 8
POSE_CHANNELS = (16, 32, 64, 96)
CONTEXT = 128

LATENTS = {"in_channels": LATENT_CHANNELS, "out_channels": LATENT_CHANNELS}
UNET_CONFIG = {**unet([96, 96, 64, 64], 1, HEADS, CONTEXT, groups=16), **LATENTS}
# At least four channels per group: with fewer, normalisation removes the differences between colours.
VAE_CONFIG = {**vae([32, 64, 96, 96], 1, groups=8), "latent_channels": LATENT_CHANNELS}
IMAGE_ENCODER_CONFIG = {**image_encoder(96, 2, HEADS, 8, CONTEXT), "image_size": 64}
INFERENCE_CONFIG = inference_config(HEADS)
SAMPLING = {"steps": 10, "guidance_scale": 2.0}
FEW_STEPS_SAMPLING = {"steps": 5, "guidance_scale": 1.0}


def small_config() -> ModelConfig:
    motion = Settings(INFERENCE_CONFIG["unet_additional_kwargs"], "motion modules")
    return ModelConfig(
        unet=unet_config(Settings(UNET_CONFIG, "UNet")),
        motion=motion_config(motion, len(UNET_CONFIG["block_out_channels"]), None),
        pose_channels=POSE_CHANNELS,
        vae=vae_config(Settings({**VAE_CONFIG, "scaling_factor": 1.0}, "VAE")),
        image_encoder=image_encoder_config(Settings(IMAGE_ENCODER_CONFIG, "image encoder")),
        noise=noise_config(Settings(V2_NOISE, "noise")),
    )


class SmallModel(nn.Module):
    """All networks but the VAE. They work on latents with unit standard deviation."""

    def __init__(self) -> None:
        super().__init__()
        config = small_config()
        self.denoising_unet = DenoisingUNet(config)
        self.reference_net = ReferenceNet(config)
        self.pose_guider = PoseGuider(POSE_CHANNELS, config.unet.widths[0])
        self.image_encoder = ImageEncoder(config.image_encoder)
        for name, values in (("image_mean", CLIP_MEAN), ("image_std", CLIP_STD)):
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)
        # Zero weights: poses and other frames have no effect at the start, as in the paper.
        for layer in (self.pose_guider.conv_out, *(module.proj_out for module in self.temporal())):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        nn.init.normal_(self.image_encoder.vision_model.embeddings.class_embedding, std=0.02)

    def temporal(self) -> list[nn.Module]:
        modules = self.denoising_unet.modules()
        return [module.temporal_transformer for module in modules if isinstance(module, MotionModule)]

    def embed(self, images: Tensor) -> Tensor:
        """Images (n, 3, 64, 64) in [0, 1] -> embeddings (n, D)"""
        # The encoder takes one image; vmap applies it to each of a batch.
        normal = (images - self.image_mean) / self.image_std
        return torch.vmap(lambda image: self.image_encoder(image[None])[0])(normal)

    def forward(
        self,
        latents: Tensor,
        timesteps: Tensor,
        poses: Tensor,
        reference: Tensor | None,
        images: Tensor,
        frames: int = 1,
        *,
        motion: bool,
    ) -> Tensor:
        """Velocity of n clips of `frames` frames each, (n * frames, C, h, w).

        latents (n * frames, C, h, w), timesteps (n * frames,), poses (n * frames, 3, H, W) in [0, 1],
        reference (n, C, h, w) latents, images (n, 3, 64, 64) in [0, 1]. Without a reference the prediction is
        unconditional; without `motion` frames do not depend on each other.
        """
        embeds = self.embed(images)
        references = None
        if reference is None:
            embeds = torch.zeros_like(embeds)
        else:
            features = self.reference_net(reference, embeds)
            references = self.denoising_unet.project_reference(features, embeds)
        return predict(
            self.denoising_unet,
            latents,
            timesteps,
            self.pose_guider(poses),
            references,
            embeds,
            frames,
            motion=motion,
        )


def predict(
    unet: DenoisingUNet,
    latents: Tensor,
    timesteps: Tensor,
    pose_features: Tensor,
    references: list[Reference] | None,
    embeds: Tensor,
    frames: int,
    *,
    motion: bool,
) -> Tensor:
    """`DenoisingUNet.forward` for n clips at once: each clip has its own reference, each frame its own
    timestep."""
    rows = latents.shape[0]
    with torch.autocast(latents.device.type, enabled=False):
        time_rows = unet.time_row(timesteps)
    shifts = iter(time_rows.split(unet.resnet_widths, dim=1))
    per_frame = iter(
        [Reference(*(x.repeat_interleave(frames, dim=0) for x in block)) for block in references or ()]
    )
    mask = torch.zeros(frames)

    def run(x: Tensor, layer: Layer) -> Tensor:
        x = layer.resnet(x, next(shifts))
        if layer.attention is not None and references is not None:
            x = layer.attention(x, *read_reference(layer.attention, next(per_frame), rows, guided=False))
        elif layer.attention is not None:
            cross = layer.attention.block.attn2.to_one_token(embeds).repeat_interleave(frames, dim=0)
            x = layer.attention(x, alone, cross)
        if layer.motion is not None and motion:
            x = layer.motion(x, mask.to(x.dtype))
        return x

    x = unet.walk(unet.conv_in(latents) + pose_features, run)
    return unet.conv_out(nn.functional.silu(unet.conv_norm_out(x))).float()


def alone(attention: Attention, normed: Tensor) -> Tensor:
    """Self-attention without a reference."""
    return attention(normed)


def read_checkpoint(folder: Path) -> tuple[SmallModel, VAE]:
    """The networks of a checkpoint that `write_checkpoint` has written, on the default device. Raises
    AnimateError if it cannot be read, and CheckpointError if it is not of the small model."""
    checkpoint, model, expected = load_checkpoint(folder), SmallModel(), small_config()
    if replace(checkpoint.config, sampling=expected.sampling) != expected:
        raise CheckpointError(
            f"{folder}: expected networks of the same sizes as in weights/puppets, found others; "
            "start from a checkpoint that this command has written"
        )
    for name, network in model.named_children():
        network.load_state_dict(getattr(checkpoint, name).state_dict())
    return model, checkpoint.vae.to(torch.get_default_device())


def write_checkpoint(folder: Path, model: SmallModel, autoencoder: VAE, scaling_factor: float) -> None:
    """Write a checkpoint in the public layout in float16; `folder` appears when it is complete."""
    configs: dict[str, dict[str, Any]] = {
        UNET[0]: UNET_CONFIG,
        "sd-vae-ft-mse": {**VAE_CONFIG, "scaling_factor": scaling_factor},
        "image_encoder": IMAGE_ENCODER_CONFIG,
    }
    spatial, motion = halves(model)
    files = {
        "denoising_unet": spatial,
        "motion_module": motion,
        "reference_unet": model.reference_net.state_dict(),
        "pose_guider": model.pose_guider.state_dict(),
        "image_encoder/model": model.image_encoder.state_dict(),
        "sd-vae-ft-mse/diffusion_pytorch_model": autoencoder.state_dict(),
    }
    with atomic(folder) as temporary:
        for place, config in configs.items():
            (temporary / place).mkdir(parents=True, exist_ok=True)
            (temporary / place / "config.json").write_text(json.dumps(config, indent=1))
        write_files(temporary, files, {**INFERENCE_CONFIG, "sampling": SAMPLING})


def write_few_steps(folder: Path, model: SmallModel) -> None:
    """Write the files in which the few-step checkpoint differs from `puppets`, which is its base."""
    spatial, _ = halves(model)
    with atomic(folder) as temporary:
        temporary.mkdir(parents=True)
        write_files(temporary, {"denoising_unet": spatial}, {"sampling": FEW_STEPS_SAMPLING})


def halves(model: SmallModel) -> tuple[State, State]:
    """The weights of the denoising UNet without its motion modules, and those of the motion modules."""
    spatial = model.denoising_unet.state_dict()
    motion = {key: spatial.pop(key) for key in list(spatial) if "motion_modules" in key}
    return spatial, motion


def write_files(folder: Path, files: dict[str, State], inference: dict[str, Any]) -> None:
    (folder / "inference.yaml").write_text(yaml.safe_dump(inference))
    for name, state in files.items():
        half = {key: value.detach().cpu().half().contiguous() for key, value in state.items()}
        save_file(half, folder / f"{name}.safetensors")
