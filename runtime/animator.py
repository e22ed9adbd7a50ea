"""The animator: a loaded bundle that turns a reference image and pose frames into a clip.

The life of a clip is `Animator._render`, top to bottom: reference -> pose features -> windows x steps ->
decode. It starts when the first frame is asked for and ends when its iterator does.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from threading import Lock
from types import TracebackType
from typing import NamedTuple

import numpy as np

from ..engines import contract
from ..engines.bundle import Bundle, open_bundle
from ..engines.engine import Buffer, Engine, call, load_engine
from ..errors import ConfigError, DeviceError, InputError, Rejected
from .denoise import WindowPredictor, denoise
from .noise import read_noise, seeded_noise
from .picture import Picture, fit, read_picture, square
from .pose import PoseSequence, PoseSource, open_pose
from .reference import Reference, ReferenceCache, image_key
from .sampler import Step, ddim
from .windows import POLICIES, Policy

DEFAULT_OVERLAP = 4  # frames; the public setting
MAX_GUIDANCE_SCALE = 100  # far beyond use, and finite in every precision
REFERENCE_CACHE_BYTES = 1 << 30
UNETS = (contract.DENOISING_UNET, contract.DENOISING_UNET_CONDITIONAL)


class Progress(NamedTuple):
    """How far a clip has come."""

    stage: str  # "pose", "denoise" or "decode"
    done: int
    total: int | None  # None while the pose sequence's length is unknown


ProgressCallback = Callable[[Progress], None]
Frames = Generator[Buffer, None, None]


@dataclass(frozen=True, slots=True)
class Clip:
    """One job, checked and opened: everything `_render` needs besides the engines."""

    image: Buffer  # reference, uint8 (1, H, W, 3)
    embedded_image: Buffer  # reference, uint8 (1, side, side, 3)
    pose: PoseSequence
    steps: list[Step]
    guidance_scale: float
    seed: int
    initial_noise: Buffer | None  # float32 (frames, 4, h, w)
    policy: Policy
    overlap: int
    progress: ProgressCallback


class Animator:
    """A bundle, loaded. Clips may be made from several threads at once; close it, or use it in a `with`."""

    def __init__(self, bundle: Bundle, reference_cache_bytes: int = REFERENCE_CACHE_BYTES):
        self.bundle = bundle
        self.model, self.bucket = bundle.manifest.model, bundle.manifest.bucket
        self.engines: dict[str, Engine] = {}
        self.loading = Lock()
        self.closed = False
        self.references = ReferenceCache(reference_cache_bytes)
        for graph in bundle.manifest.graphs:
            if graph not in UNETS:
                self.engines[graph] = load_engine(bundle, graph)

    @classmethod
    def load(
        cls, bundle: str | os.PathLike[str], *, reference_cache_bytes: int = REFERENCE_CACHE_BYTES
    ) -> Animator:
        """Verify a bundle and make it ready.

        The denoising UNet has two forms, with guidance and without. Each is loaded when a clip first asks for
        it, after the bundle has been verified again.

        `reference_cache_bytes` bounds the references kept between clips. Raises InputMissing, BundleCorrupt,
        BundleMismatch or DeviceError.
        """
        return cls(open_bundle(bundle), reference_cache_bytes)

    def animate(
        self,
        reference: Picture,
        pose: PoseSource,
        *,
        steps: int = 25,
        guidance_scale: float = 3.5,
        seed: int = 42,
        windows: str = "uniform",
        overlap: int | None = None,
        frames: int | None = None,
        initial_noise: str | os.PathLike[str] | None = None,
        progress: ProgressCallback = lambda _progress: None,
    ) -> Frames:
        """Yield the clip's frames, uint8 (H, W, 3) RGB, one per pose frame, as they are ready.

        reference is a path, a PIL image or a uint8 (H, W, 3) array; pose a path to a video or to a directory
        of images, or an iterable of pictures. Both are resized to the bundle's size as the public pipeline
        does. A guidance_scale of 1 means none. `overlap` counts the frames that neighbouring windows share:
        4, or less where the window has no room for 4. `frames` takes that many of the pose frames.
        `initial_noise` is a .npy file (1, 4, frames, h, w) instead of noise from the seed.

        Options and files are checked here, before the first frame is asked for; raises ConfigError,
        InputError or DeviceError. Closing the iterator abandons the clip.
        """
        bucket = self.bucket
        if self.closed:
            raise Rejected("animator: expected an open one, found it closed; load the bundle again")
        if not 1 <= guidance_scale <= MAX_GUIDANCE_SCALE:
            raise ConfigError(
                f"guidance_scale: expected 1 (none) to {MAX_GUIDANCE_SCALE}, found {guidance_scale}"
            )
        if windows not in POLICIES:
            raise ConfigError(f"windows: expected one of {', '.join(POLICIES)}, found {windows}")
        if overlap is None:
            overlap = min(DEFAULT_OVERLAP, bucket.window - 1)
        if not 0 <= overlap < bucket.window:
            raise ConfigError(
                f"overlap: expected 0 to {bucket.window - 1} frames, less than the bundle's window of "
                f"{bucket.window}, found {overlap}"
            )
        if seed < 0:
            raise ConfigError(f"seed: expected a whole number of at least 0, found {seed}")
        picture = read_picture(reference)
        clip = Clip(
            image=fit(picture, bucket.width, bucket.height)[None],
            embedded_image=square(picture, self.model.image_encoder.image_size)[None],
            pose=open_pose(pose, frames),
            steps=ddim(self.model.noise, steps),
            guidance_scale=guidance_scale,
            seed=seed,
            initial_noise=None if initial_noise is None else read_noise(initial_noise, self._latent_shape),
            policy=POLICIES[windows],
            overlap=overlap,
            progress=progress,
        )
        return self._render(clip)

    def close(self) -> None:
        """Let go of engines and references. What needs them later, a clip that is being made included, is
        Rejected."""
        with self.loading:
            self.closed = True
            self.engines.clear()
        self.references.clear()

    def __enter__(self) -> Animator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _render(self, clip: Clip) -> Frames:
        key = image_key(clip.image, clip.embedded_image)
        reference = self.references.get(key, lambda: self._encode_reference(clip))
        pose_features = self._guide(clip)
        latents = self._initial_latents(clip, len(pose_features))
        windows = clip.policy(len(latents), self.bucket.window, clip.overlap)
        guided = clip.guidance_scale > 1
        unet = self.engine(contract.DENOISING_UNET if guided else contract.DENOISING_UNET_CONDITIONAL)
        predict = WindowPredictor(unet, reference, pose_features, clip.guidance_scale)
        tick = counter(clip.progress, "denoise", len(windows) * len(clip.steps))
        denoise(latents, clip.steps, self._time_rows(clip.steps), windows, predict, tick)
        if not np.isfinite(latents).all():
            raise DeviceError(
                "denoising: expected finite latents, found NaN or infinity; check the weights, or build the "
                "bundle with --precision fp32"
            )
        yield from self._decode(latents, counter(clip.progress, "decode", len(latents)))

    def _encode_reference(self, clip: Clip) -> Reference:
        embeds = self._call(contract.IMAGE_ENCODER, image=clip.embedded_image)["image_embeds"]
        latents = self._call(contract.VAE_ENCODER, image=clip.image)["latents"]
        return self._call(contract.REFERENCE_NET, latents=latents, image_embeds=embeds)

    def _guide(self, clip: Clip) -> list[Buffer]:
        """Pose features (C0, h, w) of each frame; the pictures themselves are not kept."""
        engine = self.engine(contract.POSE_GUIDER)
        context, tick = engine.context(), counter(clip.progress, "pose", clip.pose.num_frames)
        features = []
        for picture in clip.pose:
            frame = fit(picture, self.bucket.width, self.bucket.height)[None]
            features.append(call(context, engine.contract, frame=frame)["pose_features"][0])
            tick()
        return features

    def _initial_latents(self, clip: Clip, num_frames: int) -> Buffer:
        if clip.initial_noise is None:
            return seeded_noise(clip.seed, num_frames, self._latent_shape)
        if len(clip.initial_noise) != num_frames:
            raise InputError(
                f"initial noise: expected {num_frames} frames, as many as poses, "
                f"found {len(clip.initial_noise)}"
            )
        return clip.initial_noise

    @property
    def _latent_shape(self) -> tuple[int, ...]:
        """(4, h, w)"""
        return self.bundle.manifest.graphs[contract.VAE_DECODER].inputs[0].shape[1:]

    def _time_rows(self, steps: Iterable[Step]) -> list[Buffer]:
        engine = self.engine(contract.TIME_EMBEDDING)
        context = engine.context()
        timesteps = (np.array([step.timestep], np.float32) for step in steps)
        return [call(context, engine.contract, timestep=timestep)["time_row"] for timestep in timesteps]

    def _decode(self, latents: Buffer, tick: Callable[[], None]) -> Frames:
        engine = self.engine(contract.VAE_DECODER)
        context = engine.context()
        for frame_latents in latents:
            frame = call(context, engine.contract, latents=frame_latents[None])["frame"][0]
            tick()
            yield frame

    def _call(self, graph: str, **inputs: Buffer) -> dict[str, Buffer]:
        engine = self.engine(graph)
        return call(engine.context(), engine.contract, **inputs)

    def engine(self, graph: str) -> Engine:
        """The loaded engine of a graph, for the contract's name of it."""
        with self.loading:
            if self.closed:
                raise Rejected("animator: expected an open one, found it closed; load the bundle again")
            if graph not in self.engines:
                self.bundle.verify()
                self.engines[graph] = load_engine(self.bundle, graph)
            return self.engines[graph]


def counter(progress: ProgressCallback, stage: str, total: int | None) -> Callable[[], None]:
    """Report a stage's beginning now, and one more thing done at each call."""
    done = 0

    def tick() -> None:
        nonlocal done
        done += 1
        progress(Progress(stage, done, total))

    progress(Progress(stage, 0, total))
    return tick
