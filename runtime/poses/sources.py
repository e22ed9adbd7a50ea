"""Sources: what drives a clip, pictures with a person in them or keypoints that have been found already."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from fractions import Fraction
from itertools import islice
from math import ceil, floor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..media.animated_picture import FORMATS, STILL_FORMATS, is_still
from ..media.folder import listed
from ..media.frame_range import FrameRange
from ..media.picture_file import looks_like
from ..media.pose_sequence import DEFAULT_FRAME_RATE, PoseSequence, open_pose
from ..media.sound import Sound
from .extraction.extract import Report, extract
from .extraction.models import Models
from .keypoints import NUM_POINTS, Keypoints, Pose
from .people import Person

if TYPE_CHECKING:
    from PIL import Image

KEYPOINT_SUFFIXES = {".json", ".npz", ".npy"}

OnFrame = Callable[[int, int | None], None]  # called with frames done and their number, if known


def is_keypoint_source(source: Any) -> bool:
    """Whether a source is Keypoints, a keypoint file, or a folder that has JSON files."""
    if not isinstance(source, str | os.PathLike):
        return isinstance(source, Keypoints)
    path = Path(os.fsdecode(source))
    if path.is_dir():
        with suppress(OSError):  # whoever reads the folder says why it cannot be read
            return any(entry.suffix.lower() == ".json" for entry in listed(path))
    return path.suffix.lower() in KEYPOINT_SUFFIXES


def open_driver(source: Any, limit: int | None = None, frame_rate: Fraction | None = None) -> PoseSequence:
    """Open pictures with a person in them as `open_pose` does; a single picture is a sequence of one."""
    return open_pose([source] if is_still(source) else source, limit, frame_rate)


def driving_pictures(source: Path, frames: FrameRange) -> PoseSequence | None:
    """The frame of a driving video at the time of each frame of a range; None if keypoints drive.

    Raises InputMissing or InputError.
    """
    if is_keypoint_source(source):
        return None
    frames = frames.at(open_driver(source).frame_rate or DEFAULT_FRAME_RATE)
    pictures = open_driver(source, frames.stop, frames.frame_rate)
    return replace(pictures, read=lambda: islice(pictures, frames.start, None))


def sound_from(source: Path, start: Fraction) -> Sound | None:
    """The sound of a driving video from a time on, in seconds. None if it has none.

    Keypoints, folders and picture files, animated or not, have none. Raises InputMissing or InputError.
    """
    is_picture = looks_like(os.fspath(source), (*STILL_FORMATS, *FORMATS))
    if is_keypoint_source(source) or not source.is_file() or is_picture:
        return None
    sound = Sound(str(source), start)
    return sound if sound.exists() else None


def source_frames(frames: FrameRange, rate: Fraction) -> tuple[int, int | None]:
    """The first frame of the source that a range needs, and the one to stop before."""
    step = rate / (frames.frame_rate or rate)
    stop = None if frames.stop is None else ceil((frames.stop - 1) * step) + 1
    return floor(frames.start * step), stop


def extracted(
    pictures: Iterable[Image.Image],
    models: Models,
    person: Person,
    frame_rate: Fraction | None,
    report: Report | None = None,
    total: int | None = None,
    on_frame: OnFrame = lambda _done, _total: None,
) -> Keypoints:
    """The keypoints of one person in pictures, in pixels of the first one."""
    sized = Sized(pictures)
    poses: list[Pose] = []
    for pose in extract(sized, models, person=person, report=report):
        poses.append(pose)
        on_frame(len(poses), total)
    frames = np.array(poses) if poses else np.zeros((0, NUM_POINTS, 3))
    width, height = sized.first or (1, 1)
    return Keypoints(frames, width, height, frame_rate)


class Sized:
    """Pictures, all in the size of the first one, which is `first` once it has been read."""

    def __init__(self, pictures: Iterable[Image.Image]):
        self.pictures = pictures
        self.first: tuple[int, int] | None = None

    def __iter__(self) -> Iterator[Image.Image]:
        for picture in self.pictures:
            self.first = self.first or picture.size
            yield picture if picture.size == self.first else picture.resize(self.first)
