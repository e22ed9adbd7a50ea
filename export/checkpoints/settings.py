"""The public config files, read into a `ModelConfig`.

diffusers' and transformers' `config.json` describe the spatial networks, the public `inference.yaml` the
motion modules and the noise schedule. A value that would need another network than ours is refused by name:
a checkpoint's weights then decide the rest, as every key and shape has to fit.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

from ...engines.json_document import from_json
from ...engines.model import (
    Activation,
    ImageEncoderConfig,
    ModelConfig,
    MotionConfig,
    NoiseConfig,
    SamplingConfig,
    UNetConfig,
    VAEConfig,
)
from ...errors import CheckpointError, ConfigError

T = TypeVar("T")

V2_MOTION: dict[str, Any] = {
    "use_inflated_groupnorm": True,
    "use_motion_module": True,
    "motion_module_resolutions": [1, 2, 4, 8],
    "motion_module_mid_block": True,
    "motion_module_kwargs": {
        "num_attention_heads": 8,
        "num_transformer_block": 1,
        "attention_block_types": ["Temporal_Self", "Temporal_Self"],
        "temporal_position_encoding": True,
        "temporal_position_encoding_max_len": 32,
    },
}
V2_NOISE: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "linear",
    "clip_sample": False,
    "steps_offset": 1,
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
}


V2: dict[str, dict[str, Any]] = {
    "unet_additional_kwargs": V2_MOTION,
    "noise_scheduler_kwargs": V2_NOISE,
    "sampling": {},
}


class Settings:
    """One mapping of a config file, with errors that name file, key and what was found."""

    def __init__(self, values: Any, source: str):
        if not isinstance(values, dict):
            raise CheckpointError(f"{source}: expected a mapping of settings, found {type(values).__name__}")
        self.values, self.source = values, source

    @classmethod
    def read(cls, path: Path) -> Settings:
        """A .json or .yaml file."""
        try:
            text = path.read_text(encoding="utf-8")
            return cls(json.loads(text) if path.suffix == ".json" else yaml.safe_load(text), str(path))
        except OSError as error:
            raise CheckpointError(
                f"{path}: expected a config file, cannot read it: {error.strerror}"
            ) from error
        except (ValueError, yaml.YAMLError) as error:
            form = "JSON" if path.suffix == ".json" else "YAML"
            raise CheckpointError(f"{path}: expected {form}, cannot parse it: {one_line(error)}") from error

    def part(self, key: str) -> Settings:
        return Settings(self.values.get(key, {}), f"{self.source}: {key}")

    def get(self, kind: Any, key: str, *default: Any) -> Any:
        """The value of `key` as `kind`; without a default it must be there."""
        if key not in self.values and not default:
            raise CheckpointError(f"{self.source}: missing {key}")
        value = self.values.get(key, *default)
        try:
            return from_json(kind, value, f"{self.source}: {key}")
        except ConfigError as error:
            raise CheckpointError(str(error)) from error

    def read_as(self, kind: Any) -> Any:
        """All values as the fields of `kind`."""
        try:
            return from_json(kind, self.values, self.source)
        except ConfigError as error:
            raise CheckpointError(str(error)) from error

    def build(self, kind: type[T], **fields: Any) -> T:
        """`kind(**fields)`, with the file's name in front of what it refuses."""
        try:
            return kind(**fields)
        except ConfigError as error:
            raise CheckpointError(f"{self.source}: {error}") from error

    def require(self, absent: dict[str, Any], **supported: Any) -> None:
        """Refuse any value but the supported one; `absent` holds what a missing key means if not that."""
        for key, value in supported.items():
            found = self.values.get(key, absent.get(key, value))
            if found != value:
                raise CheckpointError(
                    f"{self.source}: {key}: expected {value!r}, the only value supported, found {found!r}"
                )


def unet_config(settings: Settings) -> UNetConfig:
    """From diffusers' UNet2DConditionModel config (SPEC.md 2.1)."""
    settings.require(
        {},
        act_fn="silu",
        center_input_sample=False,
        flip_sin_to_cos=True,
        freq_shift=0,
        downsample_padding=1,
        mid_block_scale_factor=1,
        use_linear_projection=False,
        only_cross_attention=False,
        class_embed_type=None,
        resnet_time_scale_shift="default",
    )
    widths = settings.get(tuple[int, ...], "block_out_channels")
    down = settings.get(tuple[str, ...], "down_block_types")
    up = settings.get(tuple[str, ...], "up_block_types")
    kinds = {
        "CrossAttnDownBlock2D": True,
        "DownBlock2D": False,
        "CrossAttnUpBlock2D": True,
        "UpBlock2D": False,
    }
    attention = tuple(kinds.get(kind) for kind in down)
    mirrored = tuple(kinds.get(kind) for kind in reversed(up))
    if None in attention or attention != mirrored or len(attention) != len(widths):
        raise CheckpointError(
            f"{settings.source}: expected {len(widths)} down blocks of CrossAttnDownBlock2D or DownBlock2D "
            f"and up blocks that mirror them, found {list(down)} and {list(up)}"
        )
    # Called attention_head_dim, it has always been the number of heads (SPEC.md 2.1).
    heads: tuple[int, ...] | int = 8
    per_level = isinstance(settings.values.get("attention_head_dim"), list)
    heads = settings.get(tuple[int, ...] if per_level else int, "attention_head_dim", heads)
    return settings.build(
        UNetConfig,
        widths=widths,
        layers_per_block=settings.get(int, "layers_per_block", 2),
        heads=heads if isinstance(heads, tuple) else (heads,) * len(widths),
        attention=tuple(bool(kind) for kind in attention),
        cross_attention_dim=settings.get(int, "cross_attention_dim"),
        norm_groups=settings.get(int, "norm_num_groups", 32),
        norm_eps=settings.get(float, "norm_eps", 1e-5),
        latent_channels=settings.get(int, "in_channels", 4),
    )


