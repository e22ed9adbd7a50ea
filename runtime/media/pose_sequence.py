"""Pose sequences: a video, a directory of pictures or any iterable of them, read one frame at a time."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from itertools import islice, pairwise
from operator import length_hint
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from ...errors import ConfigError, InputError, InputMissing
from .picture import Picture, read_picture

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video import VideoFrame, VideoStream
    from PIL import Image

PoseSource: TypeAlias = "str | os.PathLike[str] | Iterable[Picture]"

PICTURE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}

# Named one by one: FFmpeg would also draw a text file as terminal art, or follow a playlist to other files.
VIDEO_FORMATS = "mov,matroska,avi,gif,apng,mpegts,mpeg,flv,asf,ogg,ivf,mxf,nut"

# AVI counts frames in the order of decoding, an MPEG program stream times only some: their rate is constant.
UNTIMED_FORMATS = {"avi", "mpeg"}

RGB, UNTAGGED = 0, 2  # AVCOL_SPC_RGB and AVCOL_SPC_UNSPECIFIED, which PyAV has no names for


@dataclass(frozen=True, slots=True)
class PoseSequence:
    """Pose frames as RGB pictures in their native size, read while iterating and never kept.

    `frame_rate` is None where the source has none; `num_frames`, for progress only, is an estimate or None.
    A path is read anew by each iteration, an iterator only lasts for one.
    """

    read: Callable[[], Iterator[Image.Image]] = field(repr=False)
    frame_rate: Fraction | None
    num_frames: int | None

    def __iter__(self) -> Iterator[Image.Image]:
        return self.read()


def open_pose(source: PoseSource, limit: int | None) -> PoseSequence:
    """Open the first `limit` frames of a video, of a directory of pictures or of an iterable of them.

    What cannot be a pose sequence is refused here; damage further in shows while iterating.
    """
    if limit is not None and limit < 1:
        raise ConfigError(f"frames: expected at least 1, found {limit}")
    if isinstance(source, PoseSequence):
        name, sequence = "the pose sequence", source
    elif isinstance(source, str | os.PathLike):
        name = os.fspath(source)
        sequence = _open_directory(name) if os.path.isdir(name) else _open_video(name)
    elif isinstance(source, Iterable):
        name = f"the given {type(source).__name__}"
        sequence = PoseSequence(partial(map, read_picture, source), None, length_hint(source) or None)
    else:
        raise InputError(f"poses must be a path or an iterable of pictures, found {type(source).__name__}")
    num_frames = sequence.num_frames
    if limit is not None and num_frames is not None:
        num_frames = min(num_frames, limit)
    return PoseSequence(partial(_first, limit, sequence, name), sequence.frame_rate, num_frames)


def _first(limit: int | None, frames: Iterable[Image.Image], name: str) -> Iterator[Image.Image]:
    frame = None
    for frame in islice(frames, limit and min(limit, sys.maxsize)):
        yield frame
    if frame is None:
        raise InputError(f"{name} has no pose frame: at least one is needed")


def _open_directory(path: str) -> PoseSequence:
    try:
        entries = sorted(Path(path).iterdir(), key=_natural)
    except OSError as error:
        raise InputError(f"cannot look into {path}: {error.strerror}") from error
    pictures = [
        entry
        for entry in entries
        if entry.suffix.lower() in PICTURE_SUFFIXES and not entry.name.startswith(".")
    ]
    if not pictures:
        raise InputError(
            f"{path} has no pose frame: expected files ending in {' '.join(sorted(PICTURE_SUFFIXES))}"
        )
    return PoseSequence(partial(map, read_picture, pictures), None, len(pictures))


def _natural(path: Path) -> tuple[list[str | int], str]:
    """A sort key that puts 2.png before 10.png, and 02.png before 2.png."""
    # Text and numbers alternate in what the split returns, so like is always compared with like.
    parts = re.split(r"(\d+)", path.name)
    return [int(part) if part.isdecimal() else part for part in parts], path.name


def _open_video(path: str) -> PoseSequence:
    with _opened(path) as (_, stream):
        rate = _constant_rate(stream)
        num_frames = stream.frames
        if num_frames and rate and stream.duration and stream.time_base:
            # The count knows nothing of frames that an edit list hides or that variable rate makes stay.
            num_frames = round(stream.duration * stream.time_base * rate)
    return PoseSequence(partial(_read_video, path), rate, num_frames or None)


def _read_video(path: str) -> Iterator[Image.Image]:
    with _opened(path) as (container, stream):
        rate = _constant_rate(stream)
        frames = _decoded(path, container, stream)
        if rate is not None and container.format.name not in UNTIMED_FORMATS:
            frames = _at_constant_rate(frames, rate)
        yield from map(_to_picture, frames)


@contextmanager
def _opened(path: str) -> Iterator[tuple[InputContainer, VideoStream]]:
    import av
    from av.stream import Disposition

    if os.path.exists(path) and not os.path.isfile(path):
        raise InputError(
            f"expected a video file or a directory of pictures, found {path}, a pipe or device: "
            "save it to a file first"
        )
    try:
        # By its absolute path, as a name with a colon could be taken for a URL. And not with `options`: those
        # are for streams too, and before 18 PyAV crashes if one of them is found late (flv, mpg).
        container = av.open(os.path.abspath(path), container_options={"format_whitelist": VIDEO_FORMATS})
    except FileNotFoundError as error:
        raise InputMissing(f"there is no pose video or directory {path}: check the path") from error
    except av.FFmpegError as error:
        if Path(path).suffix.lower() in PICTURE_SUFFIXES:
            raise InputError(
                f"expected a video or a directory of pictures, found the single picture {path}: "
                "give its directory, or a list of pictures"
            ) from error
        raise InputError(
            f"{path} is no video that can be read ({error.strerror}): "
            "give an mp4, mov, webm, mkv, avi or gif file, or a directory of pictures"
        ) from error
    with container:
        # The cover of an audio file counts as a video stream too.
        streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
        if not streams:
            raise InputError(f"{path} has no video in it: give a video or a directory of pictures")
        yield container, streams[0]


def _decoded(path: str, container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
    import av

    count = 0
    try:
        for packet in container.demux(stream):
            frames = packet.decode()
            if packet.is_corrupt or any(frame.is_corrupt for frame in frames):
                raise InputError(f"{path} is damaged after frame {count}: give an intact file")
            for frame in frames:
                yield frame
                count += 1
    except av.FFmpegError as error:
        raise InputError(
            f"{path} is damaged after frame {count} ({error.strerror}): give an intact file"
        ) from error


def _constant_rate(stream: VideoStream) -> Fraction | None:
    """The grid the timestamps lie on, or their average rate where they lie on none.

    The average alone would not do: a frame left out lowers it, a last one without a duration raises it, and
    then evenly spaced frames would be dropped or doubled.
    """
    average, grid = stream.average_rate, stream.base_rate
    return grid if average and grid and 2 / 3 < grid / average < 3 / 2 else average


def _at_constant_rate(frames: Iterator[VideoFrame], rate: Fraction) -> Iterator[VideoFrame]:
    """Yield the frame nearest in time to each tick of `rate`, counted from the first frame."""
    tick = 0
    for (frame, time), (_, next_time) in pairwise(_timed(frames, rate)):
        while tick < (time + next_time) / 2:
            yield frame
            tick += 1


def _timed(frames: Iterator[VideoFrame], rate: Fraction) -> Iterator[tuple[VideoFrame, float]]:
    """Pair each frame with its time in ticks of `rate` since the first; the last one again as its own end."""
    frame, time, origin = None, -1.0, None
    for frame in frames:
        if frame.pts is None:  # transport streams need not time every frame
            time += 1
        else:
            stamp = frame.time * float(rate)
            origin = stamp - time - 1 if origin is None else origin
            time = stamp - origin
        yield frame, time
    if frame is not None:
        yield frame, time + 1


def _to_picture(frame: VideoFrame) -> Image.Image:
    """Convert to RGB by the colour matrix and range the frame is tagged with, and turn it upright."""
    from av.video.reformatter import ColorRange, Colorspace
    from PIL import Image

    colorspace = frame.colorspace
    if colorspace == UNTAGGED:
        # Lines count on the shorter side: the public pose tools write untagged BT.601, upright, 512 wide.
        hd = min(frame.width, frame.height) >= 720
        colorspace = Colorspace.ITU709 if hd else Colorspace.ITU601
    pixels = frame.to_ndarray(
        format="rgb24",
        src_colorspace=colorspace,
        dst_colorspace=RGB,  # before 17, PyAV converts by the tags only if something is to change
        src_color_range=frame.color_range or ColorRange.MPEG,
        dst_color_range=ColorRange.JPEG,
    )
    return Image.fromarray(pixels).rotate(frame.rotation, expand=True)
