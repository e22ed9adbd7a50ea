"""Pose sequences: a video, a directory of pictures or an iterable of pictures, read one frame at a time."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import partial
from itertools import islice, pairwise
from math import ceil
from numbers import Integral
from operator import length_hint
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np

from ...errors import ConfigError, InputError
from ...text import quoted
from .animated_picture import STILL_FORMATS, open_animated, single_picture
from .colour import BLACK
from .folder import pictures
from .notices import notice
from .picture import MAX_NAME, Picture, check_picture, read_picture
from .picture_file import looks_like
from .resampling import in_ticks, resampled
from .video import open_video
from .writer import MAX_RATE

if TYPE_CHECKING:
    from PIL import Image

T = TypeVar("T")
PoseSource: TypeAlias = "str | os.PathLike[str] | Iterable[Picture]"

PICTURE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".heif"}

DEFAULT_FRAME_RATE = Fraction(24)  # of pose sequences that have none, such as directories of pictures


@dataclass(frozen=True, slots=True)
class PoseSequence:
    """Pose frames as RGB pictures in their original size, read while iterating and not kept.

    `frame_rate` is None if the source has none. `num_frames` is an estimate for progress reports, or None.
    A path can be iterated several times, an iterator only once. A repeated frame may be the same object.
    `style` is the tool whose skeletons these are, if it is known, such as "dwpose". `tracks` are the names of
    those that were joined into this sequence (runtime/clip/tracks.py).
    """

    read: Callable[[], Iterator[Image.Image]] = field(repr=False)
    frame_rate: Fraction | None
    num_frames: int | None
    style: str | None = None
    tracks: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Image.Image]:
        return self.read()


def open_pose(
    source: PoseSource, limit: int | None, frame_rate: Fraction | float | None = None
) -> PoseSequence:
    """Open the first `limit` frames of a video, of a directory of pictures or of an iterable of them.

    With `frame_rate`, in frames per second, the frames are resampled in time to that rate before they are
    counted. A sequence without a rate of its own is taken to have 24 frames per second. Transparent pixels
    become black, as skeletons are drawn on black.

    Raises ConfigError, InputMissing or InputError if the sequence cannot be opened, or if the header of one
    of its pictures shows that it cannot be used; iterating raises InputError for damage that is found later.
    """
    check_limit(limit)
    rate = None if frame_rate is None else checked_rate(frame_rate)
    if isinstance(source, np.ndarray) and source.ndim:
        source = list(source)
    if isinstance(source, PoseSequence):
        name, sequence = "the pose sequence", _resample(source, rate)
    elif isinstance(source, str | os.PathLike):
        path = os.fsdecode(source)
        name = quoted(path, MAX_NAME)
        is_directory = os.path.isdir(path)
        sequence = _open_directory(path, limit, rate) if is_directory else _open_file(path, rate)
    elif isinstance(source, Iterable) and not isinstance(source, np.ndarray):
        name, sequence = f"the given {type(source).__name__}", _open_iterable(source, limit, rate)
    else:
        raise InputError(f"poses must be a path or an iterable of pictures, found {type(source).__name__}")
    num_frames = sequence.num_frames
    if limit is not None and num_frames is not None:
        num_frames = min(num_frames, limit)
    return replace(sequence, read=partial(_first, limit, sequence, name), num_frames=num_frames)


def check_limit(limit: int | None) -> None:
    """Raise ConfigError unless it is a number of frames, or None."""
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, Integral) or limit < 1):
        raise ConfigError(f"frames: expected a whole number of at least 1, found {quoted(limit)}")


def _first(limit: int | None, frames: Iterable[Image.Image], name: str) -> Iterator[Image.Image]:
    frame = None
    for frame in islice(frames, limit and min(limit, sys.maxsize)):
        yield frame
    if frame is None:
        raise InputError(f"{name} has no pose frame: at least one is needed")


def only_one(frames: Iterable[T], output: Path, choose: str) -> Iterator[T]:
    """Yield the frame of a sequence that should have one. Raises ConfigError at a second one.

    output: the picture that is made of it. choose: the option that chooses one of several.
    """
    for number, frame in enumerate(frames):
        if number:
            raise ConfigError(
                f"{quoted(str(output), MAX_NAME)}: expected one pose frame for one picture, found more; "
                f"choose one, as {choose} does, or give the name of an mp4 or a directory"
            )
        yield frame


def _resample(sequence: PoseSequence, frame_rate: Fraction | None) -> PoseSequence:
    step = _step(sequence.frame_rate, frame_rate)
    if step == 1:
        return sequence
    num_frames = _count(sequence.num_frames, step)
    return replace(
        sequence,
        read=lambda: resampled(in_ticks(sequence), step),
        frame_rate=frame_rate,
        num_frames=num_frames,
    )


def _open_iterable(source: Iterable[Picture], limit: int | None, frame_rate: Fraction | None) -> PoseSequence:
    """Open pictures; those of a sequence are checked here."""
    read, step = partial(read_picture, background=BLACK), _step(None, frame_rate)
    if isinstance(source, Sequence):
        chosen = list(resampled(in_ticks(source), step))
        for picture in chosen[:limit]:
            check_picture(picture)
        return PoseSequence(partial(map, read, chosen), frame_rate, len(chosen) or None)
    num_frames = _count(length_hint(source) or None, step)
    if step == 1:
        return PoseSequence(partial(map, read, source), frame_rate, num_frames)
    return PoseSequence(lambda: map(read, resampled(in_ticks(source), step)), frame_rate, num_frames)


def _open_directory(path: str, limit: int | None, frame_rate: Fraction | None) -> PoseSequence:
    name = quoted(path, MAX_NAME)
    try:
        files = pictures(Path(path), PICTURE_SUFFIXES)
    except OSError as error:
        raise InputError(f"cannot read the directory {name}: {error.strerror}") from error
    if not files:
        raise InputError(
            f"{name} has no pose frame: expected files ending in {' '.join(sorted(PICTURE_SUFFIXES))}"
        )
    _notice_gaps(name, files)
    return _open_iterable(files, limit, frame_rate)


def _notice_gaps(name: str, files: list[Path]) -> None:
    """Log a warning where numbered files leave out numbers, as a render that failed in between does."""
    parts = [re.fullmatch(r"(.*?)(\d{1,18})(\D*)", file.name) for file in files]
    if len({(part[1], part[3]) if part else None for part in parts}) != 1 or None in parts:
        return
    numbers = sorted({int(part[2]) for part in parts if part})
    steps = [after - before for before, after in pairwise(numbers)]
    if steps and max(steps) > min(steps):
        missing = sum(step // min(steps) - 1 for step in steps)
        first = numbers[steps.index(max(steps))]
        notice(
            f"{name}: {missing} numbered pose frames seem to be missing, the most after number {first}; "
            "the others are used without a pause"
        )


def _open_file(path: str, frame_rate: Fraction | None) -> PoseSequence:
    """Open a video or a picture with several frames."""
    try:
        opened = open_animated(path) or open_video(path)
    except InputError as error:
        if looks_like(path, STILL_FORMATS):
            raise single_picture(path) from error
        raise
    step = _step(opened.frame_rate, frame_rate)
    return PoseSequence(
        partial(opened.pictures, step), frame_rate or opened.frame_rate, _count(opened.num_frames, step)
    )


def checked_rate(frame_rate: Any) -> Fraction:
    """Return a rate for resampling poses, in frames per second. Raises ConfigError."""
    try:
        if not isinstance(frame_rate, bool | str):
            rate = Fraction(frame_rate).limit_denominator(1001)
            if 1 / MAX_RATE <= rate <= MAX_RATE:
                return rate
    except (TypeError, ValueError, OverflowError):
        pass
    raise ConfigError(f"pose_fps: expected 1/{MAX_RATE} to {MAX_RATE}, found {quoted(frame_rate)}")


def _step(own: Fraction | None, wanted: Fraction | None) -> float:
    """Ticks of a sequence's own rate from one frame to the next at the rate that is wanted."""
    return 1 if wanted is None else float((own or DEFAULT_FRAME_RATE) / wanted)


def _count(num_frames: int | None, step: float) -> int | None:
    """The number of frames that `resampled` gives for frames at constant intervals."""
    return num_frames and ceil((num_frames - min(step, 1) / 2) / step)
