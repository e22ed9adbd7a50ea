"""Live video: a fragmented mp4 of a job while it is made, for players that begin before it is finished.

Frames are read where the shot keeps them, so a viewer may come at any time, and nothing is encoded if nobody
watches. It has less quality than the result, no sound, and of its marks only those in the frames. That of a
completed job is the result itself, in fragments.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from threading import Lock, Thread
from typing import IO, TYPE_CHECKING

import numpy as np

from ...errors import AnimateError
from ...text import message_of, one_line
from ..media.picture import Frame
from ..media.writer import picture_of, tag_colours
from ..shots.kept_files import read_png
from .job import Job
from .review import Review

if TYPE_CHECKING:
    from av.container import OutputContainer

LOG = logging.getLogger("animate_rt")
POLL_S = 0.05
CHUNK = 1 << 16
FILE = "live.mp4"
# Every frame is a fragment, so that it can be shown at once.
FRAGMENTED = {"movflags": "empty_moov+default_base_moof+frag_every_frame"}
FAST = {"preset": "veryfast", "tune": "zerolatency", "crf": "23"}  # no frame waits for later ones


class LiveVideos:
    """The live videos of a service's jobs: one encoder for each job that somebody watches."""

    def __init__(self, review: Review) -> None:
        self.review = review
        self.lock = Lock()
        self.threads: dict[str, Thread] = {}

    async def watch(self, job: Job) -> AsyncIterator[bytes]:
        """Yield a fragmented mp4 with all frames of a job, as they are finished.

        It ends early if the job does not complete. Nothing is yielded for a job that is removed.
        """
        path = job.folder / FILE
        with suppress(FileNotFoundError):
            thread = await asyncio.to_thread(self._start, job, path)
            with path.open("rb") as file:  # stays readable when the job ends and the file is removed
                while True:
                    running = thread.is_alive()
                    if chunk := file.read(CHUNK):
                        yield chunk
                    elif not running:
                        return
                    else:
                        await asyncio.sleep(POLL_S)

    def _start(self, job: Job, path: Path) -> Thread:
        """Start the job's encoder, unless it runs or has run. Raises FileNotFoundError."""
        with self.lock:
            thread = self.threads.get(job.id)
            if thread is None or not path.exists():
                path.unlink(missing_ok=True)  # of an earlier watcher, or an earlier start
                file = path.open("xb", buffering=0)
                thread = Thread(
                    target=encode, args=(job, file, self.review), name="animate-rt live", daemon=True
                )
                self.threads = {name: other for name, other in self.threads.items() if other.is_alive()} | {
                    job.id: thread
                }
                thread.start()
            return thread


def encode(job: Job, file: IO[bytes], review: Review) -> None:
    """Write the fragmented mp4 of a job, until it has ended."""
    import av

    try:
        write_video(job, file, review)
    except AnimateError as error:  # the policy does not allow a frame, or failed
        LOG.info("job %s: its live video ends: %s", job.id, error.code)
    except (OSError, av.FFmpegError) as error:  # the job was removed, or the disk is full
        LOG.info("job %s: its live video ends: %s", job.id, one_line(message_of(error)))


def write_video(job: Job, file: IO[bytes], review: Review) -> None:
    import av

    # PyAV seeks in files if it can, which a fragmented one does not need.
    with file, av.open(Unseekable(file), "w", format="mp4", options=FRAGMENTED) as container:
        if job.status.state == "completed":
            copy_packets(job.path, container)
        else:
            encode_frames(kept_frames(job, review), Fraction(job.record.frame_rate), container)


class Unseekable:
    """The part of a file that PyAV may use."""

    def __init__(self, file: IO[bytes]):
        self.write = file.write


def copy_packets(path: Path, container: OutputContainer) -> None:
    """Put the encoded frames and the sound of an mp4 into another container."""
    import av

    with av.open(path) as result:
        streams = {stream.index: container.add_stream_from_template(stream) for stream in result.streams}
        for packet in result.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream.index]
                container.mux(packet)


def encode_frames(frames: Iterator[Frame], frame_rate: Fraction, container: OutputContainer) -> None:
    stream = container.add_stream("libx264", frame_rate, FAST)
    stream.pix_fmt = "yuv420p"
    stream.thread_count = 1
    tag_colours(stream)
    for index, frame in enumerate(frames):
        if index == 0:
            stream.height, stream.width, _ = frame.shape
            stream.codec_context.gop_size = max(1, round(frame_rate))
        container.mux(stream.encode(picture_of(frame, index, frame_rate)))
    container.mux(stream.encode())


def kept_frames(job: Job, review: Review) -> Iterator[Frame]:
    """The frames of a job in order, each as soon as it is there and the policy allows it."""
    index = 0
    while True:
        status = job.status  # first: a job that ends now has its frames in the result
        frame = read_kept(job, index)
        if frame is not None:
            review.frames([frame])
            yield frame
            index += 1
        elif status.state == "completed":
            yield from frames_from(job.path, index)
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
