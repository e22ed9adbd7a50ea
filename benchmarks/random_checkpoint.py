"""Random weights, as files in the public layout or as networks in memory: speed and memory are those of real
weights, the frames are noise.

python -m animate_rt.benchmarks.random_checkpoint sd15 FOLDER
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor

from ..engines.model import ModelConfig
from ..export.checkpoints.checkpoint import Checkpoint, positional_encodings
from ..export.checkpoints.families import UNET, V2_MOTION, V2_NOISE
from ..export.checkpoints.settings import model_config
from ..export.checkpoints.weights import assign
from ..export.networks.image_encoder import ImageEncoder
from ..export.networks.pose_guider import PoseGuider
from ..export.networks.unet import DenoisingUNet, ReferenceNet
from ..export.networks.vae import VAE

Config = dict[str, Any]


def unet(widths: list[int], layers: int, heads: int, context: int, groups: int = 32) -> Config:
    """A UNet2DConditionModel config with attention at every level but the lowest, as in SD 1.5."""
    levels = len(widths)
    return {
        "_class_name": "UNet2DConditionModel",
        "act_fn": "silu",
        "attention_head_dim": heads,
        "block_out_channels": widths,
        "center_input_sample": False,
        "cross_attention_dim": context,
        "down_block_types": ["CrossAttnDownBlock2D"] * (levels - 1) + ["DownBlock2D"],
        "downsample_padding": 1,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "in_channels": 4,
        "layers_per_block": layers,
        "mid_block_scale_factor": 1,
        "norm_eps": 1e-05,
        "norm_num_groups": groups,
        "out_channels": 4,
        "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * (levels - 1),
    }


def vae(widths: list[int], layers: int, groups: int = 32) -> Config:
    return {
        "_class_name": "AutoencoderKL",
        "act_fn": "silu",
        "block_out_channels": widths,
        "down_block_types": ["DownEncoderBlock2D"] * len(widths),
        "in_channels": 3,
        "latent_channels": 4,
        "layers_per_block": layers,
        "norm_num_groups": groups,
        "out_channels": 3,
        "up_block_types": ["UpDecoderBlock2D"] * len(widths),
    }


def image_encoder(width: int, layers: int, heads: int, patch: int, projection: int) -> Config:
    return {
        "model_type": "clip_vision_model",
        "hidden_act": "quick_gelu",
        "hidden_size": width,
        "image_size": 224,
        "intermediate_size": 4 * width,
        "layer_norm_eps": 1e-05,
        "num_attention_heads": heads,
        "num_channels": 3,
        "num_hidden_layers": layers,
        "patch_size": patch,
        "projection_dim": projection,
    }


@dataclass(frozen=True)
class Size:
    """The public configs of one model, and its settings that have no config file."""

    unet: Config
    vae: Config
    image_encoder: Config
    pose_channels: tuple[int, ...]
    motion_heads: int


SIZES = {
    "tiny": Size(  # the smallest with attention heads wide enough for TensorRT's fused operator
        unet([32, 32, 64, 64], 1, 2, 32),
        vae([32, 32, 32, 32], 1),
        image_encoder(32, 2, 2, 32, 32),
        (8, 16, 32, 48),
        motion_heads=2,
    ),
    "mid": Size(
        unet([128, 256, 256, 256], 1, 8, 256),
        vae([64, 128, 128, 128], 1),
        image_encoder(256, 4, 8, 32, 256),
        (16, 32, 64, 128),
        motion_heads=8,
    ),
    "sd15": Size(
        unet([320, 640, 1280, 1280], 2, 8, 768),
        vae([128, 256, 512, 512], 2),
        image_encoder(1024, 24, 16, 14, 768),
        (16, 32, 96, 256),
        motion_heads=8,
    ),
}


def write_random_checkpoint(
    folder: Path, size: str, *, seed: int = 0, dtype: torch.dtype = torch.float16
) -> None:
    """Write a checkpoint directory of one of SIZES, and its inference.yaml; the same seed gives the same
    bytes."""
    networks = empty_networks(write_configs(folder, SIZES[size]))
    files = {
        "reference_unet": networks.reference_net,
        "pose_guider": networks.pose_guider,
        "sd-vae-ft-mse/diffusion_pytorch_model": networks.vae,
        "image_encoder/model": networks.image_encoder,
    }
    generator = torch.Generator().manual_seed(seed)
    states = {name: randomised(network.state_dict(), generator, dtype) for name, network in files.items()}
    everything = randomised(networks.denoising_unet.state_dict(), generator, dtype)
    encodings = positional_encodings(networks.denoising_unet)
    everything |= {key: table.to(dtype) for key, table in encodings.items()}
    motion = {key: everything.pop(key) for key in list(everything) if "motion_modules" in key}
    for name, state in {**states, "denoising_unet": everything, "motion_module": motion}.items():
        save_file(state, folder / f"{name}.safetensors", metadata={"format": "pt"})


def random_networks(size: str, dtype: torch.dtype, *, seed: int = 0) -> Checkpoint:
    """The networks of one of SIZES, made without files, on the GPU if there is one. Weights are rounded to
    float16 whatever the dtype. On the CPU a seed gives the weights of the files, on a GPU others."""
    with tempfile.TemporaryDirectory(prefix="animate-rt-configs-") as folder:
        networks = empty_networks(write_configs(Path(folder), SIZES[size]))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator(device).manual_seed(seed)
    unet = networks.denoising_unet
    encodings = {key: table.to(device) for key, table in positional_encodings(unet).items()}
    for network in (
        networks.reference_net,
        networks.pose_guider,
        networks.vae,
        networks.image_encoder,
        unet,
    ):
        state = randomised(network.state_dict(), generator, torch.float16)
        assign(network, state | encodings if network is unet else state, dtype, size)
    return networks


def write_configs(folder: Path, shape: Size) -> ModelConfig:
    """Write the config files of a checkpoint, and return the model config they describe."""
    configs = {UNET[0]: shape.unet, "sd-vae-ft-mse": shape.vae, "image_encoder": shape.image_encoder}
    for place, config in configs.items():
        (folder / place).mkdir(parents=True, exist_ok=True)
        (folder / place / "config.json").write_text(json.dumps(config, indent=1))
    (folder / "inference.yaml").write_text(yaml.safe_dump(inference_config(shape.motion_heads)))
    unet_file, vae_file, encoder_file = (folder / place / "config.json" for place in configs)
    return model_config(
        unet_file,
        vae_file,
        encoder_file,
        [folder / "inference.yaml"],
        pose_channels=shape.pose_channels,
        max_frames=None,
    )


def empty_networks(model: ModelConfig) -> Checkpoint:
    with torch.device("meta"):
        return Checkpoint(
            model,
            DenoisingUNet(model),
            ReferenceNet(model),
            PoseGuider(model.pose_channels, model.unet.widths[0]),
            VAE(model.vae),
            ImageEncoder(model.image_encoder),
            weights={},
        )


def inference_config(motion_heads: int) -> Config:
    """The public v2 settings, with another number of motion heads."""
    module = {**V2_MOTION["motion_module_kwargs"], "num_attention_heads": motion_heads}
    return {
        "unet_additional_kwargs": {**V2_MOTION, "motion_module_kwargs": module},
        "noise_scheduler_kwargs": V2_NOISE,
    }


def randomised(
    shapes: dict[str, Tensor], generator: torch.Generator, dtype: torch.dtype
) -> dict[str, Tensor]:
    """Random weights that keep activations near unit size, so that half precision and accuracy figures are
    meaningful: norm weights near one, matrices scaled by their fan-in."""
    state = {}
    for key, shape in shapes.items():
        values = torch.empty(shape.shape, dtype=torch.float32, device=generator.device)
        values.normal_(generator=generator)
        if "norm" in key and key.endswith("weight"):
            values = 1 + 0.1 * values
        elif values.dim() > 1:
            values *= values[0].numel() ** -0.5
        else:
            values *= 0.1
        state[key] = values.to(dtype)
    return state


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("size", choices=SIZES)
    arguments.add_argument("folder", type=Path)
    options = arguments.parse_args()
    write_random_checkpoint(options.folder, options.size)
