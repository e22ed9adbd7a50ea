"""Frames out: an H.264 mp4 or a directory of PNGs, encoded in a thread of its own while rendering goes on."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from functools import partial
from pathlib import Path
from queue import Queue
from threading import Thread
from types import TracebackType
from typing import Self, TypeAlias

import numpy as np

from ...atomic import atomic, unwritable
from ...errors import ConfigError, OutputError
from .picture import Frame, save_png

QUEUE_FRAMES = 8  # how far rendering may run ahead of the encoder
MAX_RATE = Fraction(1000)  # frames per second of an mp4; the least is its inverse
ENCODER_THREADS = 4  # fixed: left to itself x264 takes as many as there are cores, and its bytes follow
BT709 = 1  # the same number in all of H.264's colour tables

Encode: TypeAlias = Callable[[Iterator[Frame]], None]


@contextmanager
def open_writer(
    path: str | os.PathLike[str], width: int, height: int, frame_rate: Fraction
) -> Iterator[FrameWriter]:
    """Write frames to an .mp4 file or, if `path` has no suffix, as 00000.png, 00001.png, ... to a directory.

    What cannot be written is refused before the block. The result appears under its name when the block ends
    well; otherwise `path` stays as it was.
    """
    target = resolve(os.fspath(path))
    with atomic(target) as temporary:
        try:
            if Path(path).suffix:
                encode = _start_mp4(target, temporary, width, height, frame_rate)
            else:
                encode = _start_pngs(target, temporary)
        except OSError as error:
            raise unwritable(target, error) from error
        with FrameWriter(target, (height, width, 3), encode) as writer:
            yield writer
        if writer.num_frames == 0:
            raise OutputError(f"nothing to write to {target}: expected at least one frame")


def resolve(given: str) -> Path:
    """The mp4 or, without suffix, the directory of PNGs that is meant; it may not be there, its folder is."""
    suffix = Path(given).suffix.lower()
    if suffix not in (".mp4", ""):
        raise ConfigError(f"cannot write {suffix} files: choose a name in .mp4, or without suffix for PNGs")
    if Path(given).name.lower() == ".mp4" or (suffix and given.endswith(os.sep)):
        raise ConfigError(
            f"expected a name like out.mp4, or one without suffix for PNGs, found {given}: change it"
        )
    return place(given)


def place(given: str) -> Path:
    """A path without links, in a folder that is there."""
    target = Path(os.path.realpath(given))
    if not target.name:
        raise OutputError(
            f"expected an mp4 or a directory of PNGs to write, found {target}: choose a name in it"
        )
    if not os.path.isdir(target.parent):
        raise OutputError(f"there is no directory {target.parent} to write {target.name} in: create it first")
    return target


class FrameWriter:
    """Passes frames on to an encoder that runs in a thread of its own."""

    def __init__(self, path: Path, shape: tuple[int, int, int], encode: Encode) -> None:
        self.num_frames = 0
        self._path = path
        self._shape = shape
        self._queue: Queue[Frame | None] = Queue(QUEUE_FRAMES)
        self._failure: Exception | None = None
        # A daemon, for programs that die without leaving the `with`; leaving it waits for the thread.
        self._thread = Thread(target=self._run, args=(encode,), name="animate-rt writer", daemon=True)

    def write(self, frame: Frame) -> None:
        """Queue a copy of `frame`, uint8 (height, width, 3); waits while the queue is full."""
        self._raise_failure()
        if frame.dtype != np.uint8 or frame.shape != self._shape:
            raise OutputError(
                f"expected frames of uint8 {self._shape} for {self._path}, found {frame.dtype} {frame.shape}"
            )
        self._queue.put(frame.copy())
        self.num_frames += 1

    def flush(self) -> None:
        """Wait until every frame so far is encoded. Raises OutputError where one could not be."""
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
            for _ in frames:  # or a full queue would hold up write() for ever
                pass

    def _queued(self) -> Iterator[Frame]:
        while (frame := self._queue.get()) is not None:
            yield frame
            self._queue.task_done()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise unwritable(self._path, self._failure) from self._failure


def _start_mp4(path: Path, temporary: Path, width: int, height: int, frame_rate: Fraction) -> Encode:
    if path.exists() and not path.is_file():
        raise OutputError(f"{path} exists and is not a file: choose another name for the mp4")
    if width % 2 or height % 2:
        raise OutputError(
            f"an mp4 needs even sides, found {width}x{height}: change the size, or write a directory of PNGs"
        )
    # FFmpeg holds both in 31 bits; the denominator has one less, as it is how many ticks a frame lasts.
    held = frame_rate.numerator < 2**31 and frame_rate.denominator < 2**30
    if not (held and 1 / MAX_RATE <= frame_rate <= MAX_RATE):
        raise ConfigError(
            f"an mp4 needs a frame rate from 1/{MAX_RATE} to {MAX_RATE}, of at most 31 over 30 bits, "
            f"found {frame_rate}: choose another"
        )
    temporary.touch()
    return partial(_encode_mp4, temporary, width, height, frame_rate)


def _start_pngs(path: Path, temporary: Path) -> Encode:
    if path.exists() and not path.is_dir():
        raise OutputError(f"{path} exists and is not a directory: choose another name for the PNGs")
    if path.is_dir() and any(path.iterdir()):
        raise OutputError(f"{path} is not empty: choose another name for the directory of PNGs, or empty it")
    temporary.mkdir()
    return partial(_encode_pngs, temporary)


def exact(width: int) -> dict[str, str]:
    """Options without which the same frames would not give the same file.

    Of a row whose macroblocks are no multiple of 8, x264's macroblock tree reads past the end, and what it
    finds there decides a little of the first frames' quality.
    """
    return {} if -(-width // 16) % 8 == 0 else {"x264-params": "mbtree=0"}


def _encode_pngs(directory: Path, frames: Iterator[Frame]) -> None:
    for index, frame in enumerate(frames):
        save_png(directory / f"{index:05}.png", frame)


def _encode_mp4(path: Path, width: int, height: int, frame_rate: Fraction, frames: Iterator[Frame]) -> None:
    import av
    from av.codec.context import ThreadType
    from av.video.reformatter import ColorRange

    with av.open(path, "w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", frame_rate, {"crf": "18", "preset": "medium"} | exact(width))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.thread_count = ENCODER_THREADS
        stream.thread_type = ThreadType.FRAME  # slices would make a file larger
        # Tags convert nothing and conversion tags nothing: without both, players would guess, and be wrong.
        stream.colorspace = stream.color_primaries = stream.color_trc = BT709
        stream.color_range = ColorRange.MPEG
        for index, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(frame).reformat(
                format="yuv420p", dst_colorspace=BT709, dst_color_range=ColorRange.MPEG
            )
            picture.pts, picture.time_base = index, 1 / frame_rate
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
