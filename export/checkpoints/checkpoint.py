"""A checkpoint directory in the public layout (SPEC.md 1), loaded into the six networks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import torch
from torch import Tensor

from ...engines.model import ModelConfig
from ...errors import CheckpointError, InputMissing
from ..networks.image_encoder import ImageEncoder
from ..networks.motion import positions
from ..networks.pose_guider import PoseGuider
from ..networks.unet import DenoisingUNet, ReferenceNet
from ..networks.vae import VAE
from .settings import model_config
from .weights import WrongWeights, assign, find_weights, read_weights, sha256_of

# Places of the public layouts, Moore-AnimateAnyone's first and MusePose's after it.
NETWORKS = (".", "MusePose")
UNET = ("stable-diffusion-v1-5/unet", "sd-image-variations-diffusers/unet")
VAE_FOLDER = ("sd-vae-ft-mse",)
IMAGE_ENCODER = ("image_encoder", "sd-image-variations-diffusers/image_encoder")
INFERENCE = "inference.yaml"

REFERENCE_HEAD = ("conv_norm_out.weight", "conv_norm_out.bias", "conv_out.weight", "conv_out.bias")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The networks with their weights, and where these came from."""

    config: ModelConfig
    denoising_unet: DenoisingUNet
    reference_net: ReferenceNet
    pose_guider: PoseGuider
    vae: VAE
    image_encoder: ImageEncoder
    weights: Mapping[str, str]  # SHA-256 of each weight file


def load_checkpoint(
    folder: str | Path,
    inference_config: str | Path | None = None,
    dtype: torch.dtype = torch.float32,
    *,
    base: str | Path | None = None,
) -> Checkpoint:
    """Read a checkpoint directory; widths, heads, layers, pose channels and the length of the positional
    encoding come from its configs and weights. What it lacks is looked for in `base`. A section
    that `inference_config` lacks is the directory's own inference.yaml's, or its base's.

    Raises InputMissing if there is no such directory, and CheckpointError if a file is missing or broken, a
    setting is not supported, or keys or shapes are not exactly those of the networks.
    """
    folders = [Path(folder), *([Path(base)] if base is not None else [])]
    for path in folders:
        if not path.is_dir():
            raise InputMissing(f"{path}: expected a checkpoint directory (see the README), found none")
    networks = ("denoising_unet", "motion_module", "reference_unet", "pose_guider")
    files = {name: find_weights(locate(folders, NETWORKS, f"{name}.*"), name) for name in networks}
    unet_folder = locate(folders, UNET, "config.json")
    vae_folder = locate(folders, VAE_FOLDER, "config.json")
    clip_folder = locate(folders, IMAGE_ENCODER, "config.json")
    files |= {
        "vae": find_weights(vae_folder, "diffusion_pytorch_model"),
        "image_encoder": find_weights(clip_folder, "pytorch_model", "model"),
    }
    states = {name: read_weights(path) for name, path in files.items()}
    inference = [path for f in reversed(folders) if (path := f / INFERENCE).is_file()]
    if inference_config is not None:
        inference.append(Path(inference_config))
    config = model_config(
        unet_folder / "config.json",
        vae_folder / "config.json",
        clip_folder / "config.json",
        inference,
        pose_channels=pose_channels(states["pose_guider"], files["pose_guider"]),
        max_frames=encoded_frames(states["motion_module"]),
    )
    with torch.device("meta"):
        checkpoint = Checkpoint(
            config,
            DenoisingUNet(config),
            ReferenceNet(config),
            PoseGuider(config.pose_channels, config.unet.widths[0]),
            VAE(config.vae),
            ImageEncoder(config.image_encoder),
            sha256_of(files.values(), folders),
        )
    motion = {key: value for key, value in states["motion_module"].items() if not key.endswith(".pe")}
    encodings = positional_encodings(checkpoint.denoising_unet)
    denoising = {**states["denoising_unet"], **motion, **encodings}
    reference = {key: value for key, value in states["reference_unet"].items() if key not in REFERENCE_HEAD}
    names = {name: path.name for name, path in files.items()}
    assign(
        checkpoint.denoising_unet,
        denoising,
        dtype,
        f"{names['denoising_unet']} with {names['motion_module']}",
    )
    assign(checkpoint.reference_net, reference, dtype, names["reference_unet"])
    assign(checkpoint.pose_guider, states["pose_guider"], dtype, names["pose_guider"])
    assign(checkpoint.vae, states["vae"], dtype, names["vae"])
    assign(checkpoint.image_encoder, states["image_encoder"], dtype, names["image_encoder"])
    return checkpoint


def locate(folders: list[Path], places: tuple[str, ...], pattern: str) -> Path:
    """The first of `places`, in the first of `folders`, that holds a file like `pattern`."""
    for folder, place in product(folders, places):
        if any((folder / place).glob(pattern)):
            return folder / place
    raise CheckpointError(f"{folders[-1]}: expected {Path(places[0]) / pattern}, found no such file")


def pose_channels(state: Mapping[str, Tensor], path: Path) -> tuple[int, ...]:
    """Widths of the Pose Guider: its first convolution's and each halving one's."""
    halving = [f"blocks.{i}.weight" for i in range(1, len(state), 2) if f"blocks.{i}.weight" in state]
    if missing := [key for key in ("conv_in.weight", "conv_out.weight") if key not in state]:
        raise WrongWeights(path.name, missing, [], [])
    return tuple(state[key].shape[0] for key in ("conv_in.weight", *halving))


def encoded_frames(motion: Mapping[str, Tensor]) -> int | None:
    """Length of the positional encoding in the motion weights."""
    lengths = {value.shape[1] for key, value in motion.items() if key.endswith(".pe") and value.dim() == 3}
    if len(lengths) > 1:
        raise CheckpointError(f"motion_module: expected pe of one length, found {sorted(lengths)}")
    return lengths.pop() if lengths else None


def positional_encodings(network: DenoisingUNet) -> dict[str, Tensor]:
    """Exact tables in place of stored, possibly rounded or absent ones."""
    return {
        key: positions(table.shape[1], table.shape[2])
        for key, table in network.state_dict().items()
        if key.endswith(".pe")
    }
