"""What a checkpoint's networks look like: everything shapes and schedules are derived from.

`ModelConfig` is read from a checkpoint once, travels in the bundle's manifest, and is all that contracts and
the runtime know of the model. It holds plain numbers and strings; reading public config files is the
checkpoint's business (export/checkpoint.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from ..errors import ConfigError

Activation = Literal["quick_gelu", "gelu"]


@dataclass(frozen=True, slots=True, kw_only=True)
class UNetConfig:
    """The 2-D skeleton that ReferenceNet and the denoising UNet share (SPEC.md 2.1)."""

    widths: tuple[int, ...]  # channels per level, full resolution first
    layers_per_block: int
    heads: tuple[int, ...]  # attention heads per level
    attention: tuple[bool, ...]  # which levels have spatial attention
    cross_attention_dim: int
    norm_groups: int
    norm_eps: float
    latent_channels: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MotionConfig:
    """The motion modules of the denoising UNet (SPEC.md 2.5)."""

    levels: tuple[bool, ...]  # which levels have motion modules
    mid: bool
    heads: int
    blocks: int  # transformer blocks per module
    attentions: int  # temporal self-attentions per block
    max_frames: int  # rows of the positional encoding: the longest window


@dataclass(frozen=True, slots=True, kw_only=True)
class VAEConfig:
    """The image autoencoder (SPEC.md 2.8)."""

    widths: tuple[int, ...]
    layers_per_block: int
    norm_groups: int
    latent_channels: int
    scaling_factor: float  # latents = posterior mean x scaling_factor


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageEncoderConfig:
    """The CLIP vision tower with projection (SPEC.md 2.9)."""

    image_size: int
    patch_size: int
    width: int
    layers: int
    heads: int
    mlp_width: int
    projection_dim: int
    activation: Activation
    norm_eps: float


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseConfig:
    """The noise schedule the weights were trained for (SPEC.md 4.3); defaults are diffusers' own."""

    num_train_timesteps: int = 1000
    beta_start: float = 0.0001
    beta_end: float = 0.02
    beta_schedule: Literal["linear", "scaled_linear"] = "linear"
    prediction_type: Literal["epsilon", "v_prediction"] = "epsilon"
    rescale_betas_zero_snr: bool = False
    timestep_spacing: Literal["leading", "trailing"] = "leading"
    steps_offset: int = 0
    set_alpha_to_one: bool = True

    def __post_init__(self) -> None:
        if self.prediction_type == "epsilon" and self.rescale_betas_zero_snr:
            raise ConfigError(
                "noise schedule: a zero terminal SNR needs prediction_type v_prediction, found epsilon; "
                "the first step would divide by zero"
            )


class SpatialAttention(NamedTuple):
    """One spatial attention block of the UNet, in the order in which they run."""

    level: int
    width: int
    heads: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """All networks of one checkpoint."""

    unet: UNetConfig
    motion: MotionConfig
    pose_channels: tuple[int, ...]  # Pose Guider, full resolution first
    vae: VAEConfig
    image_encoder: ImageEncoderConfig
    noise: NoiseConfig

    @property
    def latent_scale(self) -> int:
        """Pixels per latent along each side."""
        return int(2 ** (len(self.vae.widths) - 1))

    def spatial_attentions(self) -> list[SpatialAttention]:
        """The blocks that read the reference: down, middle, up."""
        unet, last = self.unet, len(self.unet.widths) - 1
        down = [level for level in range(last + 1) for _ in range(unet.layers_per_block)]
        up = [level for level in range(last, -1, -1) for _ in range(unet.layers_per_block + 1)]
        levels = [
            *(level for level in down if unet.attention[level]),
            last,
            *(level for level in up if unet.attention[level]),
        ]
        return [SpatialAttention(level, unet.widths[level], unet.heads[level]) for level in levels]

    def resnet_widths(self) -> list[int]:
        """Output channels of each resnet of the UNet in the order in which they run: a time row's parts."""
        widths, layers = self.unet.widths, self.unet.layers_per_block
        down = [width for width in widths for _ in range(layers)]
        up = [width for width in reversed(widths) for _ in range(layers + 1)]
        return [*down, widths[-1], widths[-1], *up]
