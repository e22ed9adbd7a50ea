"""Reads the public config files into a `ModelConfig`.

diffusers' and transformers' `config.json` describe the spatial networks, the public `inference.yaml` the
motion modules and the noise schedule. Unsupported settings are rejected by name; everything else is checked
when the weights are loaded, since their keys and shapes must match the networks.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from ...engines.json_document import from_json
from ...engines.model import (
    Activation,
    ImageEncoderConfig,
    Member,
    ModelConfig,
    MotionConfig,
    NoiseConfig,
    PoseStyle,
    SamplingConfig,
    Track,
    UNetConfig,
    VAEConfig,
)
from ...errors import CheckpointError, ConfigError
from ...text import one_line, quoted, shortened_repr
from .contents import read_document
from .directory import listed
from .families import GUIDERS, MEMBERS, V2, ZERO_SNR

T = TypeVar("T")

# Settings of the public motion modules; others change what is computed.
MOTION = (
    *("use_inflated_groupnorm", "unet_use_cross_frame_attention", "unet_use_temporal_attention"),
    *("use_motion_module", "motion_module_resolutions", "motion_module_mid_block"),
    *("motion_module_decoder_only", "motion_module_type", "motion_module_kwargs"),
)
MOTION_MODULE = (
    *("num_attention_heads", "num_transformer_block", "attention_block_types"),
    *("temporal_position_encoding", "temporal_position_encoding_max_len", "temporal_attention_dim_div"),
)


class Settings:
    """One mapping of a config file. Its errors name the file, the key and the value found."""

    def __init__(self, values: Any, source: str):
        if not isinstance(values, dict):
            found = "nothing" if values is None else type(values).__name__
            raise CheckpointError(f"{source}: expected a mapping of settings, found {found}")
        self.values, self.source = values, source

    @classmethod
    def read(cls, path: Path) -> Settings:
        """Read a .json or .yaml file."""
        return cls(read_document(path), str(path))

    def part(self, key: str) -> Settings:
        return Settings(self.values.get(key, {}), f"{self.source}: {key}")

    def get(self, kind: Any, key: str, *default: Any) -> Any:
        """The value of `key` as type `kind`. Without a default the key is required."""
        if key not in self.values and not default:
            raise CheckpointError(f"{self.source}: missing {key}")
        return self.converted(kind, self.values.get(key, *default), f"{self.source}: {key}")

    def read_as(self, kind: Any) -> Any:
        """All values as an instance of the dataclass `kind`."""
        return self.converted(kind, self.values, self.source)

    def converted(self, kind: Any, value: Any, where: str) -> Any:
        try:
            return from_json(kind, value, where)
        except ConfigError as error:
            message = str(error) if str(error).startswith(where) else f"{where}: {error}"
            raise CheckpointError(message) from error

    def build(self, kind: type[T], **fields: Any) -> T:
        """`kind(**fields)`; turns its ConfigError into a CheckpointError that names the file."""
        try:
            return kind(**fields)
        except ConfigError as error:
            raise CheckpointError(f"{self.source}: {error}") from error

    def require(self, absent: dict[str, Any], **supported: Any) -> None:
        """Reject all values but the supported ones. `absent` has the meaning of a missing key where that is
        not the supported value."""
        for key, value in supported.items():
            found = self.values.get(key, absent.get(key, value))
            if found != value:
                raise CheckpointError(
                    f"{self.source}: {key}: expected {value!r}, the only value supported, found "
                    f"{one_line(shortened_repr(found))}"
                )

    def require_known(self, *known: str) -> None:
        """Reject settings of other names, except those that are switched off."""
        if unknown := [key for key, value in self.values.items() if value and key not in known]:
            raise CheckpointError(
                f"{self.source}: expected {', '.join(known)}, found {listed(unknown)}; this network is not "
                "supported"
            )


def unet_config(settings: Settings) -> UNetConfig:
    """Read diffusers' UNet2DConditionModel config (SPEC.md 2.1)."""
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
        resnet_out_scale_factor=1,
        resnet_skip_time_act=False,
        mid_block_type="UNetMidBlock2DCrossAttn",
        dual_cross_attention=False,
        cross_attention_norm=None,
        attention_type="default",
        transformer_layers_per_block=1,
        conv_in_kernel=3,
        conv_out_kernel=3,
        time_embedding_type="positional",
        time_embedding_act_fn=None,
        timestep_post_act=None,
        addition_embed_type=None,
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
            f"and up blocks that mirror them, found {quoted(down)} and {quoted(up)}"
        )
    # Despite its name, attention_head_dim is the number of heads (SPEC.md 2.1).
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
    """Read diffusers' AutoencoderKL config (SPEC.md 2.8)."""
    config = settings.build(
        VAEConfig,
        widths=settings.get(tuple[int, ...], "block_out_channels"),
        layers_per_block=settings.get(int, "layers_per_block", 1),
        norm_groups=settings.get(int, "norm_num_groups", 32),
        latent_channels=settings.get(int, "latent_channels", 4),
        scaling_factor=settings.get(float, "scaling_factor", 0.18215),
    )
    settings.require(
        {},
        act_fn="silu",
        in_channels=3,
        out_channels=3,
        down_block_types=["DownEncoderBlock2D"] * len(config.widths),
        up_block_types=["UpDecoderBlock2D"] * len(config.widths),
        mid_block_add_attention=True,
        use_quant_conv=True,
        use_post_quant_conv=True,
        shift_factor=None,
        latents_mean=None,
        latents_std=None,
    )
    return config


