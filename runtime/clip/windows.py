"""Window policies: which frames the denoising UNet processes together.

A policy turns a clip's length into windows: lists of at most `size` frame indices. Every frame is in at least
one window; where windows overlap, their predictions are averaged. A clip of at most `size` frames is one
window.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

DEFAULT_OVERLAP = 4  # frames, as in the public code

Window = list[int]


class Length(Protocol):
    """The length of a clip, which may only be known by reading its pose frames."""

    def at_least(self, num_frames: int) -> bool:
        """Return whether there are that many frames; reads no further than needed."""

    def total(self) -> int:
        """Return the number of frames; reads them all."""


@dataclass(frozen=True, slots=True)
class KnownLength:
    """A length known in advance."""

    num_frames: int

    def at_least(self, num_frames: int) -> bool:
        return self.num_frames >= num_frames

    def total(self) -> int:
        return self.num_frames


# Takes length, size and overlap. Returns a list if windows may wrap around: none can be used before all are
# known. Otherwise returns an iterator of windows in ascending order, which yields each as soon as the clip is
# known to be long enough.
Policy = Callable[[Length, int, int], Iterable[Window]]


def uniform(num_frames: int, size: int, overlap: int, stride: int = 1) -> list[Window]:
    """Return the public scheduler's windows (SPEC.md 4.4): the last one wraps around to the first frames.

    With `stride` above 1 there are also windows of every 2nd, 4th, ... frame.
    """
    if num_frames <= size:
        return [list(range(num_frames))]
    spacings = min(stride, math.ceil(math.log2(num_frames / size)) + 1)
    return [
        [(start + i * spacing) % num_frames for i in range(size)]
        for spacing in (2**k for k in range(spacings))
        for start in range(0, num_frames, size * spacing - overlap)
    ]


def open_ended(length: Length, size: int, overlap: int) -> Iterator[Window]:
    """Yield windows that do not wrap: the last one ends with the clip and overlaps more if needed."""
    start = 0
    while length.at_least(start + size + 1):
        yield list(range(start, start + size))
        start += size - overlap
    num_frames = length.total()
    yield list(range(max(num_frames - size, 0), num_frames))


POLICIES: dict[str, Policy] = {
    "uniform": lambda length, size, overlap: uniform(length.total(), size, overlap),
    "open": open_ended,
}
