"""Decoding: latents that have taken their last step become frames, in order, while others are denoised."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from ...engines.device import Array, Buffer, Event, Stream
from ...errors import DeviceError
from ..streams.engine_stream import BoundEngine
from ..streams.pool import Lease
from .denoise import State
from .layout import Segment


class PendingFrame(NamedTuple):
    """A frame on its way to the host."""

    frame: Buffer  # uint8 (1, H, W, 3), of the host's
    latents: Buffer  # float32 (1, 4, h, w), likewise
    copied: Event


class Decoder:
    """Turns one clip's finished segments into frames."""

    def __init__(
        self,
        vae_decoder: BoundEngine,
        copy_out: Stream,
        lease: Lease,
        max_in_flight: int,
        progress: Callable[[], None],
        next_frame: int = 0,
        num_kept: int = 0,
    ):
        self.decoder, self.copy_out = vae_decoder, copy_out
        self.scheduler, self.lease = vae_decoder.scheduler, lease
        self.max_in_flight = max_in_flight  # frames on their way before one is waited for
        self.progress = progress
        self.finished: dict[int, tuple[Segment, State]] = {}  # by first frame
        self.next_frame = next_frame  # all before it have been decoded
        self.num_kept = num_kept  # frames that the caller has already
        self.pending: deque[PendingFrame] = deque()

    def put(self, segments: list[tuple[Segment, State]]) -> None:
        """Take over finished segments; they may come in any order."""
        self.finished |= {segment.frames.start: (segment, state) for segment, state in segments}

    def frames(self, *, wait: bool) -> Iterator[Array]:
        """uint8 (H, W, 3): those that are ready, and with `wait` all that have been put."""
        while self.next_frame in self.finished:
            segment, state = self.finished[self.next_frame]
            for row, frame in enumerate(segment.frames):
                if frame < self.num_kept:
                    continue
                while len(self.pending) >= self.max_in_flight:
                    yield self._next_pending()
                self._decode(state.latents.rows(row, row + 1))
            del self.finished[self.next_frame]
            self.lease.give(state.latents)
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
        return frame