def image_encoder_config(settings: Settings) -> ImageEncoderConfig:
    """Read transformers' CLIPVisionConfig (SPEC.md 2.9); absent keys have its defaults."""
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
    """Read `unet_additional_kwargs` of inference.yaml (SPEC.md 2.2). `max_frames`, the length of the
    positional encoding in the weights, takes precedence over the file."""
    settings.require(
        {"use_inflated_groupnorm": False, "use_motion_module": False},
        use_inflated_groupnorm=True,
        unet_use_cross_frame_attention=False,
        unet_use_temporal_attention=False,
        use_motion_module=True,
        motion_module_decoder_only=False,
        motion_module_type="Vanilla",
    )
    settings.require_known(*MOTION)
    module = settings.part("motion_module_kwargs")
    module.require_known(*MOTION_MODULE)
    module.require(
        {"temporal_position_encoding": False}, temporal_position_encoding=True, temporal_attention_dim_div=1
    )
    attentions = module.get(tuple[str, ...], "attention_block_types", ["Temporal_Self", "Temporal_Self"])
    if set(attentions) != {"Temporal_Self"}:
        raise CheckpointError(
            f"{module.source}: attention_block_types: expected Temporal_Self only, found {quoted(attentions)}"
        )
    resolutions = settings.get(tuple[int, ...], "motion_module_resolutions", [1, 2, 4, 8])
    return module.build(
        MotionConfig,
        levels=tuple(2**level in resolutions for level in range(levels)),
        mid=settings.get(bool, "motion_module_mid_block", False),
        heads=module.get(int, "num_attention_heads", 8),
        blocks=module.get(int, "num_transformer_block", 2),
        attentions=len(attentions),
        max_frames=max_frames or module.get(int, "temporal_position_encoding_max_len", 24),
    )


def noise_config(settings: Settings) -> NoiseConfig:
    """Read `noise_scheduler_kwargs` of inference.yaml (SPEC.md 4.3); absent keys have the defaults of
    diffusers' DDIMScheduler."""
    settings.require({"clip_sample": True}, clip_sample=False, thresholding=False, trained_betas=None)
    handled = ("clip_sample", "thresholding", "trained_betas")
    rest = {key: value for key, value in settings.values.items() if key not in handled}
    config: NoiseConfig = Settings(rest, settings.source).read_as(NoiseConfig)
    return config


def sampling_config(settings: Settings) -> SamplingConfig:
    """Read `sampling` of inference.yaml, our own section: few-step weights state there how to sample them."""
    config: SamplingConfig = settings.read_as(SamplingConfig)
    return config


def with_champ_sections(settings: Settings) -> Settings:
    """Champ's inference.yaml, with its settings in the sections that the other members have
    (SPEC-family.md A.4)."""
    values = dict(settings.values)
    if settings.get(bool, "enable_zero_snr", False):
        values["noise_scheduler_kwargs"] = settings.part("noise_scheduler_kwargs").values | ZERO_SNR
    names = {"num_inference_steps": "steps", "guidance_scale": "guidance_scale"}
    sampling = {name: values[key] for key, name in names.items() if key in values}
    values["sampling"] = sampling | settings.part("sampling").values
    return Settings(values, settings.source)


def model_config(
    unet: Path,
    vae: Path,
    image_encoder: Path,
    inference: Sequence[Path],
    *,
    pose_channels: tuple[int, ...] | None = None,
    max_frames: int | None = None,
    member: Member = "animate-anyone",
) -> ModelConfig:
    """Read the configs of all networks. A section of a later file in `inference` replaces the same section of
    an earlier one; the first replaces the public v2 settings. `pose_channels` and `max_frames` come from the
    weights; without them the config serves to check sizes before weights are read. The style of the skeletons
    is that of the member, unless a file in `inference` has our own key pose_style."""
    layout = MEMBERS[member]
    pose_style, tracks = layout.pose_style, tuple(GUIDERS) if member == "champ" else ()
    public = {name: Settings(values, f"v2 settings: {name}") for name, values in V2.items()}
    for settings in map(Settings.read, inference):
        if member == "champ":
            tracks = settings.get(tuple[Track, ...], "guidance_types", tracks)
            settings = with_champ_sections(settings)
        public |= {name: settings.part(name) for name in V2 if name in settings.values}
        pose_style = settings.get(PoseStyle, "pose_style", pose_style)
    motion = public["unet_additional_kwargs"]
    unet_, vae_ = unet_config(Settings.read(unet)), vae_config(Settings.read(vae))
    sources = {"sampling": public["sampling"].source, "VAE": vae, "motion modules": motion.source}
    try:
        config = ModelConfig(
            unet=unet_,
            motion=motion_config(motion, len(unet_.widths), max_frames),
            pose_channels=vae_.widths if pose_channels is None else pose_channels,
            vae=vae_,
            image_encoder=image_encoder_config(Settings.read(image_encoder)),
            noise=noise_config(public["noise_scheduler_kwargs"]),
            sampling=sampling_config(public["sampling"]),
            pose_style=pose_style,
            member=member,
            pose_tracks=tracks,
            pose_resampling=layout.pose_resampling,
            reference_size=layout.reference_size,
        )
    except ConfigError as error:  # begins with the part that does not fit the others
        source = sources.get(str(error).partition(":")[0], "weights")
        raise CheckpointError(f"{source}: {error}") from error
    if config.image_encoder.projection_dim != unet_.cross_attention_dim:
        raise CheckpointError(
            f"{image_encoder}: expected a projection_dim of {unet_.cross_attention_dim}, the UNet's "
            f"cross_attention_dim, found {config.image_encoder.projection_dim}"
        )
    if pose_channels is not None and config.latent_scale != 2 ** (len(pose_channels) - 1):
        raise CheckpointError(
            f"pose guider: expected {len(config.vae.widths)} channel counts, one per level of the VAE, "
            f"found {quoted(pose_channels)}"
        )
    return config
