"""Full-size networks have exactly the public state-dict keys, shapes and totals (SPEC.md 9.1)."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
from animate_rt.benchmarks.random_checkpoint import SIZES
from animate_rt.engines.model import ModelConfig
from animate_rt.export.checkpoints.checkpoint import without_unused
from animate_rt.export.checkpoints.families import GUIDERS, V2_MOTION, V2_NOISE
from animate_rt.export.checkpoints.settings import (
    Settings,
    image_encoder_config,
    motion_config,
    noise_config,
    unet_config,
    vae_config,
)
from animate_rt.export.networks.image_encoder import ImageEncoder
from animate_rt.export.networks.pose_guider import GuidanceEncoder, PoseGuider
from animate_rt.export.networks.unet import DenoisingUNet, ReferenceNet
from animate_rt.export.networks.vae import VAE

KEYS = Path(__file__).parent / "data" / "keys"


@pytest.fixture(scope="module")
def sd15() -> ModelConfig:
    size = SIZES["sd15"]
    return ModelConfig(
        unet=unet_config(Settings(size.unet, "unet")),
        motion=motion_config(Settings(V2_MOTION, "v2"), 4, None),
        pose_channels=size.pose_channels,
        vae=vae_config(Settings(size.vae, "vae")),
        image_encoder=image_encoder_config(Settings(size.image_encoder, "clip")),
        noise=noise_config(Settings(V2_NOISE, "v2")),
    )


@pytest.fixture(scope="module")
def shapes(sd15: ModelConfig) -> dict[str, dict[str, tuple[int, ...]]]:
    """Key -> shape for each network, made on PyTorch's meta device, which takes no memory and no time."""
    with torch.device("meta"):
        networks = {
            "denoising_unet": DenoisingUNet(sd15),
            "reference_unet": ReferenceNet(sd15),
            "pose_guider": PoseGuider(sd15.pose_channels, sd15.unet.widths[0]),
            "guidance_encoder": GuidanceEncoder(sd15.pose_channels, sd15.unet.widths[0]),
            "vae": VAE(sd15.vae),
            "clip_image_encoder": ImageEncoder(sd15.image_encoder),
        }
    return {
        name: {key: tuple(value.shape) for key, value in network.state_dict().items()}
        for name, network in networks.items()
    }


def listed(*files: str) -> dict[str, tuple[int, ...]]:
    lines = [line for file in files for line in (KEYS / file).read_text().splitlines()]
    pairs = [line.split("\t") for line in lines]
    return {key: tuple(int(part) for part in shape.strip("[]").split(",")) for key, shape in pairs}


@pytest.mark.parametrize(
    ("network", "files", "num_keys"),
    [
        ("denoising_unet", ["denoising_unet_2d.txt", "motion_module_v2_maxlen32.txt"], 686 + 588),
        ("reference_unet", ["reference_unet.txt"], 682),
        ("pose_guider", ["pose_guider.txt"], 16),
        ("vae", ["vae_new_names.txt"], 248),
        ("clip_image_encoder", ["clip_image_encoder.txt"], 392),
    ],
)
def test_full_size_keys_and_shapes_are_the_public_ones(
    shapes: Any, network: str, files: list[str], num_keys: int
) -> None:
    assert shapes[network] == listed(*files)
    assert len(shapes[network]) == num_keys


@pytest.mark.parametrize("name", GUIDERS.values())
def test_a_guidance_encoder_has_the_keys_that_the_public_code_runs(shapes: Any, name: str) -> None:
    """35 of 149: the others are known, and left out."""
    public = listed("champ_guidance_encoder.txt")
    assert len(public) == 149
    assert shapes["guidance_encoder"] == without_unused(public, name)
    assert len(shapes["guidance_encoder"]) == 35
    assert sum(map(prod, public.values())) - sum(map(prod, shapes["guidance_encoder"].values())) == 1_562_400


@pytest.mark.parametrize(
    ("network", "part", "total"),
    [
        ("denoising_unet", lambda key: "motion_modules" not in key, 859_520_964),
        ("denoising_unet", lambda key: "motion_modules" in key and not key.endswith(".pe"), 453_209_280),
        ("denoising_unet", lambda key: key.endswith(".pe"), 1_208_320),
        ("reference_unet", None, 859_508_800),
        ("pose_guider", None, 1_086_480),
        ("vae", None, 83_653_863),
        ("clip_image_encoder", None, 303_966_208),
    ],
)
def test_full_size_parameter_counts(shapes: Any, network: str, part: Any, total: int) -> None:
    assert sum(prod(shape) for key, shape in shapes[network].items() if part is None or part(key)) == total


def test_the_time_row_of_sd15_has_the_documented_length(sd15: ModelConfig) -> None:
    assert sum(sd15.resnet_widths()) == 20_160
    assert len(sd15.spatial_attentions()) == 16
