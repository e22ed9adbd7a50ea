"""The contract of each graph: names, dtypes and static shapes of its inputs and outputs, derived from the
model, the shape bucket and the precision.

Exporters produce graphs that match it, backends check loaded engines against it, and the runtime allocates
buffers from it. `DENOISING_UNET` returns a guided prediction; `DENOISING_UNET_CONDITIONAL` is the same
network without the unconditional half, for guidance_scale = 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal

from ..errors import ConfigError
from ..text import quoted
from .model import ModelConfig

IMAGE_ENCODER = "image_encoder"
VAE_ENCODER = "vae_encoder"
REFERENCE_NET = "reference_net"
POSE_GUIDER = "pose_guider"
TIME_EMBEDDING = "time_embedding"
DENOISING_UNET = "denoising_unet"
DENOISING_UNET_CONDITIONAL = "denoising_unet_conditional"
VAE_DECODER = "vae_decoder"
# For feature caching: both variants of the whole UNet that also return deep features, and those of the last
# layer, which read them.
CACHING = {unet: f"{unet}_caching" for unet in (DENOISING_UNET, DENOISING_UNET_CONDITIONAL)}
SHALLOW = {unet: f"{unet}_shallow" for unet in CACHING}

REFERENCE = (IMAGE_ENCODER, VAE_ENCODER, REFERENCE_NET)  # run once for each reference
PREPARE = (*REFERENCE, POSE_GUIDER, TIME_EMBEDDING)  # run before denoising
UNETS = (*CACHING, *CACHING.values(), *SHALLOW.values())  # each is loaded when a clip first needs it

DType = Literal["float32", "float16", "uint8", "int32"]
MAX_SIDE = 1 << 14  # pixels
MAX_MEMORY = 1 << 40  # bytes that a plan may need
ITEM_BYTES: dict[DType, int] = {"float32": 4, "float16": 2, "uint8": 1, "int32": 4}


@dataclass(frozen=True, slots=True, kw_only=True)
class ShapeBucket:
    """The video size and window length that a bundle's engines are built for."""

    width: int  # pixels
    height: int
    window: int  # frames that the denoising UNet processes at once

    def check(self, model: ModelConfig) -> None:
        """Raise ConfigError if the model cannot run at this size."""
        step = model.latent_scale
        smallest = step * int(2 ** (len(model.unet.widths) - 1))  # one latent left at the lowest level
        for name, size in (("width", self.width), ("height", self.height), ("window", self.window)):
            if type(size) is not int:
                raise ConfigError(f"{name}: expected a whole number, found {quoted(size)}")
        for name, size in (("width", self.width), ("height", self.height)):
            if size > MAX_SIDE:
                raise ConfigError(f"{name}: expected at most {MAX_SIDE} pixels, found {quoted(size)}")
            if size % step or size < smallest:
                nearest = max(smallest, round(max(size, 0) / step) * step)
                raise ConfigError(
                    f"{name}: expected a multiple of {step} of at least {smallest}, found {quoted(size)}; "
                    f"the nearest is {nearest}"
                )
        if not 1 <= self.window <= model.motion.max_frames:
            raise ConfigError(
                f"window: expected 1 to {model.motion.max_frames} frames (the length of the weights' "
                f"positional encoding), found {quoted(self.window)}"
            )


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Name, dtype and static shape of one input or output."""

    name: str
    dtype: DType
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        return prod(self.shape) * ITEM_BYTES[self.dtype]


@dataclass(frozen=True, slots=True)
class Contract:
    """Inputs and outputs of one graph, in the order of the graph."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True, slots=True)
class Memory:
    """Device memory that an engine needs, in bytes."""

    weights: int
    activations: int  # in use only while it runs; shared by engines that never run at the same time
    loading: int = 0  # besides its weights, while it is loaded: mostly pages of a mapped file

    def __post_init__(self) -> None:
        for size in (self.weights, self.activations, self.loading):
            if not 0 <= size <= MAX_MEMORY:
                raise ConfigError(f"memory: expected 0 to {MAX_MEMORY} bytes, found {quoted(size)}")


def shared_activations(memory: dict[str, Memory], graphs: Sequence[str]) -> int:
    """Bytes of the activation memory that these engines share; they never run at the same time."""
    return max((memory[graph].activations for graph in graphs if graph in memory), default=0)


