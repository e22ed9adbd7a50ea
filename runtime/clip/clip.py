"""The clip: one job of an animator, its inputs read and its options resolved."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from threading import Event
from typing import Self

from ...engines import contract
from ...engines.bundle import Manifest
from ...engines.device import Array
from ...errors import Cancelled
from ..media.picture import Picture, fit, read_picture, square
from ..media.pose_sequence import PoseSequence, PoseSource, open_pose
from .noise import read_noise
from .options import ClipOptions, ClipSettings
from .progress import ProgressCallback
from .snapshot import SnapshotSink
from .windows import Known


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """Everything `Animator._render` needs besides the engines."""

    manifest: Manifest
    settings: ClipSettings
    image: Array  # reference, uint8 (1, H, W, 3)
    embedded_image: Array  # reference, uint8 (1, side, side, 3)
    pose: PoseSequence
    initial_noise: Array | None  # float32 (frames, 4, h, w)
    progress: ProgressCallback
    snapshots: SnapshotSink
    cancelled: Event = field(default_factory=Event)

    @classmethod
    def open(
        cls,
        manifest: Manifest,
        reference: Picture,
        pose: PoseSource,
        options: ClipOptions,
        *,
        frames: int | None,
        initial_noise: str | os.PathLike[str] | None,
        progress: ProgressCallback,
        snapshots: SnapshotSink,
    ) -> Self:
        """Read the inputs and resolve the options; the arguments are those of `Animator.animate`."""
        settings, bucket = options.resolve(manifest), manifest.bucket
        picture = read_picture(reference)
        return cls(
            manifest=manifest,
            settings=settings,
            image=fit(picture, bucket.width, bucket.height)[None],
            embedded_image=square(picture, manifest.model.image_encoder.image_size)[None],
            pose=open_pose(pose, frames),
            initial_noise=None
            if initial_noise is None
            else read_noise(initial_noise, latent_shape(manifest)),
            progress=progress,
            snapshots=snapshots,
        )

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Of one frame: (4, h, w)."""
        return latent_shape(self.manifest)

    def check_cancelled(self) -> None:
        """Raise Cancelled if the clip was cancelled."""
        if self.cancelled.is_set():
            raise Cancelled("clip: it was cancelled; ask for it again")

    def num_tasks(self, num_frames: int | None) -> int | None:
        """Tasks of a clip of that length; None while the length is unknown."""
        if num_frames is None:
            return None
        settings = self.settings
        windows = settings.policy(Known(num_frames), settings.window, settings.overlap)
        return sum(1 for _ in windows) * len(settings.steps)


def latent_shape(manifest: Manifest) -> tuple[int, ...]:
    return manifest.graphs[contract.VAE_DECODER].inputs[0].shape[1:]
