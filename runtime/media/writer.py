"""Frame writers: an H.264 mp4 or a directory of PNGs, encoded in a separate thread during rendering."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from fractions import Fraction
from functools import partial
from pathlib import Path
from queue import Queue
from threading import Thread
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self, TypeAlias

import numpy as np

from ...atomic import atomic, unwritable
from ...errors import ConfigError, OutputError
from ...text import quoted
from .folder import contents, counts, listed, move
from .frame_rate import frame_rate as parse_rate
from .picture import Frame, save_png
from .sound import Sound, no_sound

if TYPE_CHECKING:
    from av.video import VideoFrame, VideoStream

QUEUE_FRAMES = 8  # how far rendering may run ahead of the encoder
MAX_RATE = Fraction(1000)  # frames per second of an mp4; the minimum is its inverse
ENCODER_THREADS = 4  # fixed: x264's default depends on the number of cores, and its output on the threads
BT709 = 1  # the same number in all of H.264's colour tables

Encode: TypeAlias = Callable[[Iterator[Frame]], None]


class FileMarks(Protocol):
    """What says that a file was generated (runtime/marks/marks.py)."""

    def marker(self, width: int, height: int) -> Callable[[Frame], Frame]:
        """A function that returns marked copies of frames, uint8 (height, width, 3)."""

    def finish(self, path: Path) -> None:
        """Mark a complete PNG or mp4 in place, before it gets its final name."""


@contextmanager
def open_writer(
    path: str | os.PathLike[str],
    width: int,
    height: int,
    frame_rate: Fraction | float | str,
    sound: Sound | None = None,
    marks: FileMarks | None = None,
) -> Iterator[FrameWriter]:
    """Write frames to an .mp4 file or, if `path` has no suffix, as 00000.png, 00001.png, ... to a directory.

    width and height are pixels; frame_rate is frames per second, such as 24, 29.97 or Fraction(30000, 1001).
    `sound` is added to an mp4, as long as its frames last. `marks`, such as `Marks`, say that the result was
    generated; without them nothing is added to the frames or the file.
    Raises ConfigError or OutputError before the block if the result cannot be written. The result appears at
    `path` when the block ends without an error; otherwise `path` is unchanged.
    """
    target = resolve(os.fspath(path))
    rate = frame_rate if isinstance(frame_rate, Fraction) else parse_rate(str(frame_rate))
    with atomic(target, replace=_replace) as temporary:
        try:
            if Path(path).suffix:
                encode = _start_mp4(target, temporary, width, height, rate, sound)
            else:
                encode = _start_pngs(target, temporary, marks)
        except OSError as error:
            raise unwritable(target, error) from error
        if marks:
            encode = _marked(encode, marks.marker(width, height))
        with FrameWriter(target, (height, width, 3), encode) as writer:
            yield writer
        if writer.num_frames == 0:
            raise OutputError(f"nothing to write to {target}: expected at least one frame")
        if marks and Path(path).suffix:
            try:
                marks.finish(temporary)
            except OSError as error:
                raise unwritable(target, error) from error


def resolve(given: str, suffixes: tuple[str, ...] = (".mp4", "")) -> Path:
    """Return the real path of an mp4 or, without suffix, of a directory of PNGs, which need not exist yet.

    `suffixes` may add ".png", for one picture.
    """
    suffix = Path(given).suffix.lower()
    if suffix not in suffixes:
        picture = ", in .png for one picture" if ".png" in suffixes else ""
        raise ConfigError(
            f"cannot write {suffix} files: choose a name ending in .mp4{picture}, or one without suffix for "
            "PNGs"
        )
    if Path(given).name.lower() in (".mp4", ".png") or (suffix and given.endswith(os.sep)):
        raise ConfigError(
            f"expected a name like out.mp4, or one without suffix for PNGs, found {given}: change it"
        )
    return place(given)


def place(given: str) -> Path:
    """Return a path with links resolved. Raises OutputError unless its parent directory exists."""
    try:
        target = Path(os.path.realpath(given))
    except ValueError as error:  # a zero byte, or a lone surrogate
        raise ConfigError(f"expected a file name, found {quoted(given)}: choose another") from error
    if not target.name:
        raise OutputError(
            f"expected an mp4 or a directory of PNGs to write, found {target}: choose a name in it"
        )
    if not os.path.isdir(target.parent):
        raise OutputError(f"there is no directory {target.parent} to write {target.name} in: create it first")
    return target


class FrameWriter:
    """Passes frames to an encoder that runs in a separate thread."""

    def __init__(self, path: Path, shape: tuple[int, int, int], encode: Encode) -> None:
        self.num_frames = 0
        self._path = path
        self._shape = shape
        self._queue: Queue[Frame | None] = Queue(QUEUE_FRAMES)
        self._failure: Exception | None = None
        # A daemon thread, so that a program can end without leaving the `with` block, which joins it.
        self._thread = Thread(target=self._run, args=(encode,), name="animate-rt writer", daemon=True)

    def write(self, frame: Frame) -> None:
        """Queue a copy of `frame`, uint8 (height, width, 3); block while the queue is full."""
        self._raise_failure()
        if frame.dtype != np.uint8 or frame.shape != self._shape:
            raise OutputError(
                f"expected frames of uint8 {self._shape} for {self._path}, found {frame.dtype} {frame.shape}"
            )
        self._queue.put(frame.copy())
        self.num_frames += 1

    def flush(self) -> None:
        """Wait until all frames written so far are encoded. Raises OutputError if encoding failed."""
        self._queue.join()
        self._raise_failure()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._queue.put(None)
        self._thread.join()
        if kind is None:
            self._raise_failure()

    def _run(self, encode: Encode) -> None:
        frames = self._queued()
        try:
            encode(frames)
        except Exception as error:
            self._failure = error
            for _ in frames:  # empty the queue, or write() would block for ever
                pass

    def _queued(self) -> Iterator[Frame]:
        while (frame := self._queue.get()) is not None:
            yield frame
            self._queue.task_done()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise unwritable(self._path, self._failure) from self._failure


def _start_mp4(
    path: Path, temporary: Path, width: int, height: int, frame_rate: Fraction, sound: Sound | None
) -> Encode:
    if path.exists() and not path.is_file():
        raise OutputError(f"{path} exists and is not a file: choose another name for the mp4")
    if width % 2 or height % 2:
        raise OutputError(
            f"an mp4 needs even sides, found {width}x{height}: change the size, or write a directory of PNGs"
        )
    check_rate(frame_rate)
    temporary.touch()
    return partial(_encode_mp4, temporary, width, height, frame_rate, sound)


def check_rate(frame_rate: Fraction) -> None:
    """Raise ConfigError unless an mp4 can have this frame rate."""
    # FFmpeg stores both in 31 bits; the denominator has one bit less, as it is a frame's duration in ticks.
    held = frame_rate.numerator < 2**31 and frame_rate.denominator < 2**30
    if not (held and 1 / MAX_RATE <= frame_rate <= MAX_RATE):
        raise ConfigError(
            f"an mp4 needs a frame rate from 1/{MAX_RATE} to {MAX_RATE}, a fraction of at most 31 over 30 "
            f"bits, found {quoted(str(frame_rate))}: choose another"
        )


def _start_pngs(path: Path, temporary: Path, marks: FileMarks | None) -> Encode:
    if path.exists() and not path.is_dir():
        raise OutputError(f"{path} exists and is not a directory: choose another name for the PNGs")
    if path.is_dir() and listed(path):
        raise OutputError(f"{path} is not empty: choose another name for the directory of PNGs, or empty it")
    temporary.mkdir()
    return partial(_encode_pngs, temporary, marks)


def _replace(temporary: Path, target: Path) -> None:
    """Give a file or directory its final name. Entries of an old directory that do not count move along."""
    others = contents(target, lambda name: not counts(name))
    move(target, temporary, others.__contains__)
    try:
        os.replace(temporary, target)
    except OSError:
        move(temporary, target, others.__contains__)
        raise


def x264_options(width: int) -> dict[str, str]:
    """Return x264 options that are needed for the same frames to give the same file.

    If the number of macroblocks in a row is not a multiple of 8, x264's macroblock tree reads past the end of
    the row, and the values found there slightly change the quality of the first frames.
    """
    return {} if -(-width // 16) % 8 == 0 else {"x264-params": "mbtree=0"}


def _marked(encode: Encode, mark: Callable[[Frame], Frame]) -> Encode:
    return lambda frames: encode(map(mark, frames))


def _encode_pngs(directory: Path, marks: FileMarks | None, frames: Iterator[Frame]) -> None:
    for index, frame in enumerate(frames):
        path = directory / f"{index:05}.png"
        save_png(path, frame)
        if marks:
            marks.finish(path)


def _encode_mp4(
    path: Path,
    width: int,
    height: int,
    frame_rate: Fraction,
    sound: Sound | None,
    frames: Iterator[Frame],
) -> None:
    import av
    from av.codec.context import ThreadType

    with av.open(path, "w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream(
            "libx264", frame_rate, {"crf": "18", "preset": "medium"} | x264_options(width)
        )
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.thread_count = ENCODER_THREADS
        stream.thread_type = ThreadType.FRAME  # slice threads would make the file larger
        tag_colours(stream)
        with sound.added_to(container) if sound else nullcontext(no_sound) as write_sound:
            for number, picture in enumerate(as_video_frames(frames, frame_rate), start=1):
                container.mux(stream.encode(picture))
                write_sound(number / frame_rate)
            container.mux(stream.encode())


def tag_colours(stream: VideoStream) -> None:
    """Say that a video has the colours of `as_video_frames`: players would guess them, and guess wrong."""
    from av.video.reformatter import ColorRange

    stream.colorspace = stream.color_primaries = stream.color_trc = BT709
    stream.color_range = ColorRange.MPEG


def as_video_frames(frames: Iterator[Frame], frame_rate: Fraction) -> Iterator[VideoFrame]:
    """Frames as encoders take them, with their times."""
    import av
    from av.video.reformatter import ColorRange, VideoReformatter

    reformatter = VideoReformatter()  # for all frames, as it prepares once
    for index, frame in enumerate(frames):
        picture = reformatter.reformat(
            av.VideoFrame.from_ndarray(frame),
            format="yuv420p",
            dst_colorspace=BT709,
            dst_color_range=ColorRange.MPEG,
        )
        picture.pts, picture.time_base = index, 1 / frame_rate
        yield picture
