"""Gaps: frames in which a person who is followed was not found."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from .keypoints import NUM_POINTS, Pose

MAX_LOST = 5  # frames that a person may be lost for and is then interpolated


@dataclass(slots=True)
class Gaps:
    """The frames in which the person was not found, counted from 0.

    interpolated: filled from the frames around them. missing: frames whose pose is all zeros.
    """

    interpolated: list[int] = field(default_factory=list)
    missing: list[int] = field(default_factory=list)


def filled(poses: Iterable[Pose | None], gaps: Gaps, anew: Collection[int]) -> Iterator[Pose]:
    """Yield poses with short gaps interpolated, and zeros for other gaps. Fills in the lists of `gaps`.

    anew: frames whose pose may be somebody else's than the one before; a gap before them is not interpolated.
    It may grow while poses are read.
    """
    before: Pose | None = None
    end = gap = 0  # frames that were read; the last of them, without a pose, that have not been yielded
    for end, pose in enumerate(poses, start=1):
        if pose is None:
            gap += 1
            if before is None or gap > MAX_LOST:
                yield from missing(range(end - gap, end), gaps)
                before, gap = None, 0
            continue
        between_both = range(end - 1 - gap, end - 1)
        if gap and before is not None and end - 1 not in anew:
            gaps.interpolated += between_both
            yield from between(before, pose, gap)
        else:
            yield from missing(between_both, gaps)
        yield pose
        before, gap = pose, 0
    yield from missing(range(end - gap, end), gaps)


def missing(frames: range, gaps: Gaps) -> Iterator[Pose]:
    gaps.missing += frames
    yield from (np.zeros((NUM_POINTS, 3)) for _ in frames)


def between(before: Pose, after: Pose, count: int) -> Iterator[Pose]:
    """`count` poses at even steps between two others. A point that one of them lacks is missing."""
    both = (before[:, 2:] > 0) & (after[:, 2:] > 0)
    for i in range(1, count + 1):
        yield np.where(both, before + (after - before) * (i / (count + 1)), 0)
