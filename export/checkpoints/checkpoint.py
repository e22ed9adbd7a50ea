"""Loads a checkpoint directory in the public layout (SPEC.md 1) into the networks."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor, nn

from ...engines.contract import ShapeBucket
from ...engines.model import ModelConfig
from ...errors import CheckpointError
from ..networks.image_encoder import ImageEncoder
from ..networks.motion import positions
from ..networks.pose_guider import GuidanceEncoder, GuidanceEncoders, PoseGuider
from ..networks.unet import DenoisingUNet, ReferenceNet
from ..networks.vae import VAE
from .directory import Directory, Files, listed
from .families import GUIDERS, UNUSED
from .settings import model_config
from .weights import WrongWeights, assign, fit, read_weights, sha256_of

State = Mapping[str, Tensor]

ENCODING = ".pos_encoder.pe"
ROUNDING = 2**-10  # of float16, for values near 1
SPARE_TENSORS = 2000  # that weights may lack and still be compared with a network


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The networks with their weights, and the hashes of the weight files."""

    config: ModelConfig
    denoising_unet: DenoisingUNet
    reference_net: ReferenceNet
    pose_guider: PoseGuider | GuidanceEncoders
    vae: VAE
    image_encoder: ImageEncoder
    weights: Mapping[str, str]  # SHA-256 of each weight file by its relative path


def load_checkpoint(
    folder: str | os.PathLike[str],
    inference_config: str | os.PathLike[str] | None = None,
    dtype: torch.dtype = torch.float32,
    *,
    base: str | os.PathLike[str] | None = None,
    bucket: ShapeBucket | None = None,
) -> Checkpoint:
    """Read a checkpoint directory. Widths, heads, layers, pose channels and the length of the positional
    encoding come from its configs and weights. Files that it lacks are read from `base`. Sections that
    `inference_config` lacks come from the directory's own inference.yaml, then from its base's.

    Raises InputMissing if there is no such directory, and CheckpointError if a file is missing or broken, a
    setting is not supported, keys or shapes are not exactly those of the networks, or weights are not finite
    in `dtype`. If a `bucket` is given, raises ConfigError if the networks cannot run at its size; as far as
    the config files tell, before weights are read.
    """
    found = Directory(folder, base)
    inference = [*found.inference, *([Path(inference_config)] if inference_config is not None else [])]
    configs = found.unet, found.vae, found.image_encoder, inference
    config = model_config(*configs, member=found.member)
    found.find_guiders(config.pose_tracks)
    guiders = [GUIDERS[kind] for kind in config.pose_tracks] or ["pose_guider"]
    if bucket:  # except for the window, as only the weights tell the longest one
        replace(bucket, window=1).check(config)
    states = {network: read_weights(*files) for network, files in found.weights.items()}
    names = {network: name_of(files) for network, files in found.weights.items()}
    config = model_config(
        *configs,
        pose_channels=pose_channels(states[guiders[0]], names[guiders[0]]),
        max_frames=encoded_frames(states["motion_module"]),
        member=found.member,
    )
    if bucket:
        bucket.check(config)
    check_layers(config, states, names)
    states["denoising_unet"] = with_motion(states["denoising_unet"], states["motion_module"], names)
    names["denoising_unet"] += f" with {names['motion_module']}"
    guider = GuidanceEncoder if config.pose_tracks else PoseGuider
    with torch.device("meta"):
        networks = {
            "denoising_unet": DenoisingUNet(config),
            "reference_unet": ReferenceNet(config),
            **{name: guider(config.pose_channels, config.unet.widths[0]) for name in guiders},
            "vae": VAE(config.vae),
            "image_encoder": ImageEncoder(config.image_encoder),
        }
    unet = networks["denoising_unet"]
    for key, network in networks.items():  # all of them, before anything large is read or made
        states[key] = without_unused(states[key], key)
        fit(network, encodings(network) | states[key], names[key])
    digests = sha256_of(chain(*found.weights.values()), found.folders)
    states["denoising_unet"] |= positional_encodings(unet, states["denoising_unet"])
    for key, network in networks.items():
        assign(network, states[key], dtype, names[key])
    return Checkpoint(
        config=config,
        denoising_unet=networks["denoising_unet"],
        reference_net=networks["reference_unet"],
        pose_guider=GuidanceEncoders(networks[name] for name in guiders)
        if config.pose_tracks
        else networks["pose_guider"],
        vae=networks["vae"],
        image_encoder=networks["image_encoder"],
        weights=digests,
    )