def vae_config(settings: Settings) -> VAEConfig:
    """From diffusers' AutoencoderKL config (SPEC.md 2.8)."""
    settings.require({}, act_fn="silu", in_channels=3, out_channels=3)
    return settings.build(
        VAEConfig,
        widths=settings.get(tuple[int, ...], "block_out_channels"),
        layers_per_block=settings.get(int, "layers_per_block", 1),
        norm_groups=settings.get(int, "norm_num_groups", 32),
        latent_channels=settings.get(int, "latent_channels", 4),
        scaling_factor=settings.get(float, "scaling_factor", 0.18215),
    )


def image_encoder_config(settings: Settings) -> ImageEncoderConfig:
    """From transformers' CLIPVisionConfig (SPEC.md 2.9); absent keys mean what they mean there."""
    settings.require({}, num_channels=3)
    return settings.build(
        ImageEncoderConfig,
        image_size=settings.get(int, "image_size", 224),
        patch_size=settings.get(int, "patch_size", 32),
        width=settings.get(int, "hidden_size", 768),
        layers=settings.get(int, "num_hidden_layers", 12),
        heads=settings.get(int, "num_attention_heads", 12),
        mlp_width=settings.get(int, "intermediate_size", 3072),
        projection_dim=settings.get(int, "projection_dim", 512),
        activation=settings.get(Activation, "hidden_act", "quick_gelu"),
        norm_eps=settings.get(float, "layer_norm_eps", 1e-5),
    )


def motion_config(settings: Settings, levels: int, max_frames: int | None) -> MotionConfig:
    """From `unet_additional_kwargs` of inference.yaml (SPEC.md 2.2); `max_frames` is the length of the
    positional encoding in the weights, which outranks the file's."""
    settings.require(
        {"use_inflated_groupnorm": False, "use_motion_module": False},
        use_inflated_groupnorm=True,
        unet_use_cross_frame_attention=False,
        unet_use_temporal_attention=False,
        use_motion_module=True,
        motion_module_decoder_only=False,
        motion_module_type="Vanilla",
    )
    module = settings.part("motion_module_kwargs")
    module.require(
        {"temporal_position_encoding": False}, temporal_position_encoding=True, temporal_attention_dim_div=1
    )
    attentions = module.get(tuple[str, ...], "attention_block_types", ["Temporal_Self", "Temporal_Self"])
    if set(attentions) != {"Temporal_Self"}:
        raise CheckpointError(
            f"{module.source}: attention_block_types: expected Temporal_Self only, found {list(attentions)}"
        )
    resolutions = settings.get(tuple[int, ...], "motion_module_resolutions", [1, 2, 4, 8])
    return MotionConfig(
        levels=tuple(2**level in resolutions for level in range(levels)),
        mid=settings.get(bool, "motion_module_mid_block", False),
        heads=module.get(int, "num_attention_heads", 8),
        blocks=module.get(int, "num_transformer_block", 2),
        attentions=len(attentions),
        max_frames=max_frames or module.get(int, "temporal_position_encoding_max_len", 24),
    )


def noise_config(settings: Settings) -> NoiseConfig:
    """From `noise_scheduler_kwargs` of inference.yaml (SPEC.md 4.3); absent keys mean what they mean in
    diffusers' DDIMScheduler."""
    settings.require({"clip_sample": True}, clip_sample=False, thresholding=False, trained_betas=None)
    handled = ("clip_sample", "thresholding", "trained_betas")
    rest = {key: value for key, value in settings.values.items() if key not in handled}
    config: NoiseConfig = Settings(rest, settings.source).read_as(NoiseConfig)
    return config


def sampling_config(settings: Settings) -> SamplingConfig:
    """From `sampling` of inference.yaml, which is ours: few-step weights say there how they are sampled."""
    config: SamplingConfig = settings.read_as(SamplingConfig)
    return config


def model_config(
    unet: Path,
    vae: Path,
    image_encoder: Path,
    inference: Sequence[Path],
    *,
    pose_channels: tuple[int, ...],
    max_frames: int | None,
) -> ModelConfig:
    """All networks, from the public layout's config files. Of the files `inference` each section of a later
    one replaces an earlier one's, and the public v2 settings come before all."""
    public = {name: Settings(values, f"v2 settings: {name}") for name, values in V2.items()}
    for settings in map(Settings.read, inference):
        public |= {name: settings.part(name) for name in V2 if name in settings.values}
    motion = public["unet_additional_kwargs"]
    unet_ = unet_config(Settings.read(unet))
    config = motion.build(
        ModelConfig,
        unet=unet_,
        motion=motion_config(motion, len(unet_.widths), max_frames),
        pose_channels=pose_channels,
        vae=vae_config(Settings.read(vae)),
        image_encoder=image_encoder_config(Settings.read(image_encoder)),
        noise=noise_config(public["noise_scheduler_kwargs"]),
        sampling=sampling_config(public["sampling"]),
    )
    if config.image_encoder.projection_dim != unet_.cross_attention_dim:
        raise CheckpointError(
            f"{image_encoder}: expected a projection_dim of {unet_.cross_attention_dim}, the UNet's "
            f"cross_attention_dim, found {config.image_encoder.projection_dim}"
        )
    if config.latent_scale != 2 ** (len(pose_channels) - 1):
        raise CheckpointError(
            f"pose guider: expected {len(config.vae.widths)} channel counts, as many as the VAE has levels, "
            f"found {list(pose_channels)}"
        )
    return config


def one_line(error: Exception) -> str:
    return " ".join(str(error).split())
