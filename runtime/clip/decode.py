"""Decoding: latents that have taken their last step become frames, in order, while others are denoised."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from ...engines.device import Array, Buffer, Event, Stream
from ...errors import DeviceError
from ..streams.lane import Station
from ..streams.pool import Lease
from .denoise import State
from .layout import Segment


class Arriving(NamedTuple):
    """A frame on its way to the host."""

    frame: Buffer  # uint8 (1, H, W, 3), of the host's
    latents: Buffer  # float32 (1, 4, h, w), likewise
    copied: Event


class Decoder:
    """Turns one clip's finished segments into frames."""

    def __init__(
        self,
        vae_decoder: Station,
        copy_out: Stream,
        lease: Lease,
        room: int,
        progress: Callable[[], None],
        next_frame: int = 0,
        num_kept: int = 0,
    ):
        self.decoder, self.copy_out = vae_decoder, copy_out
        self.issuer, self.lease = vae_decoder.issuer, lease
        self.room = room  # frames on their way before one is waited for
        self.progress = progress
        self.finished: dict[int, tuple[Segment, State]] = {}  # by first frame
        self.next_frame = next_frame  # all before it have been decoded
        self.num_kept = num_kept  # frames that the caller has already
        self.arriving: deque[Arriving] = deque()

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
                while len(self.arriving) >= self.room:
                    yield self._arrive()
                self._decode(state.latents.rows(row, row + 1))
            del self.finished[self.next_frame]
            self.lease.give(state.latents)
            self.next_frame = segment.frames.stop
        while self.arriving and (wait or self.arriving[0].copied.done):
            yield self._arrive()

    def _decode(self, latents: Buffer) -> None:
        decoder, stream = self.decoder, self.copy_out
        with self.issuer:
            sources = [decoder["frame"], decoder["latents"]]
            frame, finals = targets = [self.lease.take_host(s.dtype, s.shape) for s in sources]
            pairs = list(zip(targets, sources, strict=True))
            decoder.run({"latents": latents})
            copied = self.issuer.issue(
                "copy out", stream, lambda: stream.copy(*pairs), reads=sources, writes=targets
            )
        self.arriving.append(Arriving(frame, finals, copied))

    def _arrive(self) -> Array:
        arriving = self.arriving.popleft()
        frame: Array = self.issuer.host_reads(arriving.frame)[0]
        finite = np.isfinite(self.issuer.host_reads(arriving.latents)).all()
        self.lease.give(arriving.frame, arriving.latents)
        if not finite:
            raise DeviceError(
                "denoising: expected finite latents, found NaN or infinity; check the weights, or build the "
                "bundle with --precision fp32"
            )
        self.progress()
        return frame
