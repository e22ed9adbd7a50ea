"""Decoding: turns finished latents into frames, in order, while other windows are still being denoised."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ...engines import contract
from ...engines.device import Array, Buffer, Event
from ...errors import DeviceError
from ..media.picture import resize_frame
from ..streams.pool import Lease
from ..streams.session import Session
from .clip import Clip
from .denoise import SegmentBuffers
from .layout import Segment
from .lookahead import Lookahead
from .progress import counter


class PendingFrame(NamedTuple):
    """A frame that is being copied to the host."""

    frame: Buffer  # uint8 or float32 (1, H, W, 3), in host memory
    latents: Buffer  # float32 (1, 4, h, w), in host memory
    copied: Event


class Decoder:
    """Turns one clip's finished segments into frames."""

    def __init__(self, session: Session, clip: Clip, poses: Lookahead, lease: Lease):
        with session.scheduler:
            self.decoder = session.bound(session.decode, contract.VAE_DECODER)
        self.scheduler, self.copy_out, self.lease = session.scheduler, session.copy_out, lease
        self.frame_size = clip.frame_size
        self.max_in_flight = clip.settings.window  # maximum length of `pending`
        self.num_kept = clip.snapshots.num_frames  # leading frames that the caller already has
        self.progress = counter(clip.progress, "decode", lambda: poses.length, self.num_kept)
        self.waiting: dict[int, tuple[Segment, SegmentBuffers]] = {}  # finished segments, by first frame
        self.next_frame = clip.snapshots.start.first_frame  # first frame of the next segment to decode
        self.pending: deque[PendingFrame] = deque()  # in order

    def put(self, segments: list[tuple[Segment, SegmentBuffers]]) -> None:
        """Add finished segments, in any order."""
        self.waiting |= {segment.frames.start: (segment, buffers) for segment, buffers in segments}

    def frames(self, *, wait: bool) -> Iterator[Array]:
        """Yield the next frames, uint8 (H, W, 3): those already copied to the host.

        With `wait`, also wait for all others up to the first one that is not denoised yet.
        """
        while self.next_frame in self.waiting:
            segment, buffers = self.waiting[self.next_frame]
            for row, frame in enumerate(segment.frames):
                if frame < self.num_kept:
                    continue
                while len(self.pending) >= self.max_in_flight:
                    yield self._next_pending()
                self._decode(buffers.latents.rows(row, row + 1))
            del self.waiting[self.next_frame]
            self.lease.give(buffers.latents)
            self.next_frame = segment.frames.stop
        while self.pending and (wait or self.pending[0].copied.done):
            yield self._next_pending()

    def _decode(self, latents: Buffer) -> None:
        decoder, stream = self.decoder, self.copy_out
        with self.scheduler:
            sources = [decoder["frame"], decoder["latents"]]
            frame, finals = targets = [self.lease.take_host(s.dtype, s.shape) for s in sources]
            pairs = list(zip(targets, sources, strict=True))
            decoder.run({"latents": latents})
            copied = self.scheduler.issue(
                "copy out", stream, lambda: stream.copy(*pairs), reads=sources, writes=targets
            )
        self.pending.append(PendingFrame(frame, finals, copied))

    def _next_pending(self) -> Array:
        pending = self.pending.popleft()
        frame: Array = self.scheduler.host_reads(pending.frame)[0]
        finite = np.isfinite(self.scheduler.host_reads(pending.latents)).all()
        self.lease.give(pending.frame, pending.latents)
        if not finite:
            raise DeviceError(
                "denoising: expected finite latents, found NaN or infinity; check the weights, or build the "
                "bundle with --precision fp32"
            )
        self.progress()
        return resize_frame(frame, *self.frame_size) if self.frame_size else frame
