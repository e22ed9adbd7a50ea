"""The files that drive a shot: one pose sequence, or one for each track of the model."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from ...engines.manifest import Manifest
from ...errors import InputError
from ..clip.tracks import check_tracks, join
from ..media.animated_picture import is_still
from ..media.pose_sequence import PoseSequence, open_pose
from .frame_range import frame_range, must_exist

if TYPE_CHECKING:
    from PIL import Image

PoseFiles: TypeAlias = "Path | Mapping[str, Path]"  # of one sequence, or of each track by name
ONLY = "pose"  # the name of a sequence that is no track


def by_track(pose: PoseFiles) -> Mapping[str, Path]:
    return {ONLY: pose} if isinstance(pose, Path) else pose


def tracks_in(pose: PoseFiles) -> Collection[str]:
    """The names of tracks, none for a sequence that is no track."""
    return [] if isinstance(pose, Path) else pose


def open_drawn(
    pose: PoseFiles, manifest: Manifest, frames: str | None, pose_fps: Fraction | None, *, still: bool
) -> PoseSequence:
    """The pose frames of a shot as the model of this manifest takes them; the rest as in `open_frames`.

    Raises ConfigError if the model is driven by other tracks.
    """
    check_tracks(manifest.model, tracks_in(pose))
    opened = {name: open_frames(path, frames, pose_fps, still=still) for name, path in by_track(pose).items()}
    return opened[ONLY] if isinstance(pose, Path) else join(opened, manifest.model, manifest.bucket)


def open_frames(
    pose: Path, frames: str | None, pose_fps: Fraction | None = None, *, still: bool = False
) -> PoseSequence:
    """The pose frames of a shot, resampled to `pose_fps` before they are counted.

    still: a single picture is a sequence of one frame, and not an error. Reading a range raises InputError if
    there are fewer frames.
    """
    start, stop = frame_range(frames)
    sequence = open_pose([pose] if still and is_still(pose) else pose, stop, pose_fps)
    if not must_exist(frames):
        return sequence
    assert stop is not None

    def read() -> Iterator[Image.Image]:
        count = 0
        for count, picture in enumerate(sequence, start=1):
            if count > start:
                yield picture
        if count < stop:
            raise InputError(f"{pose}: expected pose frames {frames}, found {count}")

    return replace(sequence, read=read, num_frames=stop - start)
