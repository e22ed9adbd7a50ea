"""Which frames the denoising UNet sees together.

A policy turns a clip's length into windows: lists of frame indices, each at most `size` long. Every frame is
in at least one; where windows overlap, predictions are averaged. A clip no longer than `size` is one window.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

DEFAULT_OVERLAP = 4  # frames; the public setting

Window = list[int]


class Length(Protocol):
    """A clip's length, which may take reading to know."""

    def at_least(self, num_frames: int) -> bool:
        """Whether there are that many frames; reads no further than it has to."""

    def total(self) -> int:
        """How many there are; reads them all."""


@dataclass(frozen=True, slots=True)
class Known:
    """A length that is known."""

    num_frames: int

    def at_least(self, num_frames: int) -> bool:
        return self.num_frames >= num_frames

    def total(self) -> int:
        return self.num_frames


# A list where windows may wrap around, so that none can be used before all are known; otherwise an iterator
# of windows that begin later and later, which yields each as soon as the clip is known to be long enough.
Policy = Callable[[Length, int, int], Iterable[Window]]


def uniform(num_frames: int, size: int, overlap: int, stride: int = 1) -> list[Window]:
    """The public scheduler's windows (SPEC.md 4.4): the last one wraps around to the first frames.

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
    """Windows that do not wrap: the last one ends with the clip, overlapping more where it has to."""
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