def contracts(
    model: ModelConfig, bucket: ShapeBucket, dtype: DType, *, feature_cache: bool = False
) -> dict[str, Contract]:
    """Contract of every graph, by name, in the order in which a clip uses them.

    With `feature_cache` there are those of CACHING and SHALLOW. `dtype` is the type of image embeddings, time
    rows, pose features, deep features and the reference's tensors. Latents, predictions, timesteps and scales
    are always float32. Pictures are uint8, but for decoded frames that are resized before they are rounded.
    If a pose frame has several pictures, they lie side by side. Raises ConfigError if the model cannot run at
    this size.
    """
    bucket.check(model)
    unet, frames = model.unet, bucket.window
    height, width = bucket.height, bucket.width
    h, w = height // model.latent_scale, width // model.latent_scale
    encoder = model.image_encoder

    def image(name: str, height: int, width: int, dtype: DType = "uint8") -> TensorSpec:
        return TensorSpec(name, dtype, (1, height, width, 3))

    def latents(name: str, frames: int) -> TensorSpec:
        return TensorSpec(name, "float32", (frames, unet.latent_channels, h, w))

    def pose_features(frames: int) -> TensorSpec:
        return TensorSpec("pose_features", dtype, (frames, unet.widths[0], h, w))

    embeds = TensorSpec("image_embeds", dtype, (1, encoder.projection_dim))
    time_row = TensorSpec("time_row", dtype, (1, sum(model.resnet_widths())))
    reference = reference_specs(model, h, w, dtype)
    conditional = (
        latents("latents", frames),
        TensorSpec("num_frames", "int32", (1,)),  # frames past the first num_frames are padding
        time_row,
        pose_features(frames),
        *reference,
    )
    guidance_scale = TensorSpec("guidance_scale", "float32", (1,))
    prediction = (latents("prediction", frames),)
    side = encoder.image_size
    pictures = max(1, len(model.pose_tracks))
    decoded: DType = "float32" if model.reference_size else "uint8"

    def with_cache(graph: str, halves: int, given: tuple[TensorSpec, ...]) -> dict[str, Contract]:
        """The graphs of one variant. With guidance features have two halves, the unconditional one first."""
        features, before = (
            TensorSpec(name, dtype, (halves * frames, unet.widths[0], h, w))
            for name in ("deep_features", "deep_features_before")
        )
        read = {spec.name for spec in reference[-3 if unet.attention[0] else len(reference) :]}
        shallow = tuple(spec for spec in given if spec.name in read or spec not in reference)
        extrapolation = TensorSpec("extrapolation", "float32", (1,))
        return {
            CACHING[graph]: Contract(given, (*prediction, features)),
            SHALLOW[graph]: Contract((features, before, extrapolation, *shallow), prediction),
        }

    guided = (*conditional, guidance_scale)
    cached = (
        with_cache(DENOISING_UNET, 2, guided) | with_cache(DENOISING_UNET_CONDITIONAL, 1, conditional)
        if feature_cache
        else {}
    )
    return {
        IMAGE_ENCODER: Contract((image("image", side, side),), (embeds,)),
        VAE_ENCODER: Contract((image("image", height, width),), (latents("latents", 1),)),
        REFERENCE_NET: Contract((latents("latents", 1), embeds), reference),
        POSE_GUIDER: Contract((image("frame", height, pictures * width),), (pose_features(1),)),
        TIME_EMBEDDING: Contract((TensorSpec("timestep", "float32", (1,)),), (time_row,)),
        DENOISING_UNET: Contract(guided, prediction),
        DENOISING_UNET_CONDITIONAL: Contract(conditional, prediction),
        **cached,
        VAE_DECODER: Contract((latents("latents", 1),), (image("frame", height, width, decoded),)),
    }


def reference_specs(model: ModelConfig, h: int, w: int, dtype: DType) -> tuple[TensorSpec, ...]:
    """key_i, value_i (1, heads, tokens, head width) and cross_i (1, width) of each spatial attention block.

    h x w is the size of the latents.
    """
    specs = []
    for i, block in enumerate(model.spatial_attentions()):
        tokens = halved(h, block.level) * halved(w, block.level)
        keys = (1, block.heads, tokens, block.width // block.heads)
        specs += [
            TensorSpec(f"key_{i}", dtype, keys),
            TensorSpec(f"value_{i}", dtype, keys),
            TensorSpec(f"cross_{i}", dtype, (1, block.width)),
        ]
    return tuple(specs)


def halved(size: int, times: int) -> int:
    """Length of a side after `times` stride-2 convolutions with padding 1."""
    return -(-size // (1 << times))