def name_of(files: Files) -> str:
    return files[0].name if len(files) == 1 else f"{files[0].name} and {len(files) - 1} more"


def without_unused(state: State, network: str) -> dict[str, Tensor]:
    return {key: weight for key, weight in state.items() if not key.startswith(UNUSED.get(network, ()))}


def with_motion(denoising: State, motion: State, names: Mapping[str, str]) -> dict[str, Tensor]:
    """The weights of both files. Some training scripts save motion modules in both."""
    both = sorted(denoising.keys() & motion.keys())
    if different := [key for key in both if not same_values(denoising[key], motion[key])]:
        raise CheckpointError(
            f"{names['denoising_unet']}: expected weights that {names['motion_module']} has not, found other "
            f"values for {listed(different)}; remove them from one of the files"
        )
    return {**denoising, **motion}


def same_values(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.float().equal(b.float())


def pose_channels(state: State, name: str) -> tuple[int, ...]:
    """Output channels of the Pose Guider's first convolution and of each one that halves the resolution."""
    halving = [f"blocks.{i}.weight" for i in range(1, len(state), 2) if f"blocks.{i}.weight" in state]
    keys = ("conv_in.weight", *halving, "conv_out.weight")
    if missing := [key for key in keys if key not in state]:
        raise WrongWeights(name, missing, [], [])
    if scalars := [key for key in keys if state[key].dim() != 4]:
        shapes = [f"{key} {list(state[key].shape)} instead of four sizes" for key in scalars]
        raise WrongWeights(name, [], [], shapes)
    return tuple(state[key].shape[0] for key in keys[:-1])


def encoded_frames(motion: State) -> int | None:
    """Length of the positional encoding in the motion weights, or None if they contain none."""
    lengths = {value.shape[1] for key, value in motion.items() if key.endswith(ENCODING) and value.dim() == 3}
    if len(lengths) > 1:
        raise CheckpointError(
            f"motion_module: expected positional encodings (pe) of one length, found {sorted(lengths)}"
        )
    return lengths.pop() if lengths else None


def encodings(network: nn.Module) -> dict[str, Tensor]:
    """The tables of positional encodings in a network, by key."""
    return {key: table for key, table in network.state_dict().items() if key.endswith(ENCODING)}


def positional_encodings(network: nn.Module, given: State | None = None) -> dict[str, Tensor]:
    """The exact sinusoids by key, where the weights have none, or the same ones rounded. Tables of other
    values are not among them: a network that was trained with them needs them."""
    tables = {
        shape: positions(*shape[1:]) for shape in {table.shape for table in encodings(network).values()}
    }
    exact = {key: tables[table.shape] for key, table in encodings(network).items()}
    return {key: table for key, table in exact.items() if same_table((given or {}).get(key), table)}


def same_table(stored: Tensor | None, exact: Tensor) -> bool:
    if stored is None:
        return True
    if stored.shape != exact.shape or not stored.is_floating_point():
        return False
    rounding = max(torch.finfo(stored.dtype).eps, ROUNDING)
    return bool((stored.float() - exact).abs().max() <= rounding / 2)


def check_layers(config: ModelConfig, states: Mapping[str, State], names: Mapping[str, str]) -> None:
    """Refuse configs of far more layers than there are weights for, as making these takes memory and time."""
    unet, vae, motion = config.unet, config.vae, config.motion
    layers = 2 * unet.layers_per_block + 1
    modules = sum(motion.levels) * layers + motion.mid
    for network, tensors in (  # the fewest of each network
        ("denoising_unet", 10 * len(unet.widths) * layers),
        ("reference_unet", 10 * len(unet.widths) * layers),
        ("motion_module", 7 * modules * motion.blocks * motion.attentions),
        ("vae", 8 * len(vae.widths) * (2 * vae.layers_per_block + 1)),
        ("image_encoder", 16 * config.image_encoder.layers),
    ):
        if tensors > len(states[network]) + SPARE_TENSORS:
            raise CheckpointError(
                f"{names[network]}: expected at least the {tensors:,} tensors that the layers of the config "
                f"have, found {len(states[network]):,}"
            )
