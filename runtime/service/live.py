"""Live video: a fragmented mp4 of a job while it is made, for players that begin before it is finished.

Frames are read where the shot keeps them, so a viewer may come at any time, and nothing is encoded if nobody
watches. It has less quality than the result, no sound, and of its marks only those in the frames. That of a
completed job is the result itself, in fragments.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from fractions import Fraction
from itertools import takewhile
from pathlib import Path
from tempfile import TemporaryFile
from threading import Event, Lock, Thread
from typing import IO, TYPE_CHECKING

import numpy as np

from ...errors import AnimateError
from ...text import message_of, one_line
from ..media.picture import Frame
from ..media.writer import as_video_frames, tag_colours
from ..shots.kept_files import read_png
from .job import Job
from .review import Review

if TYPE_CHECKING:
    from av.container import OutputContainer

LOG = logging.getLogger("animate_rt")
POLL_S = 0.05
CHUNK = 1 << 16
# Every frame is a fragment, so that it can be shown at once.
FRAGMENTED = {"movflags": "empty_moov+default_base_moof+frag_every_frame"}
FAST = {"preset": "veryfast", "tune": "zerolatency", "crf": "23"}  # no frame waits for later ones


class LiveVideos:
    """The live videos of a service's jobs: one encoder for each job that somebody watches."""

    def __init__(self, review: Review) -> None:
        self.review = review
        self.lock = Lock()
        self.encoders: list[Encoder] = []  # whose threads run
        self.closed = False

    async def watch(self, job: Job) -> AsyncIterator[bytes]:
        """Yield a fragmented mp4 with all frames of a job, as they are finished.

        It ends early if the job does not complete, or the service stops. Nothing is yielded for a job that
        has failed, was cancelled or is removed.
        """
        # In this thread, as it takes no time: one that is cancelled could not tell that it has joined.
        encoder = self._join(job)
        if encoder is None:
            return
        try:
            with open(os.dup(encoder.file.fileno()), "rb") as file:
                offset = 0
                while True:
                    running = encoder.thread.is_alive()
                    if chunk := os.pread(file.fileno(), CHUNK, offset):  # others read the same file
                        offset += len(chunk)
                        yield chunk
                    elif not running:
                        return
                    else:
                        await asyncio.sleep(POLL_S)
        finally:
            self._leave(encoder)

    def close(self) -> None:
        """Stop all encoders, and start no other."""
        with self.lock:
            self.closed = True
            encoders = list(self.encoders)
        for encoder in encoders:
            encoder.stopped.set()
        for encoder in encoders:
            encoder.thread.join()

    def _join(self, job: Job) -> Encoder | None:
        """The job's encoder, which is started unless it runs. None if there is nothing to encode."""
        with self.lock:
            if self.closed or job.status.state in ("failed", "cancelled"):
                return None
            for encoder in self.encoders:
                if encoder.job is job and encoder.watchers:
                    break
            else:
                try:
                    encoder = Encoder(job, self.review, self._forget)
                except FileNotFoundError:  # the job is removed
                    return None
                self.encoders.append(encoder)
                encoder.thread.start()
            encoder.watchers += 1
            return encoder

    def _leave(self, encoder: Encoder) -> None:
        with self.lock:
            encoder.watchers -= 1
            if not encoder.watchers:
                encoder.stopped.set()

    def _forget(self, encoder: Encoder) -> None:
        with self.lock:
            self.encoders.remove(encoder)
            encoder.file.close()  # those who watch have it open themselves


class Encoder:
    """Writes the fragmented mp4 of a job into a file, until the job has ended or `stopped` is set."""

    def __init__(self, job: Job, review: Review, on_end: Callable[[Encoder], None]):
        """`on_end` is called at the end of `thread`. Raises FileNotFoundError for a job that is removed."""
        self.job, self.review, self.on_end = job, review, on_end
        self.watchers = 0
        self.stopped = Event()
        self.file = TemporaryFile(buffering=0, dir=job.folder)  # noqa: SIM115 # nameless, so nothing is left
        self.thread = Thread(target=self._run, name="animate-rt live", daemon=True)

    def _run(self) -> None:
        import av

        try:
            self._write()
        except AnimateError as error:  # the policy does not allow a frame, or failed
            LOG.info("job %s: its live video ends: %s", self.job.id, error.code)
        except (OSError, av.FFmpegError) as error:  # the job was removed, or the disk is full
            LOG.info("job %s: its live video ends: %s", self.job.id, one_line(message_of(error)))
        finally:
            self.on_end(self)

    def _write(self) -> None:
        import av

        # PyAV seeks in files if it can, which a fragmented one does not need.
        with av.open(Unseekable(self.file), "w", format="mp4", options=FRAGMENTED) as container:
            if self.job.status.state == "completed":
                copy_packets(self.job.path, container, self.stopped)
            else:
                frames = kept_frames(self.job, self.review, self.stopped)
                encode_frames(frames, Fraction(self.job.record.frame_rate), container)


class Unseekable:
    """The part of a file that PyAV may use."""

    def __init__(self, file: IO[bytes]):
        self.write = file.write


def copy_packets(path: Path, container: OutputContainer, stopped: Event) -> None:
    """Put the encoded frames and the sound of an mp4 into another container, until `stopped` is set."""
    import av

    with av.open(path) as result:
        streams = {stream.index: container.add_stream_from_template(stream) for stream in result.streams}
        for packet in result.demux():
            if stopped.is_set():
                return
            if packet.dts is not None:
                packet.stream = streams[packet.stream.index]
                container.mux(packet)


def encode_frames(frames: Iterator[Frame], frame_rate: Fraction, container: OutputContainer) -> None:
    stream = container.add_stream("libx264", frame_rate, FAST)
    stream.pix_fmt = "yuv420p"
    stream.thread_count = 1
    tag_colours(stream)
    for picture in as_video_frames(frames, frame_rate):
        if picture.pts == 0:
            stream.height, stream.width = picture.height, picture.width
            stream.codec_context.gop_size = max(1, round(frame_rate))
        container.mux(stream.encode(picture))
    container.mux(stream.encode())


def kept_frames(job: Job, review: Review, stopped: Event) -> Iterator[Frame]:
    """The frames of a job in order, each as soon as it is there and the policy allows it.

    Ends when `stopped` is set.
    """
    index = 0
    while not stopped.is_set():
        status = job.status  # first: a job that ends now has its frames in the result
        frame = read_kept(job, index)
        if frame is not None:
            review.frames([frame])
            yield frame
            index += 1
        elif status.state == "completed":
            yield from takewhile(lambda _frame: not stopped.is_set(), frames_from(job.path, index))
            return
        elif status.has_ended:
            return
        else:
            job.wait(POLL_S)


def read_kept(job: Job, index: int) -> Frame | None:
    """A finished frame of an unfinished job."""
    for path in job.folder.glob(f".{job.path.name}.*.partial/frames/{index:05}.png"):
        with suppress(OSError, ValueError):
            return read_png(path)
    return None


def frames_from(path: Path, index: int) -> Iterator[Frame]:
    """The frames of a video from one on."""
    import av

    with av.open(path) as container:
        for number, frame in enumerate(container.decode(video=0)):
            if number >= index:
                yield np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
