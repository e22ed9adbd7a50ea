"""Configuration of a checkpoint's networks, from which all shapes and schedules are derived.

`ModelConfig` is read from a checkpoint once and stored in the bundle's manifest; contracts and the runtime
use no other information about the model. It holds plain numbers and strings. Public config files are read by
export/checkpoints/settings.py.

Each class checks its values when it is created and raises ConfigError. The limits are far above any published
model. They bound the memory and time that a config file or a manifest from a stranger can cost.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import log1p
from typing import Literal, NamedTuple

from ..errors import ConfigError
from ..text import quoted

MAX_LEVELS = 8  # each halves the size
MAX_LAYERS = 128  # of any kind, one after another
MAX_WIDTH = 1 << 16  # channels, heads, groups, pixels
MAX_FRAMES = 1 << 12  # of a window
MAX_TIMESTEPS = 100_000
MAX_SCALE = 1e6
MAX_GUIDANCE_SCALE = 100  # far above useful values, and finite in every precision
Activation = Literal["quick_gelu", "gelu"]
PoseStyle = Literal["dwpose", "musepose"]  # the public tool that draws skeletons
Member = Literal["animate-anyone", "musepose", "champ"]  # of the family of models that share these networks
Track = Literal["depth", "normal", "semantic_map", "dwpose"]  # what a picture of a pose frame shows
Resampling = Literal["lanczos", "bicubic"]
Schedule = int | tuple[int, ...]  # a number of steps, or their timesteps
Solver = Literal["ddim", "dpm++2m", "unipc"]  # how a step follows from predictions


def require_levels(where: str, widths: tuple[int, ...]) -> None:
    """Raise ConfigError unless these are the channels of 1 to MAX_LEVELS levels."""
    if not 1 <= len(widths) <= MAX_LEVELS:
        raise ConfigError(f"{where}: expected the channels of 1 to {MAX_LEVELS} levels, found {len(widths)}")
    require_counts(where, MAX_WIDTH, *widths)


def require_counts(where: str, most: int, *values: int) -> None:
    """Raise ConfigError unless all values are from 1 to `most`."""
    if wrong := [value for value in values if not 1 <= value <= most]:
        raise ConfigError(f"{where}: expected sizes and counts from 1 to {most}, found {quoted(wrong[0])}")


def require_multiple(where: str, size: int, divisor: int, of: str) -> None:
    require_counts(where, MAX_WIDTH, size)
    if divisor < 1 or size % divisor:
        raise ConfigError(
            f"{where}: expected sizes divisible by {quoted(divisor)} {of}, found {quoted(size)}"
        )


def require_epsilon(where: str, value: float) -> None:
    if not 0 < value < 1:
        raise ConfigError(f"{where}: expected a norm_eps between 0 and 1, found {quoted(value)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class UNetConfig:
    """The 2-D architecture that ReferenceNet and the denoising UNet share (SPEC.md 2.1)."""

    widths: tuple[int, ...]  # channels per level, full resolution first
    layers_per_block: int
    heads: tuple[int, ...]  # attention heads per level
    attention: tuple[bool, ...]  # which levels have spatial attention
    cross_attention_dim: int
    norm_groups: int
    norm_eps: float
    latent_channels: int

    def __post_init__(self) -> None:
        require_levels("UNet", self.widths)
        if not len(self.widths) == len(self.heads) == len(self.attention):
            raise ConfigError(
                f"UNet: expected heads and attention for {len(self.widths)} levels, "
                f"found {len(self.heads)} and {len(self.attention)}"
            )
        require_counts("UNet", MAX_LAYERS, self.layers_per_block)
        require_counts("UNet", MAX_WIDTH, self.cross_attention_dim, self.latent_channels)
        require_epsilon("UNet", self.norm_eps)
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
    max_frames: int  # rows of the positional encoding, and so the longest window

    def __post_init__(self) -> None:
        require_counts("motion modules", MAX_LAYERS, self.blocks, self.attentions)
        require_counts("motion modules", MAX_WIDTH, self.heads)
        require_counts("motion modules", MAX_FRAMES, self.max_frames)


@dataclass(frozen=True, slots=True, kw_only=True)
class VAEConfig:
    """The image autoencoder (SPEC.md 2.8)."""

    widths: tuple[int, ...]
    layers_per_block: int
    norm_groups: int
    latent_channels: int
    scaling_factor: float  # latents = posterior mean x scaling_factor

    def __post_init__(self) -> None:
        require_levels("VAE", self.widths)
        require_counts("VAE", MAX_LAYERS, self.layers_per_block)
        require_counts("VAE", MAX_WIDTH, self.latent_channels)
        if not 0 < self.scaling_factor <= MAX_SCALE:
            raise ConfigError(
                f"VAE: expected a scaling_factor above 0 and up to {MAX_SCALE:g}, "
                f"found {quoted(self.scaling_factor)}"
            )
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
        require_counts("image encoder", MAX_LAYERS, self.layers)
        require_counts("image encoder", MAX_WIDTH, self.mlp_width, self.projection_dim)
        require_epsilon("image encoder", self.norm_eps)
        require_multiple("image encoder", self.width, self.heads, "heads")
        require_multiple("image encoder", self.image_size, self.patch_size, "pixels per patch")


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseConfig:
    """The noise schedule the weights were trained for (SPEC.md 4.3); the defaults are those of diffusers."""

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
                f"found {quoted(self.beta_start)} and {quoted(self.beta_end)}"
            )
        require_counts("noise schedule", MAX_TIMESTEPS, self.num_train_timesteps)
        if not 0 <= self.steps_offset < self.num_train_timesteps:
            raise ConfigError(
                f"noise schedule: expected a steps_offset from 0 to {self.num_train_timesteps - 1}, "
                f"found {quoted(self.steps_offset)}"
            )
        if self.prediction_type == "epsilon" and self.rescale_betas_zero_snr:
            raise ConfigError(
                "noise schedule: a zero terminal SNR needs prediction_type v_prediction, found epsilon; "
                "the first step would divide by zero"
            )
        # The first and the last signal level must differ, and neither may round to 0 or 1.
        decay = -self.num_train_timesteps * log1p(-self.beta_end)
        if self.num_train_timesteps < 2 or self.beta_start < 1e-9 or decay > 500:
            raise ConfigError(
                "noise schedule: expected at least 2 training timesteps with betas of at least 1e-9 that "
                f"leave a signal above exp(-500), found {self.num_train_timesteps} timesteps with betas of "
                f"{self.beta_start:g} to {self.beta_end:g}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingConfig:
    """Sampling options recommended for the weights: the defaults of a clip."""

    steps: int = 25
    timesteps: tuple[int, ...] = ()  # empty: those of the noise schedule for that many steps
    guidance_scale: float = 3.5
    solver: Solver = "ddim"  # manifests before it was added lack it

    def __post_init__(self) -> None:
        require_counts("sampling", MAX_TIMESTEPS, self.steps)
        given = self.timesteps
        descend = all(a > b for a, b in pairwise(given))
        if not descend or (given and not given[-1] >= 0):
            raise ConfigError(
                f"sampling: expected descending timesteps of at least 0, found {quoted(list(given))}"
            )
        if not 1 <= self.guidance_scale <= MAX_GUIDANCE_SCALE:
            raise ConfigError(
                f"sampling: expected a guidance_scale from 1 (none) to {MAX_GUIDANCE_SCALE}, "
                f"found {quoted(self.guidance_scale)}"
            )

    @property
    def schedule(self) -> Schedule:
        return self.timesteps or self.steps


class SpatialAttention(NamedTuple):
    """One spatial attention block of the UNet."""

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
    pose_style: PoseStyle = "dwpose"  # of the skeletons in training; manifests before it was added lack it
    # Of what differs between the members of the family; manifests before these were added lack them.
    member: Member = "animate-anyone"
    pose_tracks: tuple[Track, ...] = ()  # the pictures of a pose frame, of models with several
    pose_resampling: Resampling = "lanczos"  # by which pose pictures are resized
    reference_size: bool = False  # frames are resized to the size of the reference

    def __post_init__(self) -> None:
        if len(set(self.pose_tracks)) != len(self.pose_tracks):
            raise ConfigError(
                f"pose_tracks: expected different names, found {quoted(list(self.pose_tracks))}"
            )
        if len(self.motion.levels) != len(self.unet.widths):
            raise ConfigError(
                f"motion modules: expected {len(self.unet.widths)} levels, those of the UNet, "
                f"found {len(self.motion.levels)}"
            )
        if self.vae.latent_channels != self.unet.latent_channels:
            raise ConfigError(
                f"VAE: expected {self.unet.latent_channels} latent channels, those of the UNet, "
                f"found {self.vae.latent_channels}"
            )
        if self.pose_channels:  # none: the weights, which have them, are not read yet
            require_levels("pose guider", self.pose_channels)
        self._check_sampling()
        for width in self.unet.widths:
            require_multiple("motion modules", width, self.motion.heads, "heads")

    def _check_sampling(self) -> None:
        """Raise ConfigError if the recommended sampling does not work with the noise schedule."""
        total, given, steps = self.noise.num_train_timesteps, self.sampling.timesteps, self.sampling.steps
        first = given[0] if given else steps - 1
        if not given and self.noise.timestep_spacing == "leading" and steps <= total:
            first = (steps - 1) * (total // steps) + self.noise.steps_offset
        if first >= total:
            raise ConfigError(
                f"sampling: expected timesteps below {total}, the length of the noise schedule, found "
                f"{f'timesteps from {first}' if given else f'{steps} steps'}"
            )

    @property
    def latent_scale(self) -> int:
        """Pixels per latent along each side."""
        return int(2 ** (len(self.vae.widths) - 1))

    def spatial_attentions(self) -> list[SpatialAttention]:
        """The blocks that read the reference, in the order in which they run: down, middle, up."""
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
        """Output channels of each resnet of the UNet, in the order in which they run.

        A time row has one value for each of these channels.
        """
        widths, layers = self.unet.widths, self.unet.layers_per_block
        down = [width for width in widths for _ in range(layers)]
        up = [width for width in reversed(widths) for _ in range(layers + 1)]
        return [*down, widths[-1], widths[-1], *up]
