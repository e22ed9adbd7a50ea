"""What a checkpoint's networks look like: everything shapes and schedules are derived from.

`ModelConfig` is read from a checkpoint once, travels in the bundle's manifest, and is all that contracts and
the runtime know of the model. It holds plain numbers and strings; reading public config files is the
checkpoint's business (export/settings.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from ..errors import ConfigError

Activation = Literal["quick_gelu", "gelu"]
Schedule = int | tuple[int, ...]  # a number of steps, or their timesteps


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

    def __post_init__(self) -> None:
        if not len(self.widths) == len(self.heads) == len(self.attention):
            raise ConfigError(
                f"UNet: expected heads and attention for {len(self.widths)} levels, "
                f"found {len(self.heads)} and {len(self.attention)}"
            )
        require_positive("UNet", self.layers_per_block, self.cross_attention_dim, self.latent_channels)
        for width, heads in zip(self.widths, self.heads, strict=True):
            require_multiple("UNet", width, heads, "heads")
            require_multiple("UNet", width, self.norm_groups, "groups")


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

    def __post_init__(self) -> None:
        require_positive("VAE", self.layers_per_block, self.latent_channels)
        for width in self.widths:
            require_multiple("VAE", width, self.norm_groups, "groups")


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

    def __post_init__(self) -> None:
        require_positive("image encoder", self.layers, self.mlp_width, self.projection_dim)
        require_multiple("image encoder", self.width, self.heads, "heads")
        require_multiple("image encoder", self.image_size, self.patch_size, "pixels per patch")


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
        if not 0 < self.beta_start <= self.beta_end < 1:
            raise ConfigError(
                f"noise schedule: expected 0 < beta_start <= beta_end < 1, "
                f"found {self.beta_start} and {self.beta_end}"
            )
        require_positive("noise schedule", self.num_train_timesteps)
        if self.prediction_type == "epsilon" and self.rescale_betas_zero_snr:
            raise ConfigError(
                "noise schedule: a zero terminal SNR needs prediction_type v_prediction, found epsilon; "
                "the first step would divide by zero"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingConfig:
    """How the weights are meant to be sampled: what holds for a clip that asks for nothing else."""

    steps: int = 25
    timesteps: tuple[int, ...] = ()  # where they are not those of the noise schedule for that many steps
    guidance_scale: float = 3.5

    @property
    def schedule(self) -> Schedule:
        return self.timesteps or self.steps


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
    sampling: SamplingConfig = SamplingConfig()

    def __post_init__(self) -> None:
        require_positive("motion modules", self.motion.blocks, self.motion.attentions, self.motion.max_frames)
        for width in self.unet.widths:
            require_multiple("motion modules", width, self.motion.heads, "heads")

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


def require_positive(where: str, *values: int) -> None:
    if min(values) < 1:
        raise ConfigError(f"{where}: expected sizes and counts of at least 1, found {min(values)}")


def require_multiple(where: str, size: int, divisor: int, of: str) -> None:
    if divisor < 1 or size < 1 or size % divisor:
        raise ConfigError(f"{where}: expected sizes divisible by {divisor} {of}, found {size}")
