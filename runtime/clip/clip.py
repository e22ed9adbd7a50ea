"""A clip: one job of an animator, with its inputs opened and its options resolved."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sized
from dataclasses import dataclass, field
from fractions import Fraction
from threading import Event
from typing import TYPE_CHECKING, Self

from ...engines import contract
from ...engines.device import Array
from ...engines.manifest import Manifest
from ...errors import Cancelled, ConfigError, InputError
from ...text import quoted
from ..media.picture import Picture, fit, read_picture, square
from ..media.pose_sequence import PoseSequence, PoseSource, open_pose
from .noise import check_length, read_noise
from .options import ClipOptions, ClipSettings
from .progress import Progress, ProgressCallback
from .snapshot import SnapshotSink
from .tracks import check_tracks, join
from .windows import KnownLength

if TYPE_CHECKING:
    from PIL import Image

MAX_PIXELS = 1 << 25  # of a frame


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """Everything `Animator._render` needs besides the engines."""

    manifest: Manifest
    settings: ClipSettings
    image: Array  # reference for the VAE encoder, uint8 (1, H, W, 3)
    embedded_image: Array  # reference for the image encoder, uint8 (1, side, side, 3)
    pose: PoseSequence
    frame_size: tuple[int, int] | None  # width and height to which frames are resized
    initial_noise: Array | None  # float32 (frames, 4, h, w)
    on_progress: ProgressCallback
    snapshots: SnapshotSink
    cancelled: Event = field(default_factory=Event)

    @classmethod
    def open(
        cls,
        manifest: Manifest,
        reference: Picture,
        pose: PoseSource | Mapping[str, PoseSource],
        options: ClipOptions,
        *,
        frames: int | None,
        pose_fps: Fraction | float | None,
        initial_noise: str | os.PathLike[str] | None,
        progress: ProgressCallback,
        snapshots: SnapshotSink,
    ) -> Self:
        """Open the inputs and resolve the options. The arguments are those of `Animator.animate`.

        Raises ConfigError or InputError for all that can be known to be wrong before poses are read.
        """
        if not callable(progress):
            raise ConfigError(
                f"progress: expected a function that takes a Progress, found {quoted(progress)}"
            )
        if not isinstance(snapshots, SnapshotSink):
            raise ConfigError(f"snapshots: expected a SnapshotSink, found {quoted(snapshots)}")
        settings, bucket = options.resolve(manifest), manifest.bucket
        if isinstance(pose, Mapping):
            tracks = {name: open_pose(source, frames, pose_fps) for name, source in pose.items()}
            poses = join(tracks, manifest.model, bucket)
        else:
            poses = open_pose(pose, frames, pose_fps)
            check_tracks(manifest.model, poses.tracks)
        if poses.style not in (None, manifest.model.pose_style):
            raise ConfigError(
                f"pose: expected skeletons in the bundle's style {manifest.model.pose_style}, found "
                f"{quoted(poses.style)}; open them with style={manifest.model.pose_style!r}"
            )
        noise = None if initial_noise is None else read_noise(initial_noise, latent_shape(manifest))
        if noise is not None and poses.num_frames and has_known_length(pose):
            check_length(len(noise), poses.num_frames)
        picture = read_picture(reference, settings.background)
        return cls(
            manifest=manifest,
            settings=settings,
            image=fit(picture, bucket.width, bucket.height)[None],
            embedded_image=square(picture, manifest.model.image_encoder.image_size)[None],
            pose=poses,
            frame_size=frame_size(manifest, picture),
            initial_noise=noise,
            on_progress=progress,
            snapshots=snapshots,
        )

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """The shape of one frame's latents, (4, h, w)."""
        return latent_shape(self.manifest)

    def progress(self, progress: Progress) -> None:
        """Report progress, unless the clip has been cancelled. Raises Cancelled.

        Every wait is followed by a report, so this is where most cancelled clips end.
        """
        self.check_cancelled()
        self.on_progress(progress)

    def check_cancelled(self) -> None:
        """Raise Cancelled if the clip has been cancelled."""
        check_cancelled(self.cancelled)

    def num_tasks(self, num_frames: int | None) -> int | None:
        """Return the number of tasks of a clip of that length; None while the length is unknown."""
        if num_frames is None:
            return None
        windows = self.settings.windows(KnownLength(num_frames))
        return sum(1 for _ in windows) * len(self.settings.steps)


def check_cancelled(cancelled: Event) -> None:
    if cancelled.is_set():
        raise Cancelled("clip: cancelled on request; call animate() again to make it")


def frame_size(manifest: Manifest, reference: Image.Image) -> tuple[int, int] | None:
    """Width and height to which a clip's frames are resized, or None if they stay as they are."""
    if not manifest.model.reference_size:
        return None
    if reference.width * reference.height > MAX_PIXELS:
        raise InputError(
            f"reference: expected at most {MAX_PIXELS} pixels, as the frames get its size, found "
            f"{reference.width}x{reference.height}; make it smaller"
        )
    return reference.size


def has_known_length(pose: PoseSource | Mapping[str, PoseSource]) -> bool:
    """Return whether the number of pose frames is exact before they are read, as it is not for videos."""
    if isinstance(pose, Mapping):
        return all(map(has_known_length, pose.values()))
    return os.path.isdir(pose) if isinstance(pose, str | os.PathLike) else isinstance(pose, Sized)


def latent_shape(manifest: Manifest) -> tuple[int, ...]:
    return manifest.graphs[contract.VAE_DECODER].inputs[0].shape[1:]
