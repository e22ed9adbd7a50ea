"""Which frames the denoising UNet sees together.

A policy turns a clip's length into windows: lists of frame indices, each at most `size` long. Every frame is
in at least one; where windows overlap, predictions are averaged. A clip no longer than `size` is one window.
"""

from __future__ import annotations

import math
from collections.abc import Callable

Windows = list[list[int]]
Policy = Callable[[int, int, int], Windows]


def uniform(num_frames: int, size: int, overlap: int, stride: int = 1) -> Windows:
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


def open_ended(num_frames: int, size: int, overlap: int) -> Windows:
    """Windows that do not wrap: the last one ends with the clip, overlapping more where it has to."""
    last = max(num_frames - size, 0)
    starts = [*range(0, last, size - overlap), last]
    return [list(range(start, min(start + size, num_frames))) for start in starts]


POLICIES: dict[str, Policy] = {"uniform": uniform, "open": open_ended}
