"""Snapshots: where a clip under way stands, so that it can be gone on with after its process has ended.

The order of a clip's tasks is fixed. So a later process skips as many tasks as a snapshot says, puts the
latents back that were under way, and makes bit for bit what would have been made.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from ...engines.device import Array


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Where a clip stood after some of its tasks."""

    num_tasks: int = 0
    first_frame: int = 0  # all before it were finished, and kept
    # By first frame: latents, float32 (frames, 4, h, w); and sums of predictions, where several windows are.
    segments: dict[int, list[Array]] = field(default_factory=dict)


class SnapshotSink(Protocol):
    """Told by a clip under way where it stands, and where it shall begin."""

    start: Snapshot
    num_frames: int  # that need not be made again, counted from the first

    def due(self) -> bool:
        """Whether to take a snapshot now."""

    def save(self, take: Callable[[], Snapshot]) -> None:
        """All frames before its `first_frame` have been yielded, and what was done with them is done. What
        `take` takes is part of what the snapshot costs."""


class _NoSnapshots:
    start, num_frames = Snapshot(), 0

    def due(self) -> bool:
        return False

    def save(self, take: Callable[[], Snapshot]) -> None:
        pass


NO_SNAPSHOTS: SnapshotSink = _NoSnapshots()
